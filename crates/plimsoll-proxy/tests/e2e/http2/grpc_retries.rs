//! Retries of gRPC calls that a destination declined with a trailers-only response.

use http::Request;
use plimsoll_config::model::PoolProtocol;

use crate::kit::http2::{Http2Client, Http2Destination, Http2Response, ScriptedResponse, send_all};
use crate::kit::{Balancer, Destination, Setup, ms, post, random_bytes, respond_with};

const UNAVAILABLE: u8 = 14;

/// Responds with trailers only.
fn trailers_only(status: &str) -> ScriptedResponse {
    ScriptedResponse::new(200).header("content-type", "application/grpc").header("grpc-status", status)
}

fn echo() -> Http2Destination {
    Http2Destination::start(|request| {
        let response = ScriptedResponse::new(200).header("content-type", "application/grpc");
        response.body(request.body.clone()).trailer("grpc-status", "0")
    })
}

fn in_front_of(destinations: &[&Http2Destination]) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = destinations.iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
        s.pools[0].retry.when.grpc_statuses = vec![UNAVAILABLE];
    })
}

fn grpc_call() -> Request<()> {
    let request = Request::post("http://test/s/m").header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).expect("a request")
}

fn fetch(balancer: &Balancer, body: &[u8]) -> Http2Response {
    Http2Client::connect(balancer).fetch(grpc_call(), body).expect("a response")
}

/// Returns the grpc-status of trailers or head.
fn grpc_status(response: &Http2Response) -> &str {
    let status = response.trailers.get("grpc-status").or(response.head.headers().get("grpc-status"));
    status.expect("a status").to_str().expect("text")
}

#[test]
fn declined_call_is_retried_with_its_whole_body() {
    let (busy, good) = (Http2Destination::start(|_| trailers_only("14")), echo());
    let balancer = in_front_of(&[&busy, &good]).start();
    let body = random_bytes(3, 60_000);
    for _ in 0..10 {
        let response = fetch(&balancer, &body);
        assert!(grpc_status(&response) == "0" && response.body == body);
        assert!(!response.head.headers().contains_key("grpc-status"));
    }
    let tried = busy.requests();
    assert_eq!(
        (tried.len(), good.requests().len()),
        (5, 10),
        "in rotation, each call at most once per destination"
    );
    assert!(tried.iter().all(|seen| seen.body == body));
    assert_eq!(balancer.retries(), 5);
    // HTTP/1 clients too: the body that arrived with the head is buffered anyway.
    let request = post("/s/m", "whole").replace("\r\n\r\n", "\r\nContent-Type: application/grpc\r\n\r\n");
    (0..2).for_each(|_| assert_eq!(balancer.fetch(&request).text(), "whole"));
    assert_eq!(busy.requests().len(), 6);
}

#[test]
fn last_attempt_determines_the_response() {
    let destinations: Vec<_> = (0..4).map(|_| Http2Destination::start(|_| trailers_only("14"))).collect();
    let all: Vec<_> = destinations.iter().collect();
    let requests = || destinations.iter().map(|d| d.requests().len()).sum::<usize>();
    assert_eq!(grpc_status(&fetch(&in_front_of(&all).start(), b"x")), "14");
    assert_eq!(requests(), 3, "one per attempt");
    assert_eq!(grpc_status(&fetch(&in_front_of(&all[..1]).start(), b"x")), "14");
    assert_eq!(requests(), 4, "nothing is in progress");
}

#[test]
fn responses_with_content_and_unlisted_statuses_are_not_retried() {
    let rows: [fn() -> ScriptedResponse; 4] = [
        || trailers_only("13"),
        || ScriptedResponse::new(200).header("content-type", "application/grpc").trailer("grpc-status", "14"),
        || trailers_only("14").body(b"\0\0\0\0\x01x".to_vec()),
        || ScriptedResponse::new(503).header("grpc-status", "14"),
    ];
    for (row, scripted) in rows.into_iter().enumerate() {
        let bad = || Http2Destination::start(move |_| scripted());
        let (a, b) = (bad(), bad());
        let balancer = in_front_of(&[&a, &b]).start();
        fetch(&balancer, b"x");
        assert_eq!((a.requests().len() + b.requests().len(), balancer.retries()), (1, 0), "row {row}");
    }
    let (a, b) =
        (Http2Destination::start(|_| trailers_only("14")), Http2Destination::start(|_| trailers_only("14")));
    let balancer = in_front_of(&[&a, &b]).with(|s| s.pools[0].retry.when.grpc_statuses.clear()).start();
    assert_eq!(grpc_status(&fetch(&balancer, b"x")), "14");
    // In a response to a request that is not gRPC, grpc-status has no meaning.
    let balancer = in_front_of(&[&a, &b]).start();
    let plain = Request::post("http://test/").body(()).expect("a request");
    Http2Client::connect(&balancer).fetch(plain, b"x").expect("a response");
    assert_eq!(a.requests().len() + b.requests().len(), 2);
}

#[test]
fn call_with_a_long_body_is_not_retried() {
    let bad = || Http2Destination::start(|_| trailers_only("14"));
    let (a, b) = (bad(), bad());
    let balancer = in_front_of(&[&a, &b]).start();
    let long = random_bytes(5, 200_000);
    assert_eq!(grpc_status(&fetch(&balancer, &long)), "14");
    let seen = [a.requests(), b.requests()].concat();
    assert!(seen.len() == 1 && seen[0].body == long);
}

#[test]
fn call_still_being_sent_continues_elsewhere() {
    let (busy, good) =
        (Http2Destination::start_early(|_| trailers_only("14")), Http2Destination::start_streaming());
    let balancer = in_front_of(&[&busy, &good]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..2 {
        let mut stream = client.start_request(grpc_call(), false).expect("room");
        client.run(send_all(&mut stream.body, vec![1; 10].into(), false)).expect("room");
        client.drive_for(ms(20));
        client.run(async {
            let mut response =
                (&mut stream.response).await.expect("a response of the other destination").into_body();
            send_all(&mut stream.body, vec![2; 10].into(), true).await.expect("room");
            let mut got = Vec::new();
            while let Some(data) = std::future::poll_fn(|cx| response.poll_data(cx)).await {
                got.extend_from_slice(&data.expect("no error"));
            }
            assert_eq!(got, [[1; 10], [2; 10]].concat());
        });
    }
    assert_eq!(busy.requests().len(), 1);
}

#[test]
fn http_1_destinations_are_retried_as_well() {
    let busy = Destination::start(respond_with(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n",
    ));
    let good = Destination::start(respond_with(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\ngrpc-status: 0\r\n\r\n",
    ));
    let balancer = Setup::http(&[&busy, &good])
        .with(|s| s.pools[0].retry.when.grpc_statuses = vec![UNAVAILABLE])
        .start();
    for _ in 0..4 {
        let response = fetch(&balancer, b"hello");
        assert_eq!((grpc_status(&response), response.text().as_str()), ("0", "y"));
    }
    assert_eq!((busy.requests().len(), good.requests().len()), (2, 4));
    let seen = [busy.requests(), good.requests()].concat();
    assert!(seen.iter().all(|request| request.body == b"hello"), "{seen:?}");
}
