//! How a tree becomes a configuration: all of it is read, whatever is wrong with a part.

mod address;
mod asking;
mod config_node;
mod custom;
mod first_seen;
mod hash;
mod headers;
mod health;
mod hedge;
pub(crate) mod keys;
mod limits;
mod listener;
mod load;
mod load_balancer;
mod names;
mod pool;
mod process;
mod read;
mod route;
mod set_if_given;
mod settings;
mod spoken;
mod spread;
mod table;
mod tls;
mod value_error;

use std::path::Path as FilePath;
use std::sync::Arc;

use config_node::Place;
use listener::Taken;
use plimsoll_core::health::ProbeKind;
use pool::Pools;
use read::Reader;
use settings::Settings;
use table::Table;

use crate::defaults;
use crate::extensions::Extensions;
use crate::model::{AccessLog, Config, DecisionLog, Listener, Pool, Protocol};
use crate::problem::{Code, Problems};
use crate::tree::{Kind, Node, Path, Scalar, Value};

/// The configuration a tree means, for a program with `extensions` of its own. With errors among the problems it has gaps and must not be used.
pub(crate) fn check(
    root: &Node,
    dir: &FilePath,
    extensions: &Extensions,
    problems: &mut Problems,
) -> Option<Config> {
    let mut reader = Reader { problems, dir, extensions };
    let top = Place { node: root, key: None, path: Path::default() };
    if let Value::Scalar(Scalar { kind: Kind::Null, .. }) = root.value {
        nothing(&mut reader, &top, "the file is empty");
        return None;
    }
    let table = reader.table(&top, &keys::TOP)?;
    let mut settings = Settings::default();
    settings.zone.own = table.get("zone").and_then(|p| reader.own_zone(p));
    if let Some(place) = table.get("load_balancer") {
        reader.load_balancer(place, true, &mut settings);
    }
    let mut taken = Taken::default();
    let (listeners, pools) = services(&mut reader, &top, &table, &settings, &mut taken);
    let access_log = table.get("access_log").and_then(|p| reader.access_log(p));
    Some(Config {
        workers: table.get("workers").and_then(|p| reader.workers(p)),
        shutdown_grace: table
            .get("shutdown")
            .and_then(|p| reader.shutdown(p))
            .unwrap_or(defaults::SHUTDOWN_GRACE),
        listeners: listeners.into_iter().map(Arc::new).collect(),
        pools: pools.into_iter().map(Arc::new).collect(),
        admin: reader.admin(table.get("admin"), &mut taken),
        decision_log: decision_log(&mut reader, &table, access_log.as_ref()),
        access_log,
    })
}

/// The decision log, which must not share a file with the access log: each reopens and writes its own.
fn decision_log(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    access_log: Option<&AccessLog>,
) -> Option<DecisionLog> {
    let place = table.get("decision_log")?;
    let log = reader.decision_log(place)?;
    if matches!(log.target, AccessLog::File(_)) && Some(&log.target) == access_log {
        let message = "the access log is written to this file already";
        reader.problem(place, Code::Conflict, message).help("give each log a file of its own");
        return None;
    }
    Some(log)
}

/// Listeners and pools, from the short form or the full one.
fn services(
    reader: &mut Reader<'_>,
    top: &Place<'_>,
    table: &Table<'_>,
    settings: &Settings,
    taken: &mut Taken,
) -> (Vec<Listener>, Vec<Pool>) {
    let short = ["listen", "destinations"].map(|key| table.get(key));
    let full = ["listeners", "pools"].map(|key| table.get(key));
    let first = |places: [Option<&Place<'_>>; 2]| places.into_iter().flatten().next().and_then(|p| p.key);
    match (first(short), first(full)) {
        (None, None) => {
            nothing(reader, top, "nothing listens and nothing serves");
            (Vec::new(), Vec::new())
        }
        (Some(_), None) => {
            short_is_whole(reader, top, short);
            short_form(reader, short, settings, taken)
        }
        (None, Some(_)) => full_form(reader, top, full, settings, taken),
        (Some(_), Some(other)) => {
            for place in short.into_iter().flatten() {
                let at = place.key.unwrap_or(place.node.span);
                let message = "the short form (`listen`, `destinations`) and the full one (`listeners`, `pools`) \
                               exclude each other";
                reader
                    .problems
                    .add(Code::Conflict, at, place.path.text(), message)
                    .help("move it to `listeners` or `pools`")
                    .related("the full form is used here", other);
            }
            short_form(reader, short, settings, taken);
            full_form(reader, top, full, settings, taken)
        }
    }
}

fn short_is_whole(reader: &mut Reader<'_>, top: &Place<'_>, [listen, destinations]: [Option<&Place<'_>>; 2]) {
    if listen.is_none() {
        reader.missing(top, "listen", "write it like `listen: \"127.0.0.1:8080\"`");
    }
    if destinations.is_none() {
        reader.missing(top, "destinations", "write it like `destinations: [\"127.0.0.1:9001\"]`");
    }
}

fn short_form(
    reader: &mut Reader<'_>,
    [listen, destinations]: [Option<&Place<'_>>; 2],
    settings: &Settings,
    taken: &mut Taken,
) -> (Vec<Listener>, Vec<Pool>) {
    let listener = listen.map(|place| reader.default_listener(place, taken));
    let mut pool = destinations.map(|place| reader.default_pool(place, settings));
    pool.iter_mut().for_each(check_for_answers);
    (listener.into_iter().collect(), pool.into_iter().collect())
}

fn full_form(
    reader: &mut Reader<'_>,
    top: &Place<'_>,
    [listeners, pools]: [Option<&Place<'_>>; 2],
    settings: &Settings,
    taken: &mut Taken,
) -> (Vec<Listener>, Vec<Pool>) {
    let entries = match pools {
        Some(place) => reader.entries(place),
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
        entries.iter().map(|(key, place)| reader.pool(key, place, settings)).unzip();
    let Some(place) = listeners else {
        let help = "write it like `listeners: [{name: web, address: \"127.0.0.1:8080\", pool: web}]`";
        reader.missing(top, "listeners", help);
        return (Vec::new(), pools);
    };
    let items = reader.list(place);
    if matches!(&place.node.value, Value::List(items) if items.is_empty()) {
        reader.problem(place, Code::BadValue, "the list of listeners is empty");
    }
    let listeners: Vec<Listener> = items
        .iter()
        .filter_map(|item| {
            let listener = reader.listener(item, &mut names, taken)?;
            reader.takes_datagrams(item, &listener, &pools);
            reader.sees_keys(item, &listener, &pools);
            reader.sees_reports(item, &listener, &pools);
            reader.gather_subsets(item, &listener, &mut pools);
            Some(listener)
        })
        .collect();
    fit_checks(&listeners, pools.iter_mut().zip(by_default).enumerate());
    if !reader.problems.has_errors() {
        names.tell_unused(reader);
    }
    (listeners, pools)
}

/// Checks of a pool that only udp listeners lead to are made over UDP, unless it says how: what serves
/// datagrams has seldom a TCP port as well, and would be down from the first check on.
fn fit_checks<'p>(listeners: &[Listener], pools: impl Iterator<Item = (usize, (&'p mut Pool, bool))>) {
    for (index, (pool, by_default)) in pools {
        let leads = |l: &&Listener| l.pool == Some(index) || l.routes.iter().any(|r| r.pool == index);
        let mut leading = listeners.iter().filter(leads).peekable();
        let only_udp = leading.peek().is_some() && leading.all(|l| l.protocol == Protocol::Udp);
        if let (true, Some(health)) = (only_udp && by_default, &mut pool.health) {
            health.probe = ProbeKind::Udp { send: Arc::default(), expect: None };
        }
        let requests = |l: &Listener| matches!(l.protocol, Protocol::Http | Protocol::Auto);
        if listeners.iter().filter(leads).any(requests) {
            check_for_answers(pool);
        }
    }
}

/// Destinations of requests that take them and answer none are asked for an answer, where else a connection would
/// do. `OPTIONS *` is HTTP's own ping (RFC 9110, section 9.3.7), and whatever a server says to it, it answers.
/// Where checks go to another port nobody knows what is spoken there.
fn check_for_answers(pool: &mut Pool) {
    if let Some(health) = &mut pool.health
        && health.probe == ProbeKind::Tcp
        && health.port.is_none()
    {
        health.if_gray = Some(ProbeKind::Http {
            method: "OPTIONS".into(),
            path: "*".into(),
            host: None,
            expect: [(100, 599)].into(),
            headers: Arc::default(),
            body: None,
        });
    }
}

fn nothing(reader: &mut Reader<'_>, top: &Place<'_>, message: &str) {
    reader
        .problem(top, Code::MissingKey, message)
        .help("give it `listen` and `destinations`, or `listeners` and `pools`");
}
