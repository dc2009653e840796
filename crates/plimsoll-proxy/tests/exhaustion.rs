//! Exhausted file descriptors: open connections keep working, and waiting ones are served afterwards.
//!
//! A test binary of its own, because it limits the descriptors of the whole process.

#[path = "e2e/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `e2e` use all of it.
mod kit;

use std::net::UdpSocket;
use std::sync::{Mutex, PoisonError};

use plimsoll_core::Failure;
use plimsoll_core::health::{CheckSchedule, HealthSpec, ProbeKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use kit::{Client, Destination, Setup, Stopwatch, get, ms, ok, secs, wait_until};

/// Lets this process open `more` descriptors and no others.
fn leave_descriptors(more: u64) {
    let open = std::fs::read_dir("/proc/self/fd").expect("a Linux system").count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), maximum })
        .expect("less is always allowed");
}

/// Serializes the tests, which limit the descriptors of one process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Checks that could not be made, by TCP or UDP, do not count against the destination.
#[test]
fn checks_without_descriptors_do_not_count_against_the_destination() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = getrlimit(Resource::Nofile);
    let destination = Destination::start(|conn| while conn.request().is_some() {});
    let unresponsive = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let check = |probe| {
        Some(HealthSpec {
            check_interval: ms(20),
            timeout: ms(50),
            failure_threshold: 1,
            recovery_threshold: 1,
            probe,
            probe_if_unresponsive: None,
            port: None,
            schedule: CheckSchedule::default(),
        })
    };
    let by_tcp = Setup::http(&[&destination]).with(|s| s.pools[0].health = check(ProbeKind::Tcp));
    let by_datagram = Setup::udp(&[unresponsive.local_addr().expect("bound")]).with(|s| {
        s.pools[0].health = check(ProbeKind::Udp { send: b"".as_slice().into(), expect: None });
    });
    let balancers = [by_tcp.start(), by_datagram.start()];
    for balancer in &balancers {
        wait_until("the destination was checked", || balancer.destination(0).checks.passed > 0);
    }
    leave_descriptors(0);
    let mut held = Vec::new();
    for balancer in &balancers {
        wait_until("checks are not made", || {
            // The test takes descriptors that the process closes meanwhile.
            held.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
            balancer.destination(0).checks.not_made > 3
        });
        let view = balancer.destination(0);
        assert_eq!((view.status.as_str(), view.checks.failed), ("serving", 0));
    }
    setrlimit(Resource::Nofile, before).expect("as it was");
    drop(held);
    for balancer in &balancers {
        let passed = balancer.destination(0).checks.passed;
        wait_until("they are made again", || balancer.destination(0).checks.passed > passed);
        assert_eq!(balancer.destination(0).checks.failed, 0);
    }
}

#[test]
fn exhausted_descriptors_are_survived() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let destination = Destination::start(|conn| {
        while let Some(request) = conn.request() {
            if request.target == "/close" {
                conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
                return;
            }
            conn.send(ok("ok"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut established = balancer.connect();
    established.send(get("/"));
    assert_eq!(established.read_response().text(), "ok");
    let accept_errors = || balancer.handle.traffic().listeners[0].counts.accept_errors;
    leave_descriptors(60);
    let mut clients = Vec::new();
    wait_until("the proxy cannot accept any more", || {
        match Client::try_connect(balancer.endpoint()) {
            Ok(client) => clients.push(client),
            // The test ran out first: leave the last descriptor to the proxy.
            Err(_) => drop(clients.pop()),
        }
        accept_errors() > 0
    });
    for _ in 0..20 {
        established.send(get("/"));
        assert_eq!(
            established.read_response().text(),
            "ok",
            "an open connection is served over a pooled one"
        );
    }
    let mut held = Vec::new();
    wait_until("a new connection cannot be opened", || {
        held.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
        established.send(get("/close"));
        let response = established.read_response();
        assert!(response.status == 200 || response.text().contains("no_resources"), "{response:?}");
        response.status == 503
    });
    let view = balancer.destination(0);
    assert!(view.counts.failures[Failure::NoResources as usize] > 0, "it is counted");
    assert_eq!(view.status.as_str(), "serving", "the failure does not count against the destination");
    drop((clients, held));
    let stopwatch = Stopwatch::start();
    wait_until("connections are accepted again", || {
        Client::try_connect(balancer.endpoint()).is_ok_and(|mut client| {
            client.send(get("/"));
            client.try_read_response("GET").is_ok_and(|response| response.status == 200)
        })
    });
    assert!(stopwatch.elapsed() < secs(2), "after {:?}", stopwatch.elapsed());
    wait_until("all others are counted out", || balancer.active() == 1);
    established.expect_open();
}
