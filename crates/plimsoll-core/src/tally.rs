//! What is counted about one destination, and how the counts of all workers are put together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::stats::Failure;

/// Upper bounds, in milliseconds, of the response-time buckets every histogram of the product uses: the
/// OpenTelemetry semantic conventions' advice for `http.client.request.duration`.
pub const BUCKETS_MS: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000];

/// The index in a histogram of `BUCKETS_MS.len() + 1` buckets for `span`.
pub fn bucket_of(span: Duration) -> usize {
    let nanos = span.as_nanos() as u64;
    BUCKETS_MS.iter().position(|&ms| nanos <= ms * 1_000_000).unwrap_or(BUCKETS_MS.len())
}

/// One worker's counts of one destination: written by that worker only, read by whoever scrapes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    pub(crate) started: AtomicU64,
    /// Tickets that wait for no outcome any more: it is known, or nobody wants it.
    pub(crate) ended: AtomicU64,
    pub(crate) classes: [AtomicU64; 6],
    pub(crate) failures: [AtomicU64; Failure::ALL.len()],
    pub(crate) first_byte_nanos: AtomicU64,
    pub(crate) buckets: [AtomicU64; BUCKETS_MS.len() + 1],
}

/// A sum of tallies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tickets given out.
    pub started: u64,
    /// Answers by status class; index 1 is 1xx … 5 is 5xx, index 0 stays 0.
    pub classes: [u64; 6],
    /// Failures, in the order of [`Failure::ALL`].
    pub failures: [u64; Failure::ALL.len()],
    /// Sum of times to the first byte, nanoseconds.
    pub first_byte_nanos: u64,
    /// Answers by time to the first byte; see [`BUCKETS_MS`].
    pub buckets: [u64; BUCKETS_MS.len() + 1],
}

impl Counts {
    /// Answers seen, of any status.
    pub fn answered(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Tries that failed.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Mean time to the first byte; `None` before the first answer.
    pub fn mean_first_byte(&self) -> Option<Duration> {
        self.first_byte_nanos.checked_div(self.answered()).map(Duration::from_nanos)
    }
}

/// How far a destination has got with its messages: what a look at its silence needs.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Answers seen, of any status.
    pub answered: u64,
    /// Messages that ended or were answered, however.
    pub ended: u64,
    /// Sum of times to the first byte of those answered.
    pub first_byte: Duration,
}

impl Progress {
    /// What was done since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(before.answered),
            ended: self.ended.saturating_sub(before.ended),
            first_byte: self.first_byte.saturating_sub(before.first_byte),
        }
    }

    /// Of those answered; zero where there are none.
    pub fn mean_first_byte(&self) -> Duration {
        Duration::from_nanos((self.first_byte.as_nanos() / u128::from(self.answered.max(1))) as u64)
    }
}

impl std::ops::AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.ended += other.ended;
        self.first_byte += other.first_byte;
    }
}

/// One worker owns a tally, so plain load and store are enough: no locked instruction, no shared line.
/// (A program that shares worker 0 between threads may lose a count in a race; it never loses an assignment.)
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
