//! Which destinations a pool has, and by which rules they are balanced.

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_core::snapshot::TierSpec;
use plimsoll_core::{DestinationLimits, Name, Weight};

use crate::check::address;
use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::keys;
use crate::check::names::{id, label, name};
use crate::check::pool_limits::PoolLimitSettings;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::value_error::ValueError;
use crate::defaults;
use crate::model::{Destination, DestinationTimeouts, GrpcWeb, Pool, PoolProtocol, ProxyProtocol};
use crate::problem::Code;
use crate::tree::{Value, printable};

/// Labels of one destination.
const LABELS: usize = 64;

/// The names of all pools and which of them something leads to.
pub(crate) struct Pools<'t> {
    pools: Vec<(&'t str, ConfigNode<'t>, bool)>,
    index: HashMap<&'t str, usize>,
}

impl<'t> Pools<'t> {
    pub(crate) fn new(entries: &[(&'t str, ConfigNode<'t>)]) -> Self {
        let index = entries.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
        Self { pools: entries.iter().map(|(name, node)| (*name, node.clone(), false)).collect(), index }
    }

    /// The index of the pool a key names.
    pub(crate) fn find(&mut self, reader: &mut Reader<'_>, node: &ConfigNode<'_>) -> Option<usize> {
        let text = reader.text(node)?;
        if let Some(index) = self.index.get(text) {
            self.pools[*index].2 = true;
            return Some(*index);
        }
        let names = self.pools.iter().map(|(name, ..)| *name);
        let help = match reader.suggest(text, names.clone().take(1000)) {
            Some(meant) => format!("did you mean `{}`?", printable(meant)),
            None if self.pools.is_empty() => "there are no pools; give them under `pools`".to_owned(),
            None => {
                let some: Vec<String> = names.take(10).map(printable).collect();
                format!("pools are {}{}", some.join(", "), if self.pools.len() > 10 { ", …" } else { "" })
            }
        };
        reader.reject(node, ValueError::new(Code::UnknownPool, "is not a pool", help));
        None
    }

    /// Tells which pools nothing leads to.
    pub(crate) fn warn_unused(&self, reader: &mut Reader<'_>) {
        for (name, node, _) in self.pools.iter().filter(|(_, _, used)| !used) {
            let message = format!("no listener and no route leads to the pool `{}`", printable(name));
            let span = node.key.unwrap_or(node.tree.span);
            reader.problems.add(Code::UnusedPool, span, node.path.text(), message);
        }
    }
}

impl Reader<'_> {
    /// One entry of `pools`, and whether nobody said what its checks speak.
    pub(crate) fn pool(&mut self, key: &str, node: &ConfigNode<'_>, defaults: &Settings) -> (Pool, bool) {
        if let Err(wrong) = name(key) {
            let message = format!("`{}` {}", printable(key), wrong.what);
            let span = node.key.unwrap_or(node.tree.span);
            self.problems.add(wrong.code, span, node.path.text(), message).maybe_help(wrong.help);
        }
        let mut settings = defaults.clone();
        let mut timeouts = defaults::DESTINATION_TIMEOUTS;
        let mut destinations = Vec::new();
        let mut tls = None;
        let mut protocol = PoolProtocol::default();
        let mut proxy_protocol = ProxyProtocol::default();
        let mut grpc_web = GrpcWeb::default();
        let mut at_once = PoolLimitSettings::default();
        if let Some(mapping) = self.mapping(node, &keys::POOL) {
            if let Some(node) = mapping.get("protocol") {
                let words = [
                    ("http1", PoolProtocol::Http1),
                    ("http2", PoolProtocol::Http2),
                    ("auto", PoolProtocol::Auto),
                ];
                protocol = self.keyword(node, &words, &[]).unwrap_or_default();
            }
            if let Some(node) = mapping.get("grpc_web") {
                let words = [("translate", GrpcWeb::Translate), ("pass", GrpcWeb::Pass)];
                grpc_web = self.keyword(node, &words, &[]).unwrap_or_default();
                if protocol != PoolProtocol::Http2 {
                    let message = "only pools that are known to speak HTTP/2 have calls translated: here those of gRPC-Web pass as they are";
                    let help = "write `protocol: http2`, or remove this key";
                    self.problem(node, Code::Conflict, message).help(help);
                }
            }
            if let Some(node) = mapping.get("proxy_protocol") {
                let words =
                    [("none", ProxyProtocol::None), ("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
                proxy_protocol = self.keyword(node, &words, &[]).unwrap_or_default();
                if proxy_protocol != ProxyProtocol::None && protocol != PoolProtocol::Http1 {
                    let message = "connections of HTTP/2 carry the requests of many clients, and a PROXY header is about one";
                    self.problem(node, Code::Conflict, message).help(
                        "remove it (X-Forwarded-For tells the same), or make the pool's protocol `http1`",
                    );
                }
            }
            tls = mapping.get("tls").and_then(|p| self.client_tls(p));
            let speaks_tls = tls.is_some() || mapping.get("tls").is_some_and(|p| !p.is_bool());
            if let (Some(node), PoolProtocol::Auto, false) = (mapping.get("protocol"), protocol, speaks_tls) {
                let message = "`auto` lets destinations choose within TLS (ALPN), and this pool speaks none";
                self.problem(node, Code::Conflict, message)
                    .help("give the pool `tls`, or say what they speak: `http1` or `http2`");
            }
            if let Some(node) = mapping.get("load_balancer") {
                self.load_balancer(node, false, &mut settings);
            }
            self.require_formula(mapping.get("load_balancer").unwrap_or(node), &settings);
            if let Some(node) = mapping.get("timeouts") {
                self.destination_timeouts(node, &mut timeouts);
            }
            if let Some(node) = mapping.get("limits") {
                at_once = self.pool_limits(node);
            }
            match mapping.get("destinations") {
                Some(node) => destinations = self.destinations(node, at_once.each),
                None => self.missing(node, "destinations", "give the pool a list of addresses"),
            }
            if let Some(node) = mapping.get("limits") {
                self.check_queue_used(node, &at_once, &destinations);
            }
        }
        let PoolLimitSettings { limits, wait, .. } = at_once;
        let rest = build(key, &settings, timeouts, destinations);
        let pool = Pool { protocol, proxy_protocol, grpc_web, tls, limits, wait, ..rest };
        (pool, settings.health.protocol_is_default())
    }

    /// The pool of the short form.
    pub(crate) fn short_form_pool(&mut self, destinations: &ConfigNode<'_>, settings: &Settings) -> Pool {
        self.require_formula(destinations, settings);
        let destinations = self.destinations(destinations, DestinationLimits::default());
        build("default", settings, defaults::DESTINATION_TIMEOUTS, destinations)
    }

    fn destination_timeouts(&mut self, node: &ConfigNode<'_>, timeouts: &mut DestinationTimeouts) {
        let Some(mapping) = self.mapping(node, &keys::DESTINATION_TIMEOUTS) else { return };
        let mut read = |key| mapping.get(key).and_then(|p| self.duration(p, &defaults::TIMEOUT));
        set_if_given(&mut timeouts.connect, read("connect"));
        set_if_given(&mut timeouts.response, read("response"));
        set_if_given(&mut timeouts.idle, read("idle"));
    }

    fn destinations(&mut self, node: &ConfigNode<'_>, limits: DestinationLimits) -> Vec<Destination> {
        let items = self.list(node);
        if items.is_empty() && matches!(&node.tree.value, Value::List(_)) {
            self.problem(node, Code::BadValue, "the list of destinations is empty")
                .help("a pool needs a destination to send to");
        }
        let mut seen = FirstSeen::default();
        let mut destinations = Vec::new();
        for item in &items {
            destinations.extend(self.destination(item, &mut seen, limits));
        }
        if !destinations.is_empty() && destinations.iter().all(|d| d.weight.get() == 0) {
            self.problem(
                node,
                Code::Unreachable,
                "every destination has weight 0: the pool takes no new work",
            );
        }
        destinations
    }

    /// A destination has this name, whatever else may be wrong with it.
    fn destination_named(&mut self, name: &Name, named_at: &ConfigNode<'_>, seen: &mut FirstSeen<Name>) {
        let Some(first) = seen.insert(name.clone(), named_at.span()) else { return };
        let line = self.line_of(first);
        let message = format!("the destination `{}` is given twice; first on {line}", named_at.shown());
        self.problem(named_at, Code::DuplicateName, message)
            .help("give each its own `id`; without one, the address is the name")
            .related("first given here", first);
    }

    /// An address, or a block with one.
    fn destination(
        &mut self,
        node: &ConfigNode<'_>,
        seen: &mut FirstSeen<Name>,
        limits: DestinationLimits,
    ) -> Option<Destination> {
        if !node.is_block() {
            let address = self.address(node, "127.0.0.1", address::destination)?;
            let name = self.text(node)?.into();
            self.destination_named(&name, node, seen);
            return Some(Destination {
                name,
                address,
                weight: Weight::ONE,
                priority: 0,
                zone: None,
                labels: Arc::default(),
                limits,
            });
        }
        let mapping = self.mapping(node, &keys::DESTINATION)?;
        let id: Option<Name> = mapping.get("id").and_then(|p| {
            let id = self.parsed(p, "a name", id)?;
            self.destination_named(&id, p, seen);
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
                self.destination_named(&name, at, seen);
                name
            }
        };
        Some(Destination {
            name,
            address,
            weight: weight.map_or(Weight::ONE, Weight::new),
            priority: priority.unwrap_or(0),
            zone,
            labels: labels.into(),
            limits,
        })
    }

    /// Labels, sorted by key.
    pub(crate) fn labels(&mut self, node: &ConfigNode<'_>) -> Vec<(Name, Name)> {
        let entries = self.entries(node);
        if entries.len() > LABELS {
            self.problem(node, Code::TooLarge, "there are at most 64 labels");
        }
        let mut labels = Vec::new();
        for (key, value) in entries.into_iter().take(LABELS) {
            if let Err(wrong) = name(key) {
                let message = format!("`{}` {}", printable(key), wrong.what);
                let span = value.key.unwrap_or(value.tree.span);
                self.problems.add(wrong.code, span, value.path.text(), message).maybe_help(wrong.help);
            }
            labels.extend(self.parsed(&value, "text", label).map(|text| (Name::from(key), text)));
        }
        labels.sort();
        labels
    }
}

fn build(
    name: &str,
    settings: &Settings,
    timeouts: DestinationTimeouts,
    destinations: Vec<Destination>,
) -> Pool {
    Pool {
        name: Arc::from(name),
        algorithm: match settings.algorithm_given || equal_weights(&destinations) {
            true => settings.algorithm,
            false => defaults::WEIGHTED_ALGORITHM,
        },
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
        protocol: PoolProtocol::default(),
        proxy_protocol: ProxyProtocol::default(),
        grpc_web: GrpcWeb::default(),
        tls: None,
        limits: defaults::POOL_LIMITS,
        wait: defaults::WAIT,
        timeouts: DestinationTimeouts { total: settings.total, ..timeouts },
        destinations,
    }
}

/// Do all that take work have the same weight beside those of their priority?
fn equal_weights(destinations: &[Destination]) -> bool {
    let mut of_priority = [None; 256];
    destinations.iter().filter(|destination| destination.weight.get() > 0).all(|destination| {
        let first = of_priority[usize::from(destination.priority)].get_or_insert(destination.weight);
        *first == destination.weight
    })
}
