//! What a snapshot shows: who may serve, in which order of tiers, and who is on trial.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::balance::{Policy, Slot};
use crate::destination::Name;
use crate::pool::PoolSpec;
use crate::pool::entry::Entry;
use crate::snapshot::{Member, Snapshot, Tier};
use crate::time::Tick;

/// The picture of a pool as its entries are settled now.
pub(super) fn picture(
    pool: &Name,
    generation: u64,
    spec: &PoolSpec,
    policy: &dyn Policy,
    entries: &[Entry],
) -> Snapshot {
    let mut by_priority: BTreeMap<u8, Vec<Slot>> = BTreeMap::new();
    for (rank, entry) in entries.iter().enumerate() {
        if entry.takes(entry.standing, spec.backup_tiers) {
            by_priority.entry(entry.destination.priority).or_default().push(slot(rank, entry));
        }
    }
    let tiers = by_priority.into_iter().map(|(priority, slots)| {
        let slots: Arc<[Slot]> = slots.into();
        Tier { priority, picker: policy.build(slots.clone()), slots }
    });
    let trials = entries.iter().enumerate().filter(|(_, entry)| entry.trial.is_some());
    Snapshot {
        pool: pool.clone(),
        generation,
        algorithm: spec.algorithm.name(),
        members: entries.iter().map(member).collect(),
        tiers: tiers.collect(),
        trials: trials.map(|(rank, entry)| slot(rank, entry)).collect(),
        // One moment for all: the last to open. A late trial costs balance, an early one costs a request.
        trials_for_all: entries
            .iter()
            .filter_map(|entry| Some(entry.trial?.for_all))
            .max()
            .unwrap_or(Tick::NEVER),
    }
}

fn slot(rank: usize, entry: &Entry) -> Slot {
    Slot {
        id: entry.id,
        name: entry.destination.name.clone(),
        address: entry.destination.address.clone(),
        weight: entry.destination.weight.in_256ths(),
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        live: entry.live.clone(),
    }
}

fn member(entry: &Entry) -> Member {
    Member {
        id: entry.id,
        destination: entry.destination.clone(),
        standing: entry.standing,
        since: entry.since,
        weight: entry.destination.weight.in_256ths(),
        live: entry.live.clone(),
    }
}
