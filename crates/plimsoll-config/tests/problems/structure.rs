//! Invalid YAML, and files without the structure of a configuration.

use crate::{
    check, check_destinations, check_listener, check_policy, check_route, check_short, help_short, load_text,
};

#[test]
fn invalid_yaml_is_rejected() {
    check("listen: ▸\"x", &["yaml-syntax"]);
    check("a:\n\t▸- b", &["yaml-syntax"]);
    check("a: [b\nc▸: d", &["yaml-syntax"]);
    check("a: b▸: c", &["yaml-syntax"]);
    check("a: ▸*b", &["yaml-syntax"]);
}

#[test]
fn unsupported_yaml_is_rejected() {
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
fn an_alias_is_a_copy_of_its_value() {
    check_short("load_balancer: {performance: {timeout: &t 5s}, health_monitoring: {timeout: *t}}", &[]);
}

#[test]
fn empty_files_are_rejected() {
    check("▸", &["missing-key"]);
    check("▸# nothing\n", &["missing-key"]);
    check("▸workers: 2", &["missing-key"]);
    check("▸[a, b]", &["wrong-type"]);
    check("▸just words", &["wrong-type"]);
}

#[test]
fn repeated_keys_are_rejected() {
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
fn a_boolean_and_a_block_may_share_a_key() {
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
    assert_eq!(help_short("colour: red").split(',').next(), Some("expected one of listen"));
}

#[test]
fn missing_keys_are_reported() {
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
fn wrong_types_are_rejected() {
    check_short("▸workers: [2]", &["wrong-type workers"]);
    check_short("▸workers:", &["wrong-type workers"]);
    check_short("workers: ▸2.5", &["wrong-type workers"]);
    check_short("shutdown: ▸30s", &["wrong-type shutdown"]);
    check_short("▸shutdown:\n", &["wrong-type shutdown"]);
    check_short("admin: ▸9900", &["wrong-type admin"]);
    check_short("access_log: ▸stdout", &["wrong-type access_log"]);
    check_short("decision_log: ▸stdout", &["wrong-type decision_log"]);
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
