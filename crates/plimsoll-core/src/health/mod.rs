//! Health checks (active) and outlier detection (passive).

pub mod baseline;
pub mod check_failure;
pub mod check_queue;
pub mod checker;
pub mod outlier;
pub mod overload;
pub mod peer_comparison;
pub mod schedule;
pub mod score;
pub mod unresponsive;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::destination::{Address, DestinationId, Name};

pub use check_failure::{CheckFailure, CheckFailureKind, CheckLayer};
pub use check_queue::CheckQueue;
pub use checker::{Checker, LastCheck};
pub use outlier::{EjectionCapacity, Outlier, OutlierDecision};
pub use overload::{LoadSpec, OverloadSpec};
pub use schedule::{CheckSchedule, Start};

/// Kind of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Opens a TCP connection.
    Tcp,
    /// Sends an HTTP/1.1 request and expects a status.
    Http {
        /// Request method, such as `GET` or `HEAD`.
        method: Arc<str>,
        /// Request target in origin form, starting with `/`.
        path: Arc<str>,
        /// Value of the `Host` header; `None` = the destination's address.
        host: Option<Arc<str>>,
        /// Inclusive ranges of expected statuses.
        expect: Arc<[(u16, u16)]>,
        /// Additional header fields, with names in lower case and valid values.
        headers: Arc<[(Arc<str>, Arc<str>)]>,
        /// Bytes that the beginning of the body must contain; `None` = any body.
        body: Option<Arc<[u8]>>,
    },
    /// Calls `grpc.health.v1.Health/Check` and expects SERVING.
    Grpc {
        /// Name of the gRPC service; empty = the whole server.
        service: Arc<str>,
        /// Value of `:authority`; `None` = the destination's address.
        host: Option<Arc<str>>,
    },
    /// Sends a datagram. An ICMP error fails the check, and so does a missing response if one is expected.
    Udp {
        /// Payload of the datagram; may be empty.
        send: Arc<[u8]>,
        /// Bytes that the response must contain; `None` = no response until the timeout is a pass.
        expect: Option<Arc<[u8]>>,
    },
    /// Opens an MQTT 3.1.1 session.
    Mqtt {
        /// Credentials; `None` = none, and then a broker that requires credentials passes, too.
        login: Option<Login>,
    },
    /// Custom check of this name, implemented by the embedding program.
    Other(&'static str),
}

/// Credentials of an MQTT session.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name of the user.
    pub username: Arc<str>,
    /// Password; empty = none is sent.
    pub password: Arc<str>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

impl ProbeKind {
    /// The word used in configuration and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http { .. } => "http",
            Self::Grpc { .. } => "grpc",
            Self::Udp { .. } => "udp",
            Self::Mqtt { .. } => "mqtt",
            Self::Other(word) => word,
        }
    }
}

/// Health checks of a pool, with the keys of the specification's `health_monitoring`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSpec {
    /// Time from the end of one check to the start of the next, before jitter.
    pub check_interval: Duration,
    /// Time after which a check without a response fails.
    pub timeout: Duration,
    /// Number of consecutive failures that take a destination out; for the first check of all, one suffices.
    pub failure_threshold: u32,
    /// Number of consecutive passes that bring a destination back.
    pub recovery_threshold: u32,
    /// Kind of the checks.
    pub probe: ProbeKind,
    /// Kind of the checks of an unresponsive destination, for which an open connection proves nothing; `None` = `probe`.
    pub probe_if_unresponsive: Option<ProbeKind>,
    /// Port of the checks; `None` = the port that serves.
    pub port: Option<u16>,
    /// Times of the checks.
    pub schedule: CheckSchedule,
}

impl HealthSpec {
    /// Returns whether the checks of an unresponsive destination need its response, so that they confirm or refute the
    /// suspicion.
    pub fn needs_response(&self) -> bool {
        match self.probe_if_unresponsive.as_ref().unwrap_or(&self.probe) {
            ProbeKind::Tcp | ProbeKind::Udp { expect: None, .. } => false,
            ProbeKind::Http { .. }
            | ProbeKind::Grpc { .. }
            | ProbeKind::Mqtt { .. }
            | ProbeKind::Udp { .. } => true,
            ProbeKind::Other(_) => true,
        }
    }
}

/// Health check to be made. The driver makes it and reports a result in any case; a timeout is a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Number of the destination.
    pub id: DestinationId,
    /// Name of the destination.
    pub name: Name,
    /// Address of the check, with the `port` of the health checks if there is one.
    pub address: Address,
    /// Configured host name of the destination, if its address comes from a lookup.
    pub host: Option<Name>,
    /// Time after which the check fails.
    pub timeout: Duration,
    /// Kind of the check.
    pub kind: ProbeKind,
}

/// Result of a [`ProbeRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The check passed.
    Passed {
        /// Duration of the check.
        latency: Duration,
    },
    /// The check failed.
    Failed(CheckFailure),
    /// The balancer lacked a resource for the check, which says nothing about the destination.
    NotMade,
}

/// Outlier detection: when traffic ejects a destination.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct OutlierSpec {
    /// Number of consecutive bad outcomes that eject a destination; 0 = no ejections.
    pub consecutive_failures: u32,
    /// Duration of the first ejection; the n-th consecutive one lasts n times as long, up to `max_ejection`.
    pub base_ejection: Duration,
    /// Maximum duration of an ejection.
    pub max_ejection: Duration,
    /// Interval at which destinations are compared with their peers; `None` = no comparison.
    pub interval: Option<Duration>,
    /// Time without any response after which waiting messages make a destination suspect; `None` = no such detection.
    pub unresponsive_after: Option<Duration>,
    /// Whether a destination that is much slower than its peers, or than its baseline, is ejected. Never where keys
    /// select destinations, because these do different work.
    pub latency: bool,
    /// Whether each destination is also compared with its own baseline (`quality.learning`).
    pub learning: bool,
    /// Maximum share of the pool that is ejected at once, 0.0 to 1.0; one ejection is always permitted if others serve.
    pub max_ejected: f64,
}

impl OutlierSpec {
    /// Ejection by consecutive failures alone.
    pub const CONSECUTIVE_FAILURES: Self = Self {
        consecutive_failures: 5,
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        interval: None,
        unresponsive_after: None,
        latency: false,
        learning: false,
        max_ejected: 0.5,
    };

    /// Outlier detection that ejects no destination.
    pub const OFF: Self = Self { consecutive_failures: 0, ..Self::CONSECUTIVE_FAILURES };
}
