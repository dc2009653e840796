//! The decision log: real choices, told with every candidate, the share of them that was asked for.

use std::path::Path;

use plimsoll_config::model::{AccessLog, DecisionLog};
use plimsoll_core::balance::Algorithm;
use serde_json::Value;

use crate::kit::{Balancer, Destination, Setup, Temporary, get, hello, until};

fn deciding(destinations: &[&Destination], sample: f64, algorithm: Algorithm) -> (Balancer, Temporary) {
    let file = Temporary::new("decisions.log");
    let target = AccessLog::File(file.path().to_owned());
    let balancer = Setup::http(destinations)
        .with(|s| {
            s.workers = 1;
            s.pools[0].algorithm = algorithm;
            s.decision_log = Some(DecisionLog { target, sample });
        })
        .start();
    (balancer, file)
}

/// The lines of `file` once there are `count`; each must be JSON.
fn lines(file: &Path, count: usize) -> Vec<Value> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    until("the lines are written", || read().lines().count() >= count && read().ends_with('\n'));
    read().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn each_choice_is_a_line_with_who_was_there_who_was_chosen_and_why() {
    let (a, b) = (Destination::start(hello("a")), Destination::start(hello("b")));
    let (balancer, file) = deciding(&[&a, &b], 1.0, Algorithm::LeastConnections);
    for _ in 0..2 {
        assert_eq!(balancer.ask(get("/")).status, 200);
    }
    let lines = lines(file.path(), 2);
    let chosen: Vec<&Value> = lines.iter().map(|line| &line["chosen"]).collect();
    assert_eq!(chosen, ["main-0", "main-1"], "what was told is what was done");
    let line = &lines[0];
    assert_eq!((&line["pool"], &line["algorithm"]), (&"main".into(), &"least_connections".into()), "{line}");
    assert_eq!((&line["reason"], &line["candidates_total"]), (&"algorithm".into(), &2.into()), "{line}");
    let candidate = &line["candidates"][1];
    assert_eq!((&candidate["id"], &candidate["status"]), (&"main-1".into(), &"serving".into()), "{line}");
    assert_eq!((&candidate["score"], &candidate["in_flight"]), (&1.0.into(), &0.into()), "{line}");
    assert!(line["took_us"].as_f64().is_some_and(|took| took > 0.0) && line["time"].is_string(), "{line}");
}

#[test]
fn a_second_try_says_who_was_tried_before() {
    let dead = Destination::absent(hello("never"));
    let well = Destination::start(hello("ok"));
    let (balancer, file) = deciding(&[&dead, &well], 1.0, Algorithm::RoundRobin);
    assert_eq!(balancer.ask(get("/")).status, 200);
    let lines = lines(file.path(), 2);
    assert_eq!((&lines[0]["chosen"], &lines[0]["tried"]), (&"main-0".into(), &serde_json::json!([])));
    assert_eq!((&lines[1]["chosen"], &lines[1]["tried"]), (&"main-1".into(), &serde_json::json!(["main-0"])));
    assert_eq!(lines[1]["candidates"][0]["score"], Value::Null, "a rotation compares nothing");
}

#[test]
fn a_share_of_choices_is_told_and_usr1_opens_a_new_file() {
    let destination = Destination::start(hello("ok"));
    let (balancer, file) = deciding(&[&destination], 0.5, Algorithm::RoundRobin);
    let mut client = balancer.connect();
    for _ in 0..400 {
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    let told = lines(file.path(), 120).len();
    assert!((120..=280).contains(&told), "{told} of 400 are not about a half");
    let rotated = Temporary::new("decisions.old");
    std::fs::rename(file.path(), rotated.path()).expect("the same folder");
    balancer.handle.reopen_logs();
    until("the new file is there", || file.path().exists());
    assert_eq!(balancer.handle.traffic().decisions_dropped, 0);
}
