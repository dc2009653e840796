//! Latency histogram with an error of 2 % and a fixed size.

use std::time::Duration;

/// Values below this are exact; each power of two above has half as many buckets.
const CUTS: u64 = 128;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], total: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.counts[bucket(latency.as_nanos() as u64)] += 1;
        self.total += 1;
    }

    /// Returns the latency that `share` (0 to 1) of all did not exceed; zero without values.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return Duration::from_nanos(upper_bound(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = u64::from((nanos / CUTS).checked_ilog2().map_or(0, |log| log + 1));
    // Here `nanos >> shift` lies in CUTS/2..CUTS: half a table for each power.
    if shift == 0 { nanos as usize } else { (CUTS / 2 * shift + (nanos >> shift)) as usize }
}

fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    if index < CUTS {
        return index;
    }
    let shift = index / (CUTS / 2) - 1;
    let cut = index - CUTS / 2 * shift;
    ((cut + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_values_within_two_percent_of_its_bound() {
        for nanos in (0..100_000).chain([1 << 30, (1 << 40) + 12_345]) {
            let bound = upper_bound(bucket(nanos));
            assert!(bound >= nanos, "{nanos} above its bound {bound}");
            assert!((bound - nanos) as f64 <= 0.016 * nanos as f64, "{nanos} far from {bound}");
        }
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut histogram = Histogram::new();
        (1..=100).for_each(|micros| histogram.record(Duration::from_nanos(micros)));
        assert_eq!(histogram.quantile(0.5), Duration::from_nanos(50));
        assert_eq!(histogram.quantile(0.99), Duration::from_nanos(99));
        assert_eq!(Histogram::new().quantile(0.5), Duration::ZERO);
    }
}
