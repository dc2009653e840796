//! Results of health monitoring: the specification's `HealthMonitoringResult`.

use serde::Serialize;

use plimsoll_core::Status;
use plimsoll_core::alert;
use plimsoll_core::alert::recommendation;
use plimsoll_core::pool::DestinationReport;
use plimsoll_proxy::{CheckCounts, Clock, MonitorView};

use super::error::HealthMonitoringError;
use crate::result::{HealthState, HealthStatus, Recommendation};

/// Health of a set of destinations. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HealthMonitoringResult {
    /// Health of the whole set.
    pub health_status: HealthStatus,
    /// Health of each destination, in the order given.
    pub destinations: Vec<DestinationHealth>,
    /// The last 256 alerts: active ones first, by severity, then cleared ones, the latest first.
    pub alerts: Vec<Alert>,
    /// Recommended changes, with their evidence.
    pub recommendations: Vec<Recommendation>,
    /// Partial failures of monitoring, and recoveries that failed. An extension of the specification.
    pub errors: Vec<HealthMonitoringError>,
}

/// Health of one destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DestinationHealth {
    /// Id of the destination.
    pub id: String,
    /// Status: `serving`, `warming`, `draining`, `ejected`, `down` or `maintenance`.
    pub status: &'static str,
    /// Reason of the status; `None` if it has served since it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Time of the last change of the status.
    pub since: u64,
    /// Health score, 0 to 1: the share of the last 32 checks that passed, multiplied by the score by which the
    /// algorithm `health_based` balances (errors, latency and consecutive failures of real traffic). 0 if the
    /// destination is down or ejected; `None` before the first check.
    pub score: Option<f64>,
    /// Number of consecutive failed checks.
    pub consecutive_failures: u32,
    /// Number of consecutive passed checks.
    pub consecutive_successes: u32,
    /// Last check; `None` before the first one.
    pub last_check: Option<LastCheck>,
}

/// Result of the last check.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LastCheck {
    /// Time of the result.
    pub at: u64,
    /// Whether the check passed.
    pub ok: bool,
    /// Duration in milliseconds; `None` if it failed.
    pub latency_ms: Option<f64>,
    /// Cause of the failure; empty if it passed.
    pub detail: String,
    /// Layer at which it failed: 4 (connect), 6 (TLS) or 7 (response); `None` if it passed.
    pub layer: Option<u8>,
    /// Kind of the failure, such as `connection_refused`; `None` if it passed.
    pub kind: Option<&'static str>,
}

/// A condition that needs attention, from its start to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Alert {
    /// Id, unique over all alerts.
    pub id: String,
    /// Severity: `info`, `warning` or `critical`.
    pub severity: &'static str,
    /// Kind of the condition.
    pub kind: &'static str,
    /// Id of a destination or name of the pool.
    pub subject: String,
    /// Description, as a sentence.
    pub message: String,
    /// Measured value, if it is a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Threshold the value reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Time it was raised.
    pub raised_at: u64,
    /// Time it was cleared; `None` while it is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleared_at: Option<u64>,
    /// Name of the person or system that acknowledged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
}

impl Alert {
    /// Converts an alert of `pool`.
    pub(crate) fn new(pool: &str, alert: &alert::Alert, clock: Clock) -> Self {
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

impl From<&recommendation::Recommendation> for Recommendation {
    fn from(found: &recommendation::Recommendation) -> Self {
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
    /// Converts a report; `traffic` is the health score of real traffic.
    pub(crate) fn new(report: &DestinationReport, checks: &CheckCounts, traffic: f64, clock: Clock) -> Self {
        let failed = matches!(report.status, Status::Down | Status::Ejected { .. });
        let last = report.last_check.as_ref();
        Self {
            id: report.name.to_string(),
            status: report.status.as_str(),
            reason: report.reason.as_ref().map(ToString::to_string),
            since: clock.unix_millis(report.since),
            score: checks.score().map(|share| if failed { 0.0 } else { share * traffic }),
            consecutive_failures: report.consecutive_failures,
            consecutive_successes: report.consecutive_passes,
            last_check: last.map(|check| LastCheck {
                at: clock.unix_millis(check.at),
                ok: check.ok,
                latency_ms: check.latency.map(|latency| latency.as_nanos() as f64 / 1e6),
                detail: check.detail().to_owned(),
                layer: check.failure.as_ref().map(|failure| failure.layer.number()),
                kind: check.failure.as_ref().map(|failure| failure.kind.as_str()),
            }),
        }
    }
}

/// Converts the state of a monitor.
///
/// # Errors
/// [`HealthMonitoringError::ChecksNotMade`] or [`HealthMonitoringError::TimedOut`] without results to report.
pub(super) fn monitoring_result(
    pool: &str,
    view: &MonitorView,
    clock: Clock,
) -> Result<HealthMonitoringResult, HealthMonitoringError> {
    let none = CheckCounts::default();
    let checks = |report: &DestinationReport| view.checks.get(&report.name).unwrap_or(&none);
    let total = view.destinations.len();
    if view.destinations.iter().all(|report| report.last_check.is_none() && checks(report).not_made > 0) {
        return Err(HealthMonitoringError::ChecksNotMade { destinations: total });
    }
    let is_unchecked =
        |report: &&DestinationReport| report.last_check.is_none() && checks(report).not_made == 0;
    let unchecked = view.destinations.iter().filter(is_unchecked).count();
    if unchecked > 0 {
        return Err(HealthMonitoringError::TimedOut { unchecked });
    }
    let serving = view.destinations.iter().filter(|report| report.status.serves()).count();
    let health = |report| DestinationHealth::new(report, checks(report), 1.0, clock);
    Ok(HealthMonitoringResult {
        health_status: HealthStatus {
            state: HealthState::from_name(view.state),
            serving,
            total,
            since: clock.unix_millis(view.state_since),
        },
        destinations: view.destinations.iter().map(health).collect(),
        alerts: view.observed.alerts.iter().map(|alert| Alert::new(pool, alert, clock)).collect(),
        recommendations: view.observed.advice.iter().map(Recommendation::from).collect(),
        errors: partial_errors(&view.observed.relapsed, &view.destinations, view.observed.alerts_lost),
    })
}

/// Returns the partial failures of monitoring.
pub(crate) fn partial_errors(
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
    use plimsoll_core::health::LastCheck as CoreCheck;
    use plimsoll_core::{Address, DestinationId, Tick, Weight};
    use plimsoll_proxy::ObserverView;

    use super::*;

    fn report(name: &str, status: Status, checked: bool) -> DestinationReport {
        let last = CoreCheck { at: Tick::ZERO, ok: true, latency: None, failure: None };
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
            contradictions: Default::default(),
        }
    }

    fn view(destinations: Vec<DestinationReport>) -> MonitorView {
        let (checks, observed) = (HashMap::new(), ObserverView::default());
        MonitorView { state: "healthy", state_since: Tick::ZERO, destinations, checks, observed }
    }

    fn result(view: &MonitorView) -> Result<HealthMonitoringResult, HealthMonitoringError> {
        monitoring_result("p", view, Clock::start())
    }

    #[test]
    fn checks_that_could_not_be_made_are_an_error() {
        let mut view = view(vec![report("a", Status::Serving, false)]);
        let mut lacking = CheckCounts::default();
        lacking.not_made = 3;
        view.checks.insert("a".into(), lacking);
        assert_eq!(result(&view), Err(HealthMonitoringError::ChecksNotMade { destinations: 1 }));
        view.destinations.push(report("b", Status::Serving, true));
        let result = result(&view).expect("b was checked");
        assert_eq!((result.destinations[0].score, &result.destinations[0].last_check), (None, &None));
    }

    #[test]
    fn unchecked_destinations_are_an_error() {
        let view = view(vec![report("a", Status::Serving, false), report("b", Status::Serving, true)]);
        assert_eq!(result(&view), Err(HealthMonitoringError::TimedOut { unchecked: 1 }));
    }

    #[test]
    fn lost_alerts_and_failed_recoveries_are_reported_with_the_result() {
        let mut view = view(vec![report("a", Status::Down, true), report("b", Status::Serving, true)]);
        assert_eq!(result(&view).expect("checked").errors, []);
        view.observed.alerts_lost = 2;
        view.observed.relapsed = vec!["a".into(), "b".into()];
        let errors = result(&view).expect("checked").errors;
        let failed = HealthMonitoringError::RecoveryFailed { destinations: vec!["a".to_owned()] };
        assert_eq!(errors, [failed, HealthMonitoringError::AlertsLost { lost: 2 }], "b serves again");
        let json = serde_json::to_value(&errors).expect("plain data");
        assert_eq!(json[0]["kind"], "recovery_failed");
    }
}
