//! What monitoring tells: the words of the seed's `HealthMonitoringResult`.

use serde::Serialize;

use plimsoll_core::Status;
use plimsoll_core::alert;
use plimsoll_core::health::advice;
use plimsoll_core::pool::DestinationReport;
use plimsoll_proxy::{CheckCounts, Clock, MonitorView};

use super::error::HealthMonitoringError;
use crate::result::{HealthState, HealthStatus, Recommendation};

/// How a set of destinations is. Moments are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthMonitoringResult {
    /// All together.
    pub health_status: HealthStatus,
    /// Each by itself, in the order given.
    pub destinations: Vec<DestinationHealth>,
    /// Those that stand, the gravest first, then those that are over, the latest first: the last 256.
    pub alerts: Vec<Alert>,
    /// What could be better, each with what was seen.
    pub recommendations: Vec<Recommendation>,
    /// What of monitoring itself, or of recoveries, went wrong; empty when nothing did. (Not in the seed.)
    pub errors: Vec<HealthMonitoringError>,
}

/// How one destination is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationHealth {
    /// Who.
    pub id: String,
    /// `serving`, `warming`, `draining`, `ejected`, `down` or `maintenance`.
    pub status: &'static str,
    /// Why it stands so; `None` for one that has served since it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it stands so.
    pub since: u64,
    /// The share of its last 32 checks that passed, halved by each bad outcome of real traffic in a row, 0 to 1;
    /// `None` before the first check.
    pub score: Option<f64>,
    /// Checks that failed in a row.
    pub consecutive_failures: u32,
    /// Checks that passed in a row.
    pub consecutive_successes: u32,
    /// `None` before the first.
    pub last_check: Option<LastCheck>,
}

/// The last answer to a check.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastCheck {
    /// When it came.
    pub at: u64,
    /// As expected.
    pub ok: bool,
    /// How long it took; `None` when it failed.
    pub latency_ms: Option<f64>,
    /// What was seen; empty when it passed.
    pub detail: String,
}

/// Something that people should know, from when it began to when it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Never used for another alert.
    pub id: String,
    /// `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// What it is, in a word.
    pub kind: &'static str,
    /// Whom it is about: a destination's id, or the pool's name.
    pub subject: String,
    /// In a sentence.
    pub message: String,
    /// What was measured, where that is a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// And what it should not have reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// When it began.
    pub raised_at: u64,
    /// When it ended; `None` while it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleared_at: Option<u64>,
    /// Who knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
}

impl Alert {
    /// An alert of `pool`, as told.
    pub fn of(pool: &str, alert: &alert::Alert, clock: Clock) -> Self {
        Self {
            id: format!("{pool}.{}", alert.id),
            severity: alert.kind.severity().as_str(),
            kind: alert.kind.as_str(),
            subject: alert.subject.to_string(),
            message: alert.message.clone(),
            value: alert.value,
            threshold: alert.threshold,
            raised_at: clock.unix_millis(alert.raised_at),
            cleared_at: alert.cleared_at.map(|at| clock.unix_millis(at)),
            acknowledged_by: alert.acknowledged_by.as_deref().map(str::to_owned),
        }
    }
}

impl From<&advice::Recommendation> for Recommendation {
    fn from(found: &advice::Recommendation) -> Self {
        Self {
            id: found.id.clone(),
            kind: found.kind.to_owned(),
            subject: found.subject.to_string(),
            message: found.message.clone(),
            evidence: found.evidence.clone(),
            expected_effect: found.expected_effect.clone(),
            confidence: found.confidence,
            command: found.command.clone(),
        }
    }
}

impl DestinationHealth {
    /// A destination that has been checked `checks` times, and failed `streak` messages in a row.
    pub fn of(report: &DestinationReport, checks: &CheckCounts, streak: u32, clock: Clock) -> Self {
        let last = report.last_check.as_ref();
        Self {
            id: report.name.to_string(),
            status: report.status.as_str(),
            reason: report.reason.as_ref().map(ToString::to_string),
            since: clock.unix_millis(report.since),
            score: checks.score().map(|share| share * (-f64::from(streak.min(64))).exp2()),
            consecutive_failures: report.consecutive_failures,
            consecutive_successes: report.consecutive_passes,
            last_check: last.map(|check| LastCheck {
                at: clock.unix_millis(check.at),
                ok: check.ok,
                latency_ms: check.latency.map(|latency| latency.as_nanos() as f64 / 1e6),
                detail: check.detail.clone(),
            }),
        }
    }
}

/// What a monitor has seen, told.
pub(super) fn tell(
    pool: &str,
    seen: &MonitorView,
    clock: Clock,
) -> Result<HealthMonitoringResult, HealthMonitoringError> {
    let none = CheckCounts::default();
    let checks = |report: &DestinationReport| seen.checks.get(&report.name).unwrap_or(&none);
    let total = seen.destinations.len();
    if seen.destinations.iter().all(|report| report.last_check.is_none() && checks(report).not_made > 0) {
        return Err(HealthMonitoringError::ChecksNotMade { destinations: total });
    }
    let untold = |report: &&DestinationReport| report.last_check.is_none() && checks(report).not_made == 0;
    let unchecked = seen.destinations.iter().filter(untold).count();
    if unchecked > 0 {
        return Err(HealthMonitoringError::TimedOut { unchecked });
    }
    let serving = seen.destinations.iter().filter(|report| report.status.serves()).count();
    let health = |report| DestinationHealth::of(report, checks(report), 0, clock);
    Ok(HealthMonitoringResult {
        health_status: HealthStatus {
            state: HealthState::of_word(seen.state),
            serving,
            total,
            since: clock.unix_millis(seen.state_since),
        },
        destinations: seen.destinations.iter().map(health).collect(),
        alerts: seen.watch.alerts.iter().map(|alert| Alert::of(pool, alert, clock)).collect(),
        recommendations: seen.watch.advice.iter().map(Recommendation::from).collect(),
        errors: errors(&seen.watch.relapsed, &seen.destinations, seen.watch.alerts_lost),
    })
}

/// What went wrong and still lets the rest be told.
pub fn errors(
    relapsed: &[plimsoll_core::Name],
    reports: &[DestinationReport],
    lost: u64,
) -> Vec<HealthMonitoringError> {
    let out = |name: &&plimsoll_core::Name| {
        let of = reports.iter().find(|report| report.name == **name);
        of.is_some_and(|report| matches!(report.status, Status::Down | Status::Ejected { .. }))
    };
    let destinations: Vec<String> = relapsed.iter().filter(out).map(ToString::to_string).collect();
    let failed = (!destinations.is_empty()).then_some(HealthMonitoringError::RecoveryFailed { destinations });
    let lost = (lost > 0).then_some(HealthMonitoringError::AlertsLost { lost });
    failed.into_iter().chain(lost).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use plimsoll_core::destination::{AdminState, Ejection, Health};
    use plimsoll_core::health::LastCheck as Seen;
    use plimsoll_core::{Address, DestinationId, Tick, Weight};
    use plimsoll_proxy::WatchView;

    use super::*;

    fn report(name: &str, status: Status, checked: bool) -> DestinationReport {
        let last = Seen { at: Tick::ZERO, ok: true, latency: None, detail: String::new() };
        DestinationReport {
            id: DestinationId(0),
            name: name.into(),
            address: Address::Socket(([127, 0, 0, 1], 1).into()),
            weight: Weight::ONE,
            priority: 0,
            admin: AdminState::Ready,
            health: Health::Up,
            ejection: Ejection::None,
            status,
            since: Tick::ZERO,
            reason: None,
            last_check: checked.then_some(last),
            consecutive_failures: 0,
            consecutive_passes: 0,
            ejections: 0,
            streak: 0,
            contradicted: Default::default(),
        }
    }

    fn seen(destinations: Vec<DestinationReport>) -> MonitorView {
        let (checks, watch) = (HashMap::new(), WatchView::default());
        MonitorView { state: "healthy", state_since: Tick::ZERO, destinations, checks, watch }
    }

    fn told(seen: &MonitorView) -> Result<HealthMonitoringResult, HealthMonitoringError> {
        tell("p", seen, Clock::start())
    }

    #[test]
    fn checks_that_nobody_could_make_are_an_error_and_not_a_failure_of_destinations() {
        let mut view = seen(vec![report("a", Status::Serving, false)]);
        let mut lacking = CheckCounts::default();
        lacking.not_made = 3;
        view.checks.insert("a".into(), lacking);
        assert_eq!(told(&view), Err(HealthMonitoringError::ChecksNotMade { destinations: 1 }));
        view.destinations.push(report("b", Status::Serving, true));
        let result = told(&view).expect("b was checked");
        assert_eq!((result.destinations[0].score, &result.destinations[0].last_check), (None, &None));
    }

    #[test]
    fn destinations_that_were_not_checked_in_time_are_an_error() {
        let view = seen(vec![report("a", Status::Serving, false), report("b", Status::Serving, true)]);
        assert_eq!(told(&view), Err(HealthMonitoringError::TimedOut { unchecked: 1 }));
    }

    #[test]
    fn alerts_that_were_lost_and_recoveries_that_did_not_last_are_told_beside_the_rest() {
        let mut view = seen(vec![report("a", Status::Down, true), report("b", Status::Serving, true)]);
        assert_eq!(told(&view).expect("checked").errors, []);
        view.watch.alerts_lost = 2;
        view.watch.relapsed = vec!["a".into(), "b".into()];
        let errors = told(&view).expect("checked").errors;
        let failed = HealthMonitoringError::RecoveryFailed { destinations: vec!["a".to_owned()] };
        assert_eq!(errors, [failed, HealthMonitoringError::AlertsLost { lost: 2 }], "b serves again");
        let json = serde_json::to_value(&errors).expect("plain data");
        assert_eq!(json[0]["kind"], "recovery_failed");
    }
}
