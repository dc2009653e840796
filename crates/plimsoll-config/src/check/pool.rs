//! Which destinations a pool has, and by which rules they are balanced.

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_core::spread::SpreadSpec;
use plimsoll_core::{DestinationLimits, Name, Weight};

use crate::check::address;
use crate::check::config_node::Place;
use crate::check::first_seen::Firsts;
use crate::check::keys;
use crate::check::limits::AtOnce;
use crate::check::names::{id, label, name};
use crate::check::read::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::check::value_error::Wrong;
use crate::defaults;
use crate::model::{Destination, DestinationTimeouts, GrpcWeb, Pool, PoolProtocol, ProxyProtocol};
use crate::problem::Code;
use crate::tree::{Value, printable};

/// Labels of one destination.
const LABELS: usize = 64;

/// The names of all pools and which of them something leads to.
pub(crate) struct Pools<'t> {
    pools: Vec<(&'t str, Place<'t>, bool)>,
    index: HashMap<&'t str, usize>,
}

impl<'t> Pools<'t> {
    pub(crate) fn new(entries: &[(&'t str, Place<'t>)]) -> Self {
        let index = entries.iter().enumerate().map(|(index, (name, _))| (*name, index)).collect();
        Self { pools: entries.iter().map(|(name, place)| (*name, place.clone(), false)).collect(), index }
    }

    /// The index of the pool a key names.
    pub(crate) fn find(&mut self, reader: &mut Reader<'_>, place: &Place<'_>) -> Option<usize> {
        let text = reader.text(place)?;
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
        reader.refuse(place, Wrong::new(Code::UnknownPool, "is not a pool", help));
        None
    }

    /// Tells which pools nothing leads to.
    pub(crate) fn tell_unused(&self, reader: &mut Reader<'_>) {
        for (name, place, _) in self.pools.iter().filter(|(_, _, used)| !used) {
            let message = format!("no listener and no route leads to the pool `{}`", printable(name));
            let span = place.key.unwrap_or(place.node.span);
            reader.problems.add(Code::UnusedPool, span, place.path.text(), message);
        }
    }
}

impl Reader<'_> {
    /// One entry of `pools`, and whether nobody said what its checks speak.
    pub(crate) fn pool(&mut self, key: &str, place: &Place<'_>, defaults: &Settings) -> (Pool, bool) {
        if let Err(wrong) = name(key) {
            let message = format!("`{}` {}", printable(key), wrong.what);
            let span = place.key.unwrap_or(place.node.span);
            self.problems.add(wrong.code, span, place.path.text(), message).maybe_help(wrong.help);
        }
        let mut settings = defaults.clone();
        let mut timeouts = defaults::DESTINATION_TIMEOUTS;
        let mut destinations = Vec::new();
        let mut tls = None;
        let mut protocol = PoolProtocol::default();
        let mut proxy_protocol = ProxyProtocol::default();
        let mut grpc_web = GrpcWeb::default();
        let mut at_once = AtOnce::default();
        if let Some(table) = self.table(place, &keys::POOL) {
            if let Some(place) = table.get("protocol") {
                let words = [
                    ("http1", PoolProtocol::Http1),
                    ("http2", PoolProtocol::Http2),
                    ("auto", PoolProtocol::Auto),
                ];
                protocol = self.word(place, &words, &[]).unwrap_or_default();
            }
            if let Some(place) = table.get("grpc_web") {
                let words = [("translate", GrpcWeb::Translate), ("pass", GrpcWeb::Pass)];
                grpc_web = self.word(place, &words, &[]).unwrap_or_default();
                if protocol != PoolProtocol::Http2 {
                    let message = "only pools that are known to speak HTTP/2 have calls translated: here those of gRPC-Web pass as they are";
                    let help = "write `protocol: http2`, or remove this key";
                    self.problem(place, Code::Conflict, message).help(help);
                }
            }
            if let Some(place) = table.get("proxy_protocol") {
                let words =
                    [("none", ProxyProtocol::None), ("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
                proxy_protocol = self.word(place, &words, &[]).unwrap_or_default();
                if proxy_protocol != ProxyProtocol::None && protocol != PoolProtocol::Http1 {
                    let message = "connections of HTTP/2 carry the requests of many clients, and a PROXY header is about one";
                    self.problem(place, Code::Conflict, message).help(
                        "remove it (X-Forwarded-For tells the same), or make the pool's protocol `http1`",
                    );
                }
            }
            tls = table.get("tls").and_then(|p| self.client_tls(p));
            let speaks_tls = tls.is_some() || table.get("tls").is_some_and(|p| !p.is_switch());
            if let (Some(place), PoolProtocol::Auto, false) = (table.get("protocol"), protocol, speaks_tls) {
                let message = "`auto` lets destinations choose within TLS (ALPN), and this pool speaks none";
                self.problem(place, Code::Conflict, message)
                    .help("give the pool `tls`, or say what they speak: `http1` or `http2`");
            }
            if let Some(place) = table.get("load_balancer") {
                self.load_balancer(place, false, &mut settings);
            }
            self.has_score(table.get("load_balancer").unwrap_or(place), &settings);
            if let Some(place) = table.get("timeouts") {
                self.destination_timeouts(place, &mut timeouts);
            }
            if let Some(place) = table.get("limits") {
                at_once = self.pool_limits(place);
            }
            match table.get("destinations") {
                Some(place) => destinations = self.destinations(place, at_once.each),
                None => self.missing(place, "destinations", "give the pool a list of addresses"),
            }
            if let Some(place) = table.get("limits") {
                self.somebody_waits(place, &at_once, &destinations);
            }
        }
        let AtOnce { limits, wait, .. } = at_once;
        let rest = build(key, &settings, timeouts, destinations);
        let pool = Pool { protocol, proxy_protocol, grpc_web, tls, limits, wait, ..rest };
        (pool, settings.health.is_by_default())
    }

    /// The pool of the short form.
    pub(crate) fn default_pool(&mut self, destinations: &Place<'_>, settings: &Settings) -> Pool {
        self.has_score(destinations, settings);
        let destinations = self.destinations(destinations, DestinationLimits::default());
        build("default", settings, defaults::DESTINATION_TIMEOUTS, destinations)
    }

    fn destination_timeouts(&mut self, place: &Place<'_>, timeouts: &mut DestinationTimeouts) {
        let Some(table) = self.table(place, &keys::DESTINATION_TIMEOUTS) else { return };
        let mut read = |key| table.get(key).and_then(|p| self.dur(p, &defaults::TIMEOUT));
        set_if_given(&mut timeouts.connect, read("connect"));
        set_if_given(&mut timeouts.response, read("response"));
        set_if_given(&mut timeouts.idle, read("idle"));
    }

    fn destinations(&mut self, place: &Place<'_>, limits: DestinationLimits) -> Vec<Destination> {
        let items = self.list(place);
        if items.is_empty() && matches!(&place.node.value, Value::List(_)) {
            self.problem(place, Code::BadValue, "the list of destinations is empty")
                .help("a pool needs a destination to send to");
        }
        let mut seen = Firsts::default();
        let mut destinations = Vec::new();
        for item in &items {
            destinations.extend(self.destination(item, &mut seen, limits));
        }
        if !destinations.is_empty() && destinations.iter().all(|d| d.weight.get() == 0) {
            self.problem(
                place,
                Code::Unreachable,
                "every destination has weight 0: the pool takes no new work",
            );
        }
        destinations
    }

    /// A destination has this name, whatever else may be wrong with it.
    fn destination_named(&mut self, name: &Name, named_at: &Place<'_>, seen: &mut Firsts<Name>) {
        let Some(first) = seen.again(name.clone(), named_at.span()) else { return };
        let line = self.line_of(first);
        let message = format!("the destination `{}` is given twice; first on {line}", named_at.shown());
        self.problem(named_at, Code::DuplicateName, message)
            .help("give each its own `id`; without one, the address is the name")
            .related("first given here", first);
    }

    /// An address, or a block with one.
    fn destination(
        &mut self,
        place: &Place<'_>,
        seen: &mut Firsts<Name>,
        limits: DestinationLimits,
    ) -> Option<Destination> {
        if !place.is_block() {
            let address = self.address(place, "127.0.0.1", address::destination)?;
            let name = self.text(place)?.into();
            self.destination_named(&name, place, seen);
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
        let table = self.table(place, &keys::DESTINATION)?;
        let id: Option<Name> = table.get("id").and_then(|p| {
            let id = self.parsed(p, "a name", id)?;
            self.destination_named(&id, p, seen);
            Some(id)
        });
        let weight = table.get("weight").and_then(|p| self.whole(p, 0..=65_535));
        let priority = table.get("priority").and_then(|p| self.whole(p, 0..=255));
        let zone = table.get("zone").and_then(|p| self.parsed(p, "text", label));
        let labels = table.get("labels").map(|p| self.labels(p)).unwrap_or_default();
        let limits = table.get("limits").map_or(limits, |p| self.destination_limits(p, limits));
        let Some(at) = table.get("address") else {
            self.missing(place, "address", "write it like \"10.0.0.1:8080\"");
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
    pub(crate) fn labels(&mut self, place: &Place<'_>) -> Vec<(Name, Name)> {
        let entries = self.entries(place);
        if entries.len() > LABELS {
            self.problem(place, Code::TooLarge, "there are at most 64 labels");
        }
        let mut labels = Vec::new();
        for (key, value) in entries.into_iter().take(LABELS) {
            if let Err(wrong) = name(key) {
                let message = format!("`{}` {}", printable(key), wrong.what);
                let span = value.key.unwrap_or(value.node.span);
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
        algorithm: match settings.names_algorithm || weigh_alike(&destinations) {
            true => settings.algorithm,
            false => defaults::WEIGHTED_ALGORITHM,
        },
        hash: settings.hash,
        hash_key: settings.hash_key.clone(),
        formula: settings.score.formula(),
        load: settings.load,
        orca: settings.orca,
        caching: settings.caching,
        health: settings.health_checking.then(|| settings.health.spec(settings.optimization)),
        parallel_checks: settings.parallel_checks,
        outlier: settings.outlier,
        retry: settings.retry.clone(),
        spread: SpreadSpec { zone: settings.zone.spec(), ..settings.spread.clone() },
        hedge: settings.hedge.filter(|hedge| hedge.most > 0),
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
fn weigh_alike(destinations: &[Destination]) -> bool {
    let mut of_priority = [None; 256];
    destinations.iter().filter(|destination| destination.weight.get() > 0).all(|destination| {
        let first = of_priority[usize::from(destination.priority)].get_or_insert(destination.weight);
        *first == destination.weight
    })
}
