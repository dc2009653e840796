//! Failing destinations: clients see as few errors as is safe.

mod attribution;
mod ejection;
mod flapping;
mod response_integrity;
mod retries;
mod statuses;

use plimsoll_core::health::{CheckSchedule, HealthSpec, ProbeKind};

use crate::kit::{Connection, ms};

/// Reads a request and resets the connection.
fn reset_after_request(conn: &mut Connection) {
    if conn.request().is_some() {
        conn.reset();
    }
}

/// Reads a request and closes without a response.
fn close_after_request(conn: &mut Connection) {
    conn.request();
}

/// Returns a health check of this kind with short intervals.
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
