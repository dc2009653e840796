//! The limits of a pool over all workers, and the order of the messages that wait for capacity.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use crate::limit::{Limit, PoolLimits};

/// Number that stands for an empty queue.
const EMPTY: u64 = u64::MAX;

/// Head of one worker's queue, on cache lines of its own (two: processors fetch them in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct QueueHead(AtomicU64);

/// Counts what a pool uses over all workers, and orders the messages that wait for it.
///
/// Each worker keeps a queue of its own. Shared are only the number of waiting messages and the number of each
/// queue's head. Numbers grow in the order of arrival, so the lowest head belongs to the message that has waited
/// longest. A message that waits for nothing reads one counter, and only in pools with limits.
#[derive(Debug)]
pub struct PoolLimiter {
    /// Messages that hold an assignment; counted only while the pool has a limit.
    pub requests: Limit,
    /// Connections, idle ones included.
    pub connections: Limit,
    /// Messages that are being retried.
    pub retries: Limit,
    waiting: Limit,
    /// Tasks that wait to open a connection.
    connection_waiters: AtomicU32,
    /// Waiting messages that not every destination suits.
    constrained: AtomicU32,
    next_number: AtomicU64,
    queue_heads: Box<[QueueHead]>,
    wakers: OnceLock<Box<[Waker]>>,
}

impl PoolLimiter {
    /// Limiter of a pool that `workers` workers serve, without limits.
    pub fn new(workers: usize) -> Self {
        Self {
            requests: Limit::default(),
            connections: Limit::default(),
            retries: Limit::default(),
            waiting: Limit::default(),
            connection_waiters: AtomicU32::new(0),
            constrained: AtomicU32::new(0),
            next_number: AtomicU64::new(0),
            queue_heads: (0..workers.max(1)).map(|_| QueueHead(AtomicU64::new(EMPTY))).collect(),
            wakers: OnceLock::new(),
        }
    }

    /// Changes the limits. What is held or queued already stays.
    pub fn set_limits(&self, limits: &PoolLimits) {
        self.requests.set_max(limits.requests);
        self.connections.set_max(limits.connections);
        self.retries.set_max(limits.retries);
        match limits.pending {
            0 => self.waiting.forbid(),
            max => self.waiting.set_max(max),
        }
    }

    /// Sets what wakes each worker to look at its queue. Only the first call has an effect.
    pub fn set_wakers(&self, wakers: Box<[Waker]>) {
        let _already_set = self.wakers.set(wakers);
    }

    /// Adds a task that waits to open a connection.
    pub(crate) fn add_connection_waiter(&self) {
        self.connection_waiters.fetch_add(1, SeqCst);
    }

    /// Removes a task that waited to open a connection.
    pub(crate) fn remove_connection_waiter(&self) {
        self.connection_waiters.fetch_sub(1, SeqCst);
    }

    /// Returns whether a task waits to open a connection.
    #[inline]
    pub fn has_connection_waiters(&self) -> bool {
        self.connection_waiters.load(SeqCst) > 0
    }

    /// Counts a message that is being retried, unless the limit is reached.
    pub fn acquire_retry(self: &Arc<Self>) -> Option<RetryPermit> {
        self.retries.try_acquire()?;
        Some(RetryPermit(self.clone()))
    }

    /// Number and limit of the waiting messages, over all workers.
    pub fn waiting(&self) -> &Limit {
        &self.waiting
    }

    /// Returns whether a message waits: later ones must not overtake it.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.waiting.is_used()
    }

    /// Counts one more waiting message, `constrained` if not every destination suits it. Returns its number in the
    /// order of arrival, or `None` if the queue is full.
    pub fn try_enqueue(&self, constrained: bool) -> Option<u64> {
        // Before it counts as waiting: a reader that sees it wait must see that it is constrained.
        self.constrained.fetch_add(u32::from(constrained), SeqCst);
        if self.waiting.try_acquire().is_none() {
            self.constrained.fetch_sub(u32::from(constrained), SeqCst);
            return None;
        }
        Some(self.next_number.fetch_add(1, Relaxed))
    }

    /// Counts one waiting message less.
    pub fn leave_queue(&self, constrained: bool) {
        self.waiting.release();
        self.constrained.fetch_sub(u32::from(constrained), SeqCst);
    }

    /// Publishes the number of the first message in `worker`'s queue that every destination suits.
    pub fn set_queue_head(&self, worker: usize, number: Option<u64>) {
        self.queue_head(worker).store(number.unwrap_or(EMPTY), SeqCst);
    }

    /// Returns whether no message at another worker has waited longer than the one with `number`.
    pub fn is_oldest(&self, number: u64) -> bool {
        self.queue_heads.iter().all(|head| head.0.load(SeqCst) >= number)
    }

    /// Wakes the worker of the message that has waited longest, if one waits. To be called when capacity was freed.
    #[inline]
    pub fn wake_waiters(&self) {
        if self.has_waiters() {
            self.wake_next();
        }
    }

    /// Wakes all workers while a constrained message waits: what was freed may suit only that one.
    #[cold]
    fn wake_next(&self) {
        match self.constrained.load(SeqCst) {
            0 => self.wake_oldest(),
            _ => self.wake_all(),
        }
    }

    /// Wakes all workers.
    pub(crate) fn wake_all(&self) {
        self.wakers.get().into_iter().flatten().for_each(Waker::wake_by_ref);
    }

    /// Wakes the worker with the queue head that has waited longest.
    pub fn wake_oldest(&self) {
        let heads = self.queue_heads.iter().map(|head| head.0.load(SeqCst)).enumerate();
        let oldest = heads.filter(|&(_, number)| number != EMPTY).min_by_key(|&(_, number)| number);
        if let (Some((worker, _)), Some(wakers)) = (oldest, self.wakers.get())
            && let Some(waker) = wakers.get(worker)
        {
            waker.wake_by_ref();
        }
    }

    fn queue_head(&self, worker: usize) -> &AtomicU64 {
        &self.queue_heads[worker % self.queue_heads.len()].0
    }
}

/// Counts one message as being retried until it is dropped.
#[derive(Debug)]
pub struct RetryPermit(Arc<PoolLimiter>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.release();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn the_worker_of_the_message_that_waited_longest_is_woken() {
        let limiter = PoolLimiter::new(3);
        limiter.set_limits(&PoolLimits { pending: 2, ..PoolLimits::default() });
        let wakers: Vec<Arc<CountingWaker>> = (0..3).map(|_| Arc::default()).collect();
        limiter.set_wakers(wakers.iter().cloned().map(Waker::from).collect());
        let woken = || wakers.iter().map(|waker| waker.0.swap(0, Relaxed)).collect::<Vec<_>>();
        limiter.wake_waiters();
        assert_eq!(woken(), [0, 0, 0], "no message waits");
        let [first, second] = [0, 1].map(|_| limiter.try_enqueue(false).expect("below the limit"));
        assert_eq!(
            (limiter.try_enqueue(false), limiter.try_enqueue(true)),
            (None, None),
            "no more than two wait"
        );
        limiter.set_queue_head(2, Some(first));
        limiter.set_queue_head(0, Some(second));
        limiter.wake_waiters();
        assert_eq!(woken(), [0, 0, 1]);
        assert!(limiter.is_oldest(first) && !limiter.is_oldest(second));
        limiter.leave_queue(false);
        limiter.set_queue_head(2, None);
        limiter.wake_waiters();
        assert_eq!((woken(), limiter.is_oldest(second)), (vec![1, 0, 0], true));
        limiter.try_enqueue(true).expect("below the limit");
        limiter.wake_waiters();
        assert_eq!(woken(), [1, 1, 1], "a constrained message waits");
        limiter.leave_queue(true);
        limiter.leave_queue(false);
        limiter.wake_waiters();
        assert_eq!(woken(), [0, 0, 0]);
    }

    #[test]
    fn without_a_queue_no_message_waits() {
        let limiter = PoolLimiter::new(1);
        limiter.set_limits(&PoolLimits::default());
        assert_eq!(limiter.try_enqueue(false), None);
    }
}
