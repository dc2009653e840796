//! Entries of `pools`: destinations and their settings.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::snapshot::TierSpec;
use plimsoll_core::{DestinationLimits, Name, Weight};

use crate::check::address;
use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::names::{id, label, name};
use crate::check::pool_limits::PoolLimitSettings;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::model::{ClientTls, Destination, DestinationTimeouts, GrpcWeb, Pool, PoolProtocol, ProxyProtocol};
use crate::problem::Code;
use crate::tree::{Value, printable};

/// Maximum number of labels of a destination.
const LABELS: usize = 64;

/// Pools by name, with the information whether a listener or route uses them.
pub(crate) struct Pools<'t> {
    pools: Vec<(&'t str, ConfigNode<'t>, bool)>,
    index: HashMap<&'t str, usize>,
}

impl<'t> Pools<'t> {
    pub(crate) fn new(entries: &[(&'t str, ConfigNode<'t>)]) -> Self {
        let index = entries.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
        Self { pools: entries.iter().map(|(name, node)| (*name, node.clone(), false)).collect(), index }
    }

    /// Returns the index of a pool by its name.
    pub(crate) fn resolve(&mut self, reader: &mut Reader<'_>, node: &ConfigNode<'_>) -> Option<usize> {
        let text = reader.text(node)?;
        if let Some(index) = self.index.get(text) {
            self.pools[*index].2 = true;
            return Some(*index);
        }
        let names = self.pools.iter().map(|(name, ..)| *name);
        let help = match reader.suggest(text, names.clone().take(1000)) {
            Some(meant) => format!("did you mean `{}`?", printable(meant)),
            None if self.pools.is_empty() => "no pools are defined; add them under `pools`".to_owned(),
            None => {
                let some: Vec<String> = names.take(10).map(printable).collect();
                format!(
                    "expected one of {}{}",
                    some.join(", "),
                    if self.pools.len() > 10 { ", …" } else { "" }
                )
            }
        };
        reader.reject(node, ValueError::new(Code::UnknownPool, "is not a pool of this configuration", help));
        None
    }

    /// Reports pools that no listener and no route uses.
    pub(crate) fn warn_unused(&self, reader: &mut Reader<'_>) {
        for (name, node, _) in self.pools.iter().filter(|(_, _, used)| !used) {
            let message = format!("no listener and no route uses the pool `{}`", printable(name));
            let span = node.key.unwrap_or(node.tree.span);
            reader.problems.add(Code::UnusedPool, span, node.path.text(), message);
        }
    }
}

impl Reader<'_> {
    /// Reads an entry of `pools`, and returns whether the protocol of its checks is the default.
    pub(crate) fn pool(&mut self, key: &str, node: &ConfigNode<'_>, defaults: &Settings) -> (Pool, bool) {
        if let Err(error) = name(key) {
            let message = format!("`{}` {}", printable(key), error.reason);
            let span = node.key.unwrap_or(node.tree.span);
            self.problems.add(error.code, span, node.path.text(), message).maybe_help(error.help);
        }
        let mut settings = defaults.clone();
        let Some(mapping) = self.mapping(node, &keys::POOL) else {
            let pool = build(key, &settings, defaults::DESTINATION_TIMEOUTS, Vec::new());
            return (pool, settings.health.protocol_is_default());
        };
        let protocol = self.pool_protocol(&mapping);
        let grpc_web = self.grpc_web(&mapping, protocol);
        let proxy_protocol = self.sent_proxy_protocol(&mapping, protocol);
        let tls = self.pool_tls(&mapping, protocol);
        if let Some(node) = mapping.get("load_balancer") {
            self.load_balancer(node, false, &mut settings);
        }
        self.require_formula(mapping.get("load_balancer").unwrap_or(node), &settings);
        let mut timeouts = defaults::DESTINATION_TIMEOUTS;
        if let Some(node) = mapping.get("timeouts") {
            self.destination_timeouts(node, &mut timeouts);
        }
        let tcp = self.tcp_options(mapping.get("tcp"), &keys::POOL_TCP);
        let limits = mapping.get("limits").map(|p| self.pool_limits(p)).unwrap_or_default();
        let destinations = match mapping.get("destinations") {
            Some(node) => self.destinations(node, limits.per_destination),
            None => {
                self.missing(node, "destinations", "give the pool a list of addresses");
                Vec::new()
            }
        };
        if let Some(node) = mapping.get("limits") {
            self.check_queue_used(node, &limits, &destinations);
        }
        let resolve_every = self.resolve_every(&mapping);
        let PoolLimitSettings { limits, wait, .. } = limits;
        let rest = build(key, &settings, timeouts, destinations);
        let pool = Pool { protocol, proxy_protocol, grpc_web, tls, tcp, limits, wait, resolve_every, ..rest };
        (pool, settings.health.protocol_is_default())
    }

    /// Reads the time between two lookups of host names.
    fn resolve_every(&mut self, mapping: &Mapping<'_>) -> Duration {
        let block = mapping.get("resolve").and_then(|node| self.mapping(node, &keys::RESOLVE));
        let every = block.as_ref().and_then(|block| block.get("every"));
        every.and_then(|node| self.duration(node, &defaults::RESOLVE)).unwrap_or(defaults::RESOLVE_EVERY)
    }

    /// Reads the HTTP version to destinations.
    fn pool_protocol(&mut self, mapping: &Mapping<'_>) -> PoolProtocol {
        let keywords = PoolProtocol::ALL.map(|protocol| (protocol.as_str(), protocol));
        mapping.get("protocol").and_then(|p| self.keyword(p, &keywords, &[])).unwrap_or_default()
    }

    /// Reads the handling of gRPC-Web calls, which are translated for HTTP/2 only.
    fn grpc_web(&mut self, mapping: &Mapping<'_>, protocol: PoolProtocol) -> GrpcWeb {
        let Some(node) = mapping.get("grpc_web") else { return GrpcWeb::default() };
        let keywords = GrpcWeb::ALL.map(|handling| (handling.as_str(), handling));
        let grpc_web = self.keyword(node, &keywords, &[]).unwrap_or_default();
        if protocol != PoolProtocol::Http2 {
            let message = "`grpc_web` applies to pools with `protocol: http2` only";
            self.problem(node, Code::Conflict, message).help("set `protocol: http2`, or remove this key");
        }
        grpc_web
    }

    /// Reads the PROXY header sent to destinations, which identifies one client per connection.
    fn sent_proxy_protocol(&mut self, mapping: &Mapping<'_>, protocol: PoolProtocol) -> ProxyProtocol {
        let Some(node) = mapping.get("proxy_protocol") else { return ProxyProtocol::default() };
        let keywords = ProxyProtocol::ALL.map(|version| (version.as_str(), version));
        let version = self.keyword(node, &keywords, &[]).unwrap_or_default();
        if version != ProxyProtocol::None && protocol != PoolProtocol::Http1 {
            let message = "a PROXY header identifies one client, and an HTTP/2 connection carries requests of many clients";
            self.problem(node, Code::Conflict, message)
                .help("remove it (X-Forwarded-For has the client's address), or set `protocol: http1`");
        }
        version
    }

    /// Reads TLS to destinations, which `protocol: auto` requires.
    fn pool_tls(&mut self, mapping: &Mapping<'_>, protocol: PoolProtocol) -> Option<ClientTls> {
        let tls = mapping.get("tls").and_then(|p| self.client_tls(p));
        let uses_tls = tls.is_some() || mapping.get("tls").is_some_and(|p| !p.is_bool());
        if let (Some(node), PoolProtocol::Auto, false) = (mapping.get("protocol"), protocol, uses_tls) {
            let message = "`protocol: auto` is negotiated within TLS (ALPN), which this pool does not use";
            self.problem(node, Code::Conflict, message)
                .help("add `tls`, or set `protocol: http1` or `protocol: http2`");
        }
        tls
    }

    /// Reads the pool of the short form.
    pub(crate) fn short_form_pool(&mut self, destinations: &ConfigNode<'_>, settings: &Settings) -> Pool {
        self.require_formula(destinations, settings);
        let destinations = self.destinations(destinations, defaults::DESTINATION_LIMITS);
        build("default", settings, defaults::DESTINATION_TIMEOUTS, destinations)
    }

    /// Reads the timeouts of connections to destinations.
    fn destination_timeouts(&mut self, node: &ConfigNode<'_>, timeouts: &mut DestinationTimeouts) {
        let Some(mapping) = self.mapping(node, &keys::DESTINATION_TIMEOUTS) else { return };
        let mut read = |key| mapping.get(key).and_then(|p| self.duration(p, &defaults::TIMEOUT));
        set_if_given(&mut timeouts.connect, read("connect"));
        set_if_given(&mut timeouts.response, read("response"));
        set_if_given(&mut timeouts.idle, read("idle"));
    }

    /// Reads the list of destinations.
    fn destinations(&mut self, node: &ConfigNode<'_>, limits: DestinationLimits) -> Vec<Destination> {
        let items = self.list(node);
        if items.is_empty() && matches!(&node.tree.value, Value::List(_)) {
            self.problem(node, Code::BadValue, "the list of destinations is empty")
                .help("add at least one destination");
        }
        let mut names = FirstSeen::default();
        let mut destinations = Vec::new();
        for item in &items {
            destinations.extend(self.destination(item, &mut names, limits));
        }
        if !destinations.is_empty() && destinations.iter().all(|d| d.weight.get() == 0) {
            self.problem(
                node,
                Code::Unreachable,
                "every destination has weight 0: the pool accepts no messages",
            );
        }
        destinations
    }

    /// Reports a name that another destination of the pool has. It is called before other checks of the destination.
    fn claim_destination_name(
        &mut self,
        name: &Name,
        named_at: &ConfigNode<'_>,
        names: &mut FirstSeen<Name>,
    ) {
        let Some(first) = names.insert(name.clone(), named_at.span()) else { return };
        let line = self.line_of(first);
        let message = format!("the destination `{}` is given twice; first on {line}", named_at.shown());
        self.problem(named_at, Code::DuplicateName, message)
            .help("give each destination its own `id`; without one, the address is the name")
            .related("first given here", first);
    }

    /// Reads a destination: an address, or a block with an address.
    fn destination(
        &mut self,
        node: &ConfigNode<'_>,
        names: &mut FirstSeen<Name>,
        limits: DestinationLimits,
    ) -> Option<Destination> {
        if !node.is_block() {
            let address = self.address(node, "127.0.0.1", address::destination)?;
            let name = self.text(node)?.into();
            self.claim_destination_name(&name, node, names);
            return Some(Destination {
                name,
                address,
                weight: defaults::WEIGHT,
                priority: defaults::PRIORITY,
                zone: None,
                labels: Arc::default(),
                limits,
            });
        }
        let mapping = self.mapping(node, &keys::DESTINATION)?;
        let id: Option<Name> = mapping.get("id").and_then(|p| {
            let id = self.parsed(p, "a name", id)?;
            self.claim_destination_name(&id, p, names);
            Some(id)
        });
        let weight = mapping.get("weight").and_then(|p| self.integer(p, 0..=65_535));
        let priority = mapping.get("priority").and_then(|p| self.integer(p, 0..=255));
        let zone = mapping.get("zone").and_then(|p| self.parsed(p, "text", label));
        let labels = mapping.get("labels").map(|p| self.labels(p)).unwrap_or_default();
        let limits = mapping.get("limits").map_or(limits, |p| self.destination_limits(p, limits));
        let Some(at) = mapping.get("address") else {
            self.missing(node, "address", "write it like \"10.0.0.1:8080\"");
            return None;
        };
        let address = self.address(at, "127.0.0.1", address::destination)?;
        let name = match id {
            Some(id) => id,
            None => {
                let name = self.text(at)?.into();
                self.claim_destination_name(&name, at, names);
                name
            }
        };
        Some(Destination {
            name,
            address,
            weight: weight.map_or(defaults::WEIGHT, Weight::new),
            priority: priority.unwrap_or(defaults::PRIORITY),
            zone,
            labels: labels.into(),
            limits,
        })
    }

    /// Reads labels and sorts them by key.
    pub(crate) fn labels(&mut self, node: &ConfigNode<'_>) -> Vec<(Name, Name)> {
        let entries = self.entries(node);
        if entries.len() > LABELS {
            self.problem(node, Code::TooLarge, "too many labels: expected at most 64");
        }
        let mut labels = Vec::new();
        for (key, value) in entries.into_iter().take(LABELS) {
            if let Err(error) = name(key) {
                let message = format!("`{}` {}", printable(key), error.reason);
                let span = value.key.unwrap_or(value.tree.span);
                self.problems.add(error.code, span, value.path.text(), message).maybe_help(error.help);
            }
            labels.extend(self.parsed(&value, "text", label).map(|text| (Name::from(key), text)));
        }
        labels.sort();
        labels
    }
}

/// Returns a pool with these settings and the defaults of the keys beside them.
fn build(
    name: &str,
    settings: &Settings,
    timeouts: DestinationTimeouts,
    destinations: Vec<Destination>,
) -> Pool {
    let algorithm = match settings.algorithm_given || equal_weights(&destinations) {
        true => settings.algorithm,
        false => defaults::WEIGHTED_ALGORITHM,
    };
    Pool {
        hash: settings.hash,
        hash_key: settings.hash_key.clone(),
        formula: settings.formula.formula(),
        load: settings.load,
        orca: settings.orca,
        caching: settings.caching,
        health: settings.health_checking.then(|| settings.health.spec(settings.optimization)),
        parallel_checks: settings.parallel_checks,
        outlier: settings.outlier,
        retry: settings.retry.clone(),
        tiers: TierSpec { zone: settings.zone.spec(), ..settings.tiers.clone() },
        hedge: settings.hedge.filter(|hedge| hedge.max > 0),
        slow_start: settings.slow_start,
        panic_threshold: settings.panic_threshold,
        recovery: settings.health_checking && settings.health.recovery(),
        alerting: settings.health.alerting(),
        quality_metrics: settings.quality_metrics,
        timeouts: DestinationTimeouts { total: settings.total, ..timeouts },
        ..Pool::new(name, algorithm, destinations)
    }
}

/// Returns whether the destinations of each priority have equal weights. Weight 0 is ignored.
fn equal_weights(destinations: &[Destination]) -> bool {
    let mut of_priority = [None; 256];
    destinations.iter().filter(|destination| destination.weight.get() > 0).all(|destination| {
        let first = of_priority[usize::from(destination.priority)].get_or_insert(destination.weight);
        *first == destination.weight
    })
}
