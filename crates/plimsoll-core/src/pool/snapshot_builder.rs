//! What a pool's snapshot shows beyond its members: which tiers are used, and who is on trial.

use crate::balance::{Policy, Slot};
use crate::destination::{Name, Status};
use crate::pool::PoolSpec;
use crate::pool::member_state::MemberState;
use crate::snapshot::{Member, Snapshot};
use crate::time::Tick;

/// The picture of a pool as its entries are settled now.
pub(super) fn picture(
    pool: &Name,
    generation: u64,
    spec: &PoolSpec,
    policy: &dyn Policy,
    entries: &[MemberState],
) -> Snapshot {
    let members = entries.iter().map(member).collect();
    let mut snapshot = Snapshot::build_with(pool.clone(), generation, policy, &spec.tiers, members);
    let on_trial = entries.iter().zip(&snapshot.members).enumerate().filter(|(_, (e, _))| e.trial.is_some());
    let trials: Vec<Slot> = on_trial.map(|(rank, (_, member))| member.slot(rank)).collect();
    snapshot.trials = trials.into();
    // One moment for all: the last to open. A late trial costs balance, an early one costs a request.
    let for_all = entries.iter().filter_map(|entry| Some(entry.trial?.for_all)).max();
    snapshot.trials_for_all = for_all.unwrap_or(Tick::NEVER);
    snapshot
}

fn member(entry: &MemberState) -> Member {
    Member {
        id: entry.id,
        destination: entry.destination.clone(),
        status: entry.status,
        since: entry.since,
        weight: entry.destination.weight.in_256ths(),
        slow_start: entry.slow_start.filter(|_| entry.status == Status::Warming),
        stats: entry.stats.clone(),
    }
}
