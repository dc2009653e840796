//! What workers read: listeners, rules and pools, compiled once per configuration and never changed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use plimsoll_config::model;
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::route::{self, RouteInput};
use plimsoll_core::subset::Subset;
use plimsoll_core::{FailureSignal, Name, PoolLimiter, Snapshot};

use crate::base::counters::{ListenerTally, PerWorker, PoolTally, RuleTally};
use crate::listener::adapter::Adapter;
use crate::net::tls::client_config::Trust;
use crate::net::tls::server_config::Voucher;

pub(crate) use plimsoll_wire::http1::HeaderEdits as Edits;

/// Folds the edits of `stages`, applied one after the other, into one: what to drop, then what to append.
pub(crate) fn fold_edits(stages: &[&model::HeaderEdits]) -> Edits {
    let mut dropped: Vec<String> = Vec::new();
    let mut lines: Vec<(&str, &str)> = Vec::new();
    for stage in stages {
        let names = stage.remove.iter().chain(stage.set.iter().map(|(name, _)| name));
        for name in names {
            lines.retain(|(line, _)| !line.eq_ignore_ascii_case(name));
            dropped.push(name.to_ascii_lowercase());
        }
        lines.extend(stage.set.iter().chain(&stage.add).map(|(n, v)| (n.as_str(), v.as_str())));
    }
    let appended = lines.iter().flat_map(|(n, v)| format!("{n}: {v}\r\n").into_bytes()).collect();
    Edits { dropped, appended }
}

/// The latest snapshot of a pool: written by its driver, read by workers that compare a number first.
#[derive(Debug)]
pub(crate) struct Feed {
    generation: AtomicU64,
    snapshot: Mutex<Arc<Snapshot>>,
}

impl Feed {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { generation: AtomicU64::new(snapshot.generation), snapshot: Mutex::new(snapshot) }
    }

    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.generation.store(generation, Ordering::Release);
    }

    /// The number of the latest snapshot.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn latest(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A pool as workers see it. `number` is never used again, so a worker's connections to a pool that went
/// and came back under the same name are not mixed up.
#[derive(Debug)]
pub(crate) struct PoolTable {
    pub(crate) number: u64,
    pub(crate) config: Arc<model::Pool>,
    /// How TLS is spoken to its destinations, if it is.
    pub(crate) trust: Option<Arc<Trust>>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) budget: Arc<RetryBudget>,
    /// What it has at once, and who waits for it.
    pub(crate) limiter: Arc<PoolLimiter>,
    pub(crate) signals: tokio::sync::mpsc::Sender<FailureSignal>,
    pub(crate) tallies: Arc<PerWorker<PoolTally>>,
}

/// Where a request goes, and what happens to it on the way.
#[derive(Debug)]
pub(crate) struct RuleTable {
    /// The route's name; the listener's own pool counts as route `default`.
    pub(crate) name: Name,
    pub(crate) matches: Option<route::Match>,
    pub(crate) pool: Arc<PoolTable>,
    /// The part of the pool it is for.
    pub(crate) subset: Option<Arc<Subset>>,
    pub(crate) request_edits: Edits,
    pub(crate) response_edits: Edits,
    pub(crate) tallies: Arc<PerWorker<RuleTally>>,
}

/// A listener as workers see it.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    pub(crate) config: Arc<model::Listener>,
    /// In the order they are asked; one without `matches` takes everything.
    pub(crate) rules: Vec<Arc<RuleTable>>,
    /// Who serves what comes in.
    pub(crate) adapter: Arc<dyn Adapter>,
    /// How TLS ends here, if it does.
    pub(crate) voucher: Option<Arc<Voucher>>,
    /// A pool of this listener wants to know whose connections it is given.
    pub(crate) tells_origin: bool,
    pub(crate) shared: Arc<ListenerShared>,
}

/// What a listener keeps over reloads.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    pub(crate) tallies: PerWorker<ListenerTally>,
    /// Open connections over all workers, for the limit.
    pub(crate) open: AtomicUsize,
    /// Handshakes of TLS that run, over all workers, for the limit.
    pub(crate) handshakes: AtomicUsize,
}

impl ListenerTable {
    /// The first rule whose match holds.
    pub(crate) fn route(&self, facts: &dyn RouteInput) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches.as_ref().is_none_or(|m| m.matches(facts)))
    }

    /// Something about connections must be known before they can be routed.
    pub(crate) fn asks_for_sni(&self) -> bool {
        self.rules.iter().any(|rule| rule.matches.as_ref().is_some_and(|m| m.sni.is_some()))
    }

    pub(crate) fn trusts(&self, ip: Option<std::net::IpAddr>) -> bool {
        let nets: &[IpNet] = &self.config.trusted_proxies;
        !nets.is_empty() && ip.is_some_and(|ip| nets.iter().any(|net| net.contains(&ip)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> model::HeaderEdits {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        model::HeaderEdits {
            set: pairs(set),
            add: pairs(add),
            remove: remove.iter().map(|n| (*n).into()).collect(),
        }
    }

    #[test]
    fn a_route_edits_after_its_listener() {
        let listener = edits(&[("x-a", "1"), ("x-b", "1")], &[("x-c", "1")], &[]);
        let route = edits(&[("x-a", "2")], &[("x-c", "2")], &["x-b"]);
        let folded = fold_edits(&[&listener, &route]);
        assert_eq!(
            String::from_utf8(folded.appended.clone()).expect("ascii"),
            "x-c: 1\r\nx-a: 2\r\nx-c: 2\r\n"
        );
        assert!(folded.drops("X-A") && folded.drops("x-b") && !folded.drops("x-c"));
    }
}
