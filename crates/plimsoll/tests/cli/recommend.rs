//! `plimsoll recommend`: from logs of every kind, from a running plimsoll, and what it says where it knows too little.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;

use crate::process::{Destination, Folder, Running, config, ends, get};

/// Our own lines: four destinations, the last of which takes four times as long, ten seconds at 60 a second.
fn own_log() -> String {
    let mut log = String::new();
    for nth in 0..600_u32 {
        let (name, ms) = (b"abcd"[nth as usize % 4] as char, if nth % 4 == 3 { 80 } else { 20 });
        let (second, milli) = (nth / 60, nth % 60 * 1_000 / 60);
        writeln!(
            log,
            "{{\"time\":\"2026-02-01T00:00:{second:02}.{milli:03}Z\",\"destination\":\"{name}\",\"status\":200,\"ttfb_ms\":{ms}}}"
        )
        .unwrap();
    }
    log
}

fn log(folder: &Folder, text: &str) -> PathBuf {
    let path = folder.config().with_extension("log");
    std::fs::write(&path, text).unwrap();
    path
}

fn recommend(args: &[&str]) -> (i32, String, String) {
    ends(&[&["recommend"], args].concat())
}

#[test]
fn our_own_log_is_enough_to_name_a_policy_and_what_it_would_change() {
    let folder = Folder::with("");
    let path = log(&folder, &own_log());
    let path = path.to_str().unwrap();
    let (code, out, err) = recommend(&[
        "--log",
        path,
        "--algorithm",
        "round_robin",
        "--slots",
        "1",
        "--seeds",
        "2",
        "-o",
        "json",
    ]);
    assert_eq!(code, 0, "{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    let first = &told["recommendations"][0];
    assert_eq!(first["kind"], "algorithm", "{told:#}");
    assert_ne!(told["current"], first["id"]);
    for key in ["id", "subject", "message", "expectedEffect", "command", "config"] {
        assert!(first[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {first}");
    }
    assert!(first["confidence"].as_f64().is_some_and(|sure| sure > 0.5 && sure < 1.0), "{first}");
    let evidence = first["evidence"].to_string();
    assert!(evidence.contains("600 messages") && evidence.contains("d 4.0"), "{evidence}");
    let candidates = told["candidates"].as_array().unwrap();
    let p99 = |name: &str| {
        let one = candidates.iter().find(|one| one["algorithm"] == name).unwrap();
        assert!(one["nanosAPick"].as_f64().is_some_and(|nanos| nanos > 0.0), "{one}");
        one["variants"][0]["p99Ms"].as_f64().unwrap()
    };
    assert!(p99("least_connections") < p99("round_robin"), "{told:#}");
}

#[test]
fn a_common_log_needs_to_be_told_how_many_destinations_there_are() {
    let log = format!("{}/../../examples/simulations/access.log", env!("CARGO_MANIFEST_DIR"));
    let (code, _, err) = recommend(&["--log", &log]);
    assert!(code == 2 && err.contains("--destinations"), "{code} {err}");
    let (code, out, err) = recommend(&["--log", &log, "--destinations", "3", "--seeds", "2"]);
    assert_eq!(code, 0, "{err}");
    for word in
        ["300 messages", "(--work)", "all destinations are alike", "(--slots", "round_robin (now)", "NS"]
    {
        assert!(out.contains(word), "{word}: {out}");
    }
}

#[test]
fn what_it_cannot_judge_is_told_in_a_sentence() {
    let folder = Folder::with("");
    let path = log(&folder, "a - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 203\n");
    let path = path.to_str().unwrap();
    for (args, code, with) in [
        (&["--log", path, "--destinations", "3"][..], 2, "need at least 200"),
        (&["--log", "/nowhere/log"], 2, "/nowhere/log"),
        (&["--log", path, "--algorithm", "fastest", "--destinations", "3"], 2, "fastest"),
        (&["--admin", "127.0.0.1:1"], 4, "nobody answers"),
        (&["--destinations", "3"], 2, "--log"),
    ] {
        let (ended, _, err) = recommend(args);
        assert!(ended == code && err.contains(with), "{args:?}: {ended} {err}");
    }
    let long = log(&folder, &own_log());
    let (code, out, _) = recommend(&["--log", long.to_str().unwrap(), "--algorithm", "source_hash"]);
    assert!(code == 0 && out.contains("it keeps each key"), "{out}");
}

#[test]
fn a_running_plimsoll_is_looked_at_for_a_while() {
    let destinations = [Destination::start("a"), Destination::start("b")];
    let folder = Folder::with(&config(&[destinations[0].address, destinations[1].address], ""));
    let running = Running::start(&folder.config());
    let ask =
        |watch: &str| recommend(&["--admin", &running.admin, "--watch", watch, "--seeds", "2", "-o", "json"]);
    let (code, _, err) = ask("10ms");
    assert!(code == 2 && err.contains("need at least 200"), "{code} {err}");
    let (code, _, err) = recommend(&["--admin", &running.admin, "--pool", "none"]);
    assert!(code == 2 && err.contains("none"), "{code} {err}");
    let over = AtomicBool::new(false);
    let (code, out, err) = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    get(running.listens, "/");
                }
            });
        }
        let told = ask("4s");
        over.store(true, Relaxed);
        told
    });
    assert_eq!(code, 0, "{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["subject"], "default");
    let names: Vec<&str> =
        told["candidates"].as_array().unwrap().iter().filter_map(|one| one["algorithm"].as_str()).collect();
    assert!(names.contains(&told["current"].as_str().unwrap()), "{told:#}");
    assert!(told["assumptions"].to_string().contains("independent of each other"), "{told:#}");
}
