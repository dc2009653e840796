//! What time it is: the one place of the data plane that reads a clock.

#![allow(clippy::disallowed_methods)] // This is the place the ban points to.

use std::time::{Instant, SystemTime};

use plimsoll_core::Tick;

/// A monotonic clock shared by copying. All parts of one process use copies of one clock, so their ticks
/// compare.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start: Instant,
    unix_millis: u64,
}

impl Clock {
    /// A clock whose [`Tick::ZERO`] is now.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix_millis: wall.as_millis() as u64 }
    }

    /// Now.
    pub fn now(&self) -> Tick {
        Tick::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// A moment as the API tells it: milliseconds since 1970, UTC. Steps of the wall clock since the start
    /// do not show.
    pub fn unix_millis(&self, at: Tick) -> u64 {
        self.unix_millis + at.as_nanos() / 1_000_000
    }

    /// The wall clock, for logs only: it may jump.
    pub fn wall() -> SystemTime {
        SystemTime::now()
    }
}
