//! Values that conflict with each other, and keys of later versions.

use crate::{
    check, check_destinations, check_listener, check_policy, check_route, check_short, help, load_text,
};

#[test]
fn repeated_names_and_addresses_are_rejected() {
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
    check(
        "listen: \":9900\"\ndestinations: [\"a:1\"]\nadmin: {address: ▸\"127.0.0.1:9900\"}",
        &["address-conflict admin.address"],
    );
    check("listen: ▸\":9900\"\ndestinations: [\"a:1\"]", &["address-conflict admin.address"]);
    check("listen: \":9900\"\ndestinations: [\"a:1\"]\nadmin: false", &[]);
    listeners(
        "name: a, address: \"127.0.0.1:80\"",
        "name: b, address: ▸\"[::ffff:127.0.0.1]:80\"",
        &["address-conflict listeners[1].address"],
    );
    listeners(
        "name: a, address: [\":80\", \"[::]:80\"]",
        "name: b, address: [\"127.0.0.1:80\", \"[::1]:80\"]",
        &[],
    );
    check_route(
        "{name: r, pool: api, match: {host: a}}, {name: ▸r, pool: api}",
        &["duplicate-name [1].name"],
    );
}

#[test]
fn unused_pools_and_unreachable_routes_are_reported() {
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
fn routes_that_an_earlier_route_covers_are_reported() {
    let never = &["unreachable [1]"];
    for (earlier, later, problems) in [
        ("{path_prefix: /a}", "{path_prefix: /a/b}", &never[..]),
        ("{path_prefix: /a/b}", "{path_prefix: /a}", &[]),
        ("{host: a.example.com}", "{host: a.example.com, path_prefix: /x}", never),
        ("{host: \"*.example.com\"}", "{host: a.example.com}", never),
        ("{host: \"*.example.com\"}", "{host: example.com}", &[]),
        ("{host: a.example.com}", "{host: \"*.example.com\"}", &[]),
        ("{method: [GET, POST]}", "{method: GET, headers: {x-tier: gold}}", never),
        ("{method: GET}", "{method: [GET, POST]}", &[]),
        ("{headers: {x-tier: gold}}", "{path_prefix: /a}", &[]),
    ] {
        let mark = if problems.is_empty() { "" } else { "▸" };
        check_route(
            &format!("{{pool: api, match: {earlier}}}, {mark}{{pool: api, match: {later}}}"),
            problems,
        );
    }
}

#[test]
fn ignored_weights_and_empty_zones_are_reported() {
    let pool = |algorithm: &str, destinations: &str| {
        format!("listen: \":80\"\nload_balancer: {{algorithm: {algorithm}}}\n{destinations}")
    };
    let weights = "destinations: [{address: \"a:1\", weight: 2}, \"b:1\"]";
    check(&pool("round_robin", &format!("▸{weights}")), &["no-effect destinations"]);
    check(&pool("weighted_round_robin", weights), &[]);
    check(&pool("round_robin", "destinations: [{address: \"a:1\", weight: 0}, \"b:1\"]"), &[]);
    let zones = |zone: &str, mark: &str| {
        format!("listen: \":80\"\nzone: eu-1\n{mark}destinations: [{{address: \"a:1\"{zone}}}, \"b:1\"]")
    };
    check(&zones("", "▸"), &["no-effect destinations"]);
    check(&zones(", zone: eu-2", "▸"), &["no-effect destinations"]);
    check(&zones(", zone: eu-1", ""), &[]);
}

#[test]
fn forwarding_loops_are_reported() {
    let listeners = |own: &str, protocol: &str, to: &str, mark: &str| {
        format!(
            "listeners: [{{name: a, address: \"{own}\", protocol: {protocol}, pool: p}}]\n\
             pools: {{{mark}p: {{destinations: [\"{to}\"]}}}}"
        )
    };
    for (own, protocol, to, loops) in [
        ("127.0.0.1:80", "http", "127.0.0.1:80", true),
        (":80", "tcp", "127.0.0.1:80", true),
        ("127.0.0.1:53", "udp", "127.0.0.1:53", true),
        (":80", "http", "localhost:80", true),
        ("[::]:80", "http", "[::1]:80", true),
        ("127.0.0.1:80", "http", "127.0.0.1:81", false),
        ("127.0.0.1:80", "http", "127.0.0.2:80", false),
        (":80", "http", "10.0.0.1:80", false),
    ] {
        let found: &[&str] = if loops { &["forwarding-loop pools.p"] } else { &[] };
        check(&listeners(own, protocol, to, if loops { "▸" } else { "" }), found);
    }
    // Two listeners in a row are no loop, unless the second leads back.
    let chain = |last: &str| {
        format!(
            "listeners: [{{name: a, address: \"127.0.0.1:80\", pool: p}}, {{name: b, address: \"127.0.0.1:81\", \
             pool: q}}]\npools: {{p: {{destinations: [\"127.0.0.1:81\"]}}, q: {{destinations: [\"{last}\"]}}}}"
        )
    };
    assert!(load_text(&chain("127.0.0.1:82")).problems.is_empty());
    assert_eq!(load_text(&chain("127.0.0.1:80")).problems.len(), 2);
}

#[test]
fn help_does_not_suggest_what_is_refused_next() {
    let pool = |block: &str| format!("listen: \":80\"\nload_balancer: {{{block}}}\ndestinations: [\"a:1\"]");
    assert!(help(&pool("hedge: {after: 95}")).starts_with("write \"p95\""));
    assert!(help(&pool("hedge: {after: 20}")).starts_with("write \"20ms\""));
    for (algorithm, meant) in [
        ("leastconn", "least_connections"),
        ("least_conn", "least_connections"),
        ("LEAST_REQUEST", "least_connections"),
        ("ip_hash", "source_hash"),
        ("ring_hash", "hash"),
    ] {
        assert_eq!(help(&pool(&format!("algorithm: {algorithm}"))), format!("did you mean `{meant}`?"));
    }
    let destination = |block: &str| format!("listen: \":80\"\ndestinations: [{{{block}}}]");
    assert_eq!(help(&destination("address: \"a:1\", name: a")), "did you mean `id`?");
    assert!(help(&destination("address: \"a:1\", backup: true")).starts_with("write `priority: 1`"));
    assert_eq!(
        help("listen: \":80\"\nupstreams: [\"a:1\"]\ndestinations: [\"a:1\"]"),
        "did you mean `pools`?"
    );
    assert!(help("listen: \"8080\"\ndestinations: [\"a:1\"]").contains("\":8080\""));
    let version = "listeners: [{name: a, address: \":443\", protocol: https, pool: p, tls: {min_version: \"1.1\", \
                   certificates: [{cert: /c, key: /k}]}}]\npools: {p: {destinations: [\"a:1\"]}}";
    let problem =
        load_text(version).problems.into_iter().find(|p| p.path.ends_with("min_version")).expect("a problem");
    assert_eq!(problem.help.as_deref(), Some("expected one of 1.2, 1.3"));
    check_route(
        "{pool: api, match: {▸path_regex: \"^/v[0-9]\"}}",
        &["not-available-yet [0].match.path_regex"],
    );
}

#[test]
fn conflicting_keys_are_rejected() {
    check(
        "▸listen: \":80\"\n▸destinations: [\"a:1\"]\nlisteners: [{name: a, address: \":81\", pool: p}]\npools: \
         {p: {destinations: [▸x]}}",
        &["conflict listen", "conflict destinations", "bad-address pools.p.destinations[0]"],
    );
    check_listener(
        "protocol: tcp, routes: [{match: {▸host: a.b, sni: a.b, ▸method: GET}, pool: api, ▸request_headers: {}}]",
        &[
            "conflict routes[0].match.host",
            "conflict routes[0].match.method",
            "conflict routes[0].request_headers",
        ],
    );
    check_listener("routes: [{match: {▸sni: a.b}, pool: api}]", &["conflict routes[0].match.sni"]);
    check_listener(
        "protocol: tcp, ▸via: true, ▸half_close: true, ▸request_headers: {}, timeouts: {▸header: 1s, idle: 1s}, limits: {▸headers: 1}",
        &[
            "conflict via",
            "conflict half_close",
            "conflict request_headers",
            "conflict timeouts.header",
            "conflict limits.headers",
        ],
    );
    check_listener(
        "protocol: tcp, timeouts: {▸connection: 1h}, limits: {▸requests: 9, ▸streams: 9}",
        &["conflict timeouts.connection", "conflict limits.requests", "conflict limits.streams"],
    );
    for awaits in [
        "protocol: tcp, proxy_protocol: accept, trusted_proxies: [10.0.0.0/8]",
        "protocol: tcp, routes: [{match: {sni: a.b}, pool: api}]",
        "protocol: mqtt",
        "protocol: auto",
    ] {
        check_listener(&format!("{awaits}, timeouts: {{header: 1s}}"), &[]);
    }
    check_listener("limits: {header_bytes: 4KiB, uri_bytes: ▸8KiB}", &["conflict limits.uri_bytes"]);
    check_listener("limits: {header_bytes: 4KiB}", &[]);
    check_listener("request_headers: {set: {a: b}, remove: [▸A]}", &["conflict request_headers.remove[0]"]);
    check_policy("  health_monitoring: {protocol: tcp, path: ▸/x}", &["conflict health_monitoring.path"]);
}

#[test]
fn socket_options_are_checked() {
    check_listener("tcp: {keepalive: none, user_timeout: 5s}", &[]);
    check_listener("protocol: udp, ▸tcp: {}", &["conflict tcp"]);
    check_listener(
        "tcp: {keepalive: ▸10ms, user_timeout: ▸off}",
        &["out-of-range tcp.keepalive", "bad-unit tcp.user_timeout"],
    );
    check_listener("▸unix: {mode: \"0660\"}", &["conflict unix"]);
    let unix = |keys: &str| {
        format!(
            "listeners: [{{name: web, address: \"unix:x\", pool: api, unix: {{{keys}}}}}]\n\
             pools: {{api: {{destinations: [\"a:1\"], tcp: {{user_timeout: none}}}}}}"
        )
    };
    check(&unix("mode: \"0660\", user: root, group: \"0\""), &[]);
    check(
        &unix("mode: ▸\"0680\", user: ▸no-such-user, group: ▸12x"),
        &[
            "bad-value listeners[0].unix.mode",
            "bad-value listeners[0].unix.user",
            "bad-value listeners[0].unix.group",
        ],
    );
    check(&unix("mode: ▸660"), &["wrong-type listeners[0].unix.mode"]);
}

/// A readable file in place of a certificate; its content is not checked here.
const FILE: &str = "/etc/passwd";

#[test]
fn tls_keys_of_listeners_are_checked() {
    let tls = |more: &str| format!("tls: {{certificates: [{{cert: {FILE}, key: {FILE}}}]{more}}}");
    check_listener(&format!("protocol: https, {}", tls("")), &[]);
    check_listener(
        &format!("protocol: tls, {}, timeouts: {{handshake: 1s, header: 1s}}", tls(", min_version: \"1.3\"")),
        &[],
    );
    let with_crl = tls(&format!(", client_ca: {FILE}, client_crl: {FILE}, strict_host: true"));
    check_listener(&format!("protocol: https, {with_crl}"), &[]);
    let without_ca = tls(&format!(", client_crl: ▸{FILE}"));
    check_listener(&format!("protocol: https, {without_ca}"), &["conflict tls.client_crl"]);
    check_listener(
        &format!("protocol: https, {}", tls(&format!(", client_ca: {FILE}, client_auth: optional"))),
        &[],
    );
    check(
        "listeners: [▸{name: web, address: \":80\", pool: api, protocol: https}]\npools: {api: {destinations: [\"a:1\"]}}",
        &["missing-key listeners[0].tls"],
    );
    check_listener(&format!("▸{}", tls("")), &["conflict tls"]);
    check_listener("protocol: https, ▸tls: {}", &["missing-key tls.certificates"]);
    check_listener("protocol: https, tls: {▸certificates: []}", &["bad-value tls.certificates"]);
    check_listener(
        "protocol: https, tls: {certificates: [▸{cert: ▸none.pem}]}",
        &["missing-key tls.certificates[0].key", "unreadable-file tls.certificates[0].cert"],
    );
    check_listener(
        &format!("protocol: https, {}", tls(", client_auth: ▸required, min_version: ▸\"1.1\"")),
        &["conflict tls.client_auth", "bad-value tls.min_version"],
    );
    check_listener(
        "timeouts: {▸handshake: 1s}, limits: {▸handshakes: 1}",
        &["conflict timeouts.handshake", "conflict limits.handshakes"],
    );
}

#[test]
fn tls_keys_of_pools_are_checked() {
    let check_pool = |tls: &str, expected: &[&str]| {
        let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " pools.p.", 1)).collect();
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        let text = "listeners: [{name: a, address: \":80\", pool: p}]\npools: {p: {destinations: [\"a:1\"], ";
        let (mark, tls) = tls.strip_prefix('▸').map_or(("", tls), |tls| ("▸", tls));
        check(&format!("{text}{mark}tls: {tls}}}}}"), &expected);
    };
    for valid in ["true", "false", "{}", "{server_name: a.b}"] {
        check_pool(valid, &[]);
    }
    check_pool(&format!("{{ca: {FILE}, cert: {FILE}, key: {FILE}}}"), &[]);
    check_pool("{verify: ▸false}", &["insecure tls.verify"]);
    check_pool(&format!("▸{{cert: {FILE}}}"), &["missing-key tls.key"]);
    check_pool(
        "{server_name: ▸\"a:443\", ca: ▸/no/such/file}",
        &["bad-value tls.server_name", "unreadable-file tls.ca"],
    );
    check_pool("{ca: ▸/etc}", &["unreadable-file tls.ca"]);
    check_pool("{}, protocol: auto", &[]);
    check_pool("false, protocol: ▸auto", &["conflict protocol"]);
}

#[test]
fn keys_of_connections_requests_and_tls_are_rejected_for_udp() {
    check_listener("protocol: udp, udp: {flow: source, idle: 2h, max_flows: 100}", &[]);
    check_listener("protocol: udp", &[]);
    check_listener(
        "protocol: udp, ▸timeouts: {idle: 1h}, ▸limits: {connections: 9}, ▸routes: [], ▸proxy_protocol: none",
        &["conflict timeouts", "conflict limits", "conflict routes", "conflict proxy_protocol"],
    );
    check_listener(
        "protocol: udp, ▸trusted_proxies: [], ▸via: true, ▸request_headers: {}, ▸response_headers: {}",
        &[
            "conflict trusted_proxies",
            "conflict via",
            "conflict request_headers",
            "conflict response_headers",
        ],
    );
    check_listener("protocol: udp, ▸tls: {}", &["conflict tls"]);
    for other in ["http", "tcp"] {
        check_listener(&format!("protocol: {other}, ▸udp: {{idle: 1h}}"), &["conflict udp"]);
    }
    check_listener(
        "protocol: udp, udp: {flow: ▸client, idle: ▸25h, max_flows: ▸0, ▸max_flow: 1}",
        &[
            "bad-value udp.flow",
            "out-of-range udp.idle",
            "out-of-range udp.max_flows",
            "unknown-key udp.max_flow",
        ],
    );
    let led = |address: &str, pool: &str| {
        format!(
            "listeners: [▸{{name: dns, protocol: udp, address: \"{address}\", pool: p}}]\npools: {{p: {{{pool}}}}}"
        )
    };
    check(&led(":53", "tls: true, destinations: [\"a:1\"]"), &["conflict listeners[0]"]);
    check(&led(":53", "destinations: [\"unix:/run/x\"]"), &["conflict listeners[0]"]);
    check(
        "listeners: [{name: a, protocol: udp, address: ▸\"unix:/run/x\", pool: p}]\npools: {p: {destinations: [\"a:1\"]}}",
        &["bad-address listeners[0].address"],
    );
    let two = |other: &str| {
        format!(
            "listeners:\n  - {{name: a, protocol: udp, address: \":53\", pool: p}}\n  - {{name: b, protocol: {other}, \
             address: ▸\":53\", pool: p}}\npools: {{p: {{destinations: [\"a:1\"]}}}}"
        )
    };
    check(&two("tcp").replace('▸', ""), &[]);
    check(&two("udp"), &["address-conflict listeners[1].address"]);
}

#[test]
fn proxy_headers_require_trusted_proxies_and_http1() {
    for protocol in ["http", "tcp"] {
        let trusts = "proxy_protocol: accept, trusted_proxies: [10.0.0.0/8]";
        check_listener(&format!("protocol: {protocol}, {trusts}"), &[]);
        for trusted in ["", ", trusted_proxies: []"] {
            check_listener(
                &format!("protocol: {protocol}, proxy_protocol: ▸accept{trusted}"),
                &["conflict proxy_protocol"],
            );
        }
    }
    check_listener("protocol: tcp, ▸trusted_proxies: [10.0.0.0/8]", &["conflict trusted_proxies"]);
    check_listener("proxy_protocol: ▸v2", &["bad-value proxy_protocol"]);
    let led = |listener: &str, pool: &str| {
        format!("listeners: [{listener}]\npools: {{p: {{destinations: [\"a:1\"], {pool}}}}}")
    };
    let web = "{name: web, address: \":80\", pool: p}";
    for version in ["none", "v1", "v2"] {
        check(&led(web, &format!("proxy_protocol: {version}")), &[]);
    }
    check(&led(web, "proxy_protocol: ▸accept"), &["bad-value pools.p.proxy_protocol"]);
    check(&led(web, "protocol: http2, proxy_protocol: ▸v1"), &["conflict pools.p.proxy_protocol"]);
    let dns = "▸{name: dns, protocol: udp, address: \":53\", pool: p}";
    check(&led(dns, "proxy_protocol: v2"), &["conflict listeners[0]"]);
}

#[test]
fn mqtt_keys_are_rejected_for_other_protocols() {
    check_listener("protocol: mqtt, mqtt: {rebalance: 0}, timeouts: {header: 5s, idle: 1h}", &[]);
    check_listener("protocol: mqtt, limits: {header_bytes: 4KiB}", &[]);
    check_listener(
        "protocol: mqtt, ▸via: true, timeouts: {▸body: 1s, ▸min_rate: 1KiB/s}, limits: {▸headers: 9, ▸body_bytes: 1MiB}",
        &[
            "conflict via",
            "conflict timeouts.body",
            "conflict timeouts.min_rate",
            "conflict limits.headers",
            "conflict limits.body_bytes",
        ],
    );
    check_listener("protocol: mqtt, timeouts: {▸handshake: 1s}", &["conflict timeouts.handshake"]);
    check_listener("protocol: mqtt, mqtt: {rebalance: ▸-1}", &["out-of-range mqtt.rebalance"]);
    for other in ["http", "tcp", "udp"] {
        check_listener(&format!("protocol: {other}, ▸mqtt: {{rebalance: 1}}"), &["conflict mqtt"]);
    }
    check_listener(
        "protocol: auto, via: true, mqtt: {rebalance: 1}, timeouts: {handshake: 1s, body: 1s}, \
         limits: {headers: 9}",
        &[],
    );
    check_listener("protocol: auto, ▸udp: {idle: 1h}", &["conflict udp"]);
    check_listener("protocol: ▸mqt", &["bad-value protocol"]);
}

#[test]
fn protocols_of_the_embedding_program_are_accepted() {
    let text = "listeners: [{name: a, address: \":80\", protocol: meters, pool: p}]\npools: {p: {destinations: [\"a:1\"]}}";
    let env = |_: &str| None;
    let extensions = plimsoll_config::Extensions { protocols: vec!["meters"], ..Default::default() };
    let loaded = plimsoll_config::load_with(text, "f", "".as_ref(), &env, &extensions);
    let config = loaded.config.expect("a valid configuration");
    assert_eq!(config.listeners[0].protocol, plimsoll_config::model::Protocol::Other("meters"));
    assert!(load_text(text).config.is_none());
}

#[test]
fn policies_of_the_embedding_program_are_accepted() {
    use plimsoll_core::balance::{Algorithm, Needs, Picker, Policy, PolicyRegistry, Slot};
    struct Mine;
    impl Policy for Mine {
        fn name(&self) -> &'static str {
            "mine"
        }
        fn needs(&self) -> Needs {
            Needs::Nothing
        }
        fn build(&self, slots: std::sync::Arc<[Slot]>) -> Box<dyn Picker> {
            Algorithm::Random.policy(1).build(slots)
        }
    }
    let text = "listen: \":80\"\ndestinations: [\"a:1\"]\nload_balancer: {algorithm: mine}";
    let policies = PolicyRegistry::built_in().with(|_| Box::new(Mine));
    let extensions = plimsoll_config::Extensions { policies: policies.clone(), ..Default::default() };
    let read = |text: &str| plimsoll_config::load_with(text, "f", "".as_ref(), &|_| None, &extensions);
    let config = read(text).config.expect("a valid configuration");
    assert_eq!(Some(config.pools[0].algorithm), policies.of("mine"));
    let loaded = read(&text.replace("mine", "mind"));
    assert_eq!(loaded.problems[0].help.as_deref(), Some("did you mean `mine`?"));
    assert!(load_text(text).config.is_none());
}

#[test]
fn keys_of_udp_and_http_checks_exclude_each_other() {
    check_policy("  health_monitoring: {protocol: udp, send: ping, expect: pong}", &[]);
    check_policy("  health_monitoring: {send: ping}", &[]);
    check_policy("  health_monitoring: {protocol: udp, path: ▸/x}", &["conflict health_monitoring.path"]);
    for protocol in ["tcp", "http"] {
        check_policy(
            &format!("  health_monitoring: {{protocol: {protocol}, expect: ▸pong}}"),
            &["conflict health_monitoring.expect"],
        );
    }
    let long = "x".repeat(1401);
    check_policy(
        &format!("  health_monitoring: {{protocol: udp, send: ▸{long}}}"),
        &["too-large health_monitoring.send"],
    );
}

#[test]
fn hash_keys_are_checked_with_their_algorithm() {
    check_policy("  algorithm: hash\n  hash: {key: \"cookie:sid\", table: ring, bound: \"125%\"}", &[]);
    check_policy("  algorithm: source_hash\n  hash: {key: source, table: rendezvous, bound: none}", &[]);
    for (key, value) in
        [("key", "host"), ("key", "\"header:\""), ("key", "\"cookie:a=b\""), ("table", "jump")]
    {
        let code = if value.contains("header") { "bad-header" } else { "bad-value" };
        let problem = format!("{code} hash.{key}");
        check_policy(&format!("  algorithm: hash\n  hash: {{{key}: ▸{value}}}"), &[&problem]);
    }
    check_policy("  algorithm: hash\n  hash: {bound: ▸\"1.25\"}", &["bad-unit hash.bound"]);
    check_policy("  algorithm: hash\n  hash: {bound: ▸\"100%\"}", &["out-of-range hash.bound"]);
    check_policy("  algorithm: p2c\n  ▸hash: {table: ring}", &["conflict hash"]);
    check_policy("  hash: {table: ring}", &[]);
    check_policy("  algorithm: source_hash\n  hash: {key: ▸path}", &["conflict hash.key"]);
    let pool = "{destinations: [\"a:1\"], load_balancer: {algorithm: hash, hash: {key: path}}}";
    for protocol in ["tcp", "udp", "mqtt"] {
        let listener = format!("name: a, address: \":80\", protocol: {protocol}, pool: p");
        check(&format!("listeners: [▸{{{listener}}}]\npools: {{p: {pool}}}"), &["conflict listeners[0]"]);
    }
    for protocol in ["http", "auto"] {
        let listener = format!("name: a, address: \":80\", protocol: {protocol}, pool: p");
        check(&format!("listeners: [{{{listener}}}]\npools: {{p: {pool}}}"), &[]);
    }
}

#[test]
fn errors_of_a_formula_have_locations() {
    let custom =
        |rest: &str, expected: &[&str]| check_policy(&format!("  algorithm: custom\n{rest}"), expected);
    let wrong = &["bad-value custom.expression"];
    custom("  custom: {expression: \"(in_flight + 1) / weight\"}", &[]);
    custom("  custom: {expression: (in_flight + ▸wait) / weight}", wrong);
    custom("  custom: {expression: 'in_flight > 1 ? 1▸'}", wrong);
    custom("  custom: {expression: \"▸in_flight > 1\"}", wrong);
    custom("  custom: {expression: ▸\"${SECRET}\"}", wrong);
    custom("  custom: {expression: ▸5}", &["wrong-type custom.expression"]);
    custom("  ▸custom: {}", &["missing-key custom.expression"]);
    check_policy("  custom: {expression: in_flight}", &[]);
    check_policy("  algorithm: p2c\n  ▸custom: {expression: in_flight}", &["conflict custom"]);
    check(
        "listen: \":80\"\n▸destinations: [\"a:1\"]\nload_balancer: {algorithm: custom}",
        &["missing-key destinations"],
    );
    let pool = "listeners: [{name: a, address: \":80\", pool: p}]\npools: {p: {destinations: [\"a:1\"], LB}}";
    let lb = "▸load_balancer: {algorithm: custom}";
    check(&pool.replace("LB", lb), &["missing-key pools.p.load_balancer"]);
    assert_eq!(
        help(
            "listen: \":80\"\ndestinations: [\"a:1\"]\nload_balancer: {algorithm: custom, custom: {expression: inflight}}"
        ),
        "did you mean `in_flight`?"
    );
}

#[test]
fn the_overload_threshold_is_above_the_recovery_threshold() {
    check_policy("  overload: true", &[]);
    check_policy("  overload: {threshold: 70%}\n  load_reports: {max_age: 5s}", &[]);
    check_policy("  overload: {threshold: ▸0}", &["out-of-range overload.threshold"]);
    check_policy("  overload: {threshold: 50%, recover: ▸60%}", &["conflict overload.recover"]);
    check_policy("  overload: {▸treshold: 50%}", &["unknown-key overload.treshold"]);
    check_policy("  load_reports: {max_age: ▸1ms}", &["out-of-range load_reports.max_age"]);
    let text = "listen: \":80\"\ndestinations: [\"a:1\"]\nload_balancer: {overload: OVERLOAD}";
    let overload = |block: &str| {
        load_text(&text.replace("OVERLOAD", block)).config.expect("a valid configuration").pools[0]
            .load
            .overload
    };
    let recover = overload("{threshold: 70%}").expect("on").recover;
    assert!((recover - 0.6).abs() < 1e-9, "the default distance is kept: {recover}");
    assert_eq!((overload("false"), overload("{enabled: false, threshold: 50%}")), (None, None));
}

#[test]
fn orca_reports_require_http_listeners() {
    check_policy("  load_reports: {orca: true, max_age: 5s}", &[]);
    check_policy("  load_reports: {orca: ▸maybe}", &["wrong-type load_reports.orca"]);
    check_policy("  load_reports: {▸orcas: true}", &["unknown-key load_reports.orcas"]);
    let with = |protocol: &str, orca: bool| {
        format!(
            "listeners: [{{name: web, address: \":80\", protocol: {protocol}, pool: p}}]\n\
             pools: {{p: {{destinations: [\"a:1\"], load_balancer: {{load_reports: {{orca: {orca}}}}}}}}}"
        )
    };
    check(&with("http", true), &[]);
    check(&with("auto", true), &[]);
    check(&with("tcp", false), &[]);
    for protocol in ["tcp", "udp", "mqtt"] {
        let text = with(protocol, true).replace("[{name", "[▸{name");
        check(&text, &["conflict listeners[0]"]);
    }
}

#[test]
fn keys_of_later_versions_are_reported_as_such() {
    check_short(
        "▸kafka: {}\n▸state: {}\nadmin: {▸tokens: []}",
        &["not-available-yet kafka", "not-available-yet state", "not-available-yet admin.tokens"],
    );
    check_policy("  ▸session_affinity: x", &["not-available-yet session_affinity"]);
    check_listener("▸http3: true", &["not-available-yet http3"]);
    for key in ["redirect", "deny", "rate_limit", "timeout", "pools"] {
        check_route(&format!("{{▸{key}: x}}"), &[format!("not-available-yet [0].{key}").as_str()]);
    }
    check_route("{pool: api, match: {▸source: []}}", &["not-available-yet [0].match.source"]);
    let loaded = load_text("listen: \":80\"\ndestinations: [\"a:1\"]\nkafka: {}");
    assert_eq!(loaded.problems[0].message, "`kafka` is not available in this version yet");
}

#[test]
fn the_hedge_delay_is_a_quantile_or_a_duration() {
    for valid in ["p95", "p50", "p99.9", "30ms", "1s"] {
        check_policy(&format!("  hedge: {{after: {valid}}}"), &[]);
    }
    for invalid in ["p", "p9x", "p+95", "soon", "95%"] {
        check_policy(&format!("  hedge: {{after: ▸{invalid}}}"), &["bad-value hedge.after"]);
    }
    for far in ["p49", "p100", "10us"] {
        check_policy(&format!("  hedge: {{after: ▸{far}}}"), &["out-of-range hedge.after"]);
    }
    check_policy("  hedge: {max: ▸4}", &["out-of-range hedge.max"]);
    check_policy("  hedge: {▸afer: p95}", &["unknown-key hedge.afer"]);
}

#[test]
fn inactive_keys_of_the_specification_are_warned_of_when_they_are_on() {
    let policy = |on: &str| {
        "  ▸dynamic_adjustment: ON\n  \
         ▸performance_monitoring: ON"
            .replace("ON", on)
    };
    check_policy(&policy("false").replace('▸', ""), &[]);
    check_policy(
        &policy("true"),
        &["not-active-yet dynamic_adjustment", "not-active-yet performance_monitoring"],
    );
}

#[test]
fn grpc_web_requires_an_http2_pool() {
    let with = |keys: &str| {
        format!(
            "listeners: [{{name: web, address: \":80\", pool: p}}]\npools: {{p: {{{keys}, destinations: [\"a:1\"]}}}}"
        )
    };
    check(&with("protocol: http2, grpc_web: translate"), &[]);
    check(&with("grpc_web: pass, protocol: http2"), &[]);
    check(&with("grpc_web: ▸translate"), &["conflict pools.p.grpc_web"]);
    check(&with("protocol: http1, grpc_web: ▸pass"), &["conflict pools.p.grpc_web"]);
    check(&with("protocol: http2, grpc_web: ▸maybe"), &["bad-value pools.p.grpc_web"]);
}

#[test]
fn keys_of_other_check_protocols_are_rejected() {
    check_policy(
        "  health_monitoring: {protocol: grpc, path: ▸/up, send: ▸x}",
        &["conflict health_monitoring.path", "conflict health_monitoring.send"],
    );
    for other in ["", "protocol: tcp, ", "protocol: http, ", "path: /up, "] {
        check_policy(
            &format!("  health_monitoring: {{{other}service: ▸a.B}}"),
            &["conflict health_monitoring.service"],
        );
    }
    check_policy(
        "  health_monitoring: {protocol: grpc, service: ▸\"a\\nb\"}",
        &["bad-value health_monitoring.service"],
    );
    check_policy(
        &format!("  health_monitoring: {{protocol: grpc, service: ▸{}}}", "x".repeat(257)),
        &["too-large health_monitoring.service"],
    );
}

#[test]
fn schedule_keys_of_checks_are_checked() {
    let valid = "check_interval: 5s, fast_interval: 1s, down_interval: 1m, jitter: 10%, max_concurrent: 8, start: down";
    check_policy(&format!("  health_monitoring: {{{valid}}}"), &[]);
    for (keys, problem) in [
        ("check_interval: 1s, fast_interval: ▸2s", "conflict health_monitoring.fast_interval"),
        ("fast_interval: ▸1ms", "out-of-range health_monitoring.fast_interval"),
        ("down_interval: ▸30", "bad-unit health_monitoring.down_interval"),
        ("jitter: ▸60%", "out-of-range health_monitoring.jitter"),
        ("max_concurrent: ▸0", "out-of-range health_monitoring.max_concurrent"),
        ("start: ▸up", "bad-value health_monitoring.start"),
    ] {
        check_policy(&format!("  health_monitoring: {{{keys}}}"), &[problem]);
    }
    check_policy("  outlier_detection: {unresponsive_after: 500ms}", &[]);
    check_policy("  outlier_detection: {unresponsive_after: none}", &[]);
    check_policy(
        "  outlier_detection: {unresponsive_after: ▸1ms}",
        &["out-of-range outlier_detection.unresponsive_after"],
    );
    check_policy(
        "  outlier_detection: {unresponsive_after: ▸never}",
        &["bad-unit outlier_detection.unresponsive_after"],
    );
}

#[test]
fn content_keys_of_checks_are_checked() {
    for valid in [
        "headers: {x-a: b, user-agent: me}, expect_body: fine",
        "protocol: mqtt",
        "protocol: mqtt, username: me, password: x",
    ] {
        check_policy(&format!("  health_monitoring: {{{valid}}}"), &[]);
    }
    let long = format!("expect_body: ▸{}", "x".repeat(1401));
    for (keys, problem) in [
        ("protocol: tcp, ▸headers: {a: b}", "conflict health_monitoring.headers"),
        ("headers: {▸host: a}", "bad-header health_monitoring.headers.host"),
        ("headers: {▸connection: close}", "bad-header health_monitoring.headers.connection"),
        ("method: HEAD, expect_body: ▸x", "conflict health_monitoring.expect_body"),
        ("protocol: mqtt, path: ▸/x", "conflict health_monitoring.path"),
        ("path: /x, username: ▸me", "conflict health_monitoring.username"),
        ("protocol: mqtt, password: ▸x", "missing-key health_monitoring.password"),
        ("protocol: ▸mqqt", "bad-value health_monitoring.protocol"),
        (&long, "too-large health_monitoring.expect_body"),
    ] {
        check_policy(&format!("  health_monitoring: {{{keys}}}"), &[problem]);
    }
}

#[test]
fn checks_of_the_embedding_program_are_accepted() {
    let text =
        "listen: \":80\"\ndestinations: [\"a:1\"]\nload_balancer: {health_monitoring: {protocol: mine}}";
    let words = plimsoll_config::Extensions { checks: vec!["mine"], ..Default::default() };
    let loaded = plimsoll_config::load_with(text, "f", "".as_ref(), &|_| None, &words);
    assert!(loaded.config.is_some(), "{:?}", loaded.problems);
    let loaded = plimsoll_config::load(text, "f", "".as_ref(), &|_| None);
    assert!(loaded.config.is_none());
}

#[test]
fn useless_limits_are_rejected() {
    let pool = |limits: &str, destination: &str, expected: &[&str]| {
        let listeners = "listeners: [{name: a, address: \":80\", pool: a}]";
        let pool = format!("{{limits: {limits}, destinations: [{destination}]}}");
        check(&format!("{listeners}\npools: {{a: {pool}}}"), expected);
    };
    pool("{requests: 5, pending: 0}", "\"a:1\"", &[]);
    pool("{requests: 5, pending: 0, wait: ▸2s}", "\"a:1\"", &["conflict pools.a.limits.wait"]);
    pool("{requests: ▸-1}", "\"a:1\"", &["out-of-range pools.a.limits.requests"]);
    pool("{requests: 5, ▸max: 2}", "\"a:1\"", &["unknown-key pools.a.limits.max"]);
    pool("{pending: ▸5}", "\"a:1\"", &["conflict pools.a.limits.pending"]);
    pool("{retries: 5, wait: ▸5s}", "\"a:1\"", &["conflict pools.a.limits.wait"]);
    let udp = "listeners: [▸{name: a, address: \":80\", protocol: udp, pool: a}]";
    let limited = "pools: {a: {limits: {per_destination: {connections: 1}}, destinations: [\"a:1\"]}}";
    check(&format!("{udp}\n{limited}"), &["conflict listeners[0]"]);
    pool("{pending: 5}", "{address: \"a:1\", limits: {requests: 1}}", &[]);
    pool("{pending: 5, per_destination: {requests: 1}}", "\"a:1\"", &[]);
    pool(
        "{requests: 5}",
        "{address: \"a:1\", limits: {▸pending: 1}}",
        &["unknown-key pools.a.destinations[0].limits.pending"],
    );
}

#[test]
fn zone_overflow_and_subset_keys_are_checked() {
    check_policy("  zone_aware: {spill_over_at: ▸0}", &["out-of-range zone_aware.spill_over_at"]);
    check_policy("  zone_aware: {keys: ▸all}", &["bad-value zone_aware.keys"]);
    check_policy("  zone_aware: ▸9", &["wrong-type zone_aware"]);
    check_policy("  overprovision: ▸1.4", &["wrong-type overprovision"]);
    check_policy("  overprovision: ▸\"90%\"", &["out-of-range overprovision"]);
    check("zone: ▸\"\"\nlisten: \":80\"\ndestinations: [\"a:1\"]", &["bad-value zone"]);
    check(
        "listeners: [{name: a, address: \":80\", pool: p}]\npools: {p: {destinations: [\"a:1\"], \
         load_balancer: {▸zone_aware: {spill_over_at: 9}}}}",
        &["conflict pools.p.load_balancer.zone_aware"],
    );
    check_route("{pool: api, ▸subset: {}}", &["bad-value [0].subset"]);
    check_route("{pool: api, subset_fallback: ▸any}", &["conflict [0].subset_fallback"]);
    check(
        "listeners: [▸{name: a, address: \":80\", routes: [{pool: p, subset: {version: \"2\"}}]}]\n\
         pools: {p: {destinations: [{address: \"a:1\", labels: {version: \"1\"}}]}}",
        &["unreachable listeners[0]"],
    );
}
