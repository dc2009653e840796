//! State of rotations: the place of each worker, and the slot that is next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once, PoisonError};

use super::{Partition, Slot};

/// Place of one worker, on a cache line of its own (and the neighbour that the prefetcher loads).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cursor(AtomicU64);

/// Places of all workers. They belong to the policy and outlive its pickers.
#[derive(Debug)]
pub(super) struct RotationStates {
    cells: Box<[Cursor]>,
    started: Once,
    /// State of turns by weight, used only when a picker is built.
    current_weights: Mutex<Arc<CurrentWeights>>,
}

impl RotationStates {
    /// Creates the places of `workers` workers, at least one.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            cells: (0..workers.max(1)).map(|_| Cursor::default()).collect(),
            started: Once::new(),
            current_weights: Mutex::default(),
        }
    }

    /// Sets every worker to its first place, once in the life of the policy: when the first picker is built and the
    /// slots are known.
    pub(super) fn start(&self, place_of: impl Fn(usize) -> u64) {
        self.started.call_once(|| {
            for (worker, cell) in self.cells.iter().enumerate() {
                cell.0.store(place_of(worker), Relaxed);
            }
        });
    }

    /// Returns the number of workers.
    pub(super) fn workers(&self) -> usize {
        self.cells.len()
    }

    /// Returns the state of turns by weight; empty before the first picker.
    pub(super) fn current_weights(&self) -> Arc<CurrentWeights> {
        self.current_weights.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the state of turns by weight.
    pub(super) fn set_current_weights(&self, current: Arc<CurrentWeights>) {
        *self.current_weights.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// Returns the place of `worker`; workers beyond the expected number share one.
    pub(super) fn of(&self, worker: usize) -> &AtomicU64 {
        // Without the branch, the division of `%` would cost more than the rest of a pick.
        let cell = self.cells.get(worker).unwrap_or_else(|| &self.cells[worker % self.cells.len()]);
        &cell.0
    }
}

/// `current_weight` of nginx for each slot and worker, by the slot's rank.
#[derive(Debug, Default)]
pub(super) struct CurrentWeights {
    ranks: Box<[u32]>,
    by_worker: Box<[Box<[AtomicI64]>]>,
}

impl CurrentWeights {
    /// Creates the state of the slots with these ranks, in ascending order, with the values of each worker.
    pub(super) fn new(ranks: Box<[u32]>, by_worker: Box<[Box<[AtomicI64]>]>) -> Self {
        Self { ranks, by_worker }
    }

    /// Returns whether there are no slots.
    pub(super) fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Returns the values of a worker; workers beyond the expected number share those of others.
    pub(super) fn of_worker(&self, worker: usize) -> &[AtomicI64] {
        self.by_worker.get(worker).unwrap_or_else(|| &self.by_worker[worker % self.by_worker.len()])
    }

    /// Returns the value of the slot with this rank; 0 for a new one.
    pub(super) fn of(&self, worker: usize, rank: u32) -> i64 {
        let index = self.ranks.binary_search(&rank).ok();
        let current = index.and_then(|index| self.by_worker.get(worker)?.get(index));
        current.map_or(0, |current| current.load(Relaxed))
    }
}

/// Places in each partition of a pool, used only when a picker is built.
#[derive(Debug)]
pub(super) struct PartitionRotations {
    workers: usize,
    cursors: Mutex<BTreeMap<Partition, Arc<RotationStates>>>,
}

impl PartitionRotations {
    /// Maximum number of partitions: 64 subsets in four zones with two priorities each. Beyond it all places are reset.
    const MAX_PARTITIONS: usize = 512;

    /// Creates places for `workers` workers in each partition.
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, cursors: Mutex::default() }
    }

    /// Returns the places in one partition.
    pub(super) fn of(&self, partition: Partition) -> Arc<RotationStates> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() >= Self::MAX_PARTITIONS && !cursors.contains_key(&partition) {
            cursors.clear();
        }
        cursors.entry(partition).or_insert_with(|| Arc::new(RotationStates::new(self.workers))).clone()
    }
}

/// A slot, and the rank at which the rotation continues after it.
#[derive(Copy, Clone, Debug)]
pub(super) struct Turn {
    pub(super) slot: u32,
    pub(super) after: u32,
}

/// Slots as a ring over the ranks of the pool. A place is a rank, not an index, so a rotation over some members
/// continues where a rotation over others stopped.
///
/// A rank is an index of the pool's members, so the table is never longer than that list.
#[derive(Debug)]
pub(super) struct Ring(Box<[Turn]>);

impl Ring {
    /// Creates a ring over `slots`, which are sorted by rank and not empty.
    pub(super) fn new(slots: &[Slot]) -> Self {
        debug_assert!(slots.is_sorted_by(|a, b| a.rank < b.rank), "slots come in the order of the pool");
        let mut turns = Vec::with_capacity(slots.last().map_or(0, |last| last.rank as usize + 1));
        for (index, slot) in slots.iter().enumerate() {
            turns.resize(slot.rank as usize + 1, Turn { slot: index as u32, after: slot.rank + 1 });
        }
        Self(turns.into())
    }

    /// Returns the first slot with at least this rank, or the first of all.
    pub(super) fn at(&self, rank: u64) -> Turn {
        usize::try_from(rank).ok().and_then(|rank| self.0.get(rank)).copied().unwrap_or(self.0[0])
    }

    /// Returns the first rank of `worker`: each worker begins one slot further, so that the first messages of many
    /// workers go to different destinations.
    pub(super) fn start_of(slots: &[Slot], worker: usize) -> u64 {
        u64::from(slots[worker % slots.len()].rank)
    }
}
