//! A pool as workers see it, and the cell its snapshots are published in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_config::model;
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::{FailureSignal, PoolLimiter, Snapshot};

use crate::base::counters::{PerWorker, PoolCounters};
use crate::net::tls::client_config::ClientTlsConfig;

/// The latest snapshot of a pool: written by its driver, read by workers that compare a number first.
#[derive(Debug)]
pub(crate) struct SnapshotCell {
    generation: AtomicU64,
    snapshot: Mutex<Arc<Snapshot>>,
}

impl SnapshotCell {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { generation: AtomicU64::new(snapshot.generation), snapshot: Mutex::new(snapshot) }
    }

    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.generation.store(generation, Ordering::Release);
    }

    /// The number of the latest snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn latest(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A pool as workers see it. `number` is never used again, so a worker's connections to a pool that went
/// and came back under the same name are not mixed up.
#[derive(Debug)]
pub(crate) struct PoolTable {
    pub(crate) number: u64,
    pub(crate) config: Arc<model::Pool>,
    /// How TLS is spoken to its destinations, if it is.
    pub(crate) client_tls: Option<Arc<ClientTlsConfig>>,
    pub(crate) snapshots: Arc<SnapshotCell>,
    pub(crate) budget: Arc<RetryBudget>,
    /// What it has at once, and who waits for it.
    pub(crate) limiter: Arc<PoolLimiter>,
    pub(crate) signals: tokio::sync::mpsc::Sender<FailureSignal>,
    pub(crate) counters: Arc<PerWorker<PoolCounters>>,
}
