//! Rendezvous hashing: equal keys go to one destination, and if a destination leaves, only its keys move.

use super::Slot;
use crate::hash::mix;

/// Picks the slot of `key` among those that are `fit`, by weighted rendezvous hashing (Thaler and Ravishankar, 1998;
/// Schindelhauer and Schomaker, 2005). A slot's share of keys is its share of the weights. All slots are compared.
pub fn pick(slots: &[Slot], key: u64, fit: impl Fn(&Slot) -> bool) -> Option<&Slot> {
    pick_index(slots, key, |index| fit(&slots[index])).map(|index| &slots[index])
}

/// Picks as [`pick`] does, by index.
pub(super) fn pick_index(slots: &[Slot], key: u64, fit: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for index in (0..slots.len()).filter(|&index| fit(index)) {
        let distance = distance(slots[index].name_hash, key) / f64::from(slots[index].weight);
        if best.is_none_or(|(_, least)| distance < least) {
            best = Some((index, distance));
        }
    }
    best.map(|(index, _)| index)
}

/// Returns a pseudorandom number with exponential distribution and mean 1.
fn distance(seed: u64, key: u64) -> f64 {
    const BITS: u32 = 53;
    let drawn = mix(seed ^ mix(key)) >> (64 - BITS);
    let within_0_and_1 = (drawn as f64 + 0.5) / (1_u64 << BITS) as f64;
    -within_0_and_1.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::slots;
    use crate::hash::hash;

    const KEYS: u64 = 20_000;

    fn picks(slots: &[Slot]) -> Vec<u32> {
        let picked = |key: u64| pick(slots, hash(&key.to_le_bytes()), |_| true).expect("there are slots");
        (0..KEYS).map(|key| picked(key).rank).collect()
    }

    #[test]
    fn keys_are_distributed_by_weight() {
        let slots = slots([(0, 256), (1, 512), (2, 1024)]);
        let picks = picks(&slots);
        for (rank, share) in [(0, 1.0 / 7.0), (1, 2.0 / 7.0), (2, 4.0 / 7.0)] {
            let have = picks.iter().filter(|&&r| r == rank).count() as f64 / KEYS as f64;
            assert!((have - share).abs() < 0.015, "{rank}: {have} of {share}");
        }
    }

    #[test]
    fn only_keys_of_a_removed_destination_move_and_they_return_with_it() {
        let all = slots((0..10).map(|rank| (rank, 256)));
        let before = picks(&all);
        let without: Vec<Slot> = all.iter().filter(|slot| slot.rank != 3).cloned().collect();
        let after = picks(&without);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        assert_eq!(moved, before.iter().filter(|&&b| b == 3).count(), "no other key");
        assert_eq!(picks(&all), before);
    }
}
