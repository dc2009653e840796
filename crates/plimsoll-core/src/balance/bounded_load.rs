//! How much a slot may have in flight beside the others, so that one popular key does not bury it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::Slot;
use super::least_loaded::EXACT_UP_TO;
use crate::stats::DestinationStats;

/// Slots counted again by each pick, where there are too many to count all of them.
const STRIDE: usize = 16;

/// Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018), by HAProxy's rule: with this
/// message `total` are in flight, a slot may have `ceil(total × factor)` of them times its share of the weights, at
/// least one.
///
/// What is in flight everywhere is summed up by each pick for up to 64 slots. Of more, a pick counts 16 of them
/// anew and the others as they were when it was their turn: 625 picks ago at most, with 10,000.
#[derive(Debug)]
pub(super) struct Bounds {
    factor: f64,
    slots: Box<[Bounded]>,
    parts: Box<[AtomicU32]>,
    total: AtomicU64,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Bounded {
    stats: Arc<DestinationStats>,
    share: f64,
}

impl Bounds {
    /// Bounds for these slots; `percent` is above 100.
    pub(super) fn new(slots: &[Slot], percent: u16) -> Self {
        let weight: f64 = slots.iter().map(|slot| f64::from(slot.weight)).sum();
        let bounded =
            |slot: &Slot| Bounded { stats: slot.stats.clone(), share: f64::from(slot.weight) / weight };
        let parts = if slots.len() > EXACT_UP_TO { slots.len().div_ceil(STRIDE) } else { 0 };
        let bounds = Self {
            factor: f64::from(percent) / 100.0,
            slots: slots.iter().map(bounded).collect(),
            parts: (0..parts).map(|_| AtomicU32::new(0)).collect(),
            total: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        };
        (0..parts).for_each(|_| bounds.recount());
        bounds
    }

    /// What all may have together, this message included: the quota each slot is given its share of.
    pub(super) fn quota(&self) -> f64 {
        let total = if self.parts.is_empty() {
            in_flight(&self.slots)
        } else {
            self.recount();
            self.total.load(Relaxed)
        };
        ((total as f64 + 1.0) * self.factor).ceil()
    }

    /// May it take one more of `quota`?
    pub(super) fn has_room(&self, slot: usize, quota: f64) -> bool {
        let Bounded { stats, share } = &self.slots[slot];
        f64::from(stats.in_flight()) < (quota * share).ceil().max(1.0)
    }

    /// How full it is, beside others.
    pub(super) fn fullness(&self, slot: usize) -> f64 {
        let Bounded { stats, share } = &self.slots[slot];
        f64::from(stats.in_flight()) / share
    }

    /// Counts the part whose turn it is. The difference is added, so the sum of parts is the total whoever counts
    /// at the same time.
    fn recount(&self) {
        let turn = self.turn.fetch_add(1, Relaxed) % self.parts.len();
        let part = &self.slots[turn * STRIDE..((turn + 1) * STRIDE).min(self.slots.len())];
        let now = in_flight(part);
        let before = self.parts[turn].swap(now as u32, Relaxed);
        // Wraps around where it falls: the sum of all differences is what counts.
        self.total.fetch_add(now.wrapping_sub(u64::from(before)), Relaxed);
    }
}

fn in_flight(slots: &[Bounded]) -> u64 {
    slots.iter().map(|slot| u64::from(slot.stats.in_flight())).sum()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hold, named};
    use super::*;

    #[test]
    fn a_slot_may_have_its_share_of_all_and_a_part_more() {
        let slots = named(0.., &[1, 1, 2]);
        let bounds = Bounds::new(&slots, 125);
        assert_eq!(bounds.quota(), 2.0);
        assert!((0..3).all(|slot| bounds.has_room(slot, bounds.quota())), "one each at least");
        let _held = (hold(&slots[0], 3), hold(&slots[1], 2), hold(&slots[2], 4));
        // 10 with this one, 12.5 makes 13: 3.25 makes 4, 4, and 6.5 makes 7.
        assert_eq!(bounds.quota(), 13.0);
        let _more = hold(&slots[0], 1);
        assert_eq!(bounds.quota(), 14.0);
        let room: Vec<bool> = (0..3).map(|slot| bounds.has_room(slot, 14.0)).collect();
        assert_eq!(room, [false, true, true]);
        assert!(bounds.fullness(0) > bounds.fullness(1) && bounds.fullness(1) == bounds.fullness(2));
    }

    #[test]
    fn of_many_the_total_is_right_after_one_round() {
        let slots = named(0.., &[1; 100]);
        let held: Vec<_> = slots.iter().flat_map(|slot| hold(slot, 3)).collect();
        let bounds = Bounds::new(&slots, 200);
        assert_eq!(bounds.quota(), 602.0);
        drop(held);
        (0..7).for_each(|_| bounds.recount());
        assert_eq!(bounds.quota(), 2.0);
    }
}
