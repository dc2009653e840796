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
pub(crate) struct Bell(pub(crate) Weak<Notify>);

impl Wake for Bell {
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
pub(crate) struct Line(RefCell<VecDeque<Rc<Waiter>>>);

/// One message that waits.
#[derive(Debug)]
struct Waiter {
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

/// A message's turn in the line: it ends with this.
#[derive(Debug)]
struct Turn {
    pool: Rc<WorkerPool>,
    worker: usize,
    waiter: Rc<Waiter>,
}

/// Why a message that had to wait has no destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unplaced {
    /// Nobody is left who could take it.
    Nobody(NoDestination),
    /// Too many wait already.
    Overflow,
    /// It has waited for as long as it may.
    TimedOut,
    /// Its client left.
    Gone,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The number of the first who would go anywhere.
    fn front(&self) -> Option<u64> {
        self.0.borrow().iter().find(|waiter| waiter.goes_anywhere()).map(|waiter| waiter.number)
    }

    fn nth(&self, at: usize) -> Option<Rc<Waiter>> {
        self.0.borrow().get(at).cloned()
    }

    /// Takes one out, if it is still in.
    fn remove(&self, number: u64) -> Option<Rc<Waiter>> {
        let mut line = self.0.borrow_mut();
        let at = line.binary_search_by_key(&number, |waiter| waiter.number).ok()?;
        line.remove(at)
    }
}

impl Waiter {
    /// Whoever has room will do.
    fn goes_anywhere(&self) -> bool {
        self.tried.is_empty() && self.part().is_none()
    }

    /// The part of the pool it is for and nothing else.
    fn part(&self) -> Option<u64> {
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
) -> Result<Chosen, Unplaced> {
    let table = pool.table.borrow().clone();
    let tally = table.tallies.of(worker.number);
    let began = worker.now();
    let Some(turn) = pool.line_up(worker, want, began) else {
        tally.overflowed(Overflow::Queue);
        return Err(Unplaced::Overflow);
    };
    worker.timers.set(timer, (began + table.config.wait).min(total));
    let found = std::future::poll_fn(|cx| match turn.poll(cx) {
        Poll::Ready(found) => Poll::Ready(found.map_err(Unplaced::Nobody)),
        Poll::Pending if gone(cx) => Poll::Ready(Err(Unplaced::Gone)),
        Poll::Pending => timer.poll(cx).map(|()| Err(Unplaced::TimedOut)),
    })
    .await;
    tally.waited(worker.now().since(began));
    if let Err(Unplaced::TimedOut) = found {
        tally.overflowed(Overflow::Wait);
    }
    found
}

impl WorkerPool {
    /// Puts a message at the end of the line; `None`: too many wait already. It may be served at once, if there was
    /// room after all.
    fn line_up(self: &Rc<Self>, worker: &WorkerContext, want: &PickRequest<'_>, now: Tick) -> Option<Turn> {
        let mut waiter = Waiter {
            number: 0,
            tried: want.tried.copied().unwrap_or_default(),
            repeatable: want.repeatable,
            home: want.affinity_key,
            key: want.key,
            subset: want.subset.cloned(),
            found: RefCell::default(),
            waker: RefCell::default(),
        };
        waiter.number = self.table.borrow().limiter.try_enqueue(!waiter.goes_anywhere())?;
        let waiter = Rc::new(waiter);
        self.line.0.borrow_mut().push_back(waiter.clone());
        self.tell_front(worker.number);
        self.serve_line(worker.number, now, &mut worker.rng.borrow_mut());
        Some(Turn { pool: self.clone(), worker: worker.number, waiter })
    }

    fn tell_front(&self, worker: usize) {
        self.table.borrow().limiter.set_queue_head(worker, self.line.front());
    }

    /// Gives a place to everybody in the line who can have one now.
    pub(crate) fn serve_line(&self, worker: usize, now: Tick, rng: &mut Rng) {
        let limiter = self.table.borrow().limiter.clone();
        let (mut at, mut full_parts) = (0, Vec::new());
        while let Some(waiter) = self.line.nth(at) {
            if waiter.goes_anywhere() && !limiter.is_oldest(waiter.number) {
                return limiter.wake_oldest();
            }
            if waiter.part().is_some_and(|part| full_parts.contains(&part)) {
                at += 1;
                continue;
            }
            match self.balance_load(&waiter.want(worker), now, rng) {
                // There is room for nobody.
                Err(NoDestination::Full) if waiter.goes_anywhere() => return,
                Err(NoDestination::Full) => {
                    at += 1;
                    // Nor for anybody else who asks for the same.
                    full_parts.extend(waiter.part().filter(|_| waiter.tried.is_empty()));
                }
                found => {
                    self.line.remove(waiter.number);
                    limiter.leave_queue(!waiter.goes_anywhere());
                    self.tell_front(worker);
                    *waiter.found.borrow_mut() = Some(found);
                    if let Some(waker) = waiter.waker.take() {
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

impl Turn {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Chosen, NoDestination>> {
        if let Some(found) = self.waiter.found.take() {
            return Poll::Ready(found);
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.pool.line.remove(self.waiter.number).is_some() {
            let limiter = self.pool.table.borrow().limiter.clone();
            limiter.leave_queue(!self.waiter.goes_anywhere());
            self.pool.tell_front(self.worker);
        }
    }
}
