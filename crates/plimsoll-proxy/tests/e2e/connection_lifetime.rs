//! Connection lifetime: the maximum number of requests and the maximum age end connections without loss.

use crate::kit::http2::{Http2Client, get as get2};
use crate::kit::{Balancer, Destination, Gate, Setup, get, ms, ok, respond_ok, wait_until};

fn start_limited(destination: &Destination, requests: usize) -> Balancer {
    Setup::http(&[destination]).with(|s| s.listeners[0].limits.requests = requests).start()
}

fn start_aging(destination: &Destination) -> Balancer {
    Setup::http(&[destination]).with(|s| s.listeners[0].timeouts.connection = Some(ms(1_000))).start()
}

/// Starts a destination that responds to `/slow` once the gate is open, and to others at once.
fn start_slow(gate: &Gate) -> Destination {
    let gate = gate.clone();
    Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.target == "/slow" {
                gate.wait();
            }
            conn.send(ok("done"));
        }
    })
}

#[test]
fn last_response_of_a_connection_has_connection_close() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_limited(&destination, 3);
    for _ in 0..2 {
        let mut client = balancer.connect();
        for n in 1..=3 {
            client.send(get("/"));
            assert_eq!(client.read_response().closes(), n == 3, "request {n}");
        }
        client.expect_closed();
    }
    assert_eq!(destination.connections(), 1, "the destination's connection is kept");
    let absent = Destination::absent(respond_ok("never"));
    let balancer = start_limited(&absent, 2);
    let mut client = balancer.connect();
    for closes in [false, true] {
        client.send(get("/"));
        let response = client.read_response();
        assert_eq!((response.status, response.closes()), (503, closes));
    }
    client.expect_closed();
}

#[test]
fn pipeline_ends_at_the_request_limit() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_limited(&destination, 2);
    let mut client = balancer.connect();
    client.send(get("/").repeat(5));
    assert!(!client.read_response().closes());
    assert!(client.read_response().closes());
    client.expect_closed();
    assert_eq!(destination.requests().len(), 2);
}

#[test]
fn connection_at_maximum_age_closes_after_its_next_response() {
    let gate = Gate::default();
    let destination = start_slow(&gate);
    let balancer = start_aging(&destination);
    let (mut idle, mut busy) = (balancer.connect(), balancer.connect());
    busy.send(get("/"));
    assert!(!busy.read_response().closes());
    busy.send(get("/slow"));
    idle.send(get("/"));
    assert!(!idle.read_response().closes());
    idle.expect_no_data(ms(1_050));
    idle.send(get("/"));
    let response = idle.read_response();
    assert!(response.status == 200 && response.closes(), "{response:?}");
    idle.expect_closed();
    gate.open();
    assert!(!busy.read_response().closes(), "the request started before the maximum age");
    busy.send(get("/"));
    assert!(busy.read_response().closes());
    busy.expect_closed();
}

#[test]
fn http_2_connection_sends_goaway_at_the_request_limit() {
    let gate = Gate::default();
    let destination = start_slow(&gate);
    let balancer = start_limited(&destination, 3);
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.get("/").status(), 200);
    let running = client.start_request(get2("/slow"), true).expect("room");
    wait_until("the client has received GOAWAY", || {
        client.drive_for(ms(20));
        client.start_request(get2("/"), true).is_err()
    });
    gate.open();
    assert_eq!(client.read_response(running).expect("a response").text(), "done");
    wait_until("it has ended", || {
        client.drive_for(ms(10));
        balancer.active() == 0
    });
    assert_eq!(Http2Client::connect(&balancer).get("/").status(), 200);
}

#[test]
fn requests_sent_before_the_goaway_arrived_are_served() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_limited(&destination, 1);
    for _ in 0..20 {
        let mut client = Http2Client::connect(&balancer);
        for stream in client.send_burst("/", 30) {
            assert_eq!(client.read_response(stream).expect("a response").text(), "ok");
        }
    }
    assert_eq!(destination.requests().len(), 600);
}

#[test]
fn http_2_connection_at_maximum_age_sends_goaway_and_finishes_its_streams() {
    let gate = Gate::default();
    let destination = start_slow(&gate);
    let balancer = start_aging(&destination);
    let mut idle = Http2Client::connect(&balancer);
    let mut busy = Http2Client::connect(&balancer);
    assert_eq!(idle.get("/").status(), 200);
    let running = busy.start_request(get2("/slow"), true).expect("room");
    wait_until("both clients have received GOAWAY", || {
        idle.drive_for(ms(20));
        busy.drive_for(ms(20));
        idle.start_request(get2("/"), true).is_err() && busy.start_request(get2("/"), true).is_err()
    });
    gate.open();
    assert_eq!(busy.read_response(running).expect("a response").text(), "done");
    wait_until("they have ended", || {
        idle.drive_for(ms(10));
        busy.drive_for(ms(10));
        balancer.active() == 0
    });
}

#[test]
fn max_concurrent_streams_is_configurable() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].limits.streams = 2).start();
    let mut client = Http2Client::connect(&balancer);
    wait_until("SETTINGS has arrived", || {
        client.drive_for(ms(5));
        client.max_concurrent_streams() == 2
    });
    assert_eq!(client.get("/").status(), 200);
}
