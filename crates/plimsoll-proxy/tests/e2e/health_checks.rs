//! Active health checks: what they send, which responses pass, and how many run in parallel.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

use plimsoll_config::model::DestinationAddress;
use plimsoll_core::health::{CheckSchedule, HealthSpec, Login, ProbeKind};

use crate::failover::checks;
use crate::kit::{
    Balancer, Connection, Destination, Setup, Stopwatch, get, ms, ok, raise_descriptor_limit, respond_ok,
    secs, wait_until,
};
use crate::mqtt::{connack_accepted, read_packet};

/// Starts a balancer for these destinations and a healthy one, so that none of them is the only one.
fn start_checked(destinations: &[&Destination], health: HealthSpec) -> (Balancer, Destination) {
    let healthy_peer = Destination::start(respond_ok("healthy_peer"));
    let all: Vec<&Destination> = destinations.iter().copied().chain([&healthy_peer]).collect();
    let balancer = Setup::http(&all).with(|s| s.pools[0].health = Some(health)).start();
    let checked_once = |n| {
        let counts = balancer.destination(n).checks;
        counts.passed + counts.failed > 0
    };
    wait_until("all are checked_once", || (0..destinations.len()).all(checked_once));
    (balancer, healthy_peer)
}

fn http_check(headers: &[(&str, &str)], body: Option<&str>) -> HealthSpec {
    checks(ProbeKind::Http {
        method: "GET".into(),
        path: "/health".into(),
        host: None,
        expect: [(200, 299)].into(),
        headers: headers.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
        body: body.map(|text| text.as_bytes().into()),
    })
}

#[test]
fn check_sends_the_configured_headers() {
    let destination = Destination::start(respond_ok("a"));
    let headers = [("authorization", "Bearer x"), ("user-agent", "mine")];
    let (_balancer, _healthy_peer) = start_checked(&[&destination], http_check(&headers, None));
    let request = destination.requests().remove(0);
    assert_eq!(request.fields.all("authorization"), ["Bearer x"]);
    assert_eq!(request.fields.all("user-agent"), ["mine"], "the default is replaced");
    assert_eq!(request.fields.all("accept"), ["*/*"]);
}

#[test]
fn check_searches_the_body_for_the_expected_text() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let late = format!("HTTP/1.1 200 OK\r\n\r\n{}all is well", "x".repeat(40_000));
    let too_late = format!("HTTP/1.1 200 OK\r\n\r\n{}all is well", "x".repeat(64 * 1024));
    let responses: [(String, bool); 8] = [
        (ok("today all is well"), true),
        (ok("all is lost"), false),
        // The expected text does not compensate for a bad status.
        ("HTTP/1.1 503 No\r\ncontent-length: 11\r\n\r\nall is well".to_owned(), false),
        // Chunk boundaries may lie anywhere.
        (format!("{chunked}6\r\nall is\r\n5\r\n well\r\n0\r\n\r\n"), true),
        (format!("{chunked}zz\r\nall is well"), false),
        (late, true),
        (too_late, false),
        // Bytes after the body are not part of it.
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokall is well".to_owned(), false),
    ];
    let destinations: Vec<Destination> = responses
        .iter()
        .map(|(response, _)| {
            let response = response.clone();
            Destination::start(move |conn: &mut Connection| {
                if conn.request().is_some() {
                    conn.send(&response);
                    conn.shutdown_write();
                }
            })
        })
        .collect();
    let all: Vec<&Destination> = destinations.iter().collect();
    let (balancer, _healthy_peer) = start_checked(&all, http_check(&[], Some("all is well")));
    for (n, (response, good)) in responses.iter().enumerate() {
        let seen = balancer.destination(n);
        let start: String = response.chars().take(60).collect();
        assert_eq!(seen.checks.failed == 0, *good, "{start:?}: {:?}", seen.report);
    }
}

/// Starts a broker that sends this response to each CONNECT.
fn broker(response: &'static [u8]) -> Destination {
    Destination::start(move |conn: &mut Connection| {
        if read_packet(conn).is_some() {
            conn.send(response);
            while read_packet(conn).is_some() {}
        }
    })
}

#[test]
fn mqtt_check_passes_if_the_broker_accepts_or_without_login_denies_access() {
    let brokers = [
        broker(connack_accepted(4)),
        broker(&[0x20, 2, 0, 3]),
        broker(&[0x20, 2, 0, 5]),
        broker(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ];
    let all: Vec<&Destination> = brokers.iter().collect();
    let passes = |login: Option<Login>| {
        let (balancer, _healthy_peer) = start_checked(&all, checks(ProbeKind::Mqtt { login }));
        (0..4).map(|n| balancer.destination(n).checks.failed == 0).collect::<Vec<_>>()
    };
    assert_eq!(passes(None), [true, false, true, false]);
    let seen = brokers[0].records()[0].clone();
    let id = &seen[14..seen.len() - 2];
    assert!(seen.starts_with(b"\x10\x23\0\x04MQTT\x04\x02\0\0\0\x17plimsoll"), "{seen:?}");
    assert!(
        id.len() == 23 && id.iter().all(u8::is_ascii_alphanumeric),
        "every broker accepts such an id: {id:?}"
    );
    wait_until("the check sends DISCONNECT", || brokers[0].records()[0].ends_with(&[0xe0, 0]));
    let login = Login { username: "me".into(), password: "secret".into() };
    assert_eq!(passes(Some(login)), [true, false, false, false], "with a login, denied access is a failure");
    let seen = brokers[0].records().pop().expect("a second");
    assert!(seen.windows(12).any(|w| w == b"\0\x02me\0\x06secret"), "{seen:?}");
}

/// Accepts connections and data and never responds, as a stopped process does.
fn never_respond(conn: &mut Connection) {
    conn.read_to_end();
}

#[test]
fn unresponsive_destination_is_detected_before_the_response_timeout() {
    let unresponsive = Destination::start(never_respond);
    let peers = ["b", "c"].map(|name| Destination::start(respond_ok(name)));
    let balancer = Setup::http(&[&unresponsive, &peers[0], &peers[1]])
        .with(|s| {
            let pool = &mut s.pools[0];
            (pool.outlier.consecutive_failures, pool.outlier.unresponsive_after) = (5, Some(ms(200)));
            pool.timeouts.response = secs(60);
        })
        .start();
    let stopwatch = Stopwatch::start();
    let mut held = Vec::new();
    while balancer.destination(0).status.serves() {
        assert!(stopwatch.elapsed() < secs(20), "not detected in time");
        let mut client = balancer.connect();
        client.send(get("/"));
        held.push(client);
        std::thread::sleep(ms(5));
    }
    let reason = balancer.destination(0).report.and_then(|report| report.reason).expect("a reason");
    assert_eq!(reason.as_str(), "unresponsive", "{reason}");
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/")).status, 200);
    }
    // Requests still waiting there are served by another destination.
    unresponsive.kill();
    for mut client in held {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn single_unresponsive_request_triggers_a_check_that_needs_a_response() {
    let unresponsive = Destination::start(never_respond);
    let peer = Destination::start(respond_ok("peer"));
    let ping = ProbeKind::Http {
        method: "OPTIONS".into(),
        path: "*".into(),
        host: None,
        expect: [(100, 599)].into(),
        headers: [].into(),
        body: None,
    };
    let balancer = Setup::http(&[&unresponsive, &peer])
        .with(|s| {
            let schedule = CheckSchedule { fast: Some(ms(50)), ..CheckSchedule::default() };
            s.pools[0].health = Some(HealthSpec {
                check_interval: secs(60),
                failure_threshold: 2,
                probe_if_unresponsive: Some(ping),
                schedule,
                ..checks(ProbeKind::Tcp)
            });
            s.pools[0].outlier.unresponsive_after = Some(ms(200));
            s.pools[0].timeouts.response = secs(60);
        })
        .start();
    wait_until("the first checks pass", || (0..2).all(|n| balancer.destination(n).checks.passed > 0));
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("it is down", || balancer.destination(0).status.as_str() == "down");
    let asked: Vec<Vec<u8>> = unresponsive.records();
    assert!(asked.iter().any(|bytes| bytes.starts_with(b"OPTIONS * HTTP/1.1\r\n")), "{asked:?}");
    assert!(!peer.records().iter().any(|bytes| bytes.starts_with(b"OPTIONS")), "the peer is not suspected");
    for _ in 0..10 {
        assert_eq!(balancer.fetch(get("/")).text(), "peer");
    }
    unresponsive.kill();
    assert_eq!(client.read_response().text(), "peer", "the waiting request is served elsewhere");
}

/// Returns how the proxy ended the connection of a check that received this response.
fn end_of_check_connection(health: HealthSpec, response: &str) -> io::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let healthy_peer = Destination::start(respond_ok("healthy_peer"));
    let _balancer = Setup::http(&[&healthy_peer])
        .with(|s| {
            let address = DestinationAddress::Socket(address);
            s.pools[0].destinations.push(plimsoll_config::model::Destination::new("watched", address));
            s.pools[0].health = Some(health);
        })
        .start();
    let (mut stream, _) = listener.accept().expect("a check");
    let mut buffer = [0; 1024];
    if !response.is_empty() {
        assert!(stream.read(&mut buffer)? > 0, "a request");
        stream.write_all(response.as_bytes())?;
    }
    stream.read(&mut buffer)
}

#[test]
fn finished_checks_reset_their_connections() {
    let reset = |end: io::Result<usize>| end.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
    assert!(reset(end_of_check_connection(checks(ProbeKind::Tcp), "")), "by TCP");
    assert!(reset(end_of_check_connection(http_check(&[], None), &ok("well"))), "by HTTP");
    // The final DISCONNECT must arrive, so the connection is not reset.
    let login = ProbeKind::Mqtt { login: None };
    assert!(!reset(end_of_check_connection(checks(login), "\x20\x02\x00\x00")), "by MQTT");
}

/// Number of simultaneous checks, each with its own destination and connection.
const CHECKS: usize = 1000;

#[test]
fn checks_of_a_thousand_destinations_overlap() {
    raise_descriptor_limit();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    // No check gets a response before all have sent their requests.
    let (arrived, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
    let waiting = (arrived.clone(), gate.clone());
    std::thread::spawn(move || {
        let (arrived, gate) = waiting;
        for stream in listener.incoming().map_while(Result::ok) {
            let (arrived, gate) = (arrived.clone(), gate.clone());
            let serve = move || {
                let mut stream = stream;
                let mut buffer = [0; 1024];
                let asked = stream.read(&mut buffer).is_ok_and(|n| n > 0);
                arrived.fetch_add(usize::from(asked), SeqCst);
                let opened = gate.1.wait_while(gate.0.lock().expect("no panic"), |open| !*open);
                drop(opened.expect("no panic"));
                let _gone = stream.write_all(ok("").as_bytes());
            };
            std::thread::Builder::new().stack_size(64 * 1024).spawn(serve).expect("a thread");
        }
    });
    let healthy_peer = Destination::start(respond_ok("healthy_peer"));
    let balancer = Setup::http(&[&healthy_peer])
        .with(|s| {
            s.pools[0].destinations = (0..CHECKS)
                .map(|n| {
                    let address = DestinationAddress::Socket(address);
                    plimsoll_config::model::Destination::new(format!("d{n}"), address)
                })
                .collect();
            s.pools[0].health =
                Some(HealthSpec { check_interval: secs(10), timeout: secs(10), ..http_check(&[], None) });
        })
        .start();
    let stopwatch = Stopwatch::start();
    wait_until("all checks are in progress at once", || arrived.load(SeqCst) == CHECKS);
    assert!(stopwatch.elapsed() < secs(10), "within one interval: {:?}", stopwatch.elapsed());
    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();
    wait_until("all have passed", || {
        let pool = balancer.pools().remove(0);
        pool.destinations.iter().all(|d| d.checks.passed == 1)
    });
}
