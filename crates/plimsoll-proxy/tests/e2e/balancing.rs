//! Whether algorithms that look at messages and answers are given what they look at.

use std::net::UdpSocket;
use std::sync::Arc;

use plimsoll_config::model::{HashKey, Route};
use plimsoll_core::balance::Algorithm;
use plimsoll_core::route::Match;
use plimsoll_core::snapshot::ZoneSpec;
use plimsoll_core::subset::{Fallback, Subset};

use crate::kit::{Balancer, Destination, Place, Setup, get, ms, route};

/// A destination that answers with its name, so late.
fn named(name: &'static str, millis: u64) -> Destination {
    Destination::start(move |visit| {
        while visit.request().is_some() {
            std::thread::sleep(ms(millis));
            visit.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

fn hashing(destinations: &[&Destination], by: HashKey) -> Setup {
    Setup::http(destinations).with(|s| {
        s.pools[0].algorithm = Algorithm::Hash;
        s.pools[0].hash_key = by;
    })
}

fn three() -> [Destination; 3] {
    [named("a", 0), named("b", 0), named("c", 0)]
}

/// Who answers a request with this line in its head, each time on a connection of its own.
fn who(balancer: &Balancer, target: &str, line: &str) -> String {
    balancer.ask(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{line}\r\n")).text()
}

/// Holds that requests made by `request` are alike for one key, and differ between keys.
fn check(by: HashKey, request: impl Fn(u32) -> (String, String)) {
    let destinations = three();
    let balancer = hashing(&destinations.each_ref(), by.clone()).start();
    let mut seen = Vec::new();
    for n in 0..24 {
        let (target, line) = request(n);
        let first = who(&balancer, &target, &line);
        assert_eq!(who(&balancer, &target, &line), first, "{by:?} {n}");
        seen.push(first);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["a", "b", "c"], "{by:?}: keys spread");
}

#[test]
fn the_same_key_meets_the_same_destination() {
    check(HashKey::Header("x-tenant".into()), |n| ("/".into(), format!("X-Tenant: t{n}\r\n")));
    check(HashKey::Cookie("sid".into()), |n| (format!("/{n}"), format!("Cookie: a=b; sid=s{n}\r\n")));
    check(HashKey::Path, |n| (format!("/page/{n}?x"), String::new()));
    check(HashKey::Query("user".into()), |n| (format!("/?a=1&user=u{n}"), String::new()));
}

#[test]
fn a_request_without_the_key_goes_where_its_source_does() {
    let destinations = three();
    let by_cookie = hashing(&destinations.each_ref(), HashKey::Cookie("sid".into())).start();
    let by_source =
        Setup::http(&destinations.each_ref()).with(|s| s.pools[0].algorithm = Algorithm::SourceHash).start();
    let home = who(&by_source, "/", "");
    for n in 0..6 {
        assert_eq!(who(&by_cookie, &format!("/{n}"), "Cookie: other=1\r\n"), home);
        assert_eq!(who(&by_source, &format!("/{n}"), &format!("X-Tenant: {n}\r\n")), home);
    }
}

#[test]
fn the_source_is_the_one_a_trusted_peer_tells() {
    let destinations = three();
    let setup = Setup::http(&destinations.each_ref()).with(|s| {
        s.pools[0].algorithm = Algorithm::SourceHash;
        s.listeners[0].accepts_proxy_protocol = true;
        s.listeners[0].trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    });
    let balancer = setup.start();
    let from = |n: u32, port: u32| {
        let mut client = balancer.connect();
        client.send(format!("PROXY TCP4 192.0.2.{n} 198.51.100.1 {port} 80\r\n{}", get("/")));
        client.answer().text()
    };
    let mut seen: Vec<String> = (0..24).map(|n| from(n, 1000)).collect();
    assert_eq!((0..24).map(|n| from(n, 2000)).collect::<Vec<_>>(), seen, "ports do not count");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn connections_and_datagrams_are_hashed_by_their_source() {
    let destinations: Vec<Destination> = ["a", "b", "c"]
        .map(|name| {
            Destination::start(move |visit| {
                visit.send(name);
                visit.end();
            })
        })
        .into();
    let all: Vec<&Destination> = destinations.iter().collect();
    let balancer = Setup::tcp(&all).with(|s| s.pools[0].algorithm = Algorithm::SourceHash).start();
    for _ in 0..9 {
        let mut client = balancer.connect();
        client.end();
        client.rest();
    }
    let busy = destinations.iter().filter(|d| d.connections() > 0).count();
    assert_eq!(busy, 1, "one source, one destination");

    let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let addresses = sockets.each_ref().map(|s| s.local_addr().expect("an address"));
    let balancer = Setup::udp(&addresses).with(|s| s.pools[0].algorithm = Algorithm::SourceHash).start();
    let Place::Tcp(to) = balancer.place() else { panic!("a port") };
    for _ in 0..9 {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.send_to(b"x", to).expect("sent");
    }
    let mut busy = Vec::new();
    for socket in &sockets {
        socket.set_nonblocking(true).expect("a socket");
    }
    crate::kit::until("all nine have come", || {
        for (n, socket) in sockets.iter().enumerate() {
            while socket.recv(&mut [0; 8]).is_ok() {
                busy.push(n);
            }
        }
        busy.len() == 9
    });
    assert!(busy.iter().all(|n| *n == busy[0]), "{busy:?}");
}

#[test]
fn a_retry_follows_the_key_and_all_keys_of_a_dead_destination_are_spread() {
    let destinations = three();
    let balancer = hashing(&destinations.each_ref(), HashKey::Path).start();
    let homes: Vec<String> = (0..40).map(|n| who(&balancer, &format!("/{n}"), "")).collect();
    destinations[0].kill();
    let after: Vec<String> = (0..40).map(|n| who(&balancer, &format!("/{n}"), "")).collect();
    let moved: Vec<&String> =
        homes.iter().zip(&after).filter(|(home, _)| *home == "a").map(|(_, now)| now).collect();
    assert!(homes.iter().zip(&after).all(|(home, now)| home == now || home == "a"));
    assert!(moved.iter().any(|now| *now == "b") && moved.iter().any(|now| *now == "c"), "{moved:?}");
}

/// A destination that is done at once and never well.
fn failing() -> Destination {
    Destination::start(|visit| {
        while visit.request().is_some() {
            visit.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

/// Who answers so many requests, one after the other: `[of the first, of the second, …]`.
fn shares(algorithm: Algorithm, destinations: &[&Destination], requests: usize) -> Vec<usize> {
    let balancer = Setup::http(destinations).with(|s| s.pools[0].algorithm = algorithm).start();
    let mut client = balancer.connect();
    for _ in 0..requests {
        client.send(get("/"));
        client.answer();
    }
    destinations.iter().map(|destination| destination.requests().len()).collect()
}

#[test]
fn measured_answers_steer_around_slow_and_around_fast_failing_destinations() {
    // With nothing in flight everybody is tried once or twice, and then only the fast one.
    for algorithm in [Algorithm::ResponseTime, Algorithm::PeakEwma] {
        let all = [named("slow", 120), failing(), named("fast", 0)];
        let seen = shares(algorithm, &all.each_ref(), 40);
        assert!(seen[0] <= 2 && seen[1] <= 2 && seen[2] >= 36, "{algorithm:?}: {seen:?}");
    }
    // Four answers are asked of everybody before they say anything.
    let all = [named("slow", 40), failing(), named("fast", 0)];
    let seen = shares(Algorithm::Prequal, &all.each_ref(), 100);
    assert!(seen[0] >= 4 && seen[1] >= 4 && seen[2] >= 70, "prequal: {seen:?}");
}

#[test]
fn who_is_ill_keeps_a_small_part_and_nobody_is_left_out() {
    for ill in [named("slow", 30), failing()] {
        let all = [ill, named("b", 0), named("c", 0)];
        let seen = shares(Algorithm::HealthBased, &all.each_ref(), 300);
        assert!((1..=60).contains(&seen[0]) && seen[1] > 60 && seen[2] > 60, "{seen:?}");
    }
}

fn versions(destinations: &[Destination; 3], fallback: Fallback) -> Setup {
    let subset = Arc::new(Subset::new(vec![("version".into(), "2".into())], fallback));
    Setup::http(&destinations.each_ref()).with(|s| {
        for (n, destination) in s.pools[0].destinations.iter_mut().enumerate() {
            destination.labels = vec![("version".into(), if n == 0 { "1" } else { "2" }.into())].into();
        }
        s.pools[0].tiers.subsets = vec![subset.clone()];
        let matches = Match { path_prefix: Some("/new".into()), ..Match::default() };
        s.listeners[0].routes = vec![Route { subset: Some(subset), ..route("new", 0, matches) }];
    })
}

#[test]
fn a_route_for_a_subset_meets_nobody_else() {
    let destinations = three();
    let balancer = versions(&destinations, Fallback::None).start();
    let mut seen: Vec<String> = (0..20).map(|_| who(&balancer, "/new", "")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["b", "c"]);
    let others: Vec<String> = (0..6).map(|_| who(&balancer, "/", "")).collect();
    assert!(others.contains(&"a".to_owned()), "the other route has all: {others:?}");
    destinations[1..].iter().for_each(Destination::kill);
    assert!(balancer.ask(get("/new")).status >= 502, "and nobody else when they are gone");
    assert_eq!(who(&balancer, "/", ""), "a");
}

#[test]
fn where_a_subset_falls_back_anybody_takes_what_it_cannot() {
    let destinations = three();
    let balancer = versions(&destinations, Fallback::Any).start();
    assert_ne!(who(&balancer, "/new", ""), "a");
    destinations[1..].iter().for_each(Destination::kill);
    assert_eq!(who(&balancer, "/new", ""), "a");
}

#[test]
fn the_own_zone_is_preferred_until_it_is_gone() {
    let destinations = three();
    let balancer = Setup::http(&destinations.each_ref())
        .with(|s| {
            for (n, destination) in s.pools[0].destinations.iter_mut().enumerate() {
                destination.zone = Some(if n < 2 { "here" } else { "there" }.into());
            }
            s.pools[0].tiers.zone =
                Some(ZoneSpec { own: "here".into(), spill_over_at: None, zone_local_keys: false });
        })
        .start();
    assert!((0..20).all(|_| who(&balancer, "/", "") != "c"));
    destinations[..2].iter().for_each(Destination::kill);
    assert_eq!(who(&balancer, "/", ""), "c");
}
