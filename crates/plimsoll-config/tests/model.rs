//! Models of valid files: defaults, keys, and the precedence of blocks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_config::model::{
    AccessLog, Config, DecisionLog, DestinationAddress, HeaderEdits, ListenAddress, Pool, Protocol, UdpFlow,
};
use plimsoll_config::{Severity, defaults, load};
use plimsoll_core::balance::Algorithm;
use plimsoll_core::health::{CheckSchedule, ProbeKind, Start};
use plimsoll_core::retry::{HedgeAfter, HedgeSpec};
use plimsoll_core::route::HostPattern;
use plimsoll_core::subset::Fallback;

fn config(text: &str) -> Config {
    let env = |name: &str| (name == "WEIGHT").then(|| "7".to_owned());
    let loaded = load(text, "test.yaml", Path::new("/etc/plimsoll"), &env);
    let report = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
    assert!(loaded.problems.iter().all(|p| p.severity == Severity::Warning), "{report}");
    loaded.config.expect("a configuration without errors")
}

/// Returns the pool `p` of a file with these keys of the pool and these defaults.
fn pool(defaults: &str, keys: &str) -> Pool {
    let text = format!(
        "load_balancer: {{{defaults}}}\nlisteners: [{{name: l, address: \":80\", pool: p}}]\n\
         pools: {{p: {{destinations: [\"a:1\"], {keys}}}}}"
    );
    config(&text).pools[0].as_ref().clone()
}

#[test]
fn the_shortest_file_has_every_default() {
    let config = config("listen: \"127.0.0.1:8080\"\ndestinations: [\"127.0.0.1:9001\", app:80]");
    assert_eq!((config.workers, config.shutdown_grace), (None, defaults::SHUTDOWN_GRACE));
    assert_eq!(config.admin.map(|admin| (admin.address, admin.configured)), Some((defaults::ADMIN, false)));
    assert_eq!(config.access_log, None);

    let listener = &config.listeners[0];
    assert_eq!((&*listener.name, listener.protocol, listener.pool), ("default", Protocol::Http, Some(0)));
    assert_eq!(listener.addresses, [ListenAddress::Socket("127.0.0.1:8080".parse().unwrap())]);
    assert_eq!((listener.timeouts, listener.limits), (defaults::CLIENT_TIMEOUTS, defaults::LIMITS));
    assert!(listener.routes.is_empty() && listener.trusted_proxies.is_empty() && !listener.via);
    assert_eq!(listener.request_headers, HeaderEdits::default());

    let pool = &config.pools[0];
    assert_eq!((&*pool.name, pool.algorithm), ("default", Algorithm::ResponseTime));
    assert_eq!((pool.outlier, &pool.retry), (defaults::OUTLIER, &defaults::retry()));
    assert_eq!((pool.parallel_checks, pool.tiers.backup_tiers), (true, true));
    assert_eq!(pool.timeouts, defaults::DESTINATION_TIMEOUTS);
    let health = pool.health.as_ref().unwrap();
    assert_eq!((health.check_interval, health.timeout), (defaults::CHECK_INTERVAL, defaults::CHECK_TIMEOUT));
    assert_eq!((health.failure_threshold, health.recovery_threshold, health.port), (3, 2, None));
    assert_eq!(health.probe, ProbeKind::Tcp);

    let [first, second] = pool.destinations.as_slice() else { panic!("two destinations") };
    assert_eq!((&*first.name, first.weight.get(), first.priority), ("127.0.0.1:9001", 1, 0));
    assert_eq!(second.address, DestinationAddress::Name("app".to_owned(), 80));
    assert_eq!((&second.zone, second.labels.len()), (&None, 0));
}

#[test]
fn a_pool_overrides_the_defaults_key_by_key() {
    let defaults =
        "algorithm: p2c, failover: false, health_monitoring: {path: /up, timeout: 3s}, retry: {attempts: 5}";
    let pool = pool(
        defaults,
        "load_balancer: {algorithm: random, health_monitoring: {check_interval: 1s}, retry: {budget: 0.5}}",
    );
    assert_eq!(pool.algorithm, Algorithm::Random);
    assert_eq!((pool.retry.attempts, pool.retry.budget, pool.retry.failover), (5, 0.5, false));
    let health = pool.health.unwrap();
    assert_eq!((health.check_interval, health.timeout), (Duration::from_secs(1), Duration::from_secs(3)));
    let ProbeKind::Http { method, path, host, expect, .. } = health.probe else { panic!("an http check") };
    assert_eq!((&*method, &*path, host, &*expect), ("GET", "/up", None, [(200, 399)].as_slice()));
}

#[test]
fn check_keys_set_the_probe() {
    let keys = "load_balancer: {health_monitoring: {check_interval: 200ms, timeout: 1s, failure_threshold: 2, \
                recovery_threshold: 1, protocol: http, path: \"/h?x\", method: HEAD, host: \"app:8080\", \
                expect_status: \"200-299, 304\", port: 9000}}";
    let health = pool("", keys).health.unwrap();
    assert_eq!((health.failure_threshold, health.recovery_threshold, health.port), (2, 1, Some(9000)));
    let ProbeKind::Http { method, path, host, expect, .. } = health.probe else { panic!("an http check") };
    assert_eq!((&*method, &*path, host.as_deref()), ("HEAD", "/h?x", Some("app:8080")));
    assert_eq!(*expect, [(200, 299), (304, 304)]);

    let one = pool("", "load_balancer: {health_monitoring: {expect_status: 204}}").health.unwrap();
    assert!(matches!(one.probe, ProbeKind::Http { expect, .. } if *expect == [(204, 204)]));
    let tcp = pool("health_monitoring: {path: /up}", "load_balancer: {health_monitoring: {protocol: tcp}}");
    assert_eq!(tcp.health.unwrap().probe, ProbeKind::Tcp);
    assert_eq!(pool("health_checking: false", "").health, None);
}

#[test]
fn grpc_web_calls_are_translated_for_http2_pools() {
    let translates = |keys: &str| pool("", keys).translates_grpc_web("POST");
    assert!(translates("protocol: http2") && !pool("", "protocol: http2").translates_grpc_web("GET"));
    assert!(!translates("protocol: http2, grpc_web: pass") && !translates("protocol: http1"));
}

#[test]
fn grpc_checks_have_a_service_and_a_host() {
    let probe = |top: &str, own: &str| {
        let keys = |keys: &str| format!("health_monitoring: {{{keys}}}");
        pool(&keys(top), &format!("load_balancer: {{{}}}", keys(own))).health.unwrap().probe
    };
    let asks = |service: &str, host: Option<&str>| ProbeKind::Grpc {
        service: service.into(),
        host: host.map(Into::into),
    };
    assert_eq!(probe("", "protocol: grpc"), asks("", None));
    assert_eq!(probe("", "protocol: grpc, service: a.B, host: \"app:1\""), asks("a.B", Some("app:1")));
    assert_eq!(probe("protocol: grpc", "service: a.B"), asks("a.B", None), "blocks override each other");
    assert_eq!(probe("protocol: grpc", "host: app"), asks("", Some("app")));
    assert!(matches!(probe("protocol: grpc", "path: /up"), ProbeKind::Http { .. }));
}

#[test]
fn booleans_of_the_specification_switch_features_off() {
    let all_off = pool(
        "failover: false, performance: {parallel_processing: false}, quality: {error_recovery: false, \
         failover_support: false}",
        "",
    );
    assert!(!all_off.retry.failover && !all_off.retry.error_recovery);
    assert!(!all_off.parallel_checks && !all_off.tiers.backup_tiers);
    assert_eq!(pool("performance: {timeout: 7s}", "").timeouts.total, Some(Duration::from_secs(7)));
}

#[test]
fn retry_and_ejection_keys_are_read() {
    let keys = "load_balancer: {retry: {attempts: 2, when: [timeout, \"status:503\", \"status:503\", \"status:429\", \
                \"grpc:UNAVAILABLE\", \"grpc:CANCELLED\", \"grpc:UNAVAILABLE\"], \
                budget: 5%}, outlier_detection: {consecutive_failures: 0, base_ejection: 400s, max_ejected: 10%}}";
    let pool = pool("", keys);
    let when = &pool.retry.when;
    assert!(when.timeout && !when.reset && !when.connect_failure && !when.empty_response);
    assert_eq!((&when.statuses, pool.retry.attempts, pool.retry.budget), (&vec![503, 429], 2, 0.05));
    assert_eq!(when.grpc_statuses, [14, 1]);
    assert_eq!((pool.outlier.consecutive_failures, pool.outlier.max_ejected), (0, 0.1));
    assert_eq!(pool.outlier.base_ejection, Duration::from_secs(400));
    assert_eq!(pool.outlier.max_ejection, Duration::from_secs(400));
}

#[test]
fn process_keys_are_read() {
    let with = |lines: &str| config(&format!("listen: \":80\"\ndestinations: [\"a:1\"]\n{lines}"));
    assert_eq!(with("workers: 4").workers.map(usize::from), Some(4));
    assert_eq!(with("workers: ${WEIGHT}").workers.map(usize::from), Some(7));
    assert_eq!(with("workers: auto").workers, None);
    assert_eq!(with("shutdown: {grace: 0s}").shutdown_grace, Duration::ZERO);
    assert_eq!(with("admin: false").admin, None);
    assert!(with("admin: true").admin.is_some_and(|admin| !admin.configured));
    let admin = with("admin: {address: \"localhost:0\"}").admin.unwrap();
    assert_eq!((admin.address.to_string().as_str(), admin.configured), ("127.0.0.1:0", true));
    assert_eq!(with("access_log: true").access_log, Some(AccessLog::Stdout));
    assert_eq!(with("access_log: {path: stdout}").access_log, Some(AccessLog::Stdout));
    let file = AccessLog::File(PathBuf::from("/etc/plimsoll/log/a.log"));
    assert_eq!(with("access_log: {path: log/a.log}").access_log, Some(file));
    assert_eq!(with("access_log: false").access_log, None);
    let decision_log = |text: &str| with(text).decision_log;
    assert_eq!(decision_log("decision_log: false"), None);
    let one_in_a_hundred = Some(DecisionLog::new(AccessLog::Stdout, 0.01));
    assert_eq!(decision_log("decision_log: true"), one_in_a_hundred);
    let file = AccessLog::File(PathBuf::from("/etc/plimsoll/d.log"));
    let all = Some(DecisionLog::new(file, 1.0));
    assert_eq!(decision_log("decision_log: {path: d.log, sample: 1}"), all);
}

#[test]
fn listener_and_route_keys_are_read() {
    let config = config(
        "listeners:
  - name: web
    address: [\":8080\", \"[::1]:8080\", \"unix:run/web.sock\"]
    trusted_proxies: [\"10.0.0.0/8\", \"192.0.2.7\"]
    timeouts: {header: 1s}
    limits: {connections: 5, header_bytes: 4KiB, body_bytes: 10MB}
    via: true
    half_close: true
    request_headers: {set: {X-Mark: \"1\"}, add: {X-Seen: by us}, remove: [X-Secret]}
    routes:
      - name: gold
        match: {host: \"*.Example.com\", path_prefix: /v1/, method: GET, headers: {X-Tier: gold}}
        pool: b
        response_headers: {remove: [server]}
      - {match: {method: [PUT, POST]}, pool: a}
    pool: a
  - {name: raw, address: \"127.0.0.1:5432\", protocol: tcp, timeouts: {idle: 2h}, pool: b}
pools:
  a: {destinations: [\"a:1\"]}
  b: {destinations: [{id: x, address: \"unix:b.sock\", weight: 0, priority: 255, zone: z, labels: {v: \"2\", a: b}}, \"b:1\"]}
",
    );
    let web = &config.listeners[0];
    assert_eq!(web.addresses[2], ListenAddress::Unix(PathBuf::from("/etc/plimsoll/run/web.sock")));
    assert_eq!(
        web.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "192.0.2.7/32"]
    );
    assert_eq!((web.timeouts.header, web.timeouts.body), (Duration::from_secs(1), Duration::from_secs(30)));
    assert_eq!((web.limits.connections, web.limits.header_bytes, web.limits.uri_bytes), (5, 4096, 4096));
    assert_eq!((web.limits.connections_per_source, web.limits.handshakes_per_source), (3, 1000));
    assert_eq!((web.limits.body_bytes, web.via, web.half_close, web.pool), (10_000_000, true, true, Some(0)));
    let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let edits = HeaderEdits::new(pair("x-mark", "1"), pair("x-seen", "by us"), vec!["x-secret".into()]);
    assert_eq!(web.request_headers, edits);

    let [gold, rest] = web.routes.as_slice() else { panic!("two routes") };
    assert_eq!((&*gold.name, gold.pool, &*rest.name, rest.pool), ("gold", 1, "web/1", 0));
    assert_eq!(gold.matches.host, Some(HostPattern::Suffix(".example.com".to_owned())));
    assert_eq!(gold.matches.path_prefix.as_deref(), Some("/v1/"));
    assert_eq!(
        (&gold.matches.methods, &gold.matches.headers),
        (&vec!["GET".to_owned()], &pair("x-tier", "gold"))
    );
    assert_eq!(gold.response_headers.remove, ["server"]);
    assert_eq!(rest.matches.methods, ["PUT", "POST"]);

    let raw = &config.listeners[1];
    assert_eq!(
        (raw.protocol, raw.pool, raw.timeouts.idle),
        (Protocol::Tcp, Some(1), Duration::from_secs(7200))
    );

    let b = &config.pools[1].destinations[0];
    assert_eq!((&*b.name, b.weight.get(), b.priority, b.zone.as_deref()), ("x", 0, 255, Some("z")));
    assert_eq!(b.address, DestinationAddress::Unix(PathBuf::from("/etc/plimsoll/b.sock")));
    assert_eq!(*b.labels, [("a".into(), "b".into()), ("v".into(), "2".into())]);
}

#[test]
fn pools_of_udp_listeners_are_checked_by_udp() {
    let text = r#"
listeners:
  - {name: dns, address: ":53", protocol: udp, udp: {flow: datagram, idle: 5s}, pool: dns}
  - {name: logs, address: ":514", protocol: udp, pool: logs}
  - {name: logs-tcp, address: ":514", protocol: tcp, pool: both}
  - {name: both, address: ":515", protocol: udp, pool: both}
pools:
  dns: {destinations: ["10.0.0.1:53"], load_balancer: {health_monitoring: {send: "\x12\x34", expect: "\x12"}}}
  logs: {destinations: ["10.0.0.1:514"]}
  both: {destinations: ["10.0.0.1:514"]}
"#;
    let config = config(text);
    let [dns, logs] = [&config.listeners[0], &config.listeners[1]];
    let address = "0.0.0.0:53".parse().unwrap();
    assert_eq!((dns.protocol, &*dns.addresses), (Protocol::Udp, &[ListenAddress::Udp(address)][..]));
    let five = (UdpFlow::Datagram, Duration::from_secs(5), 65_536);
    assert_eq!((dns.udp.flow, dns.udp.idle, dns.udp.max_flows), five);
    assert_eq!(logs.udp.flow, UdpFlow::Source);
    let probe = |pool: usize| config.pools[pool].health.clone().unwrap().probe;
    let asks = ProbeKind::Udp { send: b"\x124".as_slice().into(), expect: Some(b"\x12".as_slice().into()) };
    assert_eq!(probe(0), asks);
    assert_eq!(
        probe(1),
        ProbeKind::Udp { send: [].into(), expect: None },
        "only a UDP listener uses the pool"
    );
    assert_eq!(probe(2), ProbeKind::Tcp, "a TCP listener uses the pool, too");
}

#[test]
fn schedule_keys_of_checks_are_read() {
    let health = |keys: &str| pool("", &format!("load_balancer: {{{keys}}}")).health.unwrap();
    let plain = health("health_monitoring: {}");
    assert_eq!((plain.schedule.fast, plain.schedule.down), (Some(Duration::from_secs(1)), None));
    let quick = health("health_monitoring: {check_interval: 200ms}");
    assert_eq!(quick.schedule.fast, Some(Duration::from_millis(200)), "never longer than the interval");
    let all = health(
        "health_monitoring: {fast_interval: 2s, down_interval: 1m, jitter: 0.1, max_concurrent: 7, start: down}, \
         performance: {optimization: true}",
    );
    let expected = CheckSchedule {
        fast: Some(Duration::from_secs(2)),
        down: Some(Duration::from_secs(60)),
        jitter: 0.1,
        max_concurrent: 7,
        start: Start::Down,
        adaptive: true,
    };
    assert_eq!(all.schedule, expected);
}

#[test]
fn unresponsive_destinations_of_http_pools_get_an_http_check() {
    let gray = |pool: Pool| pool.health.unwrap().probe_if_unresponsive;
    let ping = gray(pool("", "")).expect("an HTTP listener uses the pool");
    assert!(matches!(ping, ProbeKind::Http { method, path, .. } if (&*method, &*path) == ("OPTIONS", "*")));
    assert_eq!(
        gray(pool("health_monitoring: {path: /up}", "")),
        None,
        "the check is an HTTP request already"
    );
    assert_eq!(
        gray(pool("health_monitoring: {port: 9000}", "")),
        None,
        "the protocol of the other port is unknown"
    );
}

#[test]
fn a_password_is_not_printed() {
    let keys = "load_balancer: {health_monitoring: {protocol: mqtt, username: me, password: hush}}";
    let probe = pool("", keys).health.unwrap().probe;
    assert!(matches!(&probe, ProbeKind::Mqtt { login: Some(login) } if &*login.password == "hush"));
    assert!(!format!("{probe:?}").contains("hush"));
}

#[test]
fn destinations_without_limits_have_those_of_the_pool() {
    let config = config(
        "listeners: [{name: a, address: \":80\", pool: a}]\npools: {a: {limits: {requests: 9, wait: 3s, \
         per_destination: {requests: 5}}, destinations: [\"a:1\", {address: \"b:1\", limits: {requests: 0}}]}}",
    );
    let pool = &config.pools[0];
    let (limits, wait) = (pool.limits, pool.wait);
    assert_eq!((limits.requests, limits.pending, limits.retries), (9, 1024, 0));
    assert_eq!(wait, std::time::Duration::from_secs(3));
    assert_eq!(pool.destinations.iter().map(|d| d.limits.requests).collect::<Vec<_>>(), [5, 0]);
}

#[test]
fn zone_overflow_and_subset_keys_are_read() {
    let spread = |top: &str, own: &str| {
        let text = format!(
            "zone: eu-1\nload_balancer: {{{top}}}\nlisteners: [{{name: l, address: \":80\", pool: p}}]\n\
             pools: {{p: {{destinations: [\"a:1\"], load_balancer: {{{own}}}}}}}"
        );
        config(&text).pools[0].tiers.clone()
    };
    let default = spread("", "").zone.unwrap();
    assert_eq!((&*default.own, default.spill_over_at, default.zone_local_keys), ("eu-1", None, false));
    let own = spread("zone_aware: {spill_over_at: 50, keys: zone}", "zone_aware: {spill_over_at: 80}")
        .zone
        .unwrap();
    assert_eq!((own.spill_over_at, own.zone_local_keys), (Some(80), true));
    assert_eq!(
        spread("zone_aware: {spill_over_at: 50}", "zone_aware: {spill_over_at: none}")
            .zone
            .unwrap()
            .spill_over_at,
        None
    );
    assert_eq!(spread("", "zone_aware: false").zone, None);
    assert_eq!(spread("zone_aware: false", "zone_aware: true").zone.unwrap().spill_over_at, None);
    assert_eq!(pool("zone_aware: {spill_over_at: 9}", "").tiers.zone, None, "no preference without a zone");
    assert_eq!(pool("", "").tiers.overprovision, None);
    assert_eq!(pool("overprovision: \"140%\"", "").tiers.overprovision, Some(1.4));
    assert_eq!(
        pool("overprovision: \"140%\"", "load_balancer: {overprovision: none}").tiers.overprovision,
        None
    );

    let text = "listeners: [{name: a, address: \":80\", routes: [\
                {pool: p, subset: {b: \"2\", a: \"1\"}, match: {host: x}}, \
                {pool: p, subset: {a: \"1\", b: \"2\"}, subset_fallback: any, match: {host: y}}, \
                {pool: p}]}]\npools: {p: {destinations: [{address: \"a:1\", labels: {a: \"1\", b: \"2\"}}]}}";
    let config = config(text);
    let [strict, any, all] = config.listeners[0].routes.as_slice() else { panic!("three routes") };
    let fallback =
        |route: &plimsoll_config::model::Route| route.subset.as_ref().map(|s| (s.text(), s.fallback));
    assert_eq!(fallback(strict), Some(("a=1, b=2".into(), Fallback::None)));
    assert_eq!(fallback(any), Some(("a=1, b=2".into(), Fallback::Any)));
    assert_eq!(
        (fallback(all), config.pools[0].tiers.subsets.len()),
        (None, 2),
        "a subset without a fallback always keeps a destination, so it is not the one with a fallback"
    );
}

#[test]
fn a_hedge_block_enables_hedging_and_max_0_disables_it() {
    let hedge = |keys: &str| pool("", &format!("load_balancer: {{{keys}}}")).hedge;
    assert_eq!(hedge(""), None);
    assert_eq!(hedge("hedge: {}"), Some(HedgeSpec { after: HedgeAfter::Quantile(0.95), max: 1 }));
    let after = HedgeAfter::Fixed(Duration::from_millis(30));
    assert_eq!(hedge("hedge: {after: 30ms, max: 2}"), Some(HedgeSpec { after, max: 2 }));
    assert_eq!(pool("hedge: {after: p99}", "load_balancer: {hedge: {max: 0}}").hedge, None);
}

#[test]
fn different_weights_use_weighted_round_robin_by_default() {
    let algorithm = |defaults: &str, weights: &[(u16, u8)]| {
        let one = |(n, (weight, priority)): (u8, &(u16, u8))| {
            format!("{{address: \"a:{n}\", weight: {weight}, priority: {priority}}}")
        };
        let destinations: Vec<String> = (1..).zip(weights).map(one).collect();
        let destinations = destinations.join(", ");
        let text = format!("load_balancer: {{{defaults}}}\nlisten: \":80\"\ndestinations: [{destinations}]");
        config(&text).pools[0].algorithm
    };
    assert_eq!(algorithm("", &[(3, 0), (3, 0)]), Algorithm::ResponseTime);
    assert_eq!(algorithm("", &[(3, 0), (1, 0)]), Algorithm::WeightedRoundRobin);
    assert_eq!(algorithm("", &[(3, 0), (0, 0)]), Algorithm::ResponseTime, "weight 0 is ignored");
    assert_eq!(
        algorithm("", &[(3, 0), (3, 0), (1, 1)]),
        Algorithm::ResponseTime,
        "tiers are compared separately"
    );
    assert_eq!(algorithm("algorithm: p2c", &[(3, 0), (1, 0)]), Algorithm::P2c);
}
