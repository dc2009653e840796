//! Routing: requests are matched in the form in which they are forwarded.

use plimsoll_core::route::{HostPattern, Match};

use crate::kit::{Balancer, Destination, Setup, edits, get, respond_ok, route, wait_until};

fn by_host(pattern: HostPattern) -> Match {
    Match { host: Some(pattern), ..Match::default() }
}

fn by_path(prefix: &str) -> Match {
    Match { path_prefix: Some(prefix.into()), ..Match::default() }
}

/// Starts five pools, which respond with their names, and a route of every kind.
fn start_with_routes() -> (Vec<Destination>, Balancer) {
    let destinations: Vec<_> =
        ["main", "host", "suffix", "path", "other"].map(|name| Destination::start(respond_ok(name))).into();
    let [main, host, suffix, path, other] = &destinations[..] else { unreachable!("five") };
    let setup = Setup::http(&[main])
        .and_pool("host", &[host])
        .and_pool("suffix", &[suffix])
        .and_pool("path", &[path])
        .and_pool("other", &[other])
        .with(|s| {
            let gold = Match { headers: vec![("x-tier".into(), "gold".into())], ..Match::default() };
            let delete = Match { methods: vec!["DELETE".into(), "PURGE".into()], ..Match::default() };
            s.listeners[0].routes = vec![
                route("host", 1, by_host(HostPattern::Exact("api.example.com".into()))),
                route("suffix", 2, by_host(HostPattern::Suffix(".example.com".into()))),
                route("path", 3, by_path("/v1/")),
                route("gold", 4, gold),
                route("delete", 4, delete),
            ];
        });
    let balancer = setup.start();
    (destinations, balancer)
}

#[test]
fn first_matching_route_is_used() {
    let (_destinations, balancer) = start_with_routes();
    let fetch = |line: &str, host: &str, more: &str| {
        balancer.fetch(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")).text()
    };
    for (line, host, more, pool) in [
        ("GET /", "test", "", "main"),
        ("GET /v1/x", "api.example.com", "X-Tier: gold\r\n", "host"),
        ("GET /", "API.Example.COM.:8080", "", "host"),
        ("GET /", "a.b.example.com", "", "suffix"),
        ("GET /", "example.com", "", "main"),
        ("GET /", "notexample.com", "", "main"),
        ("GET /v1/", "test", "", "path"),
        ("GET /v1", "test", "", "main"),
        ("GET /v1?x=/v1/", "test", "", "main"),
        ("GET /V1/", "test", "", "main"),
        ("GET /%761/", "test", "", "main"),
        ("GET //v1/", "test", "", "main"),
        ("GET /x/../v1/", "test", "", "main"),
        ("GET /", "test", "x-TIER:  gold \r\n", "other"),
        ("GET /", "test", "X-Tier: silver\r\n", "main"),
        ("GET /", "test", "X-Tier: silver\r\nX-Tier: gold\r\n", "other"),
        ("DELETE /", "test", "", "other"),
        ("PURGE /", "test", "", "other"),
        ("delete /", "test", "", "main"),
        ("GET http://api.example.com/", "test", "", "host"),
        ("GET http://test/v1/", "api.example.com", "", "path"),
        ("GET http://test?/v1/", "test", "", "main"),
    ] {
        assert_eq!(fetch(line, host, more), pool, "{line} for {host} with {more:?}");
    }
}

#[test]
fn target_without_a_path_is_matched_as_forwarded() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            s.listeners[0].pool = None;
            s.listeners[0].routes = vec![route("all", 0, by_path("/"))];
        })
        .start();
    for target in ["http://test", "http://test?q", "http://test/?q"] {
        let response = balancer.fetch(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(response.status, 200, "{target}");
    }
    let targets: Vec<_> = destination.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/", "/?q", "/?q"]);
}

#[test]
fn edits_of_a_route_follow_those_of_its_listener() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            let mut routed = route("r", 0, by_path("/r"));
            routed.request_headers = edits(&[("x-a", "route")], &[("x-c", "route")], &["x-b"]);
            routed.response_headers = edits(&[("x-a", "route")], &[], &[]);
            s.listeners[0].request_headers =
                edits(&[("x-a", "listener"), ("x-b", "listener")], &[("x-c", "listener")], &[]);
            s.listeners[0].response_headers = edits(&[("x-a", "listener"), ("x-b", "listener")], &[], &[]);
            s.listeners[0].routes = vec![routed];
        })
        .start();
    let (routed, plain) = (balancer.fetch(get("/r")), balancer.fetch(get("/")));
    assert_eq!((routed.fields.one("x-a"), routed.fields.one("x-b")), (Some("route"), Some("listener")));
    assert_eq!((plain.fields.one("x-a"), plain.fields.one("x-b")), (Some("listener"), Some("listener")));
    let requests = destination.requests();
    assert_eq!(requests[0].fields.all("x-a"), ["route"]);
    assert_eq!(requests[0].fields.all("x-c"), ["listener", "route"]);
    assert!(!requests[0].fields.has("x-b"));
    assert_eq!(requests[1].fields.all("x-b"), ["listener"]);
}

#[test]
fn requests_are_counted_per_route() {
    let (_destinations, balancer) = start_with_routes();
    for path in ["/v1/a", "/v1/b", "/"] {
        balancer.fetch(get(path));
    }
    let counted = |name: &str| {
        let traffic = balancer.handle.traffic();
        let rule = traffic.routes.iter().find(|r| &*r.route == name).expect("a rule");
        rule.counts.requests.iter().flatten().sum::<u64>()
    };
    // A request is counted after its response was sent, maybe after it has arrived.
    wait_until("all are counted", || (counted("path"), counted("default"), counted("host")) == (2, 1, 0));
}
