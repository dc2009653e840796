//! Messages that wait long for their answer, and are sent to a second destination as well.

use std::time::Duration;

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::retry::{HedgeAfter, HedgeSpec};
use plimsoll_proxy::HEDGES;

use crate::kit::http2::{Http2Destination, Played};
use crate::kit::{Balancer, Destination, Gate, Setup, get, hello, ms, ok, post, secs, until};

fn hedging(destinations: &[&Destination], after: HedgeAfter) -> Setup {
    Setup::http(destinations).with(|s| s.pools[0].hedge = Some(HedgeSpec { after, max: 1 }))
}

const SOON: HedgeAfter = HedgeAfter::Fixed(Duration::from_millis(10));
const NEVER: HedgeAfter = HedgeAfter::Fixed(Duration::from_secs(3600));

/// A destination that answers with its name once its gate is open, and notes when the client leaves before.
fn held(name: &'static str) -> (Destination, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let destination = Destination::start(move |visit| {
        while visit.request().is_some() {
            held.pass();
            if !visit.send(ok(name)) {
                break;
            }
        }
    });
    (destination, gate)
}

fn hedges(balancer: &Balancer, how: &str) -> u64 {
    let place = HEDGES.iter().position(|word| *word == how).expect("a word");
    balancer.pools()[0].counts.hedges[place]
}

fn nobody_is_busy(balancer: &Balancer) {
    until("nothing is in flight", || balancer.pools()[0].destinations.iter().all(|d| d.in_flight == 0));
}

#[test]
fn who_answers_first_answers() {
    let (slow, gate) = held("slow");
    let quick = Destination::start(hello("quick"));
    let balancer = hedging(&[&slow, &quick], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/a"));
    assert_eq!(client.answer().text(), "quick", "while the other one is still silent");
    assert!(!gate.is_open());
    until("the copy is counted", || hedges(&balancer, "won") == 1);
    assert_eq!(hedges(&balancer, "lost"), 0);
    // The next turn of the rotation is the slow one's again: whoever waits there waits alone for a while only.
    for _ in 0..3 {
        client.send(get("/b"));
        assert_eq!(client.answer().text(), "quick");
    }
    gate.open();
    nobody_is_busy(&balancer);
    let [slow, quick] = [0, 1].map(|n| balancer.destination(n));
    assert_eq!((slow.streak, slow.counts.failed(), quick.streak), (0, 0, 0), "being slower is no failure");
}

#[test]
fn the_first_one_may_still_be_the_one() {
    let (first, gate) = held("first");
    let (second, second_gate) = held("second");
    let balancer = hedging(&[&first, &second], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("both were asked", || first.received() > 0 && second.received() > 0);
    gate.open();
    assert_eq!(client.answer().text(), "first");
    until("the copy is counted", || hedges(&balancer, "lost") == 1);
    assert_eq!(hedges(&balancer, "won"), 0);
    second_gate.open();
    nobody_is_busy(&balancer);
    // What was left is closed: its late answer goes to nobody.
    client.send(get("/next"));
    let text = client.answer().text();
    assert!(text == "first" || text == "second");
    client.expect_silence(ms(30));
}

#[test]
fn what_may_not_be_done_twice_is_not_sent_twice() {
    let (first, gate) = held("first");
    let (second, second_gate) = held("second");
    second_gate.open();
    let balancer = hedging(&[&first, &second], SOON).start();
    let mut client = balancer.connect();
    client.send(post("/", "x"));
    until("the first was asked", || first.received() > 0);
    client.expect_silence(ms(60));
    gate.open();
    assert_eq!(client.answer().text(), "first");
    assert_eq!(second.received(), 0);
    // A body that is still with the client cannot be sent twice either.
    let (third, third_gate) = held("third");
    let other = Destination::start(hello("other"));
    let balancer = hedging(&[&third, &other], SOON).start();
    let mut client = balancer.connect();
    client.send("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na");
    until("the third was asked", || third.received() > 0);
    client.expect_silence(ms(60));
    client.send("b");
    third_gate.open();
    assert_eq!(client.answer().text(), "third");
    assert_eq!(other.received(), 0);
}

#[test]
fn there_is_no_copy_of_what_is_answered_in_time() {
    let destinations = ["a", "b"].map(|name| Destination::start(hello(name)));
    let balancer = hedging(&destinations.each_ref(), NEVER).start();
    let mut client = balancer.connect();
    for _ in 0..20 {
        client.send(get("/"));
        client.answer();
    }
    let requests: usize = destinations.iter().map(|d| d.requests().len()).sum();
    assert_eq!((requests, balancer.pools()[0].counts.hedges), (20, [0; HEDGES.len()]));
}

#[test]
fn with_nobody_else_to_ask_the_message_waits_on() {
    let (only, gate) = held("only");
    let balancer = hedging(&[&only], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("a copy was due", || hedges(&balancer, "no_destination") == 1);
    gate.open();
    assert_eq!(client.answer().text(), "only");
}

#[test]
fn a_copy_that_cannot_be_sent_harms_nobody() {
    let (first, gate) = held("first");
    let absent = Destination::absent(hello("absent"));
    let balancer = hedging(&[&first, &absent], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("the copy failed", || hedges(&balancer, "failed") == 1);
    gate.open();
    assert_eq!(client.answer().text(), "first");
    assert_eq!(balancer.destination(1).streak, 1, "that it is not there counts against it");
}

#[test]
fn while_one_may_still_answer_nobody_is_told_of_a_failure() {
    let gate = Gate::default();
    let held_back = gate.clone();
    let breaks = Destination::start(move |visit| {
        visit.request();
        held_back.pass();
        visit.reset();
    });
    let (second, second_gate) = held("second");
    let balancer = hedging(&[&breaks, &second], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("both were asked", || second.received() > 0);
    gate.open();
    until("the first has failed", || balancer.destination(0).streak == 1);
    second_gate.open();
    assert_eq!(client.answer().text(), "second");
    assert_eq!(balancer.retries(), 0, "the copy was the repeat");
}

#[test]
fn a_server_error_does_not_win_while_another_may_still_answer() {
    let gate = Gate::default();
    let held_back = gate.clone();
    let fails = Destination::start(move |visit| {
        while visit.request().is_some() {
            held_back.pass();
            visit.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let (second, second_gate) = held("second");
    let balancer = hedging(&[&fails, &second], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("both were asked", || second.received() > 0);
    gate.open();
    until("the first has failed", || balancer.destination(0).streak == 1);
    second_gate.open();
    assert_eq!(client.answer().text(), "second");
    assert_eq!(balancer.retries(), 0, "the copy was the repeat");
}

#[test]
fn with_nobody_else_asked_a_server_error_is_the_answer() {
    let fails = Destination::start(|visit| {
        while visit.request().is_some() {
            visit.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let balancer = hedging(&[&fails, &Destination::start(hello("other"))], NEVER).start();
    assert_eq!(balancer.ask(get("/")).text(), "busy");
}

#[test]
fn when_both_fail_a_third_is_tried() {
    let gate = Gate::default();
    let breaks = || {
        let gate = gate.clone();
        Destination::start(move |visit| {
            visit.request();
            gate.pass();
            visit.reset();
        })
    };
    let (a, b, third) = (breaks(), breaks(), Destination::start(hello("third")));
    let balancer = hedging(&[&a, &b, &third], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("both were asked", || a.received() > 0 && b.received() > 0);
    gate.open();
    assert_eq!(client.answer().text(), "third");
    until("the copy is counted", || hedges(&balancer, "failed") == 1);
    assert_eq!([0, 1, 2].map(|n| balancer.destination(n).streak), [1, 1, 0]);
}

#[test]
fn two_who_never_answer_are_both_late() {
    let ((a, a_gate), (b, b_gate)) = (held("a"), held("b"));
    let setup = hedging(&[&a, &b], SOON).with(|s| s.pools[0].timeouts.response = ms(150));
    let balancer = setup.start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.answer().status, 504);
    let failed = [0, 1].map(|n| balancer.destination(n).counts.failed());
    assert_eq!(failed, [1, 1]);
    nobody_is_busy(&balancer);
    a_gate.open();
    b_gate.open();
}

#[test]
fn a_client_that_leaves_takes_both_along() {
    let ((a, a_gate), (b, b_gate)) = (held("a"), held("b"));
    let balancer = hedging(&[&a, &b], SOON).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("both were asked", || a.received() > 0 && b.received() > 0);
    client.abort();
    nobody_is_busy(&balancer);
    until("the copy is counted", || hedges(&balancer, "lost") == 1);
    a_gate.open();
    b_gate.open();
}

#[test]
fn what_is_usual_is_learned_from_the_answers() {
    let (slow, gate) = held("slow");
    gate.open();
    let quick = Destination::start(hello("quick"));
    let balancer = hedging(&[&slow, &quick], HedgeAfter::Quantile(0.95)).start();
    let mut client = balancer.connect();
    let ask = |client: &mut crate::kit::Client| {
        client.send(get("/"));
        client.answer();
    };
    (0..99).for_each(|_| ask(&mut client));
    assert_eq!(hedges(&balancer, "won"), 0, "a hundred answers make the first quantile");
    (0..101).for_each(|_| ask(&mut client));
    // From here on some are sent twice by chance; a destination that stalls is always left.
    let stalls = Destination::start(|visit| {
        visit.request();
        visit.read_to_end();
    });
    let setup = hedging(&[&stalls, &quick], HedgeAfter::Quantile(0.95));
    assert!(balancer.reload(&setup).is_ok());
    let won = hedges(&balancer, "won");
    for _ in 0..4 {
        client.send(get("/"));
        assert_eq!(client.answer().text(), "quick");
    }
    until("the copies are counted", || hedges(&balancer, "won") >= won + 2);
}

#[test]
fn copies_are_paid_for() {
    let stalls = Destination::start(|visit| {
        visit.request();
        visit.read_to_end();
    });
    let quick = Destination::start(hello("quick"));
    let setup = hedging(&[&stalls, &quick], HedgeAfter::Fixed(ms(1))).with(|s| {
        s.pools[0].retry.budget = 0.0;
        s.pools[0].timeouts.response = secs(1);
    });
    let balancer = setup.start();
    // The reserve is a hundred, and ten a second more.
    let mut client = balancer.connect();
    let mut asked = 0;
    while hedges(&balancer, "no_budget") == 0 {
        client.send(get("/"));
        client.answer();
        asked += 1;
        assert!(asked < 2000, "the budget never ends");
    }
    let sent = hedges(&balancer, "won") + hedges(&balancer, "lost");
    assert!((90..400).contains(&sent), "{sent}");
}

#[test]
fn streams_are_hedged_too_and_their_connection_stays() {
    let gate = Gate::default();
    let held_back = gate.clone();
    let slow = Http2Destination::start(move |_| match held_back.is_open() {
        true => Played::answer(200).body(b"slow".to_vec()),
        false => Played::answer(200).body(b"late".to_vec()).after(secs(3600)),
    });
    let quick = Http2Destination::start(|_| Played::answer(200).body(b"quick".to_vec()));
    let setup = hedging(&[], SOON).with(|s| {
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = [&slow, &quick].iter().enumerate().map(|(n, d)| d.as_member(n)).collect();
    });
    let balancer = setup.start();
    let mut client = balancer.connect();
    for _ in 0..4 {
        client.send(get("/"));
        assert_eq!(client.answer().text(), "quick");
    }
    until("the copies are counted", || hedges(&balancer, "won") >= 2);
    gate.open();
    until("the slow one serves again", || balancer.ask(get("/")).text() == "slow");
    assert_eq!(slow.connections(), 1, "a stream was reset, not the connection");
}
