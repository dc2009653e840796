//! Whose a key is: the same destination for the same key, and when one comes or goes, only its keys move.

use super::Slot;
use crate::hash::mix;

/// The slot that `key` belongs to, of those that are `fit`, by weighted rendezvous hashing (Thaler and
/// Ravishankar, 1998; Schindelhauer and Schomaker, 2005): each slot's chance is its share of the weights. Looks
/// at all of them.
pub fn home(slots: &[Slot], key: u64, fit: impl Fn(&Slot) -> bool) -> Option<&Slot> {
    highest(slots, key, |index| fit(&slots[index])).map(|index| &slots[index])
}

/// The same by index.
pub(super) fn highest(slots: &[Slot], key: u64, fit: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for index in (0..slots.len()).filter(|&index| fit(index)) {
        let distance = distance(slots[index].name_hash, key) / f64::from(slots[index].weight);
        if best.is_none_or(|(_, least)| distance < least) {
            best = Some((index, distance));
        }
    }
    best.map(|(index, _)| index)
}

/// Exponentially distributed with mean 1, as far as anybody can tell.
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

    fn homes(slots: &[Slot]) -> Vec<u32> {
        let home = |key: u64| home(slots, hash(&key.to_le_bytes()), |_| true).expect("there are slots");
        (0..KEYS).map(|key| home(key).rank).collect()
    }

    #[test]
    fn keys_spread_by_weight() {
        let slots = slots([(0, 256), (1, 512), (2, 1024)]);
        let homes = homes(&slots);
        for (rank, share) in [(0, 1.0 / 7.0), (1, 2.0 / 7.0), (2, 4.0 / 7.0)] {
            let have = homes.iter().filter(|&&r| r == rank).count() as f64 / KEYS as f64;
            assert!((have - share).abs() < 0.015, "{rank}: {have} of {share}");
        }
    }

    #[test]
    fn only_the_keys_of_who_left_move_and_they_come_back_with_it() {
        let all = slots((0..10).map(|rank| (rank, 256)));
        let before = homes(&all);
        let without: Vec<Slot> = all.iter().filter(|slot| slot.rank != 3).cloned().collect();
        let after = homes(&without);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        assert_eq!(moved, before.iter().filter(|&&b| b == 3).count(), "and nobody else");
        assert_eq!(homes(&all), before);
    }
}
