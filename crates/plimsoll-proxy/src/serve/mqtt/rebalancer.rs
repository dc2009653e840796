//! Rebalancing of MQTT connections to their preferred destinations, at a limited rate.
//!
//! Devices keep a connection for days, so a destination that returns would stay empty while the others are
//! overloaded. Misplaced connections are therefore closed, a few each second, and each when nothing waits for a response.
//! The clients reconnect to their preferred destination. Closing all at once would cause a reconnect storm.

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

/// Interval between two scans for misplaced connections.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Connections examined per scan, which takes microseconds whatever the total.
const SCAN_BATCH: usize = 1024;
/// Time for which a destination must have served before connections are moved to it, so that a flapping one
/// gets none.
const MIN_UPTIME: Duration = Duration::from_secs(10);
/// Scans within which all connections are closed when the process shuts down.
const DRAIN_SCANS: usize = 5;

/// When a connection is to be closed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disconnect {
    #[default]
    No,
    /// When no packet is incomplete and nothing waits for a response.
    WhenQuiet,
    /// When no packet is incomplete.
    BetweenPackets,
}

/// A connection with a preferred destination.
#[derive(Debug)]
pub(crate) struct RebalancedConnection {
    key: u64,
    pool: Rc<WorkerPool>,
    subset: Option<Arc<Subset>>,
    destination: DestinationId,
    rebalancer: Rc<Rebalancer>,
    /// Index in the rebalancer's list.
    at: Cell<usize>,
    disconnect: Cell<Disconnect>,
    waker: RefCell<Option<Waker>>,
}

impl RebalancedConnection {
    /// Returns whether and when the connection has to be closed, and registers the waker.
    pub(crate) fn poll_disconnect(&self, cx: &mut Context<'_>) -> Disconnect {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.disconnect.get()
    }

    fn disconnect(&self, when: Disconnect) {
        self.disconnect.set(when.max(self.disconnect.get()));
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn is_misplaced(&self, worker: &WorkerContext) -> bool {
        let preferred = self.pool.preferred_destination(self.key, self.subset.as_deref());
        preferred.is_some_and(|(id, since)| {
            id != self.destination && worker.timers.about_now().since(since) >= MIN_UPTIME
        })
    }
}

impl Drop for RebalancedConnection {
    fn drop(&mut self) {
        let mut connections = self.rebalancer.connections.borrow_mut();
        let at = self.at.get();
        connections.swap_remove(at);
        if let Some(moved) = connections.get(at).and_then(Weak::upgrade) {
            moved.at.set(at);
        }
    }
}

/// Connections of one listener on one worker.
#[derive(Debug, Default)]
pub(crate) struct Rebalancer {
    connections: RefCell<Vec<Weak<RebalancedConnection>>>,
    running: Cell<bool>,
}

impl Rebalancer {
    /// Registers a connection of `key` to a destination.
    pub(crate) fn register(
        worker: &Rc<WorkerContext>,
        listener: &Rc<WorkerListener>,
        key: u64,
        (route, destination): (&WorkerRoute, DestinationId),
    ) -> Rc<RebalancedConnection> {
        let rebalancer = listener.local.get::<Rebalancer>();
        let mut connections = rebalancer.connections.borrow_mut();
        let (at, disconnect, waker) = (Cell::new(connections.len()), Cell::default(), RefCell::new(None));
        let (pool, subset) = (route.pool.clone(), route.table.subset.clone());
        let connection = Rc::new(RebalancedConnection {
            key,
            pool,
            subset,
            destination,
            rebalancer: rebalancer.clone(),
            at,
            disconnect,
            waker,
        });
        connections.push(Rc::downgrade(&connection));
        if !rebalancer.running.replace(true) {
            tokio::task::spawn_local(run(worker.clone(), listener.clone()));
        }
        connection
    }

    /// Examines the next part of the connections, and disconnects up to `max` of them. Returns how many.
    fn scan(&self, worker: &WorkerContext, at: &mut usize, max: usize) -> usize {
        let connections = self.connections.borrow();
        let mut disconnected = 0;
        for _ in 0..SCAN_BATCH.min(connections.len()) {
            if disconnected == max {
                break;
            }
            *at = (*at + 1) % connections.len();
            let Some(connection) = connections[*at].upgrade() else { continue };
            if connection.disconnect.get() == Disconnect::No && connection.is_misplaced(worker) {
                connection.disconnect(Disconnect::WhenQuiet);
                disconnected += 1;
            }
        }
        disconnected
    }

    /// Disconnects a part of the connections, so that none is left after `scans`. Then those that still wait for a
    /// response are closed, too.
    fn disconnect_part(&self, scans: usize) {
        let connections: Vec<_> = self.connections.borrow().iter().filter_map(Weak::upgrade).collect();
        let staying = connections.iter().filter(|connection| connection.disconnect.get() == Disconnect::No);
        let part = staying.clone().count().div_ceil(scans.max(1));
        staying.take(part).for_each(|connection| connection.disconnect(Disconnect::WhenQuiet));
        if scans == 0 {
            connections.iter().for_each(|connection| connection.disconnect(Disconnect::BetweenPackets));
        }
    }
}

/// Runs while the listener has connections with a preferred destination.
async fn run(worker: Rc<WorkerContext>, listener: Rc<WorkerListener>) {
    let rebalancer = listener.local.get::<Rebalancer>();
    let (mut at, mut allowance, mut scans) = (0, 0.0, DRAIN_SCANS);
    loop {
        let timer = worker.timer(worker.now() + SCAN_INTERVAL);
        std::future::poll_fn(|cx| timer.poll(cx)).await;
        if worker.draining.get() || listener.is_closing() {
            rebalancer.disconnect_part(scans);
            scans = scans.saturating_sub(1);
        } else {
            let routes = listener.routes();
            let rate = routes.table.config.mqtt.rebalance as f64 / worker.workers as f64;
            // Unused allowance is not saved up, except for a fraction below one connection.
            allowance = f64::min(allowance + rate, rate.max(1.0));
            allowance -= rebalancer.scan(&worker, &mut at, allowance as usize) as f64;
        }
        if rebalancer.connections.borrow().is_empty() {
            return rebalancer.running.set(false);
        }
    }
}
