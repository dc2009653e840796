//! What traffic shows of a destination: out after so many failures, back by exactly one trial.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::{http_checks, resets};
use crate::kit::{Balancer, Destination, Gate, Setup, Visit, Watch, get, hello, ms, ok, post, secs, until};

/// A destination that behaves badly while `ill`, and how many requests it got.
fn patient(ill: &Gate, bad: fn(&mut Visit)) -> Destination {
    let well = ill.clone();
    Destination::start(move |visit| if well.is_open() { hello("patient")(visit) } else { bad(visit) })
}

fn pool(sick: &Destination, good: &Destination, failures: u32, ejection: u64) -> Balancer {
    Setup::http(&[sick, good])
        .with(|s| {
            let outlier = &mut s.pools[0].outlier;
            (outlier.consecutive_failures, outlier.base_ejection) = (failures, ms(ejection));
            s.pools[0].timeouts.response = ms(200);
        })
        .start()
}

#[test]
fn so_many_failures_in_a_row_eject_and_one_trial_at_a_time_brings_back() {
    let well = Gate::default();
    let sick = patient(&well, resets);
    let good = Destination::start(hello("good"));
    let balancer = pool(&sick, &good, 3, 400);
    let ask = || balancer.ask(get("/"));
    until("it is ejected", || {
        assert_eq!(ask().status, 200, "the other one takes over");
        balancer.destination(0).status.as_str() == "ejected"
    });
    let at_ejection = sick.requests().len();
    assert!((3..=6).contains(&at_ejection), "{at_ejection} failures, 3 are enough");
    // Before its time is over it gets nothing, and then one request, whatever comes.
    let watch = Watch::start();
    let mut most = at_ejection;
    while watch.elapsed() < ms(300) {
        assert_eq!(ask().text(), "good");
        assert_eq!(sick.requests().len(), at_ejection);
    }
    until("the trial", || {
        assert_eq!(ask().status, 200, "a trial that fails is repeated elsewhere");
        most = sick.requests().len();
        most > at_ejection
    });
    let trial = Watch::start();
    while trial.elapsed() < ms(300) {
        assert_eq!(ask().text(), "good");
    }
    assert_eq!(sick.requests().len(), at_ejection + 1, "exactly one, and it failed");
    let ejections: u64 = balancer.pools()[0].ejections.values().sum();
    let changes: u64 = balancer.destination(0).transitions.values().sum();
    assert_eq!((ejections, changes), (2, 1), "once, and once more; it stood so all the time");
    well.open();
    until("it passes its trial", || ask().text() == "patient");
    until("it is back", || balancer.destination(0).status.as_str() == "serving");
}

#[test]
fn many_clients_at_once_are_one_trial_all_the_same() {
    let well = Gate::default();
    let sick = patient(&well, |visit| {
        if visit.request().is_some() {
            // Long enough for every other client to come by.
            std::thread::sleep(ms(100));
            visit.reset();
        }
    });
    let good = Destination::start(hello("good"));
    let balancer = pool(&sick, &good, 1, 500);
    until("it is ejected", || {
        assert_eq!(balancer.ask(get("/")).status, 200);
        balancer.destination(0).status.as_str() == "ejected"
    });
    let before = sick.requests().len();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, stop) = (balancer.connect(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    client.send(get("/"));
                    assert_eq!(client.answer().status, 200);
                }
            })
        })
        .collect();
    until("the trial", || sick.requests().len() > before);
    std::thread::sleep(ms(50));
    assert_eq!(sick.requests().len(), before + 1);
    stop.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("no errors"));
}

#[test]
fn a_post_is_no_trial_while_others_may_be() {
    let well = Gate::default();
    let sick = patient(&well, resets);
    let good = Destination::start(hello("good"));
    let balancer = pool(&sick, &good, 1, 100);
    until("it is ejected", || {
        assert_eq!(balancer.ask(get("/")).status, 200);
        balancer.destination(0).status.as_str() == "ejected"
    });
    let (before, watch) = (sick.requests().len(), Watch::start());
    while watch.elapsed() < ms(700) {
        assert_eq!(balancer.ask(post("/", "x")).status, 200, "after {:?}", watch.elapsed());
    }
    assert_eq!(sick.requests().len(), before);
    assert_eq!(balancer.ask(get("/")).status, 200);
    assert_eq!(sick.requests().len(), before + 1, "the GET was the trial");
}

#[test]
fn a_destination_that_answers_503_is_ejected() {
    let bad = Destination::start(|visit| {
        while visit.request().is_some() {
            visit.send(ok("overloaded").replace("200 OK", "503 Busy"));
        }
    });
    let good = Destination::start(hello("good"));
    let balancer = pool(&bad, &good, 5, 30_000);
    let mut seen = 0;
    until("it is ejected", || {
        seen += usize::from(balancer.ask(get("/")).status == 503);
        balancer.destination(0).status.as_str() == "ejected"
    });
    assert!((5..=20).contains(&seen), "{seen} clients got a 503; 5 in a row are enough");
    assert!((0..50).all(|_| balancer.ask(get("/")).text() == "good"));
    let spared = balancer.destination(1);
    assert!(spared.status.serves() && spared.streak == 0);
}

#[test]
fn the_last_one_is_not_ejected_however_bad() {
    let bad = [Destination::start(resets), Destination::start(resets)];
    let balancer = pool(&bad[0], &bad[1], 2, 30_000);
    for _ in 0..40 {
        assert_eq!(balancer.ask(get("/")).status, 502);
    }
    let ejected = balancer.pools()[0].destinations.iter().filter(|d| !d.status.serves()).count();
    assert_eq!(ejected, 1);
}

/// Takes connections and says nothing, as a stopped process does.
fn silent(visit: &mut Visit) {
    visit.read_to_end();
}

#[test]
fn a_silent_destination_costs_a_client_one_timeout_at_most() {
    for by_checks in [true, false] {
        let well = Gate::default();
        let stopped = patient(&well, silent);
        let good = Destination::start(hello("good"));
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
                        if client.answer().status == 504 {
                            timeouts += 1;
                            until("it is out", || !balancer.destination(0).status.serves());
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
fn failed_connects_alone_are_forgiven_by_a_passing_check() {
    let dead = Destination::absent(hello("back"));
    let good = Destination::start(hello("good"));
    let balancer = Setup::http(&[&dead, &good])
        .with(|s| {
            s.pools[0].outlier.consecutive_failures = 2;
            s.pools[0].health = Some(http_checks());
        })
        .start();
    for _ in 0..10 {
        assert_eq!(balancer.ask(get("/")).text(), "good");
    }
    let watch = Watch::start();
    dead.restart();
    until("it is back", || balancer.ask(get("/")).text() == "back");
    assert!(watch.elapsed() < secs(2), "long before its 30 s are over: {:?}", watch.elapsed());
}

#[test]
fn a_silent_destination_is_ejected_by_the_total_time_too() {
    let (stopped, good) = (Destination::start(silent), Destination::start(hello("good")));
    let short_total = |s: &mut Setup| {
        s.pools[0].outlier.consecutive_failures = 2;
        s.pools[0].timeouts.total = Some(ms(150));
    };
    let balancer = Setup::http(&[&stopped, &good]).with(short_total).start();
    let late = (0..12).filter(|_| balancer.ask(get("/")).status == 504).count();
    assert!((2..=3).contains(&late), "{late} of 12 were late; 2 in a row are enough");
    assert_eq!(balancer.destination(0).status.as_str(), "ejected");
    // A body that comes too slowly is the client's doing.
    let balancer = Setup::http(&[&good]).with(short_total).start();
    let answer = balancer.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!((answer.status, balancer.destination(0).counts.failed()), (504, 0));
}

#[test]
fn posts_on_connections_gone_stale_eject_nobody() {
    let gate = Gate::default();
    let wait = gate.clone();
    let hasty = Destination::start(move |visit| {
        if visit.request().is_some() {
            wait.pass();
            visit.send(ok("fresh"));
            visit.request();
        }
    });
    let good = Destination::start(hello("good"));
    let balancer =
        Setup::http(&[&hasty, &good]).with(|s| s.pools[0].outlier.consecutive_failures = 2).start();
    let mut clients: Vec<_> = (0..16).map(|_| balancer.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("/warm")));
    until("connections are opened side by side", || hasty.requests().len() == 8);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    let broken = (0..16).filter(|_| balancer.ask(post("/", "x")).status == 502).count();
    assert_eq!(broken, 8, "a POST that may have been carried out is not repeated");
    assert!(balancer.destination(0).status.serves(), "an old connection says nothing of the destination");
}
