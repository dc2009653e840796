//! Health, distribution, performance and recommendations of a balancer's pool.

use plimsoll_core::balance::Algorithm;
use plimsoll_core::quality::{deviation, intended_shares};
use plimsoll_core::snapshot::Member;
use plimsoll_core::{Snapshot, Tick};

use crate::config::LoadBalancingConfig;
use crate::outcome_window::{MeasuredDestination, OutcomeWindow};
use crate::result::{
    DestinationShare, HealthState, HealthStatus, LoadDistribution, PerformanceMetrics, Recommendation,
};

/// Consecutive failures that make a destination a failing one: the default of outlier detection.
const FAILING_AT: u32 = 5;

/// Whether a destination has failed too often in a row.
pub(crate) fn is_failing(member: &Member) -> bool {
    member.stats.streak() >= FAILING_AT
}

fn may_serve(member: &Member) -> bool {
    member.status.serves() && member.weight > 0
}

/// Returns the number of destinations with a weight above 0, and how many of them are healthy.
fn count_serving(snapshot: &Snapshot, config: &LoadBalancingConfig) -> (usize, usize) {
    let candidates = snapshot.members.iter().filter(|member| member.weight > 0);
    let healthy = snapshot.members.iter().filter(|member| may_serve(member));
    let healthy = healthy.filter(|member| !(config.health_checking && is_failing(member)));
    (candidates.count(), healthy.count())
}

/// Returns the health of a pool.
pub(crate) fn health_state(snapshot: &Snapshot, config: &LoadBalancingConfig) -> HealthState {
    match count_serving(snapshot, config) {
        (_, 0) => HealthState::Down,
        (candidates, healthy) if healthy < candidates => HealthState::Degraded,
        _ => HealthState::Healthy,
    }
}

/// The health of a pool, with the time of its last change.
#[derive(Debug)]
pub(crate) struct HealthTracker {
    state: HealthState,
    since: Tick,
}

impl HealthTracker {
    /// Starts as healthy.
    pub(crate) fn new(now: Tick) -> Self {
        Self { state: HealthState::Healthy, since: now }
    }

    /// Sets the health; the time changes only with it.
    pub(crate) fn set(&mut self, state: HealthState, now: Tick) {
        if self.state != state {
            *self = Self { state, since: now };
        }
    }

    /// Returns the time of the last change.
    pub(crate) fn since(&self) -> Tick {
        self.since
    }

    /// Returns the health to report; `since` is the time of the last change in milliseconds since 1970.
    pub(crate) fn status(
        &self,
        snapshot: &Snapshot,
        config: &LoadBalancingConfig,
        since: u64,
    ) -> HealthStatus {
        let (_, serving) = count_serving(snapshot, config);
        HealthStatus { state: self.state, serving, total: snapshot.members.len(), since }
    }
}

/// Returns the shares of the messages assigned since `started_before`, the earlier counts by member.
pub(crate) fn distribution(
    snapshot: &Snapshot,
    algorithm: Algorithm,
    started_before: &[u64],
) -> LoadDistribution {
    let intended = intended_shares(snapshot, algorithm.heeds_weights());
    let counts = snapshot.members.iter().zip(started_before);
    let assigned: Vec<u64> =
        counts.map(|(member, before)| member.stats.counts().started.saturating_sub(*before)).collect();
    let total: u64 = assigned.iter().sum();
    let deviation = deviation(assigned.iter().copied().zip(intended.iter().copied()));
    let share = |(member, (assigned, intended_share)): (&Member, (u64, f64))| DestinationShare {
        id: member.destination.name.to_string(),
        weight: member.destination.weight.get(),
        effective_weight: f64::from(member.weight) / 256.0,
        intended_share,
        share: (total > 0).then(|| assigned as f64 / total as f64),
        in_flight: member.stats.in_flight(),
    };
    let shares = snapshot.members.iter().zip(assigned.into_iter().zip(intended)).map(share);
    LoadDistribution { deviation, destinations: shares.collect() }
}

/// Returns the performance within the window.
pub(crate) fn performance(snapshot: &Snapshot, window: &OutcomeWindow, now: Tick) -> PerformanceMetrics {
    let subjects = snapshot.members.iter().map(|member| MeasuredDestination {
        id: member.id,
        name: &member.destination.name,
        in_flight: member.stats.in_flight(),
    });
    window.metrics(now, &subjects.collect::<Vec<_>>())
}

/// Returns the recommendations for a pool.
pub(crate) fn recommendations(snapshot: &Snapshot, config: &LoadBalancingConfig) -> Vec<Recommendation> {
    let members = snapshot.members.iter();
    let failing = members.filter(|member| config.health_checking && is_failing(member));
    failing
        .map(recommend_removal)
        .chain(recommend_redundancy(snapshot))
        .chain(recommend_weighted_algorithm(snapshot, config.algorithm))
        .collect()
}

fn recommend_removal(member: &Member) -> Recommendation {
    let (name, streak) = (&*member.destination.name, member.stats.streak());
    Recommendation {
        id: format!("failing_destination:{name}"),
        kind: "failing_destination".into(),
        subject: name.into(),
        message: format!("Remove `{name}` from the list, or set its weight to 0, until it responds again."),
        evidence: vec![format!("its last {streak} reported messages failed")],
        expected_effect: "no further messages fail at this destination".into(),
        // Laplace's rule of succession: the probability that the next message fails.
        confidence: f64::from(streak + 1) / f64::from(streak + 2),
        command: None,
    }
}

fn recommend_redundancy(snapshot: &Snapshot) -> Option<Recommendation> {
    let mut candidates = snapshot.members.iter().filter(|member| may_serve(member));
    let name = &*candidates.next()?.destination.name;
    candidates.next().is_none().then(|| Recommendation {
        id: format!("no_redundancy:{name}"),
        kind: "no_redundancy".into(),
        subject: name.into(),
        message: "Add a second destination, if only as a backup tier (priority 1).".into(),
        evidence: vec![format!("`{name}` is the only destination that may serve")],
        expected_effect: "the pool survives the failure of one destination".into(),
        confidence: 1.0,
        command: None,
    })
}

fn recommend_weighted_algorithm(snapshot: &Snapshot, algorithm: Algorithm) -> Option<Recommendation> {
    let slots = &snapshot.pool_tiers.tiers.first()?.slots;
    let differ = slots.iter().any(|slot| slot.weight != slots[0].weight);
    (differ && !algorithm.heeds_weights()).then(|| Recommendation {
        id: "weights_ignored:algorithm".into(),
        kind: "weights_ignored".into(),
        subject: "algorithm".into(),
        message: format!("Use `weighted_{}`.", algorithm.name()),
        evidence: vec![format!("weights differ, and `{}` ignores them", algorithm.name())],
        expected_effect: "shares follow the weights".into(),
        confidence: 1.0,
        command: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_the_time_of_the_last_change() {
        let at = Tick::from_nanos;
        let mut health = HealthTracker::new(at(1));
        health.set(HealthState::Healthy, at(2));
        assert_eq!(health.since(), at(1));
        health.set(HealthState::Degraded, at(3));
        health.set(HealthState::Degraded, at(4));
        assert_eq!(health.since(), at(3));
    }
}
