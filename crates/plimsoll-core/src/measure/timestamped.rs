//! A value and the time of its last update, in one atomic.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Tick;

/// A value and the time of its last update in one 64-bit atomic, so that a read never sees one without the other.
/// All bits zero mean no value.
#[derive(Debug, Default)]
pub(crate) struct TimestampedValue(AtomicU64);

/// Timestamps are in units of 2^20 ns, about a millisecond: 32 bits wrap after 52 days.
const UNIT_BITS: u32 = 20;

/// A timestamp ahead of the clock by less than this (68 s) is from a worker with a later clock; any other is old.
const AHEAD: u32 = 1 << 16;

impl TimestampedValue {
    /// Returns the value and its age.
    pub(crate) fn load(&self, now: Tick) -> Option<Aged> {
        Self::decode(self.bits(), now)
    }

    /// Returns the encoded form, to be decoded later.
    pub(crate) fn bits(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Decodes a value and its age.
    pub(crate) fn decode(bits: u64, now: Tick) -> Option<Aged> {
        let elapsed = units(now).wrapping_sub((bits >> 32) as u32);
        let elapsed = if elapsed > u32::MAX - AHEAD { 0 } else { elapsed };
        (bits != 0).then_some(Aged { value: f32::from_bits(bits as u32), elapsed })
    }

    /// Stores a value with the current time.
    pub(crate) fn store(&self, now: Tick, value: f32) {
        self.0.store(u64::from(units(now)) << 32 | u64::from(value.to_bits()), Relaxed);
    }

    /// Removes the value.
    pub(super) fn forget(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A value and its age in units of 2^20 ns.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Aged {
    pub(crate) value: f32,
    pub(crate) elapsed: u32,
}

const fn units(now: Tick) -> u32 {
    (now.as_nanos() >> UNIT_BITS) as u32
}

/// Converts a duration to timestamp units.
pub(crate) const fn in_units(span: Duration) -> u32 {
    (span.as_nanos() >> UNIT_BITS) as u32
}

/// Converts timestamp units to a duration.
pub(super) const fn from_units(units: u32) -> Duration {
    Duration::from_nanos((units as u64) << UNIT_BITS)
}

/// Returns 2 to the power of `-n`, with `n` limited to 126.
pub(super) const fn halved(n: u32) -> f32 {
    let n = if n > 126 { 126 } else { n };
    f32::from_bits((127 - n) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_clock_behind_or_a_wrapped_timestamp_does_not_change_the_age() {
        let stamped = TimestampedValue::default();
        let age = |now: Tick| stamped.load(now).map(|aged| aged.elapsed);
        stamped.store(at(5_000), 1.0);
        assert_eq!(age(at(4_990)), Some(0), "another worker's clock");
        let wrapped = Tick::from_nanos((1 << 52) + at(6_000).as_nanos());
        assert_eq!(age(wrapped), Some(units(at(6_000)) - units(at(5_000))), "52 days later");
        assert!(age(Tick::from_nanos(at(5_000).as_nanos() + (1 << 51))).is_some_and(|age| age > 1 << 30));
    }
}
