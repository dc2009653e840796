//! What time it is, and what chance starts from: the only place where the library asks the machine.

use std::hash::{BuildHasher, RandomState};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use plimsoll_core::Tick;

/// A monotonic clock that also knows what the wall said when it started.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    unix_millis: u64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), unix_millis: wall.as_millis() as u64 }
    }

    /// The moment it is.
    pub(crate) fn now(&self) -> Tick {
        Tick::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// A moment as the API tells it: milliseconds since 1970, UTC. Steps of the wall clock since the start
    /// do not show.
    pub(crate) fn unix_millis(&self, moment: Tick) -> u64 {
        self.unix_millis + moment.as_nanos() / 1_000_000
    }
}

/// A seed no other balancer has.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(())
}
