//! What the outside may see of a running proxy: plain values, copied when asked for.

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
use crate::health::driver::{CheckCounts, CheckStats};
use crate::health::observer::ObserverView;
use crate::net::tls::Expiry;

/// A pool, as of now.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Its name.
    pub name: Name,
    /// The algorithm's name.
    pub algorithm: &'static str,
    /// Number of the snapshot workers use.
    pub generation: u64,
    /// How its destinations stand, all together.
    pub health: HealthSummary,
    /// In configured order.
    pub destinations: Vec<DestinationView>,
    /// How its checks ask: `tcp`, `http`, `grpc`, `udp`, `mqtt` or a word of the embedding program; `None` = active checks are off.
    pub check_type: Option<&'static str>,
    /// When traffic sets a destination aside.
    pub outlier: OutlierSpec,
    /// Messages that wait long are sent to a second destination as well.
    pub hedges: bool,
    /// Reports of load in answers are read.
    pub orca: bool,
    /// Since when [`state`](Self::state) is as it is.
    pub state_since: Tick,
    /// Decisions and further tries since the start.
    pub counts: PoolCounts,
    /// How its checks and its recoveries went since the start.
    pub check_stats: CheckStats,
    /// How often a decision was found made before, and how often not, where decisions are remembered.
    pub decision_cache: Option<(u64, u64)>,
    /// Ejections since the start, by their reason.
    pub ejections: BTreeMap<&'static str, u64>,
    /// Alerts, advice, and how well messages are spread.
    pub observed: ObserverView,
    /// Usage and limits of the pool.
    pub limits: LimitsView,
}

/// Usage of something limited.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitView {
    /// Number in use now.
    pub current: u32,
    /// Limit; `None` = no limit.
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
pub struct LimitsView {
    /// Messages that hold an assignment.
    pub requests: LimitView,
    /// Connections, where they are counted: where the pool or a destination has a limit of them.
    pub connections: LimitView,
    /// Messages that wait for a place. They have a limit only where something of the pool does.
    pub pending: LimitView,
    /// Messages that are being tried again.
    pub retries: LimitView,
    /// How long a message waits at most.
    pub wait: Duration,
}

impl LimitsView {
    /// Returns whether anything of the pool has a limit, so that a message may have to wait.
    pub fn is_limited(&self) -> bool {
        self.pending.max.is_some()
    }
}

/// A destination, as of now.
#[derive(Clone, Debug)]
pub struct DestinationView {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub address: String,
    /// Where it stands.
    pub zone: Option<Name>,
    /// Free labels, in the order given.
    pub labels: Arc<[(Name, Name)]>,
    /// Base weight.
    pub weight: u16,
    /// Effective weight, 256ths.
    pub effective_weight: u32,
    /// The share of the pool's messages it should get now, 0 to 1: of the first tier that serves, by weight
    /// where the algorithm heeds weights, else all alike.
    pub intended_share: f64,
    /// Tier; 0 is first.
    pub priority: u8,
    /// May it serve, and if not why.
    pub status: Status,
    /// Since when it stands so.
    pub since: Tick,
    /// Messages that hold an assignment.
    pub in_flight: u32,
    /// The same, and how many may.
    pub requests: LimitView,
    /// Connections, where they are counted: where it or its pool has a limit of them.
    pub connections: LimitView,
    /// Bad outcomes of real traffic in a row.
    pub streak: u32,
    /// How often a formula had no number for it.
    pub score_errors: u32,
    /// What it says of its own load, as far as that still counts.
    pub load: LoadReport,
    /// How long ago it last said anything of it.
    pub load_age: Option<Duration>,
    /// Counts since the start.
    pub counts: Counts,
    /// What its checks and its ejections came to.
    pub report: Option<DestinationReport>,
    /// Counts of its checks.
    pub checks: CheckCounts,
    /// Changes of its status, by the words of both.
    pub transitions: BTreeMap<(&'static str, &'static str), u64>,
}

impl PoolView {
    /// Destinations that take new work.
    pub fn serving(&self) -> usize {
        self.health.serving
    }

    /// `healthy`, `degraded` or `down`, the seed's three words.
    pub fn state(&self) -> &'static str {
        self.health.state()
    }

    /// The share of the pool's messages a destination was chosen for since the start, 0 to 1; `None` before
    /// the first.
    pub fn share(&self, destination: &DestinationView) -> Option<f64> {
        let all: u64 = self.destinations.iter().map(|d| d.counts.started).sum();
        (all > 0).then(|| destination.counts.started as f64 / all as f64)
    }

    /// How far the shares are from the intended ones: half the sum of the differences, 0 to 1; `None` before
    /// the first message.
    pub fn deviation(&self) -> Option<f64> {
        deviation(self.destinations.iter().map(|d| (d.counts.started, d.intended_share)))
    }
}

/// A listener, as of now.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Its name.
    pub name: Name,
    /// `http`, `https`, `tcp` or `tls`.
    pub protocol: &'static str,
    /// When its certificates end; empty where it ends no TLS.
    pub certificates: Vec<Expiry>,
    /// Where it really listens, port 0 resolved.
    pub addresses: Vec<String>,
    /// Counts since the start.
    pub counts: ListenerCounts,
}

/// A rule: a route of a listener and the pool it leads to.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// The listener.
    pub listener: Name,
    /// The route, or `default`.
    pub route: Name,
    /// The pool.
    pub pool: Name,
    /// `http`, `https`, `tcp` or `tls`.
    pub protocol: &'static str,
    /// Counts since the start.
    pub counts: RouteCounts,
}

/// How reloads went.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct ReloadsView {
    /// Applied.
    pub succeeded: u64,
    /// Refused; the old configuration went on.
    pub failed: u64,
    /// The last one was applied (true before the first).
    pub last_succeeded: bool,
    /// Seconds since the Unix epoch of the last one that was applied; the start counts.
    pub last_success_at: f64,
}

/// Everything counted outside pools.
#[derive(Clone, Debug)]
pub struct TrafficView {
    /// Listeners.
    pub listeners: Vec<ListenerView>,
    /// Rules.
    pub routes: Vec<RouteView>,
    /// Access-log lines that found no room.
    pub log_dropped: u64,
    /// Lines of the decision log that found no room.
    pub decisions_dropped: u64,
    /// How reloads went.
    pub reloads: ReloadsView,
}
