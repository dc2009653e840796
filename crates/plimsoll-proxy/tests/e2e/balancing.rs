//! Algorithms that depend on requests and responses get the data they need.

use std::net::UdpSocket;
use std::sync::Arc;

use plimsoll_config::model::HashKey;
use plimsoll_core::balance::Algorithm;
use plimsoll_core::route::Match;
use plimsoll_core::snapshot::ZoneSpec;
use plimsoll_core::subset::{Fallback, Subset};

use crate::kit::{Balancer, Destination, Endpoint, Setup, get, ms, route};

/// Starts a destination that responds with its name after a delay.
fn start_named(name: &'static str, millis: u64) -> Destination {
    Destination::start(move |conn| {
        while conn.request().is_some() {
            std::thread::sleep(ms(millis));
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

fn hashing(destinations: &[&Destination], by: HashKey) -> Setup {
    Setup::http(destinations).with(|s| {
        s.pools[0].algorithm = Algorithm::Hash;
        s.pools[0].hash_key = by;
    })
}

fn start_three() -> [Destination; 3] {
    [start_named("a", 0), start_named("b", 0), start_named("c", 0)]
}

/// Returns the name of the destination that serves a request with this target and field line.
fn responder(balancer: &Balancer, target: &str, line: &str) -> String {
    balancer.fetch(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{line}\r\n")).text()
}

/// Checks that requests of one key go to one destination, and that keys are spread.
fn check_affinity(by: HashKey, request: impl Fn(u32) -> (String, String)) {
    let destinations = start_three();
    let balancer = hashing(&destinations.each_ref(), by.clone()).start();
    let mut seen = Vec::new();
    for n in 0..24 {
        let (target, line) = request(n);
        let first = responder(&balancer, &target, &line);
        assert_eq!(responder(&balancer, &target, &line), first, "{by:?} {n}");
        seen.push(first);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["a", "b", "c"], "{by:?}: keys spread");
}

#[test]
fn same_key_selects_the_same_destination() {
    check_affinity(HashKey::Header("x-tenant".into()), |n| ("/".into(), format!("X-Tenant: t{n}\r\n")));
    check_affinity(HashKey::Cookie("sid".into()), |n| {
        (format!("/{n}"), format!("Cookie: a=b; sid=s{n}\r\n"))
    });
    check_affinity(HashKey::Path, |n| (format!("/page/{n}?x"), String::new()));
    check_affinity(HashKey::Query("user".into()), |n| (format!("/?a=1&user=u{n}"), String::new()));
}

#[test]
fn request_without_the_key_is_hashed_by_its_source() {
    let destinations = start_three();
    let by_cookie = hashing(&destinations.each_ref(), HashKey::Cookie("sid".into())).start();
    let by_source =
        Setup::http(&destinations.each_ref()).with(|s| s.pools[0].algorithm = Algorithm::SourceHash).start();
    let owner = responder(&by_source, "/", "");
    for n in 0..6 {
        assert_eq!(responder(&by_cookie, &format!("/{n}"), "Cookie: other=1\r\n"), owner);
        assert_eq!(responder(&by_source, &format!("/{n}"), &format!("X-Tenant: {n}\r\n")), owner);
    }
}

#[test]
fn source_hash_uses_the_address_in_a_trusted_proxy_header() {
    let destinations = start_three();
    let setup = Setup::http(&destinations.each_ref()).with(|s| {
        s.pools[0].algorithm = Algorithm::SourceHash;
        s.listeners[0].accepts_proxy_protocol = true;
        s.listeners[0].trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    });
    let balancer = setup.start();
    let from = |n: u32, port: u32| {
        let mut client = balancer.connect();
        client.send(format!("PROXY TCP4 192.0.2.{n} 198.51.100.1 {port} 80\r\n{}", get("/")));
        client.read_response().text()
    };
    let mut seen: Vec<String> = (0..24).map(|n| from(n, 1000)).collect();
    assert_eq!((0..24).map(|n| from(n, 2000)).collect::<Vec<_>>(), seen, "the port is not part of the key");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn connections_and_datagrams_are_hashed_by_source() {
    let destinations: Vec<Destination> = ["a", "b", "c"]
        .map(|name| {
            Destination::start(move |conn| {
                conn.send(name);
                conn.shutdown_write();
            })
        })
        .into();
    let all: Vec<&Destination> = destinations.iter().collect();
    let balancer = Setup::tcp(&all).with(|s| s.pools[0].algorithm = Algorithm::SourceHash).start();
    for _ in 0..9 {
        let mut client = balancer.connect();
        client.shutdown_write();
        client.read_to_end();
    }
    let used = destinations.iter().filter(|d| d.connections() > 0).count();
    assert_eq!(used, 1, "one source uses one destination");

    let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let addresses = sockets.each_ref().map(|s| s.local_addr().expect("an address"));
    let balancer = Setup::udp(&addresses).with(|s| s.pools[0].algorithm = Algorithm::SourceHash).start();
    let Endpoint::Tcp(to) = balancer.endpoint() else { panic!("a port") };
    for _ in 0..9 {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.send_to(b"x", to).expect("sent");
    }
    let mut used = Vec::new();
    for socket in &sockets {
        socket.set_nonblocking(true).expect("a socket");
    }
    crate::kit::wait_until("all nine datagrams have arrived", || {
        for (n, socket) in sockets.iter().enumerate() {
            while socket.recv(&mut [0; 8]).is_ok() {
                used.push(n);
            }
        }
        used.len() == 9
    });
    assert!(used.iter().all(|n| *n == used[0]), "{used:?}");
}

#[test]
fn keys_of_a_stopped_destination_are_spread_over_the_others() {
    let destinations = start_three();
    let balancer = hashing(&destinations.each_ref(), HashKey::Path).start();
    let owners: Vec<String> = (0..40).map(|n| responder(&balancer, &format!("/{n}"), "")).collect();
    destinations[0].kill();
    let after: Vec<String> = (0..40).map(|n| responder(&balancer, &format!("/{n}"), "")).collect();
    let moved: Vec<&String> =
        owners.iter().zip(&after).filter(|(owner, _)| *owner == "a").map(|(_, now)| now).collect();
    assert!(owners.iter().zip(&after).all(|(owner, now)| owner == now || owner == "a"));
    assert!(moved.iter().any(|now| *now == "b") && moved.iter().any(|now| *now == "c"), "{moved:?}");
}

/// Starts a destination that responds 503 at once.
fn failing() -> Destination {
    Destination::start(|conn| {
        while conn.request().is_some() {
            conn.send("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

/// Returns the number of requests each destination gets of `requests` sequential ones.
fn shares(algorithm: Algorithm, destinations: &[&Destination], requests: usize) -> Vec<usize> {
    let balancer = Setup::http(destinations).with(|s| s.pools[0].algorithm = algorithm).start();
    let mut client = balancer.connect();
    for _ in 0..requests {
        client.send(get("/"));
        client.read_response();
    }
    destinations.iter().map(|destination| destination.requests().len()).collect()
}

#[test]
fn measured_responses_avoid_slow_and_fast_failing_destinations() {
    // With nothing in flight they take turns until twenty responses prove a difference.
    for algorithm in [Algorithm::ResponseTime, Algorithm::PeakEwma] {
        let all = [start_named("slow", 60), failing(), start_named("fast", 0)];
        let seen = shares(algorithm, &all.each_ref(), 300);
        assert!((19..=30).contains(&seen[0]) && seen[1] <= 60 && seen[2] >= 200, "{algorithm:?}: {seen:?}");
    }
    // Prequal needs four responses of each destination before it compares them.
    let all = [start_named("slow", 40), failing(), start_named("fast", 0)];
    let seen = shares(Algorithm::Prequal, &all.each_ref(), 100);
    assert!(seen[0] >= 4 && seen[1] >= 4 && seen[2] >= 70, "prequal: {seen:?}");
}

#[test]
fn idle_traffic_is_shared_evenly_by_the_default() {
    // A cold start: the first response of one takes long.
    let cold = Destination::start(|conn| {
        let mut wait = ms(300);
        while conn.request().is_some() {
            std::thread::sleep(std::mem::take(&mut wait));
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let all = [cold, start_named("b", 0), start_named("c", 0)];
    let seen = shares(Algorithm::ResponseTime, &all.each_ref(), 300);
    assert!(seen.iter().all(|count| (95..=105).contains(count)), "{seen:?}");
}

#[test]
fn idle_traffic_is_shared_by_weight() {
    let all = ["a", "b", "c"].map(|name| start_named(name, 0));
    for algorithm in [Algorithm::WeightedLeastConnections, Algorithm::ResponseTime] {
        let before: Vec<usize> = all.iter().map(|destination| destination.requests().len()).collect();
        let setup = Setup::http(&all.each_ref()).with(|s| {
            s.pools[0].algorithm = algorithm;
            for (destination, weight) in s.pools[0].destinations.iter_mut().zip([3, 2, 1]) {
                destination.weight = plimsoll_core::Weight::new(weight);
            }
        });
        let balancer = setup.start();
        let mut client = balancer.connect();
        for _ in 0..60 {
            client.send(get("/"));
            client.read_response();
        }
        let seen: Vec<usize> =
            all.iter().zip(before).map(|(destination, n)| destination.requests().len() - n).collect();
        assert!(
            seen.iter().zip([30, 20, 10]).all(|(n, due)| n.abs_diff(due) <= 2),
            "{algorithm:?}: {seen:?}"
        );
    }
}

#[test]
fn degraded_destination_keeps_a_small_share() {
    for degraded in [start_named("slow", 30), failing()] {
        let all = [degraded, start_named("b", 0), start_named("c", 0)];
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
        let mut new = route("new", 0, matches);
        new.subset = Some(subset);
        s.listeners[0].routes = vec![new];
    })
}

#[test]
fn route_with_a_subset_uses_only_its_destinations() {
    let destinations = start_three();
    let balancer = versions(&destinations, Fallback::None).start();
    let mut seen: Vec<String> = (0..20).map(|_| responder(&balancer, "/new", "")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["b", "c"]);
    let others: Vec<String> = (0..6).map(|_| responder(&balancer, "/", "")).collect();
    assert!(others.contains(&"a".to_owned()), "the other route uses all destinations: {others:?}");
    destinations[1..].iter().for_each(Destination::kill);
    assert!(balancer.fetch(get("/new")).status >= 502, "no destination outside the subset serves");
    assert_eq!(responder(&balancer, "/", ""), "a");
}

#[test]
fn subset_with_fallback_uses_the_whole_pool_if_none_serves() {
    let destinations = start_three();
    let balancer = versions(&destinations, Fallback::Any).start();
    assert_ne!(responder(&balancer, "/new", ""), "a");
    destinations[1..].iter().for_each(Destination::kill);
    assert_eq!(responder(&balancer, "/new", ""), "a");
}

#[test]
fn own_zone_is_preferred_while_it_serves() {
    let destinations = start_three();
    let balancer = Setup::http(&destinations.each_ref())
        .with(|s| {
            for (n, destination) in s.pools[0].destinations.iter_mut().enumerate() {
                destination.zone = Some(if n < 2 { "here" } else { "there" }.into());
            }
            s.pools[0].tiers.zone =
                Some(ZoneSpec { own: "here".into(), spill_over_at: None, zone_local_keys: false });
        })
        .start();
    assert!((0..20).all(|_| responder(&balancer, "/", "") != "c"));
    destinations[..2].iter().for_each(Destination::kill);
    assert_eq!(responder(&balancer, "/", ""), "c");
}
