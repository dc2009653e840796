//! When the process may open no more descriptors, what is open goes on, and what waits is served afterwards.
//!
//! A program of its own, because it takes away what the whole process needs.

#[path = "e2e/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `e2e` use all of it.
mod kit;

use std::net::UdpSocket;
use std::sync::{Mutex, PoisonError};

use plimsoll_core::Failure;
use plimsoll_core::health::{CheckSchedule, HealthSpec, ProbeKind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use kit::{Client, Destination, Setup, Watch, get, ms, ok, secs, until};

/// This process may open `more` descriptors, and then none.
fn leave_descriptors(more: u64) {
    let open = std::fs::read_dir("/proc/self/fd").expect("a Linux system").count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), maximum })
        .expect("less is always allowed");
}

/// What one test takes away the others lack too.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A check we could not make says nothing about the destination, by TCP or UDP.
#[test]
fn no_descriptors_for_checks_blames_nobody() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = getrlimit(Resource::Nofile);
    let destination = Destination::start(|visit| while visit.request().is_some() {});
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
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
    let by_datagram = Setup::udp(&[silent.local_addr().expect("bound")]).with(|s| {
        s.pools[0].health = check(ProbeKind::Udp { send: b"".as_slice().into(), expect: None });
    });
    let balancers = [by_tcp.start(), by_datagram.start()];
    for balancer in &balancers {
        until("it was checked", || balancer.destination(0).checks.passed > 0);
    }
    leave_descriptors(0);
    let mut hoard = Vec::new();
    for balancer in &balancers {
        until("checks are not made", || {
            // What the process closes meanwhile is ours.
            hoard.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
            balancer.destination(0).checks.not_made > 3
        });
        let view = balancer.destination(0);
        assert_eq!((view.status.as_str(), view.checks.failed), ("serving", 0));
    }
    setrlimit(Resource::Nofile, before).expect("as it was");
    drop(hoard);
    for balancer in &balancers {
        let passed = balancer.destination(0).checks.passed;
        until("they are made again", || balancer.destination(0).checks.passed > passed);
        assert_eq!(balancer.destination(0).checks.failed, 0);
    }
}

#[test]
fn no_descriptors_left_is_survived() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let destination = Destination::start(|visit| {
        while let Some(request) = visit.request() {
            if request.target == "/close" {
                visit.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
                return;
            }
            visit.send(ok("ok"));
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut inside = balancer.connect();
    inside.send(get("/"));
    assert_eq!(inside.answer().text(), "ok");
    let accept_errors = || balancer.handle.traffic().listeners[0].counts.accept_errors;
    leave_descriptors(60);
    let mut crowd = Vec::new();
    until("the proxy cannot accept any more", || {
        match Client::try_connect(balancer.place()) {
            Ok(client) => crowd.push(client),
            // Ours ran out first: leave the last one to the proxy.
            Err(_) => drop(crowd.pop()),
        }
        accept_errors() > 0
    });
    for _ in 0..20 {
        inside.send(get("/"));
        assert_eq!(inside.answer().text(), "ok", "whoever is inside is served, on a pooled connection");
    }
    let mut hoard = Vec::new();
    until("a new connection cannot be opened", || {
        hoard.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
        inside.send(get("/close"));
        let answer = inside.answer();
        assert!(answer.status == 200 || answer.text().contains("no_resources"), "{answer:?}");
        answer.status == 503
    });
    let view = balancer.destination(0);
    assert!(view.counts.failures[Failure::NoResources as usize] > 0, "it is counted");
    assert_eq!(view.status.as_str(), "serving", "and nobody is blamed for what we lack");
    drop((crowd, hoard));
    let watch = Watch::start();
    until("there is room again", || {
        Client::try_connect(balancer.place()).is_ok_and(|mut client| {
            client.send(get("/"));
            client.try_answer("GET").is_ok_and(|answer| answer.status == 200)
        })
    });
    assert!(watch.elapsed() < secs(2), "after {:?}", watch.elapsed());
    until("all others are counted out", || balancer.active() == 1);
    inside.expect_open();
}
