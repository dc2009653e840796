//! /metrics parsed strictly by its format.

mod test_proxy;

use std::collections::{BTreeMap, HashSet};

use test_proxy::TestProxy;

/// Name, sorted labels and value of a sample.
type Sample = (String, BTreeMap<String, String>, f64);

#[derive(Default)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .enumerate()
            .all(|(at, b)| b.is_ascii_lowercase() || b == b'_' || (at > 0 && b.is_ascii_digit()))
}

/// Parses labels up to the closing brace, with escapes resolved; returns the rest as well.
fn parse_labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label has a value in quotes");
        assert!(valid_name(name), "label name {name:?}");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        rest = loop {
            match chars.next().expect("the value ends") {
                (at, '"') => break &after[at + 1..],
                (_, '\\') => value.push(match chars.next().expect("an escape has two characters").1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("unknown escape \\{c}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "duplicate label {name}");
        match rest.split_at(1) {
            (",", more) => rest = more,
            ("}", after) => return (labels, after),
            (other, _) => panic!("{other:?} after a label"),
        }
    }
}

/// Parses a scrape: HELP and TYPE precede the samples, families are contiguous, series unique.
fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    let (mut family, mut helped, mut seen) = (String::new(), String::new(), HashSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("HELP has a text");
            assert!(!words.is_empty() && valid_name(name), "{line}");
            helped = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("TYPE has a kind");
            assert!(["counter", "gauge", "histogram", "summary"].contains(&kind), "{line}");
            assert_eq!(name, helped, "HELP stands before TYPE");
            assert!(scrape.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} begins twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            family = name.to_owned();
        } else {
            let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a sample has a value"));
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => parse_labels(rest),
                None => (BTreeMap::new(), rest),
            };
            let suffix = name.strip_prefix(&*family).unwrap_or_else(|| panic!("{name} outside its family"));
            let allowed: &[&str] = match &*scrape.kinds[&family] {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix) && valid_name(name), "{line}");
            let value: f64 = value.strip_prefix(' ').expect("a space").parse().expect("a number");
            assert!(seen.insert((name.to_owned(), labels.clone())), "twice: {line}");
            scrape.samples.push((name.to_owned(), labels, value));
        }
    }
    scrape
}

impl Scrape {
    fn all<'s>(&'s self, name: &'s str, with: &'s [(&'s str, &'s str)]) -> impl Iterator<Item = &'s Sample> {
        self.samples.iter().filter(move |(n, labels, _)| {
            n == name && with.iter().all(|(label, value)| labels.get(*label).is_some_and(|v| v == value))
        })
    }

    fn sum(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        self.all(name, with).map(|(_, _, value)| value).sum()
    }

    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let counts = format!("{name}_count");
            let (buckets, sums) = (format!("{name}_bucket"), format!("{name}_sum"));
            assert!(self.all(&counts, &[]).count() > 0, "{name} has no series");
            for (_, labels, count) in self.all(&counts, &[]) {
                let with: Vec<_> = labels.iter().map(|(l, v)| (l.as_str(), v.as_str())).collect();
                let mut last = (f64::NEG_INFINITY, 0.0);
                for (_, labels, value) in self.all(&buckets, &with) {
                    let bound: f64 = labels["le"].parse().expect("a bound");
                    assert!(bound > last.0 && *value >= last.1, "{name} {labels:?}");
                    last = (bound, *value);
                }
                assert_eq!(last, (f64::INFINITY, *count), "{name} {labels:?}");
                assert_eq!(self.all(&sums, &with).count(), 1);
            }
        }
    }
}

#[tokio::test]
async fn text_is_valid_and_counts_the_traffic() {
    let proxy = TestProxy::start().await;
    for _ in 0..5 {
        proxy.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    }
    proxy.send("POST /503 HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    proxy.send("GET /503 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    proxy.send("nonsense\r\n\r\n").await;
    proxy
        .poll_until("/v1/pools/default/destinations/a", |d| d["counts"]["checksPassed"].as_u64() > Some(0))
        .await;
    let response = proxy.get("/metrics").await;
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let scrape = parse(&response.body);
    scrape.check_histograms();
    let is = |name: &str, with: &[(&str, &str)], expected: f64| {
        assert_eq!(scrape.sum(name, with), expected, "{name} {with:?}\n{}", response.body);
    };
    let route = [("listener", "web"), ("route", "default"), ("pool", "default"), ("protocol", "http")];
    is("plimsoll_requests_total", &route, 7.0);
    is("plimsoll_requests_total", &[("code", "2xx"), ("method", "GET")], 5.0);
    is("plimsoll_requests_total", &[("code", "5xx"), ("method", "GET")], 1.0);
    is("plimsoll_request_duration_seconds_count", &[("code", "5xx")], 1.0);
    is("plimsoll_requests_in_flight", &[], 0.0);
    is("plimsoll_connections_total", &[("listener", "web"), ("protocol", "http")], 8.0);
    is("plimsoll_connections_rejected_total", &[("reason", "connection_limit")], 0.0);
    is("plimsoll_refused_total", &[("reason", "bad_request")], 1.0);
    is("plimsoll_destination_requests_total", &[("pool", "default")], 7.0);
    is("plimsoll_destination_requests_total", &[("destination", "b\"\\/é")], 3.0);
    is("plimsoll_destination_response_seconds_count", &[], 7.0);
    is("plimsoll_destination_status", &[("status", "serving")], 2.0);
    is("plimsoll_destination_status", &[], 2.0);
    is("plimsoll_pool_destinations", &[("status", "serving")], 2.0);
    is("plimsoll_destination_weight", &[], 2.0);
    is("plimsoll_decisions_total", &[("algorithm", "round_robin"), ("result", "assigned")], 7.0);
    is("plimsoll_retries_total", &[], 0.0);
    is("plimsoll_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    is("plimsoll_config_last_reload_successful", &[], 1.0);
    assert!(scrape.sum("plimsoll_health_checks_total", &[("type", "tcp"), ("result", "passed")]) > 0.0);
    for name in [
        "cpu_seconds_total",
        "resident_memory_bytes",
        "virtual_memory_bytes",
        "open_fds",
        "max_fds",
        "start_time_seconds",
        "threads",
    ] {
        assert_eq!(scrape.all(&format!("process_{name}"), &[]).count(), 1, "process_{name}");
    }
}

#[tokio::test]
async fn page_lists_exactly_the_existing_metrics() {
    let page = include_str!("../../../docs/metrics.md");
    let cells = page.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let listed: HashSet<&str> =
        cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim().trim_matches('`')).collect();
    let proxy = TestProxy::start().await;
    proxy.send("nonsense\r\n\r\n").await;
    for name in parse(&proxy.get("/metrics").await.body).kinds.keys() {
        assert!(listed.contains(&**name), "docs/metrics.md does not list {name}");
    }
    let source = [
        include_str!("../src/metrics/limits.rs"),
        include_str!("../src/metrics/mod.rs"),
        include_str!("../src/metrics/pools.rs"),
        include_str!("../src/metrics/process.rs"),
        include_str!("../src/metrics/traffic.rs"),
    ];
    for name in listed {
        let quoted = format!("\"{name}\"");
        assert!(source.iter().any(|text| text.contains(&quoted)), "unknown metric {name}");
    }
}

#[tokio::test]
async fn unknown_methods_share_one_label() {
    let proxy = TestProxy::start().await;
    for method in ["BREW", "WHEN", "A", "PROPFIND"] {
        proxy.send(&format!("{method} / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")).await;
    }
    let scrape = parse(&proxy.get("/metrics?metrics=plimsoll_requests_total").await.body);
    assert_eq!(scrape.kinds.len(), 1);
    assert_eq!(scrape.sum("plimsoll_requests_total", &[("method", "other")]), 4.0);
    assert_eq!(scrape.samples.len(), 6, "GET by each code, and other by one");
}

#[tokio::test]
async fn limits_are_reported_where_configured() {
    let proxy = TestProxy::start().await;
    let scrape = parse(&proxy.get("/metrics").await.body);
    assert_eq!(scrape.sum("plimsoll_limit_max", &[("pool", "default"), ("reason", "requests")]), 100.0);
    assert_eq!(scrape.sum("plimsoll_destination_limit", &[("reason", "requests")]), 100.0, "50 each");
    for reason in ["requests", "pending", "destinations"] {
        let labels = [("pool", "default"), ("reason", reason)];
        assert_eq!(scrape.all("plimsoll_limit_reached", &labels).count(), 1, "{reason}");
        assert_eq!(scrape.sum("plimsoll_limit_reached", &labels), 0.0, "{reason}");
    }
    assert_eq!(scrape.all("plimsoll_limit_reached", &[("reason", "retries")]).count(), 0, "no limit");
}
