//! Quantile of recent latencies, counted by one worker.

use std::time::Duration;

/// Buckets per doubling: a latency is known to a sixteenth.
const PARTS: u64 = 16;
/// Number of doublings of a microsecond that are distinguished: up to 2^36 µs (19 hours); longer ones count as that.
const OCTAVES: u64 = 36;
const BUCKETS: usize = ((OCTAVES - 3) * PARTS) as usize;
/// Minimum number of samples: above the 95th percentile of a hundred are five samples.
const MIN_SAMPLES: u32 = 100;
/// Number of samples at which all counts are halved, so that about the last two thousand count.
const MAX_SAMPLES: u32 = 2000;
/// Number of samples between two computations of the quantile.
const UPDATE_INTERVAL: u32 = 50;

/// A quantile of recent latencies, at most 6 % too high.
#[derive(Debug)]
pub struct Quantile {
    share: f64,
    counts: Box<[u32; BUCKETS]>,
    total: u32,
    since_update: u32,
    value: Option<Duration>,
}

impl Quantile {
    /// Creates the quantile of `share` (0.0 to 1.0).
    pub fn new(share: f64) -> Self {
        Self { share, counts: Box::new([0; BUCKETS]), total: 0, since_update: 0, value: None }
    }

    /// Returns the quantile; `None` before there are enough samples.
    pub const fn value(&self) -> Option<Duration> {
        self.value
    }

    /// Adds the latency of one response.
    pub fn record(&mut self, span: Duration) {
        self.counts[bucket_of(span)] += 1;
        self.total += 1;
        self.since_update += 1;
        if self.total >= MIN_SAMPLES && (self.value.is_none() || self.since_update >= UPDATE_INTERVAL) {
            self.since_update = 0;
            self.value = self.compute();
        }
        if self.total >= MAX_SAMPLES {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    fn compute(&self) -> Option<Duration> {
        let wanted = (f64::from(self.total) * self.share).ceil() as u32;
        let mut seen = 0;
        let reaches = |count: &u32| {
            seen += count;
            seen >= wanted.max(1)
        };
        self.counts.iter().position(reaches).map(upper_end)
    }
}

fn bucket_of(span: Duration) -> usize {
    let micros = (span.as_micros() as u64).min((1 << OCTAVES) - 1);
    if micros < PARTS {
        return micros as usize;
    }
    let octave = u64::from(micros.ilog2());
    ((octave - 3) * PARTS + ((micros >> (octave - 4)) & (PARTS - 1))) as usize
}

/// Returns the upper bound of a bucket.
fn upper_end(bucket: usize) -> Duration {
    let (octave, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    let micros = match octave {
        0 => part + 1,
        _ => (PARTS + part + 1) << (octave - 1),
    };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    const fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn buckets_are_a_sixteenth_wide_and_leave_nothing_out() {
        for n in (0..200).chain((8..36).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) * 3 / 2])) {
            let end = upper_end(bucket_of(micros(n)));
            assert!(end > micros(n) && end <= micros(n + n / 16 + 1), "{n}: {end:?}");
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_quantile_is_exact_within_a_sixteenth() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let mut samples: Vec<u64> = (0..MAX_SAMPLES - 50).map(|_| 1 + rng.below(1 << 20)).collect();
            let mut quantile = Quantile::new(0.95);
            samples.iter().for_each(|&n| quantile.record(micros(n)));
            samples.truncate(samples.len() / 50 * 50);
            samples.sort_unstable();
            let exact = samples[(samples.len() as f64 * 0.95).ceil() as usize - 1] as f64;
            let computed = quantile.value().expect("enough samples").as_micros() as f64;
            assert!((0.99..1.08).contains(&(computed / exact)), "seed {seed}: {computed} for {exact}");
        }
    }

    #[test]
    fn few_samples_give_no_quantile() {
        let mut quantile = Quantile::new(0.5);
        (1..MIN_SAMPLES).for_each(|_| quantile.record(micros(10)));
        assert_eq!(quantile.value(), None);
        quantile.record(micros(10));
        assert_eq!(quantile.value(), Some(micros(11)));
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut quantile = Quantile::new(0.95);
        (0..100_000).for_each(|_| quantile.record(micros(100)));
        (0..4 * MAX_SAMPLES).for_each(|_| quantile.record(micros(9)));
        assert_eq!(quantile.value(), Some(micros(10)));
    }
}
