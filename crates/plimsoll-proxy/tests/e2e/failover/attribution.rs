//! Attribution of failures: a healthy destination is not ejected for what clients and messages do.

use std::sync::Arc;

use plimsoll_config::model::Protocol;
use plimsoll_core::subset::{Fallback, Subset};

use super::close_after_request;
use crate::kit::{
    Balancer, Client, Connection, Destination, Gate, Setup, Stopwatch, get, ms, ok, respond_ok, secs,
    wait_until,
};
use crate::mqtt::{connack_accepted, connect_packet, read_packet};

/// Turns outlier detection on, with the product's limits.
fn with_detection(setup: Setup) -> Setup {
    setup.with(|s| {
        s.pools[0].outlier = plimsoll_config::defaults::OUTLIER;
        s.pools[0].panic_threshold = 0.5;
    })
}

fn statuses(balancer: &Balancer, count: usize) -> Vec<&'static str> {
    (0..count).map(|n| balancer.destination(n).status.as_str()).collect()
}

/// Responds to every request but those for `/poison`, at which it closes.
fn poisonable(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        if request.target == "/poison" || !conn.send(ok("well")) {
            return;
        }
    }
}

#[test]
fn requests_at_which_every_destination_closes_eject_none() {
    let all = [(); 3].map(|()| Destination::start(poisonable));
    let balancer = with_detection(Setup::http(&all.each_ref())).start();
    for _ in 0..30 {
        assert_eq!(balancer.fetch(get("/poison")).status, 502);
    }
    assert_eq!(statuses(&balancer, 3), ["serving"; 3]);
    assert_eq!(balancer.fetch(get("/")).status, 200);
}

#[test]
fn destination_that_alone_closes_is_ejected() {
    let failing = Destination::start(close_after_request);
    let others = [(); 2].map(|()| Destination::start(respond_ok("well")));
    let balancer = with_detection(Setup::http(&[&failing, &others[0], &others[1]])).start();
    wait_until("it is ejected", || {
        assert_eq!(balancer.fetch(get("/")).status, 200);
        balancer.destination(0).status.as_str() == "ejected"
    });
}

#[test]
fn uploads_that_never_come_are_no_silence_of_the_destination() {
    let all = [(); 3].map(|()| Destination::start(respond_ok("well")));
    let setup = with_detection(Setup::http(&all.each_ref()));
    let balancer = setup.with(|s| s.pools[0].outlier.unresponsive_after = Some(ms(50))).start();
    let mut uploads = Vec::new();
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < ms(1500) {
        if uploads.len() < 40 {
            // Round robin: each of these reaches the same destination.
            let mut client = balancer.connect();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
            uploads.push(client);
            std::thread::sleep(ms(10));
        }
        assert_eq!(balancer.fetch(get("/")).status, 200);
        assert_eq!(balancer.fetch(get("/")).status, 200);
        assert_eq!(statuses(&balancer, 3), ["serving"; 3]);
    }
    for mut upload in uploads {
        upload.send([b'x'; 100]);
        assert_eq!(upload.read_response().status, 200);
    }
}

#[test]
fn long_polls_eject_no_destination() {
    let gate = Gate::default();
    let all = [(); 3].map(|()| {
        let gate = gate.clone();
        Destination::start(move |conn| {
            while let Some(request) = conn.request() {
                if request.target == "/poll" {
                    gate.wait();
                }
                if !conn.send(ok("well")) {
                    return;
                }
            }
        })
    });
    let setup = with_detection(Setup::http(&all.each_ref()));
    let balancer = setup.with(|s| s.pools[0].outlier.unresponsive_after = Some(ms(50))).start();
    let mut polls: Vec<Client> = Vec::new();
    for _ in 0..7 {
        let mut client = balancer.connect();
        client.send(get("/poll"));
        wait_until("it waits", || all[0].requests().len() > polls.len());
        polls.push(client);
        assert_eq!(balancer.fetch(get("/")).status, 200);
        assert_eq!(balancer.fetch(get("/")).status, 200);
    }
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < ms(800) {
        std::thread::sleep(ms(20));
        assert_eq!(statuses(&balancer, 3), ["serving"; 3]);
    }
    gate.open();
    for mut poll in polls {
        assert_eq!(poll.read_response().status, 200);
    }
}

#[test]
fn failing_canary_still_serves_the_route_that_has_no_other() {
    let canary = Destination::start(|conn| {
        while conn.request().is_some() && conn.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") {}
    });
    let others = [(); 2].map(|()| Destination::start(respond_ok("well")));
    let label = || ("track".into(), "canary".into());
    let balancer = with_detection(Setup::http(&[&canary, &others[0], &others[1]]))
        .with(|s| {
            s.pools[0].destinations[0].labels = [label()].into();
            let only_canary =
                plimsoll_core::route::Match { path_prefix: Some("/canary".into()), ..Default::default() };
            let mut to_canary = crate::kit::route("canary", 0, only_canary);
            let subset = Arc::new(Subset::new(vec![label()], Fallback::None));
            s.pools[0].tiers.subsets = vec![subset.clone()];
            to_canary.subset = Some(subset);
            let rest = crate::kit::route("rest", 0, plimsoll_core::route::Match::default());
            s.listeners[0].routes = vec![to_canary, rest];
        })
        .start();
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/canary")).status, 500, "and not 503");
    }
    assert_eq!(statuses(&balancer, 3), ["ejected", "serving", "serving"]);
    for _ in 0..10 {
        assert_eq!(balancer.fetch(get("/")).text(), "well");
    }
}

#[test]
fn all_serve_again_within_seconds_after_the_whole_pool_failed() {
    let recovery = Gate::default();
    let all = [(); 3].map(|()| {
        let recovery = recovery.clone();
        Destination::start(move |conn| {
            while conn.request().is_some() {
                let failed = "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned();
                if !conn.send(if recovery.is_open() { ok("well") } else { failed }) {
                    return;
                }
            }
        })
    });
    let balancer = with_detection(Setup::http(&all.each_ref())).start();
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < ms(700) {
        balancer.fetch(get("/"));
    }
    assert_eq!(statuses(&balancer, 3).iter().filter(|status| **status == "ejected").count(), 1);
    recovery.open();
    let stopwatch = Stopwatch::start();
    wait_until("all serve again", || {
        balancer.fetch(get("/"));
        statuses(&balancer, 3) == ["serving"; 3]
    });
    assert!(stopwatch.elapsed() < secs(6), "{:?}", stopwatch.elapsed());
}

#[test]
fn malformed_connects_reach_no_broker_and_eject_none() {
    let brokers = [(); 2].map(|()| {
        Destination::start(|conn| {
            // Closes at a CONNECT of this client.
            match read_packet(conn) {
                Some(first) if first.windows(6).any(|bytes| bytes == b"poison") => {}
                Some(first) if conn.send(connack_accepted(first[8])) => while read_packet(conn).is_some() {},
                _ => {}
            }
        })
    });
    let balancer = with_detection(Setup::http(&brokers.each_ref()))
        .with(|s| s.listeners[0].protocol = Protocol::Mqtt)
        .start();
    let mut others: Vec<Client> = (0..6)
        .map(|n| {
            let mut client = balancer.connect();
            client.send(connect_packet(4, &format!("device-{n}")));
            client.expect(connack_accepted(4));
            client
        })
        .collect();
    let seen = || brokers.iter().map(Destination::connections).sum::<usize>();
    let before = seen();
    // A will for the topic `#`, and a control character in the identifier.
    let will = b"\x10\x12\0\x04MQTT\x04\x06\0\x3c\0\x01d\0\x01#\0\0";
    for malformed in [&will[..], &connect_packet(5, "a\u{1}")] {
        for _ in 0..10 {
            let mut client = balancer.connect();
            client.send(malformed);
            client.read_to_end();
        }
    }
    assert_eq!(seen(), before, "no broker has seen them");
    for _ in 0..20 {
        let mut client = balancer.connect();
        client.send(connect_packet(4, "poison"));
        client.read_to_end();
    }
    assert!(seen() > before);
    assert_eq!(statuses(&balancer, 2), ["serving"; 2]);
    others.iter_mut().for_each(|client| client.expect_no_data(ms(20)));
}
