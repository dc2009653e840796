//! How a process stops: what runs is finished, within bounds.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Destination, Folder, LONG, Running, answer, ask, config};

/// A proxy with one slow request on its way.
fn busy(more: &str) -> (Running, Destination, TcpStream, Folder) {
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address], more));
    let running = Running::start(&folder.config());
    let stream = ask(running.listens, "/slow");
    a.arrived.recv_timeout(LONG).unwrap();
    (running, a, stream, folder)
}

#[test]
fn term_finishes_what_runs_and_takes_nothing_new() {
    let (mut running, a, stream, _folder) = busy("shutdown: {grace: 60s}");
    running.signal(Signal::TERM);
    assert_eq!(running.until("draining")["connections"], 1);
    assert_eq!(running.admin("/readyz").status, 503);
    assert_eq!(running.admin("/healthz").status, 200);
    running.admin_until("/v1/server", |server| server["state"] == "draining");
    running.until_refused();
    assert!(running.is_alive());
    a.release.send(()).unwrap();
    let reply = answer(stream);
    assert_eq!((reply.status, &*reply.body), (200, "a"));
    assert!(reply.head.to_ascii_lowercase().contains("connection: close"), "{}", reply.head);
    let stopped = running.until("stopped");
    assert_eq!(stopped["level"], "INFO", "{stopped}");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn idle_connections_do_not_hold_up_a_drain() {
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address], "shutdown: {grace: 60s}"));
    let mut running = Running::start(&folder.config());
    let _idle: Vec<_> = (0..20).map(|_| TcpStream::connect(running.listens).unwrap()).collect();
    running.admin_until("/v1/server", |server| server["listeners"][0]["connections"] == 20);
    running.signal(Signal::TERM);
    assert_eq!(running.until("stopped")["level"], "INFO");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn a_second_term_ends_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let (mut running, _a, _stream, _folder) = busy("shutdown: {grace: 60s}");
        running.signal(first);
        running.until("draining");
        assert!(running.is_alive());
        running.signal(second);
        let stopped = running.until("stopped");
        assert_eq!(stopped["cut"], 1, "{stopped}");
        assert_eq!(running.exit_code(), 0);
    }
}

#[test]
fn when_the_grace_is_over_connections_are_cut_and_counted() {
    let (mut running, _a, _stream, _folder) = busy("shutdown: {grace: 200ms}");
    running.signal(Signal::TERM);
    let stopped = running.until("stopped");
    assert_eq!((&stopped["cut"], &stopped["level"]), (&1.into(), &"WARN".into()));
    assert!(stopped["message"].as_str().unwrap().contains("grace"), "{stopped}");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn quit_has_no_deadline() {
    let (mut running, a, stream, _folder) = busy("shutdown: {grace: 50ms}");
    running.signal(Signal::QUIT);
    running.until("draining");
    // Long enough to see that the grace does not count.
    std::thread::sleep(Duration::from_millis(400));
    assert!(running.is_alive());
    a.release.send(()).unwrap();
    assert_eq!(answer(stream).status, 200);
    assert_eq!(running.until("stopped")["level"], "INFO");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn term_hurries_a_drain_that_had_no_deadline() {
    let (mut running, _a, _stream, _folder) = busy("shutdown: {grace: 50ms}");
    running.signal(Signal::QUIT);
    running.until("draining");
    running.signal(Signal::TERM);
    assert_eq!(running.until("stopped")["cut"], 1);
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn who_has_knocked_before_the_drain_is_served() {
    let a = Destination::start("a");
    let folder = Folder::with(&config(&[a.address], "shutdown: {grace: 60s}"));
    let mut running = Running::start(&folder.config());
    // Stopped, it cannot accept; for the clients their connections stand all the same.
    running.signal(Signal::STOP);
    let streams: Vec<_> = (0..60).map(|_| ask(running.listens, "/")).collect();
    running.signal(Signal::TERM);
    running.signal(Signal::CONT);
    for stream in streams {
        assert_eq!(answer(stream).status, 200);
    }
    assert_eq!(running.until("stopped")["level"], "INFO");
    assert_eq!(running.exit_code(), 0);
}
