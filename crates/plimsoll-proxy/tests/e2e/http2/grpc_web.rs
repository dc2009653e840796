//! Calls of gRPC-Web at destinations of gRPC.

use http::Request;
use plimsoll_config::model::{GrpcWeb, PoolProtocol};

use crate::kit::http2::{Http2Client, Http2Destination, Played, send_all};
use crate::kit::{Balancer, Client, Destination, Framing, Kind, Setup, edits, get, hello, ms, noise, until};

const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";
const TRAILERS: &[u8] = b"\x80\0\0\0\x1bgrpc-status: 0\r\nx-sum: 10\r\n";

fn grpc() -> Played {
    Played::answer(200).header("content-type", "application/grpc+proto")
}

/// Sends back what it gets, and says in a trailer how much that was.
fn echo() -> Http2Destination {
    Http2Destination::start(|request| {
        let sum = request.body.len().to_string();
        grpc().body(request.body.clone()).trailer("grpc-status", "0").trailer("x-sum", &sum)
    })
}

fn before(destinations: &[&Http2Destination]) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = destinations.iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
    })
}

/// A call over HTTP/1.1, of this type.
fn call(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /s/m HTTP/1.1\r\nHost: test\r\nContent-Type: application/{kind}\r\nX-Grpc-Web: 1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn call2(kind: &str) -> Request<()> {
    let request = Request::post("http://test/s/m").header("content-type", format!("application/{kind}"));
    request.body(()).expect("a request")
}

/// Base64, written apart from the proxy's own on purpose.
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

/// What base64 stands for, group by group, whatever is padded.
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

/// The status in the head of an answer without a body.
#[track_caller]
fn status_alone(balancer: &Balancer, kind: &str) -> String {
    let answer = balancer.ask(call(kind, b""));
    assert_eq!((answer.status, answer.text().as_str(), answer.trailers.0.len()), (200, "", 0), "{answer:?}");
    assert_eq!(answer.fields.one("content-type"), Some(&*format!("application/{kind}")));
    answer.fields.one("grpc-status").expect("a status").to_owned()
}

#[test]
fn a_call_reaches_its_destination_as_grpc_and_its_trailers_come_in_the_body() {
    let destination = echo();
    let balancer = before(&[&destination]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(call("grpc-web+proto", MESSAGE));
        let answer = client.answer();
        assert_eq!((answer.status, &answer.body), (200, &whole));
        assert_eq!(answer.fields.one("content-type"), Some("application/grpc-web+proto"));
        assert!(answer.trailers.0.is_empty() && !answer.fields.has("grpc-status"), "{answer:?}");
    }
    let answer = Http2Client::connect(&balancer).ask(call2("grpc-web"), MESSAGE).expect("an answer");
    assert_eq!((answer.body, answer.trailers.len()), (whole, 0));
    assert_eq!(answer.head.headers()["content-type"], "application/grpc-web");
    let seen = destination.requests();
    let types: Vec<_> = seen.iter().map(|request| &request.head.headers()["content-type"]).collect();
    assert_eq!(types, ["application/grpc+proto", "application/grpc+proto", "application/grpc"]);
    assert!(seen.iter().all(|request| request.body == MESSAGE && request.head.headers()["te"] == "trailers"));
    assert_eq!(seen[0].head.headers()["content-length"], "10");
}

#[test]
fn text_is_decoded_and_encoded_on_the_way() {
    let destination = echo();
    let balancer = before(&[&destination]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    // Padded pieces one after another, as a client may flush them.
    let text = [base64(&MESSAGE[..5]), base64(&MESSAGE[5..])].concat();
    let answer = balancer.ask(call("grpc-web-text", &text));
    assert_eq!(answer.fields.one("content-type"), Some("application/grpc-web-text"));
    assert_eq!(unbase64(&answer.body), whole);
    let answer = Http2Client::connect(&balancer).ask(call2("grpc-web-text+proto"), &text).expect("an answer");
    assert_eq!(answer.head.headers()["content-type"], "application/grpc-web-text+proto");
    assert_eq!(unbase64(&answer.body), whole);
    // Byte by byte, and in chunks that cut groups.
    let mut client = balancer.connect();
    client.send_in_steps(call("grpc-web-text", &text), 1, ms(0));
    assert_eq!(unbase64(&client.answer().body), whole);
    let chunks: Vec<u8> =
        text.iter().flat_map(|letter| [b"1\r\n", &[*letter][..], b"\r\n"].concat()).collect();
    let head = "POST /s/m HTTP/1.1\r\nHost: test\r\nContent-Type: application/grpc-web-text\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send([head.as_bytes(), &chunks, b"0\r\n\r\n"].concat());
    assert_eq!(unbase64(&client.answer().body), whole);
    let seen = destination.requests();
    assert!(seen.len() == 4 && seen.iter().all(|request| request.body == MESSAGE), "{seen:?}");
    assert!(seen.iter().all(|request| !request.head.headers().contains_key("content-length")));
    // The client may have it otherwise.
    let other = String::from_utf8(call("grpc-web-text", &text)).expect("text");
    let other = other.replace("X-Grpc-Web: 1", "Accept: application/grpc-web+proto");
    assert_eq!(balancer.ask(other).body, whole);
}

#[test]
fn large_messages_arrive_as_they_left() {
    let destination = echo();
    let balancer = before(&[&destination]).start();
    let message = noise(9, 1_000_001);
    let message = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    for text in [false, true] {
        let (kind, body) = match text {
            true => ("grpc-web-text", base64(&message)),
            false => ("grpc-web", message.clone()),
        };
        let answer = balancer.ask(call(kind, &body));
        let got = if text { unbase64(&answer.body) } else { answer.body };
        assert!(got.starts_with(&message), "text: {text}");
        assert!(got[message.len()..].starts_with(b"\x80\0\0\0"), "text: {text}");
        let answer = Http2Client::connect(&balancer).ask(call2(kind), &body).expect("an answer");
        let got = if text { unbase64(&answer.body) } else { answer.body };
        assert!(got.starts_with(&message), "text: {text}");
    }
    assert!(destination.requests().iter().all(|request| request.body == message));
}

#[test]
fn an_answer_of_told_length_grows_by_its_last_frame() {
    let told = Http2Destination::start(|_| {
        let answer = grpc().header("content-length", "10").body(MESSAGE.to_vec());
        answer.trailer("grpc-status", "0").trailer("x-sum", "10")
    });
    let balancer = before(&[&told]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    let answer = balancer.ask(call("grpc-web", MESSAGE));
    assert_eq!((answer.framing, answer.body), (Framing::Chunked, whole.clone()));
    let answer = Http2Client::connect(&balancer).ask(call2("grpc-web-text"), b"").expect("an answer");
    assert_eq!(unbase64(&answer.body), whole);
    assert!(!answer.head.headers().contains_key("content-length"));
}

#[test]
fn a_client_of_http_1_0_has_all_up_to_the_close() {
    let destination = echo();
    let balancer = before(&[&destination]).start();
    let old = String::from_utf8(call("grpc-web", MESSAGE)).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    let answer = balancer.ask(old);
    assert_eq!((answer.framing, answer.body), (Framing::ToEnd, [MESSAGE, TRAILERS].concat()));
}

#[test]
fn both_sides_of_a_stream_run_at_once() {
    let destination = Http2Destination::start_streaming();
    let balancer = before(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    let mut stream = client.begin(call2("grpc-web-text"), false).expect("room");
    client.run(async {
        let mut answer = (&mut stream.answer).await.expect("a head before the body has ended").into_body();
        for n in 0..5_u8 {
            let message = [&b"\0\0\0\0\x03"[..], &[n; 3]].concat();
            send_all(&mut stream.body, base64(&message).into(), n == 4).await.expect("room");
            let mut got = Vec::new();
            while got.len() < 12 {
                let data = std::future::poll_fn(|cx| answer.poll_data(cx)).await.expect("an echo");
                got.extend_from_slice(&data.expect("no error"));
            }
            assert_eq!(unbase64(&got), message, "nothing of a message waits");
        }
        let mut rest = Vec::new();
        while let Some(data) = std::future::poll_fn(|cx| answer.poll_data(cx)).await {
            rest.extend_from_slice(&data.expect("no error"));
        }
        let rest = unbase64(&rest);
        assert!(rest.starts_with(b"\x80") && rest.windows(14).any(|w| w == b"grpc-status: 2"), "{rest:?}");
    });
}

#[test]
fn a_call_that_ends_before_it_begins_tells_its_status_in_the_head() {
    let none = Http2Destination::start(|_| grpc().header("grpc-status", "5").header("grpc-message", "none"));
    let balancer = before(&[&none]).start();
    assert_eq!(status_alone(&balancer, "grpc-web+proto"), "5");
    assert_eq!(status_alone(&balancer, "grpc-web-text"), "5");
    let answer = Http2Client::connect(&balancer).ask(call2("grpc-web"), MESSAGE).expect("an answer");
    assert_eq!((answer.head.headers()["grpc-status"].as_bytes(), answer.body.len()), (&b"5"[..], 0));
}

#[test]
fn answers_of_our_own_are_statuses_too() {
    let slow = Http2Destination::start(|_| grpc().after(ms(5_000)));
    let balancer = before(&[&slow]).start();
    let late = String::from_utf8(call("grpc-web-text", b"")).expect("text");
    let late = late.replace("X-Grpc-Web: 1", "Grpc-Timeout: 100m");
    let mut client = balancer.connect();
    for _ in 0..2 {
        client.send(&late);
        let answer = client.answer();
        assert_eq!((answer.status, answer.fields.one("grpc-status")), (200, Some("4")), "{answer:?}");
        assert_eq!(answer.fields.one("content-type"), Some("application/grpc-web-text"));
    }
    let absent = Destination::absent(hello("never"));
    for protocol in [PoolProtocol::Http1, PoolProtocol::Http2] {
        let balancer = Setup::http(&[&absent]).with(|s| s.pools[0].protocol = protocol).start();
        assert_eq!(status_alone(&balancer, "grpc-web+proto"), "14");
        let answer = Http2Client::connect(&balancer).ask(call2("grpc-web-text"), b"").expect("an answer");
        assert_eq!(answer.head.headers()["grpc-status"], "14");
        assert_eq!(answer.head.headers()["content-type"], "application/grpc-web-text");
        assert!(balancer.ask(get("/")).text().contains("connect_failed"), "a page for everybody else");
    }
    let nowhere = before(&[&slow]).with(|s| s.listeners[0].pool = None).start();
    assert_eq!(status_alone(&nowhere, "grpc-web"), "12");
}

#[test]
fn what_is_not_base64_is_refused() {
    let destination = echo();
    let balancer = before(&[&destination]).start();
    for bad in [&b"AAAA*AAA"[..], b"AAAAA", b"AAA", b"A===", b"AAAA\r\n"] {
        let at_once = balancer.ask(call("grpc-web-text", bad));
        assert_eq!((at_once.status, at_once.fields.one("grpc-status")), (200, Some("13")), "{at_once:?}");
        let mut client = balancer.connect();
        let request = call("grpc-web-text", bad);
        let (head, body) = request.split_at(request.len() - bad.len());
        client.send(head);
        until("it is on its way", || balancer.destination(0).in_flight == 1);
        client.send(body);
        assert_eq!(client.answer().fields.one("grpc-status"), Some("13"), "{}", bad.escape_ascii());
        let mut client = Http2Client::connect(&balancer);
        let answer = client.ask(call2("grpc-web-text"), bad).expect("an answer");
        assert_eq!(answer.head.headers()["grpc-status"], "13", "{}", bad.escape_ascii());
    }
    assert_eq!(balancer.ask(call("grpc-web-text", b"AAAA")).status, 200);
    until("what was refused has ended", || balancer.destination(0).in_flight == 0);
}

#[test]
fn destinations_that_speak_it_themselves_get_it_as_it_is() {
    let web = Http2Destination::start(|request| {
        Played::answer(200).header("content-type", "application/grpc-web-text").body(request.body.clone())
    });
    let passes = before(&[&web]).with(|s| s.pools[0].grpc_web = GrpcWeb::Pass).start();
    let answer = passes.ask(call("grpc-web-text", b"whatever"));
    assert_eq!((answer.text().as_str(), answer.fields.one("grpc-status")), ("whatever", None));
    assert_eq!(web.requests()[0].head.headers()["content-type"], "application/grpc-web-text");
    let http1 = Destination::start(hello("as it is"));
    let balancer = Setup::http(&[&http1]).start();
    assert_eq!(balancer.ask(call("grpc-web-text", b"whatever")).text(), "as it is");
    assert_eq!(http1.only_request().body, b"whatever");
}

#[test]
fn what_is_no_call_or_no_answer_of_grpc_passes_as_it_is() {
    let other = Http2Destination::start(|request| match request.head.method().as_str() {
        "OPTIONS" => Played::answer(204).header("access-control-allow-origin", "*"),
        _ => Played::answer(503)
            .header("content-type", "text/html")
            .body(b"<html>".to_vec())
            .trailer("x-a", "1"),
    });
    let balancer = before(&[&other]).start();
    let preflight = "OPTIONS /s/m HTTP/1.1\r\nHost: test\r\nOrigin: https://a.test\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let answer = balancer.ask(preflight);
    assert_eq!((answer.status, answer.fields.one("access-control-allow-origin")), (204, Some("*")));
    let answer = balancer.ask(call("grpc-web-text", b"AAAA"));
    assert_eq!((answer.status, answer.text().as_str()), (503, "<html>"));
    assert_eq!(answer.fields.one("content-type"), Some("text/html"));
    assert_eq!(answer.trailers.one("x-a"), Some("1"));
    let put = String::from_utf8(call("grpc-web-text", b"*")).expect("text").replace("POST", "PUT");
    assert_eq!(balancer.ask(put).status, 503);
    assert_eq!(other.requests()[2].head.headers()["content-type"], "application/grpc-web-text");
}

#[test]
fn edits_hold_for_the_last_frame_and_statuses_count() {
    let secret = Http2Destination::start(|_| {
        grpc().body(MESSAGE.to_vec()).trailer("grpc-status", "14").trailer("x-secret", "1")
    });
    let balancer = before(&[&secret, &echo()])
        .with(|s| {
            s.listeners[0].response_headers = edits(&[], &[], &["x-secret"]);
            s.pools[0].outlier.consecutive_failures = 2;
        })
        .start();
    let mut bodies = Vec::new();
    until("it is ejected", || {
        bodies.push(balancer.ask(call("grpc-web", MESSAGE)).text());
        balancer.destination(0).status.as_str() == "ejected"
    });
    assert!(bodies.iter().any(|body| body.ends_with("grpc-status: 14\r\n")), "{bodies:?}");
}

#[test]
fn a_call_that_was_not_taken_up_is_made_again_elsewhere() {
    let busy = Http2Destination::start(|_| grpc().header("grpc-status", "14"));
    let good = echo();
    let balancer = before(&[&busy, &good]).with(|s| s.pools[0].retry.when.grpc_statuses = vec![14]).start();
    let whole = [MESSAGE, TRAILERS].concat();
    for _ in 0..4 {
        let answer = Http2Client::connect(&balancer).ask(call2("grpc-web-text"), &base64(MESSAGE));
        assert_eq!(unbase64(&answer.expect("an answer").body), whole);
    }
    assert_eq!((busy.requests().len(), good.requests().len()), (2, 4));
}

#[test]
fn an_answer_that_breaks_off_has_no_last_frame() {
    let breaks = Destination::start(|visit| {
        visit.read();
        // Settings, a head (`:status: 200`, `content-type: application/grpc`), half a message, and a reset.
        let head = [&b"\x88\x0f\x10\x10"[..], b"application/grpc"].concat();
        let frame = |kind: u8, payload: &[u8]| {
            let stream = if kind == 4 { 0 } else { 1 };
            let flags = if kind == 1 { 4 } else { 0 };
            [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
        };
        let frames = [frame(4, b""), frame(1, &head), frame(0, b"\0\0\0\0\x05he"), frame(3, &[0, 0, 0, 2])];
        visit.send(frames.concat());
        visit.read_to_end();
    });
    let balancer = Setup::http(&[&breaks]).with(|s| s.pools[0].protocol = PoolProtocol::Http2).start();
    let mut client: Client = balancer.connect();
    client.send(call("grpc-web", MESSAGE));
    let fault = client.try_answer("POST").expect_err("it cannot be finished");
    assert!(matches!(fault.kind, Kind::Reset | Kind::Closed), "{fault:?}");
    let received = String::from_utf8_lossy(&fault.received);
    assert!(received.contains("application/grpc-web") && !received.contains("grpc-status"), "{fault:?}");
}
