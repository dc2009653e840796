//! What active checks ask and what real traffic may show before a destination is set aside.

use std::sync::Arc;
use std::time::Duration;

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
    },
}

/// The active checks of a pool: every key of the seed's `health_monitoring`.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Another port than the one that serves.
    pub port: Option<u16>,
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
    /// At most this share of the pool is ejected at once (one always may be, if others serve), 0.0 to 1.0.
    pub max_ejected: f64,
}
