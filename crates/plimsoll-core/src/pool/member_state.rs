//! State of one member of a pool: its three signals, and the status that follows from them.

use std::sync::Arc;
use std::time::Duration;

use crate::destination::{
    Address, AdminState, Destination, DestinationId, Ejection, Health, HealthInputs, Name, Status, Weight,
    status,
};
use crate::event::Reason;
use crate::health::baseline::Baseline;
use crate::health::checker::TrafficSince;
use crate::health::unresponsive::UnresponsiveDetector;
use crate::health::{Checker, LastCheck, Outlier, Start};
use crate::pool::PoolSpec;
use crate::slow_start::SlowStart;
use crate::stats::{Counts, DestinationStats};
use crate::time::Tick;

/// Time for which a trial is reserved for messages that may be sent again if they fail; then any message may be it.
const TRIAL_RESERVED: Duration = Duration::from_secs(1);

/// Time without a result after which another message may be the trial: the first one may be a long poll or a slow upload,
/// or hang. Each of them decides.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Open trial of an ejected destination.
#[derive(Copy, Clone)]
pub(super) struct Trial {
    /// Time from which any message may be the trial.
    pub(super) for_all: Tick,
    /// Time at which the trial is opened again.
    pub(super) reopen_at: Tick,
}

/// State of one member.
pub(super) struct MemberState {
    pub(super) id: DestinationId,
    pub(super) destination: Destination,
    pub(super) stats: Arc<DestinationStats>,
    pub(super) admin: AdminState,
    pub(super) checker: Checker,
    pub(super) outlier: Outlier,
    /// Status as last computed.
    pub(super) status: Status,
    pub(super) since: Tick,
    /// Reason of the status; `None` if the member has served since it was added.
    pub(super) reason: Option<Reason>,
    pub(super) trial: Option<Trial>,
    /// Counts at the last comparison with peers.
    pub(super) compared: Counts,
    /// Counts at the last check, if traffic may replace checks.
    checked: Counts,
    /// Number of responses at the last check.
    answered: u64,
    pub(super) contradictions: Contradictions,
    /// Usual performance of the member.
    pub(super) baseline: Baseline,
    /// Detection of missing responses.
    pub(super) unresponsive: UnresponsiveDetector,
    /// Slow start after a return.
    pub(super) slow_start: Option<SlowStart>,
    /// Reason for the next change to a serving status.
    pub(super) clear_reason: Option<Reason>,
    /// Reason for the next change to down.
    pub(super) down_reason: Option<Reason>,
    /// Reason for the next change to ejected.
    pub(super) ejected_reason: Option<Reason>,
    /// Whether the member reports too much load and others can take its messages.
    pub(super) overloaded: bool,
    /// Reason for the next change to overloaded.
    pub(super) overload_reason: Option<Reason>,
}

impl MemberState {
    pub(super) fn new(
        id: DestinationId,
        destination: Destination,
        stats: DestinationStats,
        now: Tick,
        checker: Checker,
    ) -> Self {
        Self {
            id,
            destination,
            stats: Arc::new(stats),
            admin: AdminState::Ready,
            down_reason: (checker.health() == Health::Down).then_some(Reason::NotChecked),
            checker,
            outlier: Outlier::default(),
            status: Status::Serving,
            since: now,
            reason: None,
            trial: None,
            compared: Counts::default(),
            checked: Counts::default(),
            answered: 0,
            contradictions: Contradictions::default(),
            baseline: Baseline::default(),
            unresponsive: UnresponsiveDetector::default(),
            slow_start: None,
            clear_reason: None,
            ejected_reason: None,
            overloaded: false,
            overload_reason: None,
        }
    }

    /// Computes the status from the signals.
    pub(super) fn computed_status(&self, only_member: bool) -> Status {
        status(HealthInputs { only_member, ..self.inputs() })
    }

    /// Computes the status that the member would have without its ejection.
    pub(super) fn status_if_unejected(&self) -> Status {
        status(HealthInputs { ejection: Ejection::None, ..self.inputs() })
    }

    /// Computes the status that the member would have with less load.
    pub(super) fn status_if_unloaded(&self) -> Status {
        status(HealthInputs { overloaded: false, ..self.inputs() })
    }

    /// Returns the signals of a member that is not the only one.
    fn inputs(&self) -> HealthInputs {
        HealthInputs {
            admin: self.admin,
            health: self.checker.health(),
            ejection: self.outlier.ejection(),
            only_member: false,
            unresolved: self.destination.address.is_unresolved(),
            overloaded: self.overloaded,
            warming: self.slow_start.is_some(),
        }
    }

    /// Returns whether the member's weight is above 0.
    pub(super) const fn has_weight(&self) -> bool {
        self.destination.weight.get() > 0
    }

    /// Returns whether the member's priority is used.
    pub(super) const fn tier_is_used(&self, backup_tiers: bool) -> bool {
        backup_tiers || self.destination.priority == 0
    }

    /// Returns whether the member would take new messages with this status.
    pub(super) fn takes(&self, status: Status, backup_tiers: bool) -> bool {
        status.serves() && self.has_weight() && self.tier_is_used(backup_tiers)
    }

    /// Discards all observations; the first check is due at `due`.
    pub(super) fn reset(&mut self, due: Tick, start: Start) {
        self.checker = Checker::new(due, start);
        if self.checker.health() == Health::Down {
            self.down_reason = Some(Reason::NotChecked);
        }
        self.baseline = Baseline::default();
        self.unresponsive.reset();
        self.stats.notify_next_failure();
        self.outlier = Outlier::default();
        self.stats.reset_streak();
        self.stats.measured().forget();
        self.stats.reported().forget();
        self.overloaded = false;
    }

    /// Returns the outcomes of messages since the last call.
    pub(super) fn traffic_since_check(&mut self) -> TrafficSince {
        let now = self.stats.counts();
        let before = std::mem::replace(&mut self.checked, now.clone());
        let bad = |counts: &Counts| (counts.failed() + counts.classes[5]).saturating_sub(counts.excused);
        let bad = bad(&now).saturating_sub(bad(&before)) + u64::from(self.stats.streak());
        TrafficSince { good: now.answered().saturating_sub(before.answered()).saturating_sub(bad), bad }
    }

    /// Returns whether messages since the last check succeeded and none failed.
    pub(super) fn take_succeeded(&mut self) -> bool {
        let answered = self.stats.progress().0.answered;
        std::mem::replace(&mut self.answered, answered) < answered && self.stats.streak() == 0
    }

    /// Returns whether a check failed after the member was suspected to be unresponsive.
    pub(super) fn suspicion_failed_check(&self) -> bool {
        self.checked_since_suspicion().is_some_and(|ok| !ok)
    }

    /// Returns whether a check passed after the member was suspected to be unresponsive.
    pub(super) fn suspicion_passed_check(&self) -> bool {
        self.checked_since_suspicion().is_some_and(|ok| ok)
    }

    fn checked_since_suspicion(&self) -> Option<bool> {
        let (suspected, last) = (self.unresponsive.suspected()?, self.checker.last()?);
        (last.at > suspected).then_some(last.ok)
    }

    /// Records the reason of an ejection, and a contradiction if checks pass.
    pub(super) fn set_ejected(&mut self, reason: Reason) {
        self.ejected_reason = Some(reason);
        if self.checker.health() == Health::Up {
            self.contradictions.passed += 1;
        }
    }

    /// Begins a slow start of `window`, if any.
    pub(super) fn begin_slow_start(&mut self, now: Tick, window: Option<Duration>) {
        self.slow_start = window.map(|window| SlowStart { since: now, window });
        if self.slow_start.is_some() && self.status == Status::Serving {
            self.status = Status::Warming;
        }
    }

    /// Handles a change of health by checks; with `recovery` a passed trial is required before the member serves.
    pub(super) fn on_health_change(&mut self, recovery: bool) {
        if self.checker.health() == Health::Down {
            let failure = self.checker.last().and_then(|last| last.failure.clone());
            self.down_reason = Some(Reason::ChecksFailed { count: self.checker.failures(), failure });
        } else {
            let count = self.checker.passes();
            self.stats.reset_streak();
            match recovery {
                true => {
                    self.outlier.plan_trial();
                    self.ejected_reason = Some(Reason::RecoveryPlanned { count });
                }
                false => self.clear_reason = Some(Reason::ChecksPassed { count }),
            }
        }
    }

    /// Returns the time of the next change that needs no input.
    pub(super) fn poll_timeout(&self) -> Tick {
        let warm = self.slow_start.map_or(Tick::NEVER, |slow_start| slow_start.until());
        match (self.outlier.ejection(), self.trial) {
            (Ejection::Until(until), _) => until,
            (_, Some(trial)) => trial.reopen_at,
            _ => warm,
        }
    }

    /// Handles the timer. Returns whether the status must be computed anew.
    pub(super) fn handle_timeout(&mut self, now: Tick) -> bool {
        let warm = self.slow_start.is_some_and(|slow_start| slow_start.until() <= now);
        if warm {
            self.slow_start = None;
            self.clear_reason.get_or_insert(Reason::WarmedUp);
        }
        self.outlier.handle_timeout(now) || self.poll_timeout() <= now || warm
    }

    /// Updates status, trial and counters. Returns the change of the status, if any, and whether a new snapshot is needed.
    pub(super) fn update_status(
        &mut self,
        now: Tick,
        only_member: bool,
        spec: &PoolSpec,
    ) -> (Option<Change>, bool) {
        let (from, mut to) = (self.status, self.computed_status(only_member));
        match (from, to) {
            // A member that is needed at once has no slow start.
            (
                Status::Down | Status::Ejected { .. } | Status::Overloaded | Status::Maintenance,
                Status::Serving,
            ) if !only_member && self.clear_reason != Some(Reason::PanicThreshold) => {
                self.slow_start = spec.slow_start_window().map(|window| SlowStart { since: now, window });
                to = self.computed_status(only_member);
            }
            (_, Status::Serving | Status::Warming) => {}
            // The next return begins a new slow start.
            _ => self.slow_start = None,
        }
        let clear_reason = self.clear_reason.take();
        let change = (from != to).then(|| {
            let reason = self.reason_of(from, to, only_member, clear_reason);
            if from.as_str() != to.as_str() {
                self.since = now;
            }
            if to.serves() {
                self.stats.reset_streak();
            }
            (self.status, self.reason) = (to, Some(reason.clone()));
            Change { from, to, reason }
        });
        let trial_changed = self.update_trial(now, spec.tiers.backup_tiers);
        let differs = change.is_some() || trial_changed;
        (change, differs)
    }

    /// Opens or closes the trial: it is open while only an ejection past its time keeps the member out.
    fn update_trial(&mut self, now: Tick, backup_tiers: bool) -> bool {
        let fit = matches!(self.status, Status::Ejected { .. })
            && self.outlier.ejection() == Ejection::Probation
            && self.has_weight()
            && self.tier_is_used(backup_tiers);
        match (fit, self.trial) {
            (true, None) => {
                self.stats.open_trial();
                self.trial = Some(Trial { for_all: now + TRIAL_RESERVED, reopen_at: now + TRIAL_TIMEOUT });
                true
            }
            (true, Some(trial)) if trial.reopen_at <= now => {
                self.stats.reopen_trial();
                self.trial = Some(Trial { reopen_at: now + TRIAL_TIMEOUT, ..trial });
                true
            }
            (false, Some(_)) => {
                self.close_trial();
                true
            }
            _ => false,
        }
    }

    /// Closes the trial.
    pub(super) fn close_trial(&mut self) {
        self.stats.close_trial();
        self.trial = None;
    }

    fn reason_of(&self, from: Status, to: Status, only_member: bool, clear_reason: Option<Reason>) -> Reason {
        let known = match to {
            Status::Draining | Status::Maintenance => None,
            Status::Down => match &self.destination.address {
                Address::Unresolved { cause, .. } => Some(Reason::Unresolved { cause: cause.clone() }),
                _ => self.down_reason.clone(),
            },
            Status::Ejected { .. } if self.outlier.ejection() == Ejection::Probation => {
                match &self.ejected_reason {
                    Some(planned @ Reason::RecoveryPlanned { .. }) if from == Status::Down => {
                        Some(planned.clone())
                    }
                    _ => Some(Reason::TrialOpened),
                }
            }
            Status::Ejected { .. } => self.ejected_reason.clone(),
            Status::Overloaded => self.overload_reason.clone(),
            Status::Serving | Status::Warming => match from {
                Status::Draining | Status::Maintenance => None,
                Status::Down | Status::Ejected { .. } | Status::Overloaded if only_member => {
                    Some(Reason::OnlyMember)
                }
                _ => clear_reason,
            },
        };
        known.unwrap_or(Reason::Operator)
    }

    /// Returns the report for views.
    pub(super) fn report(&self) -> DestinationReport {
        DestinationReport {
            id: self.id,
            name: self.destination.name.clone(),
            address: self.destination.address.clone(),
            weight: self.destination.weight,
            priority: self.destination.priority,
            admin: self.admin,
            health: self.checker.health(),
            ejection: self.outlier.ejection(),
            status: self.status,
            since: self.since,
            reason: self.reason.clone(),
            last_check: self.checker.last().cloned(),
            consecutive_failures: self.checker.failures(),
            consecutive_passes: self.checker.passes(),
            ejections: self.outlier.ejections(),
            streak: self.stats.streak(),
            contradictions: self.contradictions,
        }
    }
}

/// Change of a status.
pub(super) struct Change {
    pub(super) from: Status,
    pub(super) to: Status,
    pub(super) reason: Reason,
}

/// What the slow loop knows of one destination, for views.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationReport {
    /// Number of the destination.
    pub id: DestinationId,
    /// Name of the destination.
    pub name: Name,
    /// Address of the destination.
    pub address: Address,
    /// Base weight of the destination.
    pub weight: Weight,
    /// Priority; 0 is the first.
    pub priority: u8,
    /// Signal of the operator.
    pub admin: AdminState,
    /// Signal of the health checks.
    pub health: Health,
    /// Signal of the traffic.
    pub ejection: Ejection,
    /// Status that follows from the signals.
    pub status: Status,
    /// Time of the last change; an ejection and its trial are one status.
    pub since: Tick,
    /// Reason of the status; `None` if the destination has served since it was added.
    pub reason: Option<Reason>,
    /// Result of the last check; `None` before the first.
    pub last_check: Option<LastCheck>,
    /// Number of consecutive failed checks.
    pub consecutive_failures: u32,
    /// Number of consecutive passed checks.
    pub consecutive_passes: u32,
    /// Number of ejections since the destination was added, including failed trials.
    pub ejections: u32,
    /// Number of consecutive bad outcomes of messages.
    pub streak: u32,
    /// Number of contradictions between checks and traffic.
    pub contradictions: Contradictions,
}

/// Number of times that traffic contradicted checks, which shows the accuracy of the checks.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Contradictions {
    /// Number of ejections while checks passed.
    pub passed: u64,
    /// Number of times that checks took the destination out while its messages succeeded.
    pub failed: u64,
}
