//! Counters that never exceed a maximum, and the limits of a destination and of a pool.

use crate::sync::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

/// Limits of one destination; 0 = no limit.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationLimits {
    /// Maximum number of messages that hold an assignment.
    pub requests: u32,
    /// Maximum number of connections, idle ones included.
    pub connections: u32,
}

/// Limits of a pool over all its destinations; 0 = no limit, except for `pending`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolLimits {
    /// Maximum number of messages that hold an assignment.
    pub requests: u32,
    /// Maximum number of connections, idle ones included.
    pub connections: u32,
    /// Maximum number of messages in the queue; 0 = no queue.
    pub pending: u32,
    /// Maximum number of messages that are being retried.
    pub retries: u32,
}

/// A counter with a maximum that is never exceeded, however many threads acquire at the same time.
#[derive(Debug)]
pub struct Limit {
    current: AtomicU32,
    max: AtomicU32,
}

impl Default for Limit {
    fn default() -> Self {
        Self { current: AtomicU32::new(0), max: AtomicU32::new(u32::MAX) }
    }
}

impl Limit {
    /// Changes the maximum; 0 = no limit. What is held above the new maximum stays held.
    pub fn set_max(&self, max: u32) {
        self.max.store(if max == 0 { u32::MAX } else { max }, Relaxed);
    }

    /// Sets the maximum to zero: nothing can be acquired.
    pub(crate) fn forbid(&self) {
        self.max.store(0, Relaxed);
    }

    /// The maximum; `None` = no limit.
    pub fn max(&self) -> Option<u32> {
        Some(self.max.load(Relaxed)).filter(|&max| max != u32::MAX)
    }

    /// Number held now.
    pub fn current(&self) -> u32 {
        self.current.load(Relaxed)
    }

    /// Returns whether the maximum is reached.
    pub fn is_full(&self) -> bool {
        self.max().is_some_and(|max| self.current() >= max)
    }

    /// Returns whether anything is held, in one order with the acquisitions and releases of all threads.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        self.current.load(SeqCst) > 0
    }

    /// Acquires one if the maximum allows it, and returns how many were held before.
    #[inline]
    pub fn try_acquire(&self) -> Option<u32> {
        let max = self.max.load(Relaxed);
        if max == u32::MAX {
            return Some(self.current.fetch_add(1, SeqCst));
        }
        // Not an add that is undone when it was too much: for that moment others would be refused.
        self.current.fetch_update(SeqCst, SeqCst, |current| (current < max).then_some(current + 1)).ok()
    }

    /// Releases one. A read of [`PoolLimiter::waiting`](crate::PoolLimiter::waiting) after this sees every message
    /// that was queued because of what is released here.
    #[inline]
    pub fn release(&self) {
        self.current.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_maximum_is_never_exceeded() {
        let limit = Limit::default();
        limit.set_max(3);
        let (most, acquired) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if limit.try_acquire().is_some() {
                            acquired.fetch_add(1, Relaxed);
                            most.fetch_max(limit.current(), Relaxed);
                            limit.release();
                        }
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= 3 && acquired.load(Relaxed) >= 20_000);
        assert_eq!(limit.current(), 0);
    }

    #[test]
    fn a_lower_maximum_releases_nothing_and_admits_nothing() {
        let limit = Limit::default();
        let acquire = || limit.try_acquire().is_some();
        assert!((0..5).all(|_| acquire()) && !limit.is_full());
        limit.set_max(4);
        assert_eq!((acquire(), limit.current(), limit.is_full()), (false, 5, true));
        limit.release();
        assert!(!acquire());
        limit.release();
        assert!(acquire() && !acquire());
        limit.set_max(0);
        assert!(acquire() && limit.max().is_none());
    }
}
