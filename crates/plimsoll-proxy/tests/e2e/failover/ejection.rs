//! Outlier detection: ejection after consecutive failures, and return after exactly one successful trial.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::{http_checks, reset_after_request};
use crate::kit::{
    Balancer, Connection, Destination, Gate, Setup, Stopwatch, get, ms, ok, post, respond_ok, secs,
    wait_until,
};

/// A destination that behaves as `bad` until `recovery` is open.
fn recovering(recovery: &Gate, bad: fn(&mut Connection)) -> Destination {
    let recovery = recovery.clone();
    Destination::start(move |conn| if recovery.is_open() { respond_ok("recovered")(conn) } else { bad(conn) })
}

fn pool(failing: &Destination, good: &Destination, failures: u32, ejection: u64) -> Balancer {
    Setup::http(&[failing, good])
        .with(|s| {
            let outlier = &mut s.pools[0].outlier;
            (outlier.consecutive_failures, outlier.base_ejection) = (failures, ms(ejection));
            s.pools[0].timeouts.response = ms(200);
        })
        .start()
}

#[test]
fn consecutive_failures_eject_and_one_successful_trial_restores() {
    let recovery = Gate::default();
    let failing = recovering(&recovery, reset_after_request);
    let good = Destination::start(respond_ok("good"));
    let balancer = pool(&failing, &good, 3, 400);
    let fetch = || balancer.fetch(get("/"));
    wait_until("the destination is ejected", || {
        assert_eq!(fetch().status, 200, "the other destination serves the retry");
        balancer.destination(0).status.as_str() == "ejected"
    });
    let at_ejection = failing.requests().len();
    assert!((3..=6).contains(&at_ejection), "{at_ejection} failures; 3 eject");
    // Until the ejection time is over it receives nothing, and then one request only.
    let stopwatch = Stopwatch::start();
    let mut reached = at_ejection;
    while stopwatch.elapsed() < ms(300) {
        assert_eq!(fetch().text(), "good");
        assert_eq!(failing.requests().len(), at_ejection);
    }
    wait_until("a trial was made", || {
        assert_eq!(fetch().status, 200, "a failed trial is retried elsewhere");
        reached = failing.requests().len();
        reached > at_ejection
    });
    let trial = Stopwatch::start();
    while trial.elapsed() < ms(300) {
        assert_eq!(fetch().text(), "good");
    }
    assert_eq!(failing.requests().len(), at_ejection + 1, "exactly one trial, which failed");
    let ejections: u64 = balancer.pools()[0].ejections.values().sum();
    let changes: u64 = balancer.destination(0).transitions.values().sum();
    assert_eq!((ejections, changes), (2, 1), "ejected twice, without a change of status in between");
    recovery.open();
    wait_until("the trial succeeds", || fetch().text() == "recovered");
    wait_until("the destination serves again", || balancer.destination(0).status.as_str() == "serving");
}

#[test]
fn concurrent_clients_cause_a_single_trial() {
    let recovery = Gate::default();
    let failing = recovering(&recovery, |conn| {
        if conn.request().is_some() {
            // Long enough for every other client to send a request.
            std::thread::sleep(ms(100));
            conn.reset();
        }
    });
    let good = Destination::start(respond_ok("good"));
    let balancer = pool(&failing, &good, 1, 500);
    wait_until("the destination is ejected", || {
        assert_eq!(balancer.fetch(get("/")).status, 200);
        balancer.destination(0).status.as_str() == "ejected"
    });
    let before = failing.requests().len();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, stop) = (balancer.connect(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    client.send(get("/"));
                    assert_eq!(client.read_response().status, 200);
                }
            })
        })
        .collect();
    wait_until("a trial was made", || failing.requests().len() > before);
    std::thread::sleep(ms(50));
    assert_eq!(failing.requests().len(), before + 1);
    stop.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("no errors"));
}

#[test]
fn post_is_not_used_as_a_trial_while_other_destinations_serve() {
    let recovery = Gate::default();
    let failing = recovering(&recovery, reset_after_request);
    let good = Destination::start(respond_ok("good"));
    let balancer = pool(&failing, &good, 1, 100);
    wait_until("the destination is ejected", || {
        assert_eq!(balancer.fetch(get("/")).status, 200);
        balancer.destination(0).status.as_str() == "ejected"
    });
    let (before, stopwatch) = (failing.requests().len(), Stopwatch::start());
    while stopwatch.elapsed() < ms(700) {
        assert_eq!(balancer.fetch(post("/", "x")).status, 200, "after {:?}", stopwatch.elapsed());
    }
    assert_eq!(failing.requests().len(), before);
    assert_eq!(balancer.fetch(get("/")).status, 200);
    assert_eq!(failing.requests().len(), before + 1, "GET is used as a trial");
}

#[test]
fn destination_that_responds_503_is_ejected() {
    let bad = Destination::start(|conn| {
        while conn.request().is_some() {
            conn.send(ok("overloaded").replace("200 OK", "503 Busy"));
        }
    });
    let good = Destination::start(respond_ok("good"));
    let balancer = pool(&bad, &good, 5, 30_000);
    let mut seen = 0;
    wait_until("the destination is ejected", || {
        seen += usize::from(balancer.fetch(get("/")).status == 503);
        balancer.destination(0).status.as_str() == "ejected"
    });
    assert!((5..=20).contains(&seen), "{seen} clients got a 503; 5 in a row eject");
    assert!((0..50).all(|_| balancer.fetch(get("/")).text() == "good"));
    let spared = balancer.destination(1);
    assert!(spared.status.serves() && spared.streak == 0);
}

#[test]
fn last_serving_destination_is_never_ejected() {
    let bad = [Destination::start(reset_after_request), Destination::start(reset_after_request)];
    let balancer = pool(&bad[0], &bad[1], 2, 30_000);
    // Each of these is sent once. A GET would fail at both, and count against neither.
    for _ in 0..40 {
        assert_eq!(balancer.fetch(post("/", "x")).status, 502);
    }
    let ejected = balancer.pools()[0].destinations.iter().filter(|d| !d.status.serves()).count();
    assert_eq!(ejected, 1);
}

/// Accepts connections and never responds, as a stopped process does.
fn unresponsive(conn: &mut Connection) {
    conn.read_to_end();
}

#[test]
fn unresponsive_destination_costs_a_client_one_timeout_at_most() {
    for by_checks in [true, false] {
        let recovery = Gate::default();
        let stopped = recovering(&recovery, unresponsive);
        let good = Destination::start(respond_ok("good"));
        let balancer = Setup::http(&[&stopped, &good])
            .with(|s| {
                s.pools[0].timeouts.response = ms(400);
                s.pools[0].outlier.base_ejection = secs(30);
                if by_checks {
                    s.pools[0].health = Some(http_checks());
                    s.pools[0].outlier.consecutive_failures = 5;
                } else {
                    s.pools[0].outlier.consecutive_failures = 1;
                }
            })
            .start();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let balancer = &balancer;
                scope.spawn(move || {
                    let (mut client, mut timeouts) = (balancer.connect(), 0);
                    for _ in 0..100 {
                        client.send(get("/"));
                        if client.read_response().status == 504 {
                            timeouts += 1;
                            wait_until("the destination is out", || !balancer.destination(0).status.serves());
                        }
                    }
                    assert!(timeouts <= 1, "by checks: {by_checks}; one client had {timeouts} timeouts");
                });
            }
        });
        assert!(!balancer.destination(0).status.serves(), "by checks: {by_checks}");
    }
}

#[test]
fn passing_check_ends_an_ejection_for_connect_failures() {
    let stopped = Destination::absent(respond_ok("back"));
    let good = Destination::start(respond_ok("good"));
    let balancer = Setup::http(&[&stopped, &good])
        .with(|s| {
            s.pools[0].outlier.consecutive_failures = 2;
            s.pools[0].health = Some(http_checks());
        })
        .start();
    for _ in 0..10 {
        assert_eq!(balancer.fetch(get("/")).text(), "good");
    }
    let stopwatch = Stopwatch::start();
    stopped.restart();
    wait_until("the destination serves again", || balancer.fetch(get("/")).text() == "back");
    assert!(
        stopwatch.elapsed() < secs(2),
        "well before the 30 s of the ejection are over: {:?}",
        stopwatch.elapsed()
    );
}

#[test]
fn total_timeouts_eject_an_unresponsive_destination() {
    let (stopped, good) = (Destination::start(unresponsive), Destination::start(respond_ok("good")));
    let short_total = |s: &mut Setup| {
        s.pools[0].outlier.consecutive_failures = 2;
        s.pools[0].timeouts.total = Some(ms(150));
    };
    let balancer = Setup::http(&[&stopped, &good]).with(short_total).start();
    let late = (0..12).filter(|_| balancer.fetch(get("/")).status == 504).count();
    assert!((2..=3).contains(&late), "{late} of 12 timed out; 2 in a row eject");
    assert_eq!(balancer.destination(0).status.as_str(), "ejected");
    // A body that arrives too slowly is the client's fault.
    let balancer = Setup::http(&[&good]).with(short_total).start();
    let response = balancer.fetch("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!((response.status, balancer.destination(0).counts.failed()), (504, 0));
}

#[test]
fn failed_posts_on_stale_connections_do_not_eject() {
    let gate = Gate::default();
    let wait = gate.clone();
    let closing = Destination::start(move |conn| {
        if conn.request().is_some() {
            wait.wait();
            conn.send(ok("fresh"));
            conn.request();
        }
    });
    let good = Destination::start(respond_ok("good"));
    let balancer =
        Setup::http(&[&closing, &good]).with(|s| s.pools[0].outlier.consecutive_failures = 2).start();
    let mut clients: Vec<_> = (0..16).map(|_| balancer.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/warm")));
    wait_until("connections are opened in parallel", || closing.requests().len() == 8);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    let broken = (0..16).filter(|_| balancer.fetch(post("/", "x")).status == 502).count();
    assert_eq!(broken, 8, "a POST that may have been processed is not retried");
    assert!(
        balancer.destination(0).status.serves(),
        "stale connections do not count against the destination"
    );
}
