//! When a waiting connection has waited too long: coarse timers on one shared wheel per worker.
//!
//! Setting an timer is a store: each timer is looked at about once a second anyway, and only a deadline
//! nearer than its next look costs an entry in the wheel. No timer is armed per request.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use plimsoll_core::Tick;
use tokio::sync::Notify;

/// How late an timer may ring.
pub(crate) const RESOLUTION: Duration = Duration::from_millis(16);
const SLOTS: usize = 64;
/// Alarms kept for the next ones who need one.
const SPARES: usize = 4096;

/// One connection's timer.
#[derive(Debug)]
pub(crate) struct Timer {
    deadline: Cell<Tick>,
    /// The slot's moment at which the wheel looks at this timer next; other entries for it are stale.
    look: Cell<u64>,
    fired: Cell<bool>,
    /// The connection rests between messages: a drain may end it.
    resting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A worker's wheel of timers.
#[derive(Debug)]
pub(crate) struct Timers {
    slots: Box<[RefCell<Vec<Rc<Timer>>>]>,
    /// The last slot moment that was turned, in units of [`RESOLUTION`].
    turned: Cell<u64>,
    drain_idle_requested: Cell<bool>,
    /// Alarms nobody has: they stay in the wheel, so the next one to have them costs nothing there.
    spare: RefCell<Vec<Rc<Timer>>>,
}

fn slot_of(tick: Tick) -> u64 {
    tick.as_nanos() / RESOLUTION.as_nanos() as u64
}

/// Tells the workers that it is time to turn their wheels, each [`RESOLUTION`], until all of them are gone.
///
/// A thread of its own, so that a worker sleeps in the kernel with no timer armed: arming and disarming one
/// at each sleep costs more than being woken now and then (docs/benchmarks.md).
///
/// # Errors
/// The system's, when it gives no thread.
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
            turned: Cell::new(slot_of(now)),
            drain_idle_requested: Cell::new(false),
            spare: RefCell::default(),
        }
    }

    /// An timer at `deadline`.
    pub(crate) fn timer(&self, deadline: Tick) -> Rc<Timer> {
        if let Some(timer) = self.spare.borrow_mut().pop() {
            self.set(&timer, deadline);
            return timer;
        }
        let timer = Rc::new(Timer {
            deadline: Cell::new(deadline),
            look: Cell::new(0),
            fired: Cell::new(false),
            resting: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.place(&timer);
        timer
    }

    /// Takes back an timer that nobody will hear or set any more.
    pub(crate) fn give_back(&self, timer: &Rc<Timer>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARES {
            timer.waker.take();
            timer.resting.set(false);
            timer.fired.set(false);
            timer.deadline.set(Tick::NEVER);
            spare.push(timer.clone());
        }
    }

    /// Moves an timer's deadline; a past ring is forgotten.
    pub(crate) fn set(&self, timer: &Rc<Timer>, deadline: Tick) {
        timer.deadline.set(deadline);
        timer.fired.set(false);
        if slot_of(deadline) + 1 < timer.look.get() {
            self.place(timer);
        }
    }

    /// Now, as of the wheel's last turn: behind by [`RESOLUTION`] or less, without reading a clock.
    pub(crate) fn about_now(&self) -> Tick {
        Tick::from_nanos(self.turned.get() * RESOLUTION.as_nanos() as u64)
    }

    /// Connections that rest are to end: every resting timer rings at its next look, within about a second.
    pub(crate) fn drain_idle(&self) {
        self.drain_idle_requested.set(true);
    }

    /// Rings what is due.
    pub(crate) fn advance(&self, now: Tick) {
        let until = slot_of(now);
        let from = self.turned.get().max(until.saturating_sub(SLOTS as u64));
        for moment in from + 1..=until {
            self.turned.set(moment);
            let due = self.slots[moment as usize % SLOTS].take();
            for timer in due {
                if timer.look.get() <= moment && Rc::strong_count(&timer) > 1 {
                    self.look_at(&timer, now);
                }
            }
        }
    }

    fn look_at(&self, timer: &Rc<Timer>, now: Tick) {
        if timer.deadline.get() <= now || (timer.resting.get() && self.drain_idle_requested.get()) {
            timer.fired.set(true);
            if let Some(waker) = timer.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
        self.place(timer);
    }

    fn place(&self, timer: &Rc<Timer>) {
        let soonest = self.turned.get() + 1;
        let look = match timer.fired.get() {
            true => soonest + SLOTS as u64 - 1,
            false => (slot_of(timer.deadline.get()) + 1).clamp(soonest, soonest + SLOTS as u64 - 1),
        };
        timer.look.set(look);
        self.slots[look as usize % SLOTS].borrow_mut().push(timer.clone());
    }
}

impl Timer {
    /// Ready when the deadline has passed. Cheap: a flag and a comparison of wakers.
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

    /// What `work` comes to, unless the deadline passes first.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }

    /// Marks whether the connection rests between messages.
    pub(crate) fn set_resting(&self, resting: bool) {
        self.resting.set(resting);
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
    fn rings_after_its_deadline_and_never_before() {
        for deadline in [1, 15, 16, 17, 500, 1023, 1024, 5000, 60_000] {
            let timers = Timers::new(at(3));
            let timer = timers.timer(at(deadline));
            for now in (3..70_000).step_by(7) {
                timers.advance(at(now));
                if fired(&timer) {
                    assert!((deadline..deadline + 48).contains(&now), "{deadline} rang at {now}");
                    break;
                }
                assert!(now < deadline + 48, "{deadline} has not fired at {now}");
            }
        }
    }

    #[test]
    fn a_deadline_moved_nearer_rings_nearer_and_moved_away_does_not_ring() {
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
    fn a_drain_ends_those_who_rest_and_nobody_else() {
        let timers = Timers::new(at(0));
        let (resting, busy) = (timers.timer(at(60_000)), timers.timer(at(60_000)));
        resting.set_resting(true);
        timers.drain_idle();
        for now in (0..1_200).step_by(16) {
            timers.advance(at(now));
        }
        assert!(fired(&resting) && !fired(&busy));
    }

    #[test]
    fn an_alarm_given_back_rings_for_the_next_one_as_a_new_one_would() {
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
    fn the_wheel_forgets_those_who_are_gone() {
        let timers = Timers::new(at(0));
        let timer = timers.timer(at(10));
        let weak = Rc::downgrade(&timer);
        drop(timer);
        timers.advance(at(2_000));
        assert!(weak.upgrade().is_none());
    }
}
