//! How the pool of a balancer stands, told from what it counted.

use plimsoll_core::balance::Algorithm;
use plimsoll_core::quality::{deviation, intended_shares};
use plimsoll_core::snapshot::Member;
use plimsoll_core::{Snapshot, Tick};

use crate::config::LoadBalancingConfig;
use crate::outcome_window::{Subject, Window};
use crate::result::{
    DestinationShare, HealthState, HealthStatus, LoadDistribution, PerformanceMetrics, Recommendation,
};

/// So many bad outcomes in a row make a destination a failing one: what outlier detection takes by default.
pub(crate) const FAILING_AT: u32 = 5;

pub(crate) fn is_failing(member: &Member) -> bool {
    member.stats.streak() >= FAILING_AT
}

fn takes_messages(member: &Member) -> bool {
    member.status.serves() && member.weight > 0
}

/// Destinations that take messages, and how many of them may be counted on.
fn serving(snapshot: &Snapshot, config: &LoadBalancingConfig) -> (usize, usize) {
    let takers = || snapshot.members.iter().filter(|member| takes_messages(member));
    let good = takers().filter(|member| !(config.health_checking && is_failing(member)));
    (takers().count(), good.count())
}

pub(crate) fn health_state(snapshot: &Snapshot, config: &LoadBalancingConfig) -> HealthState {
    match serving(snapshot, config) {
        (_, 0) => HealthState::Down,
        (takers, good) if good < takers => HealthState::Degraded,
        _ => HealthState::Healthy,
    }
}

/// What the pool was judged to be, and since when.
#[derive(Debug)]
pub(crate) struct Judged {
    state: HealthState,
    since: Tick,
}

impl Judged {
    pub(crate) fn new(now: Tick) -> Self {
        Self { state: HealthState::Healthy, since: now }
    }

    pub(crate) fn turn(&mut self, state: HealthState, now: Tick) {
        if self.state != state {
            *self = Self { state, since: now };
        }
    }

    pub(crate) fn since(&self) -> Tick {
        self.since
    }

    /// As told; `since` is [`since`](Self::since) by the clock on the wall.
    pub(crate) fn status(
        &self,
        snapshot: &Snapshot,
        config: &LoadBalancingConfig,
        since: u64,
    ) -> HealthStatus {
        let (_, serving) = serving(snapshot, config);
        HealthStatus { state: self.state, serving, total: snapshot.members.len(), since }
    }
}

/// Who got how much since `started_before` (assignments of each member) was noted.
pub(crate) fn distribution(
    snapshot: &Snapshot,
    algorithm: Algorithm,
    started_before: &[u64],
) -> LoadDistribution {
    let intended = intended_shares(snapshot, algorithm.heeds_weights());
    let counts = snapshot.members.iter().zip(started_before);
    let taken: Vec<u64> =
        counts.map(|(member, before)| member.stats.counts().started.saturating_sub(*before)).collect();
    let all: u64 = taken.iter().sum();
    let deviation = deviation(taken.iter().copied().zip(intended.iter().copied()));
    let share = |(member, (taken, intended_share)): (&Member, (u64, f64))| DestinationShare {
        id: member.destination.name.to_string(),
        weight: member.destination.weight.get(),
        effective_weight: f64::from(member.weight) / 256.0,
        intended_share,
        share: (all > 0).then(|| taken as f64 / all as f64),
        in_flight: member.stats.in_flight(),
    };
    let shares = snapshot.members.iter().zip(taken.into_iter().zip(intended)).map(share);
    LoadDistribution { deviation, destinations: shares.collect() }
}

pub(crate) fn performance(snapshot: &Snapshot, window: &Window, now: Tick) -> PerformanceMetrics {
    let subjects = snapshot.members.iter().map(|member| Subject {
        id: member.id,
        name: &member.destination.name,
        in_flight: member.stats.in_flight(),
    });
    window.metrics(now, &subjects.collect::<Vec<_>>())
}

pub(crate) fn recommendations(snapshot: &Snapshot, config: &LoadBalancingConfig) -> Vec<Recommendation> {
    let members = snapshot.members.iter();
    let failing = members.filter(|member| config.health_checking && is_failing(member));
    failing
        .map(set_aside)
        .chain(add_another(snapshot))
        .chain(heed_weights(snapshot, config.algorithm))
        .collect()
}

fn set_aside(member: &Member) -> Recommendation {
    let (name, streak) = (&*member.destination.name, member.stats.streak());
    Recommendation {
        id: format!("failing_destination:{name}"),
        kind: "failing_destination".into(),
        subject: name.into(),
        message: format!("Take `{name}` out of the list, or give it weight 0, until it answers again."),
        evidence: vec![format!("its last {streak} reported messages failed")],
        expected_effect: "no further messages fail there".into(),
        // Laplace's rule of succession: how likely the next one fails, too.
        confidence: f64::from(streak + 1) / f64::from(streak + 2),
        command: None,
    }
}

fn add_another(snapshot: &Snapshot) -> Option<Recommendation> {
    let mut takers = snapshot.members.iter().filter(|member| takes_messages(member));
    let name = &*takers.next()?.destination.name;
    takers.next().is_none().then(|| Recommendation {
        id: format!("no_redundancy:{name}"),
        kind: "no_redundancy".into(),
        subject: name.into(),
        message: "Add a second destination, if only as a backup tier (priority 1).".into(),
        evidence: vec![format!("`{name}` is the only destination that takes messages")],
        expected_effect: "its failure is no longer the failure of the pool".into(),
        confidence: 1.0,
        command: None,
    })
}

fn heed_weights(snapshot: &Snapshot, algorithm: Algorithm) -> Option<Recommendation> {
    let slots = &snapshot.whole.tiers.first()?.slots;
    let differ = slots.iter().any(|slot| slot.weight != slots[0].weight);
    (differ && !algorithm.heeds_weights()).then(|| Recommendation {
        id: "weights_ignored:algorithm".into(),
        kind: "weights_ignored".into(),
        subject: "algorithm".into(),
        message: format!("Use `weighted_{}`.", algorithm.name()),
        evidence: vec![format!("weights differ, and `{}` does not heed them", algorithm.name())],
        expected_effect: "shares follow the weights".into(),
        confidence: 1.0,
        command: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_when_the_state_turned_and_not_when_it_was_last_confirmed() {
        let at = Tick::from_nanos;
        let mut judged = Judged::new(at(1));
        judged.turn(HealthState::Healthy, at(2));
        assert_eq!(judged.since(), at(1));
        judged.turn(HealthState::Degraded, at(3));
        judged.turn(HealthState::Degraded, at(4));
        assert_eq!(judged.since(), at(3));
    }
}
