//! What clients of the demonstration saw, in bounded memory.

use std::time::Duration;

/// Latencies by size: each class is 4 % wider than the one before, from 100 µs to beyond a minute.
const CLASSES: usize = 360;
const SMALLEST: f64 = 1e-4;
const GROWTH: f64 = 1.04;

/// Counts and latencies of requests.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Answered with 200.
    pub(crate) good: u64,
    /// Anything else: refused, broken off, another status, never sent.
    pub(crate) bad: u64,
    /// How the last of these went wrong.
    pub(crate) last_error: Option<String>,
    latencies: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { good: 0, bad: 0, last_error: None, latencies: vec![0; CLASSES] }
    }
}

impl Tally {
    pub(crate) fn good(&mut self, latency: Duration) {
        self.good += 1;
        let class = (latency.as_secs_f64() / SMALLEST).max(1.0).log(GROWTH) as usize;
        self.latencies[class.min(CLASSES - 1)] += 1;
    }

    pub(crate) fn bad(&mut self, error: String) {
        self.bad += 1;
        self.last_error = Some(error);
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.good += other.good;
        self.bad += other.bad;
        self.last_error = other.last_error.or(self.last_error);
        self.latencies.iter_mut().zip(other.latencies).for_each(|(mine, theirs)| *mine += theirs);
        self
    }

    /// The latency that `share` of the good requests did not exceed, within 4 %; `None` without any.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.good as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let class = self.latencies.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_secs_f64(SMALLEST * GROWTH.powi(class as i32 + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_four_percent() {
        let mut tally = Tally::default();
        assert_eq!(tally.quantile(0.5), None);
        (1..=1000).for_each(|ms| tally.good(Duration::from_millis(ms)));
        for (share, want) in [(0.5, 0.5), (0.99, 0.99), (0.0, 0.001), (1.0, 1.0)] {
            let got = tally.quantile(share).unwrap().as_secs_f64();
            assert!((want..want * 1.045).contains(&got), "{share}: {got}");
        }
        let both = tally.clone().and(tally);
        assert_eq!(both.good, 2000);
        tally = both;
        tally.good(Duration::from_secs(1 << 30));
        assert!(tally.quantile(1.0).unwrap() > Duration::from_secs(60));
    }
}
