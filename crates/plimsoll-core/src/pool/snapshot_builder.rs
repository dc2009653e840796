//! Builds a pool's snapshots from the state of its members.

use crate::balance::{Policy, Slot};
use crate::destination::{Name, Status};
use crate::pool::PoolSpec;
use crate::pool::member_state::MemberState;
use crate::snapshot::{Member, Snapshot};
use crate::time::Tick;

/// Builds the snapshot of a pool with these states of its members.
pub(super) fn build_snapshot(
    pool: &Name,
    generation: u64,
    spec: &PoolSpec,
    policy: &dyn Policy,
    states: &[MemberState],
) -> Snapshot {
    let members = states.iter().map(member).collect();
    let mut snapshot = Snapshot::build_with(pool.clone(), generation, policy, &spec.tiers, members);
    let on_trial =
        states.iter().zip(&snapshot.members).enumerate().filter(|(_, (state, _))| state.trial.is_some());
    let trials: Vec<Slot> = on_trial.map(|(rank, (_, member))| member.slot(rank)).collect();
    snapshot.trials = trials.into();
    // All trials share the latest time: a late trial costs balance, an early one costs a request.
    let for_all = states.iter().filter_map(|state| Some(state.trial?.for_all)).max();
    snapshot.trials_for_all = for_all.unwrap_or(Tick::NEVER);
    snapshot
}

fn member(state: &MemberState) -> Member {
    Member {
        id: state.id,
        destination: state.destination.clone(),
        status: state.status,
        since: state.since,
        weight: state.destination.weight.in_256ths(),
        slow_start: state.slow_start.filter(|_| state.status == Status::Warming),
        stats: state.stats.clone(),
    }
}
