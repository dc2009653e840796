//! Connections that have served enough end, politely and without a loss.

use crate::kit::http2::{Http2Client, get as get2};
use crate::kit::{Balancer, Destination, Gate, Setup, get, hello, ms, ok, until};

fn limited(destination: &Destination, requests: usize) -> Balancer {
    Setup::http(&[destination]).with(|s| s.listeners[0].limits.requests = requests).start()
}

fn aged(destination: &Destination) -> Balancer {
    Setup::http(&[destination]).with(|s| s.listeners[0].timeouts.connection = Some(ms(1_000))).start()
}

/// Answers `/slow` once the gate is open, and everything else at once.
fn slow(gate: &Gate) -> Destination {
    let gate = gate.clone();
    Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            if request.target == "/slow" {
                gate.pass();
            }
            visit.send(ok("done"));
        }
    })
}

#[test]
fn the_last_answer_of_a_connection_says_so() {
    let destination = Destination::start(hello("ok"));
    let balancer = limited(&destination, 3);
    for _ in 0..2 {
        let mut client = balancer.connect();
        for n in 1..=3 {
            client.send(get("/"));
            assert_eq!(client.answer().closes(), n == 3, "request {n}");
        }
        client.expect_end();
    }
    assert_eq!(destination.connections(), 1, "to the destination it goes on");
    let absent = Destination::absent(hello("never"));
    let balancer = limited(&absent, 2);
    let mut client = balancer.connect();
    for closes in [false, true] {
        client.send(get("/"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (503, closes));
    }
    client.expect_end();
}

#[test]
fn a_pipeline_is_cut_between_two_requests() {
    let destination = Destination::start(hello("ok"));
    let balancer = limited(&destination, 2);
    let mut client = balancer.connect();
    client.send(get("/").repeat(5));
    assert!(!client.answer().closes());
    assert!(client.answer().closes());
    client.expect_end();
    assert_eq!(destination.requests().len(), 2);
}

#[test]
fn an_old_connection_ends_with_its_next_answer() {
    let gate = Gate::default();
    let destination = slow(&gate);
    let balancer = aged(&destination);
    let (mut resting, mut busy) = (balancer.connect(), balancer.connect());
    busy.send(get("/"));
    assert!(!busy.answer().closes());
    busy.send(get("/slow"));
    resting.send(get("/"));
    assert!(!resting.answer().closes());
    resting.expect_silence(ms(1_050));
    resting.send(get("/"));
    let answer = resting.answer();
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    resting.expect_end();
    gate.open();
    assert!(!busy.answer().closes(), "it was young when it asked");
    busy.send(get("/"));
    assert!(busy.answer().closes());
    busy.expect_end();
}

#[test]
fn a_connection_of_http_2_says_goodbye_after_its_last_request() {
    let gate = Gate::default();
    let destination = slow(&gate);
    let balancer = limited(&destination, 3);
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.get("/").status(), 200);
    let running = client.begin(get2("/slow"), true).expect("room");
    until("the client was told", || {
        client.idle(ms(20));
        client.begin(get2("/"), true).is_err()
    });
    gate.open();
    assert_eq!(client.finish(running).expect("an answer").text(), "done");
    until("it has ended", || {
        client.idle(ms(10));
        balancer.active() == 0
    });
    assert_eq!(Http2Client::connect(&balancer).get("/").status(), 200);
}

#[test]
fn what_was_sent_before_the_goodbye_was_heard_is_served() {
    let destination = Destination::start(hello("ok"));
    let balancer = limited(&destination, 1);
    for _ in 0..20 {
        let mut client = Http2Client::connect(&balancer);
        for stream in client.burst("/", 30) {
            assert_eq!(client.finish(stream).expect("an answer").text(), "ok");
        }
    }
    assert_eq!(destination.requests().len(), 600);
}

#[test]
fn an_old_connection_of_http_2_says_goodbye_and_finishes_what_runs() {
    let gate = Gate::default();
    let destination = slow(&gate);
    let balancer = aged(&destination);
    let mut resting = Http2Client::connect(&balancer);
    let mut busy = Http2Client::connect(&balancer);
    assert_eq!(resting.get("/").status(), 200);
    let running = busy.begin(get2("/slow"), true).expect("room");
    until("both were told", || {
        resting.idle(ms(20));
        busy.idle(ms(20));
        resting.begin(get2("/"), true).is_err() && busy.begin(get2("/"), true).is_err()
    });
    gate.open();
    assert_eq!(busy.finish(running).expect("an answer").text(), "done");
    until("they have ended", || {
        resting.idle(ms(10));
        busy.idle(ms(10));
        balancer.active() == 0
    });
}

#[test]
fn streams_at_once_are_as_many_as_configured() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].limits.streams = 2).start();
    let mut client = Http2Client::connect(&balancer);
    until("it was said", || {
        client.idle(ms(5));
        client.streams_at_once() == 2
    });
    assert_eq!(client.get("/").status(), 200);
}
