//! A data-plane thread: its listeners, its pools, and the commands it follows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::{Name, Tick};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::base::clock::Clock;
use crate::base::context::WorkerContext;
use crate::base::log_writer::LogSender;
use crate::base::timer::RESOLUTION;
use crate::listener::accept::{self, AcceptTask, AcceptingListener, Socket};
use crate::listener::adapter::SocketHandler;
use crate::listener::tables::{ListenerTable, RouteTable};
use crate::listener::worker_listener::{ListenerRoutes, WorkerListener, WorkerRoute};
use crate::log::decision_log::{DecisionSampler, DecisionSender};
use crate::upstream::pool::WorkerPool;

/// Command of the control plane to a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Makes the listeners of the worker match this list: opens new ones, closes missing ones, updates the others.
    Listeners(Vec<ListenerUpdate>),
    /// Reports when all earlier commands are in force.
    Sync(oneshot::Sender<()>),
    /// Stops accepting, closes idle connections and finishes the active ones.
    Drain,
    /// Closes the connections that a drain still waits for.
    Abort,
}

/// Desired state of one listener on a worker.
#[derive(Debug)]
pub(crate) struct ListenerUpdate {
    pub(crate) table: Arc<ListenerTable>,
    /// Handler of the listener's sockets.
    pub(crate) handler: SocketHandler,
    /// Sockets to accept on, beside those that the listener already has.
    pub(crate) open: Vec<Socket>,
    /// Numbers of the sockets to close.
    pub(crate) close: Vec<u64>,
}

/// A listener with its open sockets, by socket number.
struct BoundListener {
    accepting: Rc<AcceptingListener>,
    accept_tasks: HashMap<u64, AcceptTask>,
}

/// Parameters of a new worker.
pub(crate) struct Start {
    pub(crate) number: usize,
    /// Number of workers.
    pub(crate) workers: usize,
    pub(crate) clock: Clock,
    pub(crate) seed: u64,
    pub(crate) log: Option<LogSender>,
    pub(crate) decisions: Option<DecisionSender>,
    /// Notified by the ticker thread.
    pub(crate) tick: Arc<Notify>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
}

/// The thread's side of the configured pools.
struct Pools {
    worker: usize,
    sampler: Rc<DecisionSampler>,
    by_number: RefCell<HashMap<u64, Rc<WorkerPool>>>,
}

impl Pools {
    /// Returns this worker's side of a route's pool, with the pool's latest configuration.
    fn pool(&self, route: &RouteTable) -> Rc<WorkerPool> {
        let mut pools = self.by_number.borrow_mut();
        let pool = pools.entry(route.pool.number).or_insert_with(|| {
            Rc::new(WorkerPool::new(route.pool.clone(), self.worker, self.sampler.clone()))
        });
        pool.adopt(&route.pool);
        pool.clone()
    }

    fn routes(&self, table: Arc<ListenerTable>) -> Rc<ListenerRoutes> {
        let join = |route: &Arc<RouteTable>| WorkerRoute { table: route.clone(), pool: self.pool(route) };
        let routes = table.routes.iter().map(join).collect();
        Rc::new(ListenerRoutes { table, routes })
    }

    /// Serves queued requests where there is capacity, and closes idle connections that other workers wait for.
    fn serve_queues(&self, worker: &WorkerContext, now: Tick) {
        let pools = self.by_number.borrow();
        pools.values().for_each(|pool| pool.evict_idle_for_waiters());
        for pool in pools.values().filter(|pool| !pool.queue.is_empty()) {
            pool.serve_queue(worker.number, now, &mut worker.rng.borrow_mut());
        }
    }

    /// Closes idle connections that are too old, and drops pools that are no longer configured or used.
    fn sweep(&self, now: Tick) {
        let mut pools = self.by_number.borrow_mut();
        pools.values().for_each(|pool| pool.sweep(now));
        pools.retain(|_, pool| Rc::strong_count(pool) > 1);
    }
}

/// Runs a worker until its drain has ended.
pub(crate) async fn run(start: Start) {
    let worker = Rc::new(WorkerContext::new(start.number, start.workers, start.clock, start.seed, start.log));
    let pools = Rc::new(Pools {
        worker: start.number,
        sampler: Rc::new(DecisionSampler::new(start.clock, start.decisions)),
        by_number: RefCell::default(),
    });
    tokio::task::spawn_local(keep_time(worker.clone(), pools.clone(), start.tick));
    let mut commands = start.commands;
    let mut listeners: HashMap<Name, BoundListener> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listeners(updates) => apply_listeners(&worker, &pools, &mut listeners, updates),
            Command::Sync(done) => {
                let _receiver_dropped = done.send(());
            }
            Command::Drain => {
                worker.draining.set(true);
                worker.timers.drain_idle();
                let closing: Vec<_> = listeners.drain().flat_map(|(_, bound)| close(bound)).collect();
                for socket in closing {
                    let _panic_was_logged = socket.await;
                }
                break;
            }
            Command::Abort => {}
        }
    }
    let mut pause = tokio::time::interval(RESOLUTION);
    while worker.connections.get() > 0 {
        tokio::select! {
            _ = pause.tick() => {}
            command = commands.recv() => match command {
                Some(Command::Abort) | None => return,
                Some(Command::Listeners(_) | Command::Drain | Command::Sync(_)) => {}
            }
        }
    }
}

/// Opens, updates and closes listeners until they match `updates`.
fn apply_listeners(
    worker: &Rc<WorkerContext>,
    pools: &Pools,
    listeners: &mut HashMap<Name, BoundListener>,
    updates: Vec<ListenerUpdate>,
) {
    let stays = |name: &Name| updates.iter().any(|update| update.table.config.name == *name);
    for (_, bound) in listeners.extract_if(|name, _| !stays(name)) {
        close(bound);
    }
    let mut used: Vec<u64> = Vec::new();
    for update in updates {
        used.extend(update.table.routes.iter().map(|route| route.pool.number));
        let name = update.table.config.name.clone();
        let routes = pools.routes(update.table);
        let bound = listeners.entry(name).or_insert_with(|| BoundListener {
            accepting: AcceptingListener::new(
                Rc::new(WorkerListener::new(routes.clone())),
                update.handler.clone(),
            ),
            accept_tasks: HashMap::new(),
        });
        bound.accepting.listener.set_routes(routes);
        bound.accepting.set_handler(update.handler);
        for number in update.close {
            bound.accept_tasks.remove(&number).map(AcceptTask::close);
        }
        for socket in update.open {
            let (number, task) = accept::accept_on(worker, &bound.accepting, socket);
            bound.accept_tasks.insert(number, task);
        }
    }
    // Requests that are queued for a removed pool are still served.
    pools.by_number.borrow_mut().retain(|number, pool| used.contains(number) || !pool.queue.is_empty());
}

/// Closes the sockets of a listener. Each returned task ends when its socket is closed.
fn close(bound: BoundListener) -> Vec<JoinHandle<()>> {
    bound.accepting.listener.close();
    bound.accept_tasks.into_values().map(AcceptTask::close).collect()
}

/// Advances the timers and serves the queues at each tick, and sweeps the pools once a second.
async fn keep_time(worker: Rc<WorkerContext>, pools: Rc<Pools>, tick: Arc<Notify>) {
    let mut swept = worker.now();
    loop {
        tick.notified().await;
        let now = worker.now();
        worker.timers.advance(now);
        pools.serve_queues(&worker, now);
        if now.since(swept) >= Duration::from_secs(1) {
            swept = now;
            pools.sweep(now);
        }
    }
}
