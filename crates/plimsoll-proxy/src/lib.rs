//! The data plane: sockets, a clock, and the life of every message between them.
//!
//! One pinned thread per core runs [`worker`](crate)s that share nothing but the counters of destinations.
//! A control plane runs one driver per pool and publishes snapshots. The outside sees only [`Proxy`] and
//! its [`Handle`].

pub(crate) mod base;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod net;
pub(crate) mod run;
pub(crate) mod serve;

mod control;
mod forward;
mod listener;
mod upstream;

/// Protocols of your own: the [`Adapter`](adapter::Adapter) trait, the registry, and custom health checks.
pub mod adapter {
    pub use crate::forward::connection::{Destination, Unavailable, UpstreamFault, UpstreamSession};
    pub use crate::health::probe::custom::{Check, CheckContext};
    pub use crate::listener::accepted_connection::{Connection, Fault, TimeLimit};
    pub use crate::listener::adapter::Adapter;
    pub use crate::run::registry::Adapters;
    pub use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
    pub use plimsoll_wire::Detection;
}
pub use crate::net::tls;

pub use crate::base::clock::Clock;
pub use crate::base::counters::{
    CLASSES, DECISION_BUCKETS_NS, DECISIONS, DIRECTIONS, HANDSHAKES, HEDGES, Histogram, ListenerCounts,
    METHODS, ORCA_RESULTS, OVERFLOWS, PoolCounts, RETRY_REASONS, RouteCounts, TLS_VERSIONS, reasons,
};
pub use crate::control::views::{
    DestinationView, LimitView, LimitsView, ListenerView, PoolView, ReloadsView, RouteView, TrafficView,
};
pub use crate::control::{
    CandidateView, ConfigSource, ExplainError, ExplainQuery, ExplanationView, Handle, InvalidConfig,
    LoadReportError, Proxy, ReloadError, StartError,
};
pub use crate::health::driver::{CheckCounts, CheckStats, DurationHistogram, OUTAGES_MS};
pub use crate::health::monitor::{Monitor, MonitorView};
pub use crate::health::observer::ObserverView;
