//! Rotations: round robin, exact per worker and continuous over snapshots.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::rotation_state::{PartitionRotations, Ring, RotationStates};
use super::smooth_sequence::Sequence;
use super::{Needs, Partition, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::rng::Rng;
use crate::time::Tick;

/// Round robin in configured order, regardless of weights. (Weight 0 is never among the slots.)
///
/// Every worker has its own rotation, exact from its first pick. Worker 0 begins at the first destination, worker 1 at
/// the second, and so on, so W workers differ by at most W. The place is a rank in the pool, so a destination that
/// leaves and returns shifts no turn. A retry uses the current turn without advancing. (A change of the configured list
/// moves the ranks behind it.)
#[derive(Debug)]
pub struct RoundRobin {
    cursors: PartitionRotations,
}

impl RoundRobin {
    /// Creates a rotation for each of `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self { cursors: PartitionRotations::new(workers) }
    }
}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_partition(slots, Partition::WHOLE)
    }

    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let cursors = self.cursors.of(part);
        cursors.start(|worker| Ring::start_of(&slots, worker));
        Box::new(RoundRobinPicker { cursors, ring: Ring::new(&slots) })
    }
}

struct RoundRobinPicker {
    cursors: Arc<RotationStates>,
    ring: Ring,
}

impl Picker for RoundRobinPicker {
    fn pick(&self, request: &PickRequest<'_>, _now: Tick, _rng: &mut Rng) -> usize {
        let cursor = self.cursors.of(request.worker);
        let mut rank = cursor.load(Relaxed);
        loop {
            let turn = self.ring.at(rank);
            if request.is_retry() {
                return turn.slot as usize;
            }
            // A worker's own thread succeeds at once; threads that share a worker each take a turn of their own.
            match cursor.compare_exchange_weak(rank, u64::from(turn.after), Relaxed, Relaxed) {
                Ok(_) => return turn.slot as usize,
                Err(moved) => rank = moved,
            }
        }
    }
}

/// nginx's smooth weighted round robin (`ngx_http_upstream_round_robin.c`): weights 5, 1, 1 give a a b a c a a.
///
/// The sequence is computed when the picker is built, so a pick is one addition and one look-up. It is exact while the
/// sum of weights over their greatest common divisor is at most 65,536. Beyond that the weights are scaled to 65,536
/// turns: each destination has its turns rounded up or down, and at least one (of more than 65,536 destinations, each
/// has one).
///
/// A worker's place is a share of the cycle. An unchanged sequence continues at its turn, a changed one at the same
/// share of the cycle. Worker 0 begins at the first turn, worker 1 at the second, and so on.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    cursors: PartitionRotations,
}

impl WeightedRoundRobin {
    /// Creates a rotation for each of `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self { cursors: PartitionRotations::new(workers) }
    }
}

impl Policy for WeightedRoundRobin {
    fn name(&self) -> &'static str {
        "weighted_round_robin"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_partition(slots, Partition::WHOLE)
    }

    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let weights: Vec<u32> = slots.iter().map(|slot| slot.weight).collect();
        let sequence = Sequence::new(&weights);
        let turns = sequence.len() as u64;
        let step = step(turns);
        let cursors = self.cursors.of(part);
        cursors.start(|worker| (worker as u64 % turns).wrapping_mul(step));
        Box::new(SequencePicker { cursors, sequence, turns, step })
    }
}

/// Returns one turn as a share of the cycle in 2^-64ths, rounded up: a place is such a share and wraps by itself.
///
/// Rounding costs one turn in at least 2^48 picks (a million picks per second for nine years). In return, any share is
/// a place in any cycle.
const fn step(turns: u64) -> u64 {
    (u64::MAX / turns).wrapping_add(1)
}

struct SequencePicker {
    cursors: Arc<RotationStates>,
    sequence: Sequence,
    turns: u64,
    step: u64,
}

impl Picker for SequencePicker {
    fn pick(&self, request: &PickRequest<'_>, _now: Tick, _rng: &mut Rng) -> usize {
        let step = if request.is_retry() { 0 } else { self.step };
        let share = self.cursors.of(request.worker).fetch_add(step, Relaxed);
        let place = (u128::from(share) * u128::from(self.turns)) >> 64;
        self.sequence.at(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, slots};
    use super::*;
    use crate::balance::AttemptedSet;

    fn check(policy: &dyn Policy, weights: &[u32], worker: usize, expected: &str) {
        let slots = slots((0..).zip(weights.iter().copied()));
        let picker = policy.build(slots.clone());
        assert_eq!(picks(&*picker, &slots, worker, expected.len().div_ceil(2)), expected);
    }

    #[test]
    fn round_robin_ignores_weights() {
        check(&RoundRobin::new(1), &[5, 1, 1], 0, "a b c a b c a");
        check(&RoundRobin::new(1), &[1], 0, "a a a");
    }

    #[test]
    fn weighted_round_robin_follows_the_smooth_sequence() {
        check(&WeightedRoundRobin::new(1), &[5, 1, 1], 0, "a a b a c a a a a b a c a a");
        check(&WeightedRoundRobin::new(1), &[2, 2, 2], 0, "a b c a b c");
        check(&WeightedRoundRobin::new(1), &[9], 0, "a a a");
    }

    #[test]
    fn workers_begin_at_consecutive_destinations() {
        let (plain, weighted) = (RoundRobin::new(3), WeightedRoundRobin::new(3));
        for (worker, expected) in [(0, "a b a b"), (1, "b a b a"), (2, "a b a b")] {
            check(&plain, &[1, 1], worker, expected);
        }
        for (worker, expected) in [(0, "a a b a c a a"), (1, "a b a c a a a"), (2, "b a c a a a a")] {
            check(&weighted, &[5, 1, 1], worker, expected);
        }
        check(&plain, &[1, 1], 7, "b a");
    }

    #[test]
    fn returning_destination_keeps_its_turn() {
        for seed in 0..200 {
            let (mut rng, policy) = (Rng::new(seed), RoundRobin::new(1));
            let count = 1 + rng.index(12) as u32;
            let mut next = None;
            for _ in 0..60 {
                let mut ranks: Vec<u32> = (0..count).filter(|_| rng.below(3) > 0).collect();
                if ranks.is_empty() {
                    ranks.push(rng.below(u64::from(count)) as u32);
                }
                let picker = policy.build(slots(ranks.iter().map(|&rank| (rank, 256))));
                for _ in 0..rng.index(4) {
                    let picked = ranks[picker.pick(&PickRequest::default(), Tick::ZERO, &mut Rng::new(0))];
                    let due = next.and_then(|next| ranks.iter().copied().find(|&rank| rank >= next));
                    if next.is_some() {
                        assert_eq!(picked, due.unwrap_or(ranks[0]), "seed {seed}: {ranks:?} after {next:?}");
                    }
                    next = Some(picked + 1);
                }
            }
        }
    }

    #[test]
    fn retry_does_not_advance_the_rotation() {
        for policy in [&RoundRobin::new(1) as &dyn Policy, &WeightedRoundRobin::new(1)] {
            let slots = slots([(0, 1), (1, 1), (2, 1)]);
            let picker = policy.build(slots.clone());
            assert_eq!(picks(&*picker, &slots, 0, 1), "a");
            let mut tried = AttemptedSet::default();
            tried.add(slots[0].id);
            let again = PickRequest { tried: Some(&tried), ..PickRequest::default() };
            for _ in 0..3 {
                assert_eq!(picker.pick(&again, Tick::ZERO, &mut Rng::new(1)), 1, "{}", policy.name());
            }
            assert_eq!(picks(&*picker, &slots, 0, 3), "b c a", "{}", policy.name());
        }
    }

    #[test]
    fn weighted_rotation_continues_over_snapshots() {
        let (policy, slots) = (WeightedRoundRobin::new(1), slots([(0, 5), (1, 1), (2, 1)]));
        assert_eq!(picks(&*policy.build(slots.clone()), &slots, 0, 3), "a a b");
        assert_eq!(picks(&*policy.build(slots.clone()), &slots, 0, 4), "a c a a");
        assert_eq!(picks(&*policy.build(slots.clone()), &slots, 0, 7), "a a b a c a a");
    }

    #[test]
    fn changed_sequence_continues_at_the_same_share_of_the_cycle() {
        let (policy, before) = (WeightedRoundRobin::new(1), slots([(0, 1), (1, 1), (2, 1), (3, 1)]));
        assert_eq!(picks(&*policy.build(before.clone()), &before, 0, 2), "a b");
        let after = slots((0..6).map(|rank| (rank, 1)));
        assert_eq!(
            picks(&*policy.build(after.clone()), &after, 0, 4),
            "d e f a",
            "half of the cycle is over"
        );
        // One pick of a single destination is a whole cycle, which shifts no turn.
        let (policy, pair) = (WeightedRoundRobin::new(1), slots([(0, 1), (1, 1)]));
        for expected in ["a", "b", "a", "b"] {
            assert_eq!(picks(&*policy.build(pair.clone()), &pair, 0, 1), expected);
            assert_eq!(picks(&*policy.build(slots([(0, 1)])), &pair, 0, 1), "a");
        }
    }

    #[test]
    fn every_cycle_contains_every_turn() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let weights: Vec<u32> = (0..=rng.index(30)).map(|_| 1 + rng.below(200) as u32).collect();
            let sequence = Sequence::new(&weights);
            let picker = WeightedRoundRobin::new(1).build(slots((0..).zip(weights.iter().copied())));
            let start = rng.index(sequence.len());
            for _ in 0..start {
                picker.pick(&PickRequest::default(), Tick::ZERO, &mut rng);
            }
            for turn in start..start + 3 * sequence.len() {
                let picked = picker.pick(&PickRequest::default(), Tick::ZERO, &mut rng);
                assert_eq!(
                    picked,
                    sequence.at(turn % sequence.len()),
                    "seed {seed}, turn {turn} of {weights:?}"
                );
            }
        }
    }

    #[test]
    fn threads_that_share_a_worker_never_share_a_turn() {
        for policy in [&RoundRobin::new(1) as &dyn Policy, &WeightedRoundRobin::new(1)] {
            let picker = policy.build(slots((0..7).map(|rank| (rank, 256))));
            let count = || {
                let (mut seen, mut rng) = ([0; 7], Rng::new(0));
                (0..7_000)
                    .for_each(|_| seen[picker.pick(&PickRequest::default(), Tick::ZERO, &mut rng)] += 1);
                seen
            };
            let seen = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(count));
                threads.map(|thread| thread.join().expect("no panic"))
            });
            let sum: Vec<u32> = (0..7).map(|slot| seen.iter().map(|seen| seen[slot]).sum()).collect();
            assert_eq!(sum, [4_000; 7], "{}", policy.name());
        }
    }
}
