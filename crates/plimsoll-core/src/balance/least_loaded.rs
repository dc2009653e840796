//! Least-connections balancing, with and without weights.

use std::hint::select_unpredictable;
use std::sync::Arc;

use super::rotation_state::PartitionRotations;
use super::sampling::WeightedSampler;
use super::turns::{EvenTurns, Turns};
use super::{Needs, Partition, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::destination::Weight;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Maximum number of destinations that are all compared: 64 counters are 64 cache lines, and more would take longer
/// than the 50 ns a pick may cost.
pub const EXACT_UP_TO: usize = 64;

/// Number of destinations that are sampled of larger pools. With two, the fullest of n destinations is within ln ln n
/// of the mean already (Mitzenmacher 1996); five reads still overlap in the memory system.
pub const SAMPLE: usize = 5;

/// Least connections: fewest messages in flight over all workers, including those still connecting; or, if weighted,
/// the lowest in flight / weight, as in nginx.
///
/// Up to 64 destinations the pick is exact, and equal ones take turns per worker: in configured order, as in
/// [`RoundRobin`](super::rotation::RoundRobin), or by nginx's smooth weighted sequence. So idle traffic is shared by
/// weight. Of more, it is the best of five different destinations, drawn evenly or by weight (at least two, if few have
/// nearly all weight); of equals the first drawn.
#[derive(Debug)]
pub struct LeastConnections {
    weighted: bool,
    cursors: PartitionRotations,
}

impl LeastConnections {
    /// Creates `least_connections` for `workers` workers.
    pub fn unweighted(workers: usize) -> Self {
        Self { weighted: false, cursors: PartitionRotations::new(workers) }
    }

    /// Creates `weighted_least_connections` for `workers` workers.
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
        Box::new(BestOfAll { turns: Turns::new(&slots, self.cursors.of(part), self.weighted), loads })
    }
}

/// Data of a slot that its load is computed from: 16 contiguous bytes instead of a slot's 80.
#[derive(Debug)]
pub(super) struct Load {
    stats: Arc<DestinationStats>,
    weight: u32,
}

impl Load {
    pub(super) fn new(slot: &Slot, weight: u32) -> Self {
        Self { stats: slot.stats.clone(), weight }
    }

    pub(super) fn reading(&self) -> Reading {
        Reading { in_flight: self.stats.in_flight(), weight: self.weight }
    }
}

/// Load of one destination at one moment.
#[derive(Copy, Clone, Debug)]
pub(super) struct Reading {
    in_flight: u32,
    weight: u32,
}

impl Reading {
    /// Returns whether n / weight is lower than the other. The cross products fit: 2^32 times 32 bits.
    pub(super) fn is_below(self, other: Self) -> bool {
        let ours = u64::from(self.in_flight) * u64::from(other.weight);
        let theirs = u64::from(other.in_flight) * u64::from(self.weight);
        ours < theirs
    }

    /// Returns n / weight for display.
    pub(super) fn as_number(self) -> f64 {
        f64::from(self.in_flight) * 256.0 / f64::from(self.weight)
    }
}

struct BestOfAll {
    turns: Turns,
    loads: Box<[Load]>,
}

impl BestOfAll {
    /// Returns the first of the lowest from `start` on and around, if all weights are equal. An idle slot ends the
    /// search, because none can be lower.
    fn least_from(&self, start: usize) -> usize {
        let (before, after) = self.loads.split_at(start);
        let (mut best, mut least) = (start, u32::MAX);
        for (offset, part) in [(start, after), (0, before)] {
            for (index, load) in part.iter().enumerate() {
                let in_flight = load.stats.in_flight();
                if in_flight < least {
                    (best, least) = (offset + index, in_flight);
                    if in_flight == 0 {
                        return best;
                    }
                }
            }
        }
        best
    }

    /// Returns the slots of the lowest load as a mask.
    fn least(&self) -> u64 {
        let (mut tied, mut least) = (0, Reading { in_flight: u32::MAX, weight: 1 });
        for (index, load) in self.loads.iter().enumerate() {
            let reading = load.reading();
            if reading.is_below(least) {
                (tied, least) = (1 << index, reading);
            } else if !least.is_below(reading) {
                tied |= 1 << index;
            }
        }
        tied
    }

    fn pick_in_order(&self, turns: &EvenTurns, request: &PickRequest<'_>) -> usize {
        // The search begins after the last pick and keeps the first of equals, so equal slots take turns. (A counter as
        // the start would prefer the slot behind a run of loaded ones.)
        let best = self.least_from(turns.start(request.worker));
        turns.take(best, request.worker, request.is_retry());
        best
    }
}

impl Picker for BestOfAll {
    fn pick(&self, request: &PickRequest<'_>, _now: Tick, _rng: &mut Rng) -> usize {
        match &self.turns {
            Turns::Even(turns) => self.pick_in_order(turns, request),
            by_weight @ Turns::Weighted(_) => {
                by_weight.next(self.least(), request.worker, request.is_retry())
            }
        }
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
    fn pick(&self, _request: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
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

    /// Compares the picks of a worker at these loads; no pick stays in flight.
    fn check(policy: &LeastConnections, weights_and_loads: &[(u32, u32)], expected: &str) {
        let slots = slots((0..).zip(weights_and_loads.iter().map(|&(weight, _)| weight)));
        let held: Vec<_> = slots.iter().zip(weights_and_loads).map(|(slot, &(_, n))| load(slot, n)).collect();
        let picker = policy.build(slots.clone());
        assert_eq!(picks(&*picker, &slots, 0, expected.len().div_ceil(2)), expected);
        drop(held);
    }

    #[test]
    fn lowest_load_is_picked() {
        check(&LeastConnections::unweighted(1), &[(9, 2), (1, 1), (1, 3)], "b b b");
        check(&LeastConnections::weighted(1), &[(3, 2), (1, 1), (1, 3)], "a a a");
    }

    #[test]
    fn equal_loads_take_turns_regardless_of_loaded_ones_between() {
        let unweighted = LeastConnections::unweighted(1);
        check(&unweighted, &[(1, 0), (1, 9), (1, 9), (1, 0), (1, 9)], "a d a d a d");
        check(&unweighted, &[(1, 1), (1, 1), (1, 1)], "a b c a");
        check(&LeastConnections::weighted(1), &[(2, 2), (1, 1), (4, 4)], "c a c b c a c c a c b c a c");
    }

    #[test]
    fn idle_traffic_is_shared_by_weight_in_the_smooth_sequence() {
        check(&LeastConnections::weighted(1), &[(5, 0), (1, 0), (1, 0)], "a a b a c a a a a b a c a a");
        check(&LeastConnections::weighted(1), &[(5, 1), (1, 0), (1, 0)], "b c b c");
    }

    #[test]
    fn cross_products_do_not_overflow() {
        let most = Reading { in_flight: u32::MAX, weight: u32::MAX };
        assert!(!most.is_below(most));
        assert!(most.is_below(Reading { weight: u32::MAX - 1, ..most }));
        assert!(!Reading { in_flight: 0, weight: 2 }.is_below(Reading { in_flight: 0, weight: 1 }));
        assert!(Reading { in_flight: 1, weight: 2 }.is_below(Reading { in_flight: 1, weight: 1 }));
    }

    #[test]
    fn best_of_a_sample_is_picked_in_a_large_pool() {
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
