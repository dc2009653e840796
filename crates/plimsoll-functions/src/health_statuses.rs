//! Which destinations of a balancer are set aside: by health checks of the same destinations, or by reported failures.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use plimsoll_core::snapshot::Member;
use plimsoll_core::{DestinationId, Name, Status, Tick};
use plimsoll_proxy::MonitoredStatuses;

/// Time that a destination is set aside after too many failures in a row: the default of outlier detection. The next
/// message is its trial.
const EJECTION: Duration = Duration::from_secs(30);

/// Results of checks and outcomes.
#[derive(Debug, Default)]
pub(crate) struct HealthStatuses {
    /// Generation of the check results, and the destinations that are down.
    checks: Option<(u64, HashSet<Name>)>,
    /// End of each ejection.
    ejected: HashMap<DestinationId, Tick>,
}

impl HealthStatuses {
    /// Takes over the results of checks. Returns whether they have changed.
    pub(crate) fn set_checks(&mut self, checks: Option<&MonitoredStatuses>) -> bool {
        let generation = checks.and_then(MonitoredStatuses::generation);
        if generation == self.checks.as_ref().map(|(known, _)| *known) {
            return false;
        }
        let down = || checks.map(|checks| checks.unavailable().into_iter().collect()).unwrap_or_default();
        self.checks = generation.map(|generation| (generation, down()));
        true
    }

    /// Ejects a destination at a time, or ends its ejection. Returns whether that changes anything.
    pub(crate) fn set_ejected(&mut self, id: DestinationId, since: Option<Tick>) -> bool {
        match since {
            Some(now) => self.ejected.insert(id, now + EJECTION) != Some(now + EJECTION),
            None => self.ejected.remove(&id).is_some(),
        }
    }

    /// Returns whether an ejection is over.
    pub(crate) fn is_expired(&self, now: Tick) -> bool {
        !self.ejected.is_empty() && self.ejected.values().any(|until| *until <= now)
    }

    /// Returns the status of each member. Reported failures never set the last one aside.
    pub(crate) fn of(&mut self, members: &[Member], checked: bool, now: Tick) -> Vec<Status> {
        self.ejected.retain(|_, until| *until > now);
        let is_down = |member: &Member| {
            checked && self.checks.as_ref().is_some_and(|(_, down)| down.contains(&member.destination.name))
        };
        let status = |member: &Member| match (is_down(member), self.ejected.get(&member.id)) {
            (true, _) => Status::Down,
            (false, Some(&until)) if checked => Status::Ejected { until },
            _ => Status::Serving,
        };
        let statuses: Vec<Status> = members.iter().map(status).collect();
        let serves = |(member, status): (&Member, &Status)| status.serves() && member.weight > 0;
        if members.iter().zip(&statuses).any(serves) {
            return statuses;
        }
        let kept = |status| if matches!(status, Status::Ejected { .. }) { Status::Serving } else { status };
        statuses.into_iter().map(kept).collect()
    }
}
