//! What the outside may see of a running proxy: plain values, copied when asked for.

use std::time::Duration;

use plimsoll_core::health::OutlierSpec;
use plimsoll_core::live::Counts;
use plimsoll_core::pool::DestinationReport;
use plimsoll_core::{Name, Standing};

use crate::counters::{ListenerCounts, RuleCounts};
use crate::driver::CheckCounts;

/// A pool, as of now.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Its name.
    pub name: Name,
    /// The algorithm's name.
    pub algorithm: &'static str,
    /// Number of the snapshot workers use.
    pub generation: u64,
    /// In configured order.
    pub destinations: Vec<DestinationView>,
    /// Are active checks on?
    pub health_checking: bool,
    /// When traffic sets a destination aside.
    pub outlier: OutlierSpec,
}

/// A destination, as of now.
#[derive(Clone, Debug)]
pub struct DestinationView {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub address: String,
    /// Base weight.
    pub weight: u16,
    /// Effective weight, 256ths.
    pub effective_weight: u32,
    /// Tier; 0 is first.
    pub priority: u8,
    /// May it serve, and if not why.
    pub standing: Standing,
    /// For how long it has stood so.
    pub since: Duration,
    /// Messages that hold a ticket.
    pub in_flight: u32,
    /// Bad outcomes of real traffic in a row.
    pub streak: u32,
    /// Counts since the start.
    pub counts: Counts,
    /// What its checks and its ejections came to.
    pub report: Option<DestinationReport>,
    /// Counts of its checks.
    pub checks: CheckCounts,
    /// Changes of its standing.
    pub transitions: u64,
    /// How often it was set aside.
    pub ejections: u64,
}

impl PoolView {
    /// Destinations that take new work.
    pub fn serving(&self) -> usize {
        self.destinations.iter().filter(|d| d.standing.serves()).count()
    }

    /// `healthy`, `degraded` or `down`, the seed's three words.
    pub fn state(&self) -> &'static str {
        match self.serving() {
            0 => "down",
            n if n == self.destinations.len() => "healthy",
            _ => "degraded",
        }
    }
}

/// A listener, as of now.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// Its name.
    pub name: Name,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// Where it really listens, port 0 resolved.
    pub addresses: Vec<String>,
    /// Counts since the start.
    pub counts: ListenerCounts,
}

/// A rule: a route of a listener and the pool it leads to.
#[derive(Clone, Debug)]
pub struct RuleView {
    /// The listener.
    pub listener: Name,
    /// The route, or `default`.
    pub route: Name,
    /// The pool.
    pub pool: Name,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// Counts since the start.
    pub counts: RuleCounts,
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
    pub rules: Vec<RuleView>,
    /// Access-log lines that found no room.
    pub log_dropped: u64,
    /// How reloads went.
    pub reloads: ReloadsView,
}
