//! Who waits for a place at a destination, and who is next.
//!
//! Each worker keeps a line of its own for each pool. What they share is in [`plimsoll_core::PoolLimiter`]: how many wait
//! in all, and the number of the first of each line. A message that ends where others wait rings at the worker whose
//! first has waited longest; that worker then serves its line in order, for as long as nobody older waits elsewhere.
//! A worker looks at its lines with each tick of the metronome too, so that whatever else makes room (a destination
//! that comes back, a limit that was raised) is found within its resolution.
//!
//! The order is that of arrival over all workers, but for messages that arrive or are served at the same moment at
//! two of them, and for those that would not go anywhere (because they have tried a destination, or are for a part
//! of the pool): they keep nobody behind them, and while there are such, whoever ends a message rings everywhere.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use plimsoll_core::subset::{Fallback, Subset};
use plimsoll_core::{AttemptedSet, NoDestination, PickRequest, Rng, Tick};
use tokio::sync::Notify;

use crate::base::context::WorkerContext;
use crate::base::counters::Overflow;
use crate::base::timer::Timer;
use crate::upstream::pool::{Chosen, WorkerPool};

/// The worker looks at its lines.
pub(crate) struct WorkerWaker(pub(crate) Weak<Notify>);

impl Wake for WorkerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(tick) = self.0.upgrade() {
            tick.notify_one();
        }
    }
}

/// One worker's line for a pool, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue(RefCell<VecDeque<Rc<QueuedRequest>>>);

/// One message that waits.
#[derive(Debug)]
struct QueuedRequest {
    /// In the order of arrival over all workers.
    number: u64,
    tried: AttemptedSet,
    repeatable: bool,
    home: Option<u64>,
    key: Option<u64>,
    subset: Option<Subset>,
    /// What its wait came to, until it looks.
    found: RefCell<Option<Result<Chosen, NoDestination>>>,
    waker: RefCell<Option<Waker>>,
}

/// A message's entry in the line: it ends with this.
#[derive(Debug)]
struct QueueEntry {
    pool: Rc<WorkerPool>,
    worker: usize,
    request: Rc<QueuedRequest>,
}

/// Why a message that had to wait has no destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// Nobody is left who could take it.
    NoDestination(NoDestination),
    /// Too many wait already.
    Overflow,
    /// It has waited for as long as it may.
    TimedOut,
    /// Its client left.
    ClientClosed,
}

impl WaitQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The number of the first who would go anywhere.
    fn head(&self) -> Option<u64> {
        self.0.borrow().iter().find(|request| request.is_unconstrained()).map(|request| request.number)
    }

    fn nth(&self, at: usize) -> Option<Rc<QueuedRequest>> {
        self.0.borrow().get(at).cloned()
    }

    /// Takes one out, if it is still in.
    fn remove(&self, number: u64) -> Option<Rc<QueuedRequest>> {
        let mut queue = self.0.borrow_mut();
        let at = queue.binary_search_by_key(&number, |request| request.number).ok()?;
        queue.remove(at)
    }
}

impl QueuedRequest {
    /// Whoever has room will do.
    fn is_unconstrained(&self) -> bool {
        self.tried.is_empty() && self.subset_id().is_none()
    }

    /// The part of the pool it is for and nothing else.
    fn subset_id(&self) -> Option<u64> {
        self.subset.as_ref().filter(|subset| subset.fallback == Fallback::None).map(Subset::id)
    }

    fn want(&self, worker: usize) -> PickRequest<'_> {
        PickRequest {
            worker,
            tried: Some(&self.tried),
            repeatable: self.repeatable,
            affinity_key: self.home,
            key: self.key,
            subset: self.subset.as_ref(),
            dequeued: true,
        }
    }
}

/// A destination for a message that found none with room, once there is one: within the pool's `wait` and until
/// `total`, and only while its client is there.
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
    /// Puts a message at the end of the line; `None`: too many wait already. It may be served at once, if there was
    /// room after all.
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
            home: want.affinity_key,
            key: want.key,
            subset: want.subset.cloned(),
            found: RefCell::default(),
            waker: RefCell::default(),
        };
        request.number = self.table.borrow().limiter.try_enqueue(!request.is_unconstrained())?;
        let request = Rc::new(request);
        self.queue.0.borrow_mut().push_back(request.clone());
        self.publish_head(worker.number);
        self.serve_queue(worker.number, now, &mut worker.rng.borrow_mut());
        Some(QueueEntry { pool: self.clone(), worker: worker.number, request })
    }

    fn publish_head(&self, worker: usize) {
        self.table.borrow().limiter.set_queue_head(worker, self.queue.head());
    }

    /// Gives a place to everybody in the line who can have one now.
    pub(crate) fn serve_queue(&self, worker: usize, now: Tick, rng: &mut Rng) {
        let limiter = self.table.borrow().limiter.clone();
        let (mut at, mut full_subsets) = (0, Vec::new());
        while let Some(request) = self.queue.nth(at) {
            if request.is_unconstrained() && !limiter.is_oldest(request.number) {
                return limiter.wake_oldest();
            }
            if request.subset_id().is_some_and(|part| full_subsets.contains(&part)) {
                at += 1;
                continue;
            }
            match self.balance_load(&request.want(worker), now, rng) {
                // There is room for nobody.
                Err(NoDestination::Full) if request.is_unconstrained() => return,
                Err(NoDestination::Full) => {
                    at += 1;
                    // Nor for anybody else who asks for the same.
                    full_subsets.extend(request.subset_id().filter(|_| request.tried.is_empty()));
                }
                found => {
                    self.queue.remove(request.number);
                    limiter.leave_queue(!request.is_unconstrained());
                    self.publish_head(worker);
                    *request.found.borrow_mut() = Some(found);
                    if let Some(waker) = request.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
        // What is left over is for who waits elsewhere.
        if at == 0 {
            limiter.wake_waiters();
        }
    }
}

impl QueueEntry {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Chosen, NoDestination>> {
        if let Some(found) = self.request.found.take() {
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
