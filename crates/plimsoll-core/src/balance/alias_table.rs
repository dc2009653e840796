//! Alias table: weighted draws in constant time.

use std::hint::select_unpredictable;

use crate::rng::Rng;

/// One column of the table: its own index below the threshold, `other` from there on.
#[derive(Copy, Clone, Debug)]
struct Column {
    threshold: u32,
    other: u32,
}

/// Walker's alias table, built as in Vose ("A linear algorithm for generating random numbers with a given
/// distribution", 1991) with integers: a probability is off by at most 2^-32, and equal weights make equal tables
/// everywhere.
#[derive(Debug)]
pub(super) struct AliasTable(Box<[Column]>);

impl AliasTable {
    /// Creates a table for these weights: not empty, not all 0.
    pub(super) fn new(weights: &[u32]) -> Self {
        let count = weights.len() as u64;
        let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        // Each column holds `total`; each slot brings `weight * count`. A slot that brings less is filled up by one
        // that brings more.
        let mut left: Vec<u64> = weights.iter().map(|&w| u64::from(w) * count).collect();
        let (mut short, mut long): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&index| left[index] < total);
        let mut columns: Vec<Column> =
            (0..weights.len()).map(|index| Column { threshold: u32::MAX, other: index as u32 }).collect();
        while let (Some(index), Some(&donor)) = (short.pop(), long.last()) {
            let threshold = (u128::from(left[index]) << 32) / u128::from(total);
            columns[index] = Column { threshold: threshold as u32, other: donor as u32 };
            left[donor] -= total - left[index];
            if left[donor] < total {
                long.pop();
                short.push(donor);
            }
        }
        Self(columns.into())
    }

    /// Returns the number of weights.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Draws an index by weight, with one random number: its high bits select the column, the others the side.
    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        let product = u128::from(rng.next_u64()) * self.0.len() as u128;
        let index = (product >> 64) as usize;
        let side = (product as u64 >> 32) as u32;
        let column = self.0[index];
        // The branch is unpredictable.
        select_unpredictable(side < column.threshold, index, column.other as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exact chance of each index, read off the table in 2^-32ths of a column.
    fn chances(table: &AliasTable) -> Vec<f64> {
        let mut sums = vec![0_u64; table.0.len()];
        for (index, column) in table.0.iter().enumerate() {
            sums[index] += u64::from(column.threshold);
            sums[column.other as usize] += (1 << 32) - u64::from(column.threshold);
        }
        sums.iter().map(|&sum| sum as f64 / 2_f64.powi(32) / sums.len() as f64).collect()
    }

    #[test]
    fn table_holds_the_weights() {
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let top = [2, 10, 1000, u64::from(u32::MAX)][rng.index(4)];
            let mut weights: Vec<u32> = (0..=rng.index(200)).map(|_| rng.below(top) as u32).collect();
            weights[0] = weights[0].max(1);
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for (index, chance) in chances(&AliasTable::new(&weights)).into_iter().enumerate() {
                let due = f64::from(weights[index]) / total;
                assert!(
                    (chance - due).abs() <= 2_f64.powi(-31),
                    "seed {seed}: {chance} for {due} of {weights:?}"
                );
            }
        }
    }

    #[test]
    fn weight_0_is_never_drawn_and_a_single_weight_always() {
        let table = AliasTable::new(&[0, 3, 0, 1]);
        let mut rng = Rng::new(1);
        assert!((0..10_000).all(|_| [1, 3].contains(&table.draw(&mut rng))));
        assert_eq!(AliasTable::new(&[7]).draw(&mut rng), 0);
    }

    #[test]
    fn draws_are_proportional_to_weights() {
        let (table, mut rng, mut seen) = (AliasTable::new(&[5, 1, 4]), Rng::new(2), [0_u32; 3]);
        for _ in 0..100_000 {
            seen[table.draw(&mut rng)] += 1;
        }
        let due = [50_000_u32, 10_000, 40_000];
        assert!(seen.iter().zip(due).all(|(&n, due)| n.abs_diff(due) < 700), "{seen:?}");
    }
}
