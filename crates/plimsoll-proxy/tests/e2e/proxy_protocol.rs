//! The PROXY protocol: who may say whose connection it is, and what destinations are told.

use plimsoll_config::model::ProxyProtocol;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::kit::{
    Authority, Client, Destination, Kind, Place, Setup, believes, get, hello, ms, ok, secs, serves, until,
};

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for that client, with these TLVs.
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

/// The listener takes headers from everybody on this machine.
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

/// The destinations of the first pool are told.
fn telling(setup: Setup, version: ProxyProtocol) -> Setup {
    setup.with(|s| s.pools[0].proxy_protocol = version)
}

#[test]
fn a_trusted_peer_says_who_the_client_is() {
    let destination = Destination::start(hello("hi"));
    let balancer = accepting(Setup::http(&[&destination])).start();
    let headers = [V1.as_bytes().to_vec(), v2(b""), v2(&[4, 0, 3, 0, 0, 0])];
    for (n, header) in headers.iter().enumerate() {
        let mut at_once = balancer.connect();
        at_once.send([header, get("/").as_bytes()].concat());
        assert_eq!(at_once.answer().status, 200, "{n}");
        at_once.send(get("/again"));
        assert_eq!(at_once.answer().status, 200, "{n}");
        let mut in_drops = balancer.connect();
        in_drops.send_in_steps(header, 5, ms(1));
        in_drops.send(get("/"));
        assert_eq!(in_drops.answer().status, 200, "{n}");
    }
    for request in destination.requests() {
        assert_eq!(request.fields.one("x-forwarded-for"), Some("192.0.2.7"), "{request:?}");
    }
    assert_eq!(destination.requests().len(), 9);
}

#[test]
fn a_peer_that_speaks_for_itself_keeps_its_address() {
    let destination = Destination::start(hello("hi"));
    let balancer = accepting(Setup::http(&[&destination])).start();
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        let mut client = balancer.connect();
        client.send([header, get("/").as_bytes()].concat());
        assert_eq!(client.answer().status, 200);
    }
    for request in destination.requests() {
        assert_eq!(request.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn a_trusted_peer_must_say_it_and_in_time() {
    let destination = Destination::start(hello("hi"));
    let balancer = accepting(Setup::http(&[&destination])).start();
    let forged = v2(&[3, 0, 4, 1, 2, 3, 4]);
    let bad: [&[u8]; 4] = [get("/").as_bytes(), b"PROXY TCP4 1.2.3.4 5.6.7.8 x 1\r\n", &forged, &[0; 64]]
        .map(|bytes: &[u8]| bytes.to_vec().leak() as &[u8]);
    for bytes in bad {
        let mut client = balancer.connect();
        client.send(bytes);
        assert_eq!(client.rest().kind, Kind::Reset, "{bytes:?}");
    }
    assert_eq!(balancer.refused("bad_proxy_header"), 4);
    let mut slow = balancer.connect();
    slow.send("PROXY TCP4 ");
    slow.expect_end();
    assert_eq!(balancer.refused("header_timeout"), 1);
    assert_eq!(destination.connections(), 0);
    until("nobody is left", || balancer.active() == 0);
}

#[test]
fn nobody_else_may_say_it() {
    let destination = Destination::start(hello("hi"));
    let balancer = accepting_from(Setup::http(&[&destination]), "192.0.2.0/24").start();
    assert_eq!(balancer.ask(get("/")).status, 200);
    assert_eq!(destination.only_request().fields.one("x-forwarded-for"), Some("127.0.0.1"));
    for header in [V1.as_bytes().to_vec(), v2(b"")] {
        let mut liar = balancer.connect();
        liar.send([&header[..], get("/").as_bytes()].concat());
        assert!(matches!(liar.answer().status, 400 | 505), "no request of HTTP/1.1");
    }
    assert_eq!(destination.requests().len(), 1);
}

#[test]
fn a_forged_header_never_gets_whole_to_a_destination_of_tcp() {
    let destination = Destination::start(|visit| {
        visit.send("220 ready\r\n");
        visit.read_to_end();
    });
    let balancer = accepting_from(Setup::tcp(&[&destination]), "192.0.2.0/24").start();
    let mut honest = balancer.connect();
    honest.expect("220 ready\r\n");
    honest.send("PROBE\r\n");
    honest.end();
    until("it arrived", || destination.records() == [b"PROBE\r\n"]);
    for (n, header) in [V1.as_bytes().to_vec(), v2(b"")].iter().enumerate() {
        let mut at_once = balancer.connect();
        at_once.send(header);
        let _perhaps_the_banner = at_once.rest();
        let mut in_drops = balancer.connect();
        for byte in header {
            if in_drops.try_send([*byte]).is_err() {
                break;
            }
            std::thread::sleep(ms(1));
        }
        // A write that met the reset takes its news away from the next read.
        assert!(matches!(in_drops.rest().kind, Kind::Reset | Kind::Closed));
        until("both are refused", || balancer.refused("bad_proxy_header") == 2 * (n as u64 + 1));
    }
    until("nobody is left", || destination.open() == 0);
    for record in &destination.records()[1..] {
        assert!(record.len() < SIGNATURE.len(), "{record:?}");
    }
}

#[test]
fn the_header_comes_before_tls() {
    let authority = Authority::new("one");
    let destination = Destination::start(hello("hi"));
    let balancer = accepting(Setup::http(&[&destination]))
        .with(|s| s.listeners[0].tls = Some(serves(&[&authority.issue(&["a.test"])])))
        .start();
    let secure = |first: &[u8], client: Client| client.secure(first, authority.client(None), "a.test");
    let mut at_once = secure(&v2(b""), balancer.connect()).expect("a handshake");
    at_once.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(at_once.answer().status, 200);
    let mut apart = balancer.connect();
    apart.send(V1);
    let mut apart = secure(b"", apart).expect("a handshake");
    apart.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(apart.answer().status, 200);
    for request in destination.requests() {
        assert_eq!(request.fields.one("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(request.fields.one("x-forwarded-proto"), Some("https"));
    }
    assert!(secure(b"", balancer.connect()).is_err(), "a hello alone is no header");
}

#[test]
fn destinations_of_tcp_are_told_as_they_ask() {
    let destination = Destination::start(|visit| visit.read_to_end());
    let tell = |version| telling(accepting(Setup::tcp(&[&destination])), version).start();
    let tlvs = [&[0xe0, 0, 3][..], b"own", &[2, 0, 6], b"a.test"].concat();
    for (version, expected) in [
        (ProxyProtocol::V1, V1.as_bytes().to_vec()),
        (ProxyProtocol::V2, v2(&tlvs)),
        (ProxyProtocol::None, Vec::new()),
    ] {
        let known = destination.connections();
        let balancer = tell(version);
        let mut client = balancer.connect();
        client.send([&v2(&[&tlvs[..], &[4, 0, 1, 0]].concat())[..], b"the rest"].concat());
        client.end();
        let whole = [&expected[..], b"the rest"].concat();
        until("it arrived", || destination.records().get(known).is_some_and(|r| r.len() >= whole.len()));
        assert_eq!(destination.records()[known], whole, "{version:?}");
    }
}

#[test]
fn a_client_of_our_own_is_told_with_both_its_ends() {
    let destination = Destination::start(|visit| visit.read_to_end());
    let balancer = telling(Setup::tcp(&[&destination]), ProxyProtocol::V1).start();
    let mut client = balancer.connect();
    client.send("x");
    client.end();
    until("it arrived", || destination.records().first().is_some_and(|r| r.ends_with(b"x")));
    let record = String::from_utf8(destination.records()[0].clone()).expect("text");
    let Place::Tcp(place) = balancer.place() else { panic!("an address") };
    let port = place.port();
    let line = record.strip_suffix("\r\nx").expect("a line");
    assert!(
        line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && line.ends_with(&format!(" {port}")),
        "{line}"
    );
}

/// Answers requests behind a header of version 1, and says which connection it is.
fn reads_headers(visit: &mut crate::kit::Visit) {
    while !visit.buffer.windows(2).any(|two| two == b"\r\n") {
        if !visit.read() {
            return;
        }
    }
    let end = visit.buffer.windows(2).position(|two| two == b"\r\n").expect("just seen") + 2;
    let header = String::from_utf8(visit.buffer.drain(..end).collect()).expect("text");
    let words: Vec<&str> = header.split(' ').collect();
    let client = format!("{}:{}", words[2], words[4]);
    while visit.request().is_some() {
        if !visit.send(ok(&client)) {
            return;
        }
    }
}

#[test]
fn a_connection_that_began_with_a_client_is_for_nobody_else() {
    let destination = Destination::start(reads_headers);
    let balancer = telling(accepting(Setup::http(&[&destination])), ProxyProtocol::V1).start();
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
            let answer = client.answer();
            assert_eq!(answer.body, format!("192.0.2.{n}:{n}000").into_bytes(), "round {round}");
        }
    }
    assert_eq!(destination.connections(), 3, "one for each client, kept between its requests");
    drop(clients);
    until("they end with their clients", || destination.open() == 0);
}

#[test]
fn the_header_goes_before_the_handshake_with_a_destination() {
    let authority = Authority::new("one");
    let certificate = authority.issue(&["d.test"]);
    let destination = Destination::start(move |visit| {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
        while visit.buffer.len() < line.len() + 1 {
            if !visit.read() {
                return;
            }
        }
    });
    let _certificate = certificate;
    let balancer = telling(accepting(Setup::tcp(&[&destination])), ProxyProtocol::V1)
        .with(|s| s.pools[0].tls = Some(believes(&authority, "d.test")))
        .start();
    let mut client = balancer.connect();
    client.send(V1);
    until("a hello follows the header", || {
        destination
            .records()
            .iter()
            .any(|r| r.strip_prefix(V1.as_bytes()).is_some_and(|h| h.first() == Some(&22)))
    });
}

#[test]
fn checks_speak_for_themselves() {
    let destination = Destination::start(|visit| {
        visit.read_to_end();
    });
    let balancer = telling(Setup::tcp(&[&destination]), ProxyProtocol::V2)
        .with(|s| {
            s.pools[0].health = Some(HealthSpec { probe: ProbeKind::Tcp, ..crate::failover::http_checks() });
        })
        .start();
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    until("a check came", || destination.records().contains(&local));
    drop(balancer);
}
