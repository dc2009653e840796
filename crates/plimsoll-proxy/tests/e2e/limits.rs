//! What takes too long, is too long or is too many: the right answer, in bounded time, counted by its reason.

use std::time::Duration;

use crate::kit::{
    Balancer, BlackHole, Client, Destination, Gate, Kind, PATIENCE, Setup, Watch, get, hello, ms, ok, secs,
    until,
};

/// The time limit under test, and how late it may be on a busy machine.
const SHORT: Duration = ms(250);
const LATE: Duration = secs(5);

#[track_caller]
fn in_time(watch: Watch, least: Duration) {
    let took = watch.elapsed();
    assert!(took >= least && took < least + LATE, "after {took:?}, due after {least:?}");
}

fn with_client_timeouts(destination: &Destination, change: impl FnOnce(&mut Setup)) -> Balancer {
    Setup::http(&[destination]).with(change).start()
}

#[test]
fn a_head_has_a_total_time_from_the_first_silent_moment() {
    let destination = Destination::start(hello("ok"));
    let balancer = with_client_timeouts(&destination, |s| s.listeners[0].timeouts.header = SHORT);
    let watch = Watch::start();
    let mut slow = balancer.connect();
    // A byte now and then does not prolong it, nor does having waited before the first.
    std::thread::sleep(SHORT / 2);
    let mut bytes = get("/").into_bytes().into_iter().cycle();
    while watch.elapsed() < SHORT + LATE {
        let _refused_meanwhile = slow.try_send([bytes.next().expect("endless")]);
        std::thread::sleep(SHORT / 20);
        if slow.has_bytes() {
            break;
        }
    }
    in_time(watch, SHORT);
    let answer = slow.answer();
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert_eq!(balancer.refused("header_timeout"), 1);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn a_later_head_has_its_time_from_its_first_byte() {
    let destination = Destination::start(hello("ok"));
    let balancer = with_client_timeouts(&destination, |s| s.listeners[0].timeouts.header = SHORT);
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.answer().status, 200);
    // Between requests only the idle time counts.
    std::thread::sleep(SHORT * 2);
    client.send(get("/"));
    assert_eq!(client.answer().status, 200);
    let watch = Watch::start();
    client.send("GET / HT");
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (408, true));
    in_time(watch, SHORT);
}

#[test]
fn a_silent_connection_is_closed_without_a_word() {
    let destination = Destination::start(hello("ok"));
    let ended = |header, idle, greets: bool| {
        let balancer = with_client_timeouts(&destination, |s| {
            (s.listeners[0].timeouts.header, s.listeners[0].timeouts.idle) = (header, idle);
        });
        let watch = Watch::start();
        let mut client = balancer.connect();
        if greets {
            client.send(get("/"));
            assert_eq!(client.answer().status, 200);
        }
        client.expect_end();
        in_time(watch, SHORT - ms(20));
        until("it is counted out", || balancer.active() == 0);
        // Whoever never asked was too slow with a head; whoever asked before may rest and go.
        assert_eq!(balancer.refused("header_timeout"), u64::from(!greets));
    };
    // Before the first request the time for its head counts, after it the idle time; the other one is long.
    ended(SHORT, PATIENCE, false);
    ended(PATIENCE, SHORT, true);
}

#[test]
fn a_gap_in_a_body_is_a_408_and_a_slow_steady_body_is_fine() {
    let destination = Destination::start(hello("ok"));
    let balancer = with_client_timeouts(&destination, |s| s.listeners[0].timeouts.body = SHORT);
    for framing in ["Content-Length: 20", "Transfer-Encoding: chunked"] {
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n1"));
        let watch = Watch::start();
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (408, true), "{framing}");
        in_time(watch, SHORT - ms(20));
        client.expect_end();
    }
    assert_eq!(balancer.refused("body_timeout"), 2);
    let mut steady = balancer.connect();
    steady.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 20\r\n\r\n");
    let watch = Watch::start();
    steady.send_in_steps("12345678901234567890", 1, SHORT / 10);
    assert!(watch.elapsed() > SHORT * 3 / 2);
    assert_eq!(steady.answer().status, 200);
    assert_eq!(balancer.destination(0).counts.failed(), 0, "that was not its fault");
}

#[test]
fn a_client_that_stops_reading_is_cut_off() {
    for version in ["1.1", "1.0"] {
        let destination = Destination::start(|visit| {
            visit.request();
            visit.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            visit.send_until_full(&[b'x'; 65536], 64 << 20, secs(10));
        });
        let balancer = with_client_timeouts(&destination, |s| s.listeners[0].timeouts.idle = SHORT);
        let mut client = balancer.connect();
        client.receive_little();
        client.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n"));
        until("the client is given up", || balancer.refused("client_timeout") == 1);
        until("its destination is freed", || destination.open() == 0);
        let fault = client.try_answer("GET").expect_err("no whole answer");
        // Where the end of the connection would be the end of the answer, only a reset tells the truth.
        assert!(
            fault.kind == Kind::Reset || (version == "1.1" && fault.kind == Kind::Closed),
            "{version}: {:?}",
            fault.kind
        );
    }
}

#[test]
fn no_answer_in_time_is_a_504_and_not_repeated() {
    let destinations = [Destination::start(|v| v.read_to_end()), Destination::start(|v| v.read_to_end())];
    let balancer = Setup::http(&[&destinations[0], &destinations[1]])
        .with(|s| s.pools[0].timeouts.response = SHORT)
        .start();
    let mut client = balancer.connect();
    let watch = Watch::start();
    client.send(get("/"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (504, false));
    in_time(watch, SHORT);
    assert_eq!(balancer.refused("timeout"), 1);
    assert_eq!(destinations.iter().map(|d| d.requests().len()).sum::<usize>(), 1);
    until("its connection is thrown away", || destinations.iter().all(|d| d.open() == 0));
}

#[test]
fn time_spent_on_the_body_is_not_time_without_an_answer() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = SHORT).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n");
    client.send_in_steps("1234567890", 1, SHORT / 4);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_gap_within_an_answer_cuts_it_off_visibly() {
    for (head, body) in [
        ("Content-Length: 100", "half"),
        ("Transfer-Encoding: chunked", "4\r\nhalf\r\n"),
        ("Connection: close", "half"),
    ] {
        let destination = Destination::start(move |visit| {
            visit.request();
            visit.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}"));
            visit.read_to_end();
        });
        let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = SHORT).start();
        let mut client = balancer.connect();
        client.send(get("/"));
        let watch = Watch::start();
        let fault = client.try_answer("GET").expect_err("half an answer");
        assert!(matches!(fault.kind, Kind::Reset | Kind::Closed), "{head}: {fault:?}");
        in_time(watch, SHORT - ms(50));
        assert_eq!(balancer.refused("timeout"), 1, "{head}");
    }
}

#[test]
fn a_slow_steady_answer_is_fine() {
    let destination = Destination::start(|visit| {
        visit.request();
        visit.send_in_steps("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow", 5, SHORT / 5);
    });
    let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = SHORT).start();
    assert_eq!(balancer.ask(get("/")).text(), "slow");
}

#[test]
fn the_total_time_of_a_message_ends_it_wherever_it_stands() {
    let total = |destination: &Destination, more: fn(&mut Setup)| {
        Setup::http(&[destination]).with(|s| s.pools[0].timeouts.total = Some(SHORT)).with(more).start()
    };
    let silent = Destination::start(|visit| visit.read_to_end());
    let balancer = total(&silent, |_| {});
    let watch = Watch::start();
    assert_eq!(balancer.ask(get("/")).status, 504);
    in_time(watch, SHORT);
    assert_eq!(balancer.refused("total_timeout"), 1);
    // A steady answer that never ends is cut off visibly.
    let endless = Destination::start(|visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\n\r\n");
        while visit.send("x") {
            std::thread::sleep(SHORT / 50);
        }
    });
    let balancer = total(&endless, |_| {});
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.try_answer("GET").expect_err("no whole answer").kind, Kind::Reset);
    assert_eq!(balancer.refused("total_timeout"), 1);
    // A body that trickles in for longer.
    let destination = Destination::start(hello("ok"));
    let balancer = total(&destination, |_| {});
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n");
    let watch = Watch::start();
    while watch.elapsed() < SHORT + LATE && client.try_send("x").is_ok() && !client.has_bytes() {
        std::thread::sleep(SHORT / 50);
    }
    assert_eq!(client.answer().status, 504);
}

#[test]
fn a_connect_that_hangs_is_given_up_and_another_destination_serves() {
    let hole = BlackHole::open();
    let hanging = &hole.destination;
    let alone = Setup::http(&[hanging]).with(|s| s.pools[0].timeouts.connect = SHORT).start();
    let watch = Watch::start();
    let answer = alone.ask(get("/"));
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("connect_failed"));
    in_time(watch, SHORT);
    let other = Destination::start(hello("other"));
    let balancer = Setup::http(&[hanging, &other]).with(|s| s.pools[0].timeouts.connect = SHORT).start();
    for _ in 0..4 {
        assert_eq!(balancer.ask(get("/")).text(), "other");
    }
}

#[test]
fn what_is_too_long_is_refused_with_its_own_status() {
    let destination = Destination::start(hello("ok"));
    let balancer = with_client_timeouts(&destination, |s| {
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
            let before = if reason.is_empty() { 0 } else { balancer.refused(reason) };
            let mut client = balancer.connect();
            for piece in request.as_bytes().chunks(step) {
                if client.try_send(piece).is_err() {
                    break;
                }
            }
            let told = &request[..request.len().min(60)];
            let answer =
                client.try_answer("GET").unwrap_or_else(|fault| panic!("{told:?} by {step}: {fault:?}"));
            assert_eq!(answer.status, status, "{told:?} by {step}");
            if !reason.is_empty() {
                assert!(answer.closes() && answer.text().contains(reason), "{told:?}: {answer:?}");
                assert_eq!(balancer.refused(reason), before + 1, "{told:?}");
            }
        }
    }
    assert!(destination.seen().iter().flat_map(|s| &s.requests).all(|r| r.body.len() <= 50));
}

#[test]
fn a_connection_too_many_gets_a_503_and_a_place_is_free_again_later() {
    let destination = Destination::start(hello("ok"));
    let balancer = with_client_timeouts(&destination, |s| s.listeners[0].limits.connections = 3);
    let mut inside: Vec<Client> = (0..3).map(|_| balancer.connect()).collect();
    until("three are in", || balancer.active() == 3);
    let mut outside = balancer.connect();
    let answer = outside.answer();
    assert_eq!((answer.status, answer.closes()), (503, true));
    assert!(answer.text().contains("connection_limit"), "{answer:?}");
    outside.expect_end();
    assert_eq!(balancer.refused("connection_limit"), 1);
    for client in &mut inside {
        client.expect_open();
    }
    drop(inside.pop());
    until("one has left", || balancer.active() == 2);
    balancer.connect().expect_open();
    assert_eq!(balancer.refused("connection_limit"), 1);
}

#[test]
fn slow_clients_do_not_hold_up_quick_ones() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut slow: Vec<Client> = (0..500).map(|_| balancer.connect()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nHo");
    }
    let watch = Watch::start();
    for _ in 0..50 {
        assert_eq!(balancer.ask(get("/")).status, 200);
    }
    assert!(watch.elapsed() < LATE);
}

#[test]
fn a_destination_of_one_byte_a_moment_holds_up_nobody_else() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            if request.target == "/slow" {
                while !wait.is_open() {
                    visit.send_in_steps("HTTP/1.1 103 Hint\r\n\r\n", 1, ms(1));
                }
            }
            visit.send(ok("ok"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut slow = balancer.connect();
    slow.send(get("/slow"));
    for _ in 0..50 {
        assert_eq!(balancer.ask(get("/")).text(), "ok");
    }
    gate.open();
    let _whatever = slow.try_answer("GET");
}

#[test]
fn a_destination_that_does_not_read_is_a_504_and_its_fault() {
    let gate = Gate::default();
    let wait = gate.clone();
    let deaf = Destination::start(move |visit| {
        visit.receive_little();
        wait.pass();
    });
    let balancer = Setup::http(&[&deaf]).with(|s| s.pools[0].timeouts.response = SHORT).start();
    let mut client = balancer.connect();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n");
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || sender.send_until_full(&[b'x'; 65_536], 100_000_000, secs(2)));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (504, true));
    assert_eq!(balancer.destination(0).counts.failed(), 1);
    gate.open();
    drop(client);
    let _as_far_as_it_went = sending.join().expect("no panic");
}

#[test]
fn a_client_that_stops_in_the_middle_of_an_echo_is_not_its_destinations_fault() {
    for version in ["1.1", "1.0"] {
        let echo = Destination::start(|visit| {
            visit.head();
            visit.send("HTTP/1.1 200 OK\r\n\r\nheard you");
            visit.read_to_end();
        });
        let balancer = Setup::http(&[&echo])
            .with(|s| {
                s.listeners[0].timeouts.body = SHORT;
                s.pools[0].timeouts.response = SHORT / 2;
            })
            .start();
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/{version}\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf"));
        let fault = client.try_answer("POST").expect_err("half an answer");
        assert!(fault.kind == Kind::Reset || (version == "1.1" && fault.kind == Kind::Closed), "{fault:?}");
        assert_eq!(
            balancer.refused("body_timeout"),
            1,
            "either could have gone on; the client is the nearer one"
        );
        assert_eq!(balancer.destination(0).counts.failed(), 0);
    }
}
