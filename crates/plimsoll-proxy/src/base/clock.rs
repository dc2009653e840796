//! The only place of the data plane that reads a clock.

#![allow(clippy::disallowed_methods)] // The exception to the ban in clippy.toml.

use std::time::{Instant, SystemTime};

use plimsoll_core::Tick;

/// A monotonic clock, shared by copying.
///
/// All parts of a process use copies of one clock, so their ticks can be compared.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    start: Instant,
    unix_millis: u64,
}

impl Clock {
    /// Starts a clock with the current time as [`Tick::ZERO`].
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix_millis: wall.as_millis() as u64 }
    }

    /// Returns the current time.
    pub fn now(&self) -> Tick {
        Tick::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// Converts a tick to milliseconds since 1970 (UTC), the form in the API.
    ///
    /// Steps of the wall clock after the start are not included.
    pub fn unix_millis(&self, at: Tick) -> u64 {
        self.unix_millis + at.as_nanos() / 1_000_000
    }

    /// Returns the wall clock time, for logs only: it may jump.
    pub fn wall() -> SystemTime {
        SystemTime::now()
    }
}
