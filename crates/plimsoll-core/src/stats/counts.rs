//! Counts of one destination's messages, per worker and summed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::outcome::Failure;

/// Upper bounds, in milliseconds, of the response-time buckets of every histogram: what the OpenTelemetry semantic
/// conventions advise for `http.client.request.duration`.
pub const BUCKETS_MS: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000];

/// Returns the index of `span` in a histogram of `BUCKETS_MS.len() + 1` buckets.
pub fn bucket_of(span: Duration) -> usize {
    let nanos = span.as_nanos() as u64;
    BUCKETS_MS.iter().position(|&ms| nanos <= ms * 1_000_000).unwrap_or(BUCKETS_MS.len())
}

/// One worker's counts of one destination: written by that worker only, read by metrics and the slow loop.
#[derive(Debug, Default)]
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
    pub(crate) buckets: [AtomicU64; BUCKETS_MS.len() + 1],
}

/// Counts of one destination, summed over workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Responses by time to the first byte; see [`BUCKETS_MS`].
    pub buckets: [u64; BUCKETS_MS.len() + 1],
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
        assert_eq!(bucket_of(Duration::from_millis(5)), 0);
        assert_eq!(bucket_of(Duration::from_millis(6)), 1);
        assert_eq!(bucket_of(Duration::from_secs(60)), BUCKETS_MS.len());
    }
}
