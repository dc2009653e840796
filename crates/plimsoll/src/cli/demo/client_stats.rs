//! Request counts and latencies of the demo's clients, in bounded memory.

use std::time::Duration;

/// Number of histogram buckets: they reach beyond a minute.
const BUCKETS: usize = 360;
/// Upper bound of the first bucket, in seconds.
const FIRST_BUCKET: f64 = 1e-4;
/// Width of a bucket relative to the one before.
const GROWTH: f64 = 1.04;

/// Counts and latencies of requests.
#[derive(Clone, Debug)]
pub(crate) struct ClientStats {
    /// Requests with a 200 response.
    pub(crate) succeeded: u64,
    /// Requests with another status, a failed connection or no free client.
    pub(crate) failed: u64,
    /// Cause of the last failed request.
    pub(crate) last_error: Option<String>,
    latencies: Vec<u64>,
}

impl Default for ClientStats {
    fn default() -> Self {
        Self { succeeded: 0, failed: 0, last_error: None, latencies: vec![0; BUCKETS] }
    }
}

impl ClientStats {
    /// Records a successful request.
    pub(crate) fn record_success(&mut self, latency: Duration) {
        self.succeeded += 1;
        let bucket = (latency.as_secs_f64() / FIRST_BUCKET).max(1.0).log(GROWTH) as usize;
        self.latencies[bucket.min(BUCKETS - 1)] += 1;
    }

    /// Records a failed request.
    pub(crate) fn record_failure(&mut self, error: String) {
        self.failed += 1;
        self.last_error = Some(error);
    }

    /// Returns the sum of both.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.last_error = other.last_error.or(self.last_error);
        self.latencies.iter_mut().zip(other.latencies).for_each(|(count, more)| *count += more);
        self
    }

    /// Returns the latency quantile of the successful requests, within 4 %; `None` without any.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.succeeded as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = self.latencies.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_secs_f64(FIRST_BUCKET * GROWTH.powi(bucket as i32 + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_four_percent() {
        let mut stats = ClientStats::default();
        assert_eq!(stats.quantile(0.5), None);
        (1..=1000).for_each(|ms| stats.record_success(Duration::from_millis(ms)));
        for (share, want) in [(0.5, 0.5), (0.99, 0.99), (0.0, 0.001), (1.0, 1.0)] {
            let got = stats.quantile(share).unwrap().as_secs_f64();
            assert!((want..want * 1.045).contains(&got), "{share}: {got}");
        }
        let both = stats.clone().merge(stats);
        assert_eq!(both.succeeded, 2000);
        stats = both;
        stats.record_success(Duration::from_secs(1 << 30));
        assert!(stats.quantile(1.0).unwrap() > Duration::from_secs(60));
    }
}
