//! HTTP/2 destinations, for HTTP/1 and HTTP/2 clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::Request;
use plimsoll_config::model::PoolProtocol;

use crate::failover::http_checks;
use crate::kit::http2::{Http2Client, Http2Destination, ScriptedResponse, get as get2, send_all};
use crate::kit::{Balancer, Setup, Stopwatch, edits, get, ms, post, random_bytes, wait_until};

fn in_front_of(destinations: &[&Http2Destination]) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        let members = destinations.iter().enumerate();
        s.pools[0].destinations = members.map(|(n, d)| d.as_member(n)).collect();
    })
}

fn start(destination: &Http2Destination) -> Balancer {
    in_front_of(&[destination]).start()
}

/// Starts a destination that echoes the body and sends its length in a trailer.
fn echo() -> Http2Destination {
    Http2Destination::start(|request| {
        let sum = request.body.len().to_string();
        ScriptedResponse::new(200).body(request.body.clone()).trailer("x-sum", &sum)
    })
}

#[test]
fn http_1_clients_are_served_on_one_connection() {
    let destination = echo();
    let balancer = start(&destination);
    let mut client = balancer.connect();
    client.send(get("/a?b=c"));
    assert_eq!(client.read_response().text(), "");
    client.send(post("/", "hello"));
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(response.trailers.one("x-sum"), Some("5"));
    client.send("PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n");
    assert_eq!(client.read_response().text(), "abcde");
    let seen = destination.requests();
    assert_eq!(destination.connections(), 1);
    assert_eq!(seen[0].head.uri().to_string(), "http://test/a?b=c");
    assert_eq!(seen[0].head.headers()["x-forwarded-for"], "127.0.0.1");
    assert!(!seen[0].head.headers().contains_key("host"));
    assert_eq!(seen[2].trailers["x-t"], "1");
}

#[test]
fn credentials_of_a_connection_never_share_one() {
    let destination = echo();
    let balancer = start(&destination);
    let ntlm = "GET / HTTP/1.1\r\nHost: t\r\nAuthorization: NTLM TlRM\r\n\r\n";
    for (request, connections) in
        [(get("/"), 1), (ntlm.into(), 2), (get("/"), 2), (ntlm.into(), 3), (get("/"), 3)]
    {
        assert_eq!(balancer.fetch(&request).status, 200);
        assert_eq!(destination.connections(), connections, "{request:?}");
    }
    wait_until("connections with credentials end with their request", || destination.open() == 1);
}

#[test]
fn trailers_to_destinations_pass_the_header_edits() {
    let destination = echo();
    let balancer = in_front_of(&[&destination])
        .with(|s| s.listeners[0].request_headers = edits(&[("x-mark", "ours")], &[], &["x-gone"]))
        .start();
    let trailers = "X_Mark: forged\r\nX-Gone: 1\r\nCookie: a\r\nX-Kept: 1\r\n";
    let head = "PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(balancer.fetch(format!("{head}2\r\nhi\r\n0\r\n{trailers}\r\n")).status, 200);
    let seen = &destination.requests()[0];
    assert_eq!(seen.trailers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    assert_eq!(seen.head.headers().get_all("x-mark").iter().count(), 1);
}

#[test]
fn http_2_clients_are_served() {
    let destination = echo();
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").status(), 200);
    let body = random_bytes(21, 2 << 20);
    let request = Request::post("http://test/").body(()).expect("a request");
    let response = client.fetch(request, &body).expect("a response");
    assert!(response.body == body);
    assert_eq!(response.trailers["x-sum"], "2097152");
    assert_eq!(destination.connections(), 1);
}

#[test]
fn each_request_is_balanced_separately() {
    let (a, b) = (echo(), echo());
    let balancer = in_front_of(&[&a, &b]).start();
    let mut client = Http2Client::connect(&balancer);
    (0..20).for_each(|_| assert_eq!(client.get("/").status(), 200));
    assert_eq!((a.requests().len(), b.requests().len()), (10, 10));
    assert_eq!((a.connections(), b.connections()), (1, 1));
}

#[test]
fn concurrent_requests_share_one_connection() {
    let destination = Http2Destination::start(|_| ScriptedResponse::new(200).after(ms(50)));
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    let streams: Vec<_> = (0..60).map(|_| client.start_request(get2("/"), true).expect("room")).collect();
    for stream in streams {
        assert_eq!(client.read_response(stream).expect("a response").status(), 200);
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn checks_use_http_2() {
    let (healthy, failing) = (echo(), Http2Destination::start(|_| ScriptedResponse::new(500)));
    let balancer =
        in_front_of(&[&healthy, &failing]).with(|s| s.pools[0].health = Some(http_checks())).start();
    wait_until("the failing destination is down", || balancer.destination(1).status.as_str() == "down");
    wait_until("the other destination was checked", || balancer.destination(0).checks.passed > 1);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    assert_eq!(healthy.requests()[0].head.headers()["user-agent"], "plimsoll-health");
}

#[test]
fn refused_stream_is_retried_elsewhere_even_for_a_post() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let refuses = Http2Destination::start(move |_| {
        counted.fetch_add(1, SeqCst);
        ScriptedResponse::reset(h2::Reason::REFUSED_STREAM)
    });
    let good = echo();
    let balancer = in_front_of(&[&refuses, &good]).start();
    for _ in 0..4 {
        assert_eq!(balancer.fetch(post("/", "once")).text(), "once");
    }
    assert!(times.load(SeqCst) > 0, "the refusing destination was tried");
    let fails = Http2Destination::start(|_| ScriptedResponse::reset(h2::Reason::INTERNAL_ERROR));
    let balancer = in_front_of(&[&fails, &good]).start();
    let statuses: Vec<_> = (0..2).map(|_| balancer.fetch(post("/", "once")).status).collect();
    assert!(statuses.contains(&502), "the request may have been processed: {statuses:?}");
}

/// Applies also where the body arrives after the head, as it always does from an HTTP/2 client.
#[test]
fn short_body_is_kept_for_retries() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let refuses = Http2Destination::start(move |_| {
        counted.fetch_add(1, SeqCst);
        ScriptedResponse::reset(h2::Reason::REFUSED_STREAM)
    });
    let good = echo();
    let balancer = in_front_of(&[&refuses, &good]).start();
    let mut client = Http2Client::connect(&balancer);
    let request = || Request::post("http://test/").body(()).expect("a request");
    for length in [1, 5_000, 64 * 1024] {
        for with_length in [true, false] {
            let before = times.load(SeqCst);
            let bytes = random_bytes(length as u64, length);
            let mut requests = 0;
            wait_until("the refusing destination was tried", || {
                let mut request = request();
                if with_length {
                    request.headers_mut().insert("content-length", length.into());
                }
                let response = client.fetch(request, &bytes).expect("a response");
                assert!((response.status(), &response.body) == (200, &bytes), "{length} bytes");
                requests += 1;
                times.load(SeqCst) > before
            });
            assert!(requests <= 4, "it is tried in rotation");
        }
    }
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n");
        client.send("once");
        assert_eq!(client.read_response().text(), "once");
    }
    // Longer bodies are not kept and cannot be sent again.
    let mut client = Http2Client::connect(&balancer);
    let statuses: Vec<_> = (0..4)
        .map(|_| client.fetch(request(), &random_bytes(1, 70_000)).map_or(0, |response| response.status()))
        .collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
}

#[test]
fn trailers_after_a_content_length_arrive() {
    let destination = Http2Destination::start(|request| {
        let response = ScriptedResponse::new(200).header("content-length", "6").body(b"abcdef".to_vec());
        match request.head.uri().path() {
            "/with" => response.trailer("x-sum", "6"),
            _ => response,
        }
    });
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..2 {
        let response = client.get("/with");
        assert_eq!((response.text().as_str(), response.trailers["x-sum"].as_bytes()), ("abcdef", &b"6"[..]));
        assert_eq!(response.head.headers()["content-length"], "6");
        let response = client.get("/without");
        assert_eq!((response.text().as_str(), response.trailers.len()), ("abcdef", 0));
    }
    // HTTP/1 has no trailers after a body with a Content-Length.
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(get("/with"));
        assert_eq!(client.read_response().text(), "abcdef");
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn request_that_http_2_cannot_express_is_a_400() {
    let (destination, other) = (echo(), echo());
    let once = |s: &mut Setup| s.pools[0].outlier.consecutive_failures = 1;
    let balancer = in_front_of(&[&destination, &other]).with(once).start();
    let stopwatch = Stopwatch::start();
    for _ in 0..4 {
        let response = balancer.fetch(get("/a<b"));
        assert!(
            response.status == 400 && response.text().contains("cannot be expressed in HTTP/2"),
            "{response:?}"
        );
    }
    assert!(stopwatch.elapsed() < ms(5_000), "{:?}", stopwatch.elapsed());
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
    assert_eq!(balancer.fetch(get("/a")).status, 200);
    assert_eq!(destination.requests().len() + other.requests().len(), 1);
}

#[test]
fn grpc_calls_keep_their_trailers() {
    let destination = Http2Destination::start(|request| {
        assert_eq!(request.head.headers()["te"], "trailers");
        let response = ScriptedResponse::new(200).header("content-type", "application/grpc");
        match request.head.uri().path() {
            "/s/unary" => response.body(request.body.clone()).trailer("grpc-status", "0"),
            "/s/with-length" => {
                response.header("content-length", "6").body(vec![0; 6]).trailer("grpc-status", "0")
            }
            // Trailers-only: the status is in the head.
            _ => response.header("grpc-status", "5"),
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
    let response = client.fetch(call("/s/unary"), b"\0\0\0\0\x01x").expect("a response");
    assert_eq!((response.body.len(), response.trailers["grpc-status"].as_bytes()), (6, &b"0"[..]));
    let response = client.fetch(call("/s/with-length"), b"\0\0\0\0\0").expect("a response");
    assert_eq!((response.body.len(), response.trailers["grpc-status"].as_bytes()), (6, &b"0"[..]));
    let response = client.fetch(call("/s/none"), b"\0\0\0\0\0").expect("a response");
    assert_eq!(response.head.headers()["grpc-status"], "5");
    assert!(response.trailers.is_empty() && !response.head.headers().contains_key("content-length"));
}

#[test]
fn grpc_timeout_is_enforced_and_unavailable_counts_as_a_failure() {
    let slow = Http2Destination::start(|_| ScriptedResponse::new(200).after(ms(5_000)));
    let balancer = start(&slow);
    let mut client = Http2Client::connect(&balancer);
    let call = || Request::post("http://test/s/m").header("content-type", "application/grpc");
    let stopwatch = Stopwatch::start();
    let late = call().header("grpc-timeout", "100m").body(()).expect("a request");
    let response = client.fetch(late, b"x").expect("a response");
    assert_eq!(response.head.headers()["grpc-status"], "4");
    assert!(stopwatch.elapsed() < ms(4_000), "{:?}", stopwatch.elapsed());
    for in_trailers in [true, false] {
        let bad = Http2Destination::start(move |_| {
            let response = ScriptedResponse::new(200).header("content-type", "application/grpc");
            match in_trailers {
                true => response.body(b"x".to_vec()).trailer("grpc-status", "14"),
                false => response.header("grpc-status", "14"),
            }
        });
        let good = echo();
        let balancer =
            in_front_of(&[&bad, &good]).with(|s| s.pools[0].outlier.consecutive_failures = 2).start();
        let mut client = Http2Client::connect(&balancer);
        wait_until("the destination is ejected", || {
            client.fetch(call().body(()).expect("a request"), b"x").expect("a response");
            balancer.destination(0).status.as_str() == "ejected"
        });
    }
}

#[test]
fn stream_runs_in_both_directions_at_once() {
    let destination = Http2Destination::start_streaming();
    let balancer = start(&destination);
    let mut client = Http2Client::connect(&balancer);
    let request = Request::post("http://test/").header("content-type", "application/grpc");
    let mut stream = client.start_request(request.body(()).expect("a request"), false).expect("room");
    client.run(async {
        let mut response =
            (&mut stream.response).await.expect("a head before the body has ended").into_body();
        for n in 0..5_u8 {
            send_all(&mut stream.body, vec![n; 10].into(), n == 4).await.expect("room");
            let data =
                std::future::poll_fn(|cx| response.poll_data(cx)).await.expect("an echo").expect("no error");
            assert_eq!(data, vec![n; 10]);
        }
        while let Some(data) = std::future::poll_fn(|cx| response.poll_data(cx)).await {
            assert!(data.expect("no error").is_empty());
        }
    });
    let request = Request::post("http://test/").body(()).expect("a request");
    let mut cancelled = client.start_request(request, false).expect("room");
    client.drive_for(ms(20));
    cancelled.body.send_reset(h2::Reason::CANCEL);
    client.drive_for(ms(20));
    wait_until("the request has ended", || balancer.destination(0).in_flight == 0);
}

#[test]
fn goaway_opens_a_new_connection() {
    let destination = echo();
    let balancer = start(&destination);
    assert_eq!(balancer.fetch(get("/")).status, 200);
    destination.send_goaway();
    for _ in 0..5 {
        assert_eq!(balancer.fetch(post("/", "x")).text(), "x");
    }
    assert!(destination.connections() >= 2);
}
