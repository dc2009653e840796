//! Alerts of a pool: each is raised once when its cause begins, and cleared when the cause ends.
//!
//! They follow from the pool's events and snapshots, without a clock or a thread: the driver passes both in and polls
//! for the changes.

pub mod flapping;
mod kind;
pub mod recommendation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::alert::flapping::{FLAPPING_AT, FlapDetector};
use crate::destination::{Name, Status};
use crate::event::{Event, Reason};
use crate::pool::PoolSpec;
use crate::snapshot::Snapshot;
use crate::time::Tick;

pub use self::kind::{AlertKind, Severity};

/// Maximum number of active alerts. A pool with more failing destinations has a common cause, which these show.
pub const ACTIVE_MAX: usize = 1024;
/// Maximum number of cleared alerts that are kept.
pub const PAST_MAX: usize = 256;
/// Maximum number of changes that wait to be polled; beyond it the oldest are dropped.
const CHANGES_MAX: usize = 4096;

/// An alert, from its cause's begin to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Number of the alert, unique in the pool.
    pub id: u64,
    /// AlertKind of the alert.
    pub kind: AlertKind,
    /// Name of the destination or pool that the alert is about.
    pub subject: Name,
    /// Description in a sentence.
    pub message: String,
    /// Measured value, where there is one.
    pub value: Option<f64>,
    /// Threshold that the value crossed.
    pub threshold: Option<f64>,
    /// Time at which the alert was raised.
    pub raised_at: Tick,
    /// Time at which the alert was cleared; `None` while it is active.
    pub cleared_at: Option<Tick>,
    /// Name of the operator that acknowledged the alert.
    pub acknowledged_by: Option<Name>,
}

/// Cause of an alert, which may be active already.
struct Cause {
    kind: AlertKind,
    message: String,
    value: Option<f64>,
    threshold: Option<f64>,
}

/// The alerts of one pool.
#[derive(Debug)]
pub struct Alerts {
    pool: Name,
    next: u64,
    active: BTreeMap<(AlertKind, Name), Alert>,
    past: VecDeque<Alert>,
    changes: VecDeque<Alert>,
    raised: [u64; AlertKind::ALL.len()],
    lost: u64,
}

impl Alerts {
    /// Creates an empty list of alerts; the first alert gets the number `first`.
    pub fn new(pool: Name, first: u64) -> Self {
        Self {
            pool,
            next: first,
            active: BTreeMap::new(),
            past: VecDeque::new(),
            changes: VecDeque::new(),
            raised: [0; AlertKind::ALL.len()],
            lost: 0,
        }
    }

    /// Updates the alerts by an event of the pool.
    pub fn on_event(&mut self, now: Tick, event: &Event, spec: &PoolSpec) {
        match event {
            Event::StatusChanged { destination, to, reason, .. } => {
                self.on_status_change(now, destination, *to, reason, spec, event);
            }
            Event::MemberRemoved { destination, .. } => {
                for kind in AlertKind::OF_DESTINATIONS {
                    self.clear(now, kind, destination);
                }
            }
            Event::MemberAdded { .. } | Event::EjectionSkipped { .. } => {}
        }
    }

    fn on_status_change(
        &mut self,
        now: Tick,
        destination: &Name,
        to: Status,
        reason: &Reason,
        spec: &PoolSpec,
        event: &Event,
    ) {
        let message = event.to_string();
        match to {
            Status::Down => {
                let value = match reason {
                    Reason::ChecksFailed { count, .. } => Some(f64::from((*count).max(1))),
                    _ => None,
                };
                let threshold = spec.health.as_ref().map(|health| f64::from(health.failure_threshold));
                self.clear(now, AlertKind::DestinationEjected, destination);
                let kind = AlertKind::DestinationDown;
                self.raise(now, destination, Cause { kind, message, value, threshold });
            }
            Status::Ejected { .. } => match reason {
                Reason::TrafficFailed { streak, .. } => {
                    let (value, most) = (f64::from(*streak), f64::from(spec.outlier.consecutive_failures));
                    let (value, threshold) = (Some(value), Some(most));
                    let kind = AlertKind::DestinationEjected;
                    self.raise(now, destination, Cause { kind, message, value, threshold });
                }
                Reason::WorseThanPeers { .. } => {
                    let kind = AlertKind::DestinationEjected;
                    self.raise(now, destination, Cause { kind, message, value: None, threshold: None });
                }
                Reason::TrialFailed { .. } => {
                    let before =
                        self.find_active(AlertKind::RecoveryFailed, destination).and_then(|a| a.value);
                    let (kind, value) = (AlertKind::RecoveryFailed, Some(before.unwrap_or(0.0) + 1.0));
                    self.raise(now, destination, Cause { kind, message, value, threshold: None });
                }
                // A trial is open or planned: the destination does not serve yet, and the alert is active.
                _ => {}
            },
            Status::Serving
            | Status::Warming
            | Status::Draining
            | Status::Overloaded
            | Status::Maintenance => {
                for kind in
                    [AlertKind::DestinationDown, AlertKind::DestinationEjected, AlertKind::RecoveryFailed]
                {
                    self.clear(now, kind, destination);
                }
            }
        }
    }

    /// Updates value and message of the alert about a destination that is down, while further checks fail.
    pub fn update_failed_checks(&mut self, destination: &Name, count: u32, detail: &str) {
        let Some(alert) = self.active.get_mut(&(AlertKind::DestinationDown, destination.clone())) else {
            return;
        };
        if count > 1 && alert.value != Some(f64::from(count)) {
            alert.value = Some(f64::from(count));
            alert.message = format!(
                "pool {}: destination {destination} is down: {count} checks failed in a row, last: {detail}",
                self.pool
            );
        }
    }

    /// Updates the alerts about the pool as a whole: the number of destinations that serve, the panic mode (`panics`) and
    /// flapping destinations. To be called after each batch of events and each second.
    pub fn evaluate(
        &mut self,
        now: Tick,
        snapshot: &Snapshot,
        spec: &PoolSpec,
        panics: bool,
        flaps: &FlapDetector,
    ) {
        let pool = self.pool.clone();
        let serving = snapshot.members.iter().filter(|member| member.status.serves()).count();
        let by_operator = |status| matches!(status, Status::Draining | Status::Maintenance);
        let wanted = snapshot.members.iter().filter(|member| !by_operator(member.status)).count();
        let share = Some(serving as f64 / wanted.max(1) as f64).filter(|_| wanted > 0);
        let pool_wide = |kind, message, threshold| Cause { kind, message, value: share, threshold };
        let unserved: Vec<String> = match snapshot.health.unserved_subsets {
            0 => Vec::new(),
            _ => {
                let subsets = spec.tiers.subsets.iter().filter(|subset| snapshot.is_unserved(subset));
                subsets.map(|subset| subset.text()).collect()
            }
        };
        if snapshot.health.serving == 0 {
            self.clear(now, AlertKind::PoolDegraded, &pool);
            let cause = match serving {
                0 => "no destination serves",
                _ => "no destination that serves gets messages: the weights are 0, or backup tiers are off",
            };
            let message = format!("pool {pool}: {cause}, messages are rejected");
            self.raise(now, &pool, pool_wide(AlertKind::PoolDown, message, None));
        } else if serving < wanted || !unserved.is_empty() {
            self.clear(now, AlertKind::PoolDown, &pool);
            let mut message = format!("pool {pool}: {serving} of {wanted} destinations serve");
            for subset in unserved {
                message += &format!("; none of the subset {subset} does, its messages are rejected");
            }
            self.raise(now, &pool, pool_wide(AlertKind::PoolDegraded, message, Some(1.0)));
        } else {
            self.clear(now, AlertKind::PoolDown, &pool);
            self.clear(now, AlertKind::PoolDegraded, &pool);
        }
        if snapshot.health.backup_in_use {
            let message =
                format!("pool {pool}: a backup tier gets messages, because the tiers before do not suffice");
            self.raise(now, &pool, pool_wide(AlertKind::BackupInUse, message, None));
        } else {
            self.clear(now, AlertKind::BackupInUse, &pool);
        }
        if panics {
            let message = format!(
                "pool {pool}: failing destinations are not ejected, because too few others would be left"
            );
            self.raise(now, &pool, pool_wide(AlertKind::PoolPanic, message, Some(spec.panic_threshold)));
        } else {
            self.clear(now, AlertKind::PoolPanic, &pool);
        }
        self.evaluate_flapping(now, flaps);
    }

    fn evaluate_flapping(&mut self, now: Tick, flaps: &FlapDetector) {
        let is_flapping = |alert: &Alert| flaps.recent(&alert.subject, now) > 0;
        let mut over = Vec::new();
        for alert in self.active.values().filter(|alert| alert.kind == AlertKind::DestinationFlapping) {
            if !is_flapping(alert) {
                over.push(alert.subject.clone());
            }
        }
        for subject in over {
            self.clear(now, AlertKind::DestinationFlapping, &subject);
        }
        let room = ACTIVE_MAX.saturating_sub(self.active.len());
        for (name, count) in flaps.flapping(now).take(room) {
            let message = format!(
                "pool {}: destination {name} failed at least {count} times within {} minutes",
                self.pool,
                FlapDetector::WINDOW.as_secs() / 60
            );
            let (value, threshold) = (Some(count as f64), Some(FLAPPING_AT as f64));
            self.raise(now, &name, Cause { kind: AlertKind::DestinationFlapping, message, value, threshold });
        }
    }

    /// Clears all alerts, because the pool is no longer monitored.
    pub fn clear_all(&mut self, now: Tick) {
        let active: Vec<_> = self.active.keys().cloned().collect();
        for (kind, subject) in active {
            self.clear(now, kind, &subject);
        }
    }

    /// Acknowledges an alert; the first acknowledgement stays.
    pub fn acknowledge(&mut self, id: u64, by: &str) -> Option<&Alert> {
        let known = self.active.values_mut().chain(&mut self.past).find(|alert| alert.id == id)?;
        known.acknowledged_by.get_or_insert_with(|| by.into());
        Some(known)
    }

    /// Returns the active alerts, the most severe first, then the cleared ones, the latest first.
    pub fn all(&self) -> impl Iterator<Item = &Alert> {
        let mut active: Vec<&Alert> = self.active.values().collect();
        active.sort_by_key(|alert| (std::cmp::Reverse(alert.kind.severity()), alert.id));
        active.into_iter().chain(self.past.iter().rev())
    }

    /// Returns the next alert that was raised or cleared (`cleared_at` is set). To be polled until `None`.
    pub fn poll_change(&mut self) -> Option<Alert> {
        self.changes.pop_front()
    }

    /// Number of raised alerts, by kind in the order of [`AlertKind::ALL`].
    pub const fn raised(&self) -> &[u64; AlertKind::ALL.len()] {
        &self.raised
    }

    /// Number of active alerts, by kind in the order of [`AlertKind::ALL`].
    pub fn active(&self) -> [u64; AlertKind::ALL.len()] {
        AlertKind::ALL.map(|kind| self.active.keys().filter(|(of, _)| *of == kind).count() as u64)
    }

    /// Number of alerts not raised because [`ACTIVE_MAX`] was reached.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn find_active(&self, kind: AlertKind, subject: &Name) -> Option<&Alert> {
        self.active.get(&(kind, subject.clone()))
    }

    fn raise(&mut self, now: Tick, subject: &Name, cause: Cause) {
        let Cause { kind, message, value, threshold } = cause;
        if let Some(known) = self.active.get_mut(&(kind, subject.clone())) {
            (known.value, known.threshold, known.message) = (value, threshold, message);
            return;
        }
        // Alerts about the pool are always raised: there are four kinds.
        if self.active.len() >= ACTIVE_MAX && AlertKind::OF_DESTINATIONS.contains(&kind) {
            self.lost += 1;
            return;
        }
        self.raised[kind as usize] += 1;
        let alert = Alert {
            id: self.next,
            kind,
            subject: subject.clone(),
            message,
            value,
            threshold,
            raised_at: now,
            cleared_at: None,
            acknowledged_by: None,
        };
        self.next += 1;
        self.push_change(alert.clone());
        self.active.insert((kind, subject.clone()), alert);
    }

    fn clear(&mut self, now: Tick, kind: AlertKind, subject: &Name) {
        let Some(mut alert) = self.active.remove(&(kind, subject.clone())) else { return };
        alert.cleared_at = Some(now);
        self.push_change(alert.clone());
        if self.past.len() == PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(alert);
    }

    fn push_change(&mut self, alert: Alert) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(alert);
    }
}
