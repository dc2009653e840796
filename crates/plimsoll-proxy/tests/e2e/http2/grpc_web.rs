//! gRPC-Web clients with gRPC destinations.

use http::Request;
use plimsoll_config::model::{GrpcWeb, PoolProtocol};

use crate::kit::http2::{Http2Client, Http2Destination, ScriptedResponse, send_all};
use crate::kit::{
    Balancer, Client, Destination, EndKind, Framing, Setup, edits, get, ms, random_bytes, respond_ok,
    wait_until,
};

const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";
const TRAILERS: &[u8] = b"\x80\0\0\0\x1bgrpc-status: 0\r\nx-sum: 10\r\n";

fn grpc() -> ScriptedResponse {
    ScriptedResponse::new(200).header("content-type", "application/grpc+proto")
}

/// Starts a destination that echoes the body and sends its length in a trailer.
fn echo() -> Http2Destination {
    Http2Destination::start(|request| {
        let sum = request.body.len().to_string();
        grpc().body(request.body.clone()).trailer("grpc-status", "0").trailer("x-sum", &sum)
    })
}

fn in_front_of(destinations: &[&Http2Destination]) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = destinations.iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
    })
}

/// Encodes an HTTP/1.1 call of this content type.
fn http1_call(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /s/m HTTP/1.1\r\nHost: test\r\nContent-Type: application/{kind}\r\nX-Grpc-Web: 1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn http2_call(kind: &str) -> Request<()> {
    let request = Request::post("http://test/s/m").header("content-type", format!("application/{kind}"));
    request.body(()).expect("a request")
}

/// Encodes base64 without code of the proxy, on purpose.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let at = |n: usize| group.get(n).copied().unwrap_or(0);
        let letters = [at(0) >> 2, at(0) << 4 | at(1) >> 4, at(1) << 2 | at(2) >> 6, at(2)];
        let mut text = letters.map(|six| LETTERS[usize::from(six & 63)]);
        text[group.len() + 1..].fill(b'=');
        text
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// Decodes base64 group by group; any group may be padded.
fn unbase64(text: &[u8]) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {}", letter.escape_ascii()),
    };
    assert_eq!(text.len() % 4, 0);
    let group = |group: &[u8]| {
        let letters = group.iter().take_while(|&&letter| letter != b'=').count();
        let bits = group[..letters].iter().fold(0_u32, |bits, &l| bits << 6 | u32::from(value(l)));
        (bits << (6 * (4 - letters))).to_be_bytes()[1..letters].to_vec()
    };
    text.chunks(4).flat_map(group).collect()
}

/// Sends a call that gets a trailers-only response; returns its status.
#[track_caller]
fn fetch_trailers_only(balancer: &Balancer, kind: &str) -> String {
    let response = balancer.fetch(http1_call(kind, b""));
    assert_eq!(
        (response.status, response.text().as_str(), response.trailers.0.len()),
        (200, "", 0),
        "{response:?}"
    );
    assert_eq!(response.fields.one("content-type"), Some(&*format!("application/{kind}")));
    response.fields.one("grpc-status").expect("a status").to_owned()
}

#[test]
fn call_is_translated_to_grpc_and_trailers_to_the_body() {
    let destination = echo();
    let balancer = in_front_of(&[&destination]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(http1_call("grpc-web+proto", MESSAGE));
        let response = client.read_response();
        assert_eq!((response.status, &response.body), (200, &whole));
        assert_eq!(response.fields.one("content-type"), Some("application/grpc-web+proto"));
        assert!(response.trailers.0.is_empty() && !response.fields.has("grpc-status"), "{response:?}");
    }
    let response =
        Http2Client::connect(&balancer).fetch(http2_call("grpc-web"), MESSAGE).expect("a response");
    assert_eq!((response.body, response.trailers.len()), (whole, 0));
    assert_eq!(response.head.headers()["content-type"], "application/grpc-web");
    let seen = destination.requests();
    let types: Vec<_> = seen.iter().map(|request| &request.head.headers()["content-type"]).collect();
    assert_eq!(types, ["application/grpc+proto", "application/grpc+proto", "application/grpc"]);
    assert!(seen.iter().all(|request| request.body == MESSAGE && request.head.headers()["te"] == "trailers"));
    assert_eq!(seen[0].head.headers()["content-length"], "10");
}

#[test]
fn text_format_is_decoded_and_encoded() {
    let destination = echo();
    let balancer = in_front_of(&[&destination]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    // Concatenated padded pieces, as a client may flush them.
    let text = [base64(&MESSAGE[..5]), base64(&MESSAGE[5..])].concat();
    let response = balancer.fetch(http1_call("grpc-web-text", &text));
    assert_eq!(response.fields.one("content-type"), Some("application/grpc-web-text"));
    assert_eq!(unbase64(&response.body), whole);
    let response =
        Http2Client::connect(&balancer).fetch(http2_call("grpc-web-text+proto"), &text).expect("a response");
    assert_eq!(response.head.headers()["content-type"], "application/grpc-web-text+proto");
    assert_eq!(unbase64(&response.body), whole);
    // Byte by byte, and in chunks that split base64 groups.
    let mut client = balancer.connect();
    client.send_in_steps(http1_call("grpc-web-text", &text), 1, ms(0));
    assert_eq!(unbase64(&client.read_response().body), whole);
    let chunks: Vec<u8> =
        text.iter().flat_map(|letter| [b"1\r\n", &[*letter][..], b"\r\n"].concat()).collect();
    let head = "POST /s/m HTTP/1.1\r\nHost: test\r\nContent-Type: application/grpc-web-text\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send([head.as_bytes(), &chunks, b"0\r\n\r\n"].concat());
    assert_eq!(unbase64(&client.read_response().body), whole);
    let seen = destination.requests();
    assert!(seen.len() == 4 && seen.iter().all(|request| request.body == MESSAGE), "{seen:?}");
    assert!(seen.iter().all(|request| !request.head.headers().contains_key("content-length")));
    // The client may accept the binary format instead.
    let other = String::from_utf8(http1_call("grpc-web-text", &text)).expect("text");
    let other = other.replace("X-Grpc-Web: 1", "Accept: application/grpc-web+proto");
    assert_eq!(balancer.fetch(other).body, whole);
}

#[test]
fn large_messages_arrive_unchanged() {
    let destination = echo();
    let balancer = in_front_of(&[&destination]).start();
    let message = random_bytes(9, 1_000_001);
    let message = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    for text in [false, true] {
        let (kind, body) = match text {
            true => ("grpc-web-text", base64(&message)),
            false => ("grpc-web", message.clone()),
        };
        let response = balancer.fetch(http1_call(kind, &body));
        let got = if text { unbase64(&response.body) } else { response.body };
        assert!(got.starts_with(&message), "text: {text}");
        assert!(got[message.len()..].starts_with(b"\x80\0\0\0"), "text: {text}");
        let response = Http2Client::connect(&balancer).fetch(http2_call(kind), &body).expect("a response");
        let got = if text { unbase64(&response.body) } else { response.body };
        assert!(got.starts_with(&message), "text: {text}");
    }
    assert!(destination.requests().iter().all(|request| request.body == message));
}

#[test]
fn content_length_of_the_response_is_dropped() {
    let sized = Http2Destination::start(|_| {
        let response = grpc().header("content-length", "10").body(MESSAGE.to_vec());
        response.trailer("grpc-status", "0").trailer("x-sum", "10")
    });
    let balancer = in_front_of(&[&sized]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    let response = balancer.fetch(http1_call("grpc-web", MESSAGE));
    assert_eq!((response.framing, response.body), (Framing::Chunked, whole.clone()));
    let response =
        Http2Client::connect(&balancer).fetch(http2_call("grpc-web-text"), b"").expect("a response");
    assert_eq!(unbase64(&response.body), whole);
    assert!(!response.head.headers().contains_key("content-length"));
}

#[test]
fn http_1_0_client_gets_the_response_until_close() {
    let destination = echo();
    let balancer = in_front_of(&[&destination]).start();
    let old =
        String::from_utf8(http1_call("grpc-web", MESSAGE)).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let response = balancer.fetch(old);
    assert_eq!((response.framing, response.body), (Framing::ToEnd, [MESSAGE, TRAILERS].concat()));
}

#[test]
fn stream_runs_in_both_directions_at_once() {
    let destination = Http2Destination::start_streaming();
    let balancer = in_front_of(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let mut stream = client.start_request(http2_call("grpc-web-text"), false).expect("room");
    client.run(async {
        let mut response =
            (&mut stream.response).await.expect("a head before the body has ended").into_body();
        for n in 0..5_u8 {
            let message = [&b"\0\0\0\0\x03"[..], &[n; 3]].concat();
            send_all(&mut stream.body, base64(&message).into(), n == 4).await.expect("room");
            let mut got = Vec::new();
            while got.len() < 12 {
                let data = std::future::poll_fn(|cx| response.poll_data(cx)).await.expect("an echo");
                got.extend_from_slice(&data.expect("no error"));
            }
            assert_eq!(unbase64(&got), message, "messages are forwarded without delay");
        }
        let mut rest = Vec::new();
        while let Some(data) = std::future::poll_fn(|cx| response.poll_data(cx)).await {
            rest.extend_from_slice(&data.expect("no error"));
        }
        let rest = unbase64(&rest);
        assert!(rest.starts_with(b"\x80") && rest.windows(14).any(|w| w == b"grpc-status: 2"), "{rest:?}");
    });
}

#[test]
fn trailers_only_response_has_its_status_in_the_head() {
    let none = Http2Destination::start(|_| grpc().header("grpc-status", "5").header("grpc-message", "none"));
    let balancer = in_front_of(&[&none]).start();
    assert_eq!(fetch_trailers_only(&balancer, "grpc-web+proto"), "5");
    assert_eq!(fetch_trailers_only(&balancer, "grpc-web-text"), "5");
    let response =
        Http2Client::connect(&balancer).fetch(http2_call("grpc-web"), MESSAGE).expect("a response");
    assert_eq!((response.head.headers()["grpc-status"].as_bytes(), response.body.len()), (&b"5"[..], 0));
}

#[test]
fn local_replies_are_grpc_statuses() {
    let slow = Http2Destination::start(|_| grpc().after(ms(5_000)));
    let balancer = in_front_of(&[&slow]).start();
    let late = String::from_utf8(http1_call("grpc-web-text", b"")).expect("text");
    let late = late.replace("X-Grpc-Web: 1", "Grpc-Timeout: 100m");
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(&late);
        let response = client.read_response();
        assert_eq!((response.status, response.fields.one("grpc-status")), (200, Some("4")), "{response:?}");
        assert_eq!(response.fields.one("content-type"), Some("application/grpc-web-text"));
    }
    let absent = Destination::absent(respond_ok("never"));
    for protocol in [PoolProtocol::Http1, PoolProtocol::Http2] {
        let balancer = Setup::http(&[&absent]).with(|s| s.pools[0].protocol = protocol).start();
        assert_eq!(fetch_trailers_only(&balancer, "grpc-web+proto"), "14");
        let response =
            Http2Client::connect(&balancer).fetch(http2_call("grpc-web-text"), b"").expect("a response");
        assert_eq!(response.head.headers()["grpc-status"], "14");
        assert_eq!(response.head.headers()["content-type"], "application/grpc-web-text");
        assert!(
            balancer.fetch(get("/")).text().contains("connect_failed"),
            "clients without gRPC get a plain response"
        );
    }
    let nowhere = in_front_of(&[&slow]).with(|s| s.listeners[0].pool = None).start();
    assert_eq!(fetch_trailers_only(&nowhere, "grpc-web"), "12");
}

#[test]
fn invalid_base64_is_refused() {
    let destination = echo();
    let balancer = in_front_of(&[&destination]).start();
    for bad in [&b"AAAA*AAA"[..], b"AAAAA", b"AAA", b"A===", b"AAAA\r\n"] {
        let at_once = balancer.fetch(http1_call("grpc-web-text", bad));
        assert_eq!((at_once.status, at_once.fields.one("grpc-status")), (200, Some("13")), "{at_once:?}");
        let mut client = balancer.connect();
        let request = http1_call("grpc-web-text", bad);
        let (head, body) = request.split_at(request.len() - bad.len());
        client.send(head);
        wait_until("the call is in flight", || balancer.destination(0).in_flight == 1);
        client.send(body);
        assert_eq!(client.read_response().fields.one("grpc-status"), Some("13"), "{}", bad.escape_ascii());
        let mut client = Http2Client::connect(&balancer);
        let response = client.fetch(http2_call("grpc-web-text"), bad).expect("a response");
        assert_eq!(response.head.headers()["grpc-status"], "13", "{}", bad.escape_ascii());
    }
    assert_eq!(balancer.fetch(http1_call("grpc-web-text", b"AAAA")).status, 200);
    wait_until("refused calls have ended", || balancer.destination(0).in_flight == 0);
}

#[test]
fn grpc_web_passes_unchanged_where_configured_or_to_http_1() {
    let web = Http2Destination::start(|request| {
        ScriptedResponse::new(200)
            .header("content-type", "application/grpc-web-text")
            .body(request.body.clone())
    });
    let passes = in_front_of(&[&web]).with(|s| s.pools[0].grpc_web = GrpcWeb::Pass).start();
    let response = passes.fetch(http1_call("grpc-web-text", b"whatever"));
    assert_eq!((response.text().as_str(), response.fields.one("grpc-status")), ("whatever", None));
    assert_eq!(web.requests()[0].head.headers()["content-type"], "application/grpc-web-text");
    let http1 = Destination::start(respond_ok("as it is"));
    let balancer = Setup::http(&[&http1]).start();
    assert_eq!(balancer.fetch(http1_call("grpc-web-text", b"whatever")).text(), "as it is");
    assert_eq!(http1.only_request().body, b"whatever");
}

#[test]
fn other_requests_and_responses_pass_unchanged() {
    let other = Http2Destination::start(|request| match request.head.method().as_str() {
        "OPTIONS" => ScriptedResponse::new(204).header("access-control-allow-origin", "*"),
        _ => ScriptedResponse::new(503)
            .header("content-type", "text/html")
            .body(b"<html>".to_vec())
            .trailer("x-a", "1"),
    });
    let balancer = in_front_of(&[&other]).start();
    let preflight = "OPTIONS /s/m HTTP/1.1\r\nHost: test\r\nOrigin: https://a.test\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let response = balancer.fetch(preflight);
    assert_eq!((response.status, response.fields.one("access-control-allow-origin")), (204, Some("*")));
    let response = balancer.fetch(http1_call("grpc-web-text", b"AAAA"));
    assert_eq!((response.status, response.text().as_str()), (503, "<html>"));
    assert_eq!(response.fields.one("content-type"), Some("text/html"));
    assert_eq!(response.trailers.one("x-a"), Some("1"));
    let put = String::from_utf8(http1_call("grpc-web-text", b"*")).expect("text").replace("POST", "PUT");
    assert_eq!(balancer.fetch(put).status, 503);
    assert_eq!(other.requests()[2].head.headers()["content-type"], "application/grpc-web-text");
}

#[test]
fn header_edits_apply_to_the_trailer_frame_and_statuses_count() {
    let secret = Http2Destination::start(|_| {
        grpc().body(MESSAGE.to_vec()).trailer("grpc-status", "14").trailer("x-secret", "1")
    });
    let balancer = in_front_of(&[&secret, &echo()])
        .with(|s| {
            s.listeners[0].response_headers = edits(&[], &[], &["x-secret"]);
            s.pools[0].outlier.consecutive_failures = 2;
        })
        .start();
    let mut bodies = Vec::new();
    wait_until("the destination is ejected", || {
        bodies.push(balancer.fetch(http1_call("grpc-web", MESSAGE)).text());
        balancer.destination(0).status.as_str() == "ejected"
    });
    assert!(bodies.iter().any(|body| body.ends_with("grpc-status: 14\r\n")), "{bodies:?}");
}

#[test]
fn declined_call_is_retried_elsewhere() {
    let busy = Http2Destination::start(|_| grpc().header("grpc-status", "14"));
    let good = echo();
    let balancer =
        in_front_of(&[&busy, &good]).with(|s| s.pools[0].retry.when.grpc_statuses = vec![14]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    for _ in 0..4 {
        let response = Http2Client::connect(&balancer).fetch(http2_call("grpc-web-text"), &base64(MESSAGE));
        assert_eq!(unbase64(&response.expect("a response").body), whole);
    }
    assert_eq!((busy.requests().len(), good.requests().len()), (2, 4));
}

#[test]
fn truncated_response_has_no_trailer_frame() {
    let breaks = Destination::start(|conn| {
        conn.read();
        // SETTINGS, a head (`:status: 200`, `content-type: application/grpc`), half a message, and RST_STREAM.
        let head = [&b"\x88\x0f\x10\x10"[..], b"application/grpc"].concat();
        let frame = |kind: u8, payload: &[u8]| {
            let stream = if kind == 4 { 0 } else { 1 };
            let flags = if kind == 1 { 4 } else { 0 };
            [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
        };
        let frames = [frame(4, b""), frame(1, &head), frame(0, b"\0\0\0\0\x05he"), frame(3, &[0, 0, 0, 2])];
        conn.send(frames.concat());
        conn.read_to_end();
    });
    let balancer = Setup::http(&[&breaks]).with(|s| s.pools[0].protocol = PoolProtocol::Http2).start();
    let mut client: Client = balancer.connect();
    client.send(http1_call("grpc-web", MESSAGE));
    let end = client.try_read_response("POST").expect_err("a truncated response");
    assert!(matches!(end.kind, EndKind::Reset | EndKind::Closed), "{end:?}");
    let received = String::from_utf8_lossy(&end.received);
    assert!(received.contains("application/grpc-web") && !received.contains("grpc-status"), "{end:?}");
}
