//! Random balancing by weight and health score.

use std::sync::Arc;

use super::latency_quantile::Median;
use super::sampling::WeightedSampler;
use super::{Needs, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::health::score::score;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Maximum number of draws per message. With a mean score of a third, one in 600 messages needs more; it goes to the
/// best drawn.
const DRAWS: usize = 16;

/// `health_based`: the probability of a destination is its weight multiplied by its [`score`], so a destination that
/// degrades loses messages gradually. The minimum score is a twentieth, so none is left out.
///
/// A slot is drawn by weight and accepted with its score as the probability, else drawn again: this is exact without
/// computing all scores.
#[derive(Debug, Default)]
pub struct HealthBased;

impl Policy for HealthBased {
    fn name(&self) -> &'static str {
        "health_based"
    }

    fn needs(&self) -> Needs {
        Needs::ResponseTimes
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        let stats = slots.iter().map(|slot| slot.stats.clone()).collect();
        Box::new(HealthPicker {
            sampler: WeightedSampler::by_weight(&slots),
            median: Median::default(),
            stats,
            slots,
        })
    }
}

struct HealthPicker {
    sampler: WeightedSampler,
    median: Median,
    /// Counters side by side: a slot is three cache lines, and only its counters are needed.
    stats: Box<[Arc<DestinationStats>]>,
    slots: Arc<[Slot]>,
}

impl Picker for HealthPicker {
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        let median = self.median.read(&self.slots, now, rng);
        let (mut best, mut most, retries) = (None, 0.0, request.is_retry());
        for _ in 0..DRAWS {
            let drawn = self.sampler.one(rng);
            if retries && request.has_tried(self.slots[drawn].id) {
                continue;
            }
            let score = score(&self.stats[drawn], median, now);
            if rng.share() < score {
                return drawn;
            }
            if score > most {
                (best, most) = (Some(drawn), score);
            }
        }
        best.unwrap_or_else(|| self.sampler.one(rng))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{answer, named};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn shares(slots: &[Slot], now: Tick) -> Vec<f64> {
        let (picker, mut rng) = (HealthBased.build(slots.into()), Rng::new(7));
        let mut taken = vec![0_u32; slots.len()];
        (0..50_000).for_each(|_| taken[picker.pick(&PickRequest::default(), now, &mut rng)] += 1);
        taken.into_iter().map(|n| f64::from(n) / 50_000.0).collect()
    }

    fn check(slots: &[Slot], now: Tick, expected: &[f64]) {
        let shares = shares(slots, now);
        let near = shares.iter().zip(expected).all(|(have, due)| (have - due).abs() < 0.01);
        assert!(near, "{shares:?} for {expected:?}");
    }

    #[test]
    fn probability_is_weight_times_score() {
        let slots = named(0.., &[256, 512, 256]);
        check(&slots, Tick::ZERO, &[0.25, 0.5, 0.25]);
        for _ in 0..20 {
            slots.iter().for_each(|slot| answer(slot, Tick::ZERO, 200, 10 * MS));
        }
        check(&slots, Tick::ZERO, &[0.25, 0.5, 0.25]);
        // The average of the second rises from 10 to 29.6 ms: its score is 0.505.
        (0..20).for_each(|_| answer(&slots[1], Tick::ZERO, 200, 40 * MS));
        check(&slots, Tick::ZERO, &[0.332, 0.336, 0.332]);
    }

    #[test]
    fn first_response_alone_changes_nothing() {
        let slots = named(0.., &[256; 2]);
        answer(&slots[0], Tick::ZERO, 200, 300 * MS);
        answer(&slots[1], Tick::ZERO, 200, 5 * MS);
        check(&slots, Tick::ZERO, &[0.5, 0.5]);
    }

    #[test]
    fn failing_destination_keeps_a_twentieth_of_its_share_and_recovers_gradually() {
        let slots = named(0.., &[256; 2]);
        for _ in 0..20 {
            slots.iter().for_each(|slot| answer(slot, Tick::ZERO, 200, 10 * MS));
        }
        (0..30).for_each(|_| answer(&slots[0], Tick::ZERO, 503, MS));
        check(&slots, Tick::ZERO, &[0.05 / 1.05, 1.0 / 1.05]);
        let mut before = 0.05;
        for _ in 0..4 {
            (0..30).for_each(|_| answer(&slots[0], Tick::ZERO, 200, 10 * MS));
            let share = shares(&slots, Tick::ZERO)[0];
            assert!(share >= before - 0.01 && share < 0.55, "{share} after {before}");
            before = share;
        }
        assert!(before > 0.4, "{before}");
    }
}
