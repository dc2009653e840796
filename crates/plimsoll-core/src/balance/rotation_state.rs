//! Where each worker's rotation stands, and which slot is next from there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once, PoisonError};

use super::{Partition, Slot};

/// One worker's place. It has its line (and the neighbour the prefetcher drags along) for itself.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cursor(AtomicU64);

/// The places of all workers. Belongs to the policy, so it outlives every picker.
#[derive(Debug)]
pub(super) struct RotationStates {
    cells: Box<[Cursor]>,
    started: Once,
}

impl RotationStates {
    /// Places for `workers` workers (at least one).
    pub(super) fn new(workers: usize) -> Self {
        Self { cells: (0..workers.max(1)).map(|_| Cursor::default()).collect(), started: Once::new() }
    }

    /// Sets every worker to its first place, once in the life of the policy: when the first picker is
    /// built, because only then it is known what there is to rotate over.
    pub(super) fn start(&self, place_of: impl Fn(usize) -> u64) {
        self.started.call_once(|| {
            for (worker, cell) in self.cells.iter().enumerate() {
                cell.0.store(place_of(worker), Relaxed);
            }
        });
    }

    /// The place of `worker`; a worker beyond the promised number shares one.
    pub(super) fn of(&self, worker: usize) -> &AtomicU64 {
        // Not `worker % len` at once: the division would cost more than the rest of a pick.
        let cell = self.cells.get(worker).unwrap_or_else(|| &self.cells[worker % self.cells.len()]);
        &cell.0
    }
}

/// The places in each part of a pool. Only building a picker looks here.
#[derive(Debug)]
pub(super) struct PartitionRotations {
    workers: usize,
    cursors: Mutex<BTreeMap<Partition, Arc<RotationStates>>>,
}

impl PartitionRotations {
    /// So many places are kept: 64 subsets in four zones with two priorities each. Past that all begin anew.
    const KEPT: usize = 512;

    /// Places for `workers` workers in each part.
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, cursors: Mutex::default() }
    }

    /// The places in one part.
    pub(super) fn of(&self, part: Partition) -> Arc<RotationStates> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() >= Self::KEPT && !cursors.contains_key(&part) {
            cursors.clear();
        }
        cursors.entry(part).or_insert_with(|| Arc::new(RotationStates::new(self.workers))).clone()
    }
}

/// A slot, and the rank where the rotation goes on after it.
#[derive(Copy, Clone, Debug)]
pub(super) struct Turn {
    pub(super) slot: u32,
    pub(super) after: u32,
}

/// The slots as a ring over the ranks of the whole pool. A cursor holds a rank, not an index, so a rotation
/// over some of the pool goes on exactly where a rotation over others of it stopped.
///
/// A rank is an index in the pool's list of members, so the table is never longer than that list.
#[derive(Debug)]
pub(super) struct Ring(Box<[Turn]>);

impl Ring {
    /// A ring over `slots`, which are sorted by rank and not empty.
    pub(super) fn new(slots: &[Slot]) -> Self {
        debug_assert!(slots.is_sorted_by(|a, b| a.rank < b.rank), "slots come in the order of the pool");
        let mut turns = Vec::with_capacity(slots.last().map_or(0, |last| last.rank as usize + 1));
        for (index, slot) in slots.iter().enumerate() {
            turns.resize(slot.rank as usize + 1, Turn { slot: index as u32, after: slot.rank + 1 });
        }
        Self(turns.into())
    }

    /// The first slot whose rank is at least `rank`; past the last one, the first of all.
    pub(super) fn at(&self, rank: u64) -> Turn {
        usize::try_from(rank).ok().and_then(|rank| self.0.get(rank)).copied().unwrap_or(self.0[0])
    }

    /// The rank where `worker` begins: worker 0 at the first slot, each next one a slot further, so that
    /// many workers do not all send their first message to the same destination.
    pub(super) fn start_of(slots: &[Slot], worker: usize) -> u64 {
        u64::from(slots[worker % slots.len()].rank)
    }
}
