//! Queueing of requests while all destinations are at their limits.
//!
//! - Each worker keeps a queue of its own for each pool. The workers share, in [`plimsoll_core::PoolLimiter`], the
//!   number of queued requests and the number of the head of each queue.
//! - A request that ends wakes the worker with the head that has waited longest. That worker serves its queue in order
//!   while no older request waits elsewhere.
//! - A worker also serves its queues at each tick, so that other new capacity (a destination that recovers, a raised
//!   limit) is used within the timer's resolution.
//!
//! The order is that of arrival over all workers, except for requests that arrive or are served at the same moment on
//! two workers, and for constrained requests (which have tried a destination, or are for a subset): they never block
//! others, and while there are any, a request that ends wakes all workers.

use std::rc::Rc;
use std::task::{Context, Poll};

use plimsoll_core::{NoDestination, PickRequest, Rng, Tick};

use crate::base::context::WorkerContext;
use crate::base::counters::Overflow;
use crate::base::timer::Timer;
use crate::upstream::chosen::Chosen;
use crate::upstream::pool::WorkerPool;
use crate::upstream::wait_queue::QueuedRequest;

/// A request's entry in the queue, removed when dropped.
#[derive(Debug)]
struct QueueEntry {
    pool: Rc<WorkerPool>,
    worker: usize,
    request: Rc<QueuedRequest>,
}

/// Why a queued request got no destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// No destination is left that may serve it.
    NoDestination(NoDestination),
    /// The queue is full.
    Overflow,
    /// The time limit of the queue passed.
    TimedOut,
    /// The client disconnected.
    ClientClosed,
}

/// Waits until a destination has capacity for a request: within the pool's `wait`, until `total`, and while its client
/// is connected.
pub(crate) async fn wait(
    worker: &Rc<WorkerContext>,
    pool: &Rc<WorkerPool>,
    want: &PickRequest<'_>,
    (timer, total): (&Rc<Timer>, Tick),
    mut gone: impl FnMut(&mut Context<'_>) -> bool,
) -> Result<Chosen, QueueError> {
    let table = pool.table.borrow().clone();
    let counters = table.counters.of(worker.number);
    let began = worker.now();
    let Some(entry) = pool.enqueue(worker, want, began) else {
        counters.overflowed(Overflow::Queue);
        return Err(QueueError::Overflow);
    };
    worker.timers.set(timer, (began + table.config.wait).min(total));
    let found = std::future::poll_fn(|cx| match entry.poll(cx) {
        Poll::Ready(found) => Poll::Ready(found.map_err(QueueError::NoDestination)),
        Poll::Pending if gone(cx) => Poll::Ready(Err(QueueError::ClientClosed)),
        Poll::Pending => timer.poll(cx).map(|()| Err(QueueError::TimedOut)),
    })
    .await;
    counters.waited(worker.now().since(began));
    if let Err(QueueError::TimedOut) = found {
        counters.overflowed(Overflow::Wait);
    }
    found
}

impl WorkerPool {
    /// Appends a request to the queue; `None` if the queue is full. It may be served at once, if there is capacity now.
    fn enqueue(
        self: &Rc<Self>,
        worker: &WorkerContext,
        want: &PickRequest<'_>,
        now: Tick,
    ) -> Option<QueueEntry> {
        let mut request = QueuedRequest {
            number: 0,
            tried: want.tried.copied().unwrap_or_default(),
            repeatable: want.repeatable,
            sent_later: want.sent_later,
            home: want.affinity_key,
            key: want.key,
            subset: want.subset.cloned(),
            result: Default::default(),
            waker: Default::default(),
        };
        request.number = self.table.borrow().limiter.try_enqueue(!request.is_unconstrained())?;
        let request = Rc::new(request);
        self.queue.push(request.clone());
        self.publish_head(worker.number);
        self.serve_queue(worker.number, now, &mut worker.rng.borrow_mut());
        Some(QueueEntry { pool: self.clone(), worker: worker.number, request })
    }

    /// Publishes the number of the queue's head to the other workers.
    fn publish_head(&self, worker: usize) {
        self.table.borrow().limiter.set_queue_head(worker, self.queue.head());
    }

    /// Serves all queued requests for which a destination has capacity.
    pub(crate) fn serve_queue(&self, worker: usize, now: Tick, rng: &mut Rng) {
        let limiter = self.table.borrow().limiter.clone();
        let (mut at, mut full_subsets) = (0, Vec::new());
        while let Some(request) = self.queue.get(at) {
            if request.is_unconstrained() && !limiter.is_oldest(request.number) {
                return limiter.wake_oldest();
            }
            if request.subset_id().is_some_and(|subset| full_subsets.contains(&subset)) {
                at += 1;
                continue;
            }
            match self.balance_load(&request.pick_request(worker), now, rng) {
                // No destination has capacity.
                Err(NoDestination::Full) if request.is_unconstrained() => return,
                Err(NoDestination::Full) => {
                    at += 1;
                    // The same holds for other requests of this subset.
                    full_subsets.extend(request.subset_id().filter(|_| request.tried.is_empty()));
                }
                found => {
                    self.queue.remove(request.number);
                    limiter.leave_queue(!request.is_unconstrained());
                    self.publish_head(worker);
                    *request.result.borrow_mut() = Some(found);
                    if let Some(waker) = request.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
        // Remaining capacity is for requests on other workers.
        if at == 0 {
            limiter.wake_waiters();
        }
    }
}

impl QueueEntry {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Chosen, NoDestination>> {
        if let Some(found) = self.request.result.take() {
            return Poll::Ready(found);
        }
        *self.request.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        if self.pool.queue.remove(self.request.number).is_some() {
            let limiter = self.pool.table.borrow().limiter.clone();
            limiter.leave_queue(!self.request.is_unconstrained());
            self.pool.publish_head(self.worker);
        }
    }
}
