//! Everything that connections borrow from their worker: clock, timers, buffers and random numbers of one thread.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use plimsoll_core::{Rng, Tick};

use crate::base::buffers::{Buffers, SCRATCH};
use crate::base::clock::Clock;
use crate::base::handshake_queue::HandshakeQueue;
use crate::base::log_writer::LogSender;
use crate::base::timer::{Timer, Timers};

/// Shared state of one data-plane thread.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) number: usize,
    /// Number of workers.
    pub(crate) workers: usize,
    pub(crate) clock: Clock,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) timers: Timers,
    pub(crate) handshakes: HandshakeQueue,
    /// Buffer that sockets are read into. Borrowed only between two awaits.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Buffer that heads for clients are written to. Borrowed only between two awaits.
    pub(crate) out: RefCell<Vec<u8>>,
    pub(crate) buffers: Buffers,
    /// Access log, where it is on.
    pub(crate) log: Option<LogSender>,
    pub(crate) draining: Cell<bool>,
    /// Number of connections and flows being served, over all listeners.
    pub(crate) connections: Cell<usize>,
    /// Number of connections that are read to their end after the last response.
    pub(crate) lingering: Cell<usize>,
    pub(crate) local: LocalState,
}

impl WorkerContext {
    /// Creates the context of worker `number` of `workers`.
    pub(crate) fn new(
        number: usize,
        workers: usize,
        clock: Clock,
        seed: u64,
        log: Option<LogSender>,
    ) -> Self {
        Self {
            number,
            workers,
            clock,
            rng: RefCell::new(Rng::new(seed)),
            timers: Timers::new(clock.now()),
            handshakes: HandshakeQueue::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            out: RefCell::new(Vec::with_capacity(16 * 1024)),
            buffers: Buffers::default(),
            log,
            draining: Cell::new(false),
            connections: Cell::new(0),
            lingering: Cell::new(0),
            local: LocalState::default(),
        }
    }

    /// Returns a timer that fires at `deadline` and goes back to its worker when dropped.
    pub(crate) fn timer(self: &Rc<Self>, deadline: Tick) -> TimerGuard {
        TimerGuard { timer: self.timers.timer(deadline), worker: self.clone() }
    }

    /// Returns the current time.
    pub(crate) fn now(&self) -> Tick {
        self.clock.now()
    }
}

/// A timer that goes back to its worker when dropped.
#[derive(Debug)]
pub(crate) struct TimerGuard {
    timer: Rc<Timer>,
    worker: Rc<WorkerContext>,
}

impl Deref for TimerGuard {
    type Target = Rc<Timer>;

    fn deref(&self) -> &Rc<Timer> {
        &self.timer
    }
}

impl Drop for TimerGuard {
    fn drop(&mut self) {
        self.worker.timers.give_back(&self.timer);
    }
}

/// State that a protocol keeps for a worker or for a listener on a worker, one value of each type.
#[derive(Debug, Default)]
pub(crate) struct LocalState(RefCell<HashMap<TypeId, Rc<dyn Any>>>);

impl LocalState {
    /// Returns the value of type `T`, created at the first call.
    pub(crate) fn get<T: Default + 'static>(&self) -> Rc<T> {
        let mut values = self.0.borrow_mut();
        let value = values.entry(TypeId::of::<T>()).or_insert_with(|| Rc::new(T::default()));
        value.clone().downcast().unwrap_or_else(|_| unreachable!("the key is the type of the value"))
    }
}
