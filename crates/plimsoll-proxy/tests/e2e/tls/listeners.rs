//! TLS of listeners: certificates, limits of handshakes, and routing by SNI.

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::{https, with_tls};
use crate::kit::{
    Client, Destination, EndKind, Gate, Setup, Stopwatch, TestCa, get, ms, post, random_bytes, respond_ok,
    respond_with, route, secs, server_tls, wait_until,
};
use plimsoll_config::model::TlsVersion;
use plimsoll_core::route::{HostPattern, Match};

#[test]
fn requests_are_served_over_tls_1_2_and_1_3() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = https(&destination, &ca);
    for version in [&TLS12, &TLS13] {
        let mut client = balancer.connect_tls(&ca.client_of(&[version], None), "a.test");
        assert_eq!(client.tls().protocol_version(), Some(version.version));
        for _ in 0..3 {
            client.send(get("/").replace("test", "a.test"));
            assert_eq!(client.read_response().text(), "ok");
        }
    }
    let seen = destination.requests();
    assert!(seen.iter().all(|r| r.fields.one("x-forwarded-proto") == Some("https")), "{seen:?}");
    assert_eq!(destination.connections(), 1, "connections to the destination are pooled");
    let counts = &balancer.handle.traffic().listeners[0].counts;
    assert_eq!((counts.handshakes[1][0], counts.handshakes[2][0]), (1, 1));
}

#[test]
fn minimum_version_is_enforced() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = with_tls(Setup::http(&[&destination]), &ca)
        .with(|s| s.listeners[0].tls.as_mut().expect("set").min_version = TlsVersion::V1_3)
        .start();
    let old = ca.client_of(&[&TLS12], None);
    assert!(Client::try_connect_tls(balancer.endpoint(), old, "a.test").is_err());
    balancer.connect_tls(&ca.client(None), "a.test").expect_open();
    assert_eq!(balancer.refusals("handshake_failed"), 1);
}

#[test]
fn an_early_response_reaches_a_client_that_sends_first() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = with_tls(Setup::http(&[&destination]), &ca)
        .with(|s| s.listeners[0].limits.body_bytes = 1 << 20)
        .start();
    for version in [&TLS12, &TLS13] {
        let mut client = balancer.connect_tls(&ca.client_of(&[version], None), "a.test");
        client.send(format!("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", 12 << 20));
        client.send(vec![b'x'; 12 << 20]);
        let response = client.read_response();
        assert_eq!((response.status, response.closes()), (413, true));
        client.expect_closed();
    }
}

#[test]
fn client_that_sends_close_notify_has_left() {
    let ca = TestCa::new("ca");
    let destination = Destination::start(|conn| {
        conn.request();
        conn.read_to_end();
    });
    let balancer = https(&destination, &ca);
    let mut client = balancer.connect_tls(&ca.client(None), "a.test");
    client.send(get("/").replace("test", "a.test"));
    wait_until("the request is there", || destination.requests().len() == 1);
    client.shutdown_write();
    wait_until("the destination is freed", || destination.open() == 0 && balancer.active() == 0);
    assert_eq!(balancer.refusals("client_closed"), 1);
}

#[test]
fn large_bodies_arrive_unchanged() {
    let ca = TestCa::new("ca");
    let body = random_bytes(7, 3 << 20);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    let destination = Destination::start(respond_with([response, body.clone()].concat()));
    let balancer = https(&destination, &ca);
    for version in [&TLS12, &TLS13] {
        let mut client = balancer.connect_tls(&ca.client_of(&[version], None), "a.test");
        let text = String::from_utf8(vec![b'x'; 1 << 20]).expect("ascii");
        client.send(post("/", &text).replace("test", "a.test"));
        let response = client.read_response();
        assert!(response.body == body, "{:?}", version.version);
    }
    assert!(destination.requests().iter().all(|request| request.body.len() == 1 << 20));
}

#[test]
fn slow_reader_gets_the_whole_response() {
    let ca = TestCa::new("ca");
    let body = random_bytes(9, 2 << 20);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    let destination = Destination::start(respond_with([response, body.clone()].concat()));
    let balancer = https(&destination, &ca);
    let mut client = balancer.connect_tls(&ca.client(None), "a.test");
    client.shrink_receive_buffer();
    client.send(get("/").replace("test", "a.test"));
    std::thread::sleep(ms(300));
    client.grow_receive_buffer();
    assert!(client.read_response().body == body);
}

#[test]
fn sni_selects_the_certificate_and_the_first_is_the_default() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let files = [ca.issue(&["first.test"]), ca.issue(&["a.test", "b.test"]), ca.issue(&["*.wild.test"])];
    let balancer = Setup::http(&[&destination])
        .with(|s| s.listeners[0].tls = Some(server_tls(&[&files[0], &files[1], &files[2]])))
        .start();
    let config = ca.client(None);
    for name in ["first.test", "a.test", "b.test", "x.wild.test", "A.TEST"] {
        balancer.connect_tls(&config, name).expect_open();
    }
    for name in ["unknown.test", "wild.test", "x.y.wild.test"] {
        let error = Client::try_connect_tls(balancer.endpoint(), config.clone(), name).expect_err(name);
        let text = error.to_string();
        assert!(text.contains("first.test"), "{name}: the first certificate is presented: {text}");
    }
    let certificates = &balancer.handle.traffic().listeners[0].certificates;
    assert_eq!(certificates.len(), 3);
    assert!(certificates.iter().all(|c| c.not_after > 1_700_000_000));
}

#[test]
fn rsa_and_ecdsa_certificates_can_be_combined() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let (rsa, ecdsa) = (ca.issue_rsa(&["a.test"]), ca.issue(&["a.test"]));
    let balancer =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(server_tls(&[&rsa, &ecdsa]))).start();
    let suite = |config: &std::sync::Arc<rustls::ClientConfig>| {
        let client = balancer.connect_tls(config, "a.test");
        format!("{:?}", client.tls().negotiated_cipher_suite().expect("agreed").suite())
    };
    assert!(suite(&ca.client_of(&[&TLS12], None)).contains("ECDSA"), "ECDSA is preferred");
    assert!(suite(&ca.client_of_rsa()).contains("RSA"), "a client with RSA only is served");
}

#[test]
fn sessions_are_resumed_at_any_worker() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = with_tls(Setup::http(&[&destination]), &ca).with(|s| s.workers = 2).start();
    for version in [&TLS12, &TLS13] {
        let config = ca.client_of(&[version], None);
        let mut resumed = 0;
        for _ in 0..24 {
            let mut client = balancer.connect_tls(&config, "a.test");
            client.send(get("/").replace("test", "a.test"));
            assert_eq!(client.read_response().text(), "ok");
            resumed += usize::from(client.tls().handshake_kind() == Some(HandshakeKind::Resumed));
        }
        // The kernel spreads 24 connections over both workers; a ticket of one is valid at the other.
        assert_eq!(resumed, 23, "{:?}", version.version);
    }
}

#[test]
fn plain_text_gets_a_tls_alert() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = https(&destination, &ca);
    let mut plain = balancer.connect();
    plain.send(get("/"));
    let rest = plain.read_to_end().received;
    assert!(rest.starts_with(&[21, 3]), "an alert: {rest:?}");
    wait_until("it is counted", || balancer.refusals("handshake_failed") == 1);
    balancer.connect_tls(&ca.client(None), "a.test").expect_open();
}

#[test]
fn handshakes_have_a_timeout() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = with_tls(Setup::http(&[&destination]), &ca)
        .with(|s| s.listeners[0].timeouts.handshake = ms(300))
        .start();
    let stopwatch = Stopwatch::start();
    let (mut silent, mut begun) = (balancer.connect(), balancer.connect());
    begun.send([22, 3, 1, 0, 200, 1]);
    for client in [&mut silent, &mut begun] {
        client.expect_closed();
    }
    assert!((ms(250)..secs(3)).contains(&stopwatch.elapsed()), "{:?}", stopwatch.elapsed());
    assert_eq!(balancer.refusals("handshake_timeout"), 2);
    wait_until("they are counted out", || balancer.active() == 0);
}

#[test]
fn silent_connections_do_not_block_handshakes() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer =
        with_tls(Setup::http(&[&destination]), &ca).with(|s| s.listeners[0].limits.handshakes = 10).start();
    let hello = ca.client_hello("a.test");
    let mut waiting: Vec<_> = (0..20).map(|_| balancer.connect()).collect();
    waiting[..10].iter_mut().for_each(|client| client.send(&hello[..hello.len() - 1]));
    wait_until("all of them are in", || balancer.active() == 20);
    balancer.connect_tls(&ca.client(None), "a.test").expect_open();
    waiting.iter_mut().for_each(|client| client.expect_no_data(ms(1)));
    assert_eq!(balancer.refusals("handshake_limit"), 0, "a handshake counts from its whole ClientHello on");
}

#[test]
fn at_the_limit_the_handshake_that_waited_longest_is_closed() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer =
        with_tls(Setup::http(&[&destination]), &ca).with(|s| s.listeners[0].limits.handshakes = 3).start();
    let hello = ca.client_hello("a.test");
    let mut flood: Vec<_> = (0..60).map(|_| balancer.connect()).collect();
    flood.iter_mut().for_each(|client| client.send(&hello));
    wait_until("the oldest are closed", || balancer.refusals("handshake_limit") >= 57);
    balancer.connect_tls(&ca.client(None), "a.test").expect_open();
    drop(flood);
    wait_until("they are counted out", || balancer.active() == 0);
    let refused = balancer.refusals("handshake_limit");
    let mut begun: Vec<_> = (0..3).map(|_| balancer.connect()).collect();
    for client in &mut begun {
        client.send(&hello);
        client.wait_for_bytes();
    }
    for _ in 0..2 {
        let mut client = balancer.connect_tls(&ca.client(None), "a.test");
        client.send(get("/").replace("test", "a.test"));
        assert_eq!(client.read_response().text(), "ok");
    }
    wait_until("one is closed", || balancer.refusals("handshake_limit") == refused + 1);
    assert!(begun.remove(0).read_to_end().kind != EndKind::TimedOut);
    drop(begun);
    wait_until("they are counted out", || balancer.active() == 0);
}

#[test]
fn at_the_limit_of_connections_a_silent_one_is_closed() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer =
        with_tls(Setup::http(&[&destination]), &ca).with(|s| s.listeners[0].limits.connections = 3).start();
    let mut established = balancer.connect_tls(&ca.client(None), "a.test");
    let mut silent: Vec<_> = (0..2).map(|_| balancer.connect()).collect();
    wait_until("they are in", || balancer.active() == 3);
    let one_more = balancer.connect_tls(&ca.client(None), "a.test");
    assert_eq!(balancer.refusals("connection_limit"), 1);
    silent.remove(0).expect_closed();
    silent[0].expect_no_data(ms(1));
    established.send(get("/").replace("test", "a.test"));
    assert_eq!(established.read_response().text(), "ok");
    drop((one_more, silent));
}

#[test]
fn hello_in_pieces_is_served() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = with_tls(Setup::http(&[&destination]), &ca).start();
    for version in [&TLS12, &TLS13] {
        let config = ca.client_of(&[version], None);
        let client = balancer.connect().start_tls_in_pieces(b"", 1, config, "a.test");
        let mut client = client.expect("a handshake");
        client.send(get("/").replace("test", "a.test"));
        assert_eq!(client.read_response().text(), "ok");
    }
}

#[test]
fn header_timeout_limits_the_hello() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let balancer = with_tls(Setup::http(&[&destination]), &ca)
        .with(|s| s.listeners[0].timeouts.header = ms(300))
        .start();
    let mut begun = balancer.connect();
    begun.send([22, 3, 1, 0, 200, 1]);
    begun.expect_closed();
    assert_eq!(balancer.refusals("header_timeout"), 1);
}

#[test]
fn odd_names_in_a_certificate_are_harmless() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let files = ca.issue(&["a.test", "*", "*.", "*b.test", ".", "*.*.c.test"]);
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            let mut tls = server_tls(&[&files]);
            tls.strict_host = true;
            s.listeners[0].tls = Some(tls);
        })
        .start();
    for host in ["d.test", "xb.test", "test", "x.y.c.test"] {
        let mut client = balancer.connect_tls(&ca.client(None), "a.test");
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let status = client.read_response().status;
        assert!([400, 421].contains(&status), "{host}: {status}");
    }
}

#[test]
fn byte_order_marks_in_files_are_ignored() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let files = ca.issue_below(&["a.test"], 1);
    let marked = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).expect("PEM");
        std::fs::write(path, text.replace("-----BEGIN", "\u{feff}-----BEGIN")).expect("a file");
    };
    marked(&files.cert);
    marked(&files.key);
    let balancer =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(server_tls(&[&files]))).start();
    let client = balancer.connect_tls(&ca.client(None), "a.test");
    assert_eq!(client.tls().peer_certificates().expect("shown").len(), 2, "the whole chain is sent");
}

#[test]
fn host_outside_the_certificate_is_misdirected_if_configured() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let (both, other) = (ca.issue(&["a.test", "b.test"]), ca.issue(&["c.test"]));
    let setup =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(server_tls(&[&both, &other])));
    for (strict_host, outside) in [(false, 200), (true, 421)] {
        let setup =
            setup.clone().with(|s| s.listeners[0].tls.as_mut().expect("set").strict_host = strict_host);
        let balancer = setup.start();
        let fetch = |host: &str| {
            let mut client = balancer.connect_tls(&ca.client(None), "a.test");
            client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            client.read_response().status
        };
        for (host, status) in
            [("a.test", 200), ("A.test:8443", 200), ("b.test", 200), ("127.0.0.1", 200), ("c.test", outside)]
        {
            assert_eq!(fetch(host), status, "{host}");
        }
        assert_eq!(balancer.refusals("misdirected"), u64::from(strict_host));
    }
}

#[test]
fn absolute_target_must_have_the_scheme_https() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let files = ca.issue(&["a.test"]);
    let balancer =
        Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(server_tls(&[&files]))).start();
    for (url, status) in [
        ("https://a.test/x?y=1", 200),
        ("HTTPS://A.TEST:8443", 200),
        ("http://a.test/x", 400),
        ("https://b.test/x", 200),
    ] {
        let mut client = balancer.connect_tls(&ca.client(None), "a.test");
        client.send(format!("GET {url} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert_eq!(client.read_response().status, status, "{url}");
    }
    let seen: Vec<_> = destination.requests();
    assert_eq!((seen[0].target.as_str(), seen[0].fields.one("host")), ("/x?y=1", Some("a.test")));
    assert_eq!((seen[1].target.as_str(), seen[1].fields.one("host")), ("/", Some("A.TEST:8443")));
    assert_eq!((seen.len(), balancer.refusals("bad_request")), (3, 1));
}

#[test]
fn reload_replaces_certificates_and_refuses_invalid_ones() {
    let (ca, destination) = (TestCa::new("ca"), Destination::start(respond_ok("ok")));
    let files = ca.issue(&["a.test"]);
    let setup = Setup::http(&[&destination]).with(|s| s.listeners[0].tls = Some(server_tls(&[&files])));
    let balancer = setup.start();
    let config = ca.client(None);
    let serial = || {
        let client = balancer.connect_tls(&config, "a.test");
        client.tls().peer_certificates().expect("shown")[0].to_vec()
    };
    let mut established = balancer.connect_tls(&config, "a.test");
    let before = serial();
    let renewed = ca.issue(&["a.test"]);
    std::fs::write(&files.key, "no key").expect("a file");
    let error = balancer.reload(&setup).expect_err("the key file is malformed").to_string();
    assert!(error.contains("PEM") && !error.contains("no key"), "{error}");
    std::fs::copy(&renewed.key, &files.key).expect("a file");
    let error = balancer.reload(&setup).expect_err("the key belongs to another certificate").to_string();
    assert!(error.contains("does not match the certificate"), "{error}");
    assert_eq!(serial(), before, "the old pair stays in use");
    std::fs::copy(&renewed.cert, &files.cert).expect("a file");
    balancer.reload(&setup).expect("a matching pair");
    wait_until("the new certificate is presented", || serial() != before);
    established.send(get("/").replace("test", "a.test"));
    assert_eq!(established.read_response().text(), "ok", "open connections are kept");
}

#[test]
fn tls_passthrough_is_routed_by_sni() {
    let ca = TestCa::new("ca");
    let named = |name: &'static str| {
        Destination::start_tls(TestCa::server(&ca.issue(&[name]), None), respond_ok(name))
    };
    let (a, b) = (named("a.test"), named("b.test"));
    let plain = Destination::start(|conn| {
        while conn.read() {
            conn.send("plain");
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
        let mut client = balancer.connect_tls(&ca.client(None), name);
        client.send(get("/"));
        assert_eq!(client.read_response().text(), name, "TLS ends at the destination");
    }
    let mut other = balancer.connect();
    other.send("hello");
    other.expect("plain");
    let mut slow = balancer.connect();
    slow.send([22, 3, 1]);
    slow.expect_closed();
    assert_eq!(balancer.refusals("handshake_timeout"), 1);
}

#[test]
fn bytes_pass_in_both_directions_over_tls() {
    let ca = TestCa::new("ca");
    let destination = Destination::start(|conn| {
        while conn.read() {
            let bytes = std::mem::take(&mut conn.buffer);
            conn.send(bytes);
        }
    });
    let balancer = with_tls(Setup::tcp(&[&destination]), &ca).start();
    assert_eq!(balancer.handle.traffic().listeners[0].protocol, "tls");
    let mut client = balancer.connect_tls(&ca.client(None), "a.test");
    let bytes = random_bytes(3, 200_000);
    for piece in bytes.chunks(50_000) {
        client.send(piece);
        client.expect(piece);
    }
    client.shutdown_write();
    client.expect_closed();
    assert!(destination.records().concat() == bytes);
}

#[test]
fn close_without_close_notify_is_not_an_orderly_end() {
    let ca = TestCa::new("ca");
    for cut in [true, false] {
        let (finished, clean) = (Gate::default(), Gate::default());
        let (finish, closed_cleanly) = (finished.clone(), clean.clone());
        let destination = Destination::start(move |conn| {
            if conn.ends_cleanly() {
                closed_cleanly.open();
            }
            finish.open();
        });
        let balancer = with_tls(Setup::tcp(&[&destination]), &ca).start();
        let mut client = balancer.connect_tls(&ca.client(None), "a.test");
        client.send("half");
        wait_until("it has arrived", || destination.records().concat() == b"half");
        match cut {
            // The TCP connection is closed without close_notify.
            true => client.truncate(),
            false => client.shutdown_write(),
        }
        finished.wait();
        assert_eq!(clean.is_open(), !cut);
    }
}
