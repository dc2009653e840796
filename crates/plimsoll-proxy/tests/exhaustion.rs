//! When the process may open no more descriptors, what is open goes on, and what waits is served afterwards.
//!
//! A program of its own, because it takes away what the whole process needs.

#[path = "wire/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `wire` use all of it.
mod kit;

use plimsoll_core::Failure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use kit::{Client, Destination, Setup, Watch, get, ok, secs, until};

/// This process may open `more` descriptors, and then none.
fn leave_descriptors(more: u64) {
    let open = std::fs::read_dir("/proc/self/fd").expect("a Linux system").count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), maximum })
        .expect("less is always allowed");
}

#[test]
fn no_descriptors_left_is_survived() {
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
    assert_eq!(view.standing.word(), "serving", "and nobody is blamed for what we lack");
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
