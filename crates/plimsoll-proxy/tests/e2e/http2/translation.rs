//! Requests of HTTP/2 at destinations of HTTP/1.

use http::{Method, Request};

use crate::kit::http2::{Http2Client, get, release, send_all, whole};
use crate::kit::{Destination, Gate, Setup, answers, hello, ms, noise, ok, until};

#[test]
fn a_request_arrives_as_http_1_and_its_answer_as_http_2() {
    let destination = Destination::start(answers(
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
    let answer = client.ask(request, b"").expect("an answer");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.head.headers()["x-seen"], "yes");
    for gone in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert!(!answer.head.headers().contains_key(gone), "{gone}");
    }
    let seen = destination.only_request();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/x?y=1"));
    assert_eq!(seen.fields.one("host"), Some("a.test"));
    assert_eq!(seen.fields.one("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.fields.one("x-forwarded-for"), Some("127.0.0.1"));
    assert!(!seen.fields.has("te") && !seen.fields.has("transfer-encoding"));
}

#[test]
fn streams_are_balanced_each_by_itself() {
    let destinations = ["a", "b"].map(|name| Destination::start(hello(name)));
    let balancer = Setup::http(&[&destinations[0], &destinations[1]]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..20 {
        assert_eq!(client.get("/").status(), 200);
    }
    assert_eq!(destinations.each_ref().map(|d| d.requests().len()), [10, 10]);
    assert_eq!(balancer.active(), 1, "one connection all the time");
}

#[test]
fn many_streams_run_at_once() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |visit| {
        while visit.request().is_some() {
            wait.pass();
            visit.send(ok("late"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let streams: Vec<_> = (0..50).map(|_| client.begin(get("/"), true).expect("room")).collect();
    client.idle(ms(20));
    until("all have arrived", || destination.connections() == 50);
    gate.open();
    for stream in streams {
        assert_eq!(client.finish(stream).expect("an answer").text(), "late");
    }
}

#[test]
fn streams_that_arrive_together_share_pooled_connections() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..20 {
        let streams: Vec<_> = (0..10).map(|_| client.begin(get("/"), true).expect("room")).collect();
        for stream in streams {
            assert_eq!(client.finish(stream).expect("an answer").text(), "ok");
        }
    }
    assert!(destination.connections() <= 10, "{} for 10 at a time", destination.connections());
}

#[test]
fn large_bodies_run_both_ways() {
    let body = noise(11, 3 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    let destination = Destination::start(answers([answer, body.clone()].concat()));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let sent = noise(12, 2 << 20);
    for told in [true, false] {
        let mut request = Request::post("http://test/");
        if told {
            request = request.header("content-length", sent.len());
        }
        let answer = client.ask(request.body(()).expect("a request"), &sent).expect("an answer");
        assert!(answer.body == body);
    }
    assert!(destination.requests().iter().all(|request| request.body == sent));
}

#[test]
fn bodies_in_chunks_and_trailers_cross_both_ways() {
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n";
    let destination = Destination::start(answers(chunks));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let request = Request::post("http://test/").body(()).expect("a request");
    let mut stream = client.begin(request, false).expect("room");
    let answer = client.run(async move {
        send_all(&mut stream.body, "hello".into(), false).await?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-check", "ok".parse().expect("a value"));
        trailers.insert("host", "evil".parse().expect("a value"));
        stream.body.send_trailers(trailers)?;
        whole(stream.answer).await
    });
    let answer = answer.expect("an answer");
    assert_eq!(answer.text(), "abcde");
    assert_eq!(answer.trailers["x-sum"], "5");
    let seen = destination.only_request();
    assert_eq!((seen.body.as_slice(), seen.trailers.one("x-check")), (&b"hello"[..], Some("ok")));
    assert!(!seen.trailers.has("host"));
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    for (method, bytes, status) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", 200),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", 204),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304),
        (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (Method::GET, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204),
    ] {
        let destination = Destination::start(answers(bytes));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = Http2Client::connect(&balancer);
        let request = Request::builder().method(method).uri("http://test/").body(()).expect("a request");
        let answer = client.ask(request, b"").expect(bytes);
        assert_eq!((answer.status(), answer.body.len()), (status, 0), "{bytes:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_resets_its_stream_and_no_other() {
    let destination = Destination::start(|visit| {
        while let Some(request) = visit.request() {
            if request.target == "/half" {
                visit.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                return;
            }
            visit.send(ok("whole"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let broken = client.ask(get("/half"), b"").expect_err("it cannot be finished");
    assert_eq!(broken.reason(), Some(h2::Reason::INTERNAL_ERROR), "{broken:?}");
    assert_eq!(client.get("/").text(), "whole");
    assert_eq!(balancer.refused("truncated"), 1);
}

#[test]
fn a_reset_by_the_client_frees_the_destination() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |visit| {
        if visit.request().is_some() {
            wait.pass();
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let mut stream = client.begin(get("/"), true).expect("room");
    client.idle(ms(10));
    until("it has arrived", || balancer.destination(0).in_flight == 1);
    stream.body.send_reset(h2::Reason::CANCEL);
    client.idle(ms(10));
    until("its place is free", || balancer.destination(0).in_flight == 0);
    assert_eq!(balancer.refused("client_closed"), 1);
    gate.open();
}

#[test]
fn what_we_answer_ourselves_is_an_answer() {
    let destination = Destination::absent(hello("never"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let answer = client.get("/");
    assert!(answer.status() == 503 && answer.text().contains("connect_failed"), "{answer:?}");
    assert_eq!(answer.head.headers()["retry-after"], "1");
    let json = Request::get("http://test/").header("accept", "application/json").body(()).expect("a request");
    let answer = client.ask(json, b"").expect("an answer");
    assert_eq!(answer.head.headers()["content-type"], "application/problem+json");
    let grpc = Request::post("http://test/s/m").header("content-type", "application/grpc+proto");
    let answer = client.ask(grpc.body(()).expect("a request"), b"").expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.head.headers()["grpc-status"], "14");
}

#[test]
fn what_is_ambiguous_is_refused() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let other = Request::get("http://test/").header("host", "other").body(()).expect("a request");
    assert_eq!(client.ask(other, b"").expect("an answer").status(), 400);
    let connect = Request::connect("test:80").body(()).expect("a request");
    assert_eq!(client.ask(connect, b"").expect("an answer").status(), 405);
    let many = (0..150).fold(Request::get("http://test/"), |r, n| r.header(format!("x-{n}"), "1"));
    assert_eq!(client.ask(many.body(()).expect("a request"), b"").expect("an answer").status(), 431);
    assert_eq!(client.get("/").text(), "ok", "the connection goes on");
    assert_eq!(destination.requests().len(), 1);
}

#[test]
fn a_stream_whose_client_does_not_read_holds_up_its_destination_and_nobody_else() {
    let destination = Destination::start(|visit| {
        while let Some(request) = visit.request() {
            if request.target == "/endless" {
                visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
                let sent = visit.send_until_full(&[b'x'; 65_536], 64 << 20, ms(500));
                assert!(sent < 32 << 20, "{sent} bytes found room");
                return;
            }
            visit.send(ok("quick"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let endless = client.begin(get("/endless"), true).expect("room");
    let mut other = Http2Client::connect(&balancer);
    let (_head, mut body) = client.run(endless.answer).expect("a head").into_parts();
    for _ in 0..10 {
        assert_eq!(other.get("/").text(), "quick");
        assert_eq!(client.get("/").text(), "quick", "on the same connection too");
    }
    let first = client.run(std::future::poll_fn(|cx| body.poll_data(cx))).expect("data").expect("no error");
    release(&mut body, first.len());
}

#[test]
fn a_drain_says_goodbye_and_finishes_what_runs() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |visit| {
        while visit.request().is_some() {
            wait.pass();
            visit.send(ok("late"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut busy = Http2Client::connect(&balancer);
    let mut resting = Http2Client::connect(&balancer);
    let running = busy.begin(get("/"), true).expect("room");
    busy.idle(ms(10));
    until("it runs", || balancer.destination(0).in_flight == 1);
    balancer.handle.drain();
    until("who rests is let go", || {
        resting.idle(ms(20));
        resting.begin(get("/"), true).is_err()
    });
    until("nobody new comes in", || {
        busy.idle(ms(20));
        busy.begin(get("/"), true).is_err()
    });
    gate.open();
    assert_eq!(busy.finish(running).expect("an answer").text(), "late");
    busy.idle(ms(20));
    until("the proxy has ended", || balancer.has_ended());
}

#[test]
fn a_connection_at_rest_ends_after_its_idle_time() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].timeouts.idle = ms(200)).start();
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").text(), "ok");
    until("it is closed", || {
        client.idle(ms(20));
        balancer.active() == 0
    });
}
