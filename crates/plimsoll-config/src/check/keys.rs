//! Keys of each block: those supported now and those of later versions.
//!
//! The schema describes the supported ones; a test compares both.

/// Keys of one kind of block.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Path of such blocks, with `*` for a name and `[]` for an index.
    pub(crate) at: &'static str,
    /// Keys of this version.
    pub(crate) supported: &'static [&'static str],
    /// Keys of later versions, which are rejected.
    pub(crate) planned: &'static [&'static str],
    /// Keys that may be given twice, once as a boolean and once as a block, as in an example of the specification.
    pub(crate) pairs: &'static [&'static str],
}

impl Keys {
    const fn new(at: &'static str, supported: &'static [&'static str]) -> Self {
        Self { at, supported, planned: &[], pairs: &[] }
    }

    /// Returns whether the key is supported or planned.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.supported.contains(&key) || self.planned.contains(&key)
    }
}

pub(crate) const TOP: Keys = Keys {
    planned: &["kafka", "state"],
    ..Keys::new(
        "",
        &[
            "listen",
            "destinations",
            "zone",
            "load_balancer",
            "listeners",
            "pools",
            "workers",
            "shutdown",
            "memory",
            "admin",
            "access_log",
            "decision_log",
        ],
    )
};
pub(crate) const SHUTDOWN: Keys = Keys::new("shutdown", &["grace"]);
pub(crate) const MEMORY: Keys = Keys::new("memory", &["buffered_bytes"]);
pub(crate) const ADMIN: Keys = Keys { planned: &["tokens"], ..Keys::new("admin", &["address"]) };
pub(crate) const ACCESS_LOG: Keys = Keys::new("access_log", &["path"]);
pub(crate) const DECISION_LOG: Keys = Keys::new("decision_log", &["path", "sample"]);

pub(crate) const LISTENER: Keys = Keys {
    planned: &["http3"],
    ..Keys::new(
        "listeners[]",
        &[
            "name",
            "address",
            "unix",
            "tcp",
            "protocol",
            "tls",
            "proxy_protocol",
            "trusted_proxies",
            "timeouts",
            "limits",
            "udp",
            "mqtt",
            "via",
            "half_close",
            "request_headers",
            "response_headers",
            "pool",
            "routes",
        ],
    )
};
pub(crate) const UNIX: Keys = Keys::new("listeners[].unix", &["mode", "user", "group"]);
pub(crate) const LISTENER_TCP: Keys = Keys::new("listeners[].tcp", &["keepalive", "user_timeout"]);
pub(crate) const CLIENT_TIMEOUTS: Keys =
    Keys::new("listeners[].timeouts", &["handshake", "header", "body", "min_rate", "idle", "connection"]);
pub(crate) const SERVER_TLS: Keys = Keys::new(
    "listeners[].tls",
    &["certificates", "client_ca", "client_auth", "client_crl", "min_version", "strict_host"],
);
pub(crate) const CERTIFICATE: Keys = Keys::new("listeners[].tls.certificates[]", &["cert", "key"]);
pub(crate) const LIMITS: Keys = Keys::new(
    "listeners[].limits",
    &[
        "connections",
        "connections_per_source",
        "handshakes",
        "handshakes_per_source",
        "requests",
        "streams",
        "header_bytes",
        "headers",
        "uri_bytes",
        "body_bytes",
    ],
);
pub(crate) const UDP: Keys = Keys::new("listeners[].udp", &["flow", "idle", "max_flows"]);
pub(crate) const MQTT: Keys = Keys::new("listeners[].mqtt", &["rebalance"]);
pub(crate) const HEADERS: Keys = Keys::new("listeners[].request_headers", &["set", "add", "remove"]);
pub(crate) const ROUTE: Keys = Keys {
    planned: &["pools", "redirect", "deny", "rate_limit", "timeout"],
    ..Keys::new(
        "listeners[].routes[]",
        &["name", "match", "pool", "subset", "subset_fallback", "request_headers", "response_headers"],
    )
};
pub(crate) const MATCH: Keys = Keys {
    planned: &[
        "client_certificate",
        "cookies",
        "grpc",
        "path",
        "path_regex",
        "path_template",
        "port",
        "query",
        "source",
        "when",
    ],
    ..Keys::new("listeners[].routes[].match", &["host", "path_prefix", "method", "headers", "sni"])
};

pub(crate) const POOL: Keys = Keys::new(
    "pools.*",
    &[
        "protocol",
        "grpc_web",
        "proxy_protocol",
        "tls",
        "load_balancer",
        "tcp",
        "timeouts",
        "limits",
        "resolve",
        "destinations",
    ],
);
pub(crate) const RESOLVE: Keys = Keys::new("pools.*.resolve", &["every"]);
pub(crate) const POOL_TCP: Keys = Keys::new("pools.*.tcp", &["keepalive", "user_timeout"]);
pub(crate) const POOL_LIMITS: Keys = Keys::new(
    "pools.*.limits",
    &["requests", "connections", "pending", "wait", "retries", "per_destination"],
);
pub(crate) const PER_DESTINATION: Keys =
    Keys::new("pools.*.limits.per_destination", &["requests", "connections"]);
pub(crate) const CLIENT_TLS: Keys = Keys::new("pools.*.tls", &["ca", "server_name", "cert", "key", "verify"]);
pub(crate) const DESTINATION_TIMEOUTS: Keys = Keys::new("pools.*.timeouts", &["connect", "response", "idle"]);
pub(crate) const DESTINATION: Keys =
    Keys::new("pools.*.destinations[]", &["id", "address", "weight", "priority", "zone", "labels", "limits"]);
pub(crate) const DESTINATION_LIMITS: Keys =
    Keys::new("pools.*.destinations[].limits", &["requests", "connections"]);

pub(crate) const LOAD_BALANCER: Keys = Keys {
    planned: &["session_affinity"],
    pairs: &["dynamic_adjustment", "performance_monitoring"],
    ..Keys::new(
        "load_balancer",
        &[
            "algorithm",
            "health_checking",
            "failover",
            "health_monitoring",
            "outlier_detection",
            "slow_start",
            "panic_threshold",
            "overprovision",
            "zone_aware",
            "retry",
            "hedge",
            "performance",
            "quality",
            "dynamic_adjustment",
            "performance_monitoring",
            "hash",
            "custom",
            "load_reports",
            "overload",
        ],
    )
};
pub(crate) const HASH: Keys = Keys::new("load_balancer.hash", &["key", "table", "bound"]);
pub(crate) const LOAD_REPORTS: Keys = Keys::new("load_balancer.load_reports", &["max_age", "orca"]);
pub(crate) const OVERLOAD: Keys =
    Keys::new("load_balancer.overload", &["enabled", "threshold", "recover", "max_overloaded"]);
pub(crate) const CUSTOM: Keys = Keys::new("load_balancer.custom", &["expression"]);
pub(crate) const ZONE_AWARE: Keys =
    Keys::new("load_balancer.zone_aware", &["enabled", "spill_over_at", "keys"]);
pub(crate) const HEALTH_MONITORING: Keys = Keys::new(
    "load_balancer.health_monitoring",
    &[
        "check_interval",
        "fast_interval",
        "down_interval",
        "jitter",
        "max_concurrent",
        "start",
        "timeout",
        "failure_threshold",
        "recovery_threshold",
        "protocol",
        "path",
        "method",
        "host",
        "expect_status",
        "headers",
        "expect_body",
        "port",
        "service",
        "send",
        "expect",
        "username",
        "password",
        "alerting",
        "recovery_management",
    ],
);
pub(crate) const OUTLIER_DETECTION: Keys = Keys::new(
    "load_balancer.outlier_detection",
    &["consecutive_failures", "interval", "latency", "unresponsive_after", "base_ejection", "max_ejected"],
);
pub(crate) const RETRY: Keys = Keys::new("load_balancer.retry", &["attempts", "when", "budget"]);
pub(crate) const HEDGE: Keys = Keys::new("load_balancer.hedge", &["after", "max"]);
pub(crate) const PERFORMANCE: Keys =
    Keys::new("load_balancer.performance", &["timeout", "caching", "parallel_processing", "optimization"]);
pub(crate) const QUALITY: Keys = Keys::new(
    "load_balancer.quality",
    &["error_recovery", "failover_support", "quality_metrics", "learning"],
);
pub(crate) const PERFORMANCE_MONITORING: Keys = Keys::new(
    "load_balancer.performance_monitoring",
    &["enabled", "metrics", "thresholds", "alerting", "optimization"],
);
pub(crate) const THRESHOLDS: Keys = Keys::new(
    "load_balancer.performance_monitoring.thresholds",
    &["response_time", "throughput", "error_rate", "availability"],
);
pub(crate) const DYNAMIC_ADJUSTMENT: Keys = Keys::new(
    "load_balancer.dynamic_adjustment",
    &["enabled", "adjustment_interval", "performance_threshold", "health_threshold", "learning"],
);

/// All kinds of blocks, outer ones first.
pub(crate) static ALL: [&Keys; 43] = [
    &TOP,
    &SHUTDOWN,
    &MEMORY,
    &ADMIN,
    &ACCESS_LOG,
    &DECISION_LOG,
    &LISTENER,
    &UNIX,
    &LISTENER_TCP,
    &SERVER_TLS,
    &CERTIFICATE,
    &CLIENT_TIMEOUTS,
    &LIMITS,
    &UDP,
    &MQTT,
    &HEADERS,
    &ROUTE,
    &MATCH,
    &POOL,
    &POOL_TCP,
    &RESOLVE,
    &CLIENT_TLS,
    &DESTINATION_TIMEOUTS,
    &RESOLVE,
    &POOL_LIMITS,
    &PER_DESTINATION,
    &DESTINATION,
    &DESTINATION_LIMITS,
    &LOAD_BALANCER,
    &HASH,
    &CUSTOM,
    &LOAD_REPORTS,
    &OVERLOAD,
    &ZONE_AWARE,
    &HEALTH_MONITORING,
    &OUTLIER_DETECTION,
    &RETRY,
    &HEDGE,
    &PERFORMANCE,
    &QUALITY,
    &PERFORMANCE_MONITORING,
    &THRESHOLDS,
    &DYNAMIC_ADJUSTMENT,
];

/// Returns the blocks that have a key, such as "at the top of the file" or "in `pools.*`".
pub(crate) fn blocks_with(key: &str) -> Vec<String> {
    let known = ALL.iter().filter(|keys| keys.contains(key));
    known
        .map(|keys| match keys.at {
            "" => "at the top of the file".to_owned(),
            at => format!("in `{at}`"),
        })
        .collect()
}
