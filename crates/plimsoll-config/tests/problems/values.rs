//! Values that are invalid by themselves.

use crate::{
    check, check_destinations, check_listener, check_policy, check_route, check_short, help, help_short,
};

#[test]
fn missing_and_unknown_units_are_rejected() {
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
fn numbers_out_of_range_are_rejected() {
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
    check_listener("timeouts: {min_rate: 0}", &[]);
    check_listener("timeouts: {min_rate: ▸2GiB/s}", &["out-of-range timeouts.min_rate"]);
    check_listener("timeouts: {min_rate: ▸240B}", &["bad-unit timeouts.min_rate"]);
}

#[test]
fn invalid_addresses_are_rejected() {
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
fn invalid_names_are_rejected() {
    check(
        "listeners: [{name: ▸\"x y\", address: \":80\", pool: a/b}]\npools: {▸a/b: {destinations: [\"a:1\"]}}",
        &["bad-value listeners[0].name", "bad-value pools.\"a/b\""],
    );
    check_destinations("{id: ▸\"a b\", address: \"a:1\"}", &["bad-value [0].id"]);
    check_destinations("{id: ▸\"\", address: \"a:1\"}", &["bad-value [0].id"]);
    check_destinations("{address: \"a:1\", labels: {▸\"x y\": z}}", &["bad-value [0].labels.\"x y\""]);
}

#[test]
fn headers_of_framing_and_invalid_headers_are_rejected() {
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
fn invalid_values_are_rejected() {
    check_short("workers: ▸many", &["bad-value workers"]);
    check_short("access_log: {path: ▸\"\"}", &["bad-value access_log.path"]);
    check_short("decision_log: {path: ▸\"\"}", &["bad-value decision_log.path"]);
    check_short("decision_log: {sample: ▸0}", &["out-of-range decision_log.sample"]);
    check_short("decision_log: {sample: ▸\"101%\"}", &["bad-unit decision_log.sample"]);
    check_short("access_log: {path: a}\n▸decision_log: {path: a}", &["conflict decision_log"]);
    check_short("access_log: {path: a}\ndecision_log: {path: b}", &[]);
    check_policy("  algorithm: ▸round-robin", &["bad-value algorithm"]);
    check_policy(
        "  retry: {when: [▸rest, ▸\"status:200\", ▸\"status:+503\"]}",
        &["bad-value retry.when[0]", "bad-value retry.when[1]", "bad-value retry.when[2]"],
    );
    check_policy(
        "  retry: {when: [▸\"grpc:NOT_FOUND\", ▸\"grpc:14\", ▸\"grpc:\", \"grpc:INTERNAL\"]}",
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
