//! Preparation of a configuration: all steps that can fail, before any part of it is in force.

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_config::model::{Config, ListenAddress, Pool, PoolProtocol};
use plimsoll_core::Name;
use plimsoll_core::health::ProbeKind;

use crate::control::StartError;
use crate::listener::bind::{self, BoundSockets, SocketSettings};
use crate::net::tls::client_config::ClientTlsConfig;
use crate::net::tls::server_config::ServerTlsConfig;
use crate::run::registry::Adapters;

/// Sockets bound for a configuration that is not in force yet.
pub(super) type NewSockets = HashMap<(Name, ListenAddress), BoundSockets>;

/// Address that a listener holds.
pub(super) struct HeldAddress {
    pub(super) wanted: ListenAddress,
    pub(super) actual: ListenAddress,
    pub(super) settings: SocketSettings,
}

/// Returns the limit of concurrent requests: at most the limit of connections, because each request needs a connection
/// of its own, except over HTTP/2. So a request without a connection waits in the queue, in order.
pub(super) fn max_concurrent_requests(protocol: PoolProtocol, requests: u32, connections: u32) -> u32 {
    match (protocol, requests, connections) {
        (PoolProtocol::Http1, 0, max) => max,
        (PoolProtocol::Http1, requests, 1..) => requests.min(connections),
        (_, requests, _) => requests,
    }
}

/// TLS configurations by listener and by pool, loaded from their files.
#[derive(Clone, Default)]
pub(super) struct TlsConfigs {
    pub(super) listeners: HashMap<Name, Arc<ServerTlsConfig>>,
    pub(super) pools: HashMap<Name, Arc<ClientTlsConfig>>,
}

impl TlsConfigs {
    /// Counts the listeners and pools with the same settings as before and other content of their files.
    pub(super) fn renewed_since(&self, before: &Self, old: &Config, new: &Config) -> usize {
        let listeners = new.listeners.iter().filter(|l| {
            old.listeners.iter().any(|o| o.name == l.name && o.tls == l.tls)
                && matches!(
                    (self.listeners.get(&l.name), before.listeners.get(&l.name)),
                    (Some(now), Some(then)) if !Arc::ptr_eq(now, then)
                )
        });
        let pools = new.pools.iter().filter(|pool| {
            let same = |o: &&Arc<Pool>| {
                o.name == pool.name && o.tls == pool.tls && o.destinations == pool.destinations
            };
            old.pools.iter().any(|o| same(&o))
                && matches!(
                    (self.pools.get(&pool.name), before.pools.get(&pool.name)),
                    (Some(now), Some(then)) if !Arc::ptr_eq(now, then)
                )
        });
        listeners.count() + pools.count()
    }
}

/// Verifies that all protocols and health checks are registered.
pub(super) fn find_adapters(config: &Config, adapters: &Adapters) -> Result<(), StartError> {
    let other = |pool: &Pool| match pool.health.as_ref()?.probe {
        ProbeKind::Other(name) if adapters.check(name).is_none() => Some((pool.name.clone(), name)),
        _ => None,
    };
    if let Some((pool, name)) = config.pools.iter().find_map(|pool| other(pool)) {
        return Err(StartError::UnknownCheck { pool, check: name.to_owned() });
    }
    let unknown = config.listeners.iter().find(|l| adapters.of(l.protocol).is_none());
    unknown.map_or(Ok(()), |l| {
        Err(StartError::UnknownProtocol {
            listener: l.name.clone(),
            protocol: l.protocol.as_str().to_owned(),
        })
    })
}

/// Loads all certificates, keys and authorities. Configurations that are unchanged since `before` are kept, with their
/// sessions and connections.
pub(super) fn load_tls(
    config: &Config,
    adapters: &Adapters,
    before: &TlsConfigs,
) -> Result<TlsConfigs, StartError> {
    let mut configs = TlsConfigs::default();
    for l in &config.listeners {
        let Some(tls) = &l.tls else { continue };
        let at = |error| StartError::Tls { place: format!("listener {}", l.name), error };
        let alpn = adapters.of(l.protocol).map_or(Vec::new(), |adapter| adapter.alpn());
        let server_tls = ServerTlsConfig::renewed(tls, &alpn, before.listeners.get(&l.name)).map_err(at)?;
        configs.listeners.insert(l.name.clone(), server_tls);
    }
    for pool in &config.pools {
        let Some(tls) = &pool.tls else { continue };
        let at = |error| StartError::Tls { place: format!("pool {}", pool.name), error };
        let alpn: &[&[u8]] = match pool.protocol {
            PoolProtocol::Http1 => &[b"http/1.1"],
            PoolProtocol::Http2 => &[b"h2"],
            PoolProtocol::Auto => &[b"h2", b"http/1.1"],
        };
        let client_tls =
            ClientTlsConfig::renewed(tls, alpn, &pool.destinations, before.pools.get(&pool.name));
        configs.pools.insert(pool.name.clone(), client_tls.map_err(at)?);
    }
    Ok(configs)
}

/// Binds all addresses that no listener of `current` has, the widest first: it finds another process that holds any
/// address of the port.
pub(super) fn bind(
    config: &Config,
    current: &HashMap<Name, Vec<HeldAddress>>,
    workers: usize,
) -> Result<NewSockets, StartError> {
    let mut wanted: Vec<_> =
        config.listeners.iter().flat_map(|l| l.addresses.iter().map(move |address| (l, address))).collect();
    wanted.sort_by_key(|(_, address)| address.specificity());
    let mut held: Vec<ListenAddress> =
        current.values().flatten().flat_map(|held| [held.wanted.clone(), held.actual.clone()]).collect();
    let mut sockets = NewSockets::new();
    for (l, address) in wanted {
        let (key, settings) = ((l.name.clone(), address.clone()), SocketSettings::of(l));
        let is_kept = |held: &HeldAddress| held.wanted == *address && held.settings == settings;
        if current.get(&l.name).is_some_and(|have| have.iter().any(is_kept)) || sockets.contains_key(&key) {
            continue;
        }
        let shared = held.iter().any(|held| held.overlaps(address));
        let bound = bind::bind(address, settings, workers, shared).map_err(|error| StartError::Bind {
            listener: l.name.clone(),
            address: format_address(address),
            error,
        })?;
        held.push(bound.actual.clone());
        sockets.insert(key, bound);
    }
    Ok(sockets)
}

/// Formats an address.
pub(super) fn format_address(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Socket(address) | ListenAddress::Udp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}
