//! Monotonic time in nanoseconds since the process started, small enough for an atomic.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// A point in time: nanoseconds since an arbitrary start. It is monotonic and independent of the wall clock.
///
/// 64 bits of nanoseconds last 584 years.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// Start of the time scale.
    pub const ZERO: Self = Self(0);
    /// Time that is never reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// Creates a time from the nanoseconds since the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the duration since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Tick {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Tick::NEVER + Duration::from_secs(1), Tick::NEVER);
        assert_eq!(Tick::ZERO.since(Tick::from_nanos(5)), Duration::ZERO);
        assert_eq!((Tick::ZERO + Duration::from_millis(2)).as_nanos(), 2_000_000);
    }
}
