//! Random sampling of slots: one, two different, or several different ones.

use super::Slot;
use super::alias_table::AliasTable;
use crate::rng::Rng;

/// Maximum number of repeated draws for a different slot. A slot that may repeat has at most half the weight, so all of
/// them repeat once in 2^32 times; then the next in the list is taken.
const REDRAWS: usize = 32;

/// Sampler over the slots of one snapshot.
#[derive(Debug)]
pub(super) enum WeightedSampler {
    /// All slots with equal probability.
    Even(usize),
    /// Slots by weight.
    Weighted {
        /// Table over all slots.
        all: AliasTable,
        /// The slot with more than half of the weight, if any, and a table over the others.
        others: Option<(usize, AliasTable)>,
    },
}

impl WeightedSampler {
    /// Creates a sampler that ignores weights.
    pub(super) fn even(slots: &[Slot]) -> Self {
        Self::Even(slots.len())
    }

    /// Creates a sampler by weight; equal weights need no table.
    pub(super) fn by_weight(slots: &[Slot]) -> Self {
        if slots.iter().all(|slot| slot.weight == slots[0].weight) {
            return Self::even(slots);
        }
        let mut weights: Vec<u32> = slots.iter().map(|slot| slot.weight).collect();
        let all = AliasTable::new(&weights);
        let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        let heavy = weights.iter().position(|&w| u64::from(w) * 2 > total);
        let others = heavy.map(|heavy| {
            weights[heavy] = 0;
            (heavy, AliasTable::new(&weights))
        });
        Self::Weighted { all, others }
    }

    fn len(&self) -> usize {
        match self {
            Self::Even(len) => *len,
            Self::Weighted { all, .. } => all.len(),
        }
    }

    /// Draws one slot.
    pub(super) fn one(&self, rng: &mut Rng) -> usize {
        match self {
            Self::Even(len) => rng.index(*len),
            Self::Weighted { all, .. } => all.draw(rng),
        }
    }

    /// Draws two different slots, the second as if the first did not exist. With one slot, returns it twice.
    pub(super) fn two(&self, rng: &mut Rng) -> (usize, usize) {
        let first = self.one(rng);
        let second = match self {
            Self::Even(len) => {
                let other = rng.index(len - 1);
                (other + usize::from(other >= first)) % len
            }
            Self::Weighted { others: Some((heavy, others)), .. } if *heavy == first => others.draw(rng),
            Self::Weighted { all, .. } => (0..REDRAWS)
                .map(|_| all.draw(rng))
                .find(|&drawn| drawn != first)
                .unwrap_or((first + 1) % self.len()),
        };
        (first, second)
    }

    /// Draws up to `N` different slots of more than `N`. Without weights the result has exactly `N`, each set with
    /// equal probability. With weights it has at least two; at most `N` more draws find the others, because the rest is
    /// drawn too rarely where a few slots hold nearly all weight.
    pub(super) fn some<const N: usize>(&self, rng: &mut Rng) -> ([usize; N], usize) {
        let (mut drawn, mut count) = ([0; N], 0);
        match self {
            // Floyd: "Programming pearls: a sample of brilliance", 1987.
            Self::Even(len) => {
                for last in len - N..*len {
                    let candidate = rng.index(last + 1);
                    let taken = drawn[..count].contains(&candidate);
                    drawn[count] = if taken { last } else { candidate };
                    count += 1;
                }
            }
            Self::Weighted { all, .. } => {
                (drawn[0], drawn[1]) = self.two(rng);
                count = 2;
                for _ in 0..N {
                    let candidate = all.draw(rng);
                    drawn[count] = candidate;
                    count += usize::from(!drawn[..count].contains(&candidate));
                    if count == N {
                        break;
                    }
                }
            }
        }
        (drawn, count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::slots;
    use super::*;

    fn sampler(weights: &[u32]) -> WeightedSampler {
        WeightedSampler::by_weight(&slots((0..).zip(weights.iter().copied())))
    }

    /// Compares the frequency of each ordered pair with its probability.
    fn check_pairs(weights: &[u32]) {
        let (sampler, mut rng, draws) = (sampler(weights), Rng::new(9), 200_000);
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mut seen = vec![vec![0_u32; weights.len()]; weights.len()];
        for _ in 0..draws {
            let (first, second) = sampler.two(&mut rng);
            seen[first][second] += 1;
        }
        for (first, row) in seen.iter().enumerate() {
            assert_eq!(row[first], 0, "{weights:?}");
            for (second, &n) in row.iter().enumerate().filter(|&(second, _)| second != first) {
                let (a, b) = (f64::from(weights[first]), f64::from(weights[second]));
                let due = a / total * b / (total - a);
                let share = f64::from(n) / f64::from(draws);
                assert!((share - due).abs() < 0.005, "{first} {second} of {weights:?}: {share} for {due}");
            }
        }
    }

    #[test]
    fn two_slots_differ_and_follow_the_weights() {
        check_pairs(&[1, 1]);
        check_pairs(&[1, 1, 1, 1]);
        check_pairs(&[3, 1]);
        check_pairs(&[1, 2, 3]);
        check_pairs(&[1, 2, 10_000]);
        check_pairs(&[1, 1_000_000]);
    }

    #[test]
    fn one_slot_is_drawn_twice() {
        assert_eq!(sampler(&[4]).two(&mut Rng::new(1)), (0, 0));
    }

    #[test]
    fn sample_has_no_repeated_slot() {
        let mut weights = vec![1; 65];
        for heavy in [1, 2, 1_000_000] {
            weights[7] = heavy;
            let (sampler, mut rng, mut all) = (sampler(&weights), Rng::new(5), 0);
            for _ in 0..2_000 {
                let (mut drawn, count) = sampler.some::<5>(&mut rng);
                drawn[..count].sort_unstable();
                assert!(count >= 2 && drawn[..count].is_sorted_by(|a, b| a < b), "{drawn:?}");
                all += u32::from(count == 5);
            }
            assert_eq!(all > 1_990, heavy < 3, "{all} of 2000 full samples with weight {heavy}");
        }
    }
}
