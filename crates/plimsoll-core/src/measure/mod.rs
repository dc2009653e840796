//! What is measured of a destination's answers, where a policy asks for it: shared by all workers, without a lock.
//!
//! Each measurement is one word: a value, and the moment it was last told something. Who tells it something reads
//! the word and writes another; of two workers that do so at once one is forgotten. That costs one sample of
//! many, and a lock or a loop would cost every message more.

mod average;
mod near;
mod peak;
mod quantile;
mod report;
mod usual;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use self::average::{Average, HALVED_AFTER};
pub use self::near::Near;
pub use self::peak::{DECAY, DEFAULT_RTT, Peak, RTT_AT_LEAST};
pub use self::quantile::Quantile;
pub use self::report::{LoadMetric, LoadReport, NAMED_MAX, Reported};
pub use self::usual::Usual;

use crate::outcome::{Failure, Outcome};
use crate::time::Tick;

/// What a bad outcome counts as at least: whoever fails fast must not look fast (linkerd's load biaser:
/// 5 s, and more if it took longer; a `Retry-After` is not heeded).
pub const PENALTY: Duration = Duration::from_secs(5);

/// What is known of one destination by its answers.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Measured {
    /// Time to the first byte, nanoseconds, penalties included.
    pub first_byte: Average,
    /// What of that is usual.
    pub usual: Usual,
    /// The same as a cost that follows peaks at once.
    pub peak: Peak,
    /// The share of outcomes that count against it.
    pub errors: Average,
    /// Times by load: a kilobyte, so there is none before a policy asks for it.
    near: OnceLock<Box<Near>>,
}

impl Measured {
    /// Recent times by how much there was to do, if a policy asked for that.
    pub fn near(&self) -> Option<&Near> {
        self.near.get().map(|near| &**near)
    }

    /// From now on there are.
    pub(crate) fn keep_near(&self) {
        self.near.get_or_init(Box::default);
    }

    /// Learns from one outcome; `took` is the time since the destination was chosen, when `in_flight` others were
    /// on their way there.
    pub(crate) fn record(&self, now: Tick, outcome: Outcome, took: Duration, in_flight: u32) {
        let (span, bad) = match outcome {
            Outcome::Failed(Failure::NoResources) => return,
            Outcome::Answered { first_byte, .. } if !slows(outcome) => (first_byte, false),
            Outcome::Answered { first_byte, .. } => (first_byte.max(PENALTY), true),
            Outcome::Failed(_) => (took.max(PENALTY), true),
        };
        self.first_byte.record(now, span.as_nanos() as f32);
        match bad {
            true => self.usual.record_failure(now, span),
            false => self.usual.record(now, span),
        }
        self.peak.record(now, span);
        if let Some(near) = self.near() {
            near.record(now, in_flight, span);
        }
        self.errors.record_onto(now, f32::from(u8::from(bad)), 0.0);
    }

    /// Learns that there was no answer after `span`, and that it is not waited for any longer: it would have
    /// taken more. Where less is usual that is no news.
    pub(crate) fn record_at_least(&self, now: Tick, span: Duration, in_flight: u32) {
        let nanos = span.as_nanos() as f32;
        if self.first_byte.read(now).is_some_and(|usual| nanos > usual) {
            self.first_byte.record(now, nanos);
        }
        self.usual.record_at_least(now, span);
        if nanos > self.peak.read(now) {
            self.peak.record(now, span);
        }
        if let Some(near) = self.near()
            && near.median(now, in_flight).is_some_and(|usual| nanos > usual)
        {
            near.record(now, in_flight, span);
        }
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.first_byte.forget();
        self.usual.forget();
        self.peak.forget();
        self.errors.forget();
        if let Some(near) = self.near() {
            near.forget();
        }
    }
}

/// Does this outcome count as a slow one? All that count against a destination do, and a 429 does: it says that
/// it has too much to do.
pub(crate) fn slows(outcome: Outcome) -> bool {
    outcome.blames_destination() || matches!(outcome, Outcome::Answered { status: 429, .. })
}

/// A value and the moment it holds for, in one word: reading never sees the one without the other. 0 is nothing.
#[derive(Debug, Default)]
pub(crate) struct Stamped(AtomicU64);

/// Moments are kept in units of 2^20 ns, about a millisecond: 32 bits of them are 52 days, and then begin anew.
const UNIT_BITS: u32 = 20;

/// A stamp ahead of the clock by less than this (68 s) is from a worker whose clock is ahead; anything else is old.
const AHEAD: u32 = 1 << 16;

impl Stamped {
    pub(crate) fn load(&self, now: Tick) -> Option<Aged> {
        Self::read(self.bits(), now)
    }

    /// As it is kept: to be read later.
    pub(crate) fn bits(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// What a word says.
    pub(crate) fn read(word: u64, now: Tick) -> Option<Aged> {
        let elapsed = units(now).wrapping_sub((word >> 32) as u32);
        let elapsed = if elapsed > u32::MAX - AHEAD { 0 } else { elapsed };
        (word != 0).then_some(Aged { value: f32::from_bits(word as u32), elapsed })
    }

    pub(crate) fn store(&self, now: Tick, value: f32) {
        self.0.store(u64::from(units(now)) << 32 | u64::from(value.to_bits()), Relaxed);
    }

    fn forget(&self) {
        self.0.store(0, Relaxed);
    }
}

/// A value and its age in units.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Aged {
    pub(crate) value: f32,
    pub(crate) elapsed: u32,
}

const fn units(now: Tick) -> u32 {
    (now.as_nanos() >> UNIT_BITS) as u32
}

pub(crate) const fn in_units(span: Duration) -> u32 {
    (span.as_nanos() >> UNIT_BITS) as u32
}

const fn from_units(units: u32) -> Duration {
    Duration::from_nanos((units as u64) << UNIT_BITS)
}

/// 2 to the power of `-n`; nothing is left after 126 halvings.
const fn halved(n: u32) -> f32 {
    let n = if n > 126 { 126 } else { n };
    f32::from_bits((127 - n) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    fn answered(status: u16, first_byte: Duration) -> Outcome {
        Outcome::Answered { status, first_byte }
    }

    /// The latency it is known by after one outcome that took this long.
    fn known_by(outcome: Outcome, took: Duration) -> Option<u64> {
        let measured = Measured::default();
        measured.record(at(1), outcome, took, 0);
        measured.first_byte.read(at(1)).map(|nanos| (nanos / 1e6).round() as u64)
    }

    #[test]
    fn whoever_fails_fast_does_not_look_fast() {
        assert_eq!(known_by(answered(200, 7 * MS), 7 * MS), Some(7));
        assert_eq!(known_by(answered(404, 7 * MS), 7 * MS), Some(7), "that is about the request");
        for status in [429, 500, 503] {
            assert_eq!(known_by(answered(status, MS), MS), Some(5_000), "{status}");
        }
        assert_eq!(known_by(answered(503, 9_000 * MS), 9_000 * MS), Some(9_000));
        assert_eq!(known_by(Outcome::Failed(Failure::Reset), MS), Some(5_000));
        assert_eq!(known_by(Outcome::Failed(Failure::Timeout), 60_000 * MS), Some(60_000));
        assert_eq!(known_by(Outcome::Failed(Failure::NoResources), MS), None, "that was us");
    }

    #[test]
    fn who_is_outrun_looks_no_faster_than_it_waited_and_no_faster_than_before() {
        let measured = Measured::default();
        measured.record_at_least(at(0), Duration::from_millis(50), 0);
        assert_eq!(measured.first_byte.read(at(0)), None, "one that never answered has no usual time");
        measured.record(at(2), answered(200, Duration::from_millis(10)), Duration::ZERO, 0);
        measured.record_at_least(at(2), Duration::from_millis(5), 0);
        assert_eq!(measured.first_byte.read(at(2)), Some(10e6));
        measured.record_at_least(at(2), Duration::from_millis(50), 0);
        assert_eq!(measured.first_byte.read(at(2)).map(f32::round), Some(12e6));
        assert_eq!(measured.errors.read(at(2)), Some(0.0));
    }

    #[test]
    fn the_share_of_errors_begins_at_none_and_follows_outcomes() {
        let measured = Measured::default();
        assert_eq!(measured.errors.read(at(0)), None);
        measured.record(at(1), answered(500, MS), MS, 0);
        assert_eq!(measured.errors.read(at(1)), Some(0.05));
        for _ in 0..200 {
            measured.record(at(1), answered(500, MS), MS, 0);
        }
        assert!(measured.errors.read(at(1)).is_some_and(|share| share > 0.99));
        measured.forget();
        assert_eq!(measured.errors.read(at(1)), None);
    }

    #[test]
    fn a_clock_that_is_behind_or_wraps_makes_nothing_young_or_old() {
        let stamped = Stamped::default();
        let age = |now: Tick| stamped.load(now).map(|aged| aged.elapsed);
        stamped.store(at(5_000), 1.0);
        assert_eq!(age(at(4_990)), Some(0), "another worker's clock");
        let wrapped = Tick::from_nanos((1 << 52) + at(6_000).as_nanos());
        assert_eq!(age(wrapped), Some(units(at(6_000)) - units(at(5_000))), "52 days later");
        assert!(age(Tick::from_nanos(at(5_000).as_nanos() + (1 << 51))).is_some_and(|age| age > 1 << 30));
    }

    #[test]
    fn threads_may_lose_samples_and_nothing_else() {
        let measured = Measured::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let measured = &measured;
                scope.spawn(move || {
                    for n in 0..5_000 {
                        measured.record(at(n), answered(200, Duration::from_millis(10 + thread)), MS, 0);
                    }
                });
            }
        });
        let mean = measured.first_byte.read(at(5_000)).expect("samples") / 1e6;
        assert!((10.0..=13.0).contains(&mean), "{mean}");
    }
}
