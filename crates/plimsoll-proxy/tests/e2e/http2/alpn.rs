//! Destinations that choose within TLS what is spoken to them. One that chooses HTTP/2 is another proxy of this kind.

use std::sync::Arc;

use plimsoll_config::model::{CertificateFiles, DestinationAddress, PoolProtocol, Protocol};

use crate::failover::http_checks;
use crate::kit::http2::{Http2Client, get as get2};
use crate::kit::{
    Authority, Balancer, Destination, Gate, Place, Setup, believes, get, hello, ms, ok, post, serves, until,
};

/// Chooses HTTP/2, for it is asked in that order.
fn chooses_http2(files: &CertificateFiles, inner: &Destination) -> Setup {
    Setup::http(&[inner]).with(|s| s.listeners[0].tls = Some(serves(&[files])))
}

/// Chooses nothing, which means HTTP/1.1: bytes are passed on as they are.
fn chooses_nothing(files: &CertificateFiles, inner: &Destination) -> Setup {
    chooses_http2(files, inner).with(|s| {
        s.listeners[0].protocol = Protocol::Tcp;
        (s.listeners[0].timeouts.idle, s.pools[0].timeouts.idle) = (ms(1_000), ms(1_000));
    })
}

fn before(authority: &Authority, inner: &Balancer) -> Setup {
    let Place::Tcp(address) = inner.place() else { panic!("a TCP listener") };
    Setup::http(&[&Destination::absent(hello("never"))]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Auto;
        s.pools[0].tls = Some(believes(authority, "test"));
        s.pools[0].destinations[0].address = DestinationAddress::Socket(address);
    })
}

const CHUNKS: &str = "POST /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n";

/// Ten requests at once, by one client of HTTP/2; answers how many connections they took to `inner`.
fn ten_at_once(outer: &Balancer, inner: &Balancer, gate: &Gate) -> u64 {
    let mut client = Http2Client::connect(outer);
    let streams: Vec<_> = (0..10).map(|_| client.begin(get2("/wait"), true).expect("room")).collect();
    client.idle(ms(10));
    until("all are there", || inner.destination(0).in_flight == 10);
    let taken = inner.active();
    gate.open();
    for stream in streams {
        assert_eq!(client.finish(stream).expect("an answer").text(), "done");
    }
    taken
}

/// Waits at the gate, asked for `/wait`; sends bodies back.
fn patient(gate: &Gate) -> Destination {
    let gate = gate.clone();
    Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            if request.target == "/wait" {
                gate.pass();
                visit.send(ok("done"));
                continue;
            }
            visit.send(ok(&String::from_utf8_lossy(&request.body)));
        }
    })
}

#[test]
fn who_chooses_http_2_shares_a_connection_and_who_does_not_has_one_for_each() {
    let authority = Authority::new("ca");
    let files = authority.issue(&["test"]);
    for (shared, expected) in [(true, 1), (false, 10)] {
        let gate = Gate::default();
        let destination = patient(&gate);
        let setup = if shared { chooses_http2 } else { chooses_nothing };
        let inner = setup(&files, &destination).start();
        let outer = before(&authority, &inner).start();
        assert_eq!(ten_at_once(&outer, &inner, &gate), expected);
        let mut client = outer.connect();
        for n in 0..3 {
            client.send(post("/", "whole"));
            assert_eq!(client.answer().text(), "whole", "{n}");
            client.send(CHUNKS);
            assert_eq!(client.answer().text(), "abcde", "{n}");
        }
        let mut client = Http2Client::connect(&outer);
        let request = http::Request::post("http://test/").body(()).expect("a request");
        assert_eq!(client.ask(request, b"unframed").expect("an answer").text(), "unframed");
        let chunked = destination.requests().into_iter().filter(|request| request.target == "/c");
        for request in chunked {
            assert_eq!((request.body.as_slice(), request.trailers.one("x-t")), (&b"abcde"[..], Some("1")));
        }
        assert_eq!(inner.active(), expected, "and no more were opened");
    }
}

#[test]
fn http_1_chosen_by_name_is_understood_too() {
    let authority = Authority::new("ca");
    let mut server = Authority::server(&authority.issue(&["test"]), None);
    Arc::get_mut(&mut server).expect("nobody has it yet").alpn_protocols = vec![b"http/1.1".to_vec()];
    let destination = Destination::start_tls(server, hello("ok"));
    let setup = Setup::http(&[&destination]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Auto;
        s.pools[0].tls = Some(believes(&authority, "test"));
        s.pools[0].health = Some(http_checks());
    });
    let balancer = setup.start();
    let mut client = balancer.connect();
    for _ in 0..5 {
        client.send(get("/"));
        assert_eq!(client.answer().text(), "ok");
    }
    until("it was checked", || balancer.destination(0).checks.passed > 1);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
}

#[test]
fn a_destination_may_change_its_mind() {
    let authority = Authority::new("ca");
    let files = authority.issue(&["test"]);
    let gates = [(); 3].map(|()| Gate::default());
    let destinations = gates.each_ref().map(patient);
    let mut inner = chooses_http2(&files, &destinations[0]).start();
    let Place::Tcp(address) = inner.place() else { panic!("a TCP listener") };
    let outer = before(&authority, &inner).start();
    let place = |s: &mut Setup| {
        s.listeners[0].addresses = vec![plimsoll_config::model::ListenAddress::Socket(address)];
    };
    assert_eq!(ten_at_once(&outer, &inner, &gates[0]), 1);
    for (n, choice) in [(1, chooses_nothing as fn(&_, &_) -> _), (2, chooses_http2)] {
        drop(inner);
        inner = choice(&files, &destinations[n]).with(place).start();
        // The first to come finds out; a POST that cannot have left is asked again.
        for _ in 0..3 {
            assert_eq!(outer.ask(post("/", "again")).text(), "again");
            assert_eq!(outer.ask(CHUNKS).text(), "abcde");
        }
        let expected = if n == 1 { 10 } else { 1 };
        let taken = ten_at_once(&outer, &inner, &gates[n]);
        assert!(taken == expected, "{taken} connections for choice {n}");
    }
}

/// What was kept in chunks for one that chose HTTP/1.1 goes on without them to one that chose HTTP/2.
#[test]
fn a_body_that_is_sent_again_is_framed_for_its_destination() {
    let authority = Authority::new("ca");
    let files = authority.issue(&["test"]);
    let fails = Destination::start_tls(Authority::server(&files, None), |visit| drop(visit.request()));
    let destination = patient(&Gate::default());
    let inner = chooses_http2(&files, &destination).start();
    let outer = before(&authority, &inner)
        .with(|s| {
            let mut second = Setup::http(&[&fails]).pools.remove(0).destinations.remove(0);
            second.name = "fails".into();
            s.pools[0].destinations.push(second);
            s.pools[0].retry.when.empty_response = true;
            s.pools[0].outlier.consecutive_failures = 0;
        })
        .start();
    let mut client = Http2Client::connect(&outer);
    for length in [3, 20_000] {
        let body = "x".repeat(length);
        let tried = fails.requests().len();
        until("the one that fails was tried", || {
            let request = http::Request::put("http://test/").body(()).expect("a request");
            let answer = client.ask(request, body.as_bytes()).expect("an answer");
            assert!((answer.status(), answer.text().len()) == (200, length), "{} bytes", answer.text().len());
            fails.requests().len() > tried
        });
        assert_eq!(fails.requests().last().expect("a request").body.len(), length);
    }
}

#[test]
fn checks_ask_by_what_was_chosen() {
    let authority = Authority::new("ca");
    let files = authority.issue(&["test"]);
    let destination = Destination::start(hello("ok"));
    let inner = chooses_http2(&files, &destination).start();
    let outer = before(&authority, &inner).with(|s| s.pools[0].health = Some(http_checks())).start();
    until("it was checked", || outer.destination(0).checks.passed > 1);
    assert_eq!(outer.destination(0).status.as_str(), "serving");
    assert_eq!(outer.ask(get("/")).text(), "ok");
}

#[test]
fn websocket_goes_by_http_1_wherever_there_is_a_choice() {
    let authority = Authority::new("ca");
    let files = authority.issue(&["test"]);
    let destination = Destination::start(super::websocket::echo);
    let inner = chooses_http2(&files, &destination).start();
    let outer = before(&authority, &inner).start();
    let mut client = Http2Client::connect(&outer);
    let (head, mut tunnel) = client.open("/");
    assert_eq!(head.status(), 200);
    client.hear(&mut tunnel, b"welcome");
    client.say(&mut tunnel, b"hello", false);
    client.hear(&mut tunnel, b"hello");
    let rule = &inner.handle.traffic().routes[0];
    assert_eq!(rule.counts.in_flight, 1);
}
