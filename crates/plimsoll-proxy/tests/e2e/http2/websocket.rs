//! WebSocket tunnels with HTTP/2 on at least one side (RFC 8441).

use plimsoll_config::model::PoolProtocol;

use crate::kit::http2::{Http2Client, Http2Destination, extended_connect, release, websocket_accept};
use crate::kit::{Balancer, Connection, Destination, Gate, Setup, ms, random_bytes, secs, wait_until};

/// Reads a handshake and sends the correct 101 response.
fn switch(conn: &mut Connection) -> bool {
    let Some(request) = conn.head() else { return false };
    let accept = websocket_accept(request.fields.one("sec-websocket-key").expect("one key"));
    conn.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nwelcome"
    ))
}

/// Echoes all data and ends with "goodbye".
pub(super) fn echo(conn: &mut Connection) {
    if !switch(conn) {
        return;
    }
    loop {
        let bytes = std::mem::take(&mut conn.buffer);
        conn.send(bytes);
        if !conn.read() {
            break;
        }
    }
    conn.send("goodbye");
}

fn in_front_of(destination: &Http2Destination) -> Balancer {
    let start = |s: &mut Setup| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = vec![destination.as_member(0)];
    };
    Setup::http(&[]).with(start).start()
}

const UPGRADE: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn websocket_accept_matches_the_example_of_the_rfc() {
    assert_eq!(websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn http_2_tunnel_reaches_an_http_1_destination() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    client.drive_for(ms(10));
    wait_until("tunnels are offered", || {
        client.drive_for(ms(5));
        client.supports_extended_connect()
    });
    let mut early = client.start_request(extended_connect("websocket", "/chat?x=1"), false).expect("room");
    early.body.send_data("early".into(), false).expect("a window");
    let (head, mut tunnel) = client.finish_opening(early);
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["sec-websocket-protocol"], "chat");
    for gone in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!head.headers().contains_key(gone), "{gone}");
    }
    client.expect_from_tunnel(&mut tunnel, b"welcomeearly");
    assert_eq!(balancer.destination(0).in_flight, 1, "the tunnel counts as in flight");
    for n in 0..10_u8 {
        client.send_to_tunnel(&mut tunnel, &[n; 100], false);
        client.expect_from_tunnel(&mut tunnel, &[n; 100]);
    }
    client.send_to_tunnel(&mut tunnel, b"bye", true);
    client.expect_from_tunnel(&mut tunnel, b"byegoodbye");
    client.read_tunnel_end(&mut tunnel).expect("an orderly end");
    wait_until("the request has ended", || balancer.destination(0).in_flight == 0);
    let record = String::from_utf8_lossy(&destination.records()[0]).into_owned();
    let head = record.split("\r\n\r\n").next().expect("a head");
    assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\nHost: test\r\n"), "{head}");
    assert!(head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket"), "{head}");
    assert!(head.contains("sec-websocket-version: 13\r\n") && !head.contains("Transfer-Encoding"), "{head}");
    let rule = &balancer.handle.traffic().routes[0];
    assert!(rule.counts.request_bytes > 1_008 && rule.counts.response_bytes >= 1_022, "{rule:?}");
    assert_eq!(client.open_tunnel("/").0.status(), 200, "the connection stays usable");
}

#[test]
fn proxy_generates_a_new_key_for_each_handshake() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..2 {
        let mut request = extended_connect("websocket", "/");
        request.headers_mut().insert("sec-websocket-key", "of the client".parse().expect("a value"));
        let stream = client.start_request(request, false).expect("room");
        assert_eq!(client.finish_opening(stream).0.status(), 200);
    }
    let key = |record: &Vec<u8>| {
        let text = String::from_utf8_lossy(record).into_owned();
        assert_eq!(text.to_ascii_lowercase().matches("sec-websocket-key").count(), 1, "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ").map(str::to_owned));
        line.expect("a key")
    };
    let keys: Vec<_> = destination.records().iter().map(key).collect();
    assert!(keys.iter().all(|key| key.len() == 24 && key.ends_with("==")) && keys[0] != keys[1], "{keys:?}");
}

#[test]
fn invalid_101_is_a_502() {
    const WRONG: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    for (lines, status) in [
        (format!("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{WRONG}"), 502),
        ("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".into(), 502),
        ("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n".into(), 502),
        ("200 OK\r\nContent-Length: 2\r\n".into(), 200),
        ("403 Forbidden\r\nContent-Length: 2\r\n".into(), 403),
    ] {
        let response = format!("HTTP/1.1 {lines}\r\nno");
        let destination = Destination::start(move |conn| {
            if conn.head().is_some() {
                conn.send(&response);
                conn.read_to_end();
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = Http2Client::connect(&balancer);
        let (head, mut tunnel) = client.open_tunnel("/");
        assert_eq!(head.status(), status, "{lines}");
        assert_eq!(balancer.refusals("bad_response"), u64::from(status == 502), "{lines}");
        if status != 502 {
            client.expect_from_tunnel(&mut tunnel, b"no");
            client.read_tunnel_end(&mut tunnel).expect("a response that ends");
        }
        wait_until("the request has ended", || balancer.destination(0).in_flight == 0);
    }
}

#[test]
fn other_extended_connects_are_refused() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let response = client.fetch(extended_connect("connect-udp", "/"), b"").expect("a response");
    assert!(response.status() == 501 && response.text().contains("protocol_not_supported"), "{response:?}");
    let mut long = extended_connect("websocket", "/");
    long.headers_mut().insert("content-length", "5".parse().expect("a value"));
    assert_eq!(client.fetch(long, b"12345").expect("a response").status(), 400);
    assert_eq!(destination.connections(), 0);
    assert_eq!(client.open_tunnel("/").0.status(), 200, "the connection stays usable");
}

#[test]
fn reset_is_forwarded_to_the_other_side() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |conn| {
        if switch(conn) {
            wait.wait();
            conn.reset();
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open_tunnel("/");
    client.expect_from_tunnel(&mut tunnel, b"welcome");
    gate.open();
    let broken = client.read_tunnel_end(&mut tunnel).expect_err("a reset");
    assert_eq!(broken.reason(), Some(h2::Reason::CANCEL));

    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    for half_closed in [false, true] {
        let (_, mut tunnel) = client.open_tunnel("/");
        client.expect_from_tunnel(&mut tunnel, b"welcome");
        if half_closed {
            // The destination's direction stays open as long as it likes.
            client.send_to_tunnel(&mut tunnel, &random_bytes(5, 1 << 20), true);
        }
        assert_eq!(balancer.destination(0).in_flight, 1);
        tunnel.to.send_reset(h2::Reason::CANCEL);
        client.drive_for(ms(10));
        wait_until("the request has ended", || {
            balancer.destination(0).in_flight == 0 && destination.open() == 0
        });
    }
    let (_, _tunnel) = client.open_tunnel("/");
    drop(client);
    wait_until("all connections are closed", || balancer.active() == 0 && destination.open() == 0);
}

#[test]
fn idle_tunnel_ends_after_the_idle_timeout() {
    let destination = Destination::start(echo);
    let idle = |s: &mut Setup| {
        s.listeners[0].timeouts.idle = ms(300);
        s.pools[0].timeouts.idle = ms(300);
    };
    let balancer = Setup::http(&[&destination]).with(idle).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open_tunnel("/");
    client.expect_from_tunnel(&mut tunnel, b"welcome");
    for _ in 0..8 {
        client.drive_for(ms(100));
        client.send_to_tunnel(&mut tunnel, b"x", false);
        client.expect_from_tunnel(&mut tunnel, b"x");
    }
    assert!(client.read_tunnel_end(&mut tunnel).is_err(), "the tunnel is reset");
    wait_until("the request has ended", || balancer.destination(0).in_flight == 0 && destination.open() == 0);
}

#[test]
fn bulk_passes_in_both_directions_and_a_blocked_reader_blocks_its_sender() {
    let full = Gate::default();
    let filled = full.clone();
    let destination = Destination::start(move |conn| {
        if !switch(conn) {
            return;
        }
        let sent = conn.send_until_blocked(&[b'x'; 65_536], 64 << 20, ms(500));
        assert!(sent < 32 << 20, "{sent} bytes were accepted");
        filled.open();
        conn.send("end");
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open_tunnel("/");
    wait_until("the destination is blocked", || {
        client.drive_for(ms(20));
        full.is_open()
    });
    let mut last = Vec::new();
    while !last.ends_with(b"end") {
        let data = client.run(std::future::poll_fn(|cx| tunnel.from.poll_data(cx)));
        let data = data.expect("more data").expect("no error");
        release(&mut tunnel.from, data.len());
        last = data.to_vec();
    }
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open_tunnel("/");
    client.expect_from_tunnel(&mut tunnel, b"welcome");
    for n in 0..20 {
        let bytes = random_bytes(n, 50_000);
        client.send_to_tunnel(&mut tunnel, &bytes, false);
        client.expect_from_tunnel(&mut tunnel, &bytes);
    }
}

#[test]
fn drain_waits_for_open_tunnels() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open_tunnel("/");
    client.expect_from_tunnel(&mut tunnel, b"welcome");
    balancer.handle.drain();
    wait_until("new requests are refused", || {
        client.drive_for(ms(20));
        client.start_request(extended_connect("websocket", "/"), true).is_err()
    });
    for _ in 0..3 {
        client.send_to_tunnel(&mut tunnel, b"still here", false);
        client.expect_from_tunnel(&mut tunnel, b"still here");
    }
    client.send_to_tunnel(&mut tunnel, b"", true);
    client.expect_from_tunnel(&mut tunnel, b"goodbye");
    client.read_tunnel_end(&mut tunnel).expect("an orderly end");
    client.drive_for(ms(20));
    wait_until("the proxy has ended", || balancer.has_ended());
}

#[test]
fn clients_of_both_versions_reach_an_http_2_destination() {
    let destination = Http2Destination::start_tunnels();
    let balancer = in_front_of(&destination);
    let mut client = balancer.connect();
    client.send(format!("{UPGRADE}early"));
    let response = client.read_response();
    assert_eq!(response.status, 101);
    assert_eq!(response.fields.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(response.fields.one("upgrade"), Some("websocket"));
    assert_eq!(response.fields.one("sec-websocket-protocol"), Some("chat"));
    client.expect("early");
    client.send("and late");
    client.expect("and late");
    client.shutdown_write();
    client.expect("goodbye");
    client.expect_closed();

    let mut client = Http2Client::connect(&balancer);
    let (head, mut tunnel) = client.open_tunnel("/chat?x=1");
    assert_eq!(head.status(), 200);
    assert!(!head.headers().contains_key("sec-websocket-accept"));
    let bytes = random_bytes(3, 40_000);
    client.send_to_tunnel(&mut tunnel, &bytes, false);
    client.expect_from_tunnel(&mut tunnel, &bytes);
    assert_eq!(balancer.destination(0).in_flight, 1);
    client.send_to_tunnel(&mut tunnel, b"", true);
    client.expect_from_tunnel(&mut tunnel, b"goodbye");
    client.read_tunnel_end(&mut tunnel).expect("an orderly end");
    wait_until("the request has ended", || balancer.destination(0).in_flight == 0);
    for seen in destination.requests() {
        assert_eq!(seen.head.method(), http::Method::CONNECT);
        assert_eq!(seen.head.extensions().get::<h2::ext::Protocol>().map(|p| p.as_str()), Some("websocket"));
        assert_eq!(seen.head.uri().to_string(), "http://test/chat?x=1");
        assert_eq!(seen.head.headers()["sec-websocket-version"], "13");
        assert!(!seen.head.headers().contains_key("sec-websocket-key"));
    }
    assert_eq!((destination.requests().len(), destination.connections()), (2, 1));
}

#[test]
fn http_2_destination_may_decline_or_reset_a_tunnel() {
    let destination = Http2Destination::start_tunnels();
    let balancer = in_front_of(&destination);
    let mut client = balancer.connect();
    client.send(UPGRADE.replace("/chat", "/no"));
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (403, "goodbye"));
    let mut second = Http2Client::connect(&balancer);
    let (head, mut tunnel) = second.open_tunnel("/no");
    assert_eq!(head.status(), 403);
    second.expect_from_tunnel(&mut tunnel, b"goodbye");
    client = balancer.connect();
    client.send(UPGRADE.replace("/chat", "/break"));
    assert_eq!(client.read_response().status, 101);
    client.send("x");
    assert_eq!(client.read_to_end().kind, crate::kit::EndKind::Reset);
    let (_, mut tunnel) = second.open_tunnel("/break");
    second.send_to_tunnel(&mut tunnel, b"x", false);
    assert_eq!(second.read_tunnel_end(&mut tunnel).expect_err("a reset").reason(), Some(h2::Reason::CANCEL));
    wait_until("no request is in flight", || balancer.destination(0).in_flight == 0);
}

#[test]
fn destination_without_extended_connect_gets_no_tunnel_request() {
    let destination = Http2Destination::start_streaming();
    let balancer = in_front_of(&destination);
    let mut client = balancer.connect();
    client.send(UPGRADE);
    let response = client.read_response();
    assert!(response.status == 502 && response.text().contains("protocol_not_supported"), "{response:?}");
    client.send(crate::kit::get("/"));
    assert_eq!(client.read_response().status, 200, "the connection stays usable");
    let mut second = Http2Client::connect(&balancer);
    let response = second.fetch(extended_connect("websocket", "/"), b"").expect("a response");
    assert!(response.status() == 502 && response.text().contains("protocol_not_supported"), "{response:?}");
    assert_eq!(balancer.refusals("protocol_not_supported"), 2);
    wait_until("no request is in flight", || balancer.destination(0).in_flight == 0);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    let stopwatch = crate::kit::Stopwatch::start();
    client.send(UPGRADE.replace("WebSocket", "something-else"));
    assert_eq!(client.read_response().status, 200, "other upgrades are dropped and the request is served");
    assert!(stopwatch.elapsed() < secs(5));
}
