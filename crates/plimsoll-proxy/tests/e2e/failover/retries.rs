//! What is tried again, where, how often, and what never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{closes, resets};
use crate::kit::{Balancer, Destination, Setup, Visit, Watch, get, hello, ok, post, until};

/// Requests that reached any of these, whole or not.
fn reached(destinations: &[&Destination]) -> usize {
    let begun = |d: &&Destination| {
        d.seen().iter().map(|s| s.requests.len() + usize::from(!s.rest.is_empty())).sum::<usize>()
    };
    destinations.iter().map(begun).sum()
}

#[test]
fn what_cannot_connect_goes_elsewhere_without_an_error() {
    let (dead, live) = (Destination::absent(hello("dead")), Destination::start(hello("live")));
    let balancer = Setup::http(&[&dead, &live]).start();
    let mut client = balancer.connect();
    for n in 0..200 {
        // POST too: nothing of it left.
        client.send(if n % 2 == 0 { get("/") } else { post("/", "body") });
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "live"));
    }
    assert_eq!(live.requests().len(), 200);
    assert!(balancer.retries() >= 100, "at least each second request is for the dead one first");
    assert_eq!(balancer.destination(0).counts.failed(), balancer.retries());
}

#[test]
fn an_idempotent_request_that_broke_goes_elsewhere() {
    for breaks in [resets as fn(&mut Visit), closes] {
        let (bad, good) = (Destination::start(breaks), Destination::start(hello("good")));
        let balancer = Setup::http(&[&bad, &good]).start();
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            for _ in 0..2 {
                let answer =
                    balancer.ask(format!("{method} / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody"));
                assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{method}");
            }
        }
        let bodies = good.requests().into_iter().filter(|r| r.body == b"body").count();
        assert!(bodies == 8 && bad.requests().len() >= 4);
    }
}

#[test]
fn a_post_is_never_repeated_once_a_byte_of_it_left() {
    let garbage: fn(&mut Visit) = |visit| {
        visit.request();
        visit.send("garbage\r\n\r\n");
    };
    for (breaks, reason) in [
        (resets as fn(&mut Visit), "reset"),
        (closes, "empty_response"),
        (breaks_at_the_head, "reset"),
        (garbage, "bad_response"),
    ] {
        let destinations =
            [Destination::start(breaks), Destination::start(breaks), Destination::start(breaks)];
        let [a, b, c] = &destinations;
        let balancer = Setup::http(&[a, b, c]).start();
        for (n, method) in ["POST", "PATCH", "BREW"].into_iter().enumerate() {
            let answer =
                balancer.ask(format!("{method} / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody"));
            assert_eq!(answer.status, 502, "{method}");
            assert_eq!(reached(&[a, b, c]), n + 1, "{method} reached more than one destination");
        }
        // Where a reset meets the end of data the one or the other is seen first.
        assert!(
            balancer.refused(reason) > 0 || reason == "reset" && balancer.refused("empty_response") > 0,
            "{reason}"
        );
        assert_eq!(balancer.retries(), 0);
    }
}

/// Breaks as soon as a head is there.
fn breaks_at_the_head(visit: &mut Visit) {
    visit.head();
    visit.reset();
}

#[test]
fn a_body_that_is_gone_is_not_repeated_and_one_still_at_hand_is() {
    for gone in [true, false] {
        let bad = Destination::start(move |visit| {
            visit.head();
            while gone && visit.buffer.len() < 8 && visit.read() {}
            visit.reset();
        });
        let good = Destination::start(hello("good"));
        let balancer = Setup::http(&[&bad, &good]).start();
        let mut client = balancer.connect();
        client.send("PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 12\r\n\r\nfour");
        if gone {
            until("the head is there", || bad.connections() == 1);
            // Read in a second piece, these bytes are passed on and forgotten.
            client.send("more");
            let answer = client.answer();
            assert_eq!((answer.status, answer.closes(), good.connections()), (502, true, 0));
        } else {
            until("it is tried elsewhere", || good.connections() == 1);
            client.send("morelast");
            assert_eq!(client.answer().text(), "good");
            assert_eq!(good.only_request().body, b"fourmorelast");
        }
    }
}

#[test]
fn the_switches_turn_repeating_off() {
    let off = |change: fn(&mut Setup)| {
        let (dead, live) = (Destination::absent(hello("dead")), Destination::start(hello("live")));
        let balancer = Setup::http(&[&dead, &live]).with(change).start();
        let statuses = [balancer.ask(get("/")).status, balancer.ask(get("/")).status];
        assert_eq!(balancer.retries(), 0);
        statuses
    };
    assert_eq!(off(|s| s.pools[0].retry.failover = false), [503, 200]);
    assert_eq!(off(|s| s.pools[0].retry.error_recovery = false), [503, 200]);
    assert_eq!(off(|s| s.pools[0].retry.attempts = 1), [503, 200]);
    assert_eq!(off(|s| s.pools[0].retry.when.connect_failure = false), [503, 200]);
}

#[test]
fn no_more_tries_than_attempts() {
    let destinations: [_; 6] = std::array::from_fn(|_| Destination::start(resets));
    let all: Vec<&Destination> = destinations.iter().collect();
    let balancer = Setup::http(&all).start();
    assert_eq!(balancer.ask(get("/")).status, 502);
    assert_eq!(reached(&all), 3);
    let balancer = Setup::http(&all[..2]).start();
    assert_eq!(balancer.ask(get("/")).status, 502);
    assert_eq!(reached(&all), 5, "no destination twice");
}

/// Answers the first request of each connection and closes it at the second, without a word.
fn closes_at_reuse(visit: &mut Visit) {
    if visit.request().is_some() {
        visit.send(ok("fresh"));
        visit.request();
    }
}

fn stale(script: impl Fn(&mut Visit) + Send + Sync + 'static) -> (Destination, Balancer) {
    let destination = Destination::start(script);
    let balancer = Setup::http(&[&destination]).start();
    assert_eq!(balancer.ask(get("/warm")).status, 200);
    (destination, balancer)
}

#[test]
fn a_connection_gone_stale_is_replaced_behind_the_clients_back() {
    let (destination, balancer) = stale(closes_at_reuse);
    for _ in 0..20 {
        assert_eq!(balancer.ask(get("/")).text(), "fresh");
    }
    let counts = balancer.destination(0).counts;
    assert_eq!(
        (counts.failed(), counts.answered()),
        (0, 21),
        "a stale connection says nothing of the destination"
    );
    assert_eq!(destination.connections(), 21);
}

#[test]
fn a_post_on_a_connection_gone_stale_is_not_repeated_either() {
    let (destination, balancer) = stale(closes_at_reuse);
    let answer = balancer.ask(post("/", "once"));
    assert_eq!(answer.status, 502);
    let posts = destination.requests().into_iter().filter(|r| r.method == "POST").count();
    assert_eq!(posts, 1);
}

#[test]
fn a_connection_closed_while_idle_is_noticed_even_for_a_post() {
    let destination = Destination::start(|visit| {
        if visit.request().is_some() {
            visit.send(ok("fresh"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    for n in 0..20 {
        assert_eq!(balancer.ask(post("/", "x")).text(), "fresh");
        until("it is closed", || destination.open() == 0);
        assert_eq!(destination.connections(), n + 1);
    }
    assert_eq!(balancer.retries(), 0);
}

#[test]
fn a_destination_that_closes_after_each_answer_costs_no_get() {
    let destination = Destination::start(|visit| {
        if visit.request().is_some() {
            visit.send(ok("once"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for n in 0..2000 {
        client.send(get("/"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "once"), "request {n}: {answer:?}");
    }
}

#[test]
fn retries_stay_within_their_budget_when_everything_fails() {
    let destinations: [_; 3] = std::array::from_fn(|_| Destination::start(resets));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b, c]).start();
    let (failed, watch) = (Arc::new(AtomicUsize::new(0)), Watch::start());
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let (failed, mut client) = (failed.clone(), balancer.connect());
            std::thread::spawn(move || {
                for _ in 0..500 {
                    client.send(get("/"));
                    failed.fetch_add(usize::from(client.answer().status == 502), SeqCst);
                }
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().expect("answered"));
    let asked = 2000;
    assert_eq!(failed.load(SeqCst), asked);
    // A fifth of the requests, a hundred at hand at the start, and ten a second.
    let most = asked + asked / 5 + 100 + 10 * (watch.elapsed().as_secs() as usize + 1);
    let reached = reached(&[a, b, c]);
    assert!((asked + 300..=most).contains(&reached), "{reached} tries for {asked} requests, at most {most}");
}

#[test]
fn a_timeout_is_tried_again_where_that_is_listed() {
    let (slow, good) = (Destination::start(Visit::read_to_end), Destination::start(hello("good")));
    let balancer = Setup::http(&[&slow, &good])
        .with(|s| {
            s.pools[0].retry.when.timeout = true;
            s.pools[0].timeouts.response = crate::kit::ms(150);
        })
        .start();
    assert_eq!(balancer.ask(get("/")).text(), "good");
    assert_eq!((slow.requests().len(), balancer.retries()), (1, 1));
}

#[test]
fn a_listed_status_is_tried_elsewhere_and_the_last_one_is_passed_on() {
    let busy = || {
        Destination::start(|visit| {
            while visit.request().is_some() {
                visit.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
            }
        })
    };
    let (one, other, good) = (busy(), busy(), Destination::start(hello("good")));
    let listed = |s: &mut Setup| s.pools[0].retry.when.statuses = vec![500, 503];
    let balancer = Setup::http(&[&one, &other, &good]).with(listed).start();
    for _ in 0..10 {
        let answer = balancer.ask(get("/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
    }
    assert!(balancer.retries() >= 10);
    let posts: Vec<u16> = (0..9).map(|_| balancer.ask(post("/", "x")).status).collect();
    assert!(posts.contains(&503) && posts.contains(&200), "what may not be done twice is not: {posts:?}");
    let posted = |d: &Destination| d.requests().iter().filter(|r| r.method == "POST").count();
    assert_eq!(posted(&one) + posted(&other) + posted(&good), 9);
    let hopeless = Setup::http(&[&one, &other]).with(listed).start();
    let mut client = hopeless.connect();
    for _ in 0..5 {
        client.send(get("/"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str(), answer.closes()), (503, "busy", false));
    }
}
