//! Calls of gRPC that a destination did not take up, made again at another.

use http::Request;
use plimsoll_config::model::PoolProtocol;

use crate::kit::http2::{Http2Answer, Http2Client, Http2Destination, Played, send_all};
use crate::kit::{Balancer, Destination, Setup, answers, ms, noise, post};

const UNAVAILABLE: u8 = 14;

/// The end of a call without a beginning.
fn ends(status: &str) -> Played {
    Played::answer(200).header("content-type", "application/grpc").header("grpc-status", status)
}

fn echo() -> Http2Destination {
    Http2Destination::start(|request| {
        let answer = Played::answer(200).header("content-type", "application/grpc");
        answer.body(request.body.clone()).trailer("grpc-status", "0")
    })
}

fn before(destinations: &[&Http2Destination]) -> Setup {
    Setup::http(&[]).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = destinations.iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
        s.pools[0].retry.when.grpc_statuses = vec![UNAVAILABLE];
    })
}

fn call() -> Request<()> {
    let request = Request::post("http://test/s/m").header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).expect("a request")
}

fn ask(balancer: &Balancer, body: &[u8]) -> Http2Answer {
    Http2Client::connect(balancer).ask(call(), body).expect("an answer")
}

/// The status, wherever it stands.
fn status(answer: &Http2Answer) -> &str {
    let place = answer.trailers.get("grpc-status").or(answer.head.headers().get("grpc-status"));
    place.expect("a status").to_str().expect("text")
}

#[test]
fn a_call_that_was_not_taken_up_is_made_again_with_all_of_its_body() {
    let (busy, good) = (Http2Destination::start(|_| ends("14")), echo());
    let balancer = before(&[&busy, &good]).start();
    let body = noise(3, 60_000);
    for _ in 0..10 {
        let answer = ask(&balancer, &body);
        assert!(status(&answer) == "0" && answer.body == body);
        assert!(!answer.head.headers().contains_key("grpc-status"));
    }
    let tried = busy.requests();
    assert_eq!((tried.len(), good.requests().len()), (5, 10), "by turns, and each call once at each");
    assert!(tried.iter().all(|seen| seen.body == body));
    assert_eq!(balancer.retries(), 5);
    // Clients of HTTP/1 too: what came along with the head is at hand anyway.
    let request = post("/s/m", "whole").replace("\r\n\r\n", "\r\nContent-Type: application/grpc\r\n\r\n");
    (0..2).for_each(|_| assert_eq!(balancer.ask(&request).text(), "whole"));
    assert_eq!(busy.requests().len(), 6);
}

#[test]
fn the_last_destination_asked_has_the_last_word() {
    let destinations: Vec<_> = (0..4).map(|_| Http2Destination::start(|_| ends("14"))).collect();
    let all: Vec<_> = destinations.iter().collect();
    let asked = || destinations.iter().map(|d| d.requests().len()).sum::<usize>();
    assert_eq!(status(&ask(&before(&all).start(), b"x")), "14");
    assert_eq!(asked(), 3, "as many as there are attempts");
    assert_eq!(status(&ask(&before(&all[..1]).start(), b"x")), "14");
    assert_eq!(asked(), 4, "nobody is left");
}

#[test]
fn what_was_answered_or_is_not_listed_is_not_made_again() {
    let rows: [fn() -> Played; 4] = [
        || ends("13"),
        || Played::answer(200).header("content-type", "application/grpc").trailer("grpc-status", "14"),
        || ends("14").body(b"\0\0\0\0\x01x".to_vec()),
        || Played::answer(503).header("grpc-status", "14"),
    ];
    for (row, played) in rows.into_iter().enumerate() {
        let bad = || Http2Destination::start(move |_| played());
        let (a, b) = (bad(), bad());
        let balancer = before(&[&a, &b]).start();
        ask(&balancer, b"x");
        assert_eq!((a.requests().len() + b.requests().len(), balancer.retries()), (1, 0), "row {row}");
    }
    let (a, b) = (Http2Destination::start(|_| ends("14")), Http2Destination::start(|_| ends("14")));
    let balancer = before(&[&a, &b]).with(|s| s.pools[0].retry.when.grpc_statuses.clear()).start();
    assert_eq!(status(&ask(&balancer, b"x")), "14");
    // A request that is no call says nothing with such a line.
    let balancer = before(&[&a, &b]).start();
    let plain = Request::post("http://test/").body(()).expect("a request");
    Http2Client::connect(&balancer).ask(plain, b"x").expect("an answer");
    assert_eq!(a.requests().len() + b.requests().len(), 2);
}

#[test]
fn a_body_that_is_gone_is_not_sent_again() {
    let bad = || Http2Destination::start(|_| ends("14"));
    let (a, b) = (bad(), bad());
    let balancer = before(&[&a, &b]).start();
    let long = noise(5, 200_000);
    assert_eq!(status(&ask(&balancer, &long)), "14");
    let seen = [a.requests(), b.requests()].concat();
    assert!(seen.len() == 1 && seen[0].body == long);
}

#[test]
fn a_call_still_being_sent_goes_on_elsewhere() {
    let (busy, good) = (Http2Destination::start_early(|_| ends("14")), Http2Destination::start_streaming());
    let balancer = before(&[&busy, &good]).start();
    let mut client = Http2Client::connect(&balancer);
    for _ in 0..2 {
        let mut stream = client.begin(call(), false).expect("room");
        client.run(send_all(&mut stream.body, vec![1; 10].into(), false)).expect("room");
        client.idle(ms(20));
        client.run(async {
            let mut answer = (&mut stream.answer).await.expect("the other one answers").into_body();
            send_all(&mut stream.body, vec![2; 10].into(), true).await.expect("room");
            let mut got = Vec::new();
            while let Some(data) = std::future::poll_fn(|cx| answer.poll_data(cx)).await {
                got.extend_from_slice(&data.expect("no error"));
            }
            assert_eq!(got, [[1; 10], [2; 10]].concat());
        });
    }
    assert_eq!(busy.requests().len(), 1);
}

#[test]
fn destinations_of_http_1_are_left_in_the_same_way() {
    let busy = Destination::start(answers(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n",
    ));
    let good = Destination::start(answers(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\ngrpc-status: 0\r\n\r\n",
    ));
    let balancer = Setup::http(&[&busy, &good])
        .with(|s| s.pools[0].retry.when.grpc_statuses = vec![UNAVAILABLE])
        .start();
    for _ in 0..4 {
        let answer = ask(&balancer, b"hello");
        assert_eq!((status(&answer), answer.text().as_str()), ("0", "y"));
    }
    assert_eq!((busy.requests().len(), good.requests().len()), (2, 4));
    let seen = [busy.requests(), good.requests()].concat();
    assert!(seen.iter().all(|request| request.body == b"hello"), "{seen:?}");
}
