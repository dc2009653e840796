//! The decision log: sampled decisions of real requests, with every candidate.

use std::path::Path;

use plimsoll_config::model::{AccessLog, DecisionLog};
use plimsoll_core::balance::Algorithm;
use serde_json::Value;

use crate::kit::{Balancer, Destination, Setup, TempPath, get, respond_ok, wait_until};

fn start_logging(destinations: &[&Destination], sample: f64, algorithm: Algorithm) -> (Balancer, TempPath) {
    let file = TempPath::new("decisions.log");
    let target = AccessLog::File(file.path().to_owned());
    let balancer = Setup::http(destinations)
        .with(|s| {
            s.workers = 1;
            s.pools[0].algorithm = algorithm;
            s.decision_log = Some(DecisionLog::new(target, sample));
        })
        .start();
    (balancer, file)
}

/// Waits for `count` lines and parses all lines as JSON.
fn lines(file: &Path, count: usize) -> Vec<Value> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    wait_until("the lines are written", || read().lines().count() >= count && read().ends_with('\n'));
    read().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn each_decision_is_logged_with_candidates_choice_and_reason() {
    let (a, b) = (Destination::start(respond_ok("a")), Destination::start(respond_ok("b")));
    let (balancer, file) = start_logging(&[&a, &b], 1.0, Algorithm::LeastConnections);
    for _ in 0..2 {
        assert_eq!(balancer.fetch(get("/")).status, 200);
    }
    let lines = lines(file.path(), 2);
    let chosen: Vec<&Value> = lines.iter().map(|line| &line["chosen"]).collect();
    assert_eq!(chosen, ["main-0", "main-1"], "the logged choices are the actual ones");
    let line = &lines[0];
    assert_eq!((&line["pool"], &line["algorithm"]), (&"main".into(), &"least_connections".into()), "{line}");
    assert_eq!((&line["reason"], &line["candidates_total"]), (&"algorithm".into(), &2.into()), "{line}");
    let candidate = &line["candidates"][1];
    assert_eq!((&candidate["id"], &candidate["status"]), (&"main-1".into(), &"serving".into()), "{line}");
    assert_eq!((&candidate["score"], &candidate["in_flight"]), (&0.0.into(), &0.into()), "{line}");
    assert!(line["took_us"].as_f64().is_some_and(|took| took > 0.0) && line["time"].is_string(), "{line}");
}

#[test]
fn second_attempt_logs_the_destination_tried_before() {
    let stopped = Destination::absent(respond_ok("never"));
    let running = Destination::start(respond_ok("ok"));
    let (balancer, file) = start_logging(&[&stopped, &running], 1.0, Algorithm::RoundRobin);
    assert_eq!(balancer.fetch(get("/")).status, 200);
    let lines = lines(file.path(), 2);
    assert_eq!((&lines[0]["chosen"], &lines[0]["tried"]), (&"main-0".into(), &serde_json::json!([])));
    assert_eq!((&lines[1]["chosen"], &lines[1]["tried"]), (&"main-1".into(), &serde_json::json!(["main-0"])));
    assert_eq!(lines[1]["candidates"][0]["score"], Value::Null, "a rotation has no scores");
}

#[test]
fn decisions_are_sampled_and_the_log_can_be_reopened() {
    let destination = Destination::start(respond_ok("ok"));
    let (balancer, file) = start_logging(&[&destination], 0.5, Algorithm::RoundRobin);
    let mut client = balancer.connect();
    for _ in 0..400 {
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
    let logged = lines(file.path(), 120).len();
    assert!((120..=280).contains(&logged), "{logged} of 400 is not about half");
    let rotated = TempPath::new("decisions.old");
    std::fs::rename(file.path(), rotated.path()).expect("the same folder");
    balancer.handle.reopen_logs();
    wait_until("the new file is there", || file.path().exists());
    assert_eq!(balancer.handle.traffic().decisions_dropped, 0);
}
