//! Tunnels of WebSocket where at least one side speaks HTTP/2 (RFC 8441).

use plimsoll_config::model::PoolProtocol;

use crate::kit::http2::{Http2Client, Http2Destination, accept, connect, release};
use crate::kit::{Balancer, Destination, Gate, Setup, Visit, ms, noise, secs, until};

/// Reads the head of a handshake and answers it as it should be.
fn switch(visit: &mut Visit) -> bool {
    let Some(request) = visit.head() else { return false };
    let accept = accept(request.fields.one("sec-websocket-key").expect("one key"));
    visit.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nwelcome"
    ))
}

/// Sends everything back, and a goodbye at the end.
pub(super) fn echo(visit: &mut Visit) {
    if !switch(visit) {
        return;
    }
    loop {
        let bytes = std::mem::take(&mut visit.buffer);
        visit.send(bytes);
        if !visit.read() {
            break;
        }
    }
    visit.send("goodbye");
}

fn before(destination: &Http2Destination) -> Balancer {
    let start = |s: &mut Setup| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = vec![destination.as_member(0)];
    };
    Setup::http(&[]).with(start).start()
}

const UPGRADE: &str = "GET /chat?x=1 HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn the_right_answer_is_that_of_the_rfc() {
    assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_tunnel_over_http_2_reaches_a_destination_of_http_1() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    client.idle(ms(10));
    until("tunnels are offered", || {
        client.idle(ms(5));
        client.may_connect()
    });
    let mut early = client.begin(connect("websocket", "/chat?x=1"), false).expect("room");
    early.body.send_data("early".into(), false).expect("a window");
    let (head, mut tunnel) = client.opened(early);
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["sec-websocket-protocol"], "chat");
    for gone in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!head.headers().contains_key(gone), "{gone}");
    }
    client.hear(&mut tunnel, b"welcomeearly");
    assert_eq!(balancer.destination(0).in_flight, 1, "it holds its place");
    for n in 0..10_u8 {
        client.say(&mut tunnel, &[n; 100], false);
        client.hear(&mut tunnel, &[n; 100]);
    }
    client.say(&mut tunnel, b"bye", true);
    client.hear(&mut tunnel, b"byegoodbye");
    client.end_of(&mut tunnel).expect("an end and no break");
    until("its place is free", || balancer.destination(0).in_flight == 0);
    let record = String::from_utf8_lossy(&destination.records()[0]).into_owned();
    let head = record.split("\r\n\r\n").next().expect("a head");
    assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\nHost: test\r\n"), "{head}");
    assert!(head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket"), "{head}");
    assert!(head.contains("sec-websocket-version: 13\r\n") && !head.contains("Transfer-Encoding"), "{head}");
    let rule = &balancer.handle.traffic().routes[0];
    assert!(rule.counts.request_bytes > 1_008 && rule.counts.response_bytes >= 1_022, "{rule:?}");
    assert_eq!(client.open("/").0.status(), 200, "the connection goes on");
}

#[test]
fn keys_are_our_own_and_another_one_each_time() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..2 {
        let mut request = connect("websocket", "/");
        request.headers_mut().insert("sec-websocket-key", "of the client".parse().expect("a value"));
        let stream = client.begin(request, false).expect("room");
        assert_eq!(client.opened(stream).0.status(), 200);
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
fn a_switch_that_is_none_is_not_passed_off_as_one() {
    const WRONG: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    for (lines, status) in [
        (format!("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{WRONG}"), 502),
        ("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".into(), 502),
        ("101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n".into(), 502),
        ("200 OK\r\nContent-Length: 2\r\n".into(), 200),
        ("403 Forbidden\r\nContent-Length: 2\r\n".into(), 403),
    ] {
        let answer = format!("HTTP/1.1 {lines}\r\nno");
        let destination = Destination::start(move |visit| {
            if visit.head().is_some() {
                visit.send(&answer);
                visit.read_to_end();
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = Http2Client::connect(&balancer);
        let (head, mut tunnel) = client.open("/");
        assert_eq!(head.status(), status, "{lines}");
        assert_eq!(balancer.refused("bad_response"), u64::from(status == 502), "{lines}");
        if status != 502 {
            client.hear(&mut tunnel, b"no");
            client.end_of(&mut tunnel).expect("an answer that ends");
        }
        until("its place is free", || balancer.destination(0).in_flight == 0);
    }
}

#[test]
fn other_tunnels_are_refused() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let answer = client.ask(connect("connect-udp", "/"), b"").expect("an answer");
    assert!(answer.status() == 501 && answer.text().contains("protocol_not_supported"), "{answer:?}");
    let mut long = connect("websocket", "/");
    long.headers_mut().insert("content-length", "5".parse().expect("a value"));
    assert_eq!(client.ask(long, b"12345").expect("an answer").status(), 400);
    assert_eq!(destination.connections(), 0);
    assert_eq!(client.open("/").0.status(), 200, "the connection goes on");
}

#[test]
fn a_break_is_seen_as_one_on_the_other_side() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |visit| {
        if switch(visit) {
            wait.pass();
            visit.reset();
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open("/");
    client.hear(&mut tunnel, b"welcome");
    gate.open();
    let broken = client.end_of(&mut tunnel).expect_err("no end, but a break");
    assert_eq!(broken.reason(), Some(h2::Reason::CANCEL));

    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    for half_closed in [false, true] {
        let (_, mut tunnel) = client.open("/");
        client.hear(&mut tunnel, b"welcome");
        if half_closed {
            // The other half goes on for as long as the destination likes.
            client.say(&mut tunnel, &noise(5, 1 << 20), true);
        }
        assert_eq!(balancer.destination(0).in_flight, 1);
        tunnel.to.send_reset(h2::Reason::CANCEL);
        client.idle(ms(10));
        until("its place is free", || balancer.destination(0).in_flight == 0 && destination.open() == 0);
    }
    let (_, _tunnel) = client.open("/");
    drop(client);
    until("all are gone", || balancer.active() == 0 && destination.open() == 0);
}

#[test]
fn a_silent_tunnel_ends_after_the_idle_time_and_a_busy_one_does_not() {
    let destination = Destination::start(echo);
    let idle = |s: &mut Setup| {
        s.listeners[0].timeouts.idle = ms(300);
        s.pools[0].timeouts.idle = ms(300);
    };
    let balancer = Setup::http(&[&destination]).with(idle).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open("/");
    client.hear(&mut tunnel, b"welcome");
    for _ in 0..8 {
        client.idle(ms(100));
        client.say(&mut tunnel, b"x", false);
        client.hear(&mut tunnel, b"x");
    }
    assert!(client.end_of(&mut tunnel).is_err(), "it is broken off");
    until("its place is free", || balancer.destination(0).in_flight == 0 && destination.open() == 0);
}

#[test]
fn bulk_passes_both_ways_and_who_does_not_read_holds_up_the_other_side() {
    let full = Gate::default();
    let filled = full.clone();
    let destination = Destination::start(move |visit| {
        if !switch(visit) {
            return;
        }
        let sent = visit.send_until_full(&[b'x'; 65_536], 64 << 20, ms(500));
        assert!(sent < 32 << 20, "{sent} bytes found room");
        filled.open();
        visit.send("end");
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open("/");
    until("the other side is held up", || {
        client.idle(ms(20));
        full.is_open()
    });
    let mut last = Vec::new();
    while !last.ends_with(b"end") {
        let data = client.run(std::future::poll_fn(|cx| tunnel.from.poll_data(cx)));
        let data = data.expect("it goes on").expect("it is whole");
        release(&mut tunnel.from, data.len());
        last = data.to_vec();
    }
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open("/");
    client.hear(&mut tunnel, b"welcome");
    for n in 0..20 {
        let bytes = noise(n, 50_000);
        client.say(&mut tunnel, &bytes, false);
        client.hear(&mut tunnel, &bytes);
    }
}

#[test]
fn a_drain_lets_a_tunnel_finish() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let (_, mut tunnel) = client.open("/");
    client.hear(&mut tunnel, b"welcome");
    balancer.handle.drain();
    until("nobody new comes in", || {
        client.idle(ms(20));
        client.begin(connect("websocket", "/"), true).is_err()
    });
    for _ in 0..3 {
        client.say(&mut tunnel, b"still here", false);
        client.hear(&mut tunnel, b"still here");
    }
    client.say(&mut tunnel, b"", true);
    client.hear(&mut tunnel, b"goodbye");
    client.end_of(&mut tunnel).expect("an end and no break");
    client.idle(ms(20));
    until("the proxy has ended", || balancer.has_ended());
}

#[test]
fn clients_of_both_versions_reach_a_destination_of_http_2() {
    let destination = Http2Destination::start_tunnels();
    let balancer = before(&destination);
    let mut client = balancer.connect();
    client.send(format!("{UPGRADE}early"));
    let answer = client.answer();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.fields.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(answer.fields.one("upgrade"), Some("websocket"));
    assert_eq!(answer.fields.one("sec-websocket-protocol"), Some("chat"));
    client.expect("early");
    client.send("and late");
    client.expect("and late");
    client.end();
    client.expect("goodbye");
    client.expect_end();

    let mut client = Http2Client::connect(&balancer);
    let (head, mut tunnel) = client.open("/chat?x=1");
    assert_eq!(head.status(), 200);
    assert!(!head.headers().contains_key("sec-websocket-accept"));
    let bytes = noise(3, 40_000);
    client.say(&mut tunnel, &bytes, false);
    client.hear(&mut tunnel, &bytes);
    assert_eq!(balancer.destination(0).in_flight, 1);
    client.say(&mut tunnel, b"", true);
    client.hear(&mut tunnel, b"goodbye");
    client.end_of(&mut tunnel).expect("an end and no break");
    until("its place is free", || balancer.destination(0).in_flight == 0);
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
fn a_destination_of_http_2_may_decline_or_break_off() {
    let destination = Http2Destination::start_tunnels();
    let balancer = before(&destination);
    let mut client = balancer.connect();
    client.send(UPGRADE.replace("/chat", "/no"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (403, "goodbye"));
    let mut second = Http2Client::connect(&balancer);
    let (head, mut tunnel) = second.open("/no");
    assert_eq!(head.status(), 403);
    second.hear(&mut tunnel, b"goodbye");
    client = balancer.connect();
    client.send(UPGRADE.replace("/chat", "/break"));
    assert_eq!(client.answer().status, 101);
    client.send("x");
    assert_eq!(client.rest().kind, crate::kit::Kind::Reset);
    let (_, mut tunnel) = second.open("/break");
    second.say(&mut tunnel, b"x", false);
    assert_eq!(second.end_of(&mut tunnel).expect_err("a break").reason(), Some(h2::Reason::CANCEL));
    until("no place is held", || balancer.destination(0).in_flight == 0);
}

#[test]
fn a_destination_that_opens_no_tunnels_is_not_asked_for_one() {
    let destination = Http2Destination::start_streaming();
    let balancer = before(&destination);
    let mut client = balancer.connect();
    client.send(UPGRADE);
    let answer = client.answer();
    assert!(answer.status == 502 && answer.text().contains("protocol_not_supported"), "{answer:?}");
    client.send(crate::kit::get("/"));
    assert_eq!(client.answer().status, 200, "the connection goes on");
    let mut second = Http2Client::connect(&balancer);
    let answer = second.ask(connect("websocket", "/"), b"").expect("an answer");
    assert!(answer.status() == 502 && answer.text().contains("protocol_not_supported"), "{answer:?}");
    assert_eq!(balancer.refused("protocol_not_supported"), 2);
    until("it stands as before", || balancer.destination(0).in_flight == 0);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    let watch = crate::kit::Watch::start();
    client.send(UPGRADE.replace("WebSocket", "something-else"));
    assert_eq!(client.answer().status, 200, "what cannot cross is no reason to refuse");
    assert!(watch.elapsed() < secs(5));
}
