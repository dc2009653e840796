//! What clients notice of failing destinations: as little as is safe.

mod ejection;
mod flapping;
mod response_integrity;
mod retries;
mod statuses;

use plimsoll_core::health::{CheckSchedule, HealthSpec, ProbeKind};

use crate::kit::{Visit, ms};

/// Reads a request and breaks the connection.
fn resets(visit: &mut Visit) {
    if visit.request().is_some() {
        visit.reset();
    }
}

/// Reads a request and closes without a word.
fn closes(visit: &mut Visit) {
    visit.request();
}

/// Quick checks of `kind`.
pub(crate) fn checks(kind: ProbeKind) -> HealthSpec {
    HealthSpec {
        check_interval: ms(50),
        timeout: ms(200),
        failure_threshold: 1,
        recovery_threshold: 1,
        probe: kind,
        probe_if_unresponsive: None,
        port: None,
        schedule: CheckSchedule::default(),
    }
}

pub(crate) fn http_checks() -> HealthSpec {
    checks(ProbeKind::Http {
        method: "GET".into(),
        path: "/health".into(),
        host: None,
        expect: [(200, 299)].into(),
        headers: [].into(),
        body: None,
    })
}
