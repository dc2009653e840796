//! What active checks ask and what real traffic may show before a destination is set aside.

pub mod baseline;
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

pub use check_queue::CheckQueue;
pub use checker::{Checker, LastCheck};
pub use outlier::{EjectionCapacity, Outlier, OutlierDecision};
pub use overload::{LoadSpec, OverloadSpec};
pub use schedule::{CheckSchedule, Start};

/// How one active check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// A TCP connection opens.
    Tcp,
    /// An HTTP/1.1 request answers with an expected status.
    Http {
        /// `GET`, `HEAD`, …
        method: Arc<str>,
        /// Origin form, starting with `/`.
        path: Arc<str>,
        /// The `Host` header; `None` = the destination's address.
        host: Option<Arc<str>>,
        /// Inclusive ranges of good statuses.
        expect: Arc<[(u16, u16)]>,
        /// Further lines of the request: names in lower case, and valid values.
        headers: Arc<[(Arc<str>, Arc<str>)]>,
        /// What the beginning of the body must contain; `None` = whatever.
        body: Option<Arc<[u8]>>,
    },
    /// `grpc.health.v1.Health/Check` answers SERVING.
    Grpc {
        /// Whom it is about; empty = the whole server.
        service: Arc<str>,
        /// The `:authority`; `None` = the destination's address.
        host: Option<Arc<str>>,
    },
    /// A datagram is sent. A refusal (ICMP) fails; so does silence, if an answer is expected.
    Udp {
        /// What it carries; may be empty.
        send: Arc<[u8]>,
        /// What the answer must contain; `None` = silence until the time limit is good.
        expect: Option<Arc<[u8]>>,
    },
    /// A connection of MQTT 3.1.1 is accepted.
    Mqtt {
        /// Who we are; `None` = nobody, and then a broker that wants to know is good, too.
        login: Option<Login>,
    },
    /// What the embedding program calls so.
    Other(&'static str),
}

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Whose.
    pub username: Arc<str>,
    /// Empty = none is sent.
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

/// The active checks of a pool: every key of the seed's `health_monitoring`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSpec {
    /// From the end of one check to the start of the next, before jitter.
    pub check_interval: Duration,
    /// A check without an answer by then has failed.
    pub timeout: Duration,
    /// Failures in a row that take a destination out (the first check of all: one is enough).
    pub failure_threshold: u32,
    /// Passes in a row that bring it back.
    pub recovery_threshold: u32,
    /// How a check asks.
    pub probe: ProbeKind,
    /// How it asks a destination that takes messages and answers none, where a connection proves nothing;
    /// `None` = as ever.
    pub probe_if_unresponsive: Option<ProbeKind>,
    /// Another port than the one that serves.
    pub port: Option<u16>,
    /// When checks are made.
    pub schedule: CheckSchedule,
}

/// One check to be made. Whoever takes the order answers it, with a time-out as a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Whom the answer is about.
    pub id: DestinationId,
    /// Its name.
    pub name: Name,
    /// Where to ask; the `port` of the health checks, if they have one, is in it.
    pub address: Address,
    /// No answer by then is a failure.
    pub timeout: Duration,
    /// How to ask.
    pub kind: ProbeKind,
}

/// The answer to a [`ProbeRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// As expected.
    Passed {
        /// From the start of the check to its end.
        latency: Duration,
    },
    /// Not as expected.
    Failed {
        /// What was seen, for people: `connection refused`.
        detail: String,
    },
    /// We lacked what a check takes: it says nothing about the destination.
    NotMade,
}

/// When real traffic sets a destination aside.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct OutlierSpec {
    /// Bad outcomes in a row; 0 = never ejects.
    pub consecutive_failures: u32,
    /// First ejection; the n-th in a row lasts n times as long, up to `max_ejection`.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Destinations are compared with each other so often; `None` = they are not.
    pub interval: Option<Duration>,
    /// Messages that wait for so long, and for many times longer than they and its peers' usually do, make a
    /// destination signal before their own time limit does; `None` = they do not.
    pub unresponsive_after: Option<Duration>,
    /// Each is judged by what is usual of it, too (`quality.learning`), at every comparison.
    pub learning: bool,
    /// At most this share of the pool is ejected at once (one always may be, if others serve), 0.0 to 1.0.
    pub max_ejected: f64,
}
