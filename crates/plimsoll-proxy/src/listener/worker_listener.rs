//! A listener on one worker, the routes it leads to, and its connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_core::{AttemptedSet, PickRequest};

use crate::base::context::{LocalState, WorkerContext};
use crate::listener::source_limits::SourcePermit;
use crate::listener::tables::{ListenerTable, RouteTable};
use crate::upstream::pool::WorkerPool;

/// A listener on one worker.
#[derive(Debug)]
pub(crate) struct WorkerListener {
    routes: RefCell<Rc<ListenerRoutes>>,
    closing: Cell<bool>,
    /// State that the listener's protocol keeps on this worker.
    pub(crate) local: LocalState,
}

/// Routes of a listener, as of its latest configuration.
#[derive(Debug)]
pub(crate) struct ListenerRoutes {
    pub(crate) table: Arc<ListenerTable>,
    pub(crate) routes: Vec<WorkerRoute>,
}

/// A route with this worker's side of its pool.
#[derive(Clone, Debug)]
pub(crate) struct WorkerRoute {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) pool: Rc<WorkerPool>,
}

impl WorkerRoute {
    /// Reports whether a destination of this route may serve and was not tried yet.
    pub(crate) fn has_untried(&self, tried: &AttemptedSet) -> bool {
        let subset = self.table.subset.as_deref();
        self.pool.has_untried(&PickRequest { tried: Some(tried), subset, ..PickRequest::default() })
    }
}

impl WorkerListener {
    pub(crate) fn new(routes: Rc<ListenerRoutes>) -> Self {
        Self { routes: RefCell::new(routes), closing: Cell::new(false), local: LocalState::default() }
    }

    /// Returns the routes of the latest configuration.
    pub(crate) fn routes(&self) -> Rc<ListenerRoutes> {
        self.routes.borrow().clone()
    }

    /// Sets the routes of a newer configuration.
    pub(crate) fn set_routes(&self, routes: Rc<ListenerRoutes>) {
        *self.routes.borrow_mut() = routes;
    }

    /// Stops keep-alive: responses from now on carry `Connection: close`.
    pub(crate) fn close(&self) {
        self.closing.set(true);
    }

    /// Reports whether the listener was closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }
}

/// An open connection or flow of a listener, counted from accept to close.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    pub(crate) worker: Rc<WorkerContext>,
    pub(crate) listener: Rc<WorkerListener>,
    /// Count of its source, if that is limited.
    pub(crate) source: Option<SourcePermit>,
}

impl ConnectionGuard {
    /// Counts a new connection until the guard is dropped.
    pub(crate) fn open(worker: &Rc<WorkerContext>, listener: &Rc<WorkerListener>) -> Self {
        let routes = listener.routes();
        routes.table.shared.open.fetch_add(1, Relaxed);
        routes.table.shared.counters.of(worker.number).opened.add(1);
        worker.connections.set(worker.connections.get() + 1);
        Self { worker: worker.clone(), listener: listener.clone(), source: None }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let routes = self.listener.routes();
        routes.table.shared.open.fetch_sub(1, Relaxed);
        routes.table.shared.counters.of(self.worker.number).closed.add(1);
        self.worker.connections.set(self.worker.connections.get() - 1);
    }
}
