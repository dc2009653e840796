//! Who has the least to do.

use std::hint::select_unpredictable;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::rotation_state::{PartitionRotations, Ring, RotationStates};
use super::sampling::WeightedSampler;
use super::{Needs, Partition, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::destination::Weight;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Up to this many destinations every one is looked at; 64 counters are 64 cache lines, and more would take
/// longer than the 50 ns a pick may cost.
pub const EXACT_UP_TO: usize = 64;

/// Beyond that, so many different ones are drawn and the best of them is taken. With two the fullest of n
/// destinations is already within ln ln n of the mean (Mitzenmacher 1996); five reads still overlap in the
/// memory system.
pub const SAMPLE: usize = 5;

/// Least connections: fewest messages in flight, those still connecting included, over all workers; or, of
/// `weighted`, the lowest (in flight + 1) / weight.
///
/// Up to 64 destinations the choice is exact, and those that tie take turns per worker, in configured order,
/// as in [`RoundRobin`](super::rotation::RoundRobin). Beyond 64 it is the best of five different
/// destinations, drawn evenly or, weighted, by weight (two at least, where few hold nearly all weight); of
/// equals the first drawn.
///
/// Weighted and idle, (0 + 1) / weight is lowest for the heaviest alone: it takes everything until it has
/// enough to do. That is the definition, and what HAProxy avoids by calling all idle servers equal.
#[derive(Debug)]
pub struct LeastConnections {
    weighted: bool,
    cursors: PartitionRotations,
}

impl LeastConnections {
    /// `least_connections` for `workers` workers.
    pub fn unweighted(workers: usize) -> Self {
        Self { weighted: false, cursors: PartitionRotations::new(workers) }
    }

    /// `weighted_least_connections` for `workers` workers.
    pub fn weighted(workers: usize) -> Self {
        Self { weighted: true, cursors: PartitionRotations::new(workers) }
    }
}

impl Policy for LeastConnections {
    fn name(&self) -> &'static str {
        if self.weighted { "weighted_least_connections" } else { "least_connections" }
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_partition(slots, Partition::WHOLE)
    }

    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let alike = Weight::ONE.in_256ths();
        let loads = slots.iter().map(|slot| Load::new(slot, if self.weighted { slot.weight } else { alike }));
        let loads: Box<[Load]> = loads.collect();
        if slots.len() > EXACT_UP_TO {
            let sampler = if self.weighted {
                WeightedSampler::by_weight(&slots)
            } else {
                WeightedSampler::even(&slots)
            };
            return Box::new(BestOfSample { sampler, loads });
        }
        let cursors = self.cursors.of(part);
        cursors.start(|worker| Ring::start_of(&slots, worker));
        Box::new(BestOfAll {
            heaviest: loads.iter().map(|load| load.weight).max().unwrap_or(1),
            cursors,
            ring: Ring::new(&slots),
            loads,
        })
    }
}

/// What a picker keeps of a slot to weigh its load: 16 bytes beside each other, not a slot's 80.
#[derive(Debug)]
pub(super) struct Load {
    stats: Arc<DestinationStats>,
    weight: u32,
    after: u32,
}

impl Load {
    pub(super) fn new(slot: &Slot, weight: u32) -> Self {
        Self { stats: slot.stats.clone(), weight, after: slot.rank + 1 }
    }

    pub(super) fn reading(&self) -> Reading {
        Reading { in_flight: self.stats.in_flight(), weight: self.weight }
    }
}

/// The load of one destination at one moment.
#[derive(Copy, Clone, Debug)]
pub(super) struct Reading {
    in_flight: u32,
    weight: u32,
}

impl Reading {
    /// Is this (n + 1) / weight lower than the other one? Multiplied crosswise: 2^32 times 32 bits fits.
    pub(super) fn is_below(self, other: Self) -> bool {
        let ours = (u64::from(self.in_flight) + 1) * u64::from(other.weight);
        let theirs = (u64::from(other.in_flight) + 1) * u64::from(self.weight);
        ours < theirs
    }

    /// (n + 1) / weight, for people.
    pub(super) fn as_number(self) -> f64 {
        (f64::from(self.in_flight) + 1.0) * 256.0 / f64::from(self.weight)
    }
}

struct BestOfAll {
    heaviest: u32,
    cursors: Arc<RotationStates>,
    ring: Ring,
    loads: Box<[Load]>,
}

impl BestOfAll {
    /// The first of the lowest, looking from `start` on and around; an idle one of the heaviest weight ends
    /// the search, because nobody can be lower.
    fn least_from(&self, start: usize) -> usize {
        let (before, after) = self.loads.split_at(start);
        let (mut best, mut least) = (start, Reading { in_flight: u32::MAX, weight: 1 });
        for (offset, part) in [(start, after), (0, before)] {
            for (index, load) in part.iter().enumerate() {
                let reading = load.reading();
                if reading.is_below(least) {
                    (best, least) = (offset + index, reading);
                    if reading.in_flight == 0 && reading.weight == self.heaviest {
                        return best;
                    }
                }
            }
        }
        best
    }
}

impl Picker for BestOfAll {
    fn pick(&self, want: &PickRequest<'_>, _now: Tick, _rng: &mut Rng) -> usize {
        // The scan begins after the last one picked and keeps the first of equals, so whoever ties takes
        // turns. (Beginning at a counter instead would favour the one behind a run of busy ones.)
        let cursor = self.cursors.of(want.worker);
        let start = self.ring.at(cursor.load(Relaxed)).slot as usize;
        let best = self.least_from(start);
        if want.is_retry() {
            return best;
        }
        // Plain store: threads that share a worker may give a tie to the same one, and its load then tells.
        cursor.store(u64::from(self.loads[best].after), Relaxed);
        best
    }

    fn score(&self, slot: usize, _now: Tick) -> Option<f64> {
        Some(self.loads[slot].reading().as_number())
    }
}

struct BestOfSample {
    sampler: WeightedSampler,
    loads: Box<[Load]>,
}

impl Picker for BestOfSample {
    fn pick(&self, _want: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let (drawn, count) = self.sampler.some::<SAMPLE>(rng);
        let first = (drawn[0], self.loads[drawn[0]].reading());
        let lower = |best: (usize, Reading), &index: &usize| {
            let reading = self.loads[index].reading();
            select_unpredictable(reading.is_below(best.1), (index, reading), best)
        };
        drawn[1..count].iter().fold(first, lower).0
    }

    fn score(&self, slot: usize, _now: Tick) -> Option<f64> {
        Some(self.loads[slot].reading().as_number())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, slots};
    use super::*;
    use crate::destination::DestinationId;
    use crate::stats::Assignment;

    fn load(slot: &Slot, count: u32) -> Vec<Assignment> {
        let assignment =
            |_| Assignment::take(DestinationId(0), 0, 0, &slot.stats, Tick::ZERO).expect("no limit");
        (0..count).map(assignment).collect()
    }

    /// The picks of an idle worker (nothing it picks stays in flight) at these loads.
    fn check(policy: &LeastConnections, weights_and_loads: &[(u32, u32)], expected: &str) {
        let slots = slots((0..).zip(weights_and_loads.iter().map(|&(weight, _)| weight)));
        let held: Vec<_> = slots.iter().zip(weights_and_loads).map(|(slot, &(_, n))| load(slot, n)).collect();
        let picker = policy.build(slots.clone());
        assert_eq!(picks(&*picker, &slots, 0, expected.len().div_ceil(2)), expected);
        drop(held);
    }

    #[test]
    fn the_one_with_the_fewest_takes_it() {
        check(&LeastConnections::unweighted(1), &[(9, 2), (1, 1), (1, 3)], "b b b");
        check(&LeastConnections::weighted(1), &[(3, 2), (1, 1), (1, 3)], "a a a");
    }

    #[test]
    fn those_that_tie_take_turns_however_many_busy_ones_stand_between() {
        let unweighted = LeastConnections::unweighted(1);
        check(&unweighted, &[(1, 0), (1, 9), (1, 9), (1, 0), (1, 9)], "a d a d a d");
        check(&unweighted, &[(1, 1), (1, 1), (1, 1)], "a b c a");
        check(&LeastConnections::weighted(1), &[(2, 1), (1, 0), (4, 3)], "a b c a b c");
    }

    #[test]
    fn comparing_crosswise_holds_at_the_largest_numbers() {
        let most = Reading { in_flight: u32::MAX, weight: u32::MAX };
        assert!(!most.is_below(most));
        assert!(most.is_below(Reading { weight: u32::MAX - 1, ..most }));
        assert!(Reading { in_flight: 0, weight: 2 }.is_below(Reading { in_flight: 0, weight: 1 }));
    }

    #[test]
    fn a_large_pool_gives_the_best_of_a_sample() {
        for policy in [LeastConnections::unweighted(1), LeastConnections::weighted(1)] {
            let slots = slots((0..1000).map(|rank| (rank, 1 + rank % 3)));
            let busy: Vec<_> = slots.iter().step_by(2).map(|slot| load(slot, 50)).collect();
            let (picker, mut rng) = (policy.build(slots.clone()), Rng::new(3));
            let picked: Vec<usize> =
                (0..10_000).map(|_| picker.pick(&PickRequest::default(), Tick::ZERO, &mut rng)).collect();
            let busy_share = picked.iter().filter(|&&index| index % 2 == 0).count() as f64 / 10_000.0;
            assert!((0.02..0.05).contains(&busy_share), "half to the power of five, not {busy_share}");
            drop(busy);
        }
    }
}
