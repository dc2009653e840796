//! Ring of points that maps keys to slots: a key belongs to the next point.

use super::Slot;
use crate::hash::mix;

/// Minimum number of points in total. With Envoy's default of 1,024 the shares of ten destinations differ by a tenth;
/// this number brings that below 3 %.
const MIN_POINTS: f64 = 16_384.0;
/// Minimum number of points of the lightest slot, if the ring may grow that far. (nginx has 160 per weight, HAProxy
/// 16.)
const MIN_POINTS_PER_SLOT: f64 = 64.0;
/// Maximum number of points, or twice [`MIN_POINTS_PER_SLOT`] per slot if that is more: 2 MiB, and 20 MiB for 10,000
/// slots. Envoy allows 8 million.
const MAX_POINTS: f64 = 131_072.0;

/// Ring in which each slot has points in proportion to its weight, at the hashes of its name and of their numbers.
///
/// Envoy's `ring_hash_lb.cc` makes the sum of points exact, so a destination's points depend on the others, and keys
/// move between those that stay. Here the points per weight are a power of two, which changes only when the pool grows
/// or shrinks by half; the old points then stay among the new.
#[derive(Debug)]
pub(super) struct HashRing {
    /// Points sorted by hash.
    points: Box<[(u64, u32)]>,
    /// First point in or behind each of a power of two parts of the circle. A search begins there and ends after one or
    /// two points.
    starts: Box<[u32]>,
}

impl HashRing {
    /// Creates a ring over these slots, which are not empty.
    pub(super) fn new(slots: &[Slot]) -> Self {
        let scale = scale(slots);
        let mut points = Vec::new();
        for (index, slot) in slots.iter().enumerate() {
            let count = (f64::from(slot.weight) * scale).round().max(1.0) as u64;
            points.extend((0..count).map(|number| (mix(slot.name_hash ^ mix(number)), index as u32)));
        }
        points.sort_unstable_by_key(|&(hash, index)| (hash, slots[index as usize].name_hash));
        Self { starts: starts(&points), points: points.into() }
    }

    /// Returns the index of the first point at or behind a hash; behind the last, the first of all.
    pub(super) fn place(&self, hash: u64) -> usize {
        let mut at = self.starts[part(hash, self.starts.len())] as usize;
        while self.points.get(at).is_some_and(|&(point, _)| point < hash) {
            at += 1;
        }
        if at == self.points.len() { 0 } else { at }
    }

    /// Returns the slot of the point `on` points after `place`.
    pub(super) fn slot(&self, place: usize, on: usize) -> usize {
        self.points[(place + on) % self.points.len()].1 as usize
    }
}

/// Returns the points per 256th of weight.
fn scale(slots: &[Slot]) -> f64 {
    let weights = slots.iter().map(|slot| f64::from(slot.weight));
    let (total, least) = (weights.clone().sum::<f64>(), weights.fold(f64::INFINITY, f64::min));
    let wanted = (MIN_POINTS / total).max(MIN_POINTS_PER_SLOT / least).log2().ceil();
    let most = (MAX_POINTS.max(2.0 * MIN_POINTS_PER_SLOT * slots.len() as f64) / total).log2().floor();
    wanted.min(most).exp2()
}

/// Returns the part of the circle that a hash lies in; `parts` is a power of two.
fn part(hash: u64, parts: usize) -> usize {
    ((u128::from(hash) * parts as u128) >> 64) as usize
}

fn starts(points: &[(u64, u32)]) -> Box<[u32]> {
    let parts = points.len().next_power_of_two();
    let mut at = 0;
    let start = |number: usize| {
        while points.get(at).is_some_and(|&(hash, _)| part(hash, parts) < number) {
            at += 1;
        }
        at as u32
    };
    (0..parts).map(start).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::named;
    use super::*;

    fn owner(ring: &HashRing, hash: u64) -> usize {
        ring.slot(ring.place(hash), 0)
    }

    #[test]
    fn search_finds_the_next_point() {
        let ring = HashRing::new(&named(0.., &[1, 2, 3]));
        for hash in (0..20_000).map(mix).chain([0, u64::MAX, ring.points[5].0, ring.points[5].0 + 1]) {
            let place = ring.points.partition_point(|&(point, _)| point < hash) % ring.points.len();
            assert_eq!(ring.place(hash), place, "{hash}");
        }
    }

    #[test]
    fn points_and_keys_are_proportional_to_weights() {
        for weights in [&[1, 1, 1][..], &[1, 2, 3, 4], &[100, 1], &[7; 50]] {
            let slots = named(0.., weights);
            let ring = HashRing::new(&slots);
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let keys = 200_000;
            let mut taken = vec![0_u32; slots.len()];
            (0..keys).for_each(|key| taken[owner(&ring, mix(key))] += 1);
            for (index, &weight) in weights.iter().enumerate() {
                let share = f64::from(weight) / total;
                let points = ring.points.iter().filter(|&&(_, slot)| slot as usize == index).count() as f64;
                assert!((points - share * ring.points.len() as f64).abs() <= 2.0, "{points} of {weights:?}");
                let have = f64::from(taken[index]) / keys as f64;
                assert!((have / share - 1.0).abs() < 0.15, "{have} for {share} of {weights:?}");
            }
        }
    }

    #[test]
    fn only_keys_of_a_removed_destination_move_in_any_order() {
        let slots = named(0.., &[2; 20]);
        let without: Vec<Slot> = slots.iter().rev().filter(|slot| slot.rank != 7).cloned().collect();
        let (before, after) = (HashRing::new(&slots), HashRing::new(&without));
        let moved = (0..50_000).map(mix).filter(|&hash| {
            let was = &slots[owner(&before, hash)].name;
            *was != slots[7].name && *was != without[owner(&after, hash)].name
        });
        let share = moved.count() as f64 / 50_000.0;
        assert_eq!(share, 0.0);
    }

    #[test]
    fn ring_is_bounded_for_uneven_weights() {
        let slots = named(0.., &[1, 65_535 * 256]);
        let ring = HashRing::new(&slots);
        assert!(ring.points.len() <= MAX_POINTS as usize + slots.len(), "{}", ring.points.len());
    }
}
