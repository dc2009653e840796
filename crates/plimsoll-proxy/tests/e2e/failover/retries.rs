//! Retries: which failures are retried, where, how often, and which never are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::{close_after_request, reset_after_request};
use crate::kit::{
    Balancer, Connection, Destination, Setup, Stopwatch, get, ok, post, respond_ok, wait_until,
};

/// Counts complete and partial requests at these destinations.
fn count_requests(destinations: &[&Destination]) -> usize {
    let begun = |d: &&Destination| {
        d.recorded().iter().map(|s| s.requests.len() + usize::from(!s.incomplete.is_empty())).sum::<usize>()
    };
    destinations.iter().map(begun).sum()
}

#[test]
fn connect_failure_is_retried_elsewhere_for_any_method() {
    let (stopped, running) =
        (Destination::absent(respond_ok("dead")), Destination::start(respond_ok("live")));
    let balancer = Setup::http(&[&stopped, &running]).start();
    let mut client = balancer.connect();
    for n in 0..200 {
        // POST too: no byte of it was sent.
        client.send(if n % 2 == 0 { get("/") } else { post("/", "body") });
        let response = client.read_response();
        assert_eq!((response.status, response.text().as_str()), (200, "live"));
    }
    assert_eq!(running.requests().len(), 200);
    assert!(balancer.retries() >= 100, "every second request tries the stopped destination first");
    assert_eq!(balancer.destination(0).counts.failed(), balancer.retries());
}

#[test]
fn failed_idempotent_request_is_retried_elsewhere() {
    for breaks in [reset_after_request as fn(&mut Connection), close_after_request] {
        let (bad, good) = (Destination::start(breaks), Destination::start(respond_ok("good")));
        let balancer = Setup::http(&[&bad, &good]).start();
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            for _ in 0..2 {
                let response = balancer
                    .fetch(format!("{method} / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody"));
                assert_eq!((response.status, response.text().as_str()), (200, "good"), "{method}");
            }
        }
        let bodies = good.requests().into_iter().filter(|r| r.body == b"body").count();
        assert!(bodies == 8 && bad.requests().len() >= 4);
    }
}

#[test]
fn post_is_never_retried_after_a_byte_was_sent() {
    let garbage: fn(&mut Connection) = |conn| {
        conn.request();
        conn.send("garbage\r\n\r\n");
    };
    for (breaks, reason) in [
        (reset_after_request as fn(&mut Connection), "reset"),
        (close_after_request, "empty_response"),
        (reset_after_head, "reset"),
        (garbage, "bad_response"),
    ] {
        let destinations =
            [Destination::start(breaks), Destination::start(breaks), Destination::start(breaks)];
        let [a, b, c] = &destinations;
        let balancer = Setup::http(&[a, b, c]).start();
        for (n, method) in ["POST", "PATCH", "BREW"].into_iter().enumerate() {
            let response =
                balancer.fetch(format!("{method} / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody"));
            assert_eq!(response.status, 502, "{method}");
            assert_eq!(count_requests(&[a, b, c]), n + 1, "{method} reached more than one destination");
        }
        // If a reset meets the end of data, either may be seen first.
        assert!(
            balancer.refusals(reason) > 0 || reason == "reset" && balancer.refusals("empty_response") > 0,
            "{reason}"
        );
        assert_eq!(balancer.retries(), 0);
    }
}

/// Resets the connection after a request head.
fn reset_after_head(conn: &mut Connection) {
    conn.head();
    conn.reset();
}

#[test]
fn request_is_retried_only_while_its_body_is_buffered() {
    for gone in [true, false] {
        let bad = Destination::start(move |conn| {
            conn.head();
            while gone && conn.buffer.len() < 8 && conn.read() {}
            conn.reset();
        });
        let good = Destination::start(respond_ok("good"));
        let balancer = Setup::http(&[&bad, &good]).start();
        let mut client = balancer.connect();
        client.send("PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 12\r\n\r\nfour");
        if gone {
            wait_until("the head is there", || bad.connections() == 1);
            // Bytes read separately from the head are forwarded and not kept.
            client.send("more");
            let response = client.read_response();
            assert_eq!((response.status, response.closes(), good.connections()), (502, true, 0));
        } else {
            wait_until("the request is retried elsewhere", || good.connections() == 1);
            client.send("morelast");
            assert_eq!(client.read_response().text(), "good");
            assert_eq!(good.only_request().body, b"fourmorelast");
        }
    }
}

#[test]
fn switches_disable_retries() {
    let off = |change: fn(&mut Setup)| {
        let (stopped, running) =
            (Destination::absent(respond_ok("dead")), Destination::start(respond_ok("live")));
        let balancer = Setup::http(&[&stopped, &running]).with(change).start();
        let statuses = [balancer.fetch(get("/")).status, balancer.fetch(get("/")).status];
        assert_eq!(balancer.retries(), 0);
        statuses
    };
    assert_eq!(off(|s| s.pools[0].retry.failover = false), [503, 200]);
    assert_eq!(off(|s| s.pools[0].retry.error_recovery = false), [503, 200]);
    assert_eq!(off(|s| s.pools[0].retry.attempts = 1), [503, 200]);
    assert_eq!(off(|s| s.pools[0].retry.when.connect_failure = false), [503, 200]);
}

#[test]
fn attempts_are_limited_and_each_destination_is_tried_once() {
    let destinations: [_; 6] = std::array::from_fn(|_| Destination::start(reset_after_request));
    let all: Vec<&Destination> = destinations.iter().collect();
    let balancer = Setup::http(&all).start();
    assert_eq!(balancer.fetch(get("/")).status, 502);
    assert_eq!(count_requests(&all), 3);
    let balancer = Setup::http(&all[..2]).start();
    assert_eq!(balancer.fetch(get("/")).status, 502);
    assert_eq!(count_requests(&all), 5, "no destination twice");
}

/// Responds to the first request of each connection and closes without a response to the second.
fn close_on_second_request(conn: &mut Connection) {
    if conn.request().is_some() {
        conn.send(ok("fresh"));
        conn.request();
    }
}

fn with_stale_connection(
    script: impl Fn(&mut Connection) + Send + Sync + 'static,
) -> (Destination, Balancer) {
    let destination = Destination::start(script);
    let balancer = Setup::http(&[&destination]).start();
    assert_eq!(balancer.fetch(get("/warm")).status, 200);
    (destination, balancer)
}

#[test]
fn a_stale_pooled_connection_is_retried_once_on_a_fresh_one() {
    let (destination, balancer) = with_stale_connection(close_on_second_request);
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/")).text(), "fresh");
    }
    let counts = balancer.destination(0).counts;
    assert_eq!(
        (counts.failed(), counts.answered()),
        (0, 21),
        "stale connections do not count against the destination"
    );
    assert_eq!(destination.connections(), 21);
}

#[test]
fn post_on_a_stale_connection_is_not_retried() {
    let (destination, balancer) = with_stale_connection(close_on_second_request);
    let response = balancer.fetch(post("/", "once"));
    assert_eq!(response.status, 502);
    let posts = destination.requests().into_iter().filter(|r| r.method == "POST").count();
    assert_eq!(posts, 1);
}

#[test]
fn connection_closed_while_idle_is_not_reused() {
    let destination = Destination::start(|conn| {
        if conn.request().is_some() {
            conn.send(ok("fresh"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    for n in 0..20 {
        assert_eq!(balancer.fetch(post("/", "x")).text(), "fresh");
        wait_until("it is closed", || destination.open() == 0);
        assert_eq!(destination.connections(), n + 1);
    }
    assert_eq!(balancer.retries(), 0);
}

#[test]
fn destination_that_closes_after_each_response_causes_no_client_errors() {
    let destination = Destination::start(|conn| {
        if conn.request().is_some() {
            conn.send(ok("once"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for n in 0..2000 {
        client.send(get("/"));
        let response = client.read_response();
        assert_eq!((response.status, response.text().as_str()), (200, "once"), "request {n}: {response:?}");
    }
}

#[test]
fn retries_stay_within_their_budget_when_all_requests_fail() {
    let destinations: [_; 3] = std::array::from_fn(|_| Destination::start(reset_after_request));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b, c]).start();
    let (failed, stopwatch) = (Arc::new(AtomicUsize::new(0)), Stopwatch::start());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (failed, mut client) = (failed.clone(), balancer.connect());
            std::thread::spawn(move || {
                for _ in 0..500 {
                    client.send(get("/"));
                    failed.fetch_add(usize::from(client.read_response().status == 502), SeqCst);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("all responses were read"));
    let requests = 2000;
    assert_eq!(failed.load(SeqCst), requests);
    // A fifth of the requests, a reserve of 100 at the start, and ten per second.
    let max = requests + requests / 5 + 100 + 10 * (stopwatch.elapsed().as_secs() as usize + 1);
    let reached = count_requests(&[a, b, c]);
    assert!(
        (requests + 300..=max).contains(&reached),
        "{reached} tries for {requests} requests, at max {max}"
    );
}

#[test]
fn timeout_is_retried_if_listed() {
    let (slow, good) = (Destination::start(Connection::read_to_end), Destination::start(respond_ok("good")));
    let balancer = Setup::http(&[&slow, &good])
        .with(|s| {
            s.pools[0].retry.when.timeout = true;
            s.pools[0].timeouts.response = crate::kit::ms(150);
        })
        .start();
    assert_eq!(balancer.fetch(get("/")).text(), "good");
    assert_eq!((slow.requests().len(), balancer.retries()), (1, 1));
}

#[test]
fn listed_status_is_retried_and_the_last_response_is_forwarded() {
    let busy = || {
        Destination::start(|conn| {
            while conn.request().is_some() {
                conn.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
            }
        })
    };
    let (one, other, good) = (busy(), busy(), Destination::start(respond_ok("good")));
    let listed = |s: &mut Setup| s.pools[0].retry.when.statuses = vec![500, 503];
    let balancer = Setup::http(&[&one, &other, &good]).with(listed).start();
    for _ in 0..10 {
        let response = balancer.fetch(get("/"));
        assert_eq!((response.status, response.text().as_str()), (200, "good"));
    }
    assert!(balancer.retries() >= 10);
    let posts: Vec<u16> = (0..9).map(|_| balancer.fetch(post("/", "x")).status).collect();
    assert!(posts.contains(&503) && posts.contains(&200), "POST is not retried: {posts:?}");
    let posted = |d: &Destination| d.requests().iter().filter(|r| r.method == "POST").count();
    assert_eq!(posted(&one) + posted(&other) + posted(&good), 9);
    let hopeless = Setup::http(&[&one, &other]).with(listed).start();
    let mut client = hopeless.connect();
    for _ in 0..5 {
        client.send(get("/"));
        let response = client.read_response();
        assert_eq!((response.status, response.text().as_str(), response.closes()), (503, "busy", false));
    }
}
