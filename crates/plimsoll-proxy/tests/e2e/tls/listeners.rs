//! What a listener shows of itself, and how its handshakes are bounded.

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::{https, secured};
use crate::kit::{
    Authority, Client, Destination, Gate, Setup, Watch, answers, get, hello, ms, noise, post, route, secs,
    serves, until,
};
use plimsoll_config::model::TlsVersion;
use plimsoll_core::route::{HostPattern, Match};

#[test]
fn requests_run_within_both_versions() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let balancer = https(&destination, &authority);
    for version in [&TLS12, &TLS13] {
        let mut client = balancer.connect_tls(&authority.client_of(&[version], None), "a.test");
        assert_eq!(client.tls().protocol_version(), Some(version.version));
        for _ in 0..3 {
            client.send(get("/").replace("test", "a.test"));
            assert_eq!(client.answer().text(), "ok");
        }
    }
    let seen = destination.requests();
    assert!(seen.iter().all(|r| r.fields.one("x-forwarded-proto") == Some("https")), "{seen:?}");
    assert_eq!(destination.connections(), 1, "what is behind is pooled as ever");
    let counts = &balancer.handle.traffic().listeners[0].counts;
    assert_eq!((counts.handshakes[1][0], counts.handshakes[2][0]), (1, 1));
}

#[test]
fn an_old_version_is_refused_where_a_newer_one_is_the_least() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let balancer = secured(Setup::http(&[&destination]), &authority)
        .with(|s| s.listeners[0].tls.as_mut().expect("set").min_version = TlsVersion::V1_3)
        .start();
    let old = authority.client_of(&[&TLS12], None);
    assert!(Client::try_connect_tls(balancer.place(), old, "a.test").is_err());
    balancer.connect_tls(&authority.client(None), "a.test").expect_open();
    assert_eq!(balancer.refused("handshake_failed"), 1);
}

#[test]
fn large_bodies_arrive_as_they_left() {
    let authority = Authority::new("ca");
    let body = noise(7, 3 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    let destination = Destination::start(answers([answer, body.clone()].concat()));
    let balancer = https(&destination, &authority);
    for version in [&TLS12, &TLS13] {
        let mut client = balancer.connect_tls(&authority.client_of(&[version], None), "a.test");
        let text = String::from_utf8(vec![b'x'; 1 << 20]).expect("ascii");
        client.send(post("/", &text).replace("test", "a.test"));
        let answer = client.answer();
        assert!(answer.body == body, "{:?}", version.version);
    }
    assert!(destination.requests().iter().all(|request| request.body.len() == 1 << 20));
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    let authority = Authority::new("ca");
    let body = noise(9, 2 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    let destination = Destination::start(answers([answer, body.clone()].concat()));
    let balancer = https(&destination, &authority);
    let mut client = balancer.connect_tls(&authority.client(None), "a.test");
    client.receive_little();
    client.send(get("/").replace("test", "a.test"));
    std::thread::sleep(ms(300));
    client.receive_much();
    assert!(client.answer().body == body);
}

#[test]
fn the_name_asked_for_chooses_the_certificate_and_the_first_is_for_everybody_else() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let files = [
        authority.issue(&["first.test"]),
        authority.issue(&["a.test", "b.test"]),
        authority.issue(&["*.wild.test"]),
    ];
    let balancer = Setup::http(&[&destination])
        .with(|s| s.listeners[0].tls = Some(serves(&[&files[0], &files[1], &files[2]])))
        .start();
    let config = authority.client(None);
    for name in ["first.test", "a.test", "b.test", "x.wild.test", "A.TEST"] {
        balancer.connect_tls(&config, name).expect_open();
    }
    for name in ["unknown.test", "wild.test", "x.y.wild.test"] {
        let error = Client::try_connect_tls(balancer.place(), config.clone(), name).expect_err(name);
        let text = error.to_string();
        assert!(text.contains("first.test"), "{name}: it is shown the first one: {text}");
    }
    let certificates = &balancer.handle.traffic().listeners[0].certificates;
    assert_eq!(certificates.len(), 3);
    assert!(certificates.iter().all(|c| c.not_after > 1_700_000_000));
}

#[test]
fn an_rsa_certificate_stands_beside_an_ecdsa_one() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let (rsa, ecdsa) = (authority.issue_rsa(&["a.test"]), authority.issue(&["a.test"]));
    let balancer =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(serves(&[&rsa, &ecdsa]))).start();
    let suite = |config: &std::sync::Arc<rustls::ClientConfig>| {
        let client = balancer.connect_tls(config, "a.test");
        format!("{:?}", client.tls().negotiated_cipher_suite().expect("agreed").suite())
    };
    assert!(suite(&authority.client_of(&[&TLS12], None)).contains("ECDSA"), "the cheaper one is preferred");
    assert!(suite(&authority.client_of_rsa()).contains("RSA"), "who knows no other is served too");
}

#[test]
fn sessions_are_taken_up_again_at_any_worker() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let balancer = secured(Setup::http(&[&destination]), &authority).with(|s| s.workers = 2).start();
    for version in [&TLS12, &TLS13] {
        let config = authority.client_of(&[version], None);
        let mut resumed = 0;
        for _ in 0..24 {
            let mut client = balancer.connect_tls(&config, "a.test");
            client.send(get("/").replace("test", "a.test"));
            assert_eq!(client.answer().text(), "ok");
            resumed += usize::from(client.tls().handshake_kind() == Some(HandshakeKind::Resumed));
        }
        // The kernel spreads 24 connections over both workers; a ticket of one is good at the other.
        assert_eq!(resumed, 23, "{:?}", version.version);
    }
}

#[test]
fn what_is_not_tls_is_told_so_and_costs_nobody_else_anything() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let balancer = https(&destination, &authority);
    let mut plain = balancer.connect();
    plain.send(get("/"));
    let rest = plain.rest().received;
    assert!(rest.starts_with(&[21, 3]), "an alert: {rest:?}");
    until("it is counted", || balancer.refused("handshake_failed") == 1);
    balancer.connect_tls(&authority.client(None), "a.test").expect_open();
}

#[test]
fn handshakes_take_no_longer_than_they_may() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let balancer = secured(Setup::http(&[&destination]), &authority)
        .with(|s| s.listeners[0].timeouts.handshake = ms(300))
        .start();
    let watch = Watch::start();
    let (mut silent, mut begun) = (balancer.connect(), balancer.connect());
    begun.send([22, 3, 1, 0, 200, 1]);
    for client in [&mut silent, &mut begun] {
        client.expect_end();
    }
    assert!((ms(250)..secs(3)).contains(&watch.elapsed()), "{:?}", watch.elapsed());
    assert_eq!(balancer.refused("handshake_timeout"), 2);
    until("they are counted out", || balancer.active() == 0);
}

#[test]
fn more_handshakes_at_once_than_allowed_are_closed_and_clients_inside_go_on() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let balancer = secured(Setup::http(&[&destination]), &authority)
        .with(|s| s.listeners[0].limits.handshakes = 10)
        .start();
    let mut inside = balancer.connect_tls(&authority.client(None), "a.test");
    let waiting: Vec<_> = (0..10).map(|_| balancer.connect()).collect();
    until("all of them are in", || balancer.active() == 11);
    let mut one_more = balancer.connect();
    one_more.expect_end();
    assert_eq!(balancer.refused("handshake_limit"), 1);
    inside.send(get("/").replace("test", "a.test"));
    assert_eq!(inside.answer().text(), "ok");
    drop(waiting);
    until("there is room again", || balancer.active() == 1);
    balancer.connect_tls(&authority.client(None), "a.test").expect_open();
}

#[test]
fn a_connection_for_one_host_is_not_for_another_unless_its_certificate_is() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let (both, other) = (authority.issue(&["a.test", "b.test"]), authority.issue(&["c.test"]));
    let balancer =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(serves(&[&both, &other]))).start();
    let ask = |host: &str| {
        let mut client = balancer.connect_tls(&authority.client(None), "a.test");
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer().status
    };
    for (host, status) in
        [("a.test", 200), ("A.test:8443", 200), ("b.test", 200), ("127.0.0.1", 200), ("c.test", 421)]
    {
        assert_eq!(ask(host), status, "{host}");
    }
    assert_eq!(balancer.refused("misdirected"), 1);
}

#[test]
fn a_whole_url_may_be_asked_for_if_it_says_what_is_spoken() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let files = authority.issue(&["a.test"]);
    let balancer =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(serves(&[&files]))).start();
    for (url, status) in [
        ("https://a.test/x?y=1", 200),
        ("HTTPS://A.TEST:8443", 200),
        ("http://a.test/x", 400),
        ("https://b.test/x", 421),
    ] {
        let mut client = balancer.connect_tls(&authority.client(None), "a.test");
        client.send(format!("GET {url} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!(client.answer().status, status, "{url}");
    }
    let seen: Vec<_> = destination.requests();
    assert_eq!((seen[0].target.as_str(), seen[0].fields.one("host")), ("/x?y=1", Some("a.test")));
    assert_eq!((seen[1].target.as_str(), seen[1].fields.one("host")), ("/", Some("A.TEST:8443")));
    assert_eq!((seen.len(), balancer.refused("bad_request")), (2, 1));
}

#[test]
fn new_certificates_come_into_force_and_bad_ones_change_nothing() {
    let (authority, destination) = (Authority::new("ca"), Destination::start(hello("ok")));
    let files = authority.issue(&["a.test"]);
    let setup = Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(serves(&[&files])));
    let balancer = setup.start();
    let config = authority.client(None);
    let serial = || {
        let client = balancer.connect_tls(&config, "a.test");
        client.tls().peer_certificates().expect("shown")[0].to_vec()
    };
    let mut inside = balancer.connect_tls(&config, "a.test");
    let before = serial();
    let renewed = authority.issue(&["a.test"]);
    std::fs::write(&files.key, "no key").expect("a file");
    let error = balancer.reload(&setup).expect_err("that key is none").to_string();
    assert!(error.contains("PEM") && !error.contains("no key"), "{error}");
    std::fs::copy(&renewed.key, &files.key).expect("a file");
    let error = balancer.reload(&setup).expect_err("that key is another one's").to_string();
    assert!(error.contains("is not the key of"), "{error}");
    assert_eq!(serial(), before, "the old pair is still served");
    std::fs::copy(&renewed.cert, &files.cert).expect("a file");
    balancer.reload(&setup).expect("a pair again");
    until("the new one is served", || serial() != before);
    inside.send(get("/").replace("test", "a.test"));
    assert_eq!(inside.answer().text(), "ok", "who was inside noticed nothing");
}

#[test]
fn connections_are_routed_by_the_name_in_their_hello_without_being_opened() {
    let authority = Authority::new("ca");
    let named = |name: &'static str| {
        Destination::start_tls(Authority::server(&authority.issue(&[name]), None), hello(name))
    };
    let (a, b) = (named("a.test"), named("b.test"));
    let plain = Destination::start(|visit| {
        while visit.read() {
            visit.send("plain");
        }
    });
    let sni = |pattern: HostPattern| Match { sni: Some(pattern), ..Match::default() };
    let balancer = Setup::tcp(&[&plain])
        .and_pool("a", &[&a])
        .and_pool("b", &[&b])
        .with(|s| {
            s.listeners[0].routes = vec![
                route("a", 1, sni(HostPattern::Exact("a.test".into()))),
                route("b", 2, sni(HostPattern::Suffix(".test".into()))),
            ];
            s.listeners[0].timeouts.handshake = ms(300);
        })
        .start();
    for name in ["a.test", "b.test"] {
        let mut client = balancer.connect_tls(&authority.client(None), name);
        client.send(get("/"));
        assert_eq!(client.answer().text(), name, "from end to end");
    }
    let mut other = balancer.connect();
    other.send("hello");
    other.expect("plain");
    let mut slow = balancer.connect();
    slow.send([22, 3, 1]);
    slow.expect_end();
    assert_eq!(balancer.refused("handshake_timeout"), 1);
}

#[test]
fn bytes_run_both_ways_within_tls() {
    let authority = Authority::new("ca");
    let destination = Destination::start(|visit| {
        while visit.read() {
            let bytes = std::mem::take(&mut visit.buffer);
            visit.send(bytes);
        }
    });
    let balancer = secured(Setup::tcp(&[&destination]), &authority).start();
    assert_eq!(balancer.handle.traffic().listeners[0].protocol, "tls");
    let mut client = balancer.connect_tls(&authority.client(None), "a.test");
    let bytes = noise(3, 200_000);
    for piece in bytes.chunks(50_000) {
        client.send(piece);
        client.expect(piece);
    }
    client.end();
    client.expect_end();
    assert!(destination.records().concat() == bytes);
}

#[test]
fn a_cut_connection_does_not_pass_for_an_end() {
    let authority = Authority::new("ca");
    for cut in [true, false] {
        let (ended, clean) = (Gate::default(), Gate::default());
        let (tell, well) = (ended.clone(), clean.clone());
        let destination = Destination::start(move |visit| {
            if visit.ends_cleanly() {
                well.open();
            }
            tell.open();
        });
        let balancer = secured(Setup::tcp(&[&destination]), &authority).start();
        let mut client = balancer.connect_tls(&authority.client(None), "a.test");
        client.send("half");
        until("it has arrived", || destination.records().concat() == b"half");
        match cut {
            // The connection beneath ends, and TLS has not said so.
            true => client.cut(),
            false => client.end(),
        }
        ended.pass();
        assert_eq!(clean.is_open(), !cut);
    }
}
