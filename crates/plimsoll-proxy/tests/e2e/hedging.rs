//! Hedging: a request without a response in time is sent to a second destination as well.

use std::time::Duration;

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::retry::{HedgeAfter, HedgeSpec};
use plimsoll_proxy::HEDGES;

use crate::kit::http2::{Http2Destination, ScriptedResponse};
use crate::kit::{Balancer, Destination, Gate, Setup, get, ms, ok, post, respond_ok, secs, wait_until};

fn hedging(destinations: &[&Destination], after: HedgeAfter) -> Setup {
    Setup::http(destinations).with(|s| s.pools[0].hedge = Some(HedgeSpec { after, max: 1 }))
}

const AFTER_10_MS: HedgeAfter = HedgeAfter::Fixed(Duration::from_millis(10));
const AFTER_AN_HOUR: HedgeAfter = HedgeAfter::Fixed(Duration::from_secs(3600));

/// Starts a destination that responds with its name once its gate is open.
fn start_gated(name: &'static str) -> (Destination, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let destination = Destination::start(move |conn| {
        while conn.request().is_some() {
            held.wait();
            if !conn.send(ok(name)) {
                break;
            }
        }
    });
    (destination, gate)
}

fn hedge_count(balancer: &Balancer, outcome: &str) -> u64 {
    let index = HEDGES.iter().position(|name| *name == outcome).expect("a known outcome");
    balancer.pools()[0].counts.hedges[index]
}

fn wait_until_idle(balancer: &Balancer) {
    wait_until("nothing is in flight", || balancer.pools()[0].destinations.iter().all(|d| d.in_flight == 0));
}

#[test]
fn first_response_is_forwarded() {
    let (slow, gate) = start_gated("slow");
    let quick = Destination::start(respond_ok("quick"));
    let balancer = hedging(&[&slow, &quick], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/a"));
    assert_eq!(client.read_response().text(), "quick", "the slow destination has not responded");
    assert!(!gate.is_open());
    wait_until("the hedge is counted", || hedge_count(&balancer, "won") == 1);
    assert_eq!(hedge_count(&balancer, "lost"), 0);
    // The rotation selects the slow one again: each request waits there for the hedging delay only.
    for _ in 0..3 {
        client.send(get("/b"));
        assert_eq!(client.read_response().text(), "quick");
    }
    gate.open();
    wait_until_idle(&balancer);
    let [slow, quick] = [0, 1].map(|n| balancer.destination(n));
    assert_eq!(
        (slow.streak, slow.counts.failed(), quick.streak),
        (0, 0, 0),
        "a slower response is not a failure"
    );
}

#[test]
fn original_attempt_may_win() {
    let (first, gate) = start_gated("first");
    let (second, second_gate) = start_gated("second");
    let balancer = hedging(&[&first, &second], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("both destinations have received the request", || {
        first.received_bytes() > 0 && second.received_bytes() > 0
    });
    gate.open();
    assert_eq!(client.read_response().text(), "first");
    wait_until("the hedge is counted", || hedge_count(&balancer, "lost") == 1);
    assert_eq!(hedge_count(&balancer, "won"), 0);
    second_gate.open();
    wait_until_idle(&balancer);
    // The other attempt's connection is closed: its late response is dropped.
    client.send(get("/next"));
    let text = client.read_response().text();
    assert!(text == "first" || text == "second");
    client.expect_no_data(ms(30));
}

#[test]
fn unsafe_and_unbuffered_requests_are_not_hedged() {
    let (first, gate) = start_gated("first");
    let (second, second_gate) = start_gated("second");
    second_gate.open();
    let balancer = hedging(&[&first, &second], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(post("/", "x"));
    wait_until("the first destination has received the request", || first.received_bytes() > 0);
    client.expect_no_data(ms(60));
    gate.open();
    assert_eq!(client.read_response().text(), "first");
    assert_eq!(second.received_bytes(), 0);
    // A body that was not received yet cannot be sent twice either.
    let (third, third_gate) = start_gated("third");
    let other = Destination::start(respond_ok("other"));
    let balancer = hedging(&[&third, &other], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na");
    wait_until("the third destination has received the request", || third.received_bytes() > 0);
    client.expect_no_data(ms(60));
    client.send("b");
    third_gate.open();
    assert_eq!(client.read_response().text(), "third");
    assert_eq!(other.received_bytes(), 0);
}

#[test]
fn response_in_time_is_not_hedged() {
    let destinations = ["a", "b"].map(|name| Destination::start(respond_ok(name)));
    let balancer = hedging(&destinations.each_ref(), AFTER_AN_HOUR).start();
    let mut client = balancer.connect();
    for _ in 0..20 {
        client.send(get("/"));
        client.read_response();
    }
    let requests: usize = destinations.iter().map(|d| d.requests().len()).sum();
    assert_eq!((requests, balancer.pools()[0].counts.hedges), (20, [0; HEDGES.len()]));
}

#[test]
fn without_another_destination_the_request_keeps_waiting() {
    let (only, gate) = start_gated("only");
    let balancer = hedging(&[&only], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("the hedging delay is over", || hedge_count(&balancer, "no_destination") == 1);
    gate.open();
    assert_eq!(client.read_response().text(), "only");
}

#[test]
fn failed_hedge_does_not_affect_the_request() {
    let (first, gate) = start_gated("first");
    let absent = Destination::absent(respond_ok("absent"));
    let balancer = hedging(&[&first, &absent], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("the hedge has failed", || hedge_count(&balancer, "failed") == 1);
    gate.open();
    assert_eq!(client.read_response().text(), "first");
    assert_eq!(balancer.destination(1).streak, 1, "a failed connect counts against the destination");
}

#[test]
fn failed_attempt_is_hidden_while_another_may_respond() {
    let gate = Gate::default();
    let held_back = gate.clone();
    let resetting = Destination::start(move |conn| {
        conn.request();
        held_back.wait();
        conn.reset();
    });
    let (second, second_gate) = start_gated("second");
    let balancer = hedging(&[&resetting, &second], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("both destinations have received the request", || second.received_bytes() > 0);
    gate.open();
    wait_until("the first has failed", || balancer.destination(0).counts.failed() == 1);
    second_gate.open();
    assert_eq!(client.read_response().text(), "second");
    assert_eq!(balancer.retries(), 0, "the hedged attempt replaced a retry");
}

#[test]
fn server_error_does_not_win_while_another_attempt_may_respond() {
    let gate = Gate::default();
    let held_back = gate.clone();
    let failing = Destination::start(move |conn| {
        while conn.request().is_some() {
            held_back.wait();
            conn.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let (second, second_gate) = start_gated("second");
    let balancer = hedging(&[&failing, &second], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("both destinations have received the request", || second.received_bytes() > 0);
    gate.open();
    wait_until("the first has failed", || balancer.destination(0).counts.classes[5] == 1);
    second_gate.open();
    assert_eq!(client.read_response().text(), "second");
    assert_eq!(balancer.retries(), 0, "the hedged attempt replaced a retry");
}

#[test]
fn server_error_is_forwarded_without_another_attempt() {
    let failing = Destination::start(|conn| {
        while conn.request().is_some() {
            conn.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let balancer = hedging(&[&failing, &Destination::start(respond_ok("other"))], AFTER_AN_HOUR).start();
    assert_eq!(balancer.fetch(get("/")).text(), "busy");
}

#[test]
fn third_destination_is_tried_if_both_attempts_fail() {
    let gate = Gate::default();
    let resetting = || {
        let gate = gate.clone();
        Destination::start(move |conn| {
            conn.request();
            gate.wait();
            conn.reset();
        })
    };
    let (a, b, third) = (resetting(), resetting(), Destination::start(respond_ok("third")));
    let balancer = hedging(&[&a, &b, &third], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("both destinations have received the request", || {
        a.received_bytes() > 0 && b.received_bytes() > 0
    });
    gate.open();
    assert_eq!(client.read_response().text(), "third");
    wait_until("the hedge is counted", || hedge_count(&balancer, "failed") == 1);
    assert_eq!([0, 1, 2].map(|n| balancer.destination(n).streak), [1, 1, 0]);
}

#[test]
fn timeout_counts_against_both_attempts() {
    let ((a, a_gate), (b, b_gate)) = (start_gated("a"), start_gated("b"));
    let setup = hedging(&[&a, &b], AFTER_10_MS).with(|s| s.pools[0].timeouts.response = ms(150));
    let balancer = setup.start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.read_response().status, 504);
    let failed = [0, 1].map(|n| balancer.destination(n).counts.failed());
    assert_eq!(failed, [1, 1]);
    wait_until_idle(&balancer);
    a_gate.open();
    b_gate.open();
}

#[test]
fn client_disconnect_cancels_both_attempts() {
    let ((a, a_gate), (b, b_gate)) = (start_gated("a"), start_gated("b"));
    let balancer = hedging(&[&a, &b], AFTER_10_MS).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("both destinations have received the request", || {
        a.received_bytes() > 0 && b.received_bytes() > 0
    });
    client.abort();
    wait_until_idle(&balancer);
    wait_until("the hedge is counted", || hedge_count(&balancer, "lost") == 1);
    a_gate.open();
    b_gate.open();
}

#[test]
fn hedging_delay_quantile_is_learned_from_responses() {
    let (slow, gate) = start_gated("slow");
    gate.open();
    let quick = Destination::start(respond_ok("quick"));
    let balancer = hedging(&[&slow, &quick], HedgeAfter::Quantile(0.95)).start();
    let mut client = balancer.connect();
    let fetch = |client: &mut crate::kit::Client| {
        client.send(get("/"));
        client.read_response();
    };
    (0..99).for_each(|_| fetch(&mut client));
    assert_eq!(hedge_count(&balancer, "won"), 0, "100 responses are needed for the first quantile");
    (0..101).for_each(|_| fetch(&mut client));
    // From here on some requests are hedged by chance; those at a stalled destination always are.
    let stalled = Destination::start(|conn| {
        conn.request();
        conn.read_to_end();
    });
    let setup = hedging(&[&stalled, &quick], HedgeAfter::Quantile(0.95));
    assert!(balancer.reload(&setup).is_ok());
    let won = hedge_count(&balancer, "won");
    for _ in 0..4 {
        client.send(get("/"));
        assert_eq!(client.read_response().text(), "quick");
    }
    wait_until("the hedges are counted", || hedge_count(&balancer, "won") >= won + 2);
}

#[test]
fn hedges_are_limited_by_the_retry_budget() {
    let stalled = Destination::start(|conn| {
        conn.request();
        conn.read_to_end();
    });
    let quick = Destination::start(respond_ok("quick"));
    let setup = hedging(&[&stalled, &quick], HedgeAfter::Fixed(ms(1))).with(|s| {
        s.pools[0].retry.budget = 0.0;
        s.pools[0].timeouts.response = secs(1);
    });
    let balancer = setup.start();
    // The reserve is 100, plus ten per second.
    let mut client = balancer.connect();
    let mut requests = 0;
    while hedge_count(&balancer, "no_budget") == 0 {
        client.send(get("/"));
        client.read_response();
        requests += 1;
        assert!(requests < 2000, "the budget never ends");
    }
    let sent = hedge_count(&balancer, "won") + hedge_count(&balancer, "lost");
    assert!((90..400).contains(&sent), "{sent}");
}

#[test]
fn hedged_http_2_streams_keep_their_connection() {
    let gate = Gate::default();
    let held_back = gate.clone();
    let slow = Http2Destination::start(move |_| match held_back.is_open() {
        true => ScriptedResponse::new(200).body(b"slow".to_vec()),
        false => ScriptedResponse::new(200).body(b"late".to_vec()).after(secs(3600)),
    });
    let quick = Http2Destination::start(|_| ScriptedResponse::new(200).body(b"quick".to_vec()));
    let setup = hedging(&[], AFTER_10_MS).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = [&slow, &quick].iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
    });
    let balancer = setup.start();
    let mut client = balancer.connect();
    for _ in 0..4 {
        client.send(get("/"));
        assert_eq!(client.read_response().text(), "quick");
    }
    wait_until("the hedges are counted", || hedge_count(&balancer, "won") >= 2);
    gate.open();
    wait_until("the slow one serves again", || balancer.fetch(get("/")).text() == "slow");
    assert_eq!(slow.connections(), 1, "a stream was reset, not the connection");
}
