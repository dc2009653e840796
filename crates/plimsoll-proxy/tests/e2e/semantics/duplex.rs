//! Both directions of one exchange at once: switched protocols, early answers, echoes.

use crate::kit::{Balancer, Client, Destination, Gate, Kind, Setup, Visit, get, ok, until};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches when the gate opens, greets in the same segment, and sends everything back.
fn tunnel(gate: &Gate) -> impl Fn(&mut Visit) + Send + Sync + use<> {
    let gate = gate.clone();
    move |visit| {
        if visit.head().is_none() {
            return;
        }
        gate.pass();
        visit.send(format!("{SWITCH}welcome"));
        loop {
            let bytes = std::mem::take(&mut visit.buffer);
            visit.send(bytes);
            if !visit.read() {
                break;
            }
        }
        visit.send("goodbye");
    }
}

fn switched(gate: &Gate) -> (Destination, Balancer, Client) {
    let destination = Destination::start(tunnel(gate));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{UPGRADE}early"));
    until("the offer is there", || !destination.records().is_empty());
    (destination, balancer, client)
}

#[test]
fn a_tunnel_carries_early_bytes_both_ways_and_each_end_by_itself() {
    let gate = Gate::default();
    let (destination, _balancer, mut client) = switched(&gate);
    gate.open();
    let answer = client.answer();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.fields.one("upgrade"), Some("websocket"));
    assert_eq!(answer.fields.one("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
    assert_eq!(answer.fields.one("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.expect("welcomeearly");
    for n in 0..10 {
        client.send([n; 100]);
        client.expect([n; 100]);
    }
    client.end();
    client.expect("goodbye");
    client.expect_end();
    let record = String::from_utf8_lossy(&destination.records()[0]).into_owned();
    assert!(record.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), "{record}");
    assert!(record.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{record}");
}

#[test]
fn nothing_is_tunnelled_before_the_switch() {
    let gate = Gate::default();
    let (destination, _balancer, mut client) = switched(&gate);
    client.send("more");
    let head_end = |record: &[u8]| record.ends_with(b"\r\n\r\n");
    until("the head is there", || destination.records().first().is_some_and(|r| head_end(r)));
    // Whatever the proxy would forward too early, it has by now: the client's bytes lie before it.
    client.expect_silence(crate::kit::ms(50));
    assert!(head_end(&destination.records()[0]), "{:?}", String::from_utf8_lossy(&destination.records()[0]));
    gate.open();
    assert_eq!(client.answer().status, 101);
    client.expect("welcomeearlymore");
}

#[test]
fn after_a_refused_switch_early_bytes_are_the_next_request_and_no_tunnel() {
    let destination = Destination::start(|visit| {
        while visit.request().is_some() {
            visit.send(ok("no"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{UPGRADE}{}\0\0raw frames\r\n\r\n", get("/next")));
    assert_eq!((client.answer().text().as_str(), client.answer().text().as_str()), ("no", "no"));
    assert_eq!(client.answer().status, 400);
    client.expect_end();
    let targets: Vec<_> = destination.requests().into_iter().map(|r| r.target).collect();
    assert_eq!(targets, ["/chat", "/next"]);
}

#[test]
fn a_tunnel_ends_with_its_destination_and_a_break_is_seen_as_one() {
    for kill in [false, true] {
        let destination = Destination::start(move |visit| {
            if visit.head().is_some() {
                visit.send(SWITCH);
                visit.read();
                if kill {
                    visit.reset();
                }
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(UPGRADE);
        assert_eq!(client.answer().status, 101);
        client.send("x");
        let end = client.rest();
        assert!(end.kind == Kind::Reset || (!kill && end.kind == Kind::Closed), "killed: {kill}, {end:?}");
        drop(client);
        until("the tunnel is gone", || balancer.active() == 0 && destination.open() == 0);
        assert_eq!(balancer.destination(0).in_flight, 0);
    }
}

#[test]
fn a_tunnel_ends_with_its_client() {
    for abort in [true, false] {
        let gate = Gate::default();
        gate.open();
        let (destination, balancer, mut client) = switched(&gate);
        assert_eq!(client.answer().status, 101);
        if abort {
            client.abort();
        } else {
            drop(client);
        }
        until("the tunnel is gone", || balancer.active() == 0 && destination.open() == 0);
    }
}

#[test]
fn an_early_answer_overtakes_the_body_and_ends_the_connection() {
    for (how, framing) in [
        ("reads on", "Content-Length: 1000000"),
        ("reads on", "Transfer-Encoding: chunked"),
        ("closes", "Content-Length: 1000000"),
        ("closes", "Transfer-Encoding: chunked"),
    ] {
        let destination = Destination::start(move |visit| {
            while visit.head().is_some() {
                visit.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nstop");
                if how == "closes" {
                    return;
                }
                visit.read_to_end();
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        client.send(if framing.starts_with('T') { "4\r\nhalf\r\n" } else { "half" });
        let answer = client.try_answer("POST").unwrap_or_else(|fault| panic!("{how}, {framing}: {fault:?}"));
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.closes()),
            (403, "stop", true),
            "{how}, {framing}"
        );
        // The client may still be sending; that harms nobody.
        let _may_be_gone = client.try_send("more");
        client.expect_end();
        let whole: usize = destination.seen().iter().map(|seen| seen.requests.len()).sum();
        assert_eq!(whole, 0, "no end of the body was made up");
        assert_eq!(balancer.ask(get("/")).status, 403);
    }
}

#[test]
fn an_early_answer_to_a_body_that_is_finished_meanwhile_is_whole() {
    let (gate, answered) = (Gate::default(), Gate::default());
    let (wait, begun) = (gate.clone(), answered.clone());
    let destination = Destination::start(move |visit| {
        while let Some(head) = visit.head() {
            visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            begun.open();
            if head.method == "POST" {
                while visit.buffer.len() < 10 && visit.read() {}
                visit.buffer.clear();
            }
            wait.pass();
            visit.send("4\r\nlast\r\n0\r\n\r\n");
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
    answered.pass();
    client.send("67890");
    until("the body is there", || destination.requests().iter().any(|r| r.body == b"1234567890"));
    gate.open();
    assert_eq!(client.answer().text(), "firstlast");
}

#[test]
fn an_echo_runs_both_ways_at_once() {
    let destination = Destination::start(|visit| {
        if visit.head().is_some() {
            visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            // What comes is chunked already; sent back as it is, to its end.
            while !visit.buffer.ends_with(b"0\r\n\r\n") {
                let bytes = std::mem::take(&mut visit.buffer);
                visit.send(bytes);
                if !visit.read() {
                    return;
                }
            }
            let bytes = std::mem::take(&mut visit.buffer);
            visit.send(bytes);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    while !client.unread.ends_with(b"\r\n\r\n") {
        assert!(matches!(client.read_some(), Ok(1..)));
    }
    for n in 0..50 {
        // A chunk goes out only when the one before it has come back.
        let chunk = format!("5\r\n{n:05}\r\n");
        let have = client.unread.len();
        client.send(&chunk);
        while client.unread.len() < have + chunk.len() {
            assert!(matches!(client.read_some(), Ok(1..)), "echo {n}");
        }
    }
    client.send("0\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.text(), (0..50).map(|n| format!("{n:05}")).collect::<String>());
}

#[test]
fn an_answer_is_passed_on_as_it_comes_and_not_held_back() {
    let gates = [(); 3].map(|()| Gate::default());
    let steps = gates.clone();
    let destination = Destination::start(move |visit| {
        if visit.request().is_some() {
            visit.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
            for (n, gate) in steps.iter().enumerate() {
                visit.send(format!("data: {n}\n\n"));
                gate.pass();
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
    assert_eq!(client.answer().text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
}
