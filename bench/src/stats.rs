//! Statistics of paired blocks: ratios with confidence intervals, and the order of measurements.

/// Deterministic random numbers (splitmix64) for the order of blocks, bootstrap samples, work and faults.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Creates a generator for one purpose, distinct for distinct arguments.
    pub(crate) fn at(seed: u64, what: u64, number: u64) -> Self {
        let mut rng = Self(seed);
        for part in [what, number] {
            rng = Self(rng.next() ^ part);
        }
        rng
    }

    /// Draws a number below `bound`, which is small enough that the bias does not matter.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Draws a number from 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Median of per-block ratios with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) blocks: usize,
}

const RESAMPLES: usize = 10_000;

/// Threshold of a result: the upper end of the interval must be below it for "ahead", the lower end above its
/// inverse for "behind".
const AHEAD: f64 = 0.97;

impl Ratio {
    /// Computes the ratio from pairs (subject, other) of the same block; `None` without any.
    pub(crate) fn of(pairs: &[(f64, f64)], rng: &mut Rng) -> Option<Self> {
        let logs: Vec<f64> = pairs.iter().map(|(subject, proxy)| (subject / proxy).ln()).collect();
        let middle = median(&logs)?;
        let mut drawn: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let sample: Vec<f64> = logs.iter().map(|_| logs[rng.below(logs.len())]).collect();
                median(&sample)
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn[((drawn.len() - 1) as f64 * share).round() as usize].exp();
        Some(Self { median: middle.exp(), low: at(0.025), high: at(0.975), blocks: logs.len() })
    }

    /// Returns the result in one word. Fewer than six blocks cannot bound a median with 95 % confidence: the
    /// chance that all of them fall on one side is 2/2^n.
    pub(crate) fn verdict(&self) -> &'static str {
        match () {
            () if self.blocks < 6 => "too few blocks",
            () if self.high < AHEAD => "ahead",
            () if self.low > 1.0 / AHEAD => "behind",
            () => "level",
        }
    }
}

/// Returns the middle value, or the mean of the two in the middle; `None` without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

/// Returns the order of measurements in each block: rotated by one from a random start, and reversed in every
/// second block, so that two consecutive blocks mirror each other (A B, B A) and no proxy keeps its position.
pub(crate) fn orders(proxies: usize, blocks: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    let start = rng.below(proxies);
    let turned = |block: usize| -> Vec<usize> {
        let order = (0..proxies).map(|place| (start + block / 2 + place) % proxies.max(1));
        if block.is_multiple_of(2) { order.collect() } else { order.rev().collect() }
    };
    (0..blocks).map(turned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_steady_ratio_has_a_narrow_interval() {
        let pairs: Vec<(f64, f64)> =
            (0..10).map(|block| (9.0 + f64::from(block), 10.0 + f64::from(block))).collect();
        let ratio = Ratio::of(&pairs, &mut Rng::new(1)).expect("ten pairs");
        assert!((0.90..0.95).contains(&ratio.low) && ratio.high < 0.96, "{ratio:?}");
        assert_eq!(ratio.verdict(), "ahead");
    }

    #[test]
    fn a_noisy_ratio_is_level() {
        let pairs: Vec<(f64, f64)> = (0..10).map(|block| (10.0 + f64::from(block % 2) * 2.0, 11.0)).collect();
        assert_eq!(Ratio::of(&pairs, &mut Rng::new(1)).expect("ten pairs").verdict(), "level");
        assert_eq!(Ratio::of(&pairs[..2], &mut Rng::new(1)).expect("two").verdict(), "too few blocks");
        assert_eq!(Ratio::of(&[], &mut Rng::new(1)), None);
    }

    #[test]
    fn blocks_mirror_each_other_and_every_proxy_gets_every_position() {
        for seed in 0..20 {
            let orders = orders(3, 6, &mut Rng::new(seed));
            assert!(orders.chunks(2).all(|pair| pair[0].iter().eq(pair[1].iter().rev())), "seed {seed}");
            let firsts: std::collections::BTreeSet<usize> = orders.iter().map(|order| order[0]).collect();
            assert_eq!(firsts.len(), 3, "seed {seed}");
        }
    }
}
