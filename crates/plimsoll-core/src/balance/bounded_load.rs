//! Consistent hashing with bounded loads: a popular key does not overload one destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::Slot;
use super::least_loaded::EXACT_UP_TO;
use crate::stats::DestinationStats;

/// Number of slots that each pick counts again, if there are too many to count all.
const STRIDE: usize = 16;

/// Bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018) by HAProxy's rule: with `total` messages in flight, this
/// one included, a slot may have `ceil(total × factor)` multiplied by its share of the weights, at least one.
///
/// Each pick sums up the messages in flight of up to 64 slots. Of more, a pick counts 16 slots again and uses the last
/// counts of the others, which are at most 625 picks old with 10,000 slots.
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
    /// Creates bounds for these slots; `percent` is above 100.
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

    /// Returns the quota of all slots together, this message included; each slot has its share of it.
    pub(super) fn quota(&self) -> f64 {
        let total = if self.parts.is_empty() {
            in_flight(&self.slots)
        } else {
            self.recount();
            self.total.load(Relaxed)
        };
        ((total as f64 + 1.0) * self.factor).ceil()
    }

    /// Returns whether the slot is below its bound with this quota.
    pub(super) fn has_room(&self, slot: usize, quota: f64) -> bool {
        let Bounded { stats, share } = &self.slots[slot];
        f64::from(stats.in_flight()) < (quota * share).ceil().max(1.0)
    }

    /// Returns the load of the slot relative to its share.
    pub(super) fn fullness(&self, slot: usize) -> f64 {
        let Bounded { stats, share } = &self.slots[slot];
        f64::from(stats.in_flight()) / share
    }

    /// Counts the next part of the slots. The difference is added, so the sum of parts is the total also with
    /// concurrent calls.
    fn recount(&self) {
        let turn = self.turn.fetch_add(1, Relaxed) % self.parts.len();
        let part = &self.slots[turn * STRIDE..((turn + 1) * STRIDE).min(self.slots.len())];
        let now = in_flight(part);
        let before = self.parts[turn].swap(now as u32, Relaxed);
        // Wraps around if the count falls: only the sum of all differences counts.
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
    fn bound_is_the_share_times_the_factor() {
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
    fn total_of_many_slots_is_right_after_one_round() {
        let slots = named(0.., &[1; 100]);
        let held: Vec<_> = slots.iter().flat_map(|slot| hold(slot, 3)).collect();
        let bounds = Bounds::new(&slots, 200);
        assert_eq!(bounds.quota(), 602.0);
        drop(held);
        (0..7).for_each(|_| bounds.recount());
        assert_eq!(bounds.quota(), 2.0);
    }
}
