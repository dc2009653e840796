//! When the process may open no more descriptors, what is open goes on, and what waits is served afterwards.
//!
//! A program of its own, because it takes away what the whole process needs.

#[path = "wire/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `wire` use all of it.
mod kit;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use kit::{Client, Destination, Setup, Watch, get, hello, secs, until};

/// This process may open `more` descriptors, and then none.
fn leave_descriptors(more: u64) {
    let open = std::fs::read_dir("/proc/self/fd").expect("a Linux system").count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), maximum })
        .expect("less is always allowed");
}

#[test]
fn no_descriptors_left_is_survived() {
    let destination = Destination::start(hello("ok"));
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
    drop(crowd);
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
