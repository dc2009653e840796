//! Which alerts a pool has: each raised once when its cause begins, and cleared when that ends.
//!
//! Fed by the events of the pool and by its snapshots, so it needs no clock and no thread: a driver hands it what
//! it hears anyway and fetches the news.

mod kind;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::destination::{Name, Status};
use crate::event::{Event, Reason};
use crate::health::falls::{FALLS, Falls};
use crate::pool::PoolSpec;
use crate::snapshot::Snapshot;
use crate::time::Tick;

pub use self::kind::{Kind, Severity};

/// Alerts that stand at once; a pool that fails at more places has one cause, and its first thousand show it.
pub const ACTIVE_MAX: usize = 1024;
/// Alerts that are over and still told, latest first.
pub const PAST_MAX: usize = 256;
/// News kept for a driver that does not fetch them; past it the oldest are lost.
const NEWS_MAX: usize = 4096;

/// Something that people should know, from when it began to when it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Never used for another alert of the pool.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Whom it is about: a destination, or the pool.
    pub subject: Name,
    /// In a sentence.
    pub message: String,
    /// What was measured, where that is a number.
    pub value: Option<f64>,
    /// And what it should not have reached.
    pub threshold: Option<f64>,
    /// When it began.
    pub raised_at: Tick,
    /// When it ended; `None` while it stands.
    pub cleared_at: Option<Tick>,
    /// Who knows of it.
    pub acknowledged_by: Option<Name>,
}

/// A cause of an alert, before anybody asks whether it is known already.
struct Cause {
    kind: Kind,
    message: String,
    value: Option<f64>,
    threshold: Option<f64>,
}

/// The alerts of one pool.
#[derive(Debug)]
pub struct Alerts {
    pool: Name,
    next: u64,
    active: BTreeMap<(Kind, Name), Alert>,
    past: VecDeque<Alert>,
    news: VecDeque<Alert>,
    raised: [u64; Kind::ALL.len()],
    lost: u64,
}

impl Alerts {
    /// No alerts yet; the first one will be number `first`.
    pub fn new(pool: Name, first: u64) -> Self {
        Self {
            pool,
            next: first,
            active: BTreeMap::new(),
            past: VecDeque::new(),
            news: VecDeque::new(),
            raised: [0; Kind::ALL.len()],
            lost: 0,
        }
    }

    /// Takes in what happened in the pool, which is run by `spec`.
    pub fn hear(&mut self, now: Tick, event: &Event, spec: &PoolSpec) {
        match event {
            Event::StatusChanged { destination, to, reason, .. } => {
                self.stands(now, destination, *to, reason, spec, event);
            }
            Event::MemberRemoved { destination, .. } => {
                for kind in Kind::OF_DESTINATIONS {
                    self.clear(now, kind, destination);
                }
            }
            Event::MemberAdded { .. } | Event::EjectionSkipped { .. } => {}
        }
    }

    fn stands(
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
                self.clear(now, Kind::DestinationEjected, destination);
                let kind = Kind::DestinationDown;
                self.raise(now, destination, Cause { kind, message, value, threshold });
            }
            Status::Ejected { .. } => match reason {
                Reason::TrafficFailed { streak, .. } => {
                    let (value, most) = (f64::from(*streak), f64::from(spec.outlier.consecutive_failures));
                    let (value, threshold) = (Some(value), Some(most));
                    let kind = Kind::DestinationEjected;
                    self.raise(now, destination, Cause { kind, message, value, threshold });
                }
                Reason::WorseThanPeers { .. } => {
                    let kind = Kind::DestinationEjected;
                    self.raise(now, destination, Cause { kind, message, value: None, threshold: None });
                }
                Reason::TrialFailed { .. } => {
                    let before = self.status(Kind::RecoveryFailed, destination).and_then(|a| a.value);
                    let (kind, value) = (Kind::RecoveryFailed, Some(before.unwrap_or(0.0) + 1.0));
                    self.raise(now, destination, Cause { kind, message, value, threshold: None });
                }
                // Its trial is open, or planned: it does not serve yet, and that is known.
                _ => {}
            },
            Status::Serving
            | Status::Warming
            | Status::Draining
            | Status::Overloaded
            | Status::Maintenance => {
                for kind in [Kind::DestinationDown, Kind::DestinationEjected, Kind::RecoveryFailed] {
                    self.clear(now, kind, destination);
                }
            }
        }
    }

    /// Looks at the pool as a whole: how many of those that should serve do, whether any is kept for want of
    /// others (`panics`), and who keeps falling. To be called after a round of events and each second.
    pub fn look(&mut self, now: Tick, snapshot: &Snapshot, spec: &PoolSpec, panics: bool, falls: &Falls) {
        let pool = self.pool.clone();
        let serving = snapshot.members.iter().filter(|member| member.status.serves()).count();
        let by_operator = |status| matches!(status, Status::Draining | Status::Maintenance);
        let wanted = snapshot.members.iter().filter(|member| !by_operator(member.status)).count();
        let share = Some(serving as f64 / wanted.max(1) as f64).filter(|_| wanted > 0);
        let told = format!("pool {pool}: {serving} of {wanted} destinations that should serve do");
        let pool_wide = |kind, message, threshold| Cause { kind, message, value: share, threshold };
        if serving == 0 {
            self.clear(now, Kind::PoolDegraded, &pool);
            let message = format!("pool {pool}: no destination serves; messages are refused");
            self.raise(now, &pool, pool_wide(Kind::PoolDown, message, None));
        } else if serving < wanted {
            self.clear(now, Kind::PoolDown, &pool);
            self.raise(now, &pool, pool_wide(Kind::PoolDegraded, told, Some(1.0)));
        } else {
            self.clear(now, Kind::PoolDown, &pool);
            self.clear(now, Kind::PoolDegraded, &pool);
        }
        if panics {
            let message =
                format!("pool {pool}: destinations that fail are kept, because too few others would be left");
            self.raise(now, &pool, pool_wide(Kind::PoolPanic, message, Some(spec.panic_threshold)));
        } else {
            self.clear(now, Kind::PoolPanic, &pool);
        }
        self.look_at_falls(now, falls);
    }

    fn look_at_falls(&mut self, now: Tick, falls: &Falls) {
        let flaps = |alert: &Alert| falls.recent(&alert.subject, now) > 0;
        let mut over = Vec::new();
        for alert in self.active.values().filter(|alert| alert.kind == Kind::DestinationFlapping) {
            if !flaps(alert) {
                over.push(alert.subject.clone());
            }
        }
        for subject in over {
            self.clear(now, Kind::DestinationFlapping, &subject);
        }
        let room = ACTIVE_MAX.saturating_sub(self.active.len());
        for (name, count) in falls.flapping(now).take(room) {
            let message = format!(
                "pool {}: destination {name} went out {count} times or more within {} minutes",
                self.pool,
                Falls::WINDOW.as_secs() / 60
            );
            let (value, threshold) = (Some(count as f64), Some(FALLS as f64));
            self.raise(now, &name, Cause { kind: Kind::DestinationFlapping, message, value, threshold });
        }
    }

    /// Nothing is watched any more: what stands is over.
    pub fn end(&mut self, now: Tick) {
        let status: Vec<_> = self.active.keys().cloned().collect();
        for (kind, subject) in status {
            self.clear(now, kind, &subject);
        }
    }

    /// Somebody knows of the alert `id`. Who said so first stays.
    pub fn acknowledge(&mut self, id: u64, by: &str) -> Option<&Alert> {
        let known = self.active.values_mut().chain(&mut self.past).find(|alert| alert.id == id)?;
        known.acknowledged_by.get_or_insert_with(|| by.into());
        Some(known)
    }

    /// Those that stand, the gravest first, then those that are over, the latest first.
    pub fn all(&self) -> impl Iterator<Item = &Alert> {
        let mut active: Vec<&Alert> = self.active.values().collect();
        active.sort_by_key(|alert| (std::cmp::Reverse(alert.kind.severity()), alert.id));
        active.into_iter().chain(self.past.iter().rev())
    }

    /// The next that was raised or cleared (then `cleared_at` says when). Fetch until `None`.
    pub fn poll_news(&mut self) -> Option<Alert> {
        self.news.pop_front()
    }

    /// How many were raised, by kind in the order of [`Kind::ALL`].
    pub const fn raised(&self) -> &[u64; Kind::ALL.len()] {
        &self.raised
    }

    /// How many stand, by kind in the order of [`Kind::ALL`].
    pub fn active(&self) -> [u64; Kind::ALL.len()] {
        Kind::ALL.map(|kind| self.active.keys().filter(|(of, _)| *of == kind).count() as u64)
    }

    /// Alerts that found no place among [`ACTIVE_MAX`].
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    fn status(&self, kind: Kind, subject: &Name) -> Option<&Alert> {
        self.active.get(&(kind, subject.clone()))
    }

    fn raise(&mut self, now: Tick, subject: &Name, cause: Cause) {
        let Cause { kind, message, value, threshold } = cause;
        if let Some(known) = self.active.get_mut(&(kind, subject.clone())) {
            known.value = value;
            return;
        }
        // Those about the whole pool always find a place: there are three.
        if self.active.len() >= ACTIVE_MAX && Kind::OF_DESTINATIONS.contains(&kind) {
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
        self.tell(alert.clone());
        self.active.insert((kind, subject.clone()), alert);
    }

    fn clear(&mut self, now: Tick, kind: Kind, subject: &Name) {
        let Some(mut alert) = self.active.remove(&(kind, subject.clone())) else { return };
        alert.cleared_at = Some(now);
        self.tell(alert.clone());
        if self.past.len() == PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(alert);
    }

    fn tell(&mut self, alert: Alert) {
        if self.news.len() == NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back(alert);
    }
}
