//! Turns of slots that are equally good: in order, or by weight.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::Slot;
use super::rotation_state::{CurrentWeights, Ring, RotationStates};

/// Maximum number of slots: a set of them is a 64-bit mask.
pub(super) const MAX_SLOTS: usize = 64;

/// Turns of equally good slots, per worker and continued over snapshots.
#[derive(Debug)]
pub(super) enum Turns {
    /// In configured order: all weights are equal, or ignored.
    Even(EvenTurns),
    /// By nginx's smooth weighted sequence.
    Weighted(WeightedTurns),
}

impl Turns {
    /// Creates turns of up to 64 slots, by weight or not.
    pub(super) fn new(slots: &[Slot], states: Arc<RotationStates>, by_weight: bool) -> Self {
        debug_assert!(slots.len() <= MAX_SLOTS);
        if by_weight && slots.iter().any(|slot| slot.weight != slots[0].weight) {
            return Self::Weighted(WeightedTurns::new(slots, &states));
        }
        states.start(|worker| Ring::start_of(slots, worker));
        let after = slots.iter().map(|slot| slot.rank + 1).collect();
        Self::Even(EvenTurns { states, ring: Ring::new(slots), after })
    }

    /// Returns the slot of `tied` that is next; a retry does not take the turn. `tied` is not empty.
    pub(super) fn next(&self, tied: u64, worker: usize, is_retry: bool) -> usize {
        match self {
            Self::Even(turns) => {
                let picked = first_from(tied, turns.start(worker));
                turns.take(picked, worker, is_retry);
                picked
            }
            Self::Weighted(turns) => turns.next(tied, worker, is_retry),
        }
    }
}

/// Returns the first slot of a mask from `start` on and around.
fn first_from(mask: u64, start: usize) -> usize {
    let behind = mask & (u64::MAX << start);
    (if behind == 0 { mask } else { behind }).trailing_zeros() as usize
}

/// Turns in configured order: each turn begins after the last one that was taken.
#[derive(Debug)]
pub(super) struct EvenTurns {
    states: Arc<RotationStates>,
    ring: Ring,
    after: Box<[u32]>,
}

impl EvenTurns {
    /// Returns the slot at which the search for the next turn begins.
    pub(super) fn start(&self, worker: usize) -> usize {
        self.ring.at(self.states.of(worker).load(Relaxed)).slot as usize
    }

    /// Takes the turn of `slot`.
    pub(super) fn take(&self, slot: usize, worker: usize, is_retry: bool) {
        if !is_retry {
            // A plain store: threads that share a worker may pick the same slot of equals, and its load then differs.
            self.states.of(worker).store(u64::from(self.after[slot]), Relaxed);
        }
    }
}

/// Turns by weight, as nginx's `least_conn` breaks ties: of the tied slots each grows by its weight, the greatest is
/// picked and pays their sum. If all are tied this is the smooth weighted sequence, and if some are, their part of it.
#[derive(Debug)]
pub(super) struct WeightedTurns {
    weights: Box<[i64]>,
    current: Arc<CurrentWeights>,
}

impl WeightedTurns {
    fn new(slots: &[Slot], states: &RotationStates) -> Self {
        let weights = slots.iter().map(|slot| i64::from(slot.weight)).collect();
        let (before, workers) = (states.current_weights(), states.workers());
        let values = |worker| slots.iter().map(|slot| AtomicI64::new(before.of(worker, slot.rank))).collect();
        let ranks = slots.iter().map(|slot| slot.rank).collect();
        let current = Arc::new(CurrentWeights::new(ranks, (0..workers).map(values).collect()));
        let turns = Self { weights, current };
        if before.is_empty() {
            // Each worker begins one turn further, so that the first messages of many workers do not all go to the
            // heaviest.
            let all = u64::MAX >> (MAX_SLOTS - slots.len());
            for worker in 0..workers {
                (0..worker).for_each(|_| _ = turns.next(all, worker, false));
            }
        }
        states.set_current_weights(turns.current.clone());
        turns
    }

    fn next(&self, mut tied: u64, worker: usize, is_retry: bool) -> usize {
        let current = self.current.of_worker(worker);
        let (mut best, mut most, mut total) = (0, i64::MIN, 0);
        while tied != 0 {
            let slot = tied.trailing_zeros() as usize;
            tied &= tied - 1;
            let weight = self.weights[slot];
            let grown = current[slot].load(Relaxed) + weight;
            total += weight;
            if !is_retry {
                current[slot].store(grown, Relaxed);
            }
            if grown > most {
                (best, most) = (slot, grown);
            }
        }
        if !is_retry {
            current[best].store(most - total, Relaxed);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::slots;
    use super::*;

    fn turns(weights: &[u32], states: &Arc<RotationStates>) -> Turns {
        Turns::new(&slots((0..).zip(weights.iter().copied())), states.clone(), true)
    }

    fn letters(turns: &Turns, tied: u64, worker: usize, count: usize) -> String {
        (0..count).map(|_| char::from(b'a' + turns.next(tied, worker, false) as u8)).collect()
    }

    #[test]
    fn all_tied_slots_follow_the_smooth_sequence_over_snapshots() {
        let states = Arc::new(RotationStates::new(1));
        assert_eq!(letters(&turns(&[5, 1, 1], &states), 0b111, 0, 3), "aab");
        assert_eq!(letters(&turns(&[5, 1, 1], &states), 0b111, 0, 11), "acaaaabacaa");
    }

    #[test]
    fn turns_of_some_slots_take_none_from_the_others() {
        let turns = turns(&[5, 1, 1], &Arc::new(RotationStates::new(1)));
        assert_eq!(letters(&turns, 0b110, 0, 4), "bcbc");
        assert_eq!(letters(&turns, 0b111, 0, 7), "aabacaa");
    }

    #[test]
    fn workers_begin_one_turn_apart_and_retries_take_no_turn() {
        let turns = turns(&[2, 1], &Arc::new(RotationStates::new(3)));
        let firsts: String = (0..3).map(|worker| letters(&turns, 0b11, worker, 3) + " ").collect();
        assert_eq!(firsts, "aba baa aab ");
        assert_eq!([turns.next(0b11, 0, true), turns.next(0b11, 0, true)], [0, 0]);
        assert_eq!(letters(&turns, 0b11, 5, 1), "a", "a further worker shares the state of another");
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        let turns = turns(&[3; 64], &Arc::new(RotationStates::new(1)));
        assert!(matches!(turns, Turns::Even(_)));
        let mask = 1 | 1 << 5 | 1 << 63;
        let picked: Vec<usize> = (0..4).map(|_| turns.next(mask, 0, false)).collect();
        assert_eq!(picked, [0, 5, 63, 0]);
    }
}
