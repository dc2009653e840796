//! What time it is: the one place of the data plane that reads a clock.

#![allow(clippy::disallowed_methods)] // This is the place the ban points to.

use std::time::{Instant, SystemTime};

use plimsoll_core::Tick;

/// A monotonic clock shared by copying. All parts of one process use copies of one clock, so their ticks
/// compare.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose [`Tick::ZERO`] is now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Tick {
        Tick::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// The wall clock, for logs only: it may jump.
    pub fn wall() -> SystemTime {
        SystemTime::now()
    }
}
