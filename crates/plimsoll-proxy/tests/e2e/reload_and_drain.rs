//! Starting, reloading and draining: nothing half, nothing lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use plimsoll_config::model::DestinationAddress;
use plimsoll_core::Weight;
use plimsoll_proxy::{ReloadError, StartError};

use crate::kit::{
    Balancer, Client, Destination, Gate, Place, Setup, Temporary, Watch, get, hello, ms, ok, secs, until,
};

fn gated(gate: &Gate) -> Destination {
    let wait = gate.clone();
    Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            if request.target == "/long" {
                visit.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
                wait.pass();
                visit.send("half");
            } else {
                visit.send(ok("quick"));
            }
        }
    })
}

#[test]
fn a_drain_finishes_what_runs_ends_what_rests_and_takes_nothing_new() {
    let gate = Gate::default();
    let destination = gated(&gate);
    let balancer = Setup::http(&[&destination]).with(|s| s.workers = 2).start();
    let mut running = balancer.connect();
    running.send(get("/long"));
    running.expect("HTTP/1.1 200 OK\r\n");
    let (mut idle, mut fresh, mut begun) = (balancer.connect(), balancer.connect(), balancer.connect());
    idle.send(get("/"));
    assert!(!idle.answer().closes());
    begun.send("GET / HTTP/1.1\r\nHo");
    until("all are in", || balancer.active() == 4);
    let watch = Watch::start();
    balancer.handle.drain();
    until("the door is shut", || Client::try_connect(balancer.place()).is_err());
    idle.expect_end();
    fresh.expect_end();
    assert!(watch.elapsed() < secs(3), "resting connections ended after {:?}", watch.elapsed());
    begun.send("st: t\r\n\r\n");
    let answer = begun.answer();
    assert_eq!((answer.status, answer.closes()), (200, true), "a request under way is served, and the last");
    begun.expect_end();
    assert!(!balancer.has_ended());
    gate.open();
    running.expect("Content-Length: 8\r\n\r\nhalfhalf");
    running.expect_end();
    until("the drain has ended", || balancer.has_ended());
    assert_eq!(balancer.refused("header_timeout"), 0, "nobody was too slow");
}

#[test]
fn a_busy_connection_is_told_to_close_in_a_drain() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert!(!client.answer().closes());
    balancer.handle.drain();
    until("the door is shut", || Client::try_connect(balancer.place()).is_err());
    client.send(get("/"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (200, true));
    client.expect_end();
    assert!(matches!(balancer.reload(&Setup::http(&[&destination])), Err(ReloadError::Draining)));
}

#[test]
fn a_reload_keeps_connections_counters_and_the_rotation() {
    let destinations = ["a", "b", "c"].map(|name| Destination::start(hello(name)));
    let [a, b, c] = &destinations;
    let setup = Setup::http(&[a, b, c]);
    let balancer = setup.start();
    let mut client = balancer.connect();
    let mut ask = || {
        client.send(get("/"));
        client.answer().text()
    };
    assert_eq!([ask(), ask(), ask(), ask()].concat(), "abca");
    let changed = setup.clone().with(|s| {
        s.listeners[0].via = true;
        s.pools[0].timeouts.response = secs(7);
    });
    let summary = balancer.reload(&changed).expect("a good configuration");
    assert!(summary.contains("1 changed"), "{summary}");
    assert_eq!([ask(), ask(), ask()].concat(), "bca", "the rotation goes on");
    let connections: Vec<usize> = destinations.iter().map(Destination::connections).collect();
    assert_eq!(connections, [1, 1, 1], "pooled connections are kept");
    assert_eq!(balancer.destination(0).counts.answered(), 3);
    until("requests went on being counted", || {
        let rule = &balancer.handle.traffic().routes[0].counts;
        rule.requests.iter().flatten().sum::<u64>() == 7
    });
    assert_eq!(balancer.handle.traffic().listeners[0].counts.total, 1, "and the client stayed");
    assert!(a.requests().last().is_some_and(|r| r.fields.has("via")) || b.requests()[1].fields.has("via"));
}

#[test]
fn destinations_come_go_and_move_with_a_reload() {
    let destinations = ["a", "b", "c"].map(|name| Destination::start(hello(name)));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b]).start();
    let heard = |n: usize| {
        let mut names: Vec<String> = (0..n).map(|_| balancer.ask(get("/")).text()).collect();
        names.sort();
        names.dedup();
        names.concat()
    };
    assert_eq!(heard(4), "ab");
    balancer.reload(&Setup::http(&[a, b, c])).expect("good");
    until("the new one serves", || heard(6) == "abc");
    balancer.reload(&Setup::http(&[a])).expect("good");
    until("the others are gone", || heard(6) == "a");
    until("and so are their connections", || b.open() == 0 && c.open() == 0);
    // The same name at another address: no connection to the old one is used.
    let moved = Setup::http(&[a]).with(|s| s.pools[0].destinations[0].address = c.place.as_destination());
    balancer.reload(&moved).expect("good");
    until("it has moved", || heard(3) == "c");
    let heavier = Setup::http(&[a, b]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0));
    balancer.reload(&heavier).expect("good");
    until("weights are heeded", || heard(6) == "b");
}

#[test]
fn listeners_open_and_close_with_a_reload() {
    let destination = Destination::start(hello("ok"));
    let setup = Setup::http(&[&destination]).with(|s| s.workers = 2);
    let balancer = setup.start();
    let first = balancer.place();
    let two = setup.clone().with(|s| {
        let mut second = s.listeners[0].clone();
        second.name = "second".into();
        s.listeners.push(second);
    });
    balancer.reload(&two).expect("good");
    assert_eq!(balancer.place(), first, "a listener keeps its socket");
    let second = balancer.place_of("second");
    let mut old = Client::connect(first.clone());
    old.expect_open();
    Client::connect(second.clone()).expect_open();
    let one = two.clone().with(|s| drop(s.listeners.remove(0)));
    balancer.reload(&one).expect("good");
    until("the first door is shut", || Client::try_connect(first.clone()).is_err());
    Client::connect(second).expect_open();
    old.send(get("/"));
    let answer = old.answer();
    assert_eq!((answer.status, answer.closes()), (200, true), "who is in is served, once more");
    old.expect_end();
}

#[test]
fn a_listener_may_change_its_name_and_keep_its_address() {
    let path = Temporary::new("renamed.sock");
    let destination = Destination::start(hello("ok"));
    for workers in [1, 2] {
        for by_path in [false, true] {
            let setup = Setup::http(&[&destination]).with(|s| s.workers = workers);
            let place = if by_path { path.place() } else { setup.start().place() };
            let named = |name: &str| {
                setup.clone().with(|s| {
                    s.listeners[0].name = name.into();
                    s.listeners[0].addresses = vec![place.as_listener()];
                })
            };
            let mut balancer = None;
            until("the address is free", || {
                balancer = named("old").try_start().ok();
                balancer.is_some()
            });
            let balancer = balancer.expect("started");
            let mut inside = Client::connect(place.clone());
            inside.expect_open();
            balancer.reload(&named("new")).expect("the address is ours already");
            assert_eq!(balancer.handle.addresses().len(), 1);
            for _ in 0..20 {
                let mut client = Client::connect(place.clone());
                client.send(get("/"));
                assert_eq!(client.answer().text(), "ok");
            }
            inside.send(get("/"));
            assert_eq!(inside.answer().status, 200, "who was inside is served");
        }
    }
}

#[test]
fn a_reload_that_cannot_be_put_to_work_changes_nothing() {
    let destinations = ["old", "new"].map(|name| Destination::start(hello(name)));
    let setup = Setup::http(&[&destinations[0]]);
    let balancer = setup.start();
    let (first, mut client) = (balancer.place(), balancer.connect());
    let busy = destinations[1].place.as_listener();
    let foreign = Place::from(std::net::SocketAddr::from(([192, 0, 2, 1], 8080))).as_listener();
    for address in [busy, foreign] {
        let bad = Setup::http(&[&destinations[1]]).with(|s| {
            let mut second = s.listeners[0].clone();
            (second.name, second.addresses) = ("second".into(), vec![address.clone()]);
            s.listeners.push(second);
        });
        let error = balancer.reload(&bad).expect_err("that address is not to be had");
        assert!(matches!(&error, ReloadError::Start(StartError::Bind { .. })), "{error}");
        assert!(error.to_string().contains("second"), "{error}");
    }
    let nowhere = Setup::http(&[&destinations[1]]).with(|s| {
        s.pools[0].destinations[0].address = DestinationAddress::Name("no-such-host.invalid".into(), 80);
    });
    let error = balancer.reload(&nowhere).expect_err("that name does not resolve");
    assert!(matches!(&error, ReloadError::Start(StartError::Resolve { .. })), "{error}");
    let error = balancer.reload_to(Err("line 3: nonsense".into())).expect_err("it is invalid");
    assert_eq!(error.to_string(), "line 3: nonsense");
    client.send(get("/"));
    assert_eq!(client.answer().text(), "old");
    let (reloads, names) = (balancer.handle.traffic().reloads, balancer.handle.addresses());
    assert_eq!((reloads.succeeded, reloads.failed, reloads.last_succeeded), (0, 4, false));
    assert_eq!((names.len(), balancer.place()), (1, first));
    balancer.reload(&setup).expect("good");
    assert!(balancer.handle.traffic().reloads.last_succeeded);
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let destination = Destination::start(hello("ok"));
    let spare = Destination::absent(hello("unused"));
    for workers in [1, 2] {
        let bad = Setup::http(&[&destination]).with(|s| {
            s.workers = workers;
            s.listeners[0].addresses = vec![spare.place.as_listener()];
            let mut second = s.listeners[0].clone();
            (second.name, second.addresses) = ("second".into(), vec![destination.place.as_listener()]);
            s.listeners.push(second);
        });
        let error = bad.try_start().expect_err("the address is busy");
        assert!(matches!(&error, StartError::Bind { listener, .. } if &**listener == "second"), "{error}");
        assert!(Client::try_connect(spare.place.clone()).is_err(), "the first listener is closed again");
    }
    let path = Temporary::new("busy");
    let other = Destination::start_unix(&path, hello("other"));
    let bad =
        Setup::http(&[&destination]).with(|s| s.listeners[0].addresses = vec![other.place.as_listener()]);
    assert!(bad.try_start().is_err(), "a socket file somebody listens on is not taken over");
    assert!(Client::try_connect(other.place.clone()).is_ok());
}

#[test]
fn reloads_under_load_cost_nobody_anything() {
    let destinations = ["a", "b", "c"].map(|name| Destination::start(hello(name)));
    let [a, b, c] = &destinations;
    let setups = [Setup::http(&[a, b, c]), Setup::http(&[b, a]), Setup::http(&[c])];
    let setups = setups.map(|s| s.with(|s| s.workers = 2));
    let balancer = setups[0].start();
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (place, stop) = (balancer.place(), stop.clone());
                scope.spawn(move || {
                    let (mut client, mut answered) = (Client::connect(place), 0);
                    while !stop.load(SeqCst) {
                        client.send(get("/"));
                        let answer = client.answer();
                        assert_eq!((answer.status, answer.closes()), (200, false));
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for n in 0..60 {
            balancer.reload(&setups[n % 3]).expect("good");
            std::thread::sleep(ms(15));
        }
        stop.store(true, SeqCst);
        let answered: u32 = clients.into_iter().map(|client| client.join().expect("no errors")).sum();
        assert!(answered > 500, "{answered}");
    });
    assert_eq!(balancer.handle.traffic().reloads.succeeded, 60);
}

#[test]
fn every_hold_on_a_destination_is_given_back() {
    let destination = Destination::start(|visit| {
        while let Some(request) = visit.request() {
            match request.target.as_str() {
                "/reset" => return visit.reset(),
                "/close" => return,
                "/garbage" => visit.send("garbage\r\n\r\n"),
                "/half" => {
                    visit.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                    return;
                }
                "/silent" => return visit.read_to_end(),
                _ => visit.send(ok("fine")),
            };
        }
    });
    let balancer: Balancer =
        Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = ms(100)).start();
    for round in 0..5 {
        for path in ["/", "/reset", "/close", "/garbage", "/half", "/silent"] {
            for leaves in [false, true] {
                let mut client = balancer.connect();
                client.send(get(path));
                if leaves {
                    client.abort();
                } else {
                    let _whatever = client.try_answer("GET");
                }
            }
        }
        until("all is given back", || {
            let rules = &balancer.handle.traffic().routes[0].counts;
            balancer.destination(0).in_flight == 0 && balancer.active() == 0 && rules.in_flight == 0
        });
        assert_eq!(balancer.ask(get("/")).text(), "fine", "round {round}");
    }
}

#[test]
fn a_listener_of_several_addresses_is_one_listener() {
    let destination = Destination::start(hello("ok"));
    let path = Temporary::new("second");
    let setup = Setup::http(&[&destination]);
    let both = setup.clone().with(|s| s.listeners[0].addresses.push(path.place().as_listener()));
    let balancer = both.start();
    for place in [balancer.place(), path.place()] {
        Client::connect(place).expect_open();
    }
    until("both are counted", || balancer.handle.traffic().listeners[0].counts.total == 2);
    balancer.reload(&setup).expect("good");
    until("the second address is shut", || Client::try_connect(path.place()).is_err());
    Client::connect(balancer.place()).expect_open();
    balancer.reload(&both).expect("its file is left over and taken over");
    Client::connect(path.place()).expect_open();
}
