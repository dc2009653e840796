//! Checks by `grpc.health.v1`, and why each answer but SERVING fails.

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::failover;
use crate::kit::http2::{Http2Destination, Played};
use crate::kit::{Authority, Balancer, Destination, Setup, believes, hello, secs, serves, until};

const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

fn grpc() -> Played {
    Played::answer(200).header("content-type", "application/grpc")
}

/// One message, and the end as it should be.
fn says(message: &[u8]) -> Played {
    grpc().body(message.to_vec()).trailer("grpc-status", "0")
}

fn destination(played: fn() -> Played) -> Http2Destination {
    Http2Destination::start(move |_| played())
}

/// Quick checks, and time enough for an answer on a busy machine.
fn checks(kind: ProbeKind) -> HealthSpec {
    HealthSpec { timeout: secs(1), ..failover::checks(kind) }
}

fn asks(service: &str) -> ProbeKind {
    ProbeKind::Grpc { service: service.into(), host: None }
}

fn checked(destinations: &[&Http2Destination], kind: ProbeKind) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = destinations.iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
        s.pools[0].health = Some(checks(kind));
    })
}

/// What was seen at the last check of the `n`-th destination, once there was one.
#[track_caller]
fn seen_at(balancer: &Balancer, n: usize) -> String {
    until("it was checked", || {
        let counts = balancer.destination(n).checks;
        counts.passed + counts.failed > 0
    });
    let report = balancer.destination(n).report.expect("the pool reports");
    report.last_check.expect("it was checked").detail().to_owned()
}

#[test]
fn serving_passes_and_every_check_has_a_connection_of_its_own() {
    let (well, ill) = (destination(|| says(SERVING)), destination(|| says(b"\0\0\0\0\x02\x08\x02")));
    let balancer = checked(&[&well, &ill], asks("shop.Cart")).start();
    until("the ill one is down", || balancer.destination(1).status.as_str() == "down");
    until("the other one was asked", || balancer.destination(0).checks.passed > 2);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    assert_eq!(balancer.pools()[0].check_type, Some("grpc"));
    let asked = &well.requests()[0];
    assert_eq!(asked.head.method(), "POST");
    let address = format!("http://127.0.0.1:{}/grpc.health.v1.Health/Check", well.port());
    assert_eq!(asked.head.uri().to_string(), address);
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "1000m"),
        ("user-agent", "plimsoll-health"),
    ] {
        assert_eq!(asked.head.headers()[name], value, "{name}");
    }
    assert_eq!(asked.body, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    drop(balancer);
    assert!(well.connections() >= 3);
    until("none is left", || well.open() == 0);
}

#[test]
fn every_other_answer_fails_and_says_why() {
    type Row = (fn() -> Played, &'static str);
    let table: [Row; 15] = [
        (|| says(b"\0\0\0\0\x02\x08\x02"), "responded NOT_SERVING"),
        (|| says(b"\0\0\0\0\x02\x08\x03"), "responded SERVICE_UNKNOWN"),
        (|| says(b"\0\0\0\0\0"), "responded UNKNOWN"),
        (|| grpc().header("grpc-status", "5"), "responded NOT_FOUND"),
        (|| grpc().header("grpc-status", "12").header("grpc-message", "no such"), "UNIMPLEMENTED: no such"),
        (|| grpc().body(SERVING.to_vec()).trailer("grpc-status", "14"), "responded UNAVAILABLE"),
        (|| grpc().body(SERVING.to_vec()), "without a grpc-status"),
        (|| grpc().trailer("grpc-status", "0"), "OK without a message"),
        (|| Played::answer(503).header("grpc-status", "0"), "responded 503"),
        (|| Played::answer(200).body(b"<html>".to_vec()), "not gRPC"),
        (|| says(b"\0\0\0\0\x02\x08"), "malformed"),
        (|| says(b"\x01\0\0\0\x02\x08\x01"), "compressed"),
        (|| says(&[0; 10_000]), "too long"),
        (|| Played::reset(h2::Reason::REFUSED_STREAM), "no HTTP/2 response"),
        (|| says(SERVING).after(secs(5)), "no response within 1000 ms"),
    ];
    let destinations: Vec<_> = table.iter().map(|&(played, _)| destination(played)).collect();
    let balancer = checked(&destinations.iter().collect::<Vec<_>>(), asks("")).start();
    for (n, (_, why)) in table.iter().enumerate() {
        let seen = seen_at(&balancer, n);
        assert!(seen.contains(why), "{why}: {seen}");
        assert_eq!(balancer.destination(n).checks.passed, 0, "{why}");
    }
}

#[test]
fn another_protocol_is_told() {
    let http1 = Destination::start(|visit| {
        visit.read();
        visit.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let balancer = Setup::http(&[&http1]).with(|s| s.pools[0].health = Some(checks(asks("")))).start();
    let seen = seen_at(&balancer, 0);
    assert!(seen.contains("no HTTP/2 response"), "{seen}");
}

#[test]
fn a_pool_of_http_1_is_asked_by_grpc_at_another_port_and_by_another_name() {
    let (serves, health) = (Destination::start(hello("ok")), destination(|| says(SERVING)));
    let kind = ProbeKind::Grpc { service: "".into(), host: Some("inside.test".into()) };
    let balancer = Setup::http(&[&serves])
        .with(|s| {
            let mut spec = checks(kind);
            spec.port = Some(health.port());
            s.pools[0].health = Some(spec);
        })
        .start();
    until("it was asked", || balancer.destination(0).checks.passed > 0);
    let asked = &health.requests()[0];
    assert_eq!(asked.head.uri().authority().map(|a| a.as_str()), Some("inside.test"));
    assert_eq!(asked.body, b"\0\0\0\0\0");
    assert_eq!(serves.connections(), 0);
}

/// TLS before a destination of HTTP/2, as anybody might put it there.
fn behind_tls(destination: &Http2Destination, authority: &Authority) -> Balancer {
    let files = authority.issue(&["inside.test"]);
    checked(&[destination], ProbeKind::Tcp)
        .with(|s| {
            s.pools[0].health = None;
            s.listeners[0].tls = Some(serves(&[&files]));
        })
        .start()
}

#[test]
fn within_tls_the_rules_of_the_pool_hold_and_http_2_is_agreed_on() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let health = destination(|| says(SERVING));
    let terminator = behind_tls(&health, &authority);
    let http1 = Authority::server(&authority.issue(&["inside.test"]), None);
    let without_http2 = Destination::start_tls(http1, |visit| while visit.read() {});
    // The pool's own protocol is HTTP/1 here, so its requests would agree on something else.
    let asked_by = |believed: &Authority| {
        Setup::http(&[&without_http2])
            .with(|s| {
                let mut secured = health.as_member(1);
                secured.address = terminator.place().as_destination();
                s.pools[0].destinations.push(secured);
                s.pools[0].tls = Some(believes(believed, "inside.test"));
                s.pools[0].health = Some(checks(asks("")));
            })
            .start()
    };
    let balancer = asked_by(&authority);
    until("it was asked", || balancer.destination(1).checks.passed > 0);
    assert_eq!(health.requests()[0].head.headers()["x-forwarded-proto"], "https");
    let seen = seen_at(&balancer, 0);
    assert!(seen.contains("HTTP/2 is not spoken there"), "{seen}");
    let balancer = asked_by(&stranger);
    let seen = seen_at(&balancer, 1);
    assert!(seen.contains("TLS handshake failed"), "{seen}");
}
