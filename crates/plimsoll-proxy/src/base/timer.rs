//! Coarse timers of connections, on one timer wheel per worker.
//!
//! Setting a timer is a store: the wheel visits each timer about once a second anyway, and only a deadline before
//! its next visit costs an entry in the wheel. No timer is armed per request.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use plimsoll_core::Tick;
use tokio::sync::Notify;

/// Resolution of the wheel: the maximum delay of a timer.
pub(crate) const RESOLUTION: Duration = Duration::from_millis(16);
const SLOTS: usize = 64;
/// Maximum number of timers kept for reuse.
const SPARES: usize = 4096;

/// Timer of one connection.
#[derive(Debug)]
pub(crate) struct Timer {
    deadline: Cell<Tick>,
    /// Slot time of the next visit by the wheel; other entries for this timer are stale.
    visit: Cell<u64>,
    fired: Cell<bool>,
    /// Whether the connection is idle between messages, so that a drain may close it.
    idle: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Timer wheel of a worker.
#[derive(Debug)]
pub(crate) struct Timers {
    slots: Box<[RefCell<Vec<Rc<Timer>>>]>,
    /// Latest slot time that was processed, in units of [`RESOLUTION`].
    current: Cell<u64>,
    drain_idle_requested: Cell<bool>,
    /// Unused timers. They stay in the wheel, so reusing one needs no new entry.
    spare: RefCell<Vec<Rc<Timer>>>,
}

fn slot_of(tick: Tick) -> u64 {
    tick.as_nanos() / RESOLUTION.as_nanos() as u64
}

/// Starts the thread that notifies all workers at each [`RESOLUTION`], until all of them have ended.
///
/// With a separate thread a worker sleeps in the kernel without an armed timer: arming and disarming one at each
/// sleep costs more than the notifications (docs/benchmarks.md).
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start_ticker(ticks: Vec<Weak<Notify>>) -> io::Result<()> {
    let tick = move || {
        while ticks.iter().filter_map(Weak::upgrade).map(|tick: Arc<Notify>| tick.notify_one()).count() > 0 {
            thread::sleep(RESOLUTION);
        }
    };
    thread::Builder::new().name("ticker".into()).spawn(tick).map(drop)
}

impl Timers {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| RefCell::default()).collect(),
            current: Cell::new(slot_of(now)),
            drain_idle_requested: Cell::new(false),
            spare: RefCell::default(),
        }
    }

    /// Returns a timer that fires at `deadline`.
    pub(crate) fn timer(&self, deadline: Tick) -> Rc<Timer> {
        if let Some(timer) = self.spare.borrow_mut().pop() {
            self.set(&timer, deadline);
            return timer;
        }
        let timer = Rc::new(Timer {
            deadline: Cell::new(deadline),
            visit: Cell::new(0),
            fired: Cell::new(false),
            idle: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.insert(&timer);
        timer
    }

    /// Keeps a timer for reuse. The caller must not use it any more.
    pub(crate) fn give_back(&self, timer: &Rc<Timer>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARES {
            timer.waker.take();
            timer.idle.set(false);
            timer.fired.set(false);
            timer.deadline.set(Tick::NEVER);
            spare.push(timer.clone());
        }
    }

    /// Sets a timer's deadline, and clears its fired state.
    pub(crate) fn set(&self, timer: &Rc<Timer>, deadline: Tick) {
        timer.deadline.set(deadline);
        timer.fired.set(false);
        if slot_of(deadline) + 1 < timer.visit.get() {
            self.insert(timer);
        }
    }

    /// Returns the time of the latest tick, at most [`RESOLUTION`] ago, without reading a clock.
    pub(crate) fn about_now(&self) -> Tick {
        Tick::from_nanos(self.current.get() * RESOLUTION.as_nanos() as u64)
    }

    /// Requests a drain of idle connections: the timer of each fires at its next visit, within about a second.
    pub(crate) fn drain_idle(&self) {
        self.drain_idle_requested.set(true);
    }

    /// Fires the timers that are due.
    pub(crate) fn advance(&self, now: Tick) {
        let until = slot_of(now);
        let from = self.current.get().max(until.saturating_sub(SLOTS as u64));
        for slot in from + 1..=until {
            self.current.set(slot);
            let due = self.slots[slot as usize % SLOTS].take();
            for timer in due {
                if timer.visit.get() <= slot && Rc::strong_count(&timer) > 1 {
                    self.visit(&timer, now);
                }
            }
        }
    }

    fn visit(&self, timer: &Rc<Timer>, now: Tick) {
        if timer.deadline.get() <= now || (timer.idle.get() && self.drain_idle_requested.get()) {
            timer.fired.set(true);
            if let Some(waker) = timer.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
        self.insert(timer);
    }

    fn insert(&self, timer: &Rc<Timer>) {
        let earliest = self.current.get() + 1;
        let visit = match timer.fired.get() {
            true => earliest + SLOTS as u64 - 1,
            false => (slot_of(timer.deadline.get()) + 1).clamp(earliest, earliest + SLOTS as u64 - 1),
        };
        timer.visit.set(visit);
        self.slots[visit as usize % SLOTS].borrow_mut().push(timer.clone());
    }
}

impl Timer {
    /// Becomes ready at the deadline. A poll costs a flag and a comparison of wakers.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.fired.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `work` until the deadline; `None` if the deadline passes first.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }

    /// Marks whether the connection is idle between messages.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.set(idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick::from_nanos(ms * 1_000_000)
    }

    fn fired(timer: &Timer) -> bool {
        timer.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_timer_fires_after_its_deadline_and_never_before() {
        for deadline in [1, 15, 16, 17, 500, 1023, 1024, 5000, 60_000] {
            let timers = Timers::new(at(3));
            let timer = timers.timer(at(deadline));
            for now in (3..70_000).step_by(7) {
                timers.advance(at(now));
                if fired(&timer) {
                    assert!((deadline..deadline + 48).contains(&now), "{deadline} fired at {now}");
                    break;
                }
                assert!(now < deadline + 48, "{deadline} has not fired at {now}");
            }
        }
    }

    #[test]
    fn a_timer_follows_a_deadline_that_is_moved() {
        let timers = Timers::new(at(0));
        let timer = timers.timer(at(60_000));
        timers.advance(at(100));
        timers.set(&timer, at(200));
        timers.advance(at(190));
        assert!(!fired(&timer));
        timers.set(&timer, at(9_000));
        timers.advance(at(8_000));
        assert!(!fired(&timer));
        timers.advance(at(9_100));
        assert!(fired(&timer));
    }

    #[test]
    fn a_drain_fires_the_timers_of_idle_connections_only() {
        let timers = Timers::new(at(0));
        let (idle, busy) = (timers.timer(at(60_000)), timers.timer(at(60_000)));
        idle.set_idle(true);
        timers.drain_idle();
        for now in (0..1_200).step_by(16) {
            timers.advance(at(now));
        }
        assert!(fired(&idle) && !fired(&busy));
    }

    #[test]
    fn a_reused_timer_fires_like_a_new_one() {
        for deadline in [40, 500, 900, 5_000] {
            let timers = Timers::new(at(0));
            let first = timers.timer(at(30));
            timers.advance(at(100));
            assert!(fired(&first));
            timers.give_back(&first);
            timers.advance(at(333));
            let second = timers.timer(at(333 + deadline));
            assert!(Rc::ptr_eq(&first, &second) && !fired(&second));
            timers.advance(at(332 + deadline));
            assert!(!fired(&second), "{deadline}");
            timers.advance(at(333 + deadline + 48));
            assert!(fired(&second), "{deadline}");
        }
    }

    #[test]
    fn the_wheel_releases_dropped_timers() {
        let timers = Timers::new(at(0));
        let timer = timers.timer(at(10));
        let weak = Rc::downgrade(&timer);
        drop(timer);
        timers.advance(at(2_000));
        assert!(weak.upgrade().is_none());
    }
}
