//! When a waiting connection has waited too long: coarse alarms on one shared wheel per worker.
//!
//! Setting an alarm is a store: each alarm is looked at about once a second anyway, and only a deadline
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

/// How late an alarm may ring.
pub(crate) const RESOLUTION: Duration = Duration::from_millis(16);
const SLOTS: usize = 64;
/// Alarms kept for the next ones who need one.
const SPARES: usize = 4096;

/// One connection's alarm.
#[derive(Debug)]
pub(crate) struct Alarm {
    deadline: Cell<Tick>,
    /// The slot's moment at which the wheel looks at this alarm next; other entries for it are stale.
    look: Cell<u64>,
    rung: Cell<bool>,
    /// The connection rests between messages: a drain may end it.
    resting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A worker's wheel of alarms.
#[derive(Debug)]
pub(crate) struct Timers {
    slots: Box<[RefCell<Vec<Rc<Alarm>>>]>,
    /// The last slot moment that was turned, in units of [`RESOLUTION`].
    turned: Cell<u64>,
    rest_is_over: Cell<bool>,
    /// Alarms nobody has: they stay in the wheel, so the next one to have them costs nothing there.
    spare: RefCell<Vec<Rc<Alarm>>>,
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
pub(crate) fn start_metronome(beats: Vec<Weak<Notify>>) -> io::Result<()> {
    let beat = move || {
        while beats.iter().filter_map(Weak::upgrade).map(|beat: Arc<Notify>| beat.notify_one()).count() > 0 {
            thread::sleep(RESOLUTION);
        }
    };
    thread::Builder::new().name("metronome".into()).spawn(beat).map(drop)
}

impl Timers {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| RefCell::default()).collect(),
            turned: Cell::new(slot_of(now)),
            rest_is_over: Cell::new(false),
            spare: RefCell::default(),
        }
    }

    /// An alarm at `deadline`.
    pub(crate) fn alarm(&self, deadline: Tick) -> Rc<Alarm> {
        if let Some(alarm) = self.spare.borrow_mut().pop() {
            self.set(&alarm, deadline);
            return alarm;
        }
        let alarm = Rc::new(Alarm {
            deadline: Cell::new(deadline),
            look: Cell::new(0),
            rung: Cell::new(false),
            resting: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.place(&alarm);
        alarm
    }

    /// Takes back an alarm that nobody will hear or set any more.
    pub(crate) fn give_back(&self, alarm: &Rc<Alarm>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARES {
            alarm.waker.take();
            alarm.resting.set(false);
            alarm.rung.set(false);
            alarm.deadline.set(Tick::NEVER);
            spare.push(alarm.clone());
        }
    }

    /// Moves an alarm's deadline; a past ring is forgotten.
    pub(crate) fn set(&self, alarm: &Rc<Alarm>, deadline: Tick) {
        alarm.deadline.set(deadline);
        alarm.rung.set(false);
        if slot_of(deadline) + 1 < alarm.look.get() {
            self.place(alarm);
        }
    }

    /// Now, as of the wheel's last turn: behind by [`RESOLUTION`] or less, without reading a clock.
    pub(crate) fn about_now(&self) -> Tick {
        Tick::from_nanos(self.turned.get() * RESOLUTION.as_nanos() as u64)
    }

    /// Connections that rest are to end: every resting alarm rings at its next look, within about a second.
    pub(crate) fn end_rest(&self) {
        self.rest_is_over.set(true);
    }

    /// Rings what is due.
    pub(crate) fn turn(&self, now: Tick) {
        let until = slot_of(now);
        let from = self.turned.get().max(until.saturating_sub(SLOTS as u64));
        for moment in from + 1..=until {
            self.turned.set(moment);
            let due = self.slots[moment as usize % SLOTS].take();
            for alarm in due {
                if alarm.look.get() <= moment && Rc::strong_count(&alarm) > 1 {
                    self.look_at(&alarm, now);
                }
            }
        }
    }

    fn look_at(&self, alarm: &Rc<Alarm>, now: Tick) {
        if alarm.deadline.get() <= now || (alarm.resting.get() && self.rest_is_over.get()) {
            alarm.rung.set(true);
            if let Some(waker) = alarm.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
        self.place(alarm);
    }

    fn place(&self, alarm: &Rc<Alarm>) {
        let soonest = self.turned.get() + 1;
        let look = match alarm.rung.get() {
            true => soonest + SLOTS as u64 - 1,
            false => (slot_of(alarm.deadline.get()) + 1).clamp(soonest, soonest + SLOTS as u64 - 1),
        };
        alarm.look.set(look);
        self.slots[look as usize % SLOTS].borrow_mut().push(alarm.clone());
    }
}

impl Alarm {
    /// Ready when the deadline has passed. Cheap: a flag and a comparison of wakers.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.get() {
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

    fn rung(alarm: &Alarm) -> bool {
        alarm.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn rings_after_its_deadline_and_never_before() {
        for deadline in [1, 15, 16, 17, 500, 1023, 1024, 5000, 60_000] {
            let timers = Timers::new(at(3));
            let alarm = timers.alarm(at(deadline));
            for now in (3..70_000).step_by(7) {
                timers.turn(at(now));
                if rung(&alarm) {
                    assert!((deadline..deadline + 48).contains(&now), "{deadline} rang at {now}");
                    break;
                }
                assert!(now < deadline + 48, "{deadline} has not rung at {now}");
            }
        }
    }

    #[test]
    fn a_deadline_moved_nearer_rings_nearer_and_moved_away_does_not_ring() {
        let timers = Timers::new(at(0));
        let alarm = timers.alarm(at(60_000));
        timers.turn(at(100));
        timers.set(&alarm, at(200));
        timers.turn(at(190));
        assert!(!rung(&alarm));
        timers.set(&alarm, at(9_000));
        timers.turn(at(8_000));
        assert!(!rung(&alarm));
        timers.turn(at(9_100));
        assert!(rung(&alarm));
    }

    #[test]
    fn a_drain_ends_those_who_rest_and_nobody_else() {
        let timers = Timers::new(at(0));
        let (resting, busy) = (timers.alarm(at(60_000)), timers.alarm(at(60_000)));
        resting.set_resting(true);
        timers.end_rest();
        for now in (0..1_200).step_by(16) {
            timers.turn(at(now));
        }
        assert!(rung(&resting) && !rung(&busy));
    }

    #[test]
    fn an_alarm_given_back_rings_for_the_next_one_as_a_new_one_would() {
        for deadline in [40, 500, 900, 5_000] {
            let timers = Timers::new(at(0));
            let first = timers.alarm(at(30));
            timers.turn(at(100));
            assert!(rung(&first));
            timers.give_back(&first);
            timers.turn(at(333));
            let second = timers.alarm(at(333 + deadline));
            assert!(Rc::ptr_eq(&first, &second) && !rung(&second));
            timers.turn(at(332 + deadline));
            assert!(!rung(&second), "{deadline}");
            timers.turn(at(333 + deadline + 48));
            assert!(rung(&second), "{deadline}");
        }
    }

    #[test]
    fn the_wheel_forgets_those_who_are_gone() {
        let timers = Timers::new(at(0));
        let alarm = timers.alarm(at(10));
        let weak = Rc::downgrade(&alarm);
        drop(alarm);
        timers.turn(at(2_000));
        assert!(weak.upgrade().is_none());
    }
}
