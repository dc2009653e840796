//! `plimsoll simulate`: scenarios by name and from files, replayed logs, figures, and what it says of mistakes.

use serde_json::Value;

use crate::process::{Folder, ends};

fn json(args: &[&str]) -> Value {
    let (code, out, err) = ends(&[&["simulate"], args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

const SHORT: [&str; 2] = ["--duration", "500ms"];

#[test]
fn a_scenario_is_run_for_each_algorithm_and_told_as_a_table_or_as_json() {
    let (code, out, _) = ends(&["simulate", "uniform", SHORT[0], SHORT[1], "--algorithm", "p2c,oracle"]);
    assert_eq!(code, 0);
    for word in ["uniform:", "p99.99", "imbalance", "regret", "\np2c ", "\noracle "] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert!(!out.contains("round_robin"), "{out}");
    let told =
        json(&["two-speeds", "-a", "round_robin,least_connections", "--seeds", "2", SHORT[0], SHORT[1]]);
    let [rotation, least] = &told["algorithms"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&rotation["algorithm"], &rotation["runs"]), (&"round_robin".into(), &2.into()));
    let p99 = |told: &Value| told["latency_ms"]["p99"]["mean"].as_f64().unwrap();
    assert!(p99(least) < p99(rotation), "{told}");
    assert!(least["groups"][0]["share"].as_f64().unwrap() > 0.5, "the fast ones get more: {told}");
}

#[test]
fn the_same_seed_tells_the_same() {
    let told = |seed: &str| json(&["heavy-tail", "-a", "p2c", "--seed", seed, SHORT[0], SHORT[1]]);
    assert_eq!(told("5"), told("5"));
    assert_ne!(told("5")["algorithms"], told("6")["algorithms"]);
}

#[test]
fn a_file_is_a_scenario_and_a_log_its_rhythm() {
    let folder = Folder::with(
        "name: mine\nalgorithms: [random]\ndestinations: [{group: x, count: 2, slots: 1}]\n\
         work: {fixed: 1ms}\nrate: 200/s\nduration: 1500ms\n",
    );
    let path = folder.config();
    let file = path.to_str().unwrap();
    let log = format!("{}/../../examples/simulations/access.log", env!("CARGO_MANIFEST_DIR"));
    let picture = path.with_extension("svg");
    let told = json(&[file, "--replay", &log, "--plot", picture.to_str().unwrap()]);
    assert_eq!(told["scenario"], "mine");
    let messages = told["algorithms"][0]["messages"].as_f64().unwrap();
    assert!((150.0..450.0).contains(&messages), "300 on average: {told}");
    let svg = std::fs::read_to_string(picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("random"));
}

#[test]
fn a_figure_is_a_point_for_each_place_and_rule() {
    let told = json(&["prequal", "--figure", "7", "--replicas", "4", "-a", "random,hcl", SHORT[0], SHORT[1]]);
    let points = told["points"].as_array().unwrap();
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
fn without_a_name_it_tells_the_names() {
    let (code, out, _) = ends(&["simulate"]);
    assert!(code == 0 && out.contains("fast-failing") && out.contains("weighted_by_use"), "{out}");
}

#[test]
fn every_mistake_is_a_sentence_and_exit_code_2() {
    let folder = Folder::with("name: mine\ndestinations: [{group: x, slots: 0}]\nwork: {fixed: 1ms}\n");
    let path = folder.config();
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
        (&["uniform", "--replay", file], "no access log"),
        (&[file], "slots"),
    ] {
        let (code, out, err) = ends(&[&["simulate"], args].concat());
        assert!(code == 2 && err.contains(word), "{args:?}: {code} {out}{err}");
    }
    let (code, _, err) = ends(&["simulate", "uniform", SHORT[0], SHORT[1], "--plot", "/does/not/exist.svg"]);
    assert!(code == 1 && err.contains("/does/not/exist.svg"), "{code} {err}");
}
