//! HTTP/1.0 clients, HEAD, Expect, responses without a body, half-closed connections and Unix sockets.

use crate::kit::{Destination, Framing, Setup, TempPath, get, ms, ok, respond_ok, respond_with, wait_until};

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
const TO_END: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello";

#[test]
fn http_1_0_without_keep_alive_closes_after_the_response() {
    for bytes in [ok("hello"), CHUNKED.into()] {
        let destination = Destination::start(respond_with(bytes.clone()));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
        let response = client.read_response();
        assert_eq!((response.text().as_str(), response.closes()), ("hello", true), "{bytes}");
        assert!(response.framing != Framing::Chunked, "{response:?}");
        client.expect_closed();
    }
}

#[test]
fn http_1_0_keep_alive_needs_a_content_length() {
    let request = "GET / HTTP/1.0\r\nHost: test\r\nConnection: Keep-Alive\r\n\r\n";
    let destination = Destination::start(respond_with(ok("hello")));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(request);
        let response = client.read_response();
        assert_eq!((response.text().as_str(), response.framing), ("hello", Framing::Length(5)));
        assert_eq!(
            response.fields.one("connection").map(str::to_ascii_lowercase).as_deref(),
            Some("keep-alive")
        );
    }
    assert_eq!(destination.connections(), 1);
    for bytes in [CHUNKED, TO_END] {
        let destination = Destination::start(move |conn| {
            if conn.request().is_some() {
                conn.send(bytes);
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(request);
        let response = client.read_response();
        assert_eq!(
            (response.text().as_str(), response.framing, response.closes()),
            ("hello", Framing::ToEnd, true)
        );
    }
}

#[test]
fn http_1_0_gets_no_informational_responses_and_no_trailers() {
    let bytes = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n{CHUNKED}");
    let destination = Destination::start(respond_with(bytes));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("GET / HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.text().as_str(), response.informational.len()), ("hello", 0));
    let request = destination.only_request();
    assert!(!request.fields.has("expect"), "an expectation of HTTP/1.0 is none: {request:?}");
}

#[test]
fn response_until_close_is_chunked_for_http_1_1() {
    let destination = Destination::start(|conn| {
        if conn.request().is_some() {
            conn.send(TO_END);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(get("/"));
        let response = client.read_response();
        assert_eq!(
            (response.text().as_str(), response.framing, response.closes()),
            ("hello", Framing::Chunked, false)
        );
    }
    assert_eq!(destination.connections(), 3);
}

#[test]
fn connection_close_of_the_client_is_honoured() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: Close\r\n\r\nGET /never HTTP/1.1\r\nHost: test\r\n\r\n",
    );
    assert!(client.read_response().closes());
    client.expect_closed();
    // The client's `close` does not apply to the destination's connection.
    let mut client = balancer.connect();
    client.send(get("/"));
    assert!(!client.read_response().closes());
    assert_eq!((destination.requests().len(), destination.connections()), (2, 1));
}

#[test]
fn responses_without_a_body_keep_their_fields_and_connections() {
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
        let destination = Destination::start(respond_with(bytes));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        for _ in 0..3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
            let response = client.read_response_to(method);
            assert_eq!(
                (response.fields.one("content-length"), response.closes()),
                (length, false),
                "{bytes:?}"
            );
        }
        if bytes.contains("1234") || bytes.contains("chunked") || bytes.contains("77") {
            // The head declared a body that must not follow: the connection is not reused until that is certain.
            wait_until("a connection serves twice", || {
                let before = destination.connections();
                client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
                client.read_response_to(method);
                destination.connections() == before
            });
        } else {
            assert_eq!(destination.connections(), 1, "{bytes:?}");
        }
    }
}

const EXPECTS: &str = "POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";

#[test]
fn a_100_is_forwarded_before_the_body() {
    let destination = Destination::start(|conn| {
        while let Some(head) = conn.head() {
            assert_eq!(
                head.fields.one("expect").map(str::to_ascii_lowercase).as_deref(),
                Some("100-continue")
            );
            conn.send("HTTP/1.1 100 Continue\r\n\r\n");
            while conn.buffer.len() < 5 && conn.read() {}
            conn.buffer.drain(..5);
            conn.send(ok("thanks"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(EXPECTS);
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello");
        let response = client.read_response();
        assert_eq!((response.text().as_str(), response.closes()), ("thanks", false));
    }
    assert_eq!(destination.requests()[1].body, b"hello");
    assert_eq!(destination.connections(), 1);
}

#[test]
fn final_response_instead_of_a_100_closes_the_connection() {
    let destination = Destination::start(|conn| {
        while conn.head().is_some() {
            conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(EXPECTS);
    let response = client.read_response();
    assert_eq!((response.status, response.closes(), response.informational.len()), (403, true, 0));
    client.expect_closed();
    // The destination waits for a body that never arrives: its connection is not reused.
    let mut client = balancer.connect();
    client.send(EXPECTS);
    assert_eq!(client.read_response().status, 403);
    assert_eq!(destination.connections(), 2);
}

#[test]
fn client_that_does_not_wait_for_the_100_is_served() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{EXPECTS}hello{}", get("/next")));
    let (first, second) = (client.read_response(), client.read_response());
    assert_eq!((first.status, second.status, first.closes()), (200, 200, false));
    assert_eq!(destination.requests()[0].body, b"hello");
}

#[test]
fn half_closed_client_gets_its_response() {
    let destination = Destination::start(|conn| {
        while conn.request().is_some() {
            // Longer than the proxy needs to notice the end of the client's data.
            std::thread::sleep(ms(60));
            conn.send(ok("still here"));
        }
    });
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].half_close = true).start();
    for request in [
        get("/"),
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".into(),
    ] {
        let mut client = balancer.connect();
        client.send(request);
        client.shutdown_write();
        assert_eq!(client.read_response().text(), "still here");
        client.expect_closed();
    }
    wait_until("the connections are closed", || balancer.active() == 0);
}

#[test]
fn client_that_leaves_cancels_its_request() {
    let chunked = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    for request in [get("/"), chunked.to_owned(), format!("{}G", get("/")), get("/").repeat(3)] {
        let destination = Destination::start(|conn| {
            conn.request();
            conn.read_to_end();
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(&request);
        wait_until("the request is there", || destination.requests().len() == 1);
        client.shutdown_write();
        wait_until("the destination is freed", || destination.open() == 0 && balancer.active() == 0);
        assert_eq!(balancer.refusals("client_closed"), 1, "{request:?}");
        assert_eq!(balancer.destination(0).counts.failed(), 0, "{request:?}");
        assert_eq!(client.read_to_end().received, b"", "{request:?}");
    }
}

#[test]
fn client_that_leaves_during_its_response_ends_it() {
    let destination = Destination::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
        conn.read_to_end();
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert!(matches!(client.read_some(), Ok(1..)));
    client.shutdown_write();
    wait_until("the destination is freed", || destination.open() == 0 && balancer.active() == 0);
    assert_eq!(balancer.refusals("client_closed"), 1);
}

#[test]
fn client_reset_cancels_the_request() {
    let destination = Destination::start(|conn| {
        conn.request();
        conn.read_to_end();
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("the request is there", || destination.requests().len() == 1);
    client.abort();
    wait_until("the destination is freed", || destination.open() == 0);
    assert_eq!(balancer.refusals("client_closed"), 1);
    assert_eq!(balancer.destination(0).counts.failed(), 0, "that was not its end");
}

#[test]
fn unix_sockets_on_both_sides() {
    let (inside, outside) = (TempPath::new("destination"), TempPath::new("listener"));
    let destination = Destination::start_unix(&inside, respond_ok("over unix"));
    let balancer = Setup::http(&[&destination])
        .with(|s| s.listeners[0].addresses = vec![outside.endpoint().as_listener()])
        .start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(get("/"));
        assert_eq!(client.read_response().text(), "over unix");
    }
    assert_eq!(destination.connections(), 1);
    assert_eq!(destination.requests()[0].fields.one("x-forwarded-for"), Some("unix:"));
}

#[test]
fn http_1_0_destination_connections_are_reused_only_with_keep_alive() {
    for (line, connections) in [("Connection: keep-alive\r\n", 1), ("", 3), ("Connection: close\r\n", 3)] {
        let destination =
            Destination::start(respond_with(format!("HTTP/1.0 200 OK\r\n{line}Content-Length: 2\r\n\r\nok")));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        for _ in 0..3 {
            client.send(get("/"));
            let response = client.read_response();
            assert_eq!((response.text().as_str(), response.closes()), ("ok", false));
        }
        assert_eq!(destination.connections(), connections, "{line:?}");
    }
}
