//! Measurements of a destination's responses, where a policy needs them: shared by all workers, without a lock.
//!
//! Each measurement is one 64-bit atomic: a value and the time of its last sample. A sample reads it and writes a new
//! one; if two workers do so at the same time, one sample is lost. That costs one sample of many, while a lock or a
//! retry loop would cost every message more.

mod average;
mod latency_by_load;
mod latency_evidence;
mod load_report;
mod log_mean;
mod peak_cost;
mod quantile;
mod timestamped;

use std::sync::OnceLock;
use std::time::Duration;

use self::average::SAMPLE_WEIGHT;
pub use self::average::{Average, HALVING_PERIOD};
pub use self::latency_by_load::LatencyByLoad;
pub(crate) use self::latency_evidence::Evidence;
pub use self::latency_evidence::{LatencyEvidence, MIN_RESPONSES};
pub use self::load_report::{LoadMetric, LoadReport, LoadReportState, NAMED_MAX};
pub use self::log_mean::LogMean;
use self::log_mean::logarithm;
pub use self::peak_cost::{DECAY, DEFAULT_RTT, MIN_RTT, PeakCost};
pub use self::quantile::Quantile;
pub(crate) use self::timestamped::{TimestampedValue, in_units};

use crate::outcome::{Failure, Outcome};
use crate::time::Tick;

/// Minimum latency that a bad outcome counts as, so that a fast failure does not look like a fast destination
/// (linkerd's load biaser: 5 s, and more if it took longer; a `Retry-After` is ignored).
pub const PENALTY: Duration = Duration::from_secs(5);

/// Measurements of one destination's responses.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Measurements {
    /// Time to the first byte, nanoseconds, penalties included.
    pub first_byte: Average,
    /// Logarithmic mean of the time to the first byte.
    pub log_mean: LogMean,
    /// Long logarithmic mean of the time to the first byte, and the number of responses that prove it.
    pub evidence: LatencyEvidence,
    /// Time to the first byte as a cost that follows peaks at once.
    pub peak_cost: PeakCost,
    /// Share of the outcomes that count against the destination.
    pub errors: Average,
    /// Latency by load: a kilobyte, so it exists only where a policy needs it.
    latency_by_load: OnceLock<Box<LatencyByLoad>>,
}

impl Measurements {
    /// Returns recent latencies by load, if a policy needs them.
    pub fn latency_by_load(&self) -> Option<&LatencyByLoad> {
        self.latency_by_load.get().map(|by_load| &**by_load)
    }

    /// Enables the measurement of latencies by load.
    pub(crate) fn enable_latency_by_load(&self) {
        self.latency_by_load.get_or_init(Box::default);
    }

    /// Adds one outcome; `took` is the time since the destination was picked, with `in_flight` messages there already.
    pub(crate) fn record(&self, now: Tick, outcome: Outcome, took: Duration, in_flight: u32) {
        let (span, bad) = match outcome {
            Outcome::Failed(Failure::NoResources) => return,
            Outcome::Answered { first_byte, .. } if !slows(outcome) => (first_byte, false),
            Outcome::Answered { first_byte, .. } => (first_byte.max(PENALTY), true),
            Outcome::Failed(_) => (took.max(PENALTY), true),
        };
        let log = logarithm(span);
        let responses = self.evidence.record(now, log);
        let weight = (1.0 / responses as f32).max(SAMPLE_WEIGHT);
        self.first_byte.record_weighted(now, span.as_nanos() as f32, weight);
        match bad {
            true => self.log_mean.record_failure(now, log),
            false => self.log_mean.record(now, log),
        }
        self.peak_cost.record(now, span);
        if let Some(by_load) = self.latency_by_load() {
            by_load.record(now, in_flight, span);
        }
        self.errors.record_onto(now, f32::from(u8::from(bad)), 0.0);
    }

    /// Adds a cancelled wait of `span`: the response would have taken longer. It counts only where it is above what
    /// was measured before.
    pub(crate) fn record_at_least(&self, now: Tick, span: Duration, in_flight: u32) {
        let nanos = span.as_nanos() as f32;
        if self.first_byte.read(now).is_some_and(|mean| nanos > mean) {
            self.first_byte.record(now, nanos);
        }
        let log = logarithm(span);
        self.log_mean.record_at_least(now, log);
        self.evidence.record_at_least(now, log);
        if nanos > self.peak_cost.read(now) {
            self.peak_cost.record(now, span);
        }
        if let Some(by_load) = self.latency_by_load()
            && by_load.median(now, in_flight).is_some_and(|median| nanos > median)
        {
            by_load.record(now, in_flight, span);
        }
    }

    /// Returns the mean time to the first byte in nanoseconds, if enough responses prove it.
    pub(crate) fn known_first_byte(&self, now: Tick) -> Option<f32> {
        self.first_byte.read(now).filter(|_| self.evidence.is_known(now))
    }

    /// Resets all measurements.
    pub(crate) fn forget(&self) {
        self.first_byte.forget();
        self.log_mean.forget();
        self.evidence.forget();
        self.peak_cost.forget();
        self.errors.forget();
        if let Some(by_load) = self.latency_by_load() {
            by_load.forget();
        }
    }
}

/// Returns whether an outcome counts as a slow one. All that count against the destination do, and a 429: it reports
/// an overload.
pub(crate) fn slows(outcome: Outcome) -> bool {
    outcome.blames_destination() || matches!(outcome, Outcome::Answered { status: 429, .. })
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

    /// Measured latency in milliseconds after one outcome.
    fn measured_after(outcome: Outcome, took: Duration) -> Option<u64> {
        let measured = Measurements::default();
        measured.record(at(1), outcome, took, 0);
        measured.first_byte.read(at(1)).map(|nanos| (nanos / 1e6).round() as u64)
    }

    #[test]
    fn a_fast_failure_does_not_look_like_a_fast_destination() {
        assert_eq!(measured_after(answered(200, 7 * MS), 7 * MS), Some(7));
        assert_eq!(measured_after(answered(404, 7 * MS), 7 * MS), Some(7), "a 404 is about the request");
        for status in [429, 500, 503] {
            assert_eq!(measured_after(answered(status, MS), MS), Some(5_000), "{status}");
        }
        assert_eq!(measured_after(answered(503, 9_000 * MS), 9_000 * MS), Some(9_000));
        assert_eq!(measured_after(Outcome::Failed(Failure::Reset), MS), Some(5_000));
        assert_eq!(measured_after(Outcome::Failed(Failure::Timeout), 60_000 * MS), Some(60_000));
        assert_eq!(
            measured_after(Outcome::Failed(Failure::NoResources), MS),
            None,
            "a lack of own resources is not measured"
        );
    }

    #[test]
    fn a_cancelled_wait_counts_only_above_the_mean() {
        let measured = Measurements::default();
        measured.record_at_least(at(0), Duration::from_millis(50), 0);
        assert_eq!(measured.first_byte.read(at(0)), None, "without a response there is no mean");
        measured.record(at(2), answered(200, Duration::from_millis(10)), Duration::ZERO, 0);
        measured.record_at_least(at(2), Duration::from_millis(5), 0);
        assert_eq!(measured.first_byte.read(at(2)), Some(10e6));
        measured.record_at_least(at(2), Duration::from_millis(50), 0);
        assert_eq!(measured.first_byte.read(at(2)).map(f32::round), Some(12e6));
        assert_eq!(measured.errors.read(at(2)), Some(0.0));
    }

    #[test]
    fn the_error_share_is_none_at_first_and_follows_outcomes() {
        let measured = Measurements::default();
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
    fn threads_may_lose_samples_and_nothing_else() {
        let measured = Measurements::default();
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
