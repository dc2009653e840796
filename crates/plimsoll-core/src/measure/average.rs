//! Moving average as in nginx, which is halved periodically while no sample arrives.

use std::time::Duration;

use super::timestamped::{TimestampedValue, halved, in_units};
use crate::time::Tick;

/// Weight of one sample (nginx `least_time`): the last twenty make two thirds of the average.
pub(crate) const SAMPLE_WEIGHT: f32 = 0.05;

/// Period without a sample after which the average is halved, and again each period, so that a slow destination that
/// gets no messages is tried again. nginx halves once per `fail_timeout`, 10 s by default, counted from its last look;
/// here it is counted from the last sample, so that reading writes nothing.
pub const HALVING_PERIOD: Duration = Duration::from_secs(10);

/// A moving average; empty until the first sample.
#[derive(Debug, Default)]
pub struct Average(TimestampedValue);

impl Average {
    /// Returns the average as of now.
    pub fn read(&self, now: Tick) -> Option<f32> {
        let aged = self.0.load(now)?;
        Some(aged.value * halved(aged.elapsed / const { in_units(HALVING_PERIOD) }))
    }

    /// Adds a sample; the first one becomes the average.
    pub(crate) fn record(&self, now: Tick, sample: f32) {
        self.record_onto(now, sample, sample);
    }

    /// Adds one of the first samples, which count equally: `weight` is the reciprocal of their number.
    pub(crate) fn record_weighted(&self, now: Tick, sample: f32, weight: f32) {
        let before = self.read(now).unwrap_or(sample);
        self.0.store(now, before + weight * (sample - before));
    }

    /// Adds a sample to the average, or to `initial` if there is none yet.
    pub(crate) fn record_onto(&self, now: Tick, sample: f32, initial: f32) {
        let before = self.read(now).unwrap_or(initial);
        self.0.store(now, before + SAMPLE_WEIGHT * (sample - before));
    }

    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_sample_is_the_average_and_each_next_a_twentieth() {
        let average = Average::default();
        assert_eq!(average.read(at(1)), None);
        average.record(at(1), 100.0);
        assert_eq!(average.read(at(1)), Some(100.0));
        average.record(at(1), 200.0);
        assert_eq!(average.read(at(1)), Some(105.0));
    }

    #[test]
    fn a_period_without_samples_halves_the_average() {
        let average = Average::default();
        average.record(at(100), 64.0);
        for (seconds, expected) in [(109, 64.0), (111, 32.0), (121, 16.0), (161, 1.0)] {
            assert_eq!(average.read(at(seconds)), Some(expected), "{seconds}");
        }
        average.record(at(111), 32.0);
        assert_eq!(average.read(at(111)), Some(32.0), "a sample is added to what is left");
        assert!(average.read(at(1_000_000)).is_some_and(|rest| rest < 1e-30));
    }
}
