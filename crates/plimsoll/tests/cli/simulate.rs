//! `plimsoll simulate`: built-in scenarios, scenario files, replayed logs, figures and usage errors.

use serde_json::Value;

use crate::process::{Directory, run_to_end};

fn json(args: &[&str]) -> Value {
    let (code, out, err) = run_to_end(&[&["simulate"], args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

const SHORT: [&str; 2] = ["--duration", "500ms"];

#[test]
fn scenario_is_run_for_each_algorithm() {
    let (code, out, _) =
        run_to_end(&["simulate", "uniform", SHORT[0], SHORT[1], "--algorithm", "p2c,oracle"]);
    assert_eq!(code, 0);
    for word in ["uniform:", "p99.99", "imbalance", "regret", "\np2c ", "\noracle "] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert!(!out.contains("round_robin"), "{out}");
    let output =
        json(&["two-speeds", "-a", "round_robin,least_connections", "--seeds", "2", SHORT[0], SHORT[1]]);
    let [rotation, least] = &output["algorithms"].as_array().unwrap()[..] else { panic!("{output}") };
    assert_eq!((&rotation["algorithm"], &rotation["runs"]), (&"round_robin".into(), &2.into()));
    let p99 = |output: &Value| output["latency_ms"]["p99"]["mean"].as_f64().unwrap();
    assert!(p99(least) < p99(rotation), "{output}");
    assert!(least["groups"][0]["share"].as_f64().unwrap() > 0.5, "the fast destinations get more: {output}");
}

#[test]
fn same_seed_gives_the_same_result() {
    let output = |seed: &str| json(&["heavy-tail", "-a", "p2c", "--seed", seed, SHORT[0], SHORT[1]]);
    assert_eq!(output("5"), output("5"));
    assert_ne!(output("5")["algorithms"], output("6")["algorithms"]);
}

#[test]
fn scenario_file_runs_with_the_arrivals_of_a_log() {
    let directory = Directory::with(
        "name: mine\nalgorithms: [random]\ndestinations: [{group: x, count: 2, slots: 1}]\n\
         work: {fixed: 1ms}\nrate: 200/s\nduration: 1500ms\n",
    );
    let path = directory.config();
    let file = path.to_str().unwrap();
    let log = format!("{}/../../examples/simulations/access.log", env!("CARGO_MANIFEST_DIR"));
    let picture = path.with_extension("svg");
    let output = json(&[file, "--replay", &log, "--plot", picture.to_str().unwrap()]);
    assert_eq!(output["scenario"], "mine");
    let messages = output["algorithms"][0]["messages"].as_f64().unwrap();
    assert!((150.0..450.0).contains(&messages), "300 on average: {output}");
    let svg = std::fs::read_to_string(picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("random"));
}

#[test]
fn figure_has_a_point_for_each_place_and_rule() {
    let output =
        json(&["prequal", "--figure", "7", "--replicas", "4", "-a", "random,hcl", SHORT[0], SHORT[1]]);
    let points = output["points"].as_array().unwrap();
    let lines: Vec<_> = points.iter().map(|point| (&point["x"], &point["rule"])).collect();
    let expected = [("0.70", "random"), ("0.70", "hcl"), ("0.90", "random"), ("0.90", "hcl")];
    assert_eq!(
        lines,
        expected
            .map(|(place, rule)| (Value::from(place), Value::from(rule)))
            .iter()
            .map(|(a, b)| (a, b))
            .collect::<Vec<_>>()
    );
}

#[test]
fn scenarios_are_listed_without_a_name() {
    let (code, out, _) = run_to_end(&["simulate"]);
    assert!(code == 0 && out.contains("fast-failing") && out.contains("weighted_by_use"), "{out}");
}

#[test]
fn usage_errors_are_reported_with_exit_code_2() {
    let directory = Directory::with("name: mine\ndestinations: [{group: x, slots: 0}]\nwork: {fixed: 1ms}\n");
    let path = directory.config();
    let file = path.to_str().unwrap();
    for (args, word) in [
        (&["nothing-like-it"][..], "two-speeds"),
        (&["uniform", "-a", "fastest"], "least_connections"),
        (&["uniform", "--load", "0"], "--load"),
        (&["uniform", "--load", "1e9"], "more than"),
        (&["uniform", "--duration", "5"], "unit"),
        (&["uniform", "--seeds", "0"], "seeds"),
        (&["uniform", "--figure", "6"], "prequal"),
        (&["prequal"], "[6, 7, 8, 9, 10]"),
        (&["prequal", "--figure", "5"], "[6, 7, 8, 9, 10]"),
        (&["uniform", "--replay", "/does/not/exist"], "/does/not/exist"),
        (&["uniform", "--replay", file], "not an access log"),
        (&[file], "slots"),
    ] {
        let (code, out, err) = run_to_end(&[&["simulate"], args].concat());
        assert!(code == 2 && err.contains(word), "{args:?}: {code} {out}{err}");
    }
    let (code, _, err) =
        run_to_end(&["simulate", "uniform", SHORT[0], SHORT[1], "--plot", "/does/not/exist.svg"]);
    assert!(code == 1 && err.contains("/does/not/exist.svg"), "{code} {err}");
}
