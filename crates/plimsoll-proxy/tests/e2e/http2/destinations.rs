//! Destinations that speak HTTP/2, for clients of either version.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::Request;
use plimsoll_config::model::PoolProtocol;

use crate::failover::http_checks;
use crate::kit::http2::{Http2Client, Http2Destination, Played, get as get2, send_all};
use crate::kit::{Balancer, Setup, Watch, get, ms, noise, post, until};

fn before(destinations: &[&Http2Destination]) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        let members = destinations.iter().enumerate();
        s.pools[0].destinations = members.map(|(n, d)| d.as_member(n)).collect();
    })
}

fn start(destination: &Http2Destination) -> Balancer {
    before(&[destination]).start()
}

/// Answers with what it was sent, and says in a trailer how much that was.
fn echo() -> Http2Destination {
    Http2Destination::start(|request| {
        let sum = request.body.len().to_string();
        Played::answer(200).body(request.body.clone()).trailer("x-sum", &sum)
    })
}

#[test]
fn clients_of_http_1_are_served_on_one_connection() {
    let destination = echo();
    let balancer = start(&destination);
    let mut client = balancer.connect();
    client.send(get("/a?b=c"));
    assert_eq!(client.answer().text(), "");
    client.send(post("/", "hello"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.trailers.one("x-sum"), Some("5"));
    client.send("PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n");
    assert_eq!(client.answer().text(), "abcde");
    let seen = destination.requests();
    assert_eq!(destination.connections(), 1);
    assert_eq!(seen[0].head.uri().to_string(), "http://test/a?b=c");
    assert_eq!(seen[0].head.headers()["x-forwarded-for"], "127.0.0.1");
    assert!(!seen[0].head.headers().contains_key("host"));
    assert_eq!(seen[2].trailers["x-t"], "1");
}

#[test]
fn clients_of_http_2_are_served_too() {
    let destination = echo();
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").status(), 200);
    let body = noise(21, 2 << 20);
    let request = Request::post("http://test/").body(()).expect("a request");
    let answer = client.ask(request, &body).expect("an answer");
    assert!(answer.body == body);
    assert_eq!(answer.trailers["x-sum"], "2097152");
    assert_eq!(destination.connections(), 1);
}

#[test]
fn each_request_is_balanced_by_itself() {
    let (a, b) = (echo(), echo());
    let balancer = before(&[&a, &b]).start();
    let mut client = Http2Client::connect(&balancer);
    (0..20).for_each(|_| assert_eq!(client.get("/").status(), 200));
    assert_eq!((a.requests().len(), b.requests().len()), (10, 10));
    assert_eq!((a.connections(), b.connections()), (1, 1));
}

#[test]
fn many_at_once_share_one_connection() {
    let destination = Http2Destination::start(|_| Played::answer(200).after(ms(50)));
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    let streams: Vec<_> = (0..60).map(|_| client.begin(get2("/"), true).expect("room")).collect();
    for stream in streams {
        assert_eq!(client.finish(stream).expect("an answer").status(), 200);
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn checks_ask_by_http_2_too() {
    let (well, ill) = (echo(), Http2Destination::start(|_| Played::answer(500)));
    let balancer = before(&[&well, &ill]).with(|s| s.pools[0].health = Some(http_checks())).start();
    until("the ill one is down", || balancer.destination(1).status.as_str() == "down");
    until("the other one was asked", || balancer.destination(0).checks.passed > 1);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    assert_eq!(well.requests()[0].head.headers()["user-agent"], "plimsoll-health");
}

#[test]
fn a_stream_that_was_refused_is_tried_elsewhere_even_a_post() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let refuses = Http2Destination::start(move |_| {
        counted.fetch_add(1, SeqCst);
        Played::reset(h2::Reason::REFUSED_STREAM)
    });
    let good = echo();
    let balancer = before(&[&refuses, &good]).start();
    for _ in 0..4 {
        assert_eq!(balancer.ask(post("/", "once")).text(), "once");
    }
    assert!(times.load(SeqCst) > 0, "the one that refuses was tried");
    let fails = Http2Destination::start(|_| Played::reset(h2::Reason::INTERNAL_ERROR));
    let balancer = before(&[&fails, &good]).start();
    let statuses: Vec<_> = (0..2).map(|_| balancer.ask(post("/", "once")).status).collect();
    assert!(statuses.contains(&502), "it may have run: {statuses:?}");
}

/// Also where the body came after the head, as it always does from a client of HTTP/2.
#[test]
fn a_short_body_that_was_read_already_is_sent_again() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let refuses = Http2Destination::start(move |_| {
        counted.fetch_add(1, SeqCst);
        Played::reset(h2::Reason::REFUSED_STREAM)
    });
    let good = echo();
    let balancer = before(&[&refuses, &good]).start();
    let mut client = Http2Client::connect(&balancer);
    let request = || Request::post("http://test/").body(()).expect("a request");
    for length in [1, 5_000, 64 * 1024] {
        for told in [true, false] {
            let before = times.load(SeqCst);
            let bytes = noise(length as u64, length);
            let mut asked = 0;
            until("the one that refuses was tried", || {
                let mut request = request();
                if told {
                    request.headers_mut().insert("content-length", length.into());
                }
                let answer = client.ask(request, &bytes).expect("an answer");
                assert!((answer.status(), &answer.body) == (200, &bytes), "{length} bytes");
                asked += 1;
                times.load(SeqCst) > before
            });
            assert!(asked <= 4, "it was asked in its turn");
        }
    }
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n");
        client.send("once");
        assert_eq!(client.answer().text(), "once");
    }
    // Longer ones are not kept: what is gone is gone.
    let mut client = Http2Client::connect(&balancer);
    let statuses: Vec<_> = (0..4)
        .map(|_| client.ask(request(), &noise(1, 70_000)).map_or(0, |answer| answer.status()))
        .collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
}

#[test]
fn trailers_behind_a_body_of_told_length_arrive() {
    let destination = Http2Destination::start(|request| {
        let answer = Played::answer(200).header("content-length", "6").body(b"abcdef".to_vec());
        match request.head.uri().path() {
            "/with" => answer.trailer("x-sum", "6"),
            _ => answer,
        }
    });
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..2 {
        let answer = client.get("/with");
        assert_eq!((answer.text().as_str(), answer.trailers["x-sum"].as_bytes()), ("abcdef", &b"6"[..]));
        assert_eq!(answer.head.headers()["content-length"], "6");
        let answer = client.get("/without");
        assert_eq!((answer.text().as_str(), answer.trailers.len()), ("abcdef", 0));
    }
    // HTTP/1 has no place for them there.
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(get("/with"));
        assert_eq!(client.answer().text(), "abcdef");
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn what_has_no_form_in_http_2_is_the_clients_fault_and_answered_at_once() {
    let (destination, other) = (echo(), echo());
    let once = |s: &mut Setup| s.pools[0].outlier.consecutive_failures = 1;
    let balancer = before(&[&destination, &other]).with(once).start();
    let watch = Watch::start();
    for _ in 0..4 {
        let answer = balancer.ask(get("/a<b"));
        assert!(answer.status == 400 && answer.text().contains("no form in HTTP/2"), "{answer:?}");
    }
    assert!(watch.elapsed() < ms(5_000), "{:?}", watch.elapsed());
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    assert_eq!(balancer.ask(get("/a")).status, 200);
    assert_eq!(destination.requests().len() + other.requests().len(), 1);
}

#[test]
fn calls_of_grpc_run_with_their_trailers() {
    let destination = Http2Destination::start(|request| {
        assert_eq!(request.head.headers()["te"], "trailers");
        let answer = Played::answer(200).header("content-type", "application/grpc");
        match request.head.uri().path() {
            "/s/unary" => answer.body(request.body.clone()).trailer("grpc-status", "0"),
            "/s/told" => answer.header("content-length", "6").body(vec![0; 6]).trailer("grpc-status", "0"),
            // Trailers only: the status stands in the head.
            _ => answer.header("grpc-status", "5"),
        }
    });
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    let call = |path: &str| {
        let request = Request::post(format!("http://test{path}"));
        request
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request")
    };
    let answer = client.ask(call("/s/unary"), b"\0\0\0\0\x01x").expect("an answer");
    assert_eq!((answer.body.len(), answer.trailers["grpc-status"].as_bytes()), (6, &b"0"[..]));
    let answer = client.ask(call("/s/told"), b"\0\0\0\0\0").expect("an answer");
    assert_eq!((answer.body.len(), answer.trailers["grpc-status"].as_bytes()), (6, &b"0"[..]));
    let answer = client.ask(call("/s/none"), b"\0\0\0\0\0").expect("an answer");
    assert_eq!(answer.head.headers()["grpc-status"], "5");
    assert!(answer.trailers.is_empty() && !answer.head.headers().contains_key("content-length"));
}

#[test]
fn a_call_has_its_deadline_and_a_bad_status_counts_against_its_destination() {
    let slow = Http2Destination::start(|_| Played::answer(200).after(ms(5_000)));
    let balancer = start(&slow);
    let mut client = Http2Client::connect(&balancer);
    let call = || Request::post("http://test/s/m").header("content-type", "application/grpc");
    let watch = Watch::start();
    let late = call().header("grpc-timeout", "100m").body(()).expect("a request");
    let answer = client.ask(late, b"x").expect("an answer");
    assert_eq!(answer.head.headers()["grpc-status"], "4");
    assert!(watch.elapsed() < ms(4_000), "{:?}", watch.elapsed());
    for in_trailers in [true, false] {
        let bad = Http2Destination::start(move |_| {
            let answer = Played::answer(200).header("content-type", "application/grpc");
            match in_trailers {
                true => answer.body(b"x".to_vec()).trailer("grpc-status", "14"),
                false => answer.header("grpc-status", "14"),
            }
        });
        let good = echo();
        let balancer = before(&[&bad, &good]).with(|s| s.pools[0].outlier.consecutive_failures = 2).start();
        let mut client = Http2Client::connect(&balancer);
        until("it is ejected", || {
            client.ask(call().body(()).expect("a request"), b"x").expect("an answer");
            balancer.destination(0).status.as_str() == "ejected"
        });
    }
}

#[test]
fn both_sides_of_a_stream_run_at_once() {
    let destination = Http2Destination::start_streaming();
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    let request = Request::post("http://test/").header("content-type", "application/grpc");
    let mut stream = client.begin(request.body(()).expect("a request"), false).expect("room");
    client.run(async {
        let mut answer = (&mut stream.answer).await.expect("a head before the body has ended").into_body();
        for n in 0..5_u8 {
            send_all(&mut stream.body, vec![n; 10].into(), n == 4).await.expect("room");
            let data =
                std::future::poll_fn(|cx| answer.poll_data(cx)).await.expect("an echo").expect("no error");
            assert_eq!(data, vec![n; 10]);
        }
        while let Some(data) = std::future::poll_fn(|cx| answer.poll_data(cx)).await {
            assert!(data.expect("no error").is_empty());
        }
    });
    let request = Request::post("http://test/").body(()).expect("a request");
    let mut cancelled = client.begin(request, false).expect("room");
    client.idle(ms(20));
    cancelled.body.send_reset(h2::Reason::CANCEL);
    client.idle(ms(20));
    until("its place is free", || balancer.destination(0).in_flight == 0);
}

#[test]
fn a_destination_that_went_away_is_connected_to_anew() {
    let destination = echo();
    let balancer = start(&destination);
    assert_eq!(balancer.ask(get("/")).status, 200);
    destination.say_goodbye();
    for _ in 0..5 {
        assert_eq!(balancer.ask(post("/", "x")).text(), "x");
    }
    assert!(destination.connections() >= 2);
}
