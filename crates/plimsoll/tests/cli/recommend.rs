//! `plimsoll recommend`: from access logs, from a running instance, and with too little data.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;

use crate::process::{Destination, Directory, Running, config, get, run_to_end};

/// Returns a JSON log of 10 s at 60/s: four destinations, the last one four times slower.
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

fn log(directory: &Directory, text: &str) -> PathBuf {
    let path = directory.config().with_extension("log");
    std::fs::write(&path, text).unwrap();
    path
}

fn recommend(args: &[&str]) -> (i32, String, String) {
    run_to_end(&[&["recommend"], args].concat())
}

#[test]
fn json_log_gives_a_recommendation_with_its_expected_effect() {
    let directory = Directory::with("");
    let path = log(&directory, &own_log());
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
    let output: Value = serde_json::from_str(&out).unwrap();
    let first = &output["recommendations"][0];
    assert_eq!(first["kind"], "algorithm", "{output:#}");
    assert_ne!(output["current"], first["id"]);
    for key in ["id", "subject", "message", "expectedEffect", "command", "config"] {
        assert!(first[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {first}");
    }
    assert!(first["confidence"].as_f64().is_some_and(|sure| sure > 0.5 && sure < 1.0), "{first}");
    let evidence = first["evidence"].to_string();
    assert!(evidence.contains("600 messages") && evidence.contains("d 4.0"), "{evidence}");
    let candidates = output["candidates"].as_array().unwrap();
    let p99 = |name: &str| {
        let one = candidates.iter().find(|one| one["algorithm"] == name).unwrap();
        assert!(one["pickNanos"].as_f64().is_some_and(|nanos| nanos > 0.0), "{one}");
        one["variants"][0]["p99Ms"].as_f64().unwrap()
    };
    assert!(p99("least_connections") < p99("round_robin"), "{output:#}");
}

#[test]
fn common_log_needs_the_number_of_destinations() {
    let log = format!("{}/../../examples/simulations/access.log", env!("CARGO_MANIFEST_DIR"));
    let (code, _, err) = recommend(&["--log", &log]);
    assert!(code == 2 && err.contains("--destinations"), "{code} {err}");
    let (code, out, err) = recommend(&["--log", &log, "--destinations", "3", "--seeds", "2"]);
    assert_eq!(code, 0, "{err}");
    for word in
        ["300 messages", "(--work)", "all destinations are equal", "(--slots", "round_robin (current)", "NS"]
    {
        assert!(out.contains(word), "{word}: {out}");
    }
}

#[test]
fn unusable_input_is_reported() {
    let directory = Directory::with("");
    let path = log(&directory, "a - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 203\n");
    let path = path.to_str().unwrap();
    for (args, code, with) in [
        (&["--log", path, "--destinations", "3"][..], 2, "need at least 200"),
        (&["--log", "/nowhere/log"], 2, "/nowhere/log"),
        (&["--log", path, "--algorithm", "fastest", "--destinations", "3"], 2, "fastest"),
        (&["--admin", "127.0.0.1:1"], 4, "cannot reach the admin API"),
        (&["--destinations", "3"], 2, "--log"),
    ] {
        let (ended, _, err) = recommend(args);
        assert!(ended == code && err.contains(with), "{args:?}: {ended} {err}");
    }
    let long = log(&directory, &own_log());
    let (code, out, _) = recommend(&["--log", long.to_str().unwrap(), "--algorithm", "source_hash"]);
    assert!(code == 0 && out.contains("keeps each key at one destination"), "{out}");
}

#[test]
fn running_instance_is_observed_for_the_given_time() {
    let destinations = [Destination::start("a"), Destination::start("b")];
    let directory = Directory::with(&config(&[destinations[0].address, destinations[1].address], ""));
    let running = Running::start(&directory.config());
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
                    get(running.address, "/");
                }
            });
        }
        let output = ask("4s");
        over.store(true, Relaxed);
        output
    });
    assert_eq!(code, 0, "{err}");
    let output: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(output["subject"], "default");
    let names: Vec<&str> =
        output["candidates"].as_array().unwrap().iter().filter_map(|one| one["algorithm"].as_str()).collect();
    assert!(names.contains(&output["current"].as_str().unwrap()), "{output:#}");
    assert!(output["assumptions"].to_string().contains("independent of each other"), "{output:#}");
}
