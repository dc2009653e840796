//! The PROXY protocol: accepted from trusted peers only, and sent to destinations.

use plimsoll_config::model::ProxyProtocol;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::kit::{
    Client, Destination, EndKind, Endpoint, Setup, TestCa, client_tls, get, ms, ok, respond_ok, secs,
    server_tls, wait_until,
};

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Encodes a version 2 header for client 192.0.2.7 with these TLVs.
fn v2(tlvs: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, 0x11]);
    header.extend((12 + tlvs.len() as u16).to_be_bytes());
    header.extend([192, 0, 2, 7, 198, 51, 100, 1]);
    header.extend(56_324_u16.to_be_bytes());
    header.extend(443_u16.to_be_bytes());
    header.extend(tlvs);
    header
}

/// Makes the listener accept headers from all local addresses.
fn accepting(setup: Setup) -> Setup {
    accepting_from(setup, "127.0.0.0/8")
}

fn accepting_from(setup: Setup, net: &str) -> Setup {
    setup.with(|s| {
        s.listeners[0].accepts_proxy_protocol = true;
        s.listeners[0].trusted_proxies = vec![net.parse().expect("a network")];
        s.listeners[0].timeouts.header = secs(2);
    })
}

/// Makes the first pool send headers of this version.
fn sending_proxy_header(setup: Setup, version: ProxyProtocol) -> Setup {
    setup.with(|s| s.pools[0].proxy_protocol = version)
}

#[test]
fn header_of_a_trusted_peer_sets_the_client_address() {
    let destination = Destination::start(respond_ok("hi"));
    let balancer = accepting(Setup::http(&[&destination])).start();
    let headers = [V1.as_bytes().to_vec(), v2(b""), v2(&[4, 0, 3, 0, 0, 0])];
    for (n, header) in headers.iter().enumerate() {
        let mut at_once = balancer.connect();
        at_once.send([header, get("/").as_bytes()].concat());
        assert_eq!(at_once.read_response().status, 200, "{n}");
        at_once.send(get("/again"));
        assert_eq!(at_once.read_response().status, 200, "{n}");
        let mut in_pieces = balancer.connect();
        in_pieces.send_in_steps(header, 5, ms(1));
        in_pieces.send(get("/"));
        assert_eq!(in_pieces.read_response().status, 200, "{n}");
    }
    for request in destination.requests() {
        assert_eq!(request.fields.one("x-forwarded-for"), Some("192.0.2.7"), "{request:?}");
    }
    assert_eq!(destination.requests().len(), 9);
}

#[test]
fn local_and_unknown_headers_keep_the_peer_address() {
    let destination = Destination::start(respond_ok("hi"));
    let balancer = accepting(Setup::http(&[&destination])).start();
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        let mut client = balancer.connect();
        client.send([header, get("/").as_bytes()].concat());
        assert_eq!(client.read_response().status, 200);
    }
    for request in destination.requests() {
        assert_eq!(request.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn trusted_peer_must_send_a_valid_header_in_time() {
    let destination = Destination::start(respond_ok("hi"));
    let balancer = accepting(Setup::http(&[&destination])).start();
    let forged = v2(&[3, 0, 4, 1, 2, 3, 4]);
    let bad: [&[u8]; 4] = [get("/").as_bytes(), b"PROXY TCP4 1.2.3.4 5.6.7.8 x 1\r\n", &forged, &[0; 64]]
        .map(|bytes: &[u8]| bytes.to_vec().leak() as &[u8]);
    for bytes in bad {
        let mut client = balancer.connect();
        client.send(bytes);
        assert_eq!(client.read_to_end().kind, EndKind::Reset, "{bytes:?}");
    }
    assert_eq!(balancer.refusals("bad_proxy_header"), 4);
    let mut slow = balancer.connect();
    slow.send("PROXY TCP4 ");
    slow.expect_closed();
    assert_eq!(balancer.refusals("header_timeout"), 1);
    assert_eq!(destination.connections(), 0);
    wait_until("nothing is in progress", || balancer.active() == 0);
}

#[test]
fn header_of_an_untrusted_peer_is_refused() {
    let destination = Destination::start(respond_ok("hi"));
    let balancer = accepting_from(Setup::http(&[&destination]), "192.0.2.0/24").start();
    assert_eq!(balancer.fetch(get("/")).status, 200);
    assert_eq!(destination.only_request().fields.one("x-forwarded-for"), Some("127.0.0.1"));
    for header in [V1.as_bytes().to_vec(), v2(b"")] {
        let mut untrusted = balancer.connect();
        untrusted.send([&header[..], get("/").as_bytes()].concat());
        assert!(matches!(untrusted.read_response().status, 400 | 505), "not a request");
    }
    assert_eq!(destination.requests().len(), 1);
}

#[test]
fn forged_header_never_reaches_a_tcp_destination_complete() {
    let destination = Destination::start(|conn| {
        conn.send("220 ready\r\n");
        conn.read_to_end();
    });
    let balancer = accepting_from(Setup::tcp(&[&destination]), "192.0.2.0/24").start();
    let mut plain = balancer.connect();
    plain.expect("220 ready\r\n");
    plain.send("PROBE\r\n");
    plain.shutdown_write();
    wait_until("it arrived", || destination.records() == [b"PROBE\r\n"]);
    for (n, header) in [V1.as_bytes().to_vec(), v2(b"")].iter().enumerate() {
        let mut at_once = balancer.connect();
        at_once.send(header);
        let _perhaps_the_banner = at_once.read_to_end();
        let mut in_pieces = balancer.connect();
        for byte in header {
            if in_pieces.try_send([*byte]).is_err() {
                break;
            }
            std::thread::sleep(ms(1));
        }
        // A write that hit the reset consumes its error, so that the next read sees an end.
        assert!(matches!(in_pieces.read_to_end().kind, EndKind::Reset | EndKind::Closed));
        wait_until("both are refused", || balancer.refusals("bad_proxy_header") == 2 * (n as u64 + 1));
    }
    wait_until("nothing is in progress", || destination.open() == 0);
    for record in &destination.records()[1..] {
        assert!(record.len() < SIGNATURE.len(), "{record:?}");
    }
}

#[test]
fn header_precedes_the_tls_handshake() {
    let ca = TestCa::new("one");
    let destination = Destination::start(respond_ok("hi"));
    let balancer = accepting(Setup::http(&[&destination]))
        .with(|s| s.listeners[0].tls = Some(server_tls(&[&ca.issue(&["a.test"])])))
        .start();
    let secure = |first: &[u8], client: Client| client.start_tls(first, ca.client(None), "a.test");
    let mut at_once = secure(&v2(b""), balancer.connect()).expect("a handshake");
    at_once.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(at_once.read_response().status, 200);
    let mut separate = balancer.connect();
    separate.send(V1);
    let mut separate = secure(b"", separate).expect("a handshake");
    separate.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(separate.read_response().status, 200);
    for request in destination.requests() {
        assert_eq!(request.fields.one("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(request.fields.one("x-forwarded-proto"), Some("https"));
    }
    assert!(secure(b"", balancer.connect()).is_err(), "a ClientHello without a header is refused");
}

#[test]
fn header_is_sent_in_the_configured_version() {
    let destination = Destination::start(|conn| conn.read_to_end());
    let start_sending =
        |version| sending_proxy_header(accepting(Setup::tcp(&[&destination])), version).start();
    let tlvs = [&[0xe0, 0, 3][..], b"own", &[2, 0, 6], b"a.test"].concat();
    for (version, expected) in [
        (ProxyProtocol::V1, V1.as_bytes().to_vec()),
        (ProxyProtocol::V2, v2(&tlvs)),
        (ProxyProtocol::None, Vec::new()),
    ] {
        let known = destination.connections();
        let balancer = start_sending(version);
        let mut client = balancer.connect();
        client.send([&v2(&[&tlvs[..], &[4, 0, 1, 0]].concat())[..], b"the rest"].concat());
        client.shutdown_write();
        let whole = [&expected[..], b"the rest"].concat();
        wait_until("it arrived", || destination.records().get(known).is_some_and(|r| r.len() >= whole.len()));
        assert_eq!(destination.records()[known], whole, "{version:?}");
    }
}

#[test]
fn header_of_a_direct_client_has_both_its_addresses() {
    let destination = Destination::start(|conn| conn.read_to_end());
    let balancer = sending_proxy_header(Setup::tcp(&[&destination]), ProxyProtocol::V1).start();
    let mut client = balancer.connect();
    client.send("x");
    client.shutdown_write();
    wait_until("it arrived", || destination.records().first().is_some_and(|r| r.ends_with(b"x")));
    let record = String::from_utf8(destination.records()[0].clone()).expect("text");
    let Endpoint::Tcp(address) = balancer.endpoint() else { panic!("an address") };
    let port = address.port();
    let line = record.strip_suffix("\r\nx").expect("a line");
    assert!(
        line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && line.ends_with(&format!(" {port}")),
        "{line}"
    );
}

/// Reads a version 1 header, then responds to each request with the header's client address.
fn respond_proxy_client(conn: &mut crate::kit::Connection) {
    while !conn.buffer.windows(2).any(|two| two == b"\r\n") {
        if !conn.read() {
            return;
        }
    }
    let end = conn.buffer.windows(2).position(|two| two == b"\r\n").expect("just seen") + 2;
    let header = String::from_utf8(conn.buffer.drain(..end).collect()).expect("text");
    let words: Vec<&str> = header.split(' ').collect();
    let client = format!("{}:{}", words[2], words[4]);
    while conn.request().is_some() {
        if !conn.send(ok(&client)) {
            return;
        }
    }
}

#[test]
fn connection_with_a_header_is_reused_for_its_client_only() {
    let destination = Destination::start(respond_proxy_client);
    let balancer = sending_proxy_header(accepting(Setup::http(&[&destination])), ProxyProtocol::V1).start();
    let mut clients: Vec<Client> = (1..=3)
        .map(|n| {
            let mut client = balancer.connect();
            client.send(format!("PROXY TCP4 192.0.2.{n} 198.51.100.1 {n}000 80\r\n"));
            client
        })
        .collect();
    for round in 0..4 {
        for (n, client) in (1..).zip(&mut clients) {
            client.send(get("/"));
            let response = client.read_response();
            assert_eq!(response.body, format!("192.0.2.{n}:{n}000").into_bytes(), "round {round}");
        }
    }
    assert_eq!(destination.connections(), 3, "one per client, kept between its requests");
    drop(clients);
    wait_until("they close with their clients", || destination.open() == 0);
}

#[test]
fn header_precedes_the_tls_handshake_with_a_destination() {
    let ca = TestCa::new("one");
    let certificate = ca.issue(&["d.test"]);
    let destination = Destination::start(move |conn| {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
        while conn.buffer.len() < line.len() + 1 {
            if !conn.read() {
                return;
            }
        }
    });
    let _certificate = certificate;
    let balancer = sending_proxy_header(accepting(Setup::tcp(&[&destination])), ProxyProtocol::V1)
        .with(|s| s.pools[0].tls = Some(client_tls(&ca, "d.test")))
        .start();
    let mut client = balancer.connect();
    client.send(V1);
    wait_until("a ClientHello follows the header", || {
        destination
            .records()
            .iter()
            .any(|r| r.strip_prefix(V1.as_bytes()).is_some_and(|h| h.first() == Some(&22)))
    });
}

#[test]
fn checks_send_a_local_header() {
    let destination = Destination::start(|conn| {
        conn.read_to_end();
    });
    let balancer = sending_proxy_header(Setup::tcp(&[&destination]), ProxyProtocol::V2)
        .with(|s| {
            s.pools[0].health = Some(HealthSpec { probe: ProbeKind::Tcp, ..crate::failover::http_checks() });
        })
        .start();
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    wait_until("a check was recorded", || destination.records().contains(&local));
    drop(balancer);
}

/// Returns the line of a client behind the trusted peer.
fn v1_of(client: &str) -> String {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let local = if client.contains(':') { "2001:db8::1" } else { "198.51.100.1" };
    format!("PROXY {family} {client} {local} 56324 443\r\n")
}

#[test]
fn connections_per_source_are_limited() {
    let destination = Destination::start(respond_ok("hi"));
    let balancer = accepting(Setup::http(&[&destination]))
        .with(|s| s.listeners[0].limits.connections_per_source = 2)
        .start();
    let connect = |client: &str| {
        let mut connection = balancer.connect();
        connection.send(v1_of(client) + &get("/"));
        let status = connection.read_response().status;
        (status, connection)
    };
    for (one, other) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1:7", "2001:db8:0:1::7")] {
        let kept = [connect(one), connect(one)];
        assert_eq!(kept.each_ref().map(|(status, _)| *status), [200; 2]);
        assert_eq!(connect(one).0, 503, "{one}");
        assert_eq!(connect(other).0, 200, "{other}");
        drop(kept);
        wait_until("they are closed", || balancer.active() == 0);
        assert_eq!(connect(one).0, 200, "{one}");
    }
    assert_eq!(balancer.refusals("connection_limit"), 2);
    let own = [(); 5].map(|()| connect("127.0.0.9"));
    assert!(own.iter().all(|(status, _)| *status == 200), "this machine and trusted proxies are exempt");
}

#[test]
fn handshakes_per_source_are_limited() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("hi")));
    let files = ca.issue(&["a.test"]);
    let balancer = accepting(Setup::http(&[&destination]))
        .with(|s| {
            s.listeners[0].tls = Some(server_tls(&[&files]));
            s.listeners[0].limits.handshakes_per_source = 1;
        })
        .start();
    let handshake =
        |client: &str| balancer.connect().start_tls(v1_of(client).as_bytes(), ca.client(None), "a.test");
    let mut silent = balancer.connect();
    silent.send([v1_of("192.0.2.1").into_bytes(), ca.client_hello("a.test")].concat());
    silent.wait_for_bytes();
    assert!(handshake("192.0.2.1").is_err());
    assert!(handshake("192.0.2.2").is_ok());
    drop(silent);
    wait_until("its handshake has ended", || handshake("192.0.2.1").is_ok());
    assert!(balancer.refusals("handshake_limit") > 0);
}
