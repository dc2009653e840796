//! Explains how a request would be handled, without sending it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use plimsoll_config::model::Protocol;
use plimsoll_core::explain::{DecidedBy, SetAside, explain};
use plimsoll_core::{Name, PickRequest, Rng, Status};

use crate::control::Handle;
use crate::forward::hash_key;
use crate::http::local_reply::LocalReply;
use crate::http::request_facts::RequestFacts;
use crate::http::request_limits;
use crate::listener::tables::{ListenerTable, RouteTable};
use crate::net::stream::Peer;
use plimsoll_wire::http1::MAX_HEADERS;
use plimsoll_wire::http1::request::{self, Forwarding};
use plimsoll_wire::http1::target::Method;

/// A request to explain.
#[derive(Clone, Debug, Default)]
pub struct ExplainQuery {
    /// Request method, such as `GET`.
    pub method: String,
    /// URL, such as `http://host:port/path?query`.
    pub url: String,
    /// Header fields beside `Host`, in order.
    pub headers: Vec<(String, String)>,
    /// Client IP address to assume; `None` = no particular client.
    pub from: Option<IpAddr>,
}

/// Why a request cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainError(pub String);

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ExplainError {}

/// How a request would be handled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExplanationView {
    /// Name of the listener that would accept it.
    pub listener: Name,
    /// Name of the route; `None` if none matches or the request is rejected before.
    pub route: Option<Name>,
    /// Name of the route's pool.
    pub pool: Option<Name>,
    /// Algorithm of the pool.
    pub algorithm: Option<&'static str>,
    /// Local reply, if the request would get one: status, reason and detail.
    pub refused: Option<(u16, &'static str, &'static str)>,
    /// Destinations in configured order.
    pub candidates: Vec<CandidateView>,
    /// Names of the chosen destination and of those a retry would use, in order.
    pub order: Vec<Name>,
    /// Basis of the decision: `trial`, `key`, `only_candidate` or `algorithm`.
    pub decided: Option<&'static str>,
    /// Name and result of each stage, in order.
    pub stages: Vec<(&'static str, String)>,
}

/// A destination as a candidate of the decision.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CandidateView {
    /// Name of the destination.
    pub name: Name,
    /// Address of the destination.
    pub address: String,
    /// Priority tier; 0 is first.
    pub priority: u8,
    /// Base weight of the destination.
    pub weight: u16,
    /// Status of the destination.
    pub status: Status,
    /// Name of the reason why it was set aside; `None` for a candidate.
    pub set_aside: Option<&'static str>,
    /// Reason why it was set aside, as a sentence.
    pub because: Option<String>,
    /// Number of requests in flight.
    pub in_flight: u32,
    /// Load: (requests in flight + 1) / weight.
    pub load: f64,
    /// Share of its messages it gets during slow start, 0 to 1; otherwise 1.
    pub slow_start: f64,
    /// Score that the algorithm compares, lower is better; `None` if it compares none.
    pub score: Option<f64>,
}

impl Handle {
    /// Runs the stages of a request without sending it.
    ///
    /// # Errors
    /// The request is not valid, or no listener would accept it.
    pub async fn explain(&self, query: &ExplainQuery) -> Result<ExplanationView, ExplainError> {
        let (secure, authority, path) = split(&query.url)?;
        let table = self.listener_for(secure, authority)?;
        let head = head(query, authority, path)?;
        let mut explained = ExplanationView {
            listener: table.config.name.clone(),
            route: None,
            pool: None,
            algorithm: None,
            refused: None,
            candidates: Vec::new(),
            order: Vec::new(),
            decided: None,
            stages: Vec::new(),
        };
        if let Some((rule, key)) = route(&table, &head, query.from, &mut explained) {
            self.explain_choice(&table.routes[rule], query, key, &mut explained).await;
        }
        Ok(explained)
    }

    /// Explains the choice of a destination.
    async fn explain_choice(
        &self,
        rule: &RouteTable,
        query: &ExplainQuery,
        key: Option<u64>,
        explained: &mut ExplanationView,
    ) {
        let pool = &rule.pool;
        let snapshot = pool.snapshots.latest();
        explained.route = Some(rule.name.clone());
        explained.pool = Some(pool.config.name.clone());
        explained.algorithm = Some(snapshot.algorithm);
        let subset = rule.subset.as_deref();
        let repeatable = Method::parse(&query.method).is_idempotent();
        let want = PickRequest { repeatable, key, subset, ..PickRequest::default() };
        let now = self.clock().now();
        let found = explain(&snapshot, &want, now, &mut Rng::new(now.as_nanos()));
        let views = self.pools().await;
        let reports = views.iter().find(|view| view.name == pool.config.name);
        for candidate in &found.candidates {
            let member = &snapshot.members[candidate.member];
            let destination = &member.destination;
            let report = reports
                .and_then(|view| view.destinations.iter().find(|d| d.name == destination.name))
                .and_then(|view| view.report.as_ref());
            let reason = report.and_then(|report| report.reason.as_ref()).map(ToString::to_string);
            explained.candidates.push(CandidateView {
                name: destination.name.clone(),
                address: destination.address.to_string(),
                priority: destination.priority,
                weight: destination.weight.get(),
                status: member.status,
                set_aside: candidate.set_aside.map(SetAside::as_str),
                because: candidate.set_aside.map(|why| sentence(why, reason)),
                in_flight: candidate.in_flight,
                load: candidate.load,
                slow_start: candidate.slow_start,
                score: candidate.score,
            });
        }
        let name = |&member: &usize| snapshot.members[member].destination.name.clone();
        explained.order = found.order.iter().map(name).collect();
        explained.decided = found.decided.map(DecidedBy::as_str);
        self.add_stages(rule, found.waits, explained);
    }

    /// Adds the stages after the route.
    fn add_stages(&self, rule: &RouteTable, waits: bool, explained: &mut ExplanationView) {
        let fit = explained.candidates.iter().filter(|c| c.set_aside.is_none()).count();
        let out = explained.candidates.len() - fit;
        let mut add = |stage, text| explained.stages.push((stage, text));
        add("health", format!("{fit} of {} destinations are candidates, {out} set aside", fit + out));
        if waits {
            return add_queue_stage(rule, explained);
        }
        let Some(winner) = explained.order.first().cloned() else {
            let reply = LocalReply::NO_DESTINATION;
            explained.refused = Some((reply.status, reply.reason.as_str(), reply.detail));
            explained.stages.push(("assignment", "none: responds 503 at once".to_owned()));
            return;
        };
        let load = explained.candidates.iter().find(|c| c.name == winner).map_or(0, |c| c.in_flight);
        add("load assessment", format!("{winner} has {load} in flight"));
        let by = match explained.decided {
            Some("trial") => {
                "an ejected destination is on trial, and this request may be the trial".to_owned()
            }
            Some("only_candidate") => "only one candidate: no algorithm is needed".to_owned(),
            Some("key") => "the key by which the request keeps its destination".to_owned(),
            _ => format!("{} over {fit} candidates", explained.algorithm.unwrap_or_default()),
        };
        add("algorithm", by);
        add("assignment", winner.to_string());
        let retry = &rule.pool.config.retry;
        let next: Vec<&str> =
            explained.order[1..].iter().take(usize::from(retry.attempts) - 1).map(|n| &**n).collect();
        let text = match (retry.failover, next.is_empty()) {
            (false, _) => "off: the first failure is returned to the client".to_owned(),
            (true, true) => "no other destination to try".to_owned(),
            (true, false) => format!("then {}, if a retry is safe", next.join(", ")),
        };
        explained.stages.push(("failover", text));
    }

    /// Returns the HTTP listener that has the port of `authority`.
    fn listener_for(
        &self,
        secure: bool,
        authority: &str,
    ) -> Result<std::sync::Arc<ListenerTable>, ExplainError> {
        let port = match authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(port)) => port,
            _ if secure => 443,
            _ => 80,
        };
        let tables = self.state().tables.clone();
        let requests = |table: &&std::sync::Arc<ListenerTable>| {
            matches!(table.config.protocol, Protocol::Http | Protocol::Auto)
        };
        let listeners = self.traffic().listeners;
        let listens = |table: &&std::sync::Arc<ListenerTable>| {
            listeners.iter().any(|l| {
                let mut addresses = l.addresses.iter().filter_map(|a| a.parse::<SocketAddr>().ok());
                l.name == table.config.name && addresses.any(|a| a.port() == port)
            })
        };
        let found = tables.iter().filter(requests).find(listens).cloned();
        found.ok_or_else(|| {
            let known: Vec<String> = listeners.iter().flat_map(|l| l.addresses.clone()).collect();
            ExplainError(format!(
                "no HTTP listener has port {port}; plimsoll listens on {}",
                known.join(", ")
            ))
        })
    }
}

/// Adds the stage of a request that no destination has capacity for.
fn add_queue_stage(rule: &RouteTable, explained: &mut ExplanationView) {
    let (line, wait) = (rule.pool.limiter.waiting(), rule.pool.config.wait);
    let (now, most) = (line.current(), line.max().unwrap_or(u32::MAX));
    if line.is_full() {
        let reply = LocalReply::OVERFLOW;
        explained.refused = Some((reply.status, reply.reason.as_str(), reply.detail));
        explained.stages.push((
            "queue",
            format!("{now} requests are queued, the maximum is {most}: responds 503 at once"),
        ));
        return;
    }
    let text =
        format!("queued behind {now} requests, for {wait:?} at most, until a destination has capacity");
    explained.stages.push(("queue", text));
}

/// Parses the head as the data plane does, and finds its route.
fn route(
    table: &ListenerTable,
    head: &str,
    from: Option<IpAddr>,
    explained: &mut ExplanationView,
) -> Option<(usize, Option<u64>)> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
    let refuse = |explained: &mut ExplanationView, reply: LocalReply| {
        explained.refused = Some((reply.status, reply.reason.as_str(), reply.detail));
        explained.stages.push(("route", format!("rejected with {}: {}", reply.status, reply.detail)));
    };
    let (parsed, headers) =
        match request::parse(head.as_bytes(), &mut slots, &request_limits(&table.config.limits)) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => {
                refuse(explained, LocalReply::BAD_REQUEST_LINE);
                return None;
            }
            Err(error) => {
                refuse(explained, error.into());
                return None;
            }
        };
    let forwarding = Forwarding {
        client: from,
        scheme: if table.server_tls.is_some() { "https" } else { "http" },
        certificate: None,
        trusted: table.trusts(from),
        via: table.config.via,
    };
    let facts = RequestFacts { head: &parsed, headers, sni: None, forwarding };
    let Some(rule) = table.route(&facts) else {
        refuse(explained, LocalReply::NO_ROUTE);
        return None;
    };
    let RouteTable { name, pool, .. } = &*table.routes[rule];
    explained
        .stages
        .push(("route", format!("{name} of listener {}, pool {}", table.config.name, pool.config.name)));
    let open = table.shared.open.load(std::sync::atomic::Ordering::Relaxed);
    let most = table.config.limits.connections;
    explained.stages.push(("admission", format!("{open} of {most} connections are open")));
    let peer = from.map_or(Peer::Unix, |ip| Peer::Socket(SocketAddr::new(ip, 0)));
    let by = pool.config.hash_key();
    let key = by.and_then(|by| hash_key::request_key(by, &facts, peer));
    Some((rule, key))
}

/// Splits a URL: whether its scheme is `https`, its authority, and its path with query.
fn split(url: &str) -> Result<(bool, &str, &str), ExplainError> {
    let invalid = || ExplainError(format!("`{url}`: expected a URL such as http://host:port/path"));
    let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
    let secure = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(invalid()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() {
        return Err(invalid());
    }
    Ok((secure, authority, if path.is_empty() { "/" } else { path }))
}

/// Formats the request head.
fn head(query: &ExplainQuery, authority: &str, path: &str) -> Result<String, ExplainError> {
    let lines: String = query.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let own = query.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = if own { String::new() } else { format!("host: {authority}\r\n") };
    let broken = |text: &str| text.contains(['\r', '\n', '\0']);
    let parts = query.headers.iter().flat_map(|(name, value)| [name, value]);
    if parts.chain([&query.method, &query.url]).any(|text| broken(text)) {
        return Err(ExplainError("method, URL and header fields cannot contain line breaks".to_owned()));
    }
    Ok(format!("{} {path} HTTP/1.1\r\n{host}{lines}\r\n", query.method))
}

fn sentence(why: SetAside, reason: Option<String>) -> String {
    match why {
        SetAside::Status(status) => match reason {
            Some(reason) => format!("{}: {reason}", status.as_str()),
            None => status.as_str().to_owned(),
        },
        SetAside::NoWeight => "its weight is 0, so it gets no new requests".to_owned(),
        SetAside::Subset => "it lacks the labels that the route requires".to_owned(),
        SetAside::Backup => "it is in a backup tier, and an earlier tier serves".to_owned(),
        SetAside::BackupOff => {
            "it is in a backup tier, and `quality.failover_support` is off, so no backup tier is used"
                .to_owned()
        }
        SetAside::Full => "it is at its limit".to_owned(),
        SetAside::Zone => "it is in another zone, and the local zone has enough capacity".to_owned(),
    }
}
