//! Counts of one destination's messages, per worker and summed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::outcome::Failure;

/// Upper bounds, in microseconds, of the response-time buckets of every histogram, from 50 µs to a minute. Neighbours
/// differ by a factor of at most 1.5 up to 10 s, so an interpolated quantile is within a few percent.
pub const BUCKETS_US: [u64; 41] = [
    50, 75, 100, 150, 200, 250, 350, 500, 750, 1_000, 1_500, 2_000, 2_500, 3_500, 5_000, 7_500, 10_000,
    15_000, 20_000, 25_000, 35_000, 50_000, 75_000, 100_000, 150_000, 200_000, 250_000, 350_000, 500_000,
    750_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000, 3_500_000, 5_000_000, 7_500_000, 10_000_000,
    15_000_000, 30_000_000, 60_000_000,
];

/// Bounds of [`BUCKETS_US`] that metrics publish: those that the OpenTelemetry semantic conventions advise for
/// `http.client.request.duration`, continued to shorter times.
pub const PUBLISHED_US: [u64; 20] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
    750_000, 1_000_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000,
];

/// Returns the index of `span` in a histogram of `BUCKETS_US.len() + 1` buckets.
pub fn bucket_of(span: Duration) -> usize {
    let nanos = span.as_nanos() as u64;
    BUCKETS_US.partition_point(|&us| us * 1_000 < nanos)
}

/// One worker's counts of one destination: written by that worker only, read by metrics and the slow loop.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounts {
    pub(crate) started: AtomicU64,
    /// Messages that their destination has received as a whole, and early responses.
    pub(crate) awaited: AtomicU64,
    /// Awaited messages that got a response or ended.
    pub(crate) ended: AtomicU64,
    pub(crate) classes: [AtomicU64; 6],
    pub(crate) failures: [AtomicU64; Failure::ALL.len()],
    /// Bad outcomes that count against no destination.
    pub(crate) excused: AtomicU64,
    pub(crate) first_byte_nanos: AtomicU64,
    pub(crate) buckets: [AtomicU64; BUCKETS_US.len() + 1],
}

impl Default for WorkerCounts {
    fn default() -> Self {
        Self {
            started: AtomicU64::default(),
            awaited: AtomicU64::default(),
            excused: AtomicU64::default(),
            ended: AtomicU64::default(),
            classes: Default::default(),
            failures: Default::default(),
            first_byte_nanos: AtomicU64::default(),
            buckets: [const { AtomicU64::new(0) }; BUCKETS_US.len() + 1],
        }
    }
}

/// Counts of one destination, summed over workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Number of assignments.
    pub started: u64,
    /// Responses by status class; index 1 is 1xx … 5 is 5xx, index 0 stays 0.
    pub classes: [u64; 6],
    /// Failures, in the order of [`Failure::ALL`].
    pub failures: [u64; Failure::ALL.len()],
    /// Failures and 5xx responses that count against no destination, because their messages failed at others, too.
    pub excused: u64,
    /// Sum of the times to the first byte, in nanoseconds.
    pub first_byte_nanos: u64,
    /// Responses by time to the first byte; see [`BUCKETS_US`].
    pub buckets: [u64; BUCKETS_US.len() + 1],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            started: 0,
            classes: [0; 6],
            failures: [0; Failure::ALL.len()],
            excused: 0,
            first_byte_nanos: 0,
            buckets: [0; BUCKETS_US.len() + 1],
        }
    }
}

impl Counts {
    /// Number of responses, of any status.
    pub fn answered(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Number of failed attempts.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Returns the difference to an earlier state.
    pub fn since(&self, before: &Self) -> Self {
        fn minus<const N: usize>(now: &[u64; N], before: &[u64; N]) -> [u64; N] {
            std::array::from_fn(|at| now[at].saturating_sub(before[at]))
        }
        Self {
            started: self.started.saturating_sub(before.started),
            classes: minus(&self.classes, &before.classes),
            failures: minus(&self.failures, &before.failures),
            excused: self.excused.saturating_sub(before.excused),
            first_byte_nanos: self.first_byte_nanos.saturating_sub(before.first_byte_nanos),
            buckets: minus(&self.buckets, &before.buckets),
        }
    }

    /// Mean time to the first byte; `None` before the first response.
    pub fn mean_first_byte(&self) -> Option<Duration> {
        self.first_byte_nanos.checked_div(self.answered()).map(Duration::from_nanos)
    }
}

/// Progress of a destination with its messages, from which unresponsive ones are detected.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of responses, of any status.
    pub answered: u64,
    /// Number of messages that the destination has received as a whole, and of early responses.
    pub awaited: u64,
    /// Number of awaited messages that ended or got a response.
    pub ended: u64,
    /// Sum of the times to the first byte.
    pub first_byte: Duration,
}

impl Progress {
    /// Returns the difference to an earlier state.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(before.answered),
            awaited: self.awaited.saturating_sub(before.awaited),
            ended: self.ended.saturating_sub(before.ended),
            first_byte: self.first_byte.saturating_sub(before.first_byte),
        }
    }

    /// Mean time to the first byte; zero without a response.
    pub fn mean_first_byte(&self) -> Duration {
        Duration::from_nanos((self.first_byte.as_nanos() / u128::from(self.answered.max(1))) as u64)
    }
}

impl std::ops::AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.awaited += other.awaited;
        self.ended += other.ended;
        self.first_byte += other.first_byte;
    }
}

/// Adds `by`. One worker owns the counter, so plain load and store are enough: no locked instruction, no shared line.
///
/// A program that shares worker 0 between threads may lose a count in a race; it never loses an assignment.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_include_their_bound() {
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::from_micros(50)), 0);
        assert_eq!(bucket_of(Duration::from_nanos(50_001)), 1);
        for (at, us) in BUCKETS_US.into_iter().enumerate() {
            assert_eq!(bucket_of(Duration::from_micros(us)), at);
            assert_eq!(bucket_of(Duration::from_nanos(us * 1_000 + 1)), at + 1);
        }
        assert_eq!(bucket_of(Duration::from_secs(61)), BUCKETS_US.len());
    }

    #[test]
    fn bounds_rise_and_all_published_ones_exist() {
        assert!(BUCKETS_US.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(PUBLISHED_US.iter().all(|us| BUCKETS_US.contains(us)));
    }

    #[test]
    fn counts_of_a_window_are_differences() {
        let mut counts = Counts { started: 7, first_byte_nanos: 9, ..Counts::default() };
        let before = counts.clone();
        (counts.started, counts.classes[2], counts.buckets[3]) = (9, 2, 2);
        let window = counts.since(&before);
        assert_eq!(
            (window.started, window.classes[2], window.buckets[3], window.first_byte_nanos),
            (2, 2, 2, 0)
        );
    }
}
