//! Every class of bad input, with the code, place and path it is told by.
//!
//! `▸` in an input marks where a problem is expected; the problems are named in the same order.

use std::path::Path;

use plimsoll_config::{Loaded, Severity, load};

fn load_text(text: &str) -> Loaded {
    let env = |name: &str| match name {
        "SECRET" => Some("hunter2".to_owned()),
        "NUMBER" => Some("70000".to_owned()),
        _ => None,
    };
    load(text, "test.yaml", Path::new("/etc/plimsoll"), &env)
}

/// The text without its marks, and their lines and columns.
fn unmark(marked: &str) -> (String, Vec<(usize, usize)>) {
    let (mut text, mut places) = (String::new(), Vec::new());
    let (mut line, mut column) = (1, 1);
    for c in marked.chars() {
        match c {
            '▸' => places.push((line, column)),
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        if c != '▸' {
            text.push(c);
        }
    }
    (text, places)
}

/// `expected` are codes and paths: "unknown-key load_balancer.algoritm".
fn check(marked: &str, expected: &[&str]) {
    let (text, places) = unmark(marked);
    let loaded = load_text(&text);
    let errors = loaded.problems.iter().any(|p| p.severity == Severity::Error);
    assert_eq!(loaded.config.is_none(), errors, "a configuration with errors, or none without: {text}");
    let told: Vec<_> = loaded
        .problems
        .iter()
        .map(|p| (p.at.line, p.at.column, format!("{} {}", p.code, p.path).trim_end().to_owned()))
        .collect();
    assert_eq!(places.len(), expected.len(), "as many marks as problems: {marked}\ntold: {told:#?}");
    let expected: Vec<_> = places
        .into_iter()
        .zip(expected)
        .map(|((line, column), what)| (line, column, (*what).to_owned()))
        .collect();
    assert_eq!(told, expected, "\n{text}");
}

/// The short form with lines added.
fn check_short(lines: &str, expected: &[&str]) {
    check(&format!("listen: \":80\"\ndestinations: [\"a:1\", \"b:1\"]\n{lines}"), expected);
}

/// The short form with a `load_balancer`; paths are within it.
fn check_policy(block: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " load_balancer.", 1)).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check_short(&format!("load_balancer:\n{block}"), &expected);
}

/// A listener with more keys; paths are within it.
fn check_listener(keys: &str, expected: &[&str]) {
    let text = format!(
        "listeners: [{{name: web, address: \":80\", pool: api, {keys}}}]\npools: {{api: {{destinations: [\"a:1\"]}}}}"
    );
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " listeners[0].", 1)).collect();
    check(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A listener with one route; paths are within the list of routes.
fn check_route(keys: &str, expected: &[&str]) {
    let text = format!(
        "listeners: [{{name: web, address: \":80\", routes: [{keys}]}}]\npools: {{api: {{destinations: [\"a:1\"]}}}}"
    );
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " listeners[0].routes", 1)).collect();
    check(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The short form with these destinations; paths are within the list.
fn check_destinations(destinations: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " destinations", 1)).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check(&format!("listen: \":80\"\ndestinations: [{destinations}]"), &expected);
}

fn help(text: &str) -> String {
    load_text(text).problems[0].help.clone().unwrap_or_default()
}

fn help_short(lines: &str) -> String {
    help(&format!("listen: \":80\"\ndestinations: [\"a:1\"]\n{lines}"))
}

#[test]
fn a_good_file_has_no_problems() {
    check_short("", &[]);
    check_policy("  algorithm: p2c", &[]);
    check_listener("via: true", &[]);
    check_route("{pool: api}", &[]);
    check_destinations("{address: \"a:1\", weight: 0}, \"b:2\"", &[]);
}

#[test]
fn what_is_no_yaml() {
    check("listen: ▸\"x", &["yaml-syntax"]);
    check("a:\n\t▸- b", &["yaml-syntax"]);
    check("a: [b\nc▸: d", &["yaml-syntax"]);
    check("a: b▸: c", &["yaml-syntax"]);
    check("a: ▸*b", &["yaml-syntax"]);
}

#[test]
fn yaml_that_means_nothing_here() {
    check("a: b\n▸---\nc: d", &["unsupported-yaml"]);
    check("a: !secret ▸b", &["unsupported-yaml"]);
    check("a: !!set ▸{b}", &["unsupported-yaml"]);
    check("▸{{a}}: b", &["unsupported-yaml"]);
    check("a: {▸{b}}", &["unsupported-yaml"]);
    check("? ▸[a]\n: b", &["unsupported-yaml"]);
    check("▸~: b", &["unsupported-yaml"]);
    check("a: &x [▸*x]", &["unsupported-yaml"]);
    check_short("▸<<: {}", &["unknown-key <<"]);
    check_short("workers: !!int \"3\"", &[]);
    check_destinations("&a {address: !!str \"a:1\"}, ▸\"a:1\"", &["duplicate-name [1]"]);
}

#[test]
fn an_alias_is_what_it_names() {
    check_short("load_balancer: {performance: {timeout: &t 5s}, health_monitoring: {timeout: *t}}", &[]);
}

#[test]
fn files_without_content() {
    check("▸", &["missing-key"]);
    check("▸# nothing\n", &["missing-key"]);
    check("▸workers: 2", &["missing-key"]);
    check("▸[a, b]", &["wrong-type"]);
    check("▸just words", &["wrong-type"]);
}

#[test]
fn keys_given_twice() {
    check_short("workers: 1\n▸workers: 1", &["duplicate-key workers"]);
    check_policy("  failover: true\n  ▸failover: false", &["duplicate-key failover"]);
    check_destinations("{address: \"a:1\", labels: {x: a, ▸x: b}}", &["duplicate-key [0].labels.x"]);
    check(
        "listeners: [{name: a, address: \":80\", pool: p}]\npools:\n  p: {destinations: [\"a:1\"]}\n  \
         ▸p: {destinations: [\"a:1\"]}",
        &["duplicate-key pools.p"],
    );
    let both = &load_text("listen: \":80\"\nlisten: \":81\"\ndestinations: [\"a:1\"]").problems[0];
    assert_eq!(both.message, "the key `listen` is given twice; first on line 1");
    assert_eq!((both.at.line, both.related[0].at.line), (2, 1));
}

#[test]
fn the_pair_of_switch_and_block() {
    check_policy("  dynamic_adjustment: {}\n  dynamic_adjustment: false", &[]);
    check_policy(
        "  ▸dynamic_adjustment: {}\n  dynamic_adjustment: true",
        &["not-active-yet dynamic_adjustment"],
    );
    check_policy("  dynamic_adjustment: {enabled: false}", &[]);
    check_policy("  ▸dynamic_adjustment: {}", &["not-active-yet dynamic_adjustment"]);
    check_policy(
        "  dynamic_adjustment: false\n  ▸dynamic_adjustment: false",
        &["duplicate-key dynamic_adjustment"],
    );
    check_policy(
        "  performance_monitoring: {enabled: false}\n  ▸performance_monitoring: {enabled: false}",
        &["duplicate-key performance_monitoring"],
    );
    check_policy(
        "  performance_monitoring: false\n  ▸performance_monitoring: {enabled: false}",
        &["conflict performance_monitoring"],
    );
    check_policy(
        "  dynamic_adjustment: {}\n  dynamic_adjustment: false\n  ▸dynamic_adjustment: {}",
        &["duplicate-key dynamic_adjustment"],
    );
    check_policy("  dynamic_adjustment: ▸maybe", &["wrong-type dynamic_adjustment"]);
    check_policy("  quality: {}\n  ▸quality: true", &["duplicate-key quality"]);
}

#[test]
fn unknown_keys_are_all_told_with_a_suggestion() {
    check_short(
        "▸worker: 1\nload_balancer: {▸algoritm: p2c, retry: {▸atempts: 2}}\n▸timeouts: {}",
        &[
            "unknown-key worker",
            "unknown-key load_balancer.algoritm",
            "unknown-key load_balancer.retry.atempts",
            "unknown-key timeouts",
        ],
    );
    assert_eq!(help_short("worker: 1"), "did you mean `workers`?");
    assert_eq!(help_short("servers: []"), "did you mean `destinations`?");
    assert_eq!(help_short("backends: []"), "did you mean `pools`?");
    assert_eq!(help_short("timeouts: {}"), "`timeouts` belongs in `listeners[]` or in `pools.*`");
    assert_eq!(help_short("algorithm: p2c"), "`algorithm` belongs in `load_balancer`");
    assert_eq!(help_short("colour: red").split(',').next(), Some("keys here are listen"));
}

#[test]
fn keys_that_are_missing() {
    check("▸listen: \":80\"", &["missing-key destinations"]);
    check("▸destinations: [\"a:1\"]", &["missing-key listen"]);
    check(
        "▸listeners: [{name: a, address: \":80\", pool: ▸p}]",
        &["missing-key pools", "unknown-pool listeners[0].pool"],
    );
    check("▸pools: {p: {destinations: [\"a:1\"]}}", &["missing-key listeners"]);
    check(
        "pools: {▸p: {}}\nlisteners: [▸▸▸{}]",
        &[
            "missing-key pools.p.destinations",
            "missing-key listeners[0].name",
            "missing-key listeners[0].address",
            "missing-key listeners[0].pool",
        ],
    );
    check_route("▸{match: {host: a}}", &["missing-key [0].pool"]);
    check_destinations("▸{weight: 1}", &["missing-key [0].address"]);
}

#[test]
fn wrong_types() {
    check_short("▸workers: [2]", &["wrong-type workers"]);
    check_short("▸workers:", &["wrong-type workers"]);
    check_short("workers: ▸2.5", &["wrong-type workers"]);
    check_short("shutdown: ▸30s", &["wrong-type shutdown"]);
    check_short("▸shutdown:\n", &["wrong-type shutdown"]);
    check_short("admin: ▸9900", &["wrong-type admin"]);
    check_short("access_log: ▸stdout", &["wrong-type access_log"]);
    check_policy("  failover: ▸yes", &["wrong-type failover"]);
    check_policy("  failover: ▸\"true\"", &["wrong-type failover"]);
    check_policy("  ▸health_checking: {}", &["wrong-type health_checking"]);
    check_policy("  algorithm: ▸2", &["wrong-type algorithm"]);
    check_policy("  retry: {when: ▸reset}", &["wrong-type retry.when"]);
    check_destinations("{address: \"a:1\", weight: ▸\"3\"}", &["wrong-type [0].weight"]);
    check_destinations("{address: \"a:1\", labels: {version: ▸2}}", &["wrong-type [0].labels.version"]);
    check("listen: \":80\"\ndestinations: ▸\"a:1\"", &["wrong-type destinations"]);
    check_listener("▸routes: {}", &["wrong-type routes"]);
    check_listener("request_headers: {remove: ▸x}", &["wrong-type request_headers.remove"]);
    assert_eq!(help_short("load_balancer: {failover: off}"), "write false, without quotes");
    assert_eq!(help_short("workers: \"2\""), "write 2, without quotes");
}

#[test]
fn wrong_units() {
    check_short("shutdown: {grace: ▸30}", &["bad-unit shutdown.grace"]);
    check_short("shutdown: {grace: ▸\"30\"}", &["bad-unit shutdown.grace"]);
    check_short("shutdown: {grace: ▸30 seconds}", &["bad-unit shutdown.grace"]);
    check_policy("  outlier_detection: {max_ejected: ▸5 %}", &["bad-unit outlier_detection.max_ejected"]);
    check_policy("  retry: {budget: ▸120%}", &["bad-unit retry.budget"]);
    check_policy(
        "  performance_monitoring: {enabled: false, thresholds: {throughput: ▸1000}}",
        &["bad-unit performance_monitoring.thresholds.throughput"],
    );
    check_listener("limits: {header_bytes: ▸65536}", &["bad-unit limits.header_bytes"]);
    check_listener("limits: {body_bytes: ▸10M}", &["bad-unit limits.body_bytes"]);
    check_listener("limits: {body_bytes: 0}", &[]);
    assert_eq!(help_short("shutdown: {grace: 30}"), "write \"30s\" for seconds or \"30ms\" for milliseconds");
    assert_eq!(help_short("load_balancer: {retry: {budget: 20}}"), "write \"20%\"");
}

#[test]
fn numbers_out_of_range() {
    check_short("workers: ▸0", &["out-of-range workers"]);
    check_short("workers: ▸1025", &["out-of-range workers"]);
    check_policy(
        "  health_monitoring: {failure_threshold: ▸0}",
        &["out-of-range health_monitoring.failure_threshold"],
    );
    check_policy("  health_monitoring: {timeout: ▸0s}", &["out-of-range health_monitoring.timeout"]);
    check_policy("  health_monitoring: {port: ▸0}", &["out-of-range health_monitoring.port"]);
    check_policy("  retry: {attempts: ▸0}", &["out-of-range retry.attempts"]);
    check_policy("  retry: {attempts: ▸11}", &["out-of-range retry.attempts"]);
    check_policy("  retry: {budget: ▸20}", &["out-of-range retry.budget"]);
    check_destinations("{address: \"a:1\", weight: ▸65536}", &["out-of-range [0].weight"]);
    check_destinations("{address: \"a:1\", weight: ▸-1}", &["out-of-range [0].weight"]);
    check_destinations("{address: \"a:1\", priority: ▸256}", &["out-of-range [0].priority"]);
    check_listener("limits: {connections: ▸0}", &["out-of-range limits.connections"]);
    check_listener("limits: {header_bytes: ▸1B}", &["out-of-range limits.header_bytes"]);
    check_listener("timeouts: {idle: ▸25h}", &["out-of-range timeouts.idle"]);
}

#[test]
fn bad_addresses() {
    check("listen: ▸8080\ndestinations: [▸9001]", &["bad-address listen", "bad-address destinations[0]"]);
    check(
        "listen: ▸example.com:80\ndestinations: [▸\"http://a\"]",
        &["bad-address listen", "bad-address destinations[0]"],
    );
    check_destinations("▸\"10.0.0.1\"", &["bad-address [0]"]);
    check_destinations("{address: ▸\"0.0.0.0:80\"}", &["bad-address [0].address"]);
    check_short("admin: {address: ▸\"0.0.0.0:9900\"}", &["bad-address admin.address"]);
    check_short("admin: {address: ▸\"unix:/x\"}", &["bad-address admin.address"]);
    check_listener(
        "trusted_proxies: [▸x, ▸\"10.0.0.1/8\"]",
        &["bad-address trusted_proxies[0]", "bad-address trusted_proxies[1]"],
    );
    check("▸listen: []\n▸destinations: []", &["bad-value listen", "bad-value destinations"]);
    assert_eq!(help("listen: 8080\ndestinations: [\"a:1\"]"), "write \":8080\"");
    assert_eq!(help("listen: \":80\"\ndestinations: [\"http://a:1/\"]"), "write \"a:1\"");
}

#[test]
fn names_and_addresses_given_twice() {
    check_destinations("\"a:1\", ▸\"a:1\"", &["duplicate-name [1]"]);
    check_destinations("{id: x, address: \"a:1\"}, {id: ▸x, address: \"b:1\"}", &["duplicate-name [1].id"]);
    check_destinations("{id: \"b:1\", address: \"a:1\"}, ▸\"b:1\"", &["duplicate-name [1]"]);
    check_destinations("{id: x, address: \"a:1\"}, {id: y, address: \"a:1\"}", &[]);
    let listeners = |a: &str, b: &str, expected: &[&str]| {
        let pools = "pools: {p: {destinations: [\"a:1\"]}}";
        check(&format!("{pools}\nlisteners:\n- {{{a}, pool: p}}\n- {{{b}, pool: p}}"), expected);
    };
    listeners(
        "name: a, address: \":80\"",
        "name: ▸a, address: \":81\"",
        &["duplicate-name listeners[1].name"],
    );
    listeners(
        "name: a, address: \":80\"",
        "name: b, address: ▸\"0.0.0.0:80\"",
        &["address-conflict listeners[1].address"],
    );
    listeners(
        "name: a, address: [\"unix:x\"]",
        "name: b, address: [\":81\", ▸\"unix:/etc/plimsoll/x\"]",
        &["address-conflict listeners[1].address[1]"],
    );
    listeners("name: a, address: \":0\"", "name: b, address: \":0\"", &[]);
    check(
        "listen: \"127.0.0.1:80\"\ndestinations: [\"a:1\"]\nadmin: {address: ▸\"127.0.0.1:80\"}",
        &["address-conflict admin.address"],
    );
    check_route(
        "{name: r, pool: api, match: {host: a}}, {name: ▸r, pool: api}",
        &["duplicate-name [1].name"],
    );
}

#[test]
fn what_nothing_leads_to() {
    check(
        "listeners: [{name: a, address: \":80\", pool: ▸apl}]\npools: {api: {destinations: [\"a:1\"]}}",
        &["unknown-pool listeners[0].pool"],
    );
    check(
        "listeners: [{name: a, address: \":80\", pool: a}]\npools: {a: {destinations: [\"a:1\"]}, ▸b: {destinations: \
         [\"a:1\"]}}",
        &["unused-pool pools.b"],
    );
    assert_eq!(
        help("listeners: [{name: a, address: \":80\", pool: apl}]\npools: {api: {destinations: [\"a:1\"]}}"),
        "did you mean `api`?"
    );
    check_route("{pool: api}, ▸{pool: api, match: {host: a}}", &["unreachable [1]"]);
    check("listen: \":80\"\n▸destinations: [{address: \"a:1\", weight: 0}]", &["unreachable destinations"]);
}

#[test]
fn names_that_are_none() {
    check(
        "listeners: [{name: ▸\"x y\", address: \":80\", pool: a/b}]\npools: {▸a/b: {destinations: [\"a:1\"]}}",
        &["bad-value listeners[0].name", "bad-value pools.\"a/b\""],
    );
    check_destinations("{id: ▸\"a b\", address: \"a:1\"}", &["bad-value [0].id"]);
    check_destinations("{id: ▸\"\", address: \"a:1\"}", &["bad-value [0].id"]);
    check_destinations("{address: \"a:1\", labels: {▸\"x y\": z}}", &["bad-value [0].labels.\"x y\""]);
}

#[test]
fn combinations_that_cannot_be() {
    check(
        "▸listen: \":80\"\n▸destinations: [\"a:1\"]\nlisteners: [{name: a, address: \":81\", pool: p}]\npools: \
         {p: {destinations: [▸x]}}",
        &["conflict listen", "conflict destinations", "bad-address pools.p.destinations[0]"],
    );
    check_listener("protocol: tcp, ▸routes: []", &["conflict routes"]);
    check_listener(
        "protocol: tcp, ▸via: true, ▸request_headers: {}, timeouts: {▸header: 1s, idle: 1s}, limits: {▸headers: 1}",
        &["conflict via", "conflict request_headers", "conflict timeouts.header", "conflict limits.headers"],
    );
    check_listener("limits: {header_bytes: 4KiB, uri_bytes: ▸8KiB}", &["conflict limits.uri_bytes"]);
    check_listener("limits: {header_bytes: 4KiB}", &[]);
    check_listener("request_headers: {set: {a: b}, remove: [▸A]}", &["conflict request_headers.remove[0]"]);
    check_policy("  health_monitoring: {protocol: tcp, path: ▸/x}", &["conflict health_monitoring.path"]);
}

#[test]
fn header_lines_that_must_not_be() {
    check_listener("request_headers: {set: {▸\"a b\": x}}", &["bad-header request_headers.set.\"a b\""]);
    for value in ["x\\r\\ny: z", "x\\0", " x", "x\\e[31m"] {
        check_listener(
            &format!("request_headers: {{set: {{a: ▸\"{value}\"}}}}"),
            &["bad-header request_headers.set.a"],
        );
    }
    for name in
        ["Connection", "content-length", "transfer-encoding", "te", "upgrade", "keep-alive", "trailer"]
    {
        let expected = format!("bad-header response_headers.set.{name}");
        check_listener(&format!("response_headers: {{set: {{▸{name}: x}}}}"), &[expected.as_str()]);
        check_listener(
            &format!("request_headers: {{remove: [▸{name}]}}"),
            &["bad-header request_headers.remove[0]"],
        );
    }
    check_listener("request_headers: {remove: [▸host]}", &["bad-header request_headers.remove[0]"]);
    check_listener("request_headers: {add: {▸host: x}}", &["bad-header request_headers.add.host"]);
    check_listener("request_headers: {set: {host: x, X-A: \"\"}}", &[]);
    check_listener("request_headers: {set: {X-A: a, ▸x-a: b}}", &["duplicate-name request_headers.set.x-a"]);
}

#[test]
fn values_that_are_not_of_their_kind() {
    check_short("workers: ▸many", &["bad-value workers"]);
    check_short("access_log: {path: ▸\"\"}", &["bad-value access_log.path"]);
    check_policy("  algorithm: ▸round-robin", &["bad-value algorithm"]);
    check_policy(
        "  retry: {when: [▸rest, ▸\"status:200\", ▸\"status:+503\"]}",
        &["bad-value retry.when[0]", "bad-value retry.when[1]", "bad-value retry.when[2]"],
    );
    check_policy(
        "  health_monitoring: {path: ▸healthz, method: ▸get, expect_status: ▸2xx, host: ▸\"a b\"}",
        &[
            "bad-value health_monitoring.path",
            "bad-value health_monitoring.method",
            "bad-value health_monitoring.expect_status",
            "bad-value health_monitoring.host",
        ],
    );
    for statuses in ["399-200", "99", "600", "200,", "+200", "a-b"] {
        check_policy(
            &format!("  health_monitoring: {{expect_status: ▸\"{statuses}\"}}"),
            &["bad-value health_monitoring.expect_status"],
        );
    }
    check_policy(
        "  performance_monitoring: {enabled: false, metrics: [▸latency]}",
        &["bad-value performance_monitoring.metrics[0]"],
    );
    check_route("{pool: api, match: {host: ▸\"*\"}}", &["bad-value [0].match.host"]);
    check_route("{pool: api, match: {path_prefix: ▸v1}}", &["bad-value [0].match.path_prefix"]);
    check_route("{pool: api, match: {path_prefix: ▸\"/a?b\"}}", &["bad-value [0].match.path_prefix"]);
    check_route("{pool: api, match: {▸method: []}}", &["bad-value [0].match.method"]);
    check_route("{pool: api, match: {method: ▸G T}}", &["bad-value [0].match.method"]);
    check_route("{pool: api, match: {headers: {▸\"a b\": c}}}", &["bad-header [0].match.headers.\"a b\""]);
    assert_eq!(help_short("load_balancer: {algorithm: round-robin}"), "did you mean `round_robin`?");
}

#[test]
fn what_comes_later_is_refused_in_words() {
    check_short(
        "▸kafka: {}\n▸state: {}\nadmin: {▸tokens: []}",
        &["not-available-yet kafka", "not-available-yet state", "not-available-yet admin.tokens"],
    );
    for algorithm in
        ["response_time", "peak_ewma", "health_based", "source_hash", "hash", "prequal", "custom"]
    {
        check_policy(&format!("  algorithm: ▸{algorithm}"), &["not-available-yet algorithm"]);
    }
    for key in ["session_affinity", "hedge", "slow_start", "panic_threshold", "hash", "custom"] {
        check_policy(&format!("  ▸{key}: x"), &[format!("not-available-yet {key}").as_str()]);
    }
    check_policy(
        "  outlier_detection: {▸interval: 10s}\n  retry: {when: [▸\"grpc:UNAVAILABLE\"]}",
        &["not-available-yet outlier_detection.interval", "not-available-yet retry.when[0]"],
    );
    for key in ["http3", "tls", "udp"] {
        check_listener(&format!("▸{key}: true"), &[format!("not-available-yet {key}").as_str()]);
    }
    for protocol in ["https", "tls", "udp", "mqtt", "auto"] {
        check_listener(&format!("protocol: ▸{protocol}"), &["not-available-yet protocol"]);
    }
    check_listener("proxy_protocol: ▸accept", &["not-available-yet proxy_protocol"]);
    for key in ["redirect", "deny", "rate_limit", "timeout", "pools"] {
        check_route(&format!("{{▸{key}: x}}"), &[format!("not-available-yet [0].{key}").as_str()]);
    }
    check_route(
        "{pool: api, match: {▸source: [], ▸sni: x}}",
        &["not-available-yet [0].match.source", "not-available-yet [0].match.sni"],
    );
    for keys in ["▸tls: {}", "protocol: ▸http2", "protocol: ▸auto", "proxy_protocol: ▸v2"] {
        let key = keys.replace('▸', "").split(':').next().unwrap().to_owned();
        check(
            &format!(
                "listeners: [{{name: a, address: \":80\", pool: p}}]\npools: {{p: {{destinations: [\"a:1\"], {keys}}}}}"
            ),
            &[format!("not-available-yet pools.p.{key}").as_str()],
        );
    }
    let told = load_text("listen: \":80\"\ndestinations: [\"a:1\"]\nkafka: {}");
    assert_eq!(told.problems[0].message, "`kafka` is not available in this version yet");
}

#[test]
fn keys_of_the_seed_that_do_nothing_yet_are_warned_of_when_they_are_on() {
    let policy = |on: &str| {
        "  health_monitoring: {▸alerting: ON, ▸recovery_management: ON}\n  performance: {▸caching: ON, ▸optimization: \
         ON}\n  quality: {▸quality_metrics: ON, ▸learning: ON}\n  ▸dynamic_adjustment: ON\n  \
         ▸performance_monitoring: ON"
            .replace("ON", on)
    };
    check_policy(&policy("false").replace('▸', ""), &[]);
    check_policy(
        &policy("true"),
        &[
            "not-active-yet health_monitoring.alerting",
            "not-active-yet health_monitoring.recovery_management",
            "not-active-yet performance.caching",
            "not-active-yet performance.optimization",
            "not-active-yet quality.quality_metrics",
            "not-active-yet quality.learning",
            "not-active-yet dynamic_adjustment",
            "not-active-yet performance_monitoring",
        ],
    );
}

#[test]
fn variables_that_cannot_be_resolved() {
    check(
        "listen: ▸\"${NOPE}\"\ndestinations: [▸\"${NOPE}:80\"]",
        &["bad-variable listen", "bad-variable destinations[0]"],
    );
    check_short("workers: ▸${NOPE}", &["bad-variable workers"]);
    check_short("workers: ${NOPE:-3}", &[]);
    check_short("access_log: {path: ▸\"${file:/no/such/file}\"}", &["bad-variable access_log.path"]);
    check_short(
        "admin: ▸${NOPE}\nshutdown: ▸${NOPE}\nload_balancer: ▸${NOPE}",
        &["bad-variable admin", "bad-variable shutdown", "bad-variable load_balancer"],
    );
}

#[test]
fn the_value_of_a_variable_is_never_told() {
    let text = "listen: \"${SECRET}\"\ndestinations: [\"${SECRET}\", \"${SECRET}\"]\nworkers: ${NUMBER}\n\
                shutdown: {grace: \"${SECRET}\"}\naccess_log: \"${SECRET}\"\nadmin: {address: \"${SECRET}\"}\n\
                load_balancer: {algorithm: \"${SECRET}\", failover: \"${SECRET}\", retry: {when: [\"${SECRET}\"], \
                budget: \"${NUMBER}\"}, health_monitoring: {path: \"${SECRET}\", check_interval: \"${NUMBER}\", \
                port: \"${NUMBER}\", expect_status: \"${SECRET}\"}}";
    let loaded = load_text(text);
    assert!(loaded.problems.len() > 12, "{:?}", loaded.problems);
    let told = plimsoll_config::render_text(&loaded.problems, &loaded.sources)
        + &plimsoll_config::render_json(&loaded.problems);
    assert!(!told.contains("hunter2") && !told.contains("70000"), "{told}");
    assert!(told.contains("`${SECRET}` has no port"), "{told}");
}

#[test]
fn the_text_for_people() {
    let loaded = load_text("listen: \":80\"\ndestinations: [\"a:1\"]\nload_balancer:\n  algoritm: p2c\n");
    let told = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
    let expected = "\
error[unknown-key]: unknown key `algoritm`
 --> test.yaml:4:3
  |
4 |   algoritm: p2c
  |   ^^^^^^^^
  |
  = path: load_balancer.algoritm
  = help: did you mean `algorithm`?

";
    assert_eq!(told, expected);
}

#[test]
fn the_text_for_programs() {
    let loaded = load_text("listen: \":80\"\ndestinations: [\"a:1\"]\nworkers: 1\nworkers: 2\n");
    let expected = r#"[
  {
    "severity": "error",
    "code": "duplicate-key",
    "file": "test.yaml",
    "line": 4,
    "column": 1,
    "path": "workers",
    "message": "the key `workers` is given twice; first on line 3",
    "help": "keep one of them",
    "related": [
      {
        "message": "first given here",
        "file": "test.yaml",
        "line": 3,
        "column": 1
      }
    ]
  }
]"#;
    assert_eq!(plimsoll_config::render_json(&loaded.problems), expected);
    assert_eq!(plimsoll_config::render_json(&[]), "[]");
}
