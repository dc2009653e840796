//! Both directions at once: protocol upgrades, early responses, echoes and streamed responses.

use crate::kit::{Balancer, Client, Connection, Destination, EndKind, Gate, Setup, get, ok, wait_until};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches protocols when the gate opens, sends data in the same segment, and echoes.
fn serve_tunnel(gate: &Gate) -> impl Fn(&mut Connection) + Send + Sync + use<> {
    let gate = gate.clone();
    move |conn| {
        if conn.head().is_none() {
            return;
        }
        gate.wait();
        conn.send(format!("{SWITCH}welcome"));
        loop {
            let bytes = std::mem::take(&mut conn.buffer);
            conn.send(bytes);
            if !conn.read() {
                break;
            }
        }
        conn.send("goodbye");
    }
}

fn start_upgrade(gate: &Gate) -> (Destination, Balancer, Client) {
    let destination = Destination::start(serve_tunnel(gate));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{UPGRADE}early"));
    wait_until("the offer is there", || !destination.records().is_empty());
    (destination, balancer, client)
}

#[test]
fn tunnel_carries_early_data_and_half_closes() {
    let gate = Gate::default();
    let (destination, _balancer, mut client) = start_upgrade(&gate);
    gate.open();
    let response = client.read_response();
    assert_eq!(response.status, 101);
    assert_eq!(response.fields.one("upgrade"), Some("websocket"));
    assert_eq!(response.fields.one("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(response.fields.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.expect("welcomeearly");
    for n in 0..10 {
        client.send([n; 100]);
        client.expect([n; 100]);
    }
    client.shutdown_write();
    client.expect("goodbye");
    client.expect_closed();
    let record = String::from_utf8_lossy(&destination.records()[0]).into_owned();
    assert!(record.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), "{record}");
    assert!(record.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{record}");
}

#[test]
fn an_upgrade_passes_with_an_empty_body_and_beside_http_2() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (method, lines) in [
        ("GET", "Upgrade: websocket\r\nContent-Length: 0\r\n"),
        ("POST", "Upgrade: websocket\r\nContent-Length: 0\r\n"),
        ("GET", "Upgrade: h2c, websocket\r\n"),
        ("GET", "Upgrade: HTTP/2.0,websocket\r\n"),
        ("GET", "Upgrade: websocket\r\nUpgrade: h2c\r\n"),
    ] {
        let gate = Gate::default();
        gate.open();
        let destination = Destination::start(serve_tunnel(&gate));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n{key}{lines}\r\n"));
        assert_eq!(client.read_response().status, 101, "{method} {lines}");
        client.expect("welcome");
        client.send("ping");
        client.expect("ping");
        let record = String::from_utf8_lossy(&destination.records()[0]).into_owned();
        assert!(record.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), "{record}");
    }
}

#[test]
fn nothing_is_tunnelled_before_the_101() {
    let gate = Gate::default();
    let (destination, _balancer, mut client) = start_upgrade(&gate);
    client.send("more");
    let head_end = |record: &[u8]| record.ends_with(b"\r\n\r\n");
    wait_until("the head is there", || destination.records().first().is_some_and(|r| head_end(r)));
    // A premature forward would have happened by now: the client's bytes precede this wait.
    client.expect_no_data(crate::kit::ms(50));
    assert!(head_end(&destination.records()[0]), "{:?}", String::from_utf8_lossy(&destination.records()[0]));
    gate.open();
    assert_eq!(client.read_response().status, 101);
    client.expect("welcomeearlymore");
}

#[test]
fn after_a_declined_upgrade_early_data_is_the_next_request() {
    let destination = Destination::start(|conn| {
        while conn.request().is_some() {
            conn.send(ok("no"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{UPGRADE}{}\0\0raw frames\r\n\r\n", get("/next")));
    assert_eq!(
        (client.read_response().text().as_str(), client.read_response().text().as_str()),
        ("no", "no")
    );
    assert_eq!(client.read_response().status, 400);
    client.expect_closed();
    let targets: Vec<_> = destination.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/chat", "/next"]);
}

#[test]
fn tunnel_ends_with_its_destination_and_forwards_a_reset() {
    for kill in [false, true] {
        let destination = Destination::start(move |conn| {
            if conn.head().is_some() {
                conn.send(SWITCH);
                conn.read();
                if kill {
                    conn.reset();
                }
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(UPGRADE);
        assert_eq!(client.read_response().status, 101);
        client.send("x");
        let end = client.read_to_end();
        assert!(
            end.kind == EndKind::Reset || (!kill && end.kind == EndKind::Closed),
            "killed: {kill}, {end:?}"
        );
        drop(client);
        wait_until("the tunnel is closed", || balancer.active() == 0 && destination.open() == 0);
        assert_eq!(balancer.destination(0).in_flight, 0);
    }
}

#[test]
fn tunnel_ends_with_its_client() {
    for abort in [true, false] {
        let gate = Gate::default();
        gate.open();
        let (destination, balancer, mut client) = start_upgrade(&gate);
        assert_eq!(client.read_response().status, 101);
        if abort {
            client.abort();
        } else {
            drop(client);
        }
        wait_until("the tunnel is closed", || balancer.active() == 0 && destination.open() == 0);
    }
}

#[test]
fn early_response_is_forwarded_and_closes_the_connection() {
    for (behaviour, framing) in [
        ("reads on", "Content-Length: 1000000"),
        ("reads on", "Transfer-Encoding: chunked"),
        ("closes", "Content-Length: 1000000"),
        ("closes", "Transfer-Encoding: chunked"),
    ] {
        let destination = Destination::start(move |conn| {
            while conn.head().is_some() {
                conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nstop");
                if behaviour == "closes" {
                    return;
                }
                conn.read_to_end();
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        client.send(if framing.starts_with('T') { "4\r\nhalf\r\n" } else { "half" });
        let response =
            client.try_read_response("POST").unwrap_or_else(|end| panic!("{behaviour}, {framing}: {end:?}"));
        assert_eq!(
            (response.status, response.text().as_str(), response.closes()),
            (403, "stop", true),
            "{behaviour}, {framing}"
        );
        // The client may still be sending, which is harmless.
        let _may_be_gone = client.try_send("more");
        client.expect_closed();
        let whole: usize = destination.recorded().iter().map(|seen| seen.requests.len()).sum();
        assert_eq!(whole, 0, "the truncated body was not completed");
        assert_eq!(balancer.fetch(get("/")).status, 403);
    }
}

#[test]
fn early_response_is_complete_if_the_body_is_finished_meanwhile() {
    let (gate, responded) = (Gate::default(), Gate::default());
    let (wait, begun) = (gate.clone(), responded.clone());
    let destination = Destination::start(move |conn| {
        while let Some(head) = conn.head() {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            begun.open();
            if head.method == "POST" {
                while conn.buffer.len() < 10 && conn.read() {}
                conn.buffer.clear();
            }
            wait.wait();
            conn.send("4\r\nlast\r\n0\r\n\r\n");
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    responded.wait();
    client.send("67890");
    wait_until("the body is there", || destination.requests().iter().any(|r| r.body == b"1234567890"));
    gate.open();
    assert_eq!(client.read_response().text(), "firstlast");
}

#[test]
fn echo_runs_in_both_directions_at_once() {
    let destination = Destination::start(|conn| {
        if conn.head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // The request body is chunked already and is echoed unchanged.
            while !conn.buffer.ends_with(b"0\r\n\r\n") {
                let bytes = std::mem::take(&mut conn.buffer);
                conn.send(bytes);
                if !conn.read() {
                    return;
                }
            }
            let bytes = std::mem::take(&mut conn.buffer);
            conn.send(bytes);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    while !client.unread.ends_with(b"\r\n\r\n") {
        assert!(matches!(client.read_some(), Ok(1..)));
    }
    for n in 0..50 {
        // The next chunk is sent only after the previous one was echoed.
        let chunk = format!("5\r\n{n:05}\r\n");
        let have = client.unread.len();
        client.send(&chunk);
        while client.unread.len() < have + chunk.len() {
            assert!(matches!(client.read_some(), Ok(1..)), "echo {n}");
        }
    }
    client.send("0\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.text(), (0..50).map(|n| format!("{n:05}")).collect::<String>());
}

#[test]
fn streamed_response_is_forwarded_without_delay() {
    let gates = [(); 3].map(|()| Gate::default());
    let steps = gates.clone();
    let destination = Destination::start(move |conn| {
        if conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
            for (n, gate) in steps.iter().enumerate() {
                conn.send(format!("data: {n}\n\n"));
                gate.wait();
            }
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/events"));
    for (n, gate) in gates.iter().enumerate() {
        let event = format!("data: {n}\n\n");
        while !client.unread.windows(event.len()).any(|w| w == event.as_bytes()) {
            assert!(matches!(client.read_some(), Ok(1..)), "event {n}");
        }
        gate.open();
    }
    assert_eq!(client.read_response().text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
}
