//! What a value was lately: nginx's moving average, which forgets by halves when nothing new is told.

use std::time::Duration;

use super::{Stamped, halved, in_units};
use crate::time::Tick;

/// What one sample counts (nginx `least_time`): the last twenty make two thirds of the average.
pub(crate) const NEWEST: f32 = 0.05;

/// Without a sample for so long, the average is halved, and again each time: a slow destination that nobody asks
/// any more is asked again. nginx halves once per `fail_timeout`, 10 s by default, counted from when it last
/// looked; here it is counted from the last sample, so that reading writes nothing.
pub const HALVED_AFTER: Duration = Duration::from_secs(10);

/// A moving average; nothing until the first sample.
#[derive(Debug, Default)]
pub struct Average(Stamped);

impl Average {
    /// What it is now.
    pub fn read(&self, now: Tick) -> Option<f32> {
        let aged = self.0.load(now)?;
        Some(aged.value * halved(aged.elapsed / const { in_units(HALVED_AFTER) }))
    }

    /// Learns a sample; the first one is the average.
    pub(crate) fn record(&self, now: Tick, sample: f32) {
        self.record_onto(now, sample, sample);
    }

    /// The same, with something to start from.
    pub(crate) fn record_onto(&self, now: Tick, sample: f32, first: f32) {
        let before = self.read(now).unwrap_or(first);
        self.0.store(now, before + NEWEST * (sample - before));
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
    fn silence_halves_it() {
        let average = Average::default();
        average.record(at(100), 64.0);
        for (seconds, expected) in [(109, 64.0), (111, 32.0), (121, 16.0), (161, 1.0)] {
            assert_eq!(average.read(at(seconds)), Some(expected), "{seconds}");
        }
        average.record(at(111), 32.0);
        assert_eq!(average.read(at(111)), Some(32.0), "a sample meets what is left");
        assert!(average.read(at(1_000_000)).is_some_and(|rest| rest < 1e-30));
    }
}
