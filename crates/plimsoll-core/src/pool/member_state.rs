//! What the slow loop knows of one destination: the three signals, how it stands by them and why.

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

/// For so long the trial of an ejected destination waits for a message that may be repeated elsewhere if it
/// fails; then any message may be it.
const TRIAL_RESERVED: Duration = Duration::from_secs(1);

/// A trial without a word for so long is opened once more: its message may hang, its word may be lost.
const TRIAL_LOST: Duration = Duration::from_secs(300);

/// The trial of an ejected destination is open.
#[derive(Copy, Clone)]
pub(super) struct Trial {
    /// From then on any message may be it.
    pub(super) for_all: Tick,
    /// Opened once more then.
    pub(super) again: Tick,
}

/// One destination of a pool.
pub(super) struct MemberState {
    pub(super) id: DestinationId,
    pub(super) destination: Destination,
    pub(super) stats: Arc<DestinationStats>,
    pub(super) admin: AdminState,
    pub(super) checker: Checker,
    pub(super) outlier: Outlier,
    /// As last settled.
    pub(super) status: Status,
    pub(super) since: Tick,
    /// Why it stands so; `None` for one that has served since it joined.
    pub(super) reason: Option<Reason>,
    pub(super) trial: Option<Trial>,
    /// What was counted when it was last compared with the others.
    pub(super) counted: Counts,
    /// What was counted at its last check, where traffic may spare it one.
    checked: Counts,
    /// What it had answered at its last check.
    answered: u64,
    pub(super) contradictions: Contradictions,
    /// What is usual of it.
    pub(super) baseline: Baseline,
    /// For how long it has answered nothing.
    pub(super) unresponsive: UnresponsiveDetector,
    /// It came back a short time ago.
    pub(super) slow_start: Option<SlowStart>,
    /// What the next change to serving will be put down to.
    pub(super) clear_reason: Option<Reason>,
    /// What took it down, and what had it ejected: told when the status changes by that, maybe later.
    pub(super) down_reason: Option<Reason>,
    pub(super) ejected_reason: Option<Reason>,
    /// It says that it has too much to do, and others can do its work.
    pub(super) overloaded: bool,
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
            counted: Counts::default(),
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

    /// How it stands by its signals, settled or not.
    pub(super) fn stands(&self, lone: bool) -> Status {
        let (health, ejection) = (self.checker.health(), self.outlier.ejection());
        let (overloaded, warming) = (self.overloaded, self.slow_start.is_some());
        status(HealthInputs { admin: self.admin, health, ejection, only_member: lone, overloaded, warming })
    }

    /// How it would stand without its ejection, among others.
    pub(super) fn status_if_unejected(&self) -> Status {
        let health = self.checker.health();
        let (overloaded, warming) = (self.overloaded, self.slow_start.is_some());
        let (admin, ejection, lone) = (self.admin, Ejection::None, false);
        status(HealthInputs { admin, health, ejection, only_member: lone, overloaded, warming })
    }

    /// How it would stand if it had less to do, among others.
    pub(super) fn stands_if_unloaded(&self) -> Status {
        let (health, ejection) = (self.checker.health(), self.outlier.ejection());
        let (admin, warming) = (self.admin, self.slow_start.is_some());
        status(HealthInputs { admin, health, ejection, only_member: false, overloaded: false, warming })
    }

    /// Its priority may be used.
    pub(super) const fn tier_is_used(&self, backup_tiers: bool) -> bool {
        backup_tiers || self.destination.priority == 0
    }

    /// Status so, it takes new messages.
    pub(super) fn takes(&self, status: Status, backup_tiers: bool) -> bool {
        status.serves() && self.destination.weight.get() > 0 && self.tier_is_used(backup_tiers)
    }

    /// Nothing that was seen of it counts any more; its first check is due at `due`.
    pub(super) fn forget(&mut self, due: Tick, start: Start) {
        self.checker = Checker::new(due, start);
        if self.checker.health() == Health::Down {
            self.down_reason = Some(Reason::NotChecked);
        }
        self.baseline = Baseline::default();
        self.unresponsive.forget();
        self.stats.notify_next_failure();
        self.outlier = Outlier::default();
        self.stats.reset_streak();
        self.stats.measured().forget();
        self.stats.reported().forget();
        self.overloaded = false;
    }

    /// What traffic showed since this was last asked.
    pub(super) fn shown(&mut self) -> TrafficSince {
        let now = self.stats.counts();
        let before = std::mem::replace(&mut self.checked, now.clone());
        let bad = |counts: &Counts| counts.failed() + counts.classes[5];
        let bad = bad(&now).saturating_sub(bad(&before)) + u64::from(self.stats.streak());
        TrafficSince { good: now.answered().saturating_sub(before.answered()).saturating_sub(bad), bad }
    }

    /// A check was answered; says whether messages went well since the one before and none went badly.
    pub(super) fn went_well(&mut self) -> bool {
        let answered = self.stats.progress().0.answered;
        std::mem::replace(&mut self.answered, answered) < answered && self.stats.streak() == 0
    }

    /// Traffic sets it aside: checks that pass say otherwise.
    pub(super) fn ejected(&mut self, reason: Reason) {
        self.ejected_reason = Some(reason);
        if self.checker.health() == Health::Up {
            self.contradictions.passed += 1;
        }
    }

    /// It takes a growing share for `window`.
    pub(super) fn begin_slow_start(&mut self, now: Tick, window: Option<Duration>) {
        self.slow_start = window.map(|window| SlowStart { since: now, window });
        if self.slow_start.is_some() && self.status == Status::Serving {
            self.status = Status::Warming;
        }
    }

    /// Checks took it down or brought it back; with `recovery` one message must show that it serves.
    pub(super) fn health_flipped(&mut self, recovery: bool) {
        if self.checker.health() == Health::Down {
            let detail = self.checker.last().map(|last| last.detail.clone()).unwrap_or_default();
            self.down_reason = Some(Reason::ChecksFailed { count: self.checker.failures(), detail });
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

    /// When it has something to settle next, whatever checks and traffic say.
    pub(super) fn next(&self) -> Tick {
        let warm = self.slow_start.map_or(Tick::NEVER, |slow_start| slow_start.until());
        match (self.outlier.ejection(), self.trial) {
            (Ejection::Until(until), _) => until,
            (_, Some(trial)) => trial.again,
            _ => warm,
        }
    }

    /// Its moment may have come; says whether it has something to settle.
    pub(super) fn handle_timeout(&mut self, now: Tick) -> bool {
        let warm = self.slow_start.is_some_and(|slow_start| slow_start.until() <= now);
        if warm {
            self.slow_start = None;
            self.clear_reason.get_or_insert(Reason::WarmedUp);
        }
        self.outlier.handle_timeout(now) || self.next() <= now || warm
    }

    /// Brings status, trial and counters in line with the signals. Says what changed in the status, if
    /// anything did, and whether a snapshot shows it differently now.
    pub(super) fn settle(&mut self, now: Tick, lone: bool, spec: &PoolSpec) -> (Option<Change>, bool) {
        let (from, mut to) = (self.status, self.stands(lone));
        match (from, to) {
            // Who is needed at once has no time to warm up.
            (
                Status::Down | Status::Ejected { .. } | Status::Overloaded | Status::Maintenance,
                Status::Serving,
            ) if !lone && self.clear_reason != Some(Reason::PanicThreshold) => {
                self.slow_start = spec.window().map(|window| SlowStart { since: now, window });
                to = self.stands(lone);
            }
            (_, Status::Serving | Status::Warming) => {}
            // What comes back comes back cold, however far it had got.
            _ => self.slow_start = None,
        }
        let clear_reason = self.clear_reason.take();
        let change = (from != to).then(|| {
            let reason = self.explain(from, to, lone, clear_reason);
            if from.as_str() != to.as_str() {
                self.since = now;
            }
            if to.serves() {
                self.stats.reset_streak();
            }
            (self.status, self.reason) = (to, Some(reason.clone()));
            Change { from, to, reason }
        });
        let trial_moved = self.settle_trial(now, spec.tiers.backup_tiers);
        let differs = change.is_some() || trial_moved;
        (change, differs)
    }

    /// A trial is open exactly while nothing but its ejection keeps the destination out, and that is over.
    fn settle_trial(&mut self, now: Tick, backup_tiers: bool) -> bool {
        let fit = matches!(self.status, Status::Ejected { .. })
            && self.outlier.ejection() == Ejection::Probation
            && self.destination.weight.get() > 0
            && self.tier_is_used(backup_tiers);
        match (fit, self.trial) {
            (true, None) => {
                self.stats.open_trial();
                self.trial = Some(Trial { for_all: now + TRIAL_RESERVED, again: now + TRIAL_LOST });
                true
            }
            (true, Some(trial)) if trial.again <= now => {
                self.stats.open_trial();
                self.trial = Some(Trial { again: now + TRIAL_LOST, ..trial });
                true
            }
            (false, Some(_)) => {
                self.close_trial();
                true
            }
            _ => false,
        }
    }

    /// Nobody takes the trial any more.
    pub(super) fn close_trial(&mut self) {
        self.stats.close_trial();
        self.trial = None;
    }

    fn explain(&self, from: Status, to: Status, lone: bool, clear_reason: Option<Reason>) -> Reason {
        let known = match to {
            Status::Draining | Status::Maintenance => None,
            Status::Down => self.down_reason.clone(),
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
                Status::Down | Status::Ejected { .. } | Status::Overloaded if lone => {
                    Some(Reason::OnlyMember)
                }
                _ => clear_reason,
            },
        };
        known.unwrap_or(Reason::Operator)
    }

    /// What views show of it.
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

/// A destination stands differently now.
pub(super) struct Change {
    pub(super) from: Status,
    pub(super) to: Status,
    pub(super) reason: Reason,
}

/// What the slow loop knows of one destination, for views.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationReport {
    /// Its number.
    pub id: DestinationId,
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub address: Address,
    /// Base weight.
    pub weight: Weight,
    /// 0 is first.
    pub priority: u8,
    /// What the operator wants.
    pub admin: AdminState,
    /// What checks saw.
    pub health: Health,
    /// What traffic showed.
    pub ejection: Ejection,
    /// How it stands by these.
    pub status: Status,
    /// Since when; the steps of an ejection are one status.
    pub since: Tick,
    /// Why; `None` for one that has served since it joined.
    pub reason: Option<Reason>,
    /// Its last answer to a check; `None` before the first.
    pub last_check: Option<LastCheck>,
    /// Failed checks in a row.
    pub consecutive_failures: u32,
    /// Passed checks in a row.
    pub consecutive_passes: u32,
    /// Ejections since it joined, failed trials included.
    pub ejections: u32,
    /// Bad outcomes of its messages in a row.
    pub streak: u32,
    /// How often checks and traffic said the opposite.
    pub contradictions: Contradictions,
}

/// Verdicts of checks that traffic contradicted: how accurate they are.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Contradictions {
    /// Traffic set the destination aside, and its checks passed.
    pub passed: u64,
    /// Checks took the destination out, and its messages went well.
    pub failed: u64,
}
