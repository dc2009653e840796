//! Maglev's look-up table, which maps keys to slots.

use super::Slot;
use crate::hash::mix;

/// Table sizes: primes, so that every skip visits every place. Maglev asks for at least 100 places per destination;
/// with 64, equal destinations still differ by at most 2 %, and a table for 10,000 is filled in well under 100 ms. The
/// first size is the default of the paper and of Envoy; beyond the last, shares are coarser.
const SIZES: [u32; 3] = [65_537, 655_373, 5_000_011];
const PLACES_PER_SLOT: usize = 64;

const FREE: u32 = u32::MAX;

/// Maglev's look-up table (Eisenbud et al., NSDI 2016, section 3.4) with weights as in Envoy's `maglev_lb.cc`: in round
/// `i` a slot takes its next free place if `i × weight` has reached its target, which then grows by the highest weight.
/// The heaviest slot takes a place in each round.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

/// Slots of one weight, which act in the same rounds.
struct Group {
    weight: u64,
    target: u64,
    members: Vec<Turn>,
}

struct Turn {
    slot: u32,
    at: u32,
    skip: u32,
}

impl Maglev {
    /// Creates a table over these slots, which are not empty. Slots act in the order of their name hashes, so their
    /// configured order does not matter.
    pub(super) fn new(slots: &[Slot]) -> Self {
        let enough = |size: &&u32| **size as usize >= PLACES_PER_SLOT * slots.len();
        Self::of_size(slots, *SIZES.iter().find(enough).unwrap_or(&SIZES[SIZES.len() - 1]))
    }

    fn of_size(slots: &[Slot], size: u32) -> Self {
        let mut groups = groups(slots, size);
        let greatest = groups.last().map_or(1, |group| group.weight);
        let mut table = vec![FREE; size as usize];
        let (mut filled, mut round) = (0, 0);
        while filled < size {
            round += 1;
            for group in &mut groups {
                if round * group.weight < group.target {
                    continue;
                }
                group.target += greatest;
                for turn in &mut group.members {
                    if filled == size {
                        break;
                    }
                    let at = turn.next_free(&table, size);
                    table[at] = turn.slot;
                    filled += 1;
                }
            }
        }
        Self(table.into())
    }

    /// Returns the slot of a hash.
    pub(super) fn slot(&self, hash: u64) -> usize {
        // A multiplication selects by the high bits, at a tenth of the cost of a division.
        let place = (u128::from(hash) * self.0.len() as u128) >> 64;
        self.0[place as usize] as usize
    }
}

impl Turn {
    fn next_free(&mut self, table: &[u32], size: u32) -> usize {
        loop {
            let at = self.at;
            self.at += self.skip;
            if self.at >= size {
                self.at -= size;
            }
            if table[at as usize] == FREE {
                return at as usize;
            }
        }
    }
}

/// Groups slots by weight, lightest first, and by name hash within a weight.
fn groups(slots: &[Slot], size: u32) -> Vec<Group> {
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_unstable_by_key(|&index| (slots[index].weight, slots[index].name_hash, slots[index].rank));
    let mut groups: Vec<Group> = Vec::new();
    for index in order {
        let slot = &slots[index];
        let turn = Turn {
            slot: index as u32,
            at: (slot.name_hash % u64::from(size)) as u32,
            skip: (mix(!slot.name_hash) % u64::from(size - 1)) as u32 + 1,
        };
        match groups.last_mut().filter(|group| group.weight == u64::from(slot.weight)) {
            Some(group) => group.members.push(turn),
            None => groups.push(Group { weight: slot.weight.into(), target: 0, members: vec![turn] }),
        }
    }
    // With a target of 0 all slots, however light, would act in the first round.
    let greatest = groups.last().map_or(1, |group| group.weight);
    groups.iter_mut().for_each(|group| group.target = greatest);
    groups
}

#[cfg(test)]
mod tests {
    use super::super::tests::named;
    use super::*;

    fn places(table: &Maglev, slots: usize) -> Vec<u32> {
        let mut places = vec![0; slots];
        table.0.iter().for_each(|&slot| places[slot as usize] += 1);
        places
    }

    #[test]
    fn places_are_proportional_to_weights() {
        for weights in [&[1, 1, 1][..], &[1, 2, 3, 4], &[100, 1], &[7; 50], &[256, 65_535 * 256, 512]] {
            let slots = named(0.., weights);
            let places = places(&Maglev::new(&slots), slots.len());
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for (&weight, &places) in weights.iter().zip(&places) {
                let due = f64::from(weight) / total * 65_537.0;
                assert!(
                    (f64::from(places) - due).abs() <= 1.0 + due * 1e-4,
                    "{places} for {due} of {weights:?}"
                );
            }
        }
    }

    #[test]
    fn table_does_not_depend_on_the_order_of_slots() {
        let slots = named(0.., &[1, 2, 3, 1, 1]);
        let backwards: Vec<Slot> = slots.iter().rev().cloned().collect();
        let (one, other) = (Maglev::new(&slots), Maglev::new(&backwards));
        for key in 0..10_000 {
            assert_eq!(slots[one.slot(mix(key))].name, backwards[other.slot(mix(key))].name);
        }
    }

    #[test]
    fn few_keys_of_remaining_slots_move() {
        let slots = named(0.., &[1; 20]);
        let without: Vec<Slot> = slots.iter().filter(|slot| slot.rank != 7).cloned().collect();
        let (before, after) = (Maglev::new(&slots), Maglev::new(&without));
        let moved = (0..100_000_u64).map(mix).filter(|&hash| {
            let was = &slots[before.slot(hash)].name;
            *was != slots[7].name && *was != without[after.slot(hash)].name
        });
        let share = moved.count() as f64 / 100_000.0;
        assert!(share < 0.06, "{share} moved beside the 5 % that had to");
    }

    #[test]
    fn ten_thousand_slots_have_even_shares() {
        let slots = named(0.., &[1; 10_000]);
        let places = places(&Maglev::new(&slots), slots.len());
        assert!(places.iter().all(|&places| (65..=66).contains(&places)));
    }

    #[test]
    fn sizes_are_primes() {
        let prime = |n: u32| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        assert!(SIZES.into_iter().all(prime));
    }
}
