//! Views of a running proxy: plain values, copied on demand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::health::OutlierSpec;
use plimsoll_core::limit::Limit;
use plimsoll_core::measure::LoadReport;
use plimsoll_core::pool::DestinationReport;
use plimsoll_core::quality::deviation;
use plimsoll_core::snapshot::HealthSummary;
use plimsoll_core::stats::Counts;
use plimsoll_core::{Name, Status, Tick};

use crate::base::counters::{ListenerCounts, PoolCounts, RouteCounts};
use crate::control::resolver::LookupCounts;
use crate::health::driver::{CheckCounts, CheckStats};
use crate::health::observer::ObserverView;
use crate::net::tls::Expiry;

/// State of a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolView {
    /// Name of the pool.
    pub name: Name,
    /// The algorithm's name.
    pub algorithm: &'static str,
    /// Generation of the snapshot that workers use.
    pub generation: u64,
    /// Number of destinations by health.
    pub health: HealthSummary,
    /// Destinations in configured order.
    pub destinations: Vec<DestinationView>,
    /// Kind of its checks: `tcp`, `http`, `grpc`, `udp`, `mqtt` or a name of the embedding program; `None` = checks are off.
    pub check_type: Option<&'static str>,
    /// Outlier detection of the pool.
    pub outlier: OutlierSpec,
    /// Whether slow requests are hedged.
    pub hedges: bool,
    /// Whether load reports in responses are read.
    pub orca: bool,
    /// Time of the latest change of [`state`](Self::state).
    pub state_since: Tick,
    /// Time that [`DestinationView::recent`] covers: a minute and up to 15 s more, or the age of the pool.
    pub window: Duration,
    /// Decisions, retries and hedges since the start.
    pub counts: PoolCounts,
    /// Statistics of checks and recoveries since the start.
    pub check_stats: CheckStats,
    /// Hits and misses of the decision cache, if the pool has one.
    pub decision_cache: Option<(u64, u64)>,
    /// Number of times that a backup tier began to get messages.
    pub backup_activations: u64,
    /// Ejections since the start, by reason.
    pub ejections: BTreeMap<&'static str, u64>,
    /// Alerts, recommendations and balancing quality.
    pub observed: ObserverView,
    /// Usage and limits of the pool.
    pub limits: LimitsView,
    /// Lookups of the host names of its destinations; `None` if it has none.
    pub lookups: Option<LookupCounts>,
}

/// Usage of a limited resource.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitView {
    /// Current number in use.
    pub current: u32,
    /// Maximum number; `None` = no limit.
    pub max: Option<u32>,
}

impl LimitView {
    /// Returns whether the limit is reached.
    pub fn is_full(self) -> bool {
        self.max.is_some_and(|max| self.current >= max)
    }
}

impl From<&Limit> for LimitView {
    fn from(limit: &Limit) -> Self {
        Self { current: limit.current(), max: limit.max() }
    }
}

/// Usage and limits of a pool, over all destinations and workers.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsView {
    /// Requests in flight.
    pub requests: LimitView,
    /// Connections; counted only if the pool or a destination limits them.
    pub connections: LimitView,
    /// Queued requests; limited only if the pool has any limit.
    pub pending: LimitView,
    /// Retries in progress.
    pub retries: LimitView,
    /// Maximum time in the queue.
    pub wait: Duration,
}

impl LimitsView {
    /// Returns whether the pool has any limit, so that requests may be queued.
    pub fn is_limited(&self) -> bool {
        self.pending.max.is_some()
    }
}

/// State of a destination.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DestinationView {
    /// Name of the destination.
    pub name: Name,
    /// Address of the destination.
    pub address: String,
    /// Zone of the destination.
    pub zone: Option<Name>,
    /// Labels in configured order.
    pub labels: Arc<[(Name, Name)]>,
    /// Base weight of the destination.
    pub weight: u16,
    /// Effective weight, in 256ths.
    pub effective_weight: u32,
    /// Intended share of the pool's requests, 0 to 1: of the first tier that serves, by weight if the algorithm uses
    /// weights, else equal.
    pub intended_share: f64,
    /// Priority tier; 0 is first.
    pub priority: u8,
    /// Status, which decides whether it may serve.
    pub status: Status,
    /// Time of the latest change of its status.
    pub since: Tick,
    /// Number of requests in flight.
    pub in_flight: u32,
    /// Requests in flight, with their limit.
    pub requests: LimitView,
    /// Connections; counted only if the destination or its pool limits them.
    pub connections: LimitView,
    /// Consecutive bad outcomes of traffic.
    pub streak: u32,
    /// Health score of its traffic, 0 to 1; 0 if it failed and does not serve.
    pub traffic_score: f64,
    /// Number of times a formula had no value for it.
    pub score_errors: u32,
    /// Load that it reported, as far as it is still valid.
    pub load: LoadReport,
    /// Age of its latest load report.
    pub load_age: Option<Duration>,
    /// Counts since the start.
    pub counts: Counts,
    /// Counts within the window of the pool.
    pub recent: Counts,
    /// Report of its checks and ejections.
    pub report: Option<DestinationReport>,
    /// Counts of its checks.
    pub checks: CheckCounts,
    /// Status changes, by the names of both statuses.
    pub transitions: BTreeMap<(&'static str, &'static str), u64>,
}

impl PoolView {
    /// Returns the number of destinations that may serve.
    pub fn serving(&self) -> usize {
        self.health.serving
    }

    /// Returns the state: `healthy`, `degraded` or `down`.
    pub fn state(&self) -> &'static str {
        self.health.state()
    }

    /// Returns the share of the pool's requests that were assigned to a destination since the start, 0 to 1; `None`
    /// before the first request.
    pub fn share(&self, destination: &DestinationView) -> Option<f64> {
        let all: u64 = self.destinations.iter().map(|d| d.counts.started).sum();
        (all > 0).then(|| destination.counts.started as f64 / all as f64)
    }

    /// Returns the total variation distance between the intended and the actual shares, 0 to 1; `None` before the first
    /// request.
    pub fn deviation(&self) -> Option<f64> {
        deviation(self.destinations.iter().map(|d| (d.counts.started, d.intended_share)))
    }
}

/// State of a listener.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerView {
    /// Name of the listener.
    pub name: Name,
    /// Protocol of the listener: `http`, `https`, `tcp`, `tls` or another name.
    pub protocol: &'static str,
    /// Expiry of its certificates; empty if it does not terminate TLS.
    pub certificates: Vec<Expiry>,
    /// Bound addresses, with port 0 resolved.
    pub addresses: Vec<String>,
    /// Counts since the start.
    pub counts: ListenerCounts,
}

/// A route of a listener, with its pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteView {
    /// Name of the listener.
    pub listener: Name,
    /// Name of the route, or `default`.
    pub route: Name,
    /// Name of the pool.
    pub pool: Name,
    /// Protocol of the listener: `http`, `https`, `tcp`, `tls` or another name.
    pub protocol: &'static str,
    /// Counts since the start.
    pub counts: RouteCounts,
}

/// Results of reloads.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ReloadsView {
    /// Number of applied reloads.
    pub succeeded: u64,
    /// Number of rejected reloads.
    pub failed: u64,
    /// Whether the latest reload was applied; true before the first.
    pub last_succeeded: bool,
    /// Time of the latest applied reload or of the start, in seconds since 1970.
    pub last_success_at: f64,
}

/// Counters outside pools.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrafficView {
    /// State of the listeners.
    pub listeners: Vec<ListenerView>,
    /// State of the routes.
    pub routes: Vec<RouteView>,
    /// Access log records dropped because the queue was full.
    pub log_dropped: u64,
    /// Decision log records dropped because the queue was full.
    pub decisions_dropped: u64,
    /// Results of reloads.
    pub reloads: ReloadsView,
}
