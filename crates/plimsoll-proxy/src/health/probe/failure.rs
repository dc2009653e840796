//! Why a check did not pass: a failure of the destination, or a resource that this process lacks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};

use crate::net::stream::is_resource_exhausted;

/// Why a check did not pass.
#[derive(Debug)]
pub(super) enum ProbeError {
    /// The destination failed the check.
    Failed(CheckFailure),
    /// This process or machine lacks a resource, so the check was not made.
    NoResources,
}

impl ProbeError {
    /// Converts an error of opening a connection or a socket; `what` names the step that failed.
    pub(super) fn connect(what: &str, error: &io::Error) -> Self {
        if is_resource_exhausted(error) {
            return Self::NoResources;
        }
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => CheckFailureKind::ConnectionRefused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                CheckFailureKind::Unreachable
            }
            io::ErrorKind::TimedOut => CheckFailureKind::Timeout,
            _ => CheckFailureKind::ConnectFailed,
        };
        Self::Failed(CheckFailure::new(CheckLayer::Connect, kind, format!("{what}: {error}")))
    }
}

impl From<CheckFailure> for ProbeError {
    fn from(failure: CheckFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Stage that a running check has reached, used to report the layer of a timeout.
#[derive(Clone, Debug)]
pub(super) struct ProbeStage(Arc<AtomicU8>);

impl Default for ProbeStage {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(CheckLayer::Connect.number())))
    }
}

impl ProbeStage {
    /// The TLS handshake begins.
    pub(super) fn tls_handshake(&self) {
        self.0.store(CheckLayer::Tls.number(), Relaxed);
    }

    /// The connection is ready for the request.
    pub(super) fn connected(&self) {
        self.0.store(CheckLayer::Protocol.number(), Relaxed);
    }

    /// Creates the failure of a check that reached its time limit at this stage.
    pub(super) fn timeout(&self, limit: Duration) -> CheckFailure {
        let (layer, what) = match self.0.load(Relaxed) {
            4 => (CheckLayer::Connect, "no connection"),
            6 => (CheckLayer::Tls, "no TLS handshake"),
            _ => (CheckLayer::Protocol, "no response"),
        };
        let detail = format!("{what} within {} ms", limit.as_millis());
        CheckFailure::new(layer, CheckFailureKind::Timeout, detail)
    }
}
