//! Defaults in config.schema.json, compared with the configuration that results when a key is absent.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;

use plimsoll_config::{Config, load, render_text};
use serde_json::{Value as Json, json};

/// A file with `@` where the keys of a block go.
///
/// `block` is the path of the block in the schema, `keys` limits the file to some of its keys.
struct Context {
    block: &'static str,
    keys: &'static [&'static str],
    file: &'static str,
}

const fn context(block: &'static str, keys: &'static [&'static str], file: &'static str) -> Context {
    Context { block, keys, file }
}

const SHORT: &str = "{listen: ':80', destinations: ['a:1', 'b:1'], @}";
const LISTENER: &str =
    "{listeners: [{name: l, address: ':80', pool: p, @}], pools: {p: {destinations: ['a:1']}}}";
const POOL: &str =
    "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], @}}}";
const TLS_FILES: &str = "certificates: [{cert: /etc/passwd, key: /etc/passwd}]";

/// Files in which each block's keys have an effect. The first that fits a block and a key is used.
const CONTEXTS: &[Context] = &[
    context("", &["zone_aware"], "{zone: z, listen: ':80', destinations: ['a:1'], @}"),
    context("", &[], SHORT),
    context("memory", &[], "{listen: ':80', destinations: ['a:1'], memory: {@}}"),
    context("shutdown", &[], "{listen: ':80', destinations: ['a:1'], shutdown: {@}}"),
    context("admin", &[], "{listen: ':80', destinations: ['a:1'], admin: {@}}"),
    context("access_log", &[], "{listen: ':80', destinations: ['a:1'], access_log: {@}}"),
    context("decision_log", &[], "{listen: ':80', destinations: ['a:1'], decision_log: {@}}"),
    context(
        "listeners[]",
        &["proxy_protocol"],
        "{listeners: [{name: l, address: ':80', pool: p, trusted_proxies: [10.0.0.0/8], @}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context("listeners[]", &[], LISTENER),
    context(
        "listeners[].tls",
        &[],
        "{listeners: [{name: l, address: ':80', protocol: https, pool: p, tls: {TLS, @}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].timeouts",
        &[],
        "{listeners: [{name: l, address: ':80', protocol: https, pool: p, tls: {TLS}, timeouts: {@}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].limits",
        &[],
        "{listeners: [{name: l, address: ':80', protocol: https, pool: p, tls: {TLS}, limits: {@}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].tcp",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p, tcp: {@}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "pools.*.tcp",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], tcp: {@}}}}",
    ),
    context(
        "listeners[].udp",
        &[],
        "{listeners: [{name: l, address: ':80', protocol: udp, pool: p, udp: {@}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].mqtt",
        &[],
        "{listeners: [{name: l, address: ':80', protocol: mqtt, pool: p, mqtt: {@}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].request_headers",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p, request_headers: {@}}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].routes[]",
        &["subset_fallback"],
        "{listeners: [{name: l, address: ':80', routes: [{pool: p, subset: {v: x}, @}]}], pools: {p: {destinations: [{address: 'a:1', labels: {v: x}}]}}}",
    ),
    context(
        "listeners[].routes[]",
        &[],
        "{listeners: [{name: l, address: ':80', routes: [{pool: p, @}]}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "listeners[].routes[].match",
        &[],
        "{listeners: [{name: l, address: ':80', routes: [{pool: p, match: {@}}]}], pools: {p: {destinations: ['a:1']}}}",
    ),
    context(
        "pools.*",
        &["grpc_web"],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], protocol: http2, @}}}",
    ),
    context("pools.*", &[], POOL),
    context(
        "pools.*.tls",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], tls: {@}}}}",
    ),
    context(
        "pools.*.resolve",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], resolve: {@}}}}",
    ),
    context(
        "pools.*.timeouts",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], timeouts: {@}}}}",
    ),
    context(
        "pools.*.limits",
        &["pending", "wait"],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], limits: {requests: 9, @}}}}",
    ),
    context(
        "pools.*.limits",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], limits: {@}}}}",
    ),
    context(
        "pools.*.limits.per_destination",
        &[],
        "{listeners: [{name: l, address: ':80', pool: p}], pools: {p: {destinations: ['a:1'], limits: {per_destination: {@}}}}}",
    ),
    context("destinations[]", &[], "{listen: ':80', destinations: [{address: 'a:1', @}, 'b:1']}"),
    context(
        "load_balancer",
        &["zone_aware"],
        "{zone: z, listen: ':80', destinations: ['a:1'], load_balancer: {@}}",
    ),
    context("load_balancer", &[], "{listen: ':80', destinations: ['a:1'], load_balancer: {@}}"),
    context(
        "load_balancer.hash",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {algorithm: hash, hash: {@}}}",
    ),
    context(
        "load_balancer.load_reports",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {load_reports: {@}}}",
    ),
    context(
        "load_balancer.overload",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {overload: {@}}}",
    ),
    context(
        "load_balancer.zone_aware",
        &[],
        "{zone: z, listen: ':80', destinations: ['a:1'], load_balancer: {zone_aware: {@}}}",
    ),
    context(
        "load_balancer.health_monitoring",
        &["path", "method", "expect_status", "headers"],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {health_monitoring: {protocol: http, @}}}",
    ),
    context(
        "load_balancer.health_monitoring",
        &["service"],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {health_monitoring: {protocol: grpc, @}}}",
    ),
    context(
        "load_balancer.health_monitoring",
        &["send"],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {health_monitoring: {protocol: udp, @}}}",
    ),
    context(
        "load_balancer.health_monitoring",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {health_monitoring: {@}}}",
    ),
    context(
        "load_balancer.outlier_detection",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {outlier_detection: {@}}}",
    ),
    context(
        "load_balancer.retry",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {retry: {@}}}",
    ),
    context(
        "load_balancer.hedge",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {hedge: {@}}}",
    ),
    context(
        "load_balancer.performance",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {performance: {@}}}",
    ),
    context(
        "load_balancer.quality",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {quality: {@}}}",
    ),
    context(
        "load_balancer.dynamic_adjustment",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {dynamic_adjustment: {@}}}",
    ),
    context(
        "load_balancer.performance_monitoring",
        &[],
        "{listen: ':80', destinations: ['a:1'], load_balancer: {performance_monitoring: {@}}}",
    ),
];

/// Keys that change nothing yet, or that cannot have another value in a file without other changes.
const WITHOUT_EFFECT: &[&str] = &[
    "load_balancer.dynamic_adjustment",
    "load_balancer.dynamic_adjustment.enabled",
    "load_balancer.performance_monitoring",
    "load_balancer.performance_monitoring.enabled",
];

fn file_for(block: &str, key: &str) -> String {
    let fits = |c: &&Context| c.block == block && (c.keys.is_empty() || c.keys.contains(&key));
    let context = CONTEXTS.iter().find(fits).unwrap_or_else(|| panic!("no file for the keys of `{block}`"));
    context.file.replace("TLS", TLS_FILES)
}

fn config(file: &str, line: &str) -> Result<Config, String> {
    let text = file.replace(", @", &if line.is_empty() { String::new() } else { format!(", {line}") });
    let text = text.replace('@', line);
    let loaded = load(&text, "test.yaml", Path::new("/"), &|_| None);
    let report = render_text(&loaded.problems, &loaded.sources);
    let mut config = loaded.config.ok_or_else(|| format!("{text}\n{report}"))?;
    // A configured address is the same address; only its failure to bind is handled differently.
    config.admin.iter_mut().for_each(|admin| admin.configured = false);
    Ok(config)
}

/// Another valid value of a key.
fn other_value(block: &str, key: &str, default: &Json) -> Json {
    match (key, default) {
        ("proxy_protocol", _) if block == "pools.*" => json!("v1"),
        ("address", _) => json!("127.0.0.1:9901"),
        ("algorithm", _) => json!("p2c"),
        ("after", _) => json!("p90"),
        ("workers", _) => json!(3),
        ("protocol", Json::String(text)) if text == "http" => json!("tcp"),
        ("protocol", Json::String(text)) if text == "http1" => json!("http2"),
        ("protocol", _) => json!("http"),
        ("proxy_protocol", _) => json!("accept"),
        ("trusted_proxies", _) => json!(["10.0.0.0/8"]),
        ("remove", _) => json!(["x-a"]),
        ("when", _) => json!(["timeout"]),
        ("routes", _) => json!([{"pool": "p"}]),
        ("match", _) => json!({"host": "a.b"}),
        ("set" | "add" | "headers", Json::Object(_)) => json!({"x-a": "b"}),
        ("labels", _) => json!({"a": "b"}),
        ("key", _) => json!("path"),
        ("table", _) => json!("ring"),
        ("bound" | "overprovision", _) => json!("150%"),
        ("flow", _) => json!("datagram"),
        ("start", _) => json!("down"),
        ("keepalive" | "user_timeout", _) => json!("321s"),
        ("min_version", _) => json!("1.3"),
        ("grpc_web", _) => json!("pass"),
        ("subset_fallback", _) => json!("any"),
        ("keys", _) => json!("zone"),
        ("spill_over_at", _) => json!(7),
        ("method", _) => json!("HEAD"),
        ("expect_status", _) => json!("204"),
        ("jitter", _) => json!("7%"),
        ("recover", _) => json!("40%"),
        (_, Json::Bool(on)) => json!(!on),
        (_, Json::Number(number)) => json!(number.as_u64().unwrap() + 1),
        (_, Json::String(text)) if text.ends_with('%') => json!("97%"),
        (_, Json::String(text)) if text.ends_with("B/s") => json!("3KiB/s"),
        (_, Json::String(text)) if text.ends_with('s') => json!("321ms"),
        (_, Json::String(text)) if text.ends_with("KiB") => json!("3KiB"),
        (_, Json::String(text)) if text == "0" => json!("3KiB"),
        _ => json!("/other"),
    }
}

/// Each key of the schema with a default, as the path of its block, its name, its schema and its default.
fn defaults(root: &Json) -> Vec<(String, String, Json)> {
    let mut found = Vec::new();
    walk(root, root, "", &mut Vec::new(), &mut found);
    found
}

fn walk(root: &Json, at: &Json, path: &str, refs: &mut Vec<String>, found: &mut Vec<(String, String, Json)>) {
    if let Some(reference) = at["$ref"].as_str() {
        if !refs.iter().any(|seen| seen == reference) {
            refs.push(reference.to_owned());
            walk(root, root.pointer(reference.trim_start_matches('#')).unwrap(), path, refs, found);
        }
        return;
    }
    for choice in at["anyOf"].as_array().into_iter().flatten() {
        walk(root, choice, path, refs, found);
    }
    if at["items"].is_object() {
        walk(root, &at["items"], &format!("{path}[]"), refs, found);
    }
    if at["additionalProperties"].is_object() {
        walk(root, &at["additionalProperties"], &format!("{path}.*"), refs, found);
    }
    for (key, schema) in at["properties"].as_object().into_iter().flatten() {
        if let Some(default) = schema.get("default") {
            found.push((path.to_owned(), key.clone(), default.clone()));
        }
        let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        walk(root, schema, &inner, refs, found);
    }
}

#[test]
fn defaults_of_the_schema_are_those_of_the_model() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config.schema.json"));
    let root: Json = serde_json::from_str(&text.unwrap()).unwrap();
    let all = defaults(&root);
    assert!(all.len() > 100, "{} defaults", all.len());
    let wrong: Vec<String> =
        all.iter().filter_map(|(block, key, default)| check(block, key, default).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Compares the default with the absent key, and another value with both.
fn check(block: &str, key: &str, default: &Json) -> Result<(), String> {
    let path = if block.is_empty() { key.to_owned() } else { format!("{block}.{key}") };
    let file = file_for(block, key);
    let absent = config(&file, "")?;
    if config(&file, &format!("{key}: {default}"))? != absent {
        return Err(format!("the default of `{path}` is not {default}"));
    }
    if WITHOUT_EFFECT.contains(&path.as_str()) {
        return Ok(());
    }
    let other = other_value(block, key, default);
    match config(&file, &format!("{key}: {other}"))? == absent {
        true => Err(format!("`{path}: {other}` has no effect")),
        false => Ok(()),
    }
}
