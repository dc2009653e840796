//! Clients of every age and habit: HTTP/1.0, HEAD, expectations, answers without a body, half-closed connections.

use crate::kit::{Destination, Framing, Setup, Temporary, answers, get, hello, ms, ok, until};

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
const TO_END: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";

#[test]
fn http_1_0_without_keep_alive_ends_after_its_answer() {
    for bytes in [ok("hello"), CHUNKED.into()] {
        let destination = Destination::start(answers(bytes.clone()));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.closes()), ("hello", true), "{bytes}");
        assert!(answer.framing != Framing::Chunked, "{answer:?}");
        client.expect_end();
    }
}

#[test]
fn http_1_0_with_keep_alive_goes_on_where_the_end_can_be_told() {
    let ask = "GET / HTTP/1.0\r\nHost: test\r\nConnection: Keep-Alive\r\n\r\n";
    let destination = Destination::start(answers(ok("hello")));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(ask);
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.framing), ("hello", Framing::Length(5)));
        assert_eq!(
            answer.fields.one("connection").map(str::to_ascii_lowercase).as_deref(),
            Some("keep-alive")
        );
    }
    assert_eq!(destination.connections(), 1);
    for bytes in [CHUNKED, TO_END] {
        let destination = Destination::start(move |visit| {
            if visit.request().is_some() {
                visit.send(bytes);
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(ask);
        let answer = client.answer();
        assert_eq!(
            (answer.text().as_str(), answer.framing, answer.closes()),
            ("hello", Framing::ToEnd, true)
        );
    }
}

#[test]
fn http_1_0_gets_no_informational_answers_and_no_trailers() {
    let bytes = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n{CHUNKED}");
    let destination = Destination::start(answers(bytes));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("GET / HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.informational.len()), ("hello", 0));
    let request = destination.only_request();
    assert!(!request.fields.has("expect"), "an expectation of HTTP/1.0 is none: {request:?}");
}

#[test]
fn an_answer_up_to_the_close_is_chunked_for_http_1_1_and_keeps_the_connection() {
    let destination = Destination::start(|visit| {
        if visit.request().is_some() {
            visit.send(TO_END);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(get("/"));
        let answer = client.answer();
        assert_eq!(
            (answer.text().as_str(), answer.framing, answer.closes()),
            ("hello", Framing::Chunked, false)
        );
    }
    assert_eq!(destination.connections(), 3);
}

#[test]
fn connection_close_of_the_client_is_honoured_and_says_so() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Close\r\n\r\nGET /never HTTP/1.1\r\nHost: test\r\n\r\n",
    );
    assert!(client.answer().closes());
    client.expect_end();
    // The close was the client's, not the destination's.
    let mut client = balancer.connect();
    client.send(get("/"));
    assert!(!client.answer().closes());
    assert_eq!((destination.requests().len(), destination.connections()), (2, 1));
}

#[test]
fn answers_without_a_body_keep_their_fields_and_their_connections() {
    let rows = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 77\r\n\r\n", Some("77")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", None),
    ];
    for (method, bytes, length) in rows {
        let destination = Destination::start(answers(bytes));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        for _ in 0..3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
            let answer = client.answer_to(method);
            assert_eq!((answer.fields.one("content-length"), answer.closes()), (length, false), "{bytes:?}");
        }
        if bytes.contains("1234") || bytes.contains("chunked") || bytes.contains("77") {
            // It told of a body that must not come: the connection rests until that is sure.
            until("a connection serves twice", || {
                let before = destination.connections();
                client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
                client.answer_to(method);
                destination.connections() == before
            });
        } else {
            assert_eq!(destination.connections(), 1, "{bytes:?}");
        }
    }
}

const EXPECTS: &str = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";

#[test]
fn a_100_comes_through_before_the_body_goes_out() {
    let destination = Destination::start(|visit| {
        while let Some(head) = visit.head() {
            assert_eq!(
                head.fields.one("expect").map(str::to_ascii_lowercase).as_deref(),
                Some("100-continue")
            );
            visit.send("HTTP/1.1 100 Continue\r\n\r\n");
            while visit.buffer.len() < 5 && visit.read() {}
            visit.buffer.drain(..5);
            visit.send(ok("thanks"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(EXPECTS);
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.closes()), ("thanks", false));
    }
    assert_eq!(destination.requests()[1].body, b"hello");
    assert_eq!(destination.connections(), 1);
}

#[test]
fn a_final_answer_instead_of_a_100_ends_the_connection() {
    let destination = Destination::start(|visit| {
        while visit.head().is_some() {
            visit.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(EXPECTS);
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes(), answer.informational.len()), (403, true, 0));
    client.expect_end();
    // The destination waits for a body that never comes: its connection is not used again.
    let mut client = balancer.connect();
    client.send(EXPECTS);
    assert_eq!(client.answer().status, 403);
    assert_eq!(destination.connections(), 2);
}

#[test]
fn a_client_that_does_not_wait_for_its_100_is_served_all_the_same() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{EXPECTS}hello{}", get("/next")));
    let (first, second) = (client.answer(), client.answer());
    assert_eq!((first.status, second.status, first.closes()), (200, 200, false));
    assert_eq!(destination.requests()[0].body, b"hello");
}

#[test]
fn a_client_may_say_all_it_has_to_say_and_then_listen() {
    let destination = Destination::start(|visit| {
        while visit.request().is_some() {
            // Longer than anything that would notice the end of the client's data.
            std::thread::sleep(ms(60));
            visit.send(ok("still here"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    for request in [
        get("/"),
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".into(),
    ] {
        let mut client = balancer.connect();
        client.send(request);
        client.end();
        assert_eq!(client.answer().text(), "still here");
        client.expect_end();
    }
    until("the connections are gone", || balancer.active() == 0);
}

#[test]
fn a_client_that_resets_while_it_waits_frees_its_destination() {
    let destination = Destination::start(|visit| {
        visit.request();
        visit.read_to_end();
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("the request is there", || destination.requests().len() == 1);
    client.abort();
    until("the destination is freed", || destination.open() == 0);
    assert_eq!(balancer.refused("client_closed"), 1);
    assert_eq!(balancer.destination(0).counts.failed(), 0, "that was not its fault");
}

#[test]
fn unix_sockets_on_both_sides() {
    let (inside, outside) = (Temporary::new("destination"), Temporary::new("listener"));
    let destination = Destination::start_unix(&inside, hello("over unix"));
    let balancer = Setup::http(&[&destination])
        .with(|s| s.listeners[0].addresses = vec![outside.place().as_listener()])
        .start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(get("/"));
        assert_eq!(client.answer().text(), "over unix");
    }
    assert_eq!(destination.connections(), 1);
    assert_eq!(destination.requests()[0].fields.one("x-forwarded-for"), Some("unix:"));
}

#[test]
fn destinations_of_http_1_0_keep_a_connection_only_if_they_say_so() {
    for (line, connections) in [("Connection: keep-alive\r\n", 1), ("", 3), ("Connection: close\r\n", 3)] {
        let destination =
            Destination::start(answers(format!("HTTP/1.0 200 OK\r\n{line}Content-Length: 2\r\n\r\nok")));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        for _ in 0..3 {
            client.send(get("/"));
            let answer = client.answer();
            assert_eq!((answer.text().as_str(), answer.closes()), ("ok", false));
        }
        assert_eq!(destination.connections(), connections, "{line:?}");
    }
}
