//! What would become of a request, told without sending it.

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
use plimsoll_wire::http1::request;
use plimsoll_wire::http1::target::Method;

/// A request as somebody would send it.
#[derive(Clone, Debug, Default)]
pub struct ExplainQuery {
    /// `GET`, …
    pub method: String,
    /// `http://host:port/path?query`.
    pub url: String,
    /// Beside `Host`, in order.
    pub headers: Vec<(String, String)>,
    /// Whose request it is; nobody's in particular without one.
    pub from: Option<IpAddr>,
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainError(pub String);

/// What would become of it.
#[derive(Clone, Debug)]
pub struct ExplanationView {
    /// The listener that would take it.
    pub listener: Name,
    /// The route; `None` when none matches or the request is refused before.
    pub route: Option<Name>,
    /// The pool the route leads to.
    pub pool: Option<Name>,
    /// Its algorithm.
    pub algorithm: Option<&'static str>,
    /// What it would be answered by the balancer itself: status, reason, a sentence.
    pub refused: Option<(u16, &'static str, &'static str)>,
    /// In configured order.
    pub candidates: Vec<CandidateView>,
    /// Names, the winner first, then who would be tried next where that is safe.
    pub order: Vec<Name>,
    /// What decided: `trial`, `key`, `only_candidate` or `algorithm`.
    pub decided: Option<&'static str>,
    /// Each stage with what it came to, in order.
    pub stages: Vec<(&'static str, String)>,
}

/// A destination, as the choice would see it.
#[derive(Clone, Debug)]
pub struct CandidateView {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub address: String,
    /// Tier.
    pub priority: u8,
    /// Base weight.
    pub weight: u16,
    /// How it stands.
    pub status: Status,
    /// Why it is out of the question, in a word; `None` for a candidate.
    pub set_aside: Option<&'static str>,
    /// And in a sentence.
    pub because: Option<String>,
    /// Messages in flight.
    pub in_flight: u32,
    /// (in flight + 1) / weight.
    pub load: f64,
    /// Share of its messages it gets during slow start, 0 to 1; otherwise 1.
    pub slow_start: f64,
    /// What the algorithm compares it by, the lower the better; `None` where it compares nothing.
    pub score: Option<f64>,
}

impl Handle {
    /// Runs the stages of a request's way without sending it.
    ///
    /// # Errors
    /// [`ExplainError`]: the question makes no sense, or nobody listens where it goes.
    pub async fn explain(&self, ask: &ExplainQuery) -> Result<ExplanationView, ExplainError> {
        let (secure, authority, path) = split(&ask.url)?;
        let table = self.listener_for(secure, authority)?;
        let head = head(ask, authority, path)?;
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
        if let Some((rule, key)) = route(&table, &head, ask.from, &mut explained) {
            self.choose(&table.routes[rule], ask, key, &mut explained).await;
        }
        Ok(explained)
    }

    /// Who takes it, and why.
    async fn choose(
        &self,
        rule: &RouteTable,
        ask: &ExplainQuery,
        key: Option<u64>,
        explained: &mut ExplanationView,
    ) {
        let pool = &rule.pool;
        let snapshot = pool.snapshots.latest();
        explained.route = Some(rule.name.clone());
        explained.pool = Some(pool.config.name.clone());
        explained.algorithm = Some(snapshot.algorithm);
        let subset = rule.subset.as_deref();
        let repeatable = Method::parse(&ask.method).is_idempotent();
        let want = PickRequest { repeatable, key, subset, ..PickRequest::default() };
        let now = self.clock().now();
        let told = explain(&snapshot, &want, now, &mut Rng::new(now.as_nanos()));
        let views = self.pools().await;
        let reports = views.iter().find(|view| view.name == pool.config.name);
        for candidate in &told.candidates {
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
        explained.order = told.order.iter().map(name).collect();
        explained.decided = told.decided.map(DecidedBy::as_str);
        self.tell_stages(rule, told.waits, explained);
    }

    fn tell_stages(&self, rule: &RouteTable, waits: bool, explained: &mut ExplanationView) {
        let fit = explained.candidates.iter().filter(|c| c.set_aside.is_none()).count();
        let out = explained.candidates.len() - fit;
        let mut tell = |stage, text| explained.stages.push((stage, text));
        tell("health", format!("{fit} of {} destinations are candidates, {out} set aside", fit + out));
        if waits {
            return tell_wait(rule, explained);
        }
        let Some(winner) = explained.order.first().cloned() else {
            let reply = LocalReply::NO_DESTINATION;
            explained.refused = Some((reply.status, reply.reason.as_str(), reply.detail));
            explained.stages.push(("assignment", "nobody: answered 503 at once".to_owned()));
            return;
        };
        let load = explained.candidates.iter().find(|c| c.name == winner).map_or(0, |c| c.in_flight);
        tell("load assessment", format!("{winner} has {load} in flight"));
        let by = match explained.decided {
            Some("trial") => "an ejected destination is on trial, and this message may be it".to_owned(),
            Some("only_candidate") => "there is only one candidate: no algorithm was asked".to_owned(),
            Some("key") => "what the message keeps its destination by".to_owned(),
            _ => format!("{} over {fit} candidates", explained.algorithm.unwrap_or_default()),
        };
        tell("algorithm", by);
        tell("assignment", winner.to_string());
        let retry = &rule.pool.config.retry;
        let next: Vec<&str> =
            explained.order[1..].iter().take(usize::from(retry.attempts) - 1).map(|n| &**n).collect();
        let text = match (retry.failover, next.is_empty()) {
            (false, _) => "off: the first failure is the client's answer".to_owned(),
            (true, true) => "nobody else to try".to_owned(),
            (true, false) => format!("then {}, where that is safe", next.join(", ")),
        };
        explained.stages.push(("failover", text));
    }

    /// The listener whose address has that port.
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
                "no listener for requests has port {port}; plimsoll listens on {}",
                known.join(", ")
            ))
        })
    }
}

/// Nobody has room for it now.
fn tell_wait(rule: &RouteTable, explained: &mut ExplanationView) {
    let (line, wait) = (rule.pool.limiter.waiting(), rule.pool.config.wait);
    let (now, most) = (line.current(), line.max().unwrap_or(u32::MAX));
    if line.is_full() {
        let reply = LocalReply::OVERFLOW;
        explained.refused = Some((reply.status, reply.reason.as_str(), reply.detail));
        explained
            .stages
            .push(("queue", format!("{now} wait, and no more than {most} may: answered 503 at once")));
        return;
    }
    let text = format!("it would wait behind {now} others, for {wait:?} at most, until one of them has room");
    explained.stages.push(("queue", text));
}

/// Reads the head as the data plane would, and finds its route.
fn route(
    table: &ListenerTable,
    head: &str,
    from: Option<IpAddr>,
    explained: &mut ExplanationView,
) -> Option<(usize, Option<u64>)> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
    let refuse = |explained: &mut ExplanationView, reply: LocalReply| {
        explained.refused = Some((reply.status, reply.reason.as_str(), reply.detail));
        explained.stages.push(("route", format!("refused with {}: {}", reply.status, reply.detail)));
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
    let facts = RequestFacts {
        host: parsed.host,
        path: parsed.target.path(),
        method: parsed.method_name,
        headers,
        sni: None,
        certificate: None,
        trusted: table.trusts(from),
    };
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
    let key = by.and_then(|by| hash_key::request_key(by, parsed.target.path_and_query, headers, peer));
    Some((rule, key))
}

/// Scheme, authority and the rest of a URL.
fn split(url: &str) -> Result<(bool, &str, &str), ExplainError> {
    let wrong = || ExplainError(format!("`{url}` is not like http://host:port/path"));
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let secure = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(wrong()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() {
        return Err(wrong());
    }
    Ok((secure, authority, if path.is_empty() { "/" } else { path }))
}

/// The head as it would come.
fn head(ask: &ExplainQuery, authority: &str, path: &str) -> Result<String, ExplainError> {
    let lines: String = ask.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let own = ask.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = if own { String::new() } else { format!("host: {authority}\r\n") };
    let broken = |text: &str| text.contains(['\r', '\n', '\0']);
    let parts = ask.headers.iter().flat_map(|(name, value)| [name, value]);
    if parts.chain([&ask.method, &ask.url]).any(|text| broken(text)) {
        return Err(ExplainError("a line of a request cannot hold a line break".to_owned()));
    }
    Ok(format!("{} {path} HTTP/1.1\r\n{host}{lines}\r\n", ask.method))
}

fn sentence(why: SetAside, reason: Option<String>) -> String {
    match why {
        SetAside::Status(status) => match reason {
            Some(reason) => format!("{}: {reason}", status.as_str()),
            None => status.as_str().to_owned(),
        },
        SetAside::NoWeight => "its weight is 0: it takes no new work".to_owned(),
        SetAside::Subset => "it has not the labels that the route asks for".to_owned(),
        SetAside::Backup => "it is of a backup tier, and the first one serves".to_owned(),
        SetAside::Full => "it has as many messages as it may have at once".to_owned(),
        SetAside::Zone => "it is of another zone, and the own one carries everything".to_owned(),
    }
}
