//! Usual latency of a destination, with the number of responses that prove it.

use std::time::Duration;

use super::timestamped::{TimestampedValue, in_units};
use crate::time::Tick;

/// Minimum number of responses that prove a latency: below it a destination counts as unknown.
pub const MIN_RESPONSES: u32 = 20;
/// Maximum number of responses that the mean remembers; each further one counts a hundredth.
const MAX_RESPONSES: u32 = 100;
/// Time without a response after which a faster one counts more, because the mean may be out of date.
const OUTDATED_AFTER: Duration = Duration::from_secs(4);
/// Weight of a faster response after that time: a destination that has recovered is known after a few.
const OUTDATED_WEIGHT: f32 = 0.25;
/// Low bits of the value that hold the number of responses. The others have a precision of 0.02 %.
const COUNT_BITS: u32 = 0x7f;

/// A long geometric mean of latencies, for decisions that a few responses must not change. It is the plain mean of the
/// first hundred responses and moves by a hundredth with each further one, so the first response counts no more than
/// the others. (A [`LogMean`](super::LogMean) is faster and five times as noisy.)
#[derive(Debug, Default)]
pub struct LatencyEvidence(TimestampedValue);

/// State of a [`LatencyEvidence`].
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Evidence {
    /// Natural logarithm of the mean in nanoseconds.
    pub(crate) log_mean: f32,
    /// Number of responses, at most a hundred.
    pub(crate) responses: u32,
    /// Time since the last response, in units of 2^20 ns.
    pub(crate) elapsed: u32,
}

impl LatencyEvidence {
    /// Returns the mean and what it rests on; `None` before the first response.
    pub(crate) fn read(&self, now: Tick) -> Option<Evidence> {
        let aged = self.0.load(now)?;
        let bits = aged.value.to_bits();
        let log_mean = f32::from_bits(bits & !COUNT_BITS);
        Some(Evidence { log_mean, responses: bits & COUNT_BITS, elapsed: aged.elapsed })
    }

    /// Returns whether enough responses prove the latency.
    pub fn is_known(&self, now: Tick) -> bool {
        self.read(now).is_some_and(|known| known.responses >= MIN_RESPONSES)
    }

    /// Adds the logarithm of a response's latency. Returns the number of responses.
    pub(crate) fn record(&self, now: Tick, sample: f32) -> u32 {
        let Some(before) = self.read(now) else {
            self.store(now, sample, 1);
            return 1;
        };
        let responses = (before.responses + 1).min(MAX_RESPONSES);
        let mut weight = 1.0 / responses as f32;
        if sample < before.log_mean && before.elapsed >= const { in_units(OUTDATED_AFTER) } {
            weight = weight.max(OUTDATED_WEIGHT);
        }
        self.store(now, before.log_mean + weight * (sample - before.log_mean), responses);
        responses
    }

    /// Adds the logarithm of a lower bound of a latency, if it is above the mean.
    pub(crate) fn record_at_least(&self, now: Tick, sample: f32) {
        if self.read(now).is_some_and(|known| sample > known.log_mean) {
            self.record(now, sample);
        }
    }

    fn store(&self, now: Tick, log_mean: f32, responses: u32) {
        self.0.store(now, f32::from_bits(log_mean.to_bits() & !COUNT_BITS | responses));
    }

    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the logarithm of a latency in milliseconds.
    fn ms(millis: u32) -> f32 {
        (millis as f32 * 1e6).ln()
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn millis(evidence: &LatencyEvidence, now: Tick) -> f32 {
        evidence.read(now).expect("a sample").log_mean.exp() / 1e6
    }

    #[test]
    fn first_response_counts_no_more_than_the_others() {
        let evidence = LatencyEvidence::default();
        assert!(evidence.read(at(0)).is_none() && !evidence.is_known(at(0)));
        evidence.record(at(0), ms(300));
        for _ in 1..MIN_RESPONSES {
            assert!(!evidence.is_known(at(0)));
            evidence.record(at(0), ms(5));
        }
        assert!(evidence.is_known(at(0)));
        let expected = 5.0 * 60_f32.powf(1.0 / 20.0);
        assert!((millis(&evidence, at(0)) - expected).abs() < 0.02, "{}", millis(&evidence, at(0)));
    }

    #[test]
    fn later_responses_move_the_mean_by_a_hundredth() {
        let evidence = LatencyEvidence::default();
        (0..500).for_each(|_| _ = evidence.record(at(0), ms(5)));
        evidence.record(at(0), ms(5_000));
        assert!((millis(&evidence, at(0)) - 5.0 * 1000_f32.powf(0.01)).abs() < 0.02);
    }

    #[test]
    fn recovered_destination_is_known_after_a_few_rare_responses() {
        let evidence = LatencyEvidence::default();
        (0..100).for_each(|_| _ = evidence.record(at(0), ms(50)));
        (1..=4).for_each(|n| _ = evidence.record(at(n * 8), ms(5)));
        assert!(millis(&evidence, at(32)) < 11.0, "{}", millis(&evidence, at(32)));
        evidence.record(at(40), ms(5_000));
        assert!(millis(&evidence, at(40)) < 12.0, "a rare slow one counts as any other");
    }
}
