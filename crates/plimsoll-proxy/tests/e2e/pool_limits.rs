//! What a pool and its destinations may have at once: never more, whoever asks; the others wait in order, and not
//! for ever.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use plimsoll_core::DestinationLimits;

use crate::kit::{Balancer, Client, Destination, Gate, Setup, Watch, get, hello, ms, ok, until};

/// How many messages a destination has now, and had at most.
#[derive(Clone, Default)]
struct Busy(Arc<[AtomicUsize; 2]>);

impl Busy {
    fn most(&self) -> usize {
        self.0[1].load(SeqCst)
    }

    /// A destination that has each message for `millis`.
    fn destination(&self, millis: u64) -> Destination {
        let busy = self.clone();
        Destination::start(move |visit| {
            while visit.request().is_some() {
                let now = busy.0[0].fetch_add(1, SeqCst) + 1;
                busy.0[1].fetch_max(now, SeqCst);
                thread::sleep(ms(millis));
                busy.0[0].fetch_sub(1, SeqCst);
                visit.send(ok("done"));
            }
        })
    }
}

/// Answers when the gate lets it, and notes the order of arrival.
fn gated(gate: &Gate, order: &Arc<Mutex<Vec<String>>>) -> Destination {
    let (gate, order) = (gate.clone(), order.clone());
    Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            order.lock().expect("sound").push(request.target);
            gate.pass();
            visit.send(ok("done"));
        }
    })
}

fn one_at_a_time(setup: &mut Setup) {
    setup.pools[0].destinations.iter_mut().for_each(|d| d.limits.requests = 1);
}

fn waiting(balancer: &Balancer) -> u32 {
    balancer.pools()[0].limits.pending.current
}

/// A client whose request is on its way to a destination that holds it, or in the line behind others.
fn asks(balancer: &Balancer, path: &str, expected: u32) -> Client {
    let mut client = balancer.connect();
    client.send(get(path));
    until("it waits", || waiting(balancer) == expected);
    client
}

#[test]
fn no_destination_has_more_than_it_may_and_everybody_is_served() {
    let busy = [Busy::default(), Busy::default()];
    let (a, b) = (busy[0].destination(2), busy[1].destination(3));
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
                    assert_eq!(client.answer().status, 200);
                }
            });
        }
    });
    assert_eq!([busy[0].most(), busy[1].most()], [2, 3], "as much as may be, and never more");
    until("nobody is left", || balancer.pools()[0].limits.requests.current == 0);
    let view = balancer.pools().remove(0);
    assert_eq!(view.limits.pending.current, 0);
    assert!(view.counts.waits.buckets.iter().sum::<u64>() > 0 && view.counts.overflows == [0; 4]);
}

#[test]
fn a_pool_has_no_more_than_it_may_over_all_destinations() {
    let busy = Busy::default();
    let destinations = [busy.destination(2), busy.destination(2), busy.destination(2)];
    let balancer = Setup::http(&destinations.each_ref())
        .with(|s| {
            s.workers = 2;
            s.pools[0].limits.requests = 4;
        })
        .start();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(balancer.ask(get("/")).status, 200)));
        }
    });
    assert_eq!(busy.most(), 4);
}

#[test]
fn who_has_waited_longest_is_next_and_no_newcomer_passes() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let balancer = Setup::http(&[&destination]).with(one_at_a_time).start();
    let mut clients = vec![asks(&balancer, "/0", 0)];
    until("the first is served", || order.lock().expect("sound").len() == 1);
    for n in 1..8 {
        clients.push(asks(&balancer, &format!("/{n}"), n));
    }
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    let expected: Vec<String> = (0..8).map(|n| format!("/{n}")).collect();
    assert_eq!(*order.lock().expect("sound"), expected);
}

#[test]
fn who_finds_the_queue_full_is_refused_at_once_and_who_waits_too_long_in_time() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let setup = Setup::http(&[&destination]).with(one_at_a_time).with(|s| {
        s.pools[0].limits.pending = 2;
        s.pools[0].wait = ms(300);
    });
    let balancer = setup.start();
    let mut served = asks(&balancer, "/", 0);
    until("it is served", || destination.connections() == 1);
    let watch = Watch::start();
    let (mut first, mut second) = (asks(&balancer, "/", 1), asks(&balancer, "/", 2));
    let answer = balancer.ask(get("/"));
    assert_eq!((answer.status, answer.fields.one("retry-after")), (503, Some("1")));
    assert!(watch.elapsed() < ms(290), "at once, not after {:?}", watch.elapsed());
    for client in [&mut first, &mut second] {
        assert_eq!(client.answer().status, 503);
        client.send(get("/later"));
    }
    assert!(watch.elapsed() >= ms(300));
    assert_eq!((balancer.refused("overflow"), balancer.refused("queue_timeout")), (1, 2));
    gate.open();
    for client in [&mut served, &mut first, &mut second] {
        assert_eq!(client.answer().status, 200, "and the connection goes on");
    }
    assert_eq!(balancer.pools()[0].counts.overflows, [1, 2, 0, 0]);
}

#[test]
fn without_a_queue_nobody_waits() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let balancer =
        Setup::http(&[&destination]).with(one_at_a_time).with(|s| s.pools[0].limits.pending = 0).start();
    let mut served = asks(&balancer, "/", 0);
    until("it is served", || destination.connections() == 1);
    assert_eq!(balancer.ask(get("/")).status, 503);
    gate.open();
    assert_eq!(served.answer().status, 200);
    assert_eq!(balancer.ask(get("/")).status, 200);
}

#[test]
fn waiting_counts_as_time_in_the_pool() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let balancer = Setup::http(&[&destination])
        .with(one_at_a_time)
        .with(|s| s.pools[0].timeouts.total = Some(ms(400)))
        .start();
    let mut served = asks(&balancer, "/", 0);
    until("it is served", || destination.connections() == 1);
    let mut waits = asks(&balancer, "/", 1);
    assert_eq!((served.answer().status, waits.answer().status), (504, 504));
    assert_eq!(balancer.refused("total_timeout"), 2);
    gate.open();
}

#[test]
fn a_client_that_leaves_makes_room_in_the_queue() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let balancer = Setup::http(&[&destination]).with(one_at_a_time).start();
    let mut served = asks(&balancer, "/0", 0);
    until("it is served", || destination.connections() == 1);
    let leaves = asks(&balancer, "/1", 1);
    let mut stays = asks(&balancer, "/2", 2);
    leaves.abort();
    until("it has left", || waiting(&balancer) == 1);
    gate.open();
    assert_eq!((served.answer().status, stays.answer().status), (200, 200));
    assert_eq!(*order.lock().expect("sound"), ["/0", "/2"]);
}

#[test]
fn when_a_destination_dies_those_who_wait_go_elsewhere() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destinations = [gated(&gate, &order), gated(&gate, &order)];
    let balancer = Setup::http(&destinations.each_ref()).with(one_at_a_time).start();
    let mut clients = vec![asks(&balancer, "/", 0), asks(&balancer, "/", 0)];
    until("both serve", || destinations.iter().all(|d| d.connections() == 1));
    clients.extend((1..=4).map(|n| asks(&balancer, "/", n)));
    let [dies, lives] = destinations;
    dies.stop_listening();
    gate.open();
    dies.kill();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    drop(lives);
}

#[test]
fn a_reload_that_raises_a_limit_serves_who_waits_and_one_that_lowers_it_cuts_nobody_off() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let setup = Setup::http(&[&destination]).with(one_at_a_time);
    let balancer = setup.start();
    let mut clients = vec![asks(&balancer, "/", 0)];
    until("it is served", || destination.connections() == 1);
    clients.extend((1..=3).map(|n| asks(&balancer, "/", n)));
    let raised = setup.clone().with(|s| s.pools[0].destinations[0].limits.requests = 3);
    balancer.reload(&raised).expect("good");
    until("two more are served", || order.lock().expect("sound").len() == 3);
    assert_eq!(waiting(&balancer), 1);
    balancer.reload(&setup).expect("good");
    assert_eq!((balancer.destination(0).in_flight, waiting(&balancer)), (3, 1));
    let unlimited = setup.clone().with(|s| {
        s.pools[0].destinations[0].limits = DestinationLimits::default();
    });
    balancer.reload(&unlimited).expect("good");
    until("nobody waits", || waiting(&balancer) == 0);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
}

#[test]
fn a_pool_that_is_gone_still_serves_who_waits_for_it() {
    let (gate, order) = (Gate::default(), Arc::default());
    let (old, new) = (gated(&gate, &order), Destination::start(hello("new")));
    let setup = Setup::http(&[&old]).with(one_at_a_time);
    let balancer = setup.start();
    let mut clients = vec![asks(&balancer, "/", 0)];
    until("it is served", || old.connections() == 1);
    clients.push(asks(&balancer, "/", 1));
    let other = Setup::http(&[&new]).with(|s| s.pools[0].name = "other".into());
    balancer.reload(&other).expect("good");
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    assert_eq!(order.lock().expect("sound").len(), 2);
}

#[test]
fn a_drain_serves_who_waits_and_a_cut_ends_the_waiting() {
    let (gate, order) = (Gate::default(), Arc::default());
    let destination = gated(&gate, &order);
    let setup = Setup::http(&[&destination]).with(one_at_a_time);
    let balancer = setup.start();
    let mut clients = vec![asks(&balancer, "/", 0)];
    until("it is served", || destination.connections() == 1);
    clients.push(asks(&balancer, "/", 1));
    balancer.handle.drain();
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    until("the drain has ended", || balancer.has_ended());

    let closed = Gate::default();
    let destination = gated(&closed, &order);
    let balancer = Setup::http(&[&destination]).with(one_at_a_time).start();
    let mut served = asks(&balancer, "/", 0);
    until("it is served", || destination.connections() == 1);
    let mut waits = asks(&balancer, "/", 1);
    balancer.handle.drain();
    until("the door is shut", || Client::try_connect(balancer.place()).is_err());
    balancer.handle.abort();
    assert!(served.try_answer("GET").is_err() && waits.try_answer("GET").is_err());
    closed.open();
    std::mem::forget(balancer);
}

#[test]
fn connections_of_tcp_wait_for_a_place_too() {
    let destination = Destination::start(|visit| {
        visit.send("hello");
        visit.read_to_end();
    });
    let balancer = Setup::tcp(&[&destination]).with(one_at_a_time).start();
    let mut first = balancer.connect();
    first.expect("hello");
    let mut second = balancer.connect();
    until("it waits", || waiting(&balancer) == 1);
    first.end();
    first.expect_end();
    second.expect("hello");
    second.end();
    second.expect_end();
}

#[test]
fn no_more_are_tried_again_at_once_than_may_be() {
    let (gate, order) = (Gate::default(), Arc::default());
    let serves = gated(&gate, &order);
    let breaks = Destination::start(|visit| drop(visit.request()));
    let balancer = Setup::http(&[&breaks, &serves]).with(|s| s.pools[0].limits.retries = 1).start();
    let mut retried = balancer.connect();
    retried.send(get("/retried"));
    until("it is tried again", || balancer.pools()[0].limits.retries.current == 1);
    until("it is served", || serves.connections() == 1);
    let mut plain = balancer.connect();
    plain.send(get("/plain"));
    until("it is served", || serves.connections() == 2);
    // The next would be tried again beside the first.
    assert_eq!(balancer.ask(get("/third")).status, 502);
    assert_eq!(balancer.pools()[0].counts.overflows, [0, 0, 1, 0]);
    gate.open();
    assert_eq!((retried.answer().status, plain.answer().status), (200, 200));
    until("nobody is tried again", || balancer.pools()[0].limits.retries.current == 0);
    assert!(order.lock().expect("sound").contains(&"/plain".to_owned()));
}

#[test]
fn idle_connections_count_and_make_room_for_others() {
    let busy = Busy::default();
    let destination = busy.destination(1);
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            s.workers = 2;
            s.pools[0].destinations[0].limits.connections = 2;
        })
        .start();
    let most = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = balancer.connect();
                for _ in 0..20 {
                    client.send(get("/"));
                    assert_eq!(client.answer().status, 200);
                    most.fetch_max(balancer.destination(0).connections.current as usize, SeqCst);
                }
            });
        }
    });
    assert_eq!((busy.most(), most.load(SeqCst)), (2, 2));
    until("the others are closed", || destination.open() <= 2);
    assert_eq!(balancer.pools()[0].counts.overflows, [0; 4]);
}

#[test]
fn a_pool_with_one_connection_closes_it_for_another_destination() {
    let destinations = [hello("a"), hello("b")].map(Destination::start);
    let balancer = Setup::http(&destinations.each_ref()).with(|s| s.pools[0].limits.connections = 1).start();
    let mut client = balancer.connect();
    for round in 0..10 {
        client.send(get("/"));
        assert_eq!(client.answer().text(), ["a", "b"][round % 2]);
        assert_eq!(balancer.pools()[0].limits.connections.current, 1);
    }
    until("one is open", || destinations.iter().map(Destination::open).sum::<usize>() == 1);
    assert!(destinations.iter().all(|d| d.connections() == 5));
}

#[test]
fn connections_of_a_reload_before_the_limit_make_way_for_those_that_count() {
    let destination = Destination::start(hello("ok"));
    let setup = Setup::http(&[&destination]);
    let balancer = setup.start();
    assert_eq!(balancer.ask(get("/")).status, 200);
    let limited = setup.with(|s| s.pools[0].destinations[0].limits.connections = 1);
    balancer.reload(&limited).expect("good");
    until("it is closed", || destination.open() == 0);
    assert_eq!(balancer.ask(get("/")).status, 200);
    assert_eq!(balancer.destination(0).connections.current, 1);
}

#[test]
fn tunnels_and_requests_share_the_connections_there_may_be() {
    let destination = Destination::start(hello("ok"));
    let setup = Setup::http(&[&destination]).with(|s| {
        let mut raw = s.listeners[0].clone();
        (raw.name, raw.protocol) = ("raw".into(), plimsoll_config::model::Protocol::Tcp);
        s.listeners.push(raw);
        s.pools[0].destinations[0].limits.connections = 1;
    });
    let balancer = setup.start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert_eq!(client.answer().status, 200);
    let mut raw = Client::connect(balancer.place_of("raw"));
    raw.send(get("/"));
    assert_eq!(raw.answer().status, 200, "the idle one was closed for it");
    client.send(get("/"));
    until("it waits", || waiting(&balancer) == 1);
    raw.end();
    raw.expect_end();
    assert_eq!(client.answer().status, 200);
}
