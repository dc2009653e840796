//! HTTP/2 clients with HTTP/1 destinations.

use http::{Method, Request};

use crate::kit::http2::{Http2Client, Stream, get, read_response, release, send_all};
use crate::kit::{Destination, Gate, Setup, ms, ok, random_bytes, respond_ok, respond_with, wait_until};

#[test]
fn request_arrives_as_http_1_and_its_response_as_http_2() {
    let destination = Destination::start(respond_with(
        "HTTP/1.1 200 OK\r\nX-Seen: yes\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 5\r\n\r\nhello",
    ));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let request = Request::get("http://a.test/x?y=1")
        .header("x-one", "1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let response = client.fetch(request, b"").expect("a response");
    assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
    assert_eq!(response.head.headers()["x-seen"], "yes");
    for gone in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert!(!response.head.headers().contains_key(gone), "{gone}");
    }
    let seen = destination.only_request();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/x?y=1"));
    assert_eq!(seen.fields.one("host"), Some("a.test"));
    assert_eq!(seen.fields.one("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert!(!seen.fields.has("te") && !seen.fields.has("transfer-encoding"));
}

#[test]
fn a_request_without_a_body_is_framed_as_one() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let empty_frame = [false, true];
    for (method, ends_with_frame) in
        ["POST", "PUT", "PATCH", "GET", "DELETE"].iter().flat_map(|m| empty_frame.map(|e| (*m, e)))
    {
        let request = Request::builder().method(method).uri("http://test/").body(()).expect("a request");
        let Stream { response, mut body } = client.start_request(request, !ends_with_frame).expect("room");
        if ends_with_frame {
            body.send_data(bytes::Bytes::new(), true).expect("open");
        }
        let response = client.run(read_response(response)).expect("a response");
        assert_eq!(response.status(), 200, "{method}");
        let seen = destination.requests().pop().expect("a request");
        let expects_body = matches!(method, "POST" | "PUT" | "PATCH");
        let framing = (seen.fields.one("content-length"), seen.fields.has("transfer-encoding"));
        match (expects_body, ends_with_frame) {
            (true, false) => assert_eq!(framing, (Some("0"), false), "{method}"),
            (true, true) => assert_eq!(framing, (None, true), "{method}: a body may follow the head"),
            (false, _) => assert_eq!(framing, (None, false), "{method}"),
        }
    }
    let Stream { response, mut body } = client.start_request(get("/"), false).expect("room");
    body.send_data("late".into(), true).expect("open");
    assert_eq!(client.run(read_response(response)).expect("a response").status(), 200);
    assert_eq!(destination.requests().pop().expect("a request").body, b"late");
}

#[test]
fn the_scheme_has_to_be_that_of_the_connection() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let request = Request::get("https://test/").body(()).expect("a request");
    assert_eq!(client.fetch(request.clone(), b"").expect("a response").status(), 400);
    assert_eq!(destination.connections(), 0);
    // A trusted proxy passes on the scheme of its own client.
    let trusting = Setup::http(&[&destination])
        .with(|s| s.listeners[0].trusted_proxies = vec!["127.0.0.0/8".parse().expect("a net")])
        .start();
    let response = Http2Client::connect(&trusting).fetch(request, b"").expect("a response");
    assert_eq!(response.status(), 200);
}

#[test]
fn each_stream_is_balanced_separately() {
    let destinations = ["a", "b"].map(|name| Destination::start(respond_ok(name)));
    let balancer = Setup::http(&[&destinations[0], &destinations[1]]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(destinations.each_ref().map(|d| d.requests().len()), [10, 10]);
    assert_eq!(balancer.active(), 1, "one connection serves all requests");
}

#[test]
fn streams_run_concurrently() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |conn| {
        while conn.request().is_some() {
            wait.wait();
            conn.send(ok("late"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let streams: Vec<_> = (0..50).map(|_| client.start_request(get("/"), true).expect("room")).collect();
    client.drive_for(ms(20));
    wait_until("all have arrived", || destination.connections() == 50);
    gate.open();
    for stream in streams {
        assert_eq!(client.read_response(stream).expect("a response").text(), "late");
    }
}

#[test]
fn concurrent_streams_share_pooled_connections() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..20 {
        let streams: Vec<_> = (0..10).map(|_| client.start_request(get("/"), true).expect("room")).collect();
        for stream in streams {
            assert_eq!(client.read_response(stream).expect("a response").text(), "ok");
        }
    }
    assert!(destination.connections() <= 10, "{} for 10 at a time", destination.connections());
}

#[test]
fn large_bodies_pass_in_both_directions() {
    let body = random_bytes(11, 3 << 20);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    let destination = Destination::start(respond_with([response, body.clone()].concat()));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let sent = random_bytes(12, 2 << 20);
    for with_length in [true, false] {
        let mut request = Request::post("http://test/");
        if with_length {
            request = request.header("content-length", sent.len());
        }
        let response = client.fetch(request.body(()).expect("a request"), &sent).expect("a response");
        assert!(response.body == body);
    }
    assert!(destination.requests().iter().all(|request| request.body == sent));
}

#[test]
fn chunked_bodies_and_trailers_are_translated() {
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n";
    let destination = Destination::start(respond_with(chunks));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let request = Request::post("http://test/").body(()).expect("a request");
    let mut stream = client.start_request(request, false).expect("room");
    let response = client.run(async move {
        send_all(&mut stream.body, "hello".into(), false).await?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-check", "ok".parse().expect("a value"));
        trailers.insert("host", "evil".parse().expect("a value"));
        stream.body.send_trailers(trailers)?;
        read_response(stream.response).await
    });
    let response = response.expect("a response");
    assert_eq!(response.text(), "abcde");
    assert_eq!(response.trailers["x-sum"], "5");
    let seen = destination.only_request();
    assert_eq!((seen.body.as_slice(), seen.trailers.one("x-check")), (&b"hello"[..], Some("ok")));
    assert!(!seen.trailers.has("host"));
}

#[test]
fn responses_without_a_body_end_the_stream_with_their_head() {
    for (method, bytes, status) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", 204),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304),
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (Method::GET, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204),
    ] {
        let destination = Destination::start(respond_with(bytes));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = Http2Client::connect(&balancer);
        let request = Request::builder().method(method).uri("http://test/").body(()).expect("a request");
        let response = client.fetch(request, b"").expect(bytes);
        assert_eq!((response.status(), response.body.len()), (status, 0), "{bytes:?}");
    }
}

#[test]
fn truncated_response_resets_only_its_stream() {
    let destination = Destination::start(|conn| {
        while let Some(request) = conn.request() {
            if request.target == "/half" {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                return;
            }
            conn.send(ok("whole"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let broken = client.fetch(get("/half"), b"").expect_err("a truncated response");
    assert_eq!(broken.reason(), Some(h2::Reason::INTERNAL_ERROR), "{broken:?}");
    assert_eq!(client.get("/").text(), "whole");
    assert_eq!(balancer.refusals("truncated"), 1);
}

#[test]
fn client_reset_of_a_stream_cancels_the_request() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |conn| {
        if conn.request().is_some() {
            wait.wait();
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let mut stream = client.start_request(get("/"), true).expect("room");
    client.drive_for(ms(10));
    wait_until("it has arrived", || balancer.destination(0).in_flight == 1);
    stream.body.send_reset(h2::Reason::CANCEL);
    client.drive_for(ms(10));
    wait_until("the request has ended", || balancer.destination(0).in_flight == 0);
    assert_eq!(balancer.refusals("client_closed"), 1);
    gate.open();
}

#[test]
fn local_replies_are_sent_over_http_2() {
    let destination = Destination::absent(respond_ok("never"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let response = client.get("/");
    assert!(response.status() == 503 && response.text().contains("connect_failed"), "{response:?}");
    assert_eq!(response.head.headers()["retry-after"], "1");
    let json = Request::get("http://test/").header("accept", "application/json").body(()).expect("a request");
    let response = client.fetch(json, b"").expect("a response");
    assert_eq!(response.head.headers()["content-type"], "application/problem+json");
    let grpc = Request::post("http://test/s/m").header("content-type", "application/grpc+proto");
    let response = client.fetch(grpc.body(()).expect("a request"), b"").expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(response.head.headers()["grpc-status"], "14");
}

#[test]
fn ambiguous_requests_are_refused() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let other = Request::get("http://test/").header("host", "other").body(()).expect("a request");
    assert_eq!(client.fetch(other, b"").expect("a response").status(), 400);
    let connect = Request::connect("test:80").body(()).expect("a request");
    let refused = client.fetch(connect, b"").expect("a response");
    assert_eq!(refused.status(), 405);
    assert!(refused.head.headers()["allow"].to_str().is_ok_and(|allow| allow.contains("GET")));
    let many = (0..150).fold(Request::get("http://test/"), |r, n| r.header(format!("x-{n}"), "1"));
    assert_eq!(client.fetch(many.body(()).expect("a request"), b"").expect("a response").status(), 431);
    assert_eq!(client.get("/").text(), "ok", "the connection stays usable");
    assert_eq!(destination.requests().len(), 1);
}

#[test]
fn unread_stream_blocks_only_its_own_destination() {
    let destination = Destination::start(|conn| {
        while let Some(request) = conn.request() {
            if request.target == "/endless" {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                let sent = conn.send_until_blocked(&[b'x'; 65_536], 64 << 20, ms(500));
                assert!(sent < 32 << 20, "{sent} bytes were accepted");
                return;
            }
            conn.send(ok("quick"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let endless = client.start_request(get("/endless"), true).expect("room");
    let mut other = Http2Client::connect(&balancer);
    let (_head, mut body) = client.run(endless.response).expect("a head").into_parts();
    for _ in 0..10 {
        assert_eq!(other.get("/").text(), "quick");
        assert_eq!(client.get("/").text(), "quick", "other streams of the connection are served");
    }
    let first = client.run(std::future::poll_fn(|cx| body.poll_data(cx))).expect("data").expect("no error");
    release(&mut body, first.len());
}

#[test]
fn drain_sends_goaway_and_finishes_streams() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |conn| {
        while conn.request().is_some() {
            wait.wait();
            conn.send(ok("late"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut busy = Http2Client::connect(&balancer);
    let mut idle = Http2Client::connect(&balancer);
    let running = busy.start_request(get("/"), true).expect("room");
    busy.drive_for(ms(10));
    wait_until("it runs", || balancer.destination(0).in_flight == 1);
    balancer.handle.drain();
    wait_until("the idle connection gets GOAWAY", || {
        idle.drive_for(ms(20));
        idle.start_request(get("/"), true).is_err()
    });
    wait_until("new requests are refused", || {
        busy.drive_for(ms(20));
        busy.start_request(get("/"), true).is_err()
    });
    gate.open();
    assert_eq!(busy.read_response(running).expect("a response").text(), "late");
    busy.drive_for(ms(20));
    wait_until("the proxy has ended", || balancer.has_ended());
}

#[test]
fn idle_connection_is_closed_after_the_idle_timeout() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].timeouts.idle = ms(200)).start();
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").text(), "ok");
    wait_until("it is closed", || {
        client.drive_for(ms(20));
        balancer.active() == 0
    });
}
