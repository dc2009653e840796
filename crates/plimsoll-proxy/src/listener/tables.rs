//! Listeners and routes for workers: built once per configuration, and immutable.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ipnet::IpNet;
use plimsoll_config::model;
use plimsoll_core::Name;
use plimsoll_core::route::{self, RouteInput};
use plimsoll_core::subset::Subset;
use plimsoll_wire::http1::HeaderEdits;

use crate::base::counters::{ListenerCounters, PerWorker, RouteCounters};
use crate::listener::source_limits::{Source, SourceLimits};
use crate::listener::waiting_connections::WaitingConnections;
use crate::net::tls::server_config::ServerTlsConfig;
use crate::upstream::table::PoolTable;

/// A route: its matcher, its pool and its header edits.
#[derive(Debug)]
pub(crate) struct RouteTable {
    /// The route's name; the listener's own pool counts as route `default`.
    pub(crate) name: Name,
    pub(crate) matches: Option<route::Match>,
    pub(crate) pool: Arc<PoolTable>,
    /// Subset of the pool that the route uses.
    pub(crate) subset: Option<Arc<Subset>>,
    pub(crate) request_edits: HeaderEdits,
    pub(crate) response_edits: HeaderEdits,
    pub(crate) counters: Arc<PerWorker<RouteCounters>>,
}

/// A listener as workers see it.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    pub(crate) config: Arc<model::Listener>,
    /// Routes in matching order; one without `matches` matches everything.
    pub(crate) routes: Vec<Arc<RouteTable>>,
    /// TLS configuration, if the listener terminates TLS.
    pub(crate) server_tls: Option<Arc<ServerTlsConfig>>,
    /// Whether a pool of this listener sends PROXY headers.
    pub(crate) needs_origin: bool,
    pub(crate) shared: Arc<ListenerShared>,
}

/// State of a listener that is kept over reloads.
#[derive(Debug)]
pub(crate) struct ListenerShared {
    pub(crate) counters: PerWorker<ListenerCounters>,
    /// Number of open connections over all workers, for the limit.
    pub(crate) open: AtomicUsize,
    /// Connections and TLS handshakes per source.
    pub(crate) sources: Arc<SourceLimits>,
    /// Connections that have not sent a whole PROXY header or ClientHello yet.
    pub(crate) silent: WaitingConnections,
    /// Number of running TLS handshakes over all workers, for the limit; each counts from its whole ClientHello on.
    pub(crate) handshakes: AtomicUsize,
    /// Running TLS handshakes that wait for their worker.
    pub(crate) queued: WaitingConnections,
    /// Running TLS handshakes that wait for their client.
    pub(crate) handshaking: WaitingConnections,
}

impl ListenerTable {
    /// Returns the index of the first route that matches.
    pub(crate) fn route(&self, facts: &dyn RouteInput) -> Option<usize> {
        self.routes.iter().position(|route| route.matches.as_ref().is_none_or(|m| m.matches(facts)))
    }

    /// Reports whether routing needs the SNI of a connection.
    pub(crate) fn asks_for_sni(&self) -> bool {
        self.routes.iter().any(|route| route.matches.as_ref().is_some_and(|m| m.sni.is_some()))
    }

    /// Returns the source of a connection, if its number of connections is limited: not this machine and trusted proxies,
    /// which pass on the connections of many clients.
    pub(crate) fn limited_source(&self, ip: Option<std::net::IpAddr>) -> Option<Source> {
        let limited = ip.filter(|ip| !ip.to_canonical().is_loopback() && !self.trusts(Some(*ip)));
        limited.map(Source::of)
    }

    /// Reports whether `ip` is a trusted proxy.
    pub(crate) fn trusts(&self, ip: Option<std::net::IpAddr>) -> bool {
        let nets: &[IpNet] = &self.config.trusted_proxies;
        !nets.is_empty() && ip.is_some_and(|ip| nets.iter().any(|net| net.contains(&ip)))
    }
}
