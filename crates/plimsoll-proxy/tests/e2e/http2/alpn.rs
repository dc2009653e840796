//! ALPN with destinations. The destination that selects HTTP/2 is a second proxy.

use std::sync::Arc;

use plimsoll_config::model::{CertificateFiles, DestinationAddress, PoolProtocol, Protocol};

use crate::failover::http_checks;
use crate::kit::http2::{Http2Client, get as get2};
use crate::kit::{
    Balancer, Destination, Endpoint, Gate, Setup, TestCa, client_tls, get, ms, ok, post, respond_ok,
    server_tls, wait_until,
};

/// Configures a destination that selects HTTP/2, its first choice.
fn accepting_http2(files: &CertificateFiles, inner: &Destination) -> Setup {
    Setup::http(&[inner]).with(|s| s.listeners[0].tls = Some(server_tls(&[files])))
}

/// Configures a destination without ALPN, which implies HTTP/1.1: it forwards bytes unchanged.
fn without_alpn(files: &CertificateFiles, inner: &Destination) -> Setup {
    accepting_http2(files, inner).with(|s| {
        s.listeners[0].protocol = Protocol::Tcp;
        (s.listeners[0].timeouts.idle, s.pools[0].timeouts.idle) = (ms(1_000), ms(1_000));
    })
}

fn in_front_of(ca: &TestCa, inner: &Balancer) -> Setup {
    let Endpoint::Tcp(address) = inner.endpoint() else { panic!("a TCP listener") };
    Setup::http(&[&Destination::absent(respond_ok("never"))]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Auto;
        s.pools[0].tls = Some(client_tls(ca, "test"));
        s.pools[0].destinations[0].address = DestinationAddress::Socket(address);
    })
}

const CHUNKS: &str = "POST /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n";

/// Sends ten concurrent requests on one HTTP/2 connection; returns the number of connections to `inner`.
fn fetch_ten_concurrently(outer: &Balancer, inner: &Balancer, gate: &Gate) -> u64 {
    let mut client = Http2Client::connect(outer);
    let streams: Vec<_> = (0..10).map(|_| client.start_request(get2("/wait"), true).expect("room")).collect();
    client.drive_for(ms(10));
    wait_until("all are there", || inner.destination(0).in_flight == 10);
    let taken = inner.active();
    gate.open();
    for stream in streams {
        assert_eq!(client.read_response(stream).expect("a response").text(), "done");
    }
    taken
}

/// Starts a destination that waits at the gate for `/wait`, and echoes other bodies.
fn start_waiting(gate: &Gate) -> Destination {
    let gate = gate.clone();
    Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.target == "/wait" {
                gate.wait();
                conn.send(ok("done"));
                continue;
            }
            conn.send(ok(&String::from_utf8_lossy(&request.body)));
        }
    })
}

#[test]
fn http_2_destination_shares_one_connection_and_http_1_needs_one_per_request() {
    let ca = TestCa::new("ca");
    let files = ca.issue(&["test"]);
    for (shared, expected) in [(true, 1), (false, 10)] {
        let gate = Gate::default();
        let destination = start_waiting(&gate);
        let setup = if shared { accepting_http2 } else { without_alpn };
        let inner = setup(&files, &destination).start();
        let outer = in_front_of(&ca, &inner).start();
        assert_eq!(fetch_ten_concurrently(&outer, &inner, &gate), expected);
        let mut client = outer.connect();
        for n in 0..3 {
            client.send(post("/", "whole"));
            assert_eq!(client.read_response().text(), "whole", "{n}");
            client.send(CHUNKS);
            assert_eq!(client.read_response().text(), "abcde", "{n}");
        }
        let mut client = Http2Client::connect(&outer);
        let request = http::Request::post("http://test/").body(()).expect("a request");
        assert_eq!(client.fetch(request, b"unframed").expect("a response").text(), "unframed");
        let chunked = destination.requests().into_iter().filter(|request| request.target == "/c");
        for request in chunked {
            assert_eq!((request.body.as_slice(), request.trailers.one("x-t")), (&b"abcde"[..], Some("1")));
        }
        assert_eq!(inner.active(), expected, "no further connections were opened");
    }
}

#[test]
fn http_1_may_be_selected_by_alpn() {
    let ca = TestCa::new("ca");
    let mut server = TestCa::server(&ca.issue(&["test"]), None);
    Arc::get_mut(&mut server).expect("not shared yet").alpn_protocols = vec![b"http/1.1".to_vec()];
    let destination = Destination::start_tls(server, respond_ok("ok"));
    let setup = Setup::http(&[&destination]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Auto;
        s.pools[0].tls = Some(client_tls(&ca, "test"));
        s.pools[0].health = Some(http_checks());
    });
    let balancer = setup.start();
    let mut client = balancer.connect();
    for _ in 0..5 {
        client.send(get("/"));
        assert_eq!(client.read_response().text(), "ok");
    }
    wait_until("the destination was checked", || balancer.destination(0).checks.passed > 1);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
}

#[test]
fn destination_may_change_its_alpn_selection() {
    let ca = TestCa::new("ca");
    let files = ca.issue(&["test"]);
    let gates = [(); 3].map(|()| Gate::default());
    let destinations = gates.each_ref().map(start_waiting);
    let mut inner = accepting_http2(&files, &destinations[0]).start();
    let Endpoint::Tcp(address) = inner.endpoint() else { panic!("a TCP listener") };
    let outer = in_front_of(&ca, &inner).start();
    let listen_at = |s: &mut Setup| {
        s.listeners[0].addresses = vec![plimsoll_config::model::ListenAddress::Socket(address)];
    };
    assert_eq!(fetch_ten_concurrently(&outer, &inner, &gates[0]), 1);
    for (n, choice) in [(1, without_alpn as fn(&_, &_) -> _), (2, accepting_http2)] {
        drop(inner);
        inner = choice(&files, &destinations[n]).with(listen_at).start();
        // The first request detects the change; a POST that cannot have been sent is retried.
        for _ in 0..3 {
            assert_eq!(outer.fetch(post("/", "again")).text(), "again");
            assert_eq!(outer.fetch(CHUNKS).text(), "abcde");
        }
        let expected = if n == 1 { 10 } else { 1 };
        let taken = fetch_ten_concurrently(&outer, &inner, &gates[n]);
        assert!(taken == expected, "{taken} connections with selection {n}");
    }
}

/// A body kept in chunks for an HTTP/1.1 destination is sent without chunk framing to an HTTP/2 one.
#[test]
fn retried_body_is_framed_for_its_destination() {
    let ca = TestCa::new("ca");
    let files = ca.issue(&["test"]);
    let fails = Destination::start_tls(TestCa::server(&files, None), |conn| drop(conn.request()));
    let destination = start_waiting(&Gate::default());
    let inner = accepting_http2(&files, &destination).start();
    let outer = in_front_of(&ca, &inner)
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
        wait_until("the failing destination was tried", || {
            let request = http::Request::put("http://test/").body(()).expect("a request");
            let response = client.fetch(request, body.as_bytes()).expect("a response");
            assert!(
                (response.status(), response.text().len()) == (200, length),
                "{} bytes",
                response.text().len()
            );
            fails.requests().len() > tried
        });
        assert_eq!(fails.requests().last().expect("a request").body.len(), length);
    }
}

#[test]
fn checks_use_the_selected_protocol() {
    let ca = TestCa::new("ca");
    let files = ca.issue(&["test"]);
    let destination = Destination::start(respond_ok("ok"));
    let inner = accepting_http2(&files, &destination).start();
    let outer = in_front_of(&ca, &inner).with(|s| s.pools[0].health = Some(http_checks())).start();
    wait_until("the destination was checked", || outer.destination(0).checks.passed > 1);
    assert_eq!(outer.destination(0).status.as_str(), "serving");
    assert_eq!(outer.fetch(get("/")).text(), "ok");
}

#[test]
fn websocket_prefers_http_1() {
    let ca = TestCa::new("ca");
    let files = ca.issue(&["test"]);
    let destination = Destination::start(super::websocket::echo);
    let inner = accepting_http2(&files, &destination).start();
    let outer = in_front_of(&ca, &inner).start();
    let mut client = Http2Client::connect(&outer);
    let (head, mut tunnel) = client.open_tunnel("/");
    assert_eq!(head.status(), 200);
    client.expect_from_tunnel(&mut tunnel, b"welcome");
    client.send_to_tunnel(&mut tunnel, b"hello", false);
    client.expect_from_tunnel(&mut tunnel, b"hello");
    let rule = &inner.handle.traffic().routes[0];
    assert_eq!(rule.counts.in_flight, 1);
}
