//! What workers read: listeners, routes and pools, compiled once per configuration and never changed.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ipnet::IpNet;
use plimsoll_config::model;
use plimsoll_core::Name;
use plimsoll_core::route::{self, RouteInput};
use plimsoll_core::subset::Subset;
use plimsoll_wire::http1::HeaderEdits;

use crate::base::counters::{ListenerCounters, PerWorker, RouteCounters};
use crate::listener::adapter::Adapter;
use crate::net::tls::server_config::ServerTlsConfig;
use crate::upstream::table::PoolTable;

/// Where a request goes, and what happens to it on the way.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// The route's name; the listener's own pool counts as route `default`.
    pub(crate) name: Name,
    pub(crate) matches: Option<route::Match>,
    pub(crate) pool: Arc<PoolTable>,
    /// The part of the pool it is for.
    pub(crate) subset: Option<Arc<Subset>>,
    pub(crate) request_edits: HeaderEdits,
    pub(crate) response_edits: HeaderEdits,
    pub(crate) counters: Arc<PerWorker<RouteCounters>>,
}

/// A listener as workers see it.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    pub(crate) config: Arc<model::Listener>,
    /// In the order they are asked; one without `matches` takes everything.
    pub(crate) routes: Vec<Arc<RouteTable>>,
    /// Who serves what comes in.
    pub(crate) adapter: Arc<dyn Adapter>,
    /// How TLS ends here, if it does.
    pub(crate) server_tls: Option<Arc<ServerTlsConfig>>,
    /// A pool of this listener wants to know whose connections it is given.
    pub(crate) needs_origin: bool,
    pub(crate) shared: Arc<ListenerShared>,
}

/// What a listener keeps over reloads.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    pub(crate) counters: PerWorker<ListenerCounters>,
    /// Open connections over all workers, for the limit.
    pub(crate) open: AtomicUsize,
    /// Handshakes of TLS that run, over all workers, for the limit.
    pub(crate) handshakes: AtomicUsize,
}

impl ListenerTable {
    /// The first rule whose match holds.
    pub(crate) fn route(&self, facts: &dyn RouteInput) -> Option<usize> {
        self.routes.iter().position(|rule| rule.matches.as_ref().is_none_or(|m| m.matches(facts)))
    }

    /// Something about connections must be known before they can be routed.
    pub(crate) fn asks_for_sni(&self) -> bool {
        self.routes.iter().any(|rule| rule.matches.as_ref().is_some_and(|m| m.sni.is_some()))
    }

    pub(crate) fn trusts(&self, ip: Option<std::net::IpAddr>) -> bool {
        let nets: &[IpNet] = &self.config.trusted_proxies;
        !nets.is_empty() && ip.is_some_and(|ip| nets.iter().any(|net| net.contains(&ip)))
    }
}
