//! Timeouts and size limits: the documented status, within bounded time, counted by reason.

use std::time::Duration;

use crate::kit::{
    Balancer, BlackHole, Client, Destination, EndKind, Gate, Setup, Stopwatch, TIMEOUT, get, ms, ok,
    respond_ok, secs, wait_until,
};

/// The timeout under test, and the delay tolerated on a busy machine.
const LIMIT: Duration = ms(250);
const TOLERANCE: Duration = secs(5);

#[track_caller]
fn check_elapsed(stopwatch: Stopwatch, least: Duration) {
    let took = stopwatch.elapsed();
    assert!(took >= least && took < least + TOLERANCE, "after {took:?}, due after {least:?}");
}

fn start_with(destination: &Destination, change: impl FnOnce(&mut Setup)) -> Balancer {
    Setup::http(&[destination]).with(change).start()
}

/// Sends `start` and then one byte at a time, until the proxy responds. Returns the status and the time it took.
fn drip(balancer: &Balancer, start: &str, byte: &str) -> (u16, Duration) {
    let (mut client, stopwatch) = (balancer.connect(), Stopwatch::start());
    client.send(start);
    while !client.has_bytes() && stopwatch.elapsed() < crate::kit::TIMEOUT {
        // The proxy may respond between the two calls.
        let _refused_meanwhile = client.try_send(byte);
        std::thread::sleep(ms(100));
    }
    (client.read_response_to("POST").status, stopwatch.elapsed())
}

#[test]
fn requests_below_the_minimum_rate_are_refused() {
    let destination = Destination::start(|conn| {
        conn.read_to_end();
    });
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].timeouts.header = secs(60)).start();
    let head = "POST / HTTP/1.1\r\nHost: test\r\n";
    let starts = [
        (head.to_owned(), "X"),
        (format!("{head}Content-Length: 100000\r\n\r\n"), "x"),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n5;"), "x"),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n"), "x"),
    ];
    std::thread::scope(|scope| {
        for (start, byte) in &starts {
            let balancer = &balancer;
            scope.spawn(move || {
                let (status, took) = drip(balancer, start, byte);
                assert_eq!(status, 408, "{start:?}");
                assert!((secs(9)..secs(15)).contains(&took), "{start:?} took {took:?}");
            });
        }
    });
    let slow = Setup::http(&[&destination]).with(|s| {
        s.listeners[0].timeouts.min_rate = 0;
        s.listeners[0].timeouts.body = ms(300);
    });
    assert_eq!(drip(&slow.start(), "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n", "").0, 408);
}

#[test]
fn first_header_timeout_starts_with_the_connection() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with(&destination, |s| s.listeners[0].timeouts.header = LIMIT);
    let stopwatch = Stopwatch::start();
    let mut slow = balancer.connect();
    // Single bytes do not extend it, and the wait before the first byte counts.
    std::thread::sleep(LIMIT / 2);
    let mut bytes = get("/").into_bytes().into_iter().cycle();
    while stopwatch.elapsed() < LIMIT + TOLERANCE {
        let _refused_meanwhile = slow.try_send([bytes.next().expect("endless")]);
        std::thread::sleep(LIMIT / 20);
        if slow.has_bytes() {
            break;
        }
    }
    check_elapsed(stopwatch, LIMIT);
    let response = slow.read_response();
    assert_eq!((response.status, response.closes()), (408, true));
    assert_eq!(balancer.refusals("header_timeout"), 1);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn later_header_timeouts_start_with_the_first_byte() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with(&destination, |s| s.listeners[0].timeouts.header = LIMIT);
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.read_response().status, 200);
    // Between requests only the idle timeout applies.
    std::thread::sleep(LIMIT * 2);
    client.send(get("/"));
    assert_eq!(client.read_response().status, 200);
    let stopwatch = Stopwatch::start();
    client.send("GET / HT");
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (408, true));
    check_elapsed(stopwatch, LIMIT);
}

#[test]
fn idle_connection_is_closed_without_a_response() {
    let destination = Destination::start(respond_ok("ok"));
    let check_closed_after = |header, idle, sends_request: bool| {
        let balancer = start_with(&destination, |s| {
            (s.listeners[0].timeouts.header, s.listeners[0].timeouts.idle) = (header, idle);
        });
        let stopwatch = Stopwatch::start();
        let mut client = balancer.connect();
        if sends_request {
            client.send(get("/"));
            assert_eq!(client.read_response().status, 200);
        }
        client.expect_closed();
        check_elapsed(stopwatch, LIMIT - ms(20));
        wait_until("it is counted out", || balancer.active() == 0);
        // A connection without a request counts as a header timeout; after a request it is merely idle.
        assert_eq!(balancer.refusals("header_timeout"), u64::from(!sends_request));
    };
    // Before the first request the header timeout applies, after it the idle timeout; the other one is long.
    check_closed_after(LIMIT, TIMEOUT, false);
    check_closed_after(TIMEOUT, LIMIT, true);
}

#[test]
fn body_timeout_applies_to_gaps_only() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with(&destination, |s| s.listeners[0].timeouts.body = LIMIT);
    for framing in ["Content-Length: 20", "Transfer-Encoding: chunked"] {
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n1"));
        let stopwatch = Stopwatch::start();
        let response = client.read_response();
        assert_eq!((response.status, response.closes()), (408, true), "{framing}");
        check_elapsed(stopwatch, LIMIT - ms(20));
        client.expect_closed();
    }
    assert_eq!(balancer.refusals("body_timeout"), 2);
    let mut steady = balancer.connect();
    steady.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n");
    let stopwatch = Stopwatch::start();
    steady.send_in_steps("12345678901234567890", 1, LIMIT / 10);
    assert!(stopwatch.elapsed() > LIMIT * 3 / 2);
    assert_eq!(steady.read_response().status, 200);
    assert_eq!(balancer.destination(0).counts.failed(), 0, "that was not its end");
}

#[test]
fn client_that_stops_reading_is_disconnected() {
    for version in ["1.1", "1.0"] {
        let destination = Destination::start(|conn| {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            conn.send_until_blocked(&[b'x'; 65536], 64 << 20, secs(10));
        });
        let balancer = start_with(&destination, |s| s.listeners[0].timeouts.idle = LIMIT);
        let mut client = balancer.connect();
        client.shrink_receive_buffer();
        client.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n"));
        wait_until("the client is given up", || balancer.refusals("client_timeout") == 1);
        wait_until("its destination is freed", || destination.open() == 0);
        let end = client.try_read_response("GET").expect_err("no whole response");
        // If closing would end the response in order, only a reset shows the truncation.
        assert!(
            end.kind == EndKind::Reset || (version == "1.1" && end.kind == EndKind::Closed),
            "{version}: {:?}",
            end.kind
        );
    }
}

#[test]
fn response_timeout_is_a_504_without_a_retry() {
    let destinations = [Destination::start(|v| v.read_to_end()), Destination::start(|v| v.read_to_end())];
    let balancer = Setup::http(&[&destinations[0], &destinations[1]])
        .with(|s| s.pools[0].timeouts.response = LIMIT)
        .start();
    let mut client = balancer.connect();
    let stopwatch = Stopwatch::start();
    client.send(get("/"));
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (504, false));
    check_elapsed(stopwatch, LIMIT);
    assert_eq!(balancer.refusals("timeout"), 1);
    assert_eq!(destinations.iter().map(|d| d.requests().len()).sum::<usize>(), 1);
    wait_until("its connection is thrown away", || destinations.iter().all(|d| d.open() == 0));
}

#[test]
fn response_timeout_starts_after_the_request_body() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = LIMIT).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n");
    client.send_in_steps("1234567890", 1, LIMIT / 4);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn gap_in_a_response_truncates_it_visibly() {
    for (head, body) in [
        ("Content-Length: 100", "half"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n"),
        ("Connection: close", "half"),
    ] {
        let destination = Destination::start(move |conn| {
            conn.request();
            conn.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}"));
            conn.read_to_end();
        });
        let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = LIMIT).start();
        let mut client = balancer.connect();
        client.send(get("/"));
        let stopwatch = Stopwatch::start();
        let end = client.try_read_response("GET").expect_err("half a response");
        assert!(matches!(end.kind, EndKind::Reset | EndKind::Closed), "{head}: {end:?}");
        check_elapsed(stopwatch, LIMIT - ms(50));
        assert_eq!(balancer.refusals("timeout"), 1, "{head}");
    }
}

#[test]
fn slow_but_steady_response_has_no_timeout() {
    let destination = Destination::start(|conn| {
        conn.request();
        conn.send_in_steps("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow", 5, LIMIT / 5);
    });
    let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = LIMIT).start();
    assert_eq!(balancer.fetch(get("/")).text(), "slow");
}

#[test]
fn total_timeout_ends_a_request_in_any_phase() {
    let total = |destination: &Destination, more: fn(&mut Setup)| {
        Setup::http(&[destination]).with(|s| s.pools[0].timeouts.total = Some(LIMIT)).with(more).start()
    };
    let silent = Destination::start(|conn| conn.read_to_end());
    let balancer = total(&silent, |_| {});
    let stopwatch = Stopwatch::start();
    assert_eq!(balancer.fetch(get("/")).status, 504);
    check_elapsed(stopwatch, LIMIT);
    assert_eq!(balancer.refusals("total_timeout"), 1);
    // An endless response is truncated visibly.
    let endless = Destination::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\n\r\n");
        while conn.send("x") {
            std::thread::sleep(LIMIT / 50);
        }
    });
    let balancer = total(&endless, |_| {});
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.try_read_response("GET").expect_err("no whole response").kind, EndKind::Reset);
    assert_eq!(balancer.refusals("total_timeout"), 1);
    // A request body that arrives too slowly.
    let destination = Destination::start(respond_ok("ok"));
    let balancer = total(&destination, |_| {});
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n");
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < LIMIT + TOLERANCE && client.try_send("x").is_ok() && !client.has_bytes() {
        std::thread::sleep(LIMIT / 50);
    }
    assert_eq!(client.read_response().status, 504);
}

#[test]
fn connect_timeout_is_retried_at_another_destination() {
    let black_hole = BlackHole::open();
    let hanging = &black_hole.destination;
    let without_alternative = Setup::http(&[hanging]).with(|s| s.pools[0].timeouts.connect = LIMIT).start();
    let stopwatch = Stopwatch::start();
    let response = without_alternative.fetch(get("/"));
    assert_eq!(response.status, 503);
    assert!(response.text().contains("connect_failed"));
    check_elapsed(stopwatch, LIMIT);
    let other = Destination::start(respond_ok("other"));
    let balancer = Setup::http(&[hanging, &other]).with(|s| s.pools[0].timeouts.connect = LIMIT).start();
    for _ in 0..4 {
        assert_eq!(balancer.fetch(get("/")).text(), "other");
    }
}

#[test]
fn size_limits_are_refused_with_their_status() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with(&destination, |s| {
        let limits = &mut s.listeners[0].limits;
        (limits.uri_bytes, limits.header_bytes, limits.headers, limits.body_bytes) = (100, 1000, 10, 50);
    });
    let long = |n: usize| "x".repeat(n);
    let lines = |n: usize| "X: y\r\n".repeat(n);
    let rows = [
        (get(&format!("/{}", long(99))), 200, ""),
        (get(&format!("/{}", long(100))), 414, "uri_too_long"),
        (get(&format!("/{}", long(5000))), 414, "uri_too_long"),
        (format!("GET http://test/{} HTTP/1.1\r\nHost: test\r\n\r\n", long(100)), 414, "uri_too_long"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", long(900)), 200, ""),
        (format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", long(1000)), 431, "headers_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", long(100_000)), 431, "headers_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", lines(9)), 200, ""),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", lines(10)), 431, "headers_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", lines(400)), 431, "headers_too_large"),
        (format!("{}GET / HTTP/1.1\r\nHost: test\r\n\r\n", "\r\n".repeat(600)), 431, "headers_too_large"),
        (format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 50\r\n\r\n{}", long(50)), 200, ""),
        ("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 51\r\n\r\n".into(), 413, "body_too_large"),
        (
            "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 51\r\n\r\n".into(),
            413,
            "body_too_large",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n{}\r\n0\r\n\r\n",
                long(50)
            ),
            200,
            "",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n33\r\n{}\r\n0\r\n\r\n",
                long(51)
            ),
            413,
            "body_too_large",
        ),
    ];
    for (request, status, reason) in rows {
        for step in [request.len(), 7] {
            let before = if reason.is_empty() { 0 } else { balancer.refusals(reason) };
            let mut client = balancer.connect();
            for piece in request.as_bytes().chunks(step) {
                if client.try_send(piece).is_err() {
                    break;
                }
            }
            let context = &request[..request.len().min(60)];
            let response = client
                .try_read_response("GET")
                .unwrap_or_else(|end| panic!("{context:?} by {step}: {end:?}"));
            assert_eq!(response.status, status, "{context:?} by {step}");
            if !reason.is_empty() {
                assert!(response.closes() && response.text().contains(reason), "{context:?}: {response:?}");
                assert_eq!(balancer.refusals(reason), before + 1, "{context:?}");
            }
        }
    }
    assert!(destination.recorded().iter().flat_map(|s| &s.requests).all(|r| r.body.len() <= 50));
}

#[test]
fn connection_above_the_limit_gets_a_503() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with(&destination, |s| s.listeners[0].limits.connections = 3);
    let mut established: Vec<Client> = (0..3).map(|_| balancer.connect()).collect();
    wait_until("three are in", || balancer.active() == 3);
    let mut excess = balancer.connect();
    let response = excess.read_response();
    assert_eq!((response.status, response.closes()), (503, true));
    assert!(response.text().contains("connection_limit"), "{response:?}");
    excess.expect_closed();
    assert_eq!(balancer.refusals("connection_limit"), 1);
    for client in &mut established {
        client.expect_open();
    }
    drop(established.pop());
    wait_until("one connection is closed", || balancer.active() == 2);
    balancer.connect().expect_open();
    assert_eq!(balancer.refusals("connection_limit"), 1);
}

#[test]
fn slow_clients_do_not_delay_fast_ones() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut slow: Vec<Client> = (0..500).map(|_| balancer.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHo");
    }
    let stopwatch = Stopwatch::start();
    for _ in 0..50 {
        assert_eq!(balancer.fetch(get("/")).status, 200);
    }
    assert!(stopwatch.elapsed() < TOLERANCE);
}

#[test]
fn slow_destination_does_not_delay_other_requests() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.target == "/slow" {
                while !wait.is_open() {
                    conn.send_in_steps("HTTP/1.1 103 Hint\r\n\r\n", 1, ms(1));
                }
            }
            conn.send(ok("ok"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut slow = balancer.connect();
    slow.send(get("/slow"));
    for _ in 0..50 {
        assert_eq!(balancer.fetch(get("/")).text(), "ok");
    }
    gate.open();
    let _whatever = slow.try_read_response("GET");
}

#[test]
fn destination_that_does_not_read_is_a_504_and_a_failure() {
    let gate = Gate::default();
    let wait = gate.clone();
    let blocked_reader = Destination::start(move |conn| {
        conn.shrink_receive_buffer();
        wait.wait();
    });
    let balancer = Setup::http(&[&blocked_reader]).with(|s| s.pools[0].timeouts.response = LIMIT).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n");
    let mut sender = client.duplicate();
    let sending =
        std::thread::spawn(move || sender.send_until_blocked(&[b'x'; 65_536], 100_000_000, secs(2)));
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (504, true));
    assert_eq!(balancer.destination(0).counts.failed(), 1);
    gate.open();
    drop(client);
    let _as_far_as_it_went = sending.join().expect("no panic");
}

#[test]
fn client_body_timeout_does_not_count_against_the_destination() {
    for version in ["1.1", "1.0"] {
        let echo = Destination::start(|conn| {
            conn.head();
            conn.send("HTTP/1.1 200 OK\r\n\r\nheard you");
            conn.read_to_end();
        });
        let balancer = Setup::http(&[&echo])
            .with(|s| {
                s.listeners[0].timeouts.body = LIMIT;
                s.pools[0].timeouts.response = LIMIT / 2;
            })
            .start();
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/{version}\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf"));
        let end = client.try_read_response("POST").expect_err("half a response");
        assert!(end.kind == EndKind::Reset || (version == "1.1" && end.kind == EndKind::Closed), "{end:?}");
        assert_eq!(
            balancer.refusals("body_timeout"),
            1,
            "either side could have continued; the client is blamed"
        );
        assert_eq!(balancer.destination(0).counts.failed(), 0);
    }
}
