//! Shutdown: requests in flight are finished, within bounds.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{Destination, Directory, Running, TIMEOUT, config, read_response, send_request};

/// Starts a proxy with one slow request in flight.
fn busy(more: &str) -> (Running, Destination, TcpStream, Directory) {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], more));
    let running = Running::start(&directory.config());
    let stream = send_request(running.address, "/slow");
    a.arrived.recv_timeout(TIMEOUT).unwrap();
    (running, a, stream, directory)
}

#[test]
fn term_finishes_requests_in_flight_and_refuses_new_connections() {
    let (mut running, a, stream, _directory) = busy("shutdown: {grace: 60s}");
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_log("draining")["connections"], 1);
    assert_eq!(running.admin("/readyz").status, 503);
    assert_eq!(running.admin("/healthz").status, 200);
    running.poll_admin_until("/v1/server", |server| server["state"] == "draining");
    running.wait_until_refused();
    assert!(running.is_alive());
    a.release.send(()).unwrap();
    let response = read_response(stream);
    assert_eq!((response.status, &*response.body), (200, "a"));
    assert!(response.head.to_ascii_lowercase().contains("connection: close"), "{}", response.head);
    let stopped = running.wait_for_log("stopped");
    assert_eq!(stopped["level"], "INFO", "{stopped}");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn idle_connections_do_not_delay_a_drain() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], "shutdown: {grace: 60s}"));
    let mut running = Running::start(&directory.config());
    let _idle: Vec<_> = (0..20).map(|_| TcpStream::connect(running.address).unwrap()).collect();
    running.poll_admin_until("/v1/server", |server| server["listeners"][0]["connections"] == 20);
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_log("stopped")["level"], "INFO");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn second_signal_closes_connections_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let (mut running, _a, _stream, _directory) = busy("shutdown: {grace: 60s}");
        running.signal(first);
        running.wait_for_log("draining");
        assert!(running.is_alive());
        running.signal(second);
        let stopped = running.wait_for_log("stopped");
        assert_eq!(stopped["closed"], 1, "{stopped}");
        assert_eq!(running.exit_code(), 0);
    }
}

#[test]
fn connections_are_closed_and_counted_at_the_end_of_the_grace_period() {
    let (mut running, _a, _stream, _directory) = busy("shutdown: {grace: 200ms}");
    running.signal(Signal::TERM);
    let stopped = running.wait_for_log("stopped");
    assert_eq!((&stopped["closed"], &stopped["level"]), (&1.into(), &"WARN".into()));
    assert!(stopped["message"].as_str().unwrap().contains("grace"), "{stopped}");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn quit_has_no_deadline() {
    let (mut running, a, stream, _directory) = busy("shutdown: {grace: 50ms}");
    running.signal(Signal::QUIT);
    running.wait_for_log("draining");
    // Longer than the grace period, which must not apply.
    std::thread::sleep(Duration::from_millis(400));
    assert!(running.is_alive());
    a.release.send(()).unwrap();
    assert_eq!(read_response(stream).status, 200);
    assert_eq!(running.wait_for_log("stopped")["level"], "INFO");
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn term_sets_a_deadline_for_a_drain_without_one() {
    let (mut running, _a, _stream, _directory) = busy("shutdown: {grace: 50ms}");
    running.signal(Signal::QUIT);
    running.wait_for_log("draining");
    running.signal(Signal::TERM);
    assert_eq!(running.wait_for_log("stopped")["closed"], 1);
    assert_eq!(running.exit_code(), 0);
}

#[test]
fn connections_in_the_accept_queue_are_served_before_the_drain() {
    let a = Destination::start("a");
    let directory = Directory::with(&config(&[a.address], "shutdown: {grace: 60s}"));
    let mut running = Running::start(&directory.config());
    // A stopped process cannot accept; the kernel completes the connections all the same.
    running.signal(Signal::STOP);
    let streams: Vec<_> = (0..60).map(|_| send_request(running.address, "/")).collect();
    running.signal(Signal::TERM);
    running.signal(Signal::CONT);
    for stream in streams {
        assert_eq!(read_response(stream).status, 200);
    }
    assert_eq!(running.wait_for_log("stopped")["level"], "INFO");
    assert_eq!(running.exit_code(), 0);
}
