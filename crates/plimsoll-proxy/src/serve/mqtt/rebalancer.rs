//! Which connections are moved to the destination they belong to, and how fast.
//!
//! A device keeps its connection for days, so a destination that comes back would stay empty and the others
//! overfull. Those who belong to it are ended, a few each second and each between two packets: they connect
//! again and come home. Ended all at once they would be a storm.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use plimsoll_core::DestinationId;
use plimsoll_core::subset::Subset;

use crate::base::context::WorkerContext;
use crate::listener::worker_listener::WorkerListener;
use crate::listener::worker_listener::WorkerRoute;
use crate::upstream::pool::WorkerPool;

/// Who belongs elsewhere is looked for so often.
const TURN: Duration = Duration::from_secs(1);
/// At so many connections a turn: that is microseconds, whatever there is in all.
const LOOKS: usize = 1024;
/// A destination must have served for so long before anybody is moved to it: one that comes and goes is no home.
const SETTLED: Duration = Duration::from_secs(10);
/// When the process shuts down, all are asked to go within so many turns.
const DRAIN_TURNS: usize = 5;

/// One connection that has a home.
#[derive(Debug)]
pub(crate) struct Resident {
    key: u64,
    pool: Rc<WorkerPool>,
    subset: Option<Arc<Subset>>,
    destination: DestinationId,
    among: Rc<Homing>,
    /// Its place in the list of its listener.
    at: Cell<usize>,
    recalled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Resident {
    /// Is it to go?
    pub(crate) fn poll_recall(&self, cx: &mut Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.recalled.get()
    }

    fn recall(&self) {
        self.recalled.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn is_away(&self, worker: &WorkerContext) -> bool {
        let home = self.pool.preferred_destination(self.key, self.subset.as_deref());
        home.is_some_and(|(id, since)| {
            id != self.destination && worker.timers.about_now().since(since) >= SETTLED
        })
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let mut residents = self.among.residents.borrow_mut();
        let at = self.at.get();
        residents.swap_remove(at);
        if let Some(moved) = residents.get(at).and_then(Weak::upgrade) {
            moved.at.set(at);
        }
    }
}

/// The connections of one listener at one worker.
#[derive(Debug, Default)]
pub(crate) struct Homing {
    residents: RefCell<Vec<Weak<Resident>>>,
    runs: Cell<bool>,
}

impl Homing {
    /// A connection of `key` that runs to `destination`.
    pub(crate) fn enter(
        worker: &Rc<WorkerContext>,
        listener: &Rc<WorkerListener>,
        key: u64,
        (rule, destination): (&WorkerRoute, DestinationId),
    ) -> Rc<Resident> {
        let homing = listener.local.get::<Homing>();
        let mut residents = homing.residents.borrow_mut();
        let (at, recalled, waker) = (Cell::new(residents.len()), Cell::new(false), RefCell::new(None));
        let (pool, subset) = (rule.pool.clone(), rule.table.subset.clone());
        let among = homing.clone();
        let resident = Rc::new(Resident { key, pool, subset, destination, among, at, recalled, waker });
        residents.push(Rc::downgrade(&resident));
        if !homing.runs.replace(true) {
            tokio::task::spawn_local(run(worker.clone(), listener.clone()));
        }
        resident
    }

    /// Looks at a part of all, in turn, and asks up to `most` to go. Answers how many were.
    fn turn(&self, worker: &WorkerContext, at: &mut usize, most: usize) -> usize {
        let residents = self.residents.borrow();
        let mut moved = 0;
        for _ in 0..LOOKS.min(residents.len()) {
            if moved == most {
                break;
            }
            *at = (*at + 1) % residents.len();
            let Some(resident) = residents[*at].upgrade() else { continue };
            if !resident.recalled.get() && resident.is_away(worker) {
                resident.recall();
                moved += 1;
            }
        }
        moved
    }

    /// Asks a part of all to go, so that all are gone in `turns`.
    fn leave(&self, turns: usize) {
        let residents: Vec<_> = self.residents.borrow().iter().filter_map(Weak::upgrade).collect();
        let staying = residents.iter().filter(|resident| !resident.recalled.get());
        let part = staying.clone().count().div_ceil(turns.max(1));
        staying.take(part).for_each(|resident| resident.recall());
    }
}

/// Runs for as long as a listener has connections with a home.
async fn run(worker: Rc<WorkerContext>, listener: Rc<WorkerListener>) {
    let homing = listener.local.get::<Homing>();
    let (mut at, mut allowance, mut turns) = (0, 0.0, DRAIN_TURNS);
    loop {
        let timer = worker.timer(worker.now() + TURN);
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        if worker.draining.get() || listener.is_closing() {
            homing.leave(turns);
            turns = turns.saturating_sub(1);
        } else {
            let view = listener.routes();
            let rate = view.table.config.mqtt.rebalance as f64 / worker.workers as f64;
            // What a second does not use is not saved up, but for the part of one that is less than a whole.
            allowance = f64::min(allowance + rate, rate.max(1.0));
            allowance -= homing.turn(&worker, &mut at, allowance as usize) as f64;
        }
        if homing.residents.borrow().is_empty() {
            return homing.runs.set(false);
        }
    }
}
