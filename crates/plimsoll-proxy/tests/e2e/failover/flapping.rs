//! Destinations that stop and restart under load: no idempotent request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

use plimsoll_core::health::ProbeKind;

use super::checks;
use crate::kit::{Balancer, Destination, Endpoint, Setup, Stopwatch, get, ms, respond_ok, secs, wait_until};

/// Clients that send requests sequentially until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    succeeded: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(endpoint: &Endpoint, clients: usize) -> Self {
        let (stop, succeeded) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |_| {
            let (stop, succeeded, endpoint) = (stop.clone(), succeeded.clone(), endpoint.clone());
            std::thread::spawn(move || fetch_until(&stop, &succeeded, &endpoint))
        };
        Self { clients: (0..clients).map(client).collect(), stop: stop.clone(), succeeded: succeeded.clone() }
    }

    /// Stops the load; returns the clients' errors and the number of successful requests.
    fn stop(self) -> (Vec<String>, usize) {
        self.stop.store(true, SeqCst);
        let errors = self.clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect();
        (errors, self.succeeded.load(SeqCst))
    }
}

fn fetch_until(stop: &AtomicBool, succeeded: &AtomicUsize, endpoint: &Endpoint) -> Vec<String> {
    let mut errors = Vec::new();
    let mut client = crate::kit::Client::connect(endpoint.clone());
    while !stop.load(SeqCst) && errors.len() < 5 {
        let sent = client.try_send(get("/"));
        match client.try_read_response("GET") {
            Ok(response) if response.status == 200 => {
                succeeded.fetch_add(1, SeqCst);
            }
            other => {
                errors.push(format!("{other:?}, sent {sent:?}"));
                client = crate::kit::Client::connect(endpoint.clone());
            }
        }
    }
    errors
}

fn flapping(change: impl FnOnce(&mut Setup)) -> (Balancer, [Destination; 2], usize) {
    let destinations = [Destination::start(respond_ok("a")), Destination::start(respond_ok("b"))];
    let [flapping, steady] = &destinations;
    let balancer = Setup::http(&[flapping, steady]).with(change).start();
    let load = Load::start(&balancer.endpoint(), 4);
    let stopwatch = Stopwatch::start();
    let mut flaps = 0;
    while stopwatch.elapsed() < secs(3) {
        std::thread::sleep(ms(150));
        flapping.kill();
        std::thread::sleep(ms(100));
        flapping.restart();
        flaps += 1;
    }
    let (errors, succeeded) = load.stop();
    assert_eq!(errors, Vec::<String>::new(), "{succeeded} requests succeeded");
    assert!(succeeded > 2000 && flaps > 5, "{succeeded} responses, {flaps} restarts");
    (balancer, destinations, succeeded)
}

#[test]
fn restarting_destination_causes_no_client_errors() {
    let (balancer, destinations, succeeded) = flapping(|_| {});
    let reached: usize = destinations.iter().map(|d| d.requests().len()).sum();
    assert!(reached >= succeeded && reached < succeeded * 12 / 10 + 200, "{reached} for {succeeded}");
    assert!(balancer.retries() > 0);
    assert!(destinations[0].requests().len() > 100, "it serves whenever it runs");
}

#[test]
fn restarting_destination_causes_no_client_errors_with_checks_and_ejections() {
    let (balancer, destinations, _) = flapping(|s| {
        s.pools[0].health = Some(checks(ProbeKind::Tcp));
        s.pools[0].outlier.consecutive_failures = 3;
        s.pools[0].outlier.base_ejection = ms(100);
        s.workers = 2;
    });
    wait_until("both destinations serve again", || balancer.pools()[0].serving() == 2);
    assert!(destinations[0].requests().len() > 100, "it serves whenever it runs");
}

#[test]
fn randomly_closed_connections_cause_no_client_errors() {
    let seed = 7;
    println!("seed {seed}");
    let rng = Arc::new(std::sync::Mutex::new(plimsoll_core::Rng::new(seed)));
    let unreliable = Destination::start(move |conn| {
        let draw = |sides| rng.lock().expect("no panic").below(sides);
        while conn.request().is_some() {
            match draw(20) {
                0 => return conn.reset(),
                1 => return,
                2 => {
                    conn.send(crate::kit::ok("last"));
                    return;
                }
                _ => conn.send(crate::kit::ok("more")),
            };
        }
    });
    let steady = Destination::start(respond_ok("steady"));
    let balancer = Setup::http(&[&unreliable, &steady]).start();
    let load = Load::start(&balancer.endpoint(), 4);
    let stopwatch = Stopwatch::start();
    wait_until("enough requests have succeeded", || {
        load.succeeded.load(SeqCst) > 4000 || stopwatch.elapsed() > secs(10)
    });
    let (errors, succeeded) = load.stop();
    assert_eq!(errors, Vec::<String>::new(), "{succeeded} requests succeeded, seed {seed}");
}

#[test]
fn all_destinations_down_give_a_quick_503_and_recovery_within_a_second() {
    for context in ["no checks", "checks", "ejections"] {
        let destinations = [Destination::absent(respond_ok("a")), Destination::absent(respond_ok("b"))];
        let balancer = Setup::http(&[&destinations[0], &destinations[1]])
            .with(|s| {
                if context == "checks" {
                    s.pools[0].health = Some(checks(ProbeKind::Tcp));
                } else if context == "ejections" {
                    s.pools[0].outlier.consecutive_failures = 2;
                    s.pools[0].outlier.base_ejection = ms(300);
                }
            })
            .start();
        let mut client = balancer.connect();
        for _ in 0..50 {
            let stopwatch = Stopwatch::start();
            client.send(get("/"));
            let response = client.read_response();
            let text = response.text();
            assert_eq!(response.status, 503, "{context}");
            assert!(
                text.contains("connect_failed") || text.contains("no_healthy_destination"),
                "{context}: {text}"
            );
            assert!(stopwatch.elapsed() < ms(500), "{context}: {:?}", stopwatch.elapsed());
            std::thread::sleep(ms(2));
        }
        let stopwatch = Stopwatch::start();
        destinations[1].restart();
        wait_until("requests succeed again", || {
            client.send(get("/"));
            client.read_response().status == 200
        });
        assert!(stopwatch.elapsed() < secs(1), "{context}: back after {:?}", stopwatch.elapsed());
    }
}
