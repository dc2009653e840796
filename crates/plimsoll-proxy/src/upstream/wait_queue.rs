//! Queue data of one worker: its requests that wait for a destination, and how other workers wake it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use plimsoll_core::subset::{Fallback, Subset};
use plimsoll_core::{AttemptedSet, NoDestination, PickRequest};
use tokio::sync::Notify;

use crate::upstream::chosen::Chosen;

/// Waker of a worker: it serves its queues.
pub(crate) struct WorkerWaker(pub(crate) Weak<Notify>);

impl Wake for WorkerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(tick) = self.0.upgrade() {
            tick.notify_one();
        }
    }
}

/// One worker's queue of a pool, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue(RefCell<VecDeque<Rc<QueuedRequest>>>);

/// A request that waits for a destination.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    /// Position in the order of arrival over all workers.
    pub(super) number: u64,
    pub(super) tried: AttemptedSet,
    pub(super) repeatable: bool,
    pub(super) sent_later: bool,
    pub(super) home: Option<u64>,
    pub(super) key: Option<u64>,
    pub(super) subset: Option<Subset>,
    /// Result of the wait, until the request takes it.
    pub(super) result: RefCell<Option<Result<Chosen, NoDestination>>>,
    pub(super) waker: RefCell<Option<Waker>>,
}

impl WaitQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Returns the number of the first request that any destination may serve.
    pub(super) fn head(&self) -> Option<u64> {
        self.0.borrow().iter().find(|request| request.is_unconstrained()).map(|request| request.number)
    }

    pub(super) fn get(&self, at: usize) -> Option<Rc<QueuedRequest>> {
        self.0.borrow().get(at).cloned()
    }

    /// Appends a request.
    pub(super) fn push(&self, request: Rc<QueuedRequest>) {
        self.0.borrow_mut().push_back(request);
    }

    /// Removes a request, if it still waits.
    pub(super) fn remove(&self, number: u64) -> Option<Rc<QueuedRequest>> {
        let mut queue = self.0.borrow_mut();
        let at = queue.binary_search_by_key(&number, |request| request.number).ok()?;
        queue.remove(at)
    }
}

impl QueuedRequest {
    /// Reports whether any destination may serve the request.
    pub(super) fn is_unconstrained(&self) -> bool {
        self.tried.is_empty() && self.subset_id().is_none()
    }

    /// Returns the id of the subset that alone may serve the request.
    pub(super) fn subset_id(&self) -> Option<u64> {
        self.subset.as_ref().filter(|subset| subset.fallback == Fallback::None).map(Subset::id)
    }

    pub(super) fn pick_request(&self, worker: usize) -> PickRequest<'_> {
        PickRequest {
            worker,
            tried: Some(&self.tried),
            repeatable: self.repeatable,
            sent_later: self.sent_later,
            affinity_key: self.home,
            key: self.key,
            subset: self.subset.as_ref(),
            dequeued: true,
        }
    }
}
