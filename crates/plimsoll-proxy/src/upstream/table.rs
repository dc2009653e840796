//! A pool's configuration and shared state for workers, and the cell of its snapshots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_config::model;
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::{FailureSignal, PoolLimiter, Snapshot};

use crate::base::counters::{PerWorker, PoolCounters};
use crate::net::tls::client_config::ClientTlsConfig;

/// Latest snapshot of a pool: written by its driver, read by workers after a comparison of generations.
#[derive(Debug)]
pub(crate) struct SnapshotCell {
    generation: AtomicU64,
    snapshot: Mutex<Arc<Snapshot>>,
}

impl SnapshotCell {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { generation: AtomicU64::new(snapshot.generation), snapshot: Mutex::new(snapshot) }
    }

    /// Publishes a snapshot.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.generation.store(generation, Ordering::Release);
    }

    /// Returns the generation of the latest snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the latest snapshot.
    pub(crate) fn latest(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A pool as workers see it.
#[derive(Debug)]
pub(crate) struct PoolTable {
    /// Unique number: a pool that is removed and added again under the same name gets a new one.
    pub(crate) number: u64,
    pub(crate) config: Arc<model::Pool>,
    /// TLS towards the destinations, if the pool uses it.
    pub(crate) client_tls: Option<Arc<ClientTlsConfig>>,
    pub(crate) snapshots: Arc<SnapshotCell>,
    pub(crate) budget: Arc<RetryBudget>,
    /// Limits of the pool and the state of its queues.
    pub(crate) limiter: Arc<PoolLimiter>,
    pub(crate) signals: tokio::sync::mpsc::Sender<FailureSignal>,
    pub(crate) counters: Arc<PerWorker<PoolCounters>>,
}
