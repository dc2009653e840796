//! What is usual of times: their geometric moving average, which a long one among many does not move far.

use std::f32::consts::LN_2;
use std::time::Duration;

use super::average::{HALVED_AFTER, NEWEST};
use super::{Stamped, in_units};
use crate::time::Tick;

/// What a failure counts: three times as much as an answer, so that the second in a row is as good as none. One
/// alone is forgotten after some twenty answers.
const FAILED: f32 = 3.0 * NEWEST;

/// A moving average of logarithms; nothing until the first sample. Work of heavy tails moves it as little as other
/// work: half of a second among times of 5 ms raises it by a quarter, and an [`Average`](super::Average) sixfold.
#[derive(Debug, Default)]
pub struct Usual(Stamped);

impl Usual {
    /// The natural logarithm of nanoseconds. As with an [`Average`](super::Average) the time is halved for each
    /// [`HALVED_AFTER`] without a sample.
    pub fn read(&self, now: Tick) -> Option<f32> {
        Self::of(self.bits(), now)
    }

    /// As it is kept: who compares several loads them all at first.
    pub(crate) fn bits(&self) -> u64 {
        self.0.bits()
    }

    /// What a word says.
    pub(crate) fn of(word: u64, now: Tick) -> Option<f32> {
        let aged = Stamped::read(word, now)?;
        Some(aged.value - LN_2 * (aged.elapsed / const { in_units(HALVED_AFTER) }) as f32)
    }

    /// Learns how long an answer took.
    pub(crate) fn record(&self, now: Tick, span: Duration) {
        self.learn(now, span, NEWEST);
    }

    /// Learns of a failure, that counts as such a time.
    pub(crate) fn record_failure(&self, now: Tick, span: Duration) {
        self.learn(now, span, FAILED);
    }

    fn learn(&self, now: Tick, span: Duration, weight: f32) {
        let sample = logarithm(span);
        let before = self.read(now).unwrap_or(sample);
        self.0.store(now, before + weight * (sample - before));
    }

    /// Learns one that would have been longer, if that is news.
    pub(crate) fn record_at_least(&self, now: Tick, span: Duration) {
        if self.read(now).is_some_and(|usual| logarithm(span) > usual) {
            self.record(now, span);
        }
    }

    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

/// Of nanoseconds; at least 1, whose logarithm is 0.
fn logarithm(span: Duration) -> f32 {
    (span.as_nanos() as f32).max(1.0).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn millis(usual: &Usual, now: Tick) -> f32 {
        usual.read(now).expect("a sample").exp() / 1e6
    }

    #[test]
    fn the_first_sample_is_it_and_long_ones_count_by_their_logarithm() {
        let usual = Usual::default();
        assert_eq!(usual.read(at(0)), None);
        usual.record(at(0), 5 * MS);
        assert!((millis(&usual, at(0)) - 5.0).abs() < 0.01);
        usual.record(at(0), 500 * MS);
        assert!((millis(&usual, at(0)) - 5.0 * 100_f32.powf(0.05)).abs() < 0.01);
        usual.record(at(0), Duration::ZERO);
        assert!(usual.read(at(0)).is_some_and(f32::is_finite));
    }

    #[test]
    fn silence_halves_it() {
        let usual = Usual::default();
        usual.record(at(0), 80 * MS);
        for (seconds, expected) in [(9, 80.0), (11, 40.0), (41, 5.0)] {
            assert!((millis(&usual, at(seconds)) - expected).abs() < 0.01, "after {seconds} s");
        }
    }

    #[test]
    fn what_was_given_up_counts_if_it_took_longer_than_usual() {
        let usual = Usual::default();
        usual.record_at_least(at(0), 80 * MS);
        assert_eq!(usual.read(at(0)), None);
        usual.record(at(0), 5 * MS);
        usual.record_at_least(at(0), MS);
        assert!((millis(&usual, at(0)) - 5.0).abs() < 0.01);
        usual.record_at_least(at(0), 50 * MS);
        assert!(millis(&usual, at(0)) > 5.5);
    }
}
