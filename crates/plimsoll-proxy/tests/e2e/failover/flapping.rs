//! Destinations that die and come back under load cost no client an idempotent request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

use plimsoll_core::health::ProbeKind;

use super::checks;
use crate::kit::{Balancer, Destination, Place, Setup, Watch, get, hello, ms, secs, until};

/// Clients that ask one after the other until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(place: &Place, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (stop, answered, place) = (stop.clone(), answered.clone(), place.clone());
            std::thread::spawn(move || ask_until(&stop, &answered, &place))
        };
        Self { clients: (0..clients).map(client).collect(), stop: stop.clone(), answered: answered.clone() }
    }

    /// What went wrong for clients, and how many requests went well.
    fn stop(self) -> (Vec<String>, usize) {
        self.stop.store(true, SeqCst);
        let errors = self.clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect();
        (errors, self.answered.load(SeqCst))
    }
}

fn ask_until(stop: &AtomicBool, answered: &AtomicUsize, place: &Place) -> Vec<String> {
    let mut errors = Vec::new();
    let mut client = crate::kit::Client::connect(place.clone());
    while !stop.load(SeqCst) && errors.len() < 5 {
        let sent = client.try_send(get("/"));
        match client.try_answer("GET") {
            Ok(answer) if answer.status == 200 => {
                answered.fetch_add(1, SeqCst);
            }
            other => {
                errors.push(format!("{other:?}, sent {sent:?}"));
                client = crate::kit::Client::connect(place.clone());
            }
        }
    }
    errors
}

fn flapping(change: impl FnOnce(&mut Setup)) -> (Balancer, [Destination; 2], usize) {
    let destinations = [Destination::start(hello("a")), Destination::start(hello("b"))];
    let [flapping, steady] = &destinations;
    let balancer = Setup::http(&[flapping, steady]).with(change).start();
    let load = Load::start(&balancer.place(), 4);
    let watch = Watch::start();
    let mut flaps = 0;
    while watch.elapsed() < secs(3) {
        std::thread::sleep(ms(150));
        flapping.kill();
        std::thread::sleep(ms(100));
        flapping.restart();
        flaps += 1;
    }
    let (errors, answered) = load.stop();
    assert_eq!(errors, Vec::<String>::new(), "{answered} went well");
    assert!(answered > 2000 && flaps > 5, "{answered} answers, {flaps} flaps");
    (balancer, destinations, answered)
}

#[test]
fn a_destination_killed_again_and_again_costs_nobody_anything() {
    let (balancer, destinations, answered) = flapping(|_| {});
    let reached: usize = destinations.iter().map(|d| d.requests().len()).sum();
    assert!(reached >= answered && reached < answered * 12 / 10 + 200, "{reached} for {answered}");
    assert!(balancer.retries() > 0);
    assert!(destinations[0].requests().len() > 100, "it serves whenever it is there");
}

#[test]
fn nor_with_checks_and_ejections_about() {
    let (balancer, destinations, _) = flapping(|s| {
        s.pools[0].health = Some(checks(ProbeKind::Tcp));
        s.pools[0].outlier.consecutive_failures = 3;
        s.pools[0].outlier.base_ejection = ms(100);
        s.workers = 2;
    });
    until("it is back in the end", || balancer.pools()[0].serving() == 2);
    assert!(destinations[0].requests().len() > 100, "it serves whenever it is there");
}

#[test]
fn a_destination_that_ends_connections_at_random_costs_nobody_anything() {
    let seed = 7;
    println!("seed {seed}");
    let dice = Arc::new(std::sync::Mutex::new(plimsoll_core::Rng::new(seed)));
    let moody = Destination::start(move |visit| {
        let roll = |sides| dice.lock().expect("no panic").below(sides);
        while visit.request().is_some() {
            match roll(20) {
                0 => return visit.reset(),
                1 => return,
                2 => {
                    visit.send(crate::kit::ok("last"));
                    return;
                }
                _ => visit.send(crate::kit::ok("more")),
            };
        }
    });
    let steady = Destination::start(hello("steady"));
    let balancer = Setup::http(&[&moody, &steady]).start();
    let load = Load::start(&balancer.place(), 4);
    let watch = Watch::start();
    until("enough was asked", || load.answered.load(SeqCst) > 4000 || watch.elapsed() > secs(10));
    let (errors, answered) = load.stop();
    assert_eq!(errors, Vec::<String>::new(), "{answered} went well, seed {seed}");
}

#[test]
fn all_down_is_a_quick_503_and_the_first_return_is_noticed_within_a_second() {
    for told in ["no checks", "checks", "ejections"] {
        let destinations = [Destination::absent(hello("a")), Destination::absent(hello("b"))];
        let balancer = Setup::http(&[&destinations[0], &destinations[1]])
            .with(|s| {
                if told == "checks" {
                    s.pools[0].health = Some(checks(ProbeKind::Tcp));
                } else if told == "ejections" {
                    s.pools[0].outlier.consecutive_failures = 2;
                    s.pools[0].outlier.base_ejection = ms(300);
                }
            })
            .start();
        let mut client = balancer.connect();
        for _ in 0..50 {
            let watch = Watch::start();
            client.send(get("/"));
            let answer = client.answer();
            let text = answer.text();
            assert_eq!(answer.status, 503, "{told}");
            assert!(
                text.contains("connect_failed") || text.contains("no_healthy_destination"),
                "{told}: {text}"
            );
            assert!(watch.elapsed() < ms(500), "{told}: {:?}", watch.elapsed());
            std::thread::sleep(ms(2));
        }
        let watch = Watch::start();
        destinations[1].restart();
        until("service is back", || {
            client.send(get("/"));
            client.answer().status == 200
        });
        assert!(watch.elapsed() < secs(1), "{told}: back after {:?}", watch.elapsed());
    }
}
