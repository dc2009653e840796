//! Schedule of health checks: the time of the next check, and its timeout.

use std::time::Duration;

use crate::rng::Rng;

/// Maximum number of consecutive checks that traffic may replace, with [`CheckSchedule::adaptive`].
pub const MAX_SKIPPED: u32 = 4;
/// Minimum number of good responses since the last check, without a bad one, that replace a check.
pub const MIN_EVIDENCE: u64 = 10;
/// Divisor of the configured timeout that gives the minimum adaptive timeout.
const MIN_TIMEOUT_DIVISOR: u32 = 10;
/// Minimum adaptive timeout: below it a busy scheduler would fail healthy destinations.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// Number of passed checks after which the timeout adapts.
const MIN_SAMPLES: u32 = 8;

/// Assumed health of a destination before its first check.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The destination serves, and a failure of the first check takes it out (HAProxy's `up`).
    #[default]
    Serving,
    /// The destination is down, and a pass of the first check brings it in (HAProxy's `down`).
    Down,
}

/// Times of health checks, beside the regular interval.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct CheckSchedule {
    /// Interval while a change is pending: after a failed check of a destination that is up, after a passed check of one
    /// that is down, and if traffic fails. `None` = the regular interval.
    pub fast: Option<Duration>,
    /// Maximum interval for a destination that is down; intervals double up to it. `None` = the regular interval.
    pub down: Option<Duration>,
    /// Maximum random deviation of each interval, as a share of it, 0.0 to 0.5. It prevents bursts of checks.
    pub jitter: f64,
    /// Maximum number of concurrent checks of a pool; each holds a socket.
    pub max_concurrent: usize,
    /// Assumed health before the first check.
    pub start: Start,
    /// Whether intervals and timeouts adapt to what is observed (`performance.optimization`).
    pub adaptive: bool,
}

impl CheckSchedule {
    /// Default maximum number of concurrent checks of a pool.
    pub const MAX_CONCURRENT: usize = 1024;
    /// Default jitter; HAProxy recommends 2 to 5 % (`spread-checks`).
    pub const JITTER: f64 = 0.05;

    /// Returns `span`, randomly changed by up to `jitter` of it.
    pub(crate) fn jittered(&self, span: Duration, rng: &mut Rng) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        // The cast rounds down to whole nanoseconds and maps NaN to 0.
        let spread = (nanos as f64 * self.jitter.clamp(0.0, 0.5)) as u64;
        Duration::from_nanos((nanos - spread).saturating_add(rng.below(2 * spread + 1)))
    }

    /// Returns the interval after the `failures`-th consecutive failure of a destination that `threshold` failures took
    /// out: `interval`, doubled with each further failure up to [`down`](Self::down).
    pub(crate) fn while_down(&self, interval: Duration, failures: u32, threshold: u32) -> Duration {
        let Some(down) = self.down else { return interval };
        let doublings = failures.saturating_sub(threshold.max(1)).min(31);
        interval.saturating_mul(1 << doublings).min(down)
    }
}

impl Default for CheckSchedule {
    fn default() -> Self {
        Self {
            fast: None,
            down: None,
            jitter: Self::JITTER,
            max_concurrent: Self::MAX_CONCURRENT,
            start: Start::Serving,
            adaptive: false,
        }
    }
}

/// Latency of passed checks: mean and mean deviation, as TCP measures round trips (RFC 6298).
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct CheckLatency {
    mean: Duration,
    deviation: Duration,
    samples: u32,
}

impl CheckLatency {
    pub(crate) fn record(&mut self, latency: Duration) {
        self.samples = self.samples.saturating_add(1);
        if self.samples == 1 {
            (self.mean, self.deviation) = (latency, latency / 2);
            return;
        }
        self.deviation = (self.deviation * 3 + self.mean.abs_diff(latency)) / 4;
        self.mean = (self.mean * 7 + latency) / 8;
    }

    /// Returns the timeout of the next check: twice TCP's retransmission timeout within bounds, at most `limit`, and
    /// `limit` while there are too few samples.
    pub(crate) fn probe_timeout(&self, limit: Duration) -> Duration {
        if self.samples < MIN_SAMPLES {
            return limit;
        }
        let least = (limit / MIN_TIMEOUT_DIVISOR).max(MIN_TIMEOUT);
        ((self.mean + self.deviation * 4) * 2).max(least).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn interval_doubles_while_a_destination_stays_down() {
        let schedule = CheckSchedule { down: Some(SEC * 60), ..CheckSchedule::default() };
        let spans: Vec<u64> = (3..9).map(|n| schedule.while_down(SEC * 5, n, 3).as_secs()).collect();
        assert_eq!(spans, [5, 10, 20, 40, 60, 60]);
        assert_eq!(schedule.while_down(SEC * 5, u32::MAX, 3), SEC * 60);
        assert_eq!(CheckSchedule::default().while_down(SEC * 5, 100, 3), SEC * 5);
        let eager = CheckSchedule { down: Some(SEC), ..CheckSchedule::default() };
        assert_eq!(eager.while_down(SEC * 5, 3, 3), SEC, "as HAProxy's downinter");
    }

    #[test]
    fn timeout_adapts_to_latency_within_bounds() {
        let limit = SEC * 2;
        let mut check_latency = CheckLatency::default();
        for n in 0..100 {
            assert!(n >= MIN_SAMPLES || check_latency.probe_timeout(limit) == limit, "too early: {n}");
            check_latency.record(Duration::from_millis(1));
        }
        assert_eq!(check_latency.probe_timeout(limit), Duration::from_millis(200));
        (0..100).for_each(|_| check_latency.record(Duration::from_millis(300)));
        let timeout = check_latency.probe_timeout(limit);
        assert!((SEC / 2..SEC).contains(&timeout), "{timeout:?}");
        (0..100).for_each(|_| check_latency.record(SEC * 5));
        assert_eq!(check_latency.probe_timeout(limit), limit);
        assert_eq!(check_latency.probe_timeout(Duration::from_millis(50)), Duration::from_millis(50));
    }
}
