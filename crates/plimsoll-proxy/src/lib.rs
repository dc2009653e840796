//! The data plane: sockets, a clock, and the life of every message between them.
//!
//! One pinned thread per core runs [`worker`](crate)s that share nothing but the counters of destinations.
//! A control plane runs one driver per pool and publishes snapshots. The outside sees only [`Proxy`] and
//! its [`Handle`].

mod access_log;
pub mod adapter;
mod berth;
mod clock;
mod control;
mod counters;
mod decision_log;
mod downstream;
mod driver;
mod forward;
mod hall;
mod http1;
mod http2;
mod lines;
mod listener;
mod monitor;
mod mqtt;
mod orca;
mod pending;
mod probe;
mod proxy_protocol;
mod queue;
mod race;
mod stream;
mod tables;
mod tcp;
mod term;
mod timer;
pub mod tls;
mod tunnel;
mod udp;
mod upstream;
mod views;
mod watch;
mod worker;

pub use clock::Clock;
pub use control::{
    Ask, CandidateView, Explained, Handle, Invalid, NotReported, Proxy, ReloadError, Source, StartError,
    Unanswerable,
};
pub use counters::{
    CLASSES, DECISION_BUCKETS_NS, DECISIONS, DIRECTIONS, HANDSHAKES, HEDGES, Histogram, ListenerCounts,
    METHODS, ORCA_RESULTS, OVERFLOWS, PoolCounts, RETRY_REASONS, RuleCounts, TLS_VERSIONS, reasons,
};
pub use driver::{CheckCounts, OUTAGES_MS, Spans, Watched};
pub use monitor::{Monitor, MonitorView};
pub use views::{
    DestinationView, LimitView, LimitsView, ListenerView, PoolView, ReloadsView, RuleView, TrafficView,
};
pub use watch::WatchView;
