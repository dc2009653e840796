//! Geometric moving average of latencies, which a single long one moves only a little.

use std::f32::consts::LN_2;
use std::time::Duration;

use super::average::{HALVING_PERIOD, SAMPLE_WEIGHT};
use super::timestamped::{TimestampedValue, in_units};
use crate::time::Tick;

/// Weight of a failure: three times that of a response, so that two in a row outweigh the rest. The effect of one alone
/// is gone after some twenty responses.
const FAILURE_WEIGHT: f32 = 3.0 * SAMPLE_WEIGHT;

/// Number of samples that prove a mean. Fewer count equally, so that the first one counts no more than the others.
const PROVEN: u32 = 20;
/// Low bits of the value that hold the number of samples, up to [`PROVEN`]. The others have a precision of 0.006 %.
const COUNT_BITS: u32 = 0x1f;

/// A moving average of logarithms; empty until the first sample. Heavy-tailed work moves it as little as other work:
/// half a second among latencies of 5 ms raises it by a quarter, and an [`Average`](super::Average) sixfold.
#[derive(Debug, Default)]
pub struct LogMean(TimestampedValue);

impl LogMean {
    /// Returns the natural logarithm of the mean in nanoseconds. As with an [`Average`](super::Average), the mean is
    /// halved for each [`HALVING_PERIOD`] without a sample.
    pub fn read(&self, now: Tick) -> Option<f32> {
        Self::decode(self.bits(), now)
    }

    /// Returns the encoded form. A comparison of several means loads them all first.
    pub(crate) fn bits(&self) -> u64 {
        self.0.bits()
    }

    /// Decodes a mean.
    pub(crate) fn decode(bits: u64, now: Tick) -> Option<f32> {
        let aged = TimestampedValue::decode(bits, now)?;
        let value = f32::from_bits(aged.value.to_bits() & !COUNT_BITS);
        Some(value - LN_2 * (aged.elapsed / const { in_units(HALVING_PERIOD) }) as f32)
    }

    /// Returns the number of samples in an encoded mean as a share of those that prove it.
    pub(crate) fn proof(bits: u64) -> f32 {
        count(bits) as f32 * const { 1.0 / PROVEN as f32 }
    }

    /// Returns the mean, if enough samples prove it.
    pub(crate) fn read_proven(&self, now: Tick) -> Option<f32> {
        let bits = self.bits();
        Self::decode(bits, now).filter(|_| count(bits) >= PROVEN)
    }

    /// Adds the logarithm of a response's latency.
    pub(crate) fn record(&self, now: Tick, sample: f32) {
        self.add(now, sample, SAMPLE_WEIGHT);
    }

    /// Adds a failure, counted as a response with this logarithm of its latency.
    pub(crate) fn record_failure(&self, now: Tick, sample: f32) {
        self.add(now, sample, FAILURE_WEIGHT);
    }

    fn add(&self, now: Tick, sample: f32, weight: f32) {
        let bits = self.bits();
        let before = Self::decode(bits, now).unwrap_or(sample);
        let count = (count(bits) + 1).min(PROVEN);
        let mean = before + weight.max(1.0 / count as f32) * (sample - before);
        self.0.store(now, f32::from_bits(mean.to_bits() & !COUNT_BITS | count));
    }

    /// Adds the logarithm of a lower bound of a latency, if it is above the mean.
    pub(crate) fn record_at_least(&self, now: Tick, sample: f32) {
        if self.read(now).is_some_and(|mean| sample > mean) {
            self.record(now, sample);
        }
    }

    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

/// Returns the number of samples in an encoded mean.
fn count(bits: u64) -> u32 {
    bits as u32 & COUNT_BITS
}

/// Natural logarithm of a latency in nanoseconds, at least 0.
pub(super) fn logarithm(span: Duration) -> f32 {
    (span.as_nanos() as f32).max(1.0).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn millis(mean: &LogMean, now: Tick) -> f32 {
        mean.read(now).expect("a sample").exp() / 1e6
    }

    #[test]
    fn the_first_samples_count_equally() {
        let mean = LogMean::default();
        mean.record(at(0), logarithm(300 * MS));
        for _ in 1..20 {
            assert!(mean.read_proven(at(0)).is_none() && LogMean::proof(mean.bits()) < 0.99);
            mean.record(at(0), logarithm(5 * MS));
        }
        assert!((millis(&mean, at(0)) - 5.0 * 60_f32.powf(0.05)).abs() < 0.02);
        assert!(mean.read_proven(at(0)).is_some() && LogMean::proof(mean.bits()) > 0.999);
        (0..50).for_each(|_| mean.record(at(0), logarithm(5 * MS)));
        assert!(LogMean::proof(mean.bits()) < 1.001);
    }

    #[test]
    fn long_samples_count_by_their_logarithm() {
        let mean = LogMean::default();
        assert_eq!(mean.read(at(0)), None);
        (0..20).for_each(|_| mean.record(at(0), logarithm(5 * MS)));
        assert!((millis(&mean, at(0)) - 5.0).abs() < 0.01);
        mean.record(at(0), logarithm(500 * MS));
        assert!((millis(&mean, at(0)) - 5.0 * 100_f32.powf(0.05)).abs() < 0.01);
        mean.record(at(0), logarithm(Duration::ZERO));
        assert!(mean.read(at(0)).is_some_and(f32::is_finite));
    }

    #[test]
    fn a_period_without_samples_halves_the_mean() {
        let mean = LogMean::default();
        mean.record(at(0), logarithm(80 * MS));
        for (seconds, expected) in [(9, 80.0), (11, 40.0), (41, 5.0)] {
            assert!((millis(&mean, at(seconds)) - expected).abs() < 0.01, "after {seconds} s");
        }
    }

    #[test]
    fn a_cancelled_wait_counts_if_it_is_above_the_mean() {
        let mean = LogMean::default();
        mean.record_at_least(at(0), logarithm(80 * MS));
        assert_eq!(mean.read(at(0)), None);
        mean.record(at(0), logarithm(5 * MS));
        mean.record_at_least(at(0), logarithm(MS));
        assert!((millis(&mean, at(0)) - 5.0).abs() < 0.01);
        mean.record_at_least(at(0), logarithm(50 * MS));
        assert!(millis(&mean, at(0)) > 5.5);
    }
}
