//! Checks of a configuration tree, which report all problems at once and build the model.

mod address;
mod check_protocol;
mod config_node;
mod custom_formula;
mod first_seen;
mod hash;
mod headers;
mod health;
mod hedge;
pub(crate) mod keys;
mod listener;
mod listener_protocol;
mod load_balancer;
mod load_reports;
mod mapping;
mod names;
mod pool;
mod pool_limits;
mod priority_and_locality;
mod process;
mod reader;
mod route;
mod set_if_given;
mod settings;
mod socket;
mod tls;
mod value_error;
mod warnings;

use std::path::Path as FilePath;
use std::sync::Arc;

use config_node::ConfigNode;
use listener::ClaimedAddresses;
use mapping::Mapping;
use plimsoll_core::health::ProbeKind;
use pool::Pools;
use reader::Reader;
use settings::Settings;

use crate::defaults;
use crate::extensions::Extensions;
use crate::model::{AccessLog, Config, DecisionLog, Listener, Pool, Protocol};
use crate::problem::{Code, Problems};
use crate::tree::{Kind, Node, Path, Scalar, Value};

/// Checks a tree and builds its configuration, for a program with `extensions`. With errors among the problems it is
/// incomplete and must not be used.
pub(crate) fn check(
    root: &Node,
    dir: &FilePath,
    extensions: &Extensions,
    problems: &mut Problems,
) -> Option<Config> {
    let mut reader = Reader { problems, dir, extensions };
    let top = ConfigNode { tree: root, key: None, path: Path::default() };
    if let Value::Scalar(Scalar { kind: Kind::Null, .. }) = root.value {
        report_empty(&mut reader, &top, "the file is empty");
        return None;
    }
    let mapping = reader.mapping(&top, &keys::TOP)?;
    let mut settings = Settings::default();
    settings.zone.own = mapping.get("zone").and_then(|p| reader.own_zone(p));
    if let Some(node) = mapping.get("load_balancer") {
        reader.load_balancer(node, true, &mut settings);
    }
    let mut claimed = ClaimedAddresses::default();
    let (listeners, pools) = listeners_and_pools(&mut reader, &top, &mapping, &settings, &mut claimed);
    let access_log = mapping.get("access_log").and_then(|p| reader.access_log(p));
    Some(Config {
        workers: mapping.get("workers").and_then(|p| reader.workers(p)),
        shutdown_grace: mapping
            .get("shutdown")
            .and_then(|p| reader.shutdown(p))
            .unwrap_or(defaults::SHUTDOWN_GRACE),
        max_buffered: mapping.get("memory").and_then(|p| reader.memory(p)).unwrap_or(defaults::MAX_BUFFERED),
        listeners: listeners.into_iter().map(Arc::new).collect(),
        pools: pools.into_iter().map(Arc::new).collect(),
        admin: reader.admin(mapping.get("admin"), &claimed),
        decision_log: decision_log(&mut reader, &mapping, access_log.as_ref()),
        access_log,
    })
}

/// Reads the decision log. It must not share a file with the access log, because each reopens its own.
fn decision_log(
    reader: &mut Reader<'_>,
    mapping: &Mapping<'_>,
    access_log: Option<&AccessLog>,
) -> Option<DecisionLog> {
    let node = mapping.get("decision_log")?;
    let log = reader.decision_log(node)?;
    if matches!(log.target, AccessLog::File(_)) && Some(&log.target) == access_log {
        let message = "the decision log and the access log are the same file";
        reader.problem(node, Code::Conflict, message).help("use a file for each log");
        return None;
    }
    Some(log)
}

/// Reads listeners and pools, from the short form or the full form.
fn listeners_and_pools(
    reader: &mut Reader<'_>,
    top: &ConfigNode<'_>,
    mapping: &Mapping<'_>,
    settings: &Settings,
    claimed: &mut ClaimedAddresses,
) -> (Vec<Listener>, Vec<Pool>) {
    let short = ["listen", "destinations"].map(|key| mapping.get(key));
    let full = ["listeners", "pools"].map(|key| mapping.get(key));
    let first = |nodes: [Option<&ConfigNode<'_>>; 2]| nodes.into_iter().flatten().next().and_then(|p| p.key);
    match (first(short), first(full)) {
        (None, None) => {
            report_empty(reader, top, "the configuration has no listeners and no pools");
            (Vec::new(), Vec::new())
        }
        (Some(_), None) => {
            require_short_form_keys(reader, top, short);
            short_form(reader, short, settings, claimed)
        }
        (None, Some(_)) => full_form(reader, top, full, settings, claimed),
        (Some(_), Some(other)) => {
            for node in short.into_iter().flatten() {
                let at = node.key.unwrap_or(node.tree.span);
                let message = "the short form (`listen`, `destinations`) and the full form (`listeners`, `pools`) \
                               exclude each other";
                reader
                    .problems
                    .add(Code::Conflict, at, node.path.text(), message)
                    .help("move this key to `listeners` or `pools`")
                    .related("the full form is used here", other);
            }
            short_form(reader, short, settings, claimed);
            full_form(reader, top, full, settings, claimed)
        }
    }
}

/// Reports a missing key of the short form.
fn require_short_form_keys(
    reader: &mut Reader<'_>,
    top: &ConfigNode<'_>,
    [listen, destinations]: [Option<&ConfigNode<'_>>; 2],
) {
    if listen.is_none() {
        reader.missing(top, "listen", "write it like `listen: \"127.0.0.1:8080\"`");
    }
    if destinations.is_none() {
        reader.missing(top, "destinations", "write it like `destinations: [\"127.0.0.1:9001\"]`");
    }
}

/// Reads the short form: one listener and one pool.
fn short_form(
    reader: &mut Reader<'_>,
    [listen, destinations]: [Option<&ConfigNode<'_>>; 2],
    settings: &Settings,
    claimed: &mut ClaimedAddresses,
) -> (Vec<Listener>, Vec<Pool>) {
    let listener = listen.map(|node| reader.short_form_listener(node, claimed));
    let mut pool = destinations.map(|node| reader.short_form_pool(node, settings));
    pool.iter_mut().for_each(expect_responses);
    if !reader.problems.has_errors()
        && let (Some(node), Some(listener), Some(pool)) = (destinations, &listener, &pool)
    {
        reader.warn_of_effects(
            std::slice::from_ref(node),
            std::slice::from_ref(listener),
            std::slice::from_ref(pool),
        );
    }
    (listener.into_iter().collect(), pool.into_iter().collect())
}

/// Reads the full form.
fn full_form(
    reader: &mut Reader<'_>,
    top: &ConfigNode<'_>,
    [listeners, pools]: [Option<&ConfigNode<'_>>; 2],
    settings: &Settings,
    claimed: &mut ClaimedAddresses,
) -> (Vec<Listener>, Vec<Pool>) {
    let entries = match pools {
        Some(node) => reader.entries(node),
        None => {
            reader.missing(
                top,
                "pools",
                "write it like `pools: {web: {destinations: [\"127.0.0.1:9001\"]}}`",
            );
            Vec::new()
        }
    };
    let mut names = Pools::new(&entries);
    let (mut pools, by_default): (Vec<Pool>, Vec<bool>) =
        entries.iter().map(|(key, node)| reader.pool(key, node, settings)).unzip();
    let Some(node) = listeners else {
        let help = "write it like `listeners: [{name: web, address: \"127.0.0.1:8080\", pool: web}]`";
        reader.missing(top, "listeners", help);
        return (Vec::new(), pools);
    };
    let items = reader.list(node);
    if matches!(&node.tree.value, Value::List(items) if items.is_empty()) {
        reader.problem(node, Code::BadValue, "the list of listeners is empty");
    }
    let listeners: Vec<Listener> = items
        .iter()
        .filter_map(|item| {
            let listener = reader.listener(item, &mut names, claimed)?;
            reader.check_datagram_pool(item, &listener, &pools);
            reader.check_hash_key_visible(item, &listener, &pools);
            reader.check_reports_visible(item, &listener, &pools);
            reader.collect_subsets(item, &listener, &mut pools);
            Some(listener)
        })
        .collect();
    adapt_checks(&listeners, pools.iter_mut().zip(by_default).enumerate());
    if !reader.problems.has_errors() {
        names.warn_unused(reader);
        let nodes: Vec<_> = entries.iter().map(|(_, node)| node.clone()).collect();
        reader.warn_of_effects(&nodes, &listeners, &pools);
    }
    (listeners, pools)
}

/// Checks pools that only UDP listeners use over UDP, unless a protocol is given. A UDP service rarely has a TCP port as
/// well, and would be down from the first check on.
fn adapt_checks<'p>(listeners: &[Listener], pools: impl Iterator<Item = (usize, (&'p mut Pool, bool))>) {
    for (index, (pool, by_default)) in pools {
        let uses = |l: &&Listener| l.pool == Some(index) || l.routes.iter().any(|r| r.pool == index);
        let mut users = listeners.iter().filter(uses).peekable();
        let only_udp = users.peek().is_some() && users.all(|l| l.protocol == Protocol::Udp);
        if let (true, Some(health)) = (only_udp && by_default, &mut pool.health) {
            health.probe = ProbeKind::Udp { send: Arc::default(), expect: None };
        }
        let requests = |l: &Listener| matches!(l.protocol, Protocol::Http | Protocol::Auto);
        if listeners.iter().filter(uses).any(requests) {
            expect_responses(pool);
        }
    }
}

/// Adds an HTTP check for suspected unresponsive destinations, which accept connections but do not respond.
///
/// `OPTIONS *` is a ping of HTTP (RFC 9110, section 9.3.7), and any response passes. It is left out if checks use
/// another port, with a protocol that is not known.
fn expect_responses(pool: &mut Pool) {
    if let Some(health) = &mut pool.health
        && health.probe == ProbeKind::Tcp
        && health.port.is_none()
    {
        health.probe_if_unresponsive = Some(ProbeKind::Http {
            method: "OPTIONS".into(),
            path: "*".into(),
            host: None,
            expect: [(100, 599)].into(),
            headers: Arc::default(),
            body: None,
        });
    }
}

/// Reports a configuration without listeners and pools.
fn report_empty(reader: &mut Reader<'_>, top: &ConfigNode<'_>, message: &str) {
    reader
        .problem(top, Code::MissingKey, message)
        .help("add `listen` and `destinations`, or `listeners` and `pools`");
}
