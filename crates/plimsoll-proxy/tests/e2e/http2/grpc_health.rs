//! Health checks by `grpc.health.v1`: only SERVING passes, and every other response is reported.

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::failover;
use crate::kit::http2::{Http2Destination, ScriptedResponse};
use crate::kit::{
    Balancer, Destination, Setup, TestCa, client_tls, respond_ok, secs, server_tls, wait_until,
};

const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

fn grpc() -> ScriptedResponse {
    ScriptedResponse::new(200).header("content-type", "application/grpc")
}

/// Responds with one message and status OK.
fn respond_message(message: &[u8]) -> ScriptedResponse {
    grpc().body(message.to_vec()).trailer("grpc-status", "0")
}

fn destination(scripted: fn() -> ScriptedResponse) -> Http2Destination {
    Http2Destination::start(move |_| scripted())
}

/// Returns a frequent check with a timeout that suits a busy machine.
fn checks(kind: ProbeKind) -> HealthSpec {
    HealthSpec { timeout: secs(1), ..failover::checks(kind) }
}

fn grpc_check(service: &str) -> ProbeKind {
    ProbeKind::Grpc { service: service.into(), host: None }
}

fn with_checks(destinations: &[&Http2Destination], kind: ProbeKind) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = destinations.iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
        s.pools[0].health = Some(checks(kind));
    })
}

/// Waits for a check of the `n`-th destination; returns the detail of its result.
#[track_caller]
fn last_check_detail(balancer: &Balancer, n: usize) -> String {
    wait_until("the destination was checked", || {
        let counts = balancer.destination(n).checks;
        counts.passed + counts.failed > 0
    });
    let report = balancer.destination(n).report.expect("the pool reports");
    report.last_check.expect("the destination was checked").detail().to_owned()
}

#[test]
fn serving_passes_and_each_check_has_its_own_connection() {
    let (healthy, failing) =
        (destination(|| respond_message(SERVING)), destination(|| respond_message(b"\0\0\0\0\x02\x08\x02")));
    let balancer = with_checks(&[&healthy, &failing], grpc_check("shop.Cart")).start();
    wait_until("the failing destination is down", || balancer.destination(1).status.as_str() == "down");
    wait_until("the other destination was checked", || balancer.destination(0).checks.passed > 2);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    assert_eq!(balancer.pools()[0].check_type, Some("grpc"));
    let request = &healthy.requests()[0];
    assert_eq!(request.head.method(), "POST");
    let address = format!("http://127.0.0.1:{}/grpc.health.v1.Health/Check", healthy.port());
    assert_eq!(request.head.uri().to_string(), address);
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "1000m"),
        ("user-agent", "plimsoll-health"),
    ] {
        assert_eq!(request.head.headers()[name], value, "{name}");
    }
    assert_eq!(request.body, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    drop(balancer);
    assert!(healthy.connections() >= 3);
    wait_until("no connection is open", || healthy.open() == 0);
}

#[test]
fn every_other_response_fails_with_its_reason() {
    type Row = (fn() -> ScriptedResponse, &'static str);
    let table: [Row; 15] = [
        (|| respond_message(b"\0\0\0\0\x02\x08\x02"), "responded NOT_SERVING"),
        (|| respond_message(b"\0\0\0\0\x02\x08\x03"), "responded SERVICE_UNKNOWN"),
        (|| respond_message(b"\0\0\0\0\0"), "responded UNKNOWN"),
        (|| grpc().header("grpc-status", "5"), "responded NOT_FOUND"),
        (|| grpc().header("grpc-status", "12").header("grpc-message", "no such"), "UNIMPLEMENTED: no such"),
        (|| grpc().body(SERVING.to_vec()).trailer("grpc-status", "14"), "responded UNAVAILABLE"),
        (|| grpc().body(SERVING.to_vec()), "without a grpc-status"),
        (|| grpc().trailer("grpc-status", "0"), "OK without a message"),
        (|| ScriptedResponse::new(503).header("grpc-status", "0"), "responded 503"),
        (|| ScriptedResponse::new(200).body(b"<html>".to_vec()), "not gRPC"),
        (|| respond_message(b"\0\0\0\0\x02\x08"), "malformed"),
        (|| respond_message(b"\x01\0\0\0\x02\x08\x01"), "compressed"),
        (|| respond_message(&[0; 10_000]), "too long"),
        (|| ScriptedResponse::reset(h2::Reason::REFUSED_STREAM), "no HTTP/2 response"),
        (|| respond_message(SERVING).after(secs(5)), "no response within 1000 ms"),
    ];
    let destinations: Vec<_> = table.iter().map(|&(scripted, _)| destination(scripted)).collect();
    let balancer = with_checks(&destinations.iter().collect::<Vec<_>>(), grpc_check("")).start();
    for (n, (_, why)) in table.iter().enumerate() {
        let seen = last_check_detail(&balancer, n);
        assert!(seen.contains(why), "{why}: {seen}");
        assert_eq!(balancer.destination(n).checks.passed, 0, "{why}");
    }
}

#[test]
fn destination_without_http_2_is_reported() {
    let http1 = Destination::start(|conn| {
        conn.read();
        conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let balancer = Setup::http(&[&http1]).with(|s| s.pools[0].health = Some(checks(grpc_check("")))).start();
    let seen = last_check_detail(&balancer, 0);
    assert!(seen.contains("no HTTP/2 response"), "{seen}");
}

#[test]
fn http_1_pool_may_be_checked_by_grpc_at_another_port_and_host() {
    let (server, health) = (Destination::start(respond_ok("ok")), destination(|| respond_message(SERVING)));
    let kind = ProbeKind::Grpc { service: "".into(), host: Some("inside.test".into()) };
    let balancer = Setup::http(&[&server])
        .with(|s| {
            let mut spec = checks(kind);
            spec.port = Some(health.port());
            s.pools[0].health = Some(spec);
        })
        .start();
    wait_until("the destination was checked", || balancer.destination(0).checks.passed > 0);
    let request = &health.requests()[0];
    assert_eq!(request.head.uri().authority().map(|a| a.as_str()), Some("inside.test"));
    assert_eq!(request.body, b"\0\0\0\0\0");
    assert_eq!(server.connections(), 0);
}

/// Starts a TLS terminator in front of an HTTP/2 destination.
fn behind_tls(destination: &Http2Destination, ca: &TestCa) -> Balancer {
    let files = ca.issue(&["inside.test"]);
    with_checks(&[destination], ProbeKind::Tcp)
        .with(|s| {
            s.pools[0].health = None;
            s.listeners[0].tls = Some(server_tls(&[&files]));
        })
        .start()
}

#[test]
fn checks_over_tls_verify_like_the_pool_and_negotiate_http_2() {
    let (ca, other_ca) = (TestCa::new("ca"), TestCa::new("stranger"));
    let health = destination(|| respond_message(SERVING));
    let terminator = behind_tls(&health, &ca);
    let http1 = TestCa::server(&ca.issue(&["inside.test"]), None);
    let without_http2 = Destination::start_tls(http1, |conn| while conn.read() {});
    // The pool's own protocol is HTTP/1, so its requests would negotiate another protocol.
    let start_trusting = |believed: &TestCa| {
        Setup::http(&[&without_http2])
            .with(|s| {
                let mut secured = health.as_member(1);
                secured.address = terminator.endpoint().as_destination();
                s.pools[0].destinations.push(secured);
                s.pools[0].tls = Some(client_tls(believed, "inside.test"));
                s.pools[0].health = Some(checks(grpc_check("")));
            })
            .start()
    };
    let balancer = start_trusting(&ca);
    wait_until("the destination was checked", || balancer.destination(1).checks.passed > 0);
    assert_eq!(health.requests()[0].head.headers()["x-forwarded-proto"], "https");
    let seen = last_check_detail(&balancer, 0);
    assert!(seen.contains("does not support HTTP/2"), "{seen}");
    let balancer = start_trusting(&other_ca);
    let seen = last_check_detail(&balancer, 1);
    assert!(seen.contains("TLS handshake failed"), "{seen}");
}
