//! When a destination is asked next, and how long that check may take.

use std::time::Duration;

use crate::rng::Rng;

/// With [`CheckSchedule::adaptive`]: so many checks in a row may be spared because traffic showed what they would have
/// shown; then one is made whatever traffic shows.
pub const MAX_SKIPPED: u32 = 4;
/// So many good answers since the last check, and no bad one, show what a check would have shown.
pub const MIN_EVIDENCE: u64 = 10;
/// With [`CheckSchedule::adaptive`] a check may take no less than this part of its time limit …
const TIGHTEST_PART: u32 = 10;
/// … and no less than this: below it a busy scheduler is taken for a sick destination.
const TIGHTEST: Duration = Duration::from_millis(100);
/// Answers to checks it takes to know how long they take.
const KNOWN_AFTER: u32 = 8;

/// How a destination is taken that no check has asked yet.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// It serves, and one failure at its first check takes it out (HAProxy's `up`).
    #[default]
    Serving,
    /// It is down, and one pass at its first check brings it in (HAProxy's `down`).
    Down,
}

/// When checks are made, beside the interval that holds while nothing happens.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct CheckSchedule {
    /// Between checks while a change is pending: after a failure of one that is up, after a pass of one that is
    /// down, and when traffic raises a doubt. `None` = the interval as ever.
    pub fast: Option<Duration>,
    /// Between checks of one that is down: the spans double up to this. `None` = the interval as ever.
    pub down: Option<Duration>,
    /// Each span is longer or shorter by up to this share of it, 0.0 to 0.5: checks that beat in step come in
    /// bursts.
    pub jitter: f64,
    /// Checks of one pool under way at once; each holds a socket for a moment.
    pub max_concurrent: usize,
    /// Before the first check.
    pub start: Start,
    /// Intervals and time limits follow what is seen (`performance.optimization`).
    pub adaptive: bool,
}

impl CheckSchedule {
    /// Checks of one pool under way at once, where nobody says otherwise.
    pub const MAX_CONCURRENT: usize = 1024;
    /// HAProxy recommends 2 to 5 % (`spread-checks`).
    pub const JITTER: f64 = 0.05;

    /// `span`, and up to `jitter` of it more or less.
    pub(crate) fn jittered(&self, span: Duration, rng: &mut Rng) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        // Rounded down, and to whole nanoseconds: what is not a number is none.
        let spread = (nanos as f64 * self.jitter.clamp(0.0, 0.5)) as u64;
        Duration::from_nanos((nanos - spread).saturating_add(rng.below(2 * spread + 1)))
    }

    /// From the `failures`-th failed check in a row of one that is down to the next, `threshold` of which took
    /// it out: `interval`, twice that, four times that … up to [`down`](Self::down).
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

/// How long checks take: a mean and a mean deviation, as TCP keeps them of round trips (RFC 6298).
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

    /// How long a check may take where `limit` is the most: twice what TCP would wait for an answer, within
    /// bounds. All of `limit` as long as too little is known.
    pub(crate) fn probe_timeout(&self, limit: Duration) -> Duration {
        if self.samples < KNOWN_AFTER {
            return limit;
        }
        let least = (limit / TIGHTEST_PART).max(TIGHTEST);
        ((self.mean + self.deviation * 4) * 2).max(least).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn who_stays_down_is_asked_less_and_less_often() {
        let schedule = CheckSchedule { down: Some(SEC * 60), ..CheckSchedule::default() };
        let spans: Vec<u64> = (3..9).map(|n| schedule.while_down(SEC * 5, n, 3).as_secs()).collect();
        assert_eq!(spans, [5, 10, 20, 40, 60, 60]);
        assert_eq!(schedule.while_down(SEC * 5, u32::MAX, 3), SEC * 60);
        assert_eq!(CheckSchedule::default().while_down(SEC * 5, 100, 3), SEC * 5);
        let eager = CheckSchedule { down: Some(SEC), ..CheckSchedule::default() };
        assert_eq!(eager.while_down(SEC * 5, 3, 3), SEC, "as HAProxy's downinter");
    }

    #[test]
    fn patience_follows_what_is_seen_and_never_leaves_its_bounds() {
        let limit = SEC * 2;
        let mut check_latency = CheckLatency::default();
        for n in 0..100 {
            assert!(n >= KNOWN_AFTER || check_latency.probe_timeout(limit) == limit, "too early: {n}");
            check_latency.record(Duration::from_millis(1));
        }
        assert_eq!(check_latency.probe_timeout(limit), Duration::from_millis(200));
        (0..100).for_each(|_| check_latency.record(Duration::from_millis(300)));
        let patience = check_latency.probe_timeout(limit);
        assert!((SEC / 2..SEC).contains(&patience), "{patience:?}");
        (0..100).for_each(|_| check_latency.record(SEC * 5));
        assert_eq!(check_latency.probe_timeout(limit), limit);
        assert_eq!(check_latency.probe_timeout(Duration::from_millis(50)), Duration::from_millis(50));
    }
}
