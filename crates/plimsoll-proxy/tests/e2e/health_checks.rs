//! What checks ask on the wire, which answers they take for good, and how many run at once.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

use plimsoll_config::model::DestinationAddress;
use plimsoll_core::health::{CheckSchedule, HealthSpec, Login, ProbeKind};

use crate::failover::checks;
use crate::kit::{
    Balancer, Destination, Setup, Visit, Watch, get, hello, ms, ok, raise_descriptor_limit, secs, until,
};
use crate::mqtt::{accepted, packet};

/// A balancer in front of these and of one that always serves, so that none of them is the only one.
fn checked(destinations: &[&Destination], health: HealthSpec) -> (Balancer, Destination) {
    let company = Destination::start(hello("company"));
    let all: Vec<&Destination> = destinations.iter().copied().chain([&company]).collect();
    let balancer = Setup::http(&all).with(|s| s.pools[0].health = Some(health)).start();
    let asked = |n| {
        let counts = balancer.destination(n).checks;
        counts.passed + counts.failed > 0
    };
    until("all are asked", || (0..destinations.len()).all(asked));
    (balancer, company)
}

fn asks(headers: &[(&str, &str)], body: Option<&str>) -> HealthSpec {
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
fn a_check_brings_the_headers_it_was_given() {
    let destination = Destination::start(hello("a"));
    let headers = [("authorization", "Bearer x"), ("user-agent", "mine")];
    let (_balancer, _company) = checked(&[&destination], asks(&headers, None));
    let request = destination.requests().remove(0);
    assert_eq!(request.fields.all("authorization"), ["Bearer x"]);
    assert_eq!(request.fields.all("user-agent"), ["mine"], "and ours is left out");
    assert_eq!(request.fields.all("accept"), ["*/*"]);
}

#[test]
fn a_check_looks_for_what_it_expects_in_the_body() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let late = format!("HTTP/1.1 200 OK\r\n\r\n{}all is well", "x".repeat(40_000));
    let too_late = format!("HTTP/1.1 200 OK\r\n\r\n{}all is well", "x".repeat(64 * 1024));
    let answers: [(String, bool); 8] = [
        (ok("today all is well"), true),
        (ok("all is lost"), false),
        // What was found does not save a bad status.
        ("HTTP/1.1 503 No\r\ncontent-length: 11\r\n\r\nall is well".to_owned(), false),
        // A chunk ends where it likes.
        (format!("{chunked}6\r\nall is\r\n5\r\n well\r\n0\r\n\r\n"), true),
        (format!("{chunked}zz\r\nall is well"), false),
        (late, true),
        (too_late, false),
        // What follows a body is none of it.
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokall is well".to_owned(), false),
    ];
    let destinations: Vec<Destination> = answers
        .iter()
        .map(|(answer, _)| {
            let answer = answer.clone();
            Destination::start(move |visit: &mut Visit| {
                if visit.request().is_some() {
                    visit.send(&answer);
                    visit.end();
                }
            })
        })
        .collect();
    let all: Vec<&Destination> = destinations.iter().collect();
    let (balancer, _company) = checked(&all, asks(&[], Some("all is well")));
    for (n, (answer, good)) in answers.iter().enumerate() {
        let seen = balancer.destination(n);
        let start: String = answer.chars().take(60).collect();
        assert_eq!(seen.checks.failed == 0, *good, "{start:?}: {:?}", seen.report);
    }
}

/// A broker that answers each CONNECT so.
fn broker(answer: &'static [u8]) -> Destination {
    Destination::start(move |visit: &mut Visit| {
        if packet(visit).is_some() {
            visit.send(answer);
            while packet(visit).is_some() {}
        }
    })
}

#[test]
fn a_broker_that_accepts_serves_and_one_that_does_not_know_us_does_too() {
    let brokers = [
        broker(accepted(4)),
        broker(&[0x20, 2, 0, 3]),
        broker(&[0x20, 2, 0, 5]),
        broker(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ];
    let all: Vec<&Destination> = brokers.iter().collect();
    let passes = |login: Option<Login>| {
        let (balancer, _company) = checked(&all, checks(ProbeKind::Mqtt { login }));
        (0..4).map(|n| balancer.destination(n).checks.failed == 0).collect::<Vec<_>>()
    };
    assert_eq!(passes(None), [true, false, true, false]);
    let seen = brokers[0].records()[0].clone();
    let id = &seen[14..seen.len() - 2];
    assert!(seen.starts_with(b"\x10\x23\0\x04MQTT\x04\x02\0\0\0\x17plimsoll"), "{seen:?}");
    assert!(id.len() == 23 && id.iter().all(u8::is_ascii_alphanumeric), "every broker takes it: {id:?}");
    until("it says goodbye", || brokers[0].records()[0].ends_with(&[0xe0, 0]));
    let login = Login { username: "me".into(), password: "secret".into() };
    assert_eq!(passes(Some(login)), [true, false, false, false], "now it ought to know us");
    let seen = brokers[0].records().pop().expect("a second");
    assert!(seen.windows(12).any(|w| w == b"\0\x02me\0\x06secret"), "{seen:?}");
}

/// Takes connections and whatever comes, and answers nothing, as a stopped process does.
fn takes_all_and_says_nothing(visit: &mut Visit) {
    visit.read_to_end();
}

#[test]
fn a_destination_that_answers_nobody_is_found_long_before_the_time_limit() {
    let gray = Destination::start(takes_all_and_says_nothing);
    let peers = ["b", "c"].map(|name| Destination::start(hello(name)));
    let balancer = Setup::http(&[&gray, &peers[0], &peers[1]])
        .with(|s| {
            let pool = &mut s.pools[0];
            (pool.outlier.consecutive_failures, pool.outlier.unresponsive_after) = (5, Some(ms(200)));
            pool.timeouts.response = secs(60);
        })
        .start();
    let watch = Watch::start();
    let mut held = Vec::new();
    while balancer.destination(0).status.serves() {
        assert!(watch.elapsed() < secs(20), "never found");
        let mut client = balancer.connect();
        client.send(get("/"));
        held.push(client);
        std::thread::sleep(ms(5));
    }
    let reason = balancer.destination(0).report.and_then(|report| report.reason).expect("a reason");
    assert_eq!(reason.as_str(), "unresponsive", "{reason}");
    for _ in 0..20 {
        assert_eq!(balancer.ask(get("/")).status, 200);
    }
    // Who waits there still is answered elsewhere.
    gray.kill();
    for mut client in held {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn one_client_alone_has_a_stopped_destination_checked_for_an_answer() {
    let gray = Destination::start(takes_all_and_says_nothing);
    let peer = Destination::start(hello("peer"));
    let ping = ProbeKind::Http {
        method: "OPTIONS".into(),
        path: "*".into(),
        host: None,
        expect: [(100, 599)].into(),
        headers: [].into(),
        body: None,
    };
    let balancer = Setup::http(&[&gray, &peer])
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
    until("the first checks pass", || (0..2).all(|n| balancer.destination(n).checks.passed > 0));
    let mut client = balancer.connect();
    client.send(get("/"));
    until("it is down", || balancer.destination(0).status.as_str() == "down");
    let asked: Vec<Vec<u8>> = gray.records();
    assert!(asked.iter().any(|bytes| bytes.starts_with(b"OPTIONS * HTTP/1.1\r\n")), "{asked:?}");
    assert!(!peer.records().iter().any(|bytes| bytes.starts_with(b"OPTIONS")), "its peer is in no doubt");
    for _ in 0..10 {
        assert_eq!(balancer.ask(get("/")).text(), "peer");
    }
    gray.kill();
    assert_eq!(client.answer().text(), "peer", "it waited there, and is answered elsewhere");
}

/// How the connection of a check ended that was given this answer.
fn end_of_a_check(health: HealthSpec, answer: &str) -> io::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let company = Destination::start(hello("company"));
    let _balancer = Setup::http(&[&company])
        .with(|s| {
            let one = s.pools[0].destinations[0].clone();
            let address = DestinationAddress::Socket(address);
            s.pools[0].destinations.push(plimsoll_config::model::Destination {
                name: "watched".into(),
                address,
                ..one
            });
            s.pools[0].health = Some(health);
        })
        .start();
    let (mut stream, _) = listener.accept().expect("a check");
    let mut buffer = [0; 1024];
    if !answer.is_empty() {
        assert!(stream.read(&mut buffer)? > 0, "it asks");
        stream.write_all(answer.as_bytes())?;
    }
    stream.read(&mut buffer)
}

#[test]
fn a_check_that_is_over_leaves_nothing_behind() {
    let reset = |end: io::Result<usize>| end.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
    assert!(reset(end_of_a_check(checks(ProbeKind::Tcp), "")), "by TCP");
    assert!(reset(end_of_a_check(asks(&[], None), &ok("well"))), "by HTTP");
    // What is said last must arrive.
    let login = ProbeKind::Mqtt { login: None };
    assert!(!reset(end_of_a_check(checks(login), "\x20\x02\x00\x00")), "by MQTT");
}

/// A thousand checks, each with its own destination and connection.
const CROWD: usize = 1000;

#[test]
fn a_thousand_checks_overlap() {
    raise_descriptor_limit();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    // Nobody is answered before all have asked.
    let (come, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
    let waiting = (come.clone(), gate.clone());
    std::thread::spawn(move || {
        let (come, gate) = waiting;
        for stream in listener.incoming().map_while(Result::ok) {
            let (come, gate) = (come.clone(), gate.clone());
            let visit = move || {
                let mut stream = stream;
                let mut buffer = [0; 1024];
                let asked = stream.read(&mut buffer).is_ok_and(|n| n > 0);
                come.fetch_add(usize::from(asked), SeqCst);
                let opened = gate.1.wait_while(gate.0.lock().expect("no panic"), |open| !*open);
                drop(opened.expect("no panic"));
                let _gone = stream.write_all(ok("").as_bytes());
            };
            std::thread::Builder::new().stack_size(64 * 1024).spawn(visit).expect("a thread");
        }
    });
    let company = Destination::start(hello("company"));
    let balancer = Setup::http(&[&company])
        .with(|s| {
            let one = s.pools[0].destinations[0].clone();
            s.pools[0].destinations = (0..CROWD)
                .map(|n| {
                    let (name, address) = (format!("d{n}").into(), DestinationAddress::Socket(address));
                    plimsoll_config::model::Destination { name, address, ..one.clone() }
                })
                .collect();
            s.pools[0].health =
                Some(HealthSpec { check_interval: secs(10), timeout: secs(10), ..asks(&[], None) });
        })
        .start();
    let watch = Watch::start();
    until("all ask at once", || come.load(SeqCst) == CROWD);
    assert!(watch.elapsed() < secs(10), "within one interval: {:?}", watch.elapsed());
    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();
    until("all have passed", || {
        let pool = balancer.pools().remove(0);
        pool.destinations.iter().all(|d| d.checks.passed == 1)
    });
}
