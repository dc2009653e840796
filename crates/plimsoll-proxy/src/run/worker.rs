//! One data-plane thread: its doors, its buffers, its timers; everything a message needs without a lock.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::{Name, Rng, Tick, Tried, Want};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::base::clock::Clock;
use crate::base::handshake_queue::Turnstile;
use crate::base::timer::{Alarm, RESOLUTION, Timers};
use crate::listener::accept::{self, Accepting, Socket};
use crate::listener::tables::{ListenerTable, RuleTable};
use crate::log::access_log::LogSender;
use crate::log::decision_log::{DecisionSender, Observer};
use crate::serve::mqtt::rebalancer::Homing;
use crate::serve::udp::Batch;
use crate::upstream::pool::WorkerPool;

/// Bytes a worker reads at once. Large reads are what makes bulk transfer cheap (docs/benchmarks.md).
pub(crate) const SCRATCH: usize = 256 * 1024;

/// Buffers kept for the next requests, and the largest worth keeping.
const SPARES: usize = 64;
const SPARE_BYTES: usize = 16 * 1024;

/// What the control plane tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// The doors as they are to be now: new ones open, missing ones close, others change their table.
    Doors(Vec<DoorOrder>),
    /// Say when everything ordered before is in force.
    Settled(oneshot::Sender<()>),
    /// Take nothing new, end what rests, finish what runs.
    Drain,
    /// End what a drain still waits for.
    Cut,
}

/// One door of a worker, as ordered.
#[derive(Debug)]
pub(crate) struct DoorOrder {
    pub(crate) table: Arc<ListenerTable>,
    /// Sockets to accept on beside those the door has.
    pub(crate) open: Vec<Socket>,
    /// Sockets to close, by number.
    pub(crate) close: Vec<u64>,
}

/// What everything on one data-plane thread shares.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    /// How many there are.
    pub(crate) workers: usize,
    pub(crate) clock: Clock,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) timers: Timers,
    pub(crate) turnstile: Turnstile,
    /// Where bytes are read. Borrowed only between two awaits.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Where heads for clients are written. Borrowed only between two awaits.
    pub(crate) out: RefCell<Vec<u8>>,
    /// Where datagrams are received, once there is a listener for them. Borrowed only between two awaits.
    pub(crate) datagrams: RefCell<Option<Box<Batch>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    pub(crate) log: Option<LogSender>,
    /// Looks at some of its choices.
    observer: Rc<Observer>,
    pub(crate) draining: Cell<bool>,
    /// Connections being served, of all doors.
    pub(crate) connections: Cell<usize>,
    pools: RefCell<HashMap<u64, Rc<WorkerPool>>>,
}

/// A listener on one worker.
#[derive(Debug)]
pub(crate) struct Door {
    view: RefCell<Rc<DoorView>>,
    closing: Cell<bool>,
    /// Its connections of MQTT that belong to a destination.
    pub(crate) homing: Homing,
}

/// What a door leads to, as of the latest configuration.
#[derive(Debug)]
pub(crate) struct DoorView {
    pub(crate) table: Arc<ListenerTable>,
    pub(crate) rules: Vec<Rule>,
}

/// A rule with this worker's side of its pool.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) table: Arc<RuleTable>,
    pub(crate) pool: Rc<WorkerPool>,
}

impl Rule {
    /// Is there a destination for its messages that may serve and was not tried?
    pub(crate) fn has_untried(&self, tried: &Tried) -> bool {
        let subset = self.table.subset.as_deref();
        self.pool.has_untried(&Want { tried: Some(tried), subset, ..Want::default() })
    }
}

impl Door {
    pub(crate) fn view(&self) -> Rc<DoorView> {
        self.view.borrow().clone()
    }

    /// The door takes nothing new: answers say `Connection: close`.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }
}

impl Worker {
    fn pool(&self, rule: &RuleTable) -> Rc<WorkerPool> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(rule.pool.number).or_insert_with(|| {
            Rc::new(WorkerPool::new(rule.pool.clone(), self.number, self.observer.clone()))
        });
        pool.adopt(&rule.pool);
        pool.clone()
    }

    fn view(&self, table: Arc<ListenerTable>) -> Rc<DoorView> {
        let rules =
            table.rules.iter().map(|rule| Rule { table: rule.clone(), pool: self.pool(rule) }).collect();
        Rc::new(DoorView { table, rules })
    }

    /// An empty buffer, used before if one is at hand.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer back, unless it has grown large or there are enough.
    pub(crate) fn spare_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() <= SPARE_BYTES && buffers.len() < SPARES {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// An alarm at `deadline`, lent for as long as it is held.
    pub(crate) fn lend_alarm(self: &Rc<Self>, deadline: Tick) -> Lent {
        Lent { alarm: self.timers.alarm(deadline), worker: self.clone() }
    }

    /// Now.
    pub(crate) fn now(&self) -> Tick {
        self.clock.now()
    }
}

/// An alarm that goes back to its worker.
#[derive(Debug)]
pub(crate) struct Lent {
    alarm: Rc<Alarm>,
    worker: Rc<Worker>,
}

impl Deref for Lent {
    type Target = Rc<Alarm>;

    fn deref(&self) -> &Rc<Alarm> {
        &self.alarm
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.worker.timers.give_back(&self.alarm);
    }
}

struct OpenDoor {
    door: Rc<Door>,
    accepting: HashMap<u64, Accepting>,
}

/// What a worker starts with.
pub(crate) struct Start {
    pub(crate) number: usize,
    /// How many there are.
    pub(crate) workers: usize,
    pub(crate) clock: Clock,
    pub(crate) seed: u64,
    pub(crate) log: Option<LogSender>,
    pub(crate) decisions: Option<DecisionSender>,
    /// The metronome's.
    pub(crate) beat: Arc<Notify>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
}

/// Serves until a drain has ended.
pub(crate) async fn run(start: Start) {
    let worker = Rc::new(Worker {
        number: start.number,
        workers: start.workers,
        clock: start.clock,
        rng: RefCell::new(Rng::new(start.seed)),
        timers: Timers::new(start.clock.now()),
        turnstile: Turnstile::default(),
        scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
        out: RefCell::new(Vec::with_capacity(16 * 1024)),
        datagrams: RefCell::default(),
        buffers: RefCell::default(),
        log: start.log,
        observer: Rc::new(Observer::new(start.clock, start.decisions)),
        draining: Cell::new(false),
        connections: Cell::new(0),
        pools: RefCell::default(),
    });
    tokio::task::spawn_local(keep_time(worker.clone(), start.beat));
    let mut commands = start.commands;
    let mut doors: HashMap<Name, OpenDoor> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Doors(orders) => arrange(&worker, &mut doors, orders),
            Command::Settled(answer) => {
                let _asker_left = answer.send(());
            }
            Command::Drain => {
                worker.draining.set(true);
                worker.timers.end_rest();
                let closing: Vec<_> = doors.drain().flat_map(|(_, open)| close(open)).collect();
                for socket in closing {
                    let _panicked_and_said_so = socket.await;
                }
                break;
            }
            Command::Cut => {}
        }
    }
    let mut pause = tokio::time::interval(RESOLUTION);
    while worker.connections.get() > 0 {
        tokio::select! {
            _ = pause.tick() => {}
            command = commands.recv() => match command {
                Some(Command::Cut) | None => return,
                Some(Command::Doors(_) | Command::Drain | Command::Settled(_)) => {}
            }
        }
    }
}

/// Opens, changes and closes doors until they are as ordered.
fn arrange(worker: &Rc<Worker>, doors: &mut HashMap<Name, OpenDoor>, orders: Vec<DoorOrder>) {
    let stays = |name: &Name| orders.iter().any(|order| order.table.config.name == *name);
    for (_, open) in doors.extract_if(|name, _| !stays(name)) {
        close(open);
    }
    let mut used: Vec<u64> = Vec::new();
    for order in orders {
        used.extend(order.table.rules.iter().map(|rule| rule.pool.number));
        let name = order.table.config.name.clone();
        let view = worker.view(order.table);
        let open = doors.entry(name).or_insert_with(|| OpenDoor {
            door: Rc::new(Door {
                view: RefCell::new(view.clone()),
                closing: Cell::new(false),
                homing: Homing::default(),
            }),
            accepting: HashMap::new(),
        });
        *open.door.view.borrow_mut() = view;
        for number in order.close {
            open.accepting.remove(&number).map(Accepting::close);
        }
        for socket in order.open {
            let (number, accepting) = accept::accept_on(worker, &open.door, socket);
            open.accepting.insert(number, accepting);
        }
    }
    // Who waits is still served.
    worker.pools.borrow_mut().retain(|number, pool| used.contains(number) || !pool.line.is_empty());
}

/// Closes a door's sockets; done when all of these are.
fn close(open: OpenDoor) -> Vec<JoinHandle<()>> {
    open.door.closing.set(true);
    open.accepting.into_values().map(Accepting::close).collect()
}

/// Turns the wheel of alarms, serves who waits, and once a second closes idle connections nobody should use again.
async fn keep_time(worker: Rc<Worker>, beat: Arc<Notify>) {
    let mut swept = worker.now();
    loop {
        beat.notified().await;
        let now = worker.now();
        worker.timers.turn(now);
        serve_lines(&worker, now);
        if now.since(swept) >= Duration::from_secs(1) {
            swept = now;
            worker.pools.borrow().values().for_each(|pool| pool.sweep(now));
            // Of pools that are no longer configured, those nobody uses any more.
            worker.pools.borrow_mut().retain(|_, pool| Rc::strong_count(pool) > 1);
        }
    }
}

/// Serves whoever can be served of those who wait, and closes what stands in the way of others.
fn serve_lines(worker: &Worker, now: Tick) {
    let pools = worker.pools.borrow();
    pools.values().for_each(|pool| pool.moor_others());
    for pool in pools.values().filter(|pool| !pool.line.is_empty()) {
        pool.serve_line(worker.number, now, &mut worker.rng.borrow_mut());
    }
}
