//! Pseudo-random numbers: one small seeded generator per worker, passed as an argument.

/// A pseudo-random generator: wyrand (Wang Yi, `wyhash` project), 64 bits of state, about a nanosecond per number.
///
/// Equal seeds give equal numbers on every machine. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates a generator from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (product as u64) ^ ((product >> 64) as u64)
    }

    /// Returns a number in `0..bound`, uniform up to a bias of `bound / 2^64` (Lemire's multiplication).
    ///
    /// With a `bound` of 0 it returns 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns an index in `0..len`; 0 for an empty list.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Returns a number in `0.0..1.0`.
    pub fn share(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_within_bounds() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..1000 {
            let n = a.below(10);
            assert_eq!(n, b.below(10));
            assert!(n < 10);
        }
        assert_eq!(a.below(0), 0);
    }

    #[test]
    fn numbers_are_uniform() {
        let mut rng = Rng::new(1);
        let mut seen = [0_u32; 16];
        for _ in 0..160_000 {
            seen[rng.index(16)] += 1;
        }
        assert!(seen.iter().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
    }
}
