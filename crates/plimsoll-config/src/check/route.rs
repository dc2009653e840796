//! Routes of a listener: match conditions and pools.

use plimsoll_core::Name;
use plimsoll_core::route::{HostPattern, Match};

use crate::check::address::is_host_name;
use crate::check::check_protocol::{method, path};
use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::headers::header_name;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::pool::Pools;
use crate::check::reader::Reader;
use crate::check::value_error::ValueError;
use crate::model::Route;
use crate::problem::Code;
use crate::tree::{Span, Value};

/// Maximum number of routes that one is compared with.
const MAX_COMPARED: usize = 1_000;

/// Returns whether every request that `narrow` matches is matched by `wide`, too.
fn covers(wide: &Match, narrow: &Match) -> bool {
    let host_covers = |wide: &Option<HostPattern>, narrow: &Option<HostPattern>| match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(HostPattern::Suffix(suffix)), Some(HostPattern::Exact(name) | HostPattern::Suffix(name))) => {
            name == suffix || name.len() > suffix.len() && name.ends_with(suffix.as_str())
        }
        (wide, narrow) => wide == narrow,
    };
    let methods = wide.methods.is_empty()
        || !narrow.methods.is_empty() && narrow.methods.iter().all(|method| wide.methods.contains(method));
    let path = wide.path_prefix.as_ref().is_none_or(|prefix| {
        narrow.path_prefix.as_ref().is_some_and(|longer| longer.starts_with(prefix.as_str()))
    });
    methods
        && path
        && host_covers(&wide.host, &narrow.host)
        && host_covers(&wide.sni, &narrow.sni)
        && wide.headers.iter().all(|header| narrow.headers.contains(header))
}

/// Kind of messages that the routes of a listener match.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum RouteScope {
    /// Requests without TLS.
    Requests,
    /// Requests within TLS.
    TlsRequests,
    /// Connections, of which only the TLS ClientHello can be matched.
    Connections,
}

impl Reader<'_> {
    /// Reads the routes of a listener.
    pub(crate) fn routes(
        &mut self,
        listener: &str,
        node: &ConfigNode<'_>,
        pools: &mut Pools<'_>,
        scope: RouteScope,
    ) -> Vec<Route> {
        let mut names = FirstSeen::default();
        let mut catches_all: Option<Span> = None;
        let (mut routes, mut matched) = (Vec::new(), Vec::new());
        for (index, item) in self.list(node).iter().enumerate() {
            let Some(mapping) = self.mapping(item, &keys::ROUTE) else { continue };
            if let Some(first) = catches_all {
                let line = self.line_of(first);
                let message = format!("this route is never used: the route on {line} matches every request");
                self.problem(item, Code::Unreachable, message)
                    .related("this route matches every request", first);
            } else if mapping.get("match").is_none_or(ConfigNode::is_empty_block)
                && !mapping.has_planned_key()
            {
                catches_all = Some(item.span());
            }
            let name =
                self.route_name(&mapping, &mut names).unwrap_or_else(|| format!("{listener}/{index}").into());
            let route = self.route(name, item, &mapping, pools);
            if !mapping.has_planned_key() && catches_all.is_none_or(|first| first == item.span()) {
                self.warn_of_covered_route(item, &route, &matched);
            }
            matched.push((route.matches.clone(), item.span(), route.name.clone()));
            routes.push(route);
            self.check_route_scope(&mapping, scope);
        }
        routes
    }

    /// Reports a route with requests that an earlier route matches all.
    fn warn_of_covered_route(
        &mut self,
        item: &ConfigNode<'_>,
        route: &Route,
        earlier: &[(Match, Span, Name)],
    ) {
        // Each route is compared with all before it; thousands are written by programs.
        let found = earlier.iter().take(MAX_COMPARED).find(|(matches, ..)| covers(matches, &route.matches));
        let Some((_, first, name)) = found else { return };
        let line = self.line_of(*first);
        let message =
            format!("this route is never used: the route `{name}` on {line} matches each of its requests");
        self.problem(item, Code::Unreachable, message)
            .help("move it before that route")
            .related("this route matches them", *first);
    }

    /// Reports match conditions and edits that do not apply to these messages.
    fn check_route_scope(&mut self, mapping: &Mapping<'_>, scope: RouteScope) {
        let (keys, why): (&[&str], _) = match scope {
            RouteScope::Requests => (&["sni"], "applies to TLS, which this listener does not terminate"),
            RouteScope::TlsRequests => return,
            RouteScope::Connections => (
                &["host", "path_prefix", "method", "headers", "request_headers", "response_headers"],
                "applies to requests, which this listener does not receive",
            ),
        };
        let conditions =
            mapping.get("match").filter(|p| p.is_block()).map(|p| self.entries(p)).unwrap_or_default();
        let edits = mapping.entries().map(|(key, node)| (key, node.clone()));
        for (key, node) in conditions.into_iter().chain(edits).filter(|(key, _)| keys.contains(key)) {
            let at = node.key.unwrap_or(node.tree.span);
            self.problems.add(Code::Conflict, at, node.path.text(), format!("`{key}` {why}"));
        }
    }

    fn route_name(&mut self, mapping: &Mapping<'_>, names: &mut FirstSeen<Name>) -> Option<Name> {
        let node = mapping.get("name")?;
        let name = self.name(node)?;
        if let Some(first) = names.insert(name.clone(), node.span()) {
            self.duplicate_name("route", node, first);
        }
        Some(name)
    }

    fn route(
        &mut self,
        name: Name,
        node: &ConfigNode<'_>,
        mapping: &Mapping<'_>,
        pools: &mut Pools<'_>,
    ) -> Route {
        let pool = match mapping.get("pool") {
            Some(node) => pools.resolve(self, node),
            None if mapping.has_planned_key() => None,
            None => {
                self.missing(node, "pool", "name the pool for matching requests");
                None
            }
        };
        Route {
            name,
            matches: mapping.get("match").map(|p| self.matches(p)).unwrap_or_default(),
            pool: pool.unwrap_or(0),
            subset: self.subset(mapping),
            request_headers: self.header_edits(mapping.get("request_headers")),
            response_headers: self.header_edits(mapping.get("response_headers")),
        }
    }

    /// Reports a name that is in use already.
    pub(crate) fn duplicate_name(&mut self, what: &str, node: &ConfigNode<'_>, first: Span) {
        let line = self.line_of(first);
        let message = format!("the {what} `{}` is given twice; first on {line}", node.shown());
        self.problem(node, Code::DuplicateName, message)
            .help("use different names")
            .related("first given here", first);
    }

    fn matches(&mut self, node: &ConfigNode<'_>) -> Match {
        let Some(mapping) = self.mapping(node, &keys::MATCH) else { return Match::default() };
        let host = mapping.get("host").and_then(|p| self.parsed(p, "a host", host_pattern));
        let path_prefix = mapping.get("path_prefix").and_then(|p| self.parsed(p, "a path", path_prefix));
        let methods = mapping.get("method").map(|p| self.methods(p)).unwrap_or_default();
        let headers =
            mapping.get("headers").map(|p| self.header_lines(p, header_name, &mut FirstSeen::default()));
        let sni = mapping.get("sni").and_then(|p| self.parsed(p, "a host", host_pattern));
        Match { host, sni, path_prefix, methods, headers: headers.unwrap_or_default() }
    }

    fn methods(&mut self, node: &ConfigNode<'_>) -> Vec<String> {
        if matches!(&node.tree.value, Value::List(items) if items.is_empty()) {
            self.problem(node, Code::BadValue, "the list of methods is empty: no request matches")
                .help("remove `method` to match all requests");
        }
        let items = self.one_or_many(node);
        items
            .iter()
            .filter_map(|p| self.parsed(p, "a method", |text| method(text).map(str::to_owned)))
            .collect()
    }
}

/// Parses `api.example.com` or `*.example.com`, which are compared without port and case.
fn host_pattern(text: &str) -> Result<HostPattern, ValueError> {
    let error = |reason, help: &str| Err(ValueError::new(Code::BadValue, reason, help));
    let lower = text.to_ascii_lowercase();
    if lower == "*" {
        return error("matches every host", "remove `host` instead");
    }
    if let Some(suffix) = lower.strip_prefix('*') {
        return match suffix.strip_prefix('.').is_some_and(is_host_name) {
            true => Ok(HostPattern::Suffix(suffix.to_owned())),
            false => {
                error("is not a valid host pattern", "`*` matches whole labels at the start: `*.example.com`")
            }
        };
    }
    let is_ip = lower.parse::<std::net::Ipv4Addr>().is_ok() || is_bracketed_v6(&lower);
    match is_ip || is_host_name(&lower) {
        true => Ok(HostPattern::Exact(lower)),
        false if !is_bracketed_v6(&lower) && lower.rsplit_once(':').is_some() => {
            error("has a port, which is not compared", "remove the port")
        }
        false if !text.is_ascii() => {
            error("is not a valid host name", "write it in ASCII, as browsers send it: `xn--…`")
        }
        false => error("is not a valid host name", "write it like `api.example.com` or `*.example.com`"),
    }
}

fn is_bracketed_v6(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

fn path_prefix(text: &str) -> Result<String, ValueError> {
    match path(text)? {
        text if text.contains('?') => {
            let reason = "is not a valid path: it contains `?`";
            Err(ValueError::new(Code::BadValue, reason, "remove the query, which is not compared"))
        }
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_patterns_are_exact_or_suffixes() {
        let exact = |text: &str| Ok(HostPattern::Exact(text.to_owned()));
        let valid = [
            ("API.example.com", exact("api.example.com")),
            ("*.Example.com", Ok(HostPattern::Suffix(".example.com".to_owned()))),
            ("10.0.0.1", exact("10.0.0.1")),
            ("[::1]", exact("[::1]")),
            ("localhost", exact("localhost")),
        ];
        for (text, pattern) in valid {
            assert_eq!(host_pattern(text), pattern, "{text}");
        }
        for text in
            ["*", "*example.com", "a.*.com", "api.example.com:80", "[::1]:80", "münchen.de", "", "a b", "*."]
        {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }
}
