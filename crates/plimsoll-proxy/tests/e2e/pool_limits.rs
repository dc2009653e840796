//! Limits of pools and destinations: never exceeded; excess requests wait in order and for a limited time.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use plimsoll_core::DestinationLimits;

use crate::kit::{
    Balancer, Client, Destination, Gate, Setup, Stopwatch, get, ms, ok, respond_ok, wait_until,
};

/// Measures the current and the maximum number of concurrent requests.
#[derive(Clone, Default)]
struct ConcurrencyMeter(Arc<[AtomicUsize; 2]>);

impl ConcurrencyMeter {
    fn max(&self) -> usize {
        self.0[1].load(SeqCst)
    }

    /// Starts a destination that serves each request in `millis` milliseconds.
    fn destination(&self, millis: u64) -> Destination {
        let meter = self.clone();
        Destination::start(move |conn| {
            while conn.request().is_some() {
                let now = meter.0[0].fetch_add(1, SeqCst) + 1;
                meter.0[1].fetch_max(now, SeqCst);
                thread::sleep(ms(millis));
                meter.0[0].fetch_sub(1, SeqCst);
                conn.send(ok("done"));
            }
        })
    }
}

/// Starts a destination that responds when the gate is open, and records the order of arrival.
fn start_gated(gate: &Gate, order: &Arc<Mutex<Vec<String>>>) -> Destination {
    let (gate, order) = (gate.clone(), order.clone());
    Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            order.lock().expect("no panic").push(request.target);
            gate.wait();
            conn.send(ok("done"));
        }
    })
}

fn limit_to_one_request(setup: &mut Setup) {
    setup.pools[0].destinations.iter_mut().for_each(|d| d.limits.requests = 1);
}

fn queue_length(balancer: &Balancer) -> u32 {
    balancer.pools()[0].limits.pending.current
}

/// Sends a request and waits until `expected` requests are queued.
fn send_and_wait_queued(balancer: &Balancer, path: &str, expected: u32) -> Client {
    let mut client = balancer.connect();
    client.send(get(path));
    wait_until("the request is queued", || queue_length(balancer) == expected);
    client
}

#[test]
fn destination_limit_is_never_exceeded_and_all_requests_are_served() {
    let meter = [ConcurrencyMeter::default(), ConcurrencyMeter::default()];
    let (a, b) = (meter[0].destination(2), meter[1].destination(3));
    let balancer = Setup::http(&[&a, &b])
        .with(|s| {
            s.workers = 2;
            s.pools[0].destinations[0].limits.requests = 2;
            s.pools[0].destinations[1].limits.requests = 3;
        })
        .start();
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = balancer.connect();
                for _ in 0..25 {
                    client.send(get("/"));
                    assert_eq!(client.read_response().status, 200);
                }
            });
        }
    });
    assert_eq!([meter[0].max(), meter[1].max()], [2, 3], "the limits are used fully and not exceeded");
    wait_until("nothing is in progress", || balancer.pools()[0].limits.requests.current == 0);
    let view = balancer.pools().remove(0);
    assert_eq!(view.limits.pending.current, 0);
    assert!(view.counts.waits.buckets.iter().sum::<u64>() > 0 && view.counts.overflows == [0; 4]);
}

#[test]
fn pool_limit_is_never_exceeded_over_all_destinations() {
    let meter = ConcurrencyMeter::default();
    let destinations = [meter.destination(2), meter.destination(2), meter.destination(2)];
    let balancer = Setup::http(&destinations.each_ref())
        .with(|s| {
            s.workers = 2;
            s.pools[0].limits.requests = 4;
        })
        .start();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(balancer.fetch(get("/")).status, 200)));
        }
    });
    assert_eq!(meter.max(), 4);
}

#[test]
fn queue_is_first_in_first_out() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let balancer = Setup::http(&[&destination]).with(limit_to_one_request).start();
    let mut clients = vec![send_and_wait_queued(&balancer, "/0", 0)];
    wait_until("the first is served", || order.lock().expect("no panic").len() == 1);
    for n in 1..8 {
        clients.push(send_and_wait_queued(&balancer, &format!("/{n}"), n));
    }
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    let expected: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
    assert_eq!(*order.lock().expect("no panic"), expected);
}

#[test]
fn full_queue_refuses_at_once_and_queue_timeout_later() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let setup = Setup::http(&[&destination]).with(limit_to_one_request).with(|s| {
        s.pools[0].limits.pending = 2;
        s.pools[0].wait = ms(300);
    });
    let balancer = setup.start();
    let mut served = send_and_wait_queued(&balancer, "/", 0);
    wait_until("the request is being served", || destination.connections() == 1);
    let stopwatch = Stopwatch::start();
    let (mut first, mut second) =
        (send_and_wait_queued(&balancer, "/", 1), send_and_wait_queued(&balancer, "/", 2));
    let response = balancer.fetch(get("/"));
    assert_eq!((response.status, response.fields.one("retry-after")), (503, Some("1")));
    assert!(stopwatch.elapsed() < ms(290), "refused at once, not after {:?}", stopwatch.elapsed());
    for client in [&mut first, &mut second] {
        assert_eq!(client.read_response().status, 503);
        client.send(get("/later"));
    }
    assert!(stopwatch.elapsed() >= ms(300));
    assert_eq!((balancer.refusals("overflow"), balancer.refusals("queue_timeout")), (1, 2));
    gate.open();
    for client in [&mut served, &mut first, &mut second] {
        assert_eq!(client.read_response().status, 200, "the connection is kept");
    }
    assert_eq!(balancer.pools()[0].counts.overflows, [1, 2, 0, 0]);
}

#[test]
fn without_a_queue_excess_requests_are_refused() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let balancer = Setup::http(&[&destination])
        .with(limit_to_one_request)
        .with(|s| s.pools[0].limits.pending = 0)
        .start();
    let mut served = send_and_wait_queued(&balancer, "/", 0);
    wait_until("the request is being served", || destination.connections() == 1);
    assert_eq!(balancer.fetch(get("/")).status, 503);
    gate.open();
    assert_eq!(served.read_response().status, 200);
    assert_eq!(balancer.fetch(get("/")).status, 200);
}

#[test]
fn queueing_counts_towards_the_total_timeout() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let balancer = Setup::http(&[&destination])
        .with(limit_to_one_request)
        .with(|s| s.pools[0].timeouts.total = Some(ms(400)))
        .start();
    let mut served = send_and_wait_queued(&balancer, "/", 0);
    wait_until("the request is being served", || destination.connections() == 1);
    let mut queued_client = send_and_wait_queued(&balancer, "/", 1);
    assert_eq!((served.read_response().status, queued_client.read_response().status), (504, 504));
    assert_eq!(balancer.refusals("total_timeout"), 2);
    gate.open();
}

#[test]
fn client_disconnect_removes_its_queue_entry() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let balancer = Setup::http(&[&destination]).with(limit_to_one_request).start();
    let mut served = send_and_wait_queued(&balancer, "/0", 0);
    wait_until("the request is being served", || destination.connections() == 1);
    let disconnects = send_and_wait_queued(&balancer, "/1", 1);
    let mut remains = send_and_wait_queued(&balancer, "/2", 2);
    disconnects.abort();
    wait_until("its queue entry is removed", || queue_length(&balancer) == 1);
    gate.open();
    assert_eq!((served.read_response().status, remains.read_response().status), (200, 200));
    assert_eq!(*order.lock().expect("no panic"), ["/0", "/2"]);
}

#[test]
fn queued_requests_move_when_a_destination_stops() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destinations = [start_gated(&gate, &order), start_gated(&gate, &order)];
    let balancer = Setup::http(&destinations.each_ref()).with(limit_to_one_request).start();
    let mut clients = vec![send_and_wait_queued(&balancer, "/", 0), send_and_wait_queued(&balancer, "/", 0)];
    wait_until("both serve", || destinations.iter().all(|d| d.connections() == 1));
    clients.extend((1..=4).map(|n| send_and_wait_queued(&balancer, "/", n)));
    let [dies, lives] = destinations;
    dies.stop_listening();
    gate.open();
    dies.kill();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    drop(lives);
}

#[test]
fn raised_limit_serves_the_queue_and_lowered_limit_cancels_nothing() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let setup = Setup::http(&[&destination]).with(limit_to_one_request);
    let balancer = setup.start();
    let mut clients = vec![send_and_wait_queued(&balancer, "/", 0)];
    wait_until("the request is being served", || destination.connections() == 1);
    clients.extend((1..=3).map(|n| send_and_wait_queued(&balancer, "/", n)));
    let raised = setup.clone().with(|s| s.pools[0].destinations[0].limits.requests = 3);
    balancer.reload(&raised).expect("good");
    wait_until("two more are served", || order.lock().expect("no panic").len() == 3);
    assert_eq!(queue_length(&balancer), 1);
    balancer.reload(&setup).expect("good");
    assert_eq!((balancer.destination(0).in_flight, queue_length(&balancer)), (3, 1));
    let unlimited = setup.clone().with(|s| {
        s.pools[0].destinations[0].limits = DestinationLimits::default();
    });
    balancer.reload(&unlimited).expect("good");
    wait_until("the queue is empty", || queue_length(&balancer) == 0);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
}

#[test]
fn removed_pool_still_serves_its_queue() {
    let (gate, order) = (Gate::default(), Arc::default());
    let (old, new) = (start_gated(&gate, &order), Destination::start(respond_ok("new")));
    let setup = Setup::http(&[&old]).with(limit_to_one_request);
    let balancer = setup.start();
    let mut clients = vec![send_and_wait_queued(&balancer, "/", 0)];
    wait_until("the request is being served", || old.connections() == 1);
    clients.push(send_and_wait_queued(&balancer, "/", 1));
    let other = Setup::http(&[&new]).with(|s| s.pools[0].name = "other".into());
    balancer.reload(&other).expect("good");
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    assert_eq!(order.lock().expect("no panic").len(), 2);
}

#[test]
fn drain_serves_the_queue_and_a_forced_stop_cancels_it() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = start_gated(&gate, &order);
    let setup = Setup::http(&[&destination]).with(limit_to_one_request);
    let balancer = setup.start();
    let mut clients = vec![send_and_wait_queued(&balancer, "/", 0)];
    wait_until("the request is being served", || destination.connections() == 1);
    clients.push(send_and_wait_queued(&balancer, "/", 1));
    balancer.handle.drain();
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    wait_until("the drain has ended", || balancer.has_ended());

    let closed = Gate::default();
    let destination = start_gated(&closed, &order);
    let balancer = Setup::http(&[&destination]).with(limit_to_one_request).start();
    let mut served = send_and_wait_queued(&balancer, "/", 0);
    wait_until("the request is being served", || destination.connections() == 1);
    let mut queued_client = send_and_wait_queued(&balancer, "/", 1);
    balancer.handle.drain();
    wait_until("new connections are refused", || Client::try_connect(balancer.endpoint()).is_err());
    balancer.handle.abort();
    assert!(served.try_read_response("GET").is_err() && queued_client.try_read_response("GET").is_err());
    closed.open();
    std::mem::forget(balancer);
}

#[test]
fn tcp_connections_are_queued() {
    let destination = Destination::start(|conn| {
        conn.send("hello");
        conn.read_to_end();
    });
    let balancer = Setup::tcp(&[&destination]).with(limit_to_one_request).start();
    let mut first = balancer.connect();
    first.expect("hello");
    let mut second = balancer.connect();
    wait_until("the request is queued", || queue_length(&balancer) == 1);
    first.shutdown_write();
    first.expect_closed();
    second.expect("hello");
    second.shutdown_write();
    second.expect_closed();
}

#[test]
fn concurrent_retries_are_limited() {
    let (gate, order) = (Gate::default(), Arc::default());
    let serves = start_gated(&gate, &order);
    let breaks = Destination::start(|conn| drop(conn.request()));
    let balancer = Setup::http(&[&breaks, &serves]).with(|s| s.pools[0].limits.retries = 1).start();
    let mut retried = balancer.connect();
    retried.send(get("/retried"));
    wait_until("it is tried again", || balancer.pools()[0].limits.retries.current == 1);
    wait_until("the request is being served", || serves.connections() == 1);
    let mut plain = balancer.connect();
    plain.send(get("/plain"));
    wait_until("the request is being served", || serves.connections() == 2);
    // The next request would need a second concurrent retry.
    assert_eq!(balancer.fetch(get("/third")).status, 502);
    assert_eq!(balancer.pools()[0].counts.overflows, [0, 0, 1, 0]);
    gate.open();
    assert_eq!((retried.read_response().status, plain.read_response().status), (200, 200));
    wait_until("no retry is in progress", || balancer.pools()[0].limits.retries.current == 0);
    assert!(order.lock().expect("no panic").contains(&"/plain".to_owned()));
}

#[test]
fn idle_connections_count_and_are_closed_for_waiting_requests() {
    let meter = ConcurrencyMeter::default();
    let destination = meter.destination(1);
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            s.workers = 2;
            s.pools[0].destinations[0].limits.connections = 2;
        })
        .start();
    let max = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = balancer.connect();
                for _ in 0..20 {
                    client.send(get("/"));
                    assert_eq!(client.read_response().status, 200);
                    max.fetch_max(balancer.destination(0).connections.current as usize, SeqCst);
                }
            });
        }
    });
    assert_eq!((meter.max(), max.load(SeqCst)), (2, 2));
    wait_until("the others are closed", || destination.open() <= 2);
    assert_eq!(balancer.pools()[0].counts.overflows, [0; 4]);
}

#[test]
fn pool_limit_of_one_connection_closes_it_for_another_destination() {
    let destinations = [respond_ok("a"), respond_ok("b")].map(Destination::start);
    let balancer = Setup::http(&destinations.each_ref()).with(|s| s.pools[0].limits.connections = 1).start();
    let mut client = balancer.connect();
    for round in 0..10 {
        client.send(get("/"));
        assert_eq!(client.read_response().text(), ["a", "b"][round % 2]);
        assert_eq!(balancer.pools()[0].limits.connections.current, 1);
    }
    wait_until("one is open", || destinations.iter().map(Destination::open).sum::<usize>() == 1);
    assert!(destinations.iter().all(|d| d.connections() == 5));
}

#[test]
fn new_connection_limit_closes_connections_opened_before_it() {
    let destination = Destination::start(respond_ok("ok"));
    let setup = Setup::http(&[&destination]);
    let balancer = setup.start();
    assert_eq!(balancer.fetch(get("/")).status, 200);
    let limited = setup.with(|s| s.pools[0].destinations[0].limits.connections = 1);
    balancer.reload(&limited).expect("good");
    wait_until("it is closed", || destination.open() == 0);
    assert_eq!(balancer.fetch(get("/")).status, 200);
    assert_eq!(balancer.destination(0).connections.current, 1);
}

#[test]
fn tcp_and_http_share_the_connection_limit() {
    let destination = Destination::start(respond_ok("ok"));
    let setup = Setup::http(&[&destination]).with(|s| {
        let mut raw = s.listeners[0].clone();
        (raw.name, raw.protocol) = ("raw".into(), plimsoll_config::model::Protocol::Tcp);
        s.listeners.push(raw);
        s.pools[0].destinations[0].limits.connections = 1;
    });
    let balancer = setup.start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.read_response().status, 200);
    let mut raw = Client::connect(balancer.endpoint_of("raw"));
    raw.send(get("/"));
    assert_eq!(raw.read_response().status, 200, "the idle connection was closed for it");
    client.send(get("/"));
    wait_until("the request is queued", || queue_length(&balancer) == 1);
    raw.shutdown_write();
    raw.expect_closed();
    assert_eq!(client.read_response().status, 200);
}
