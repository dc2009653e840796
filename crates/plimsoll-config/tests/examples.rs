//! Examples, which are valid as they stand and hold the specification's text byte for byte.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_config::{Code, Config, Loaded, load_path, render_text};
use plimsoll_core::balance::Algorithm;
use serde_json::Value as Json;

const BASIC: &str = include_str!("specification/basic.yaml");
const ADVANCED: &str = include_str!("specification/advanced.yaml");

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn example(name: &str) -> Loaded {
    load_path(&examples().join(name), &|_| None).unwrap()
}

/// Checks that the example contains the specification's text and loads with warnings for these keys only.
fn check_specification(name: &str, specified: &str, inactive: &[&str]) -> Config {
    let text = std::fs::read_to_string(examples().join(name)).unwrap();
    assert!(text.contains(specified), "{name} does not hold the specification's text byte for byte");
    let loaded = example(name);
    assert!(loaded.problems.iter().all(|p| p.code == Code::NotActiveYet), "{:?}", loaded.problems);
    let reported: Vec<&str> =
        loaded.problems.iter().filter_map(|p| p.path.strip_prefix("load_balancer.")).collect();
    assert_eq!(reported, inactive);
    loaded.config.unwrap()
}

#[test]
fn the_basic_example_of_the_specification_loads_unchanged() {
    let inactive = [];
    let config = check_specification("specification-basic.yaml", BASIC, &inactive);
    let pool = &config.pools[0];
    assert_eq!(pool.algorithm, Algorithm::RoundRobin);
    let health = pool.health.as_ref().unwrap();
    assert_eq!((health.check_interval, health.timeout), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!((health.failure_threshold, health.recovery_threshold), (3, 2));
    assert_eq!(pool.timeouts.total, Some(Duration::from_secs(5)));
    assert!(
        pool.parallel_checks && pool.tiers.backup_tiers && pool.retry.failover && pool.retry.error_recovery
    );
}

#[test]
fn the_advanced_example_of_the_specification_loads_unchanged() {
    let inactive = ["performance_monitoring", "dynamic_adjustment"];
    let config = check_specification("specification-advanced.yaml", ADVANCED, &inactive);
    let pool = &config.pools[0];
    assert_eq!(pool.algorithm, Algorithm::WeightedLeastConnections);
    let health = pool.health.as_ref().unwrap();
    assert_eq!((health.check_interval, health.timeout), (Duration::from_secs(15), Duration::from_secs(3)));
    assert_eq!((health.failure_threshold, health.recovery_threshold), (2, 1));
    assert_eq!(pool.timeouts.total, Some(Duration::from_secs(10)));
}

#[test]
fn every_other_example_loads_without_problems() {
    let mut seen = 0;
    for entry in std::fs::read_dir(examples()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("specification-") || !name.ends_with(".yaml") {
            continue;
        }
        let loaded = example(&name);
        let report = render_text(&loaded.problems, &loaded.sources);
        assert!(loaded.config.is_some() && report.is_empty(), "{report}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen} examples");
}

/// Keys of the short form, which excludes the full form.
const SHORT_FORM: [&str; 2] = ["listen", "destinations"];

#[test]
fn the_full_example_shows_every_key_of_the_schema() {
    let schema = std::fs::read_to_string(examples().join("../config.schema.json")).unwrap();
    let schema: Json = serde_json::from_str(&schema).unwrap();
    let text = std::fs::read_to_string(examples().join("full.yaml")).unwrap();
    let file: Json = serde_saphyr::from_str(&text).unwrap();
    let mut shown = BTreeSet::new();
    collect_shown(&schema, &schema, "", &file, &mut shown);

    let definitions = schema["$defs"].as_object().unwrap().iter();
    let blocks = definitions.map(|(name, block)| (name.as_str(), block)).chain([("", &schema)]);
    let mut missing = Vec::new();
    for (name, block) in blocks {
        for key in block["properties"].as_object().into_iter().flat_map(|keys| keys.keys()) {
            let short_form = name.is_empty() && SHORT_FORM.contains(&key.as_str());
            if !short_form && !shown.contains(&(name.to_owned(), key.clone())) {
                missing.push(format!("{name}.{key}"));
            }
        }
    }
    assert!(shown.len() > 180, "{} keys", shown.len());
    assert!(missing.is_empty(), "examples/full.yaml does not show {}", missing.join(", "));
}

/// Adds each key of `file` as the name of its block in the schema and the key.
fn collect_shown(
    root: &Json,
    schema: &Json,
    block: &str,
    file: &Json,
    shown: &mut BTreeSet<(String, String)>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        let definition = root.pointer(reference.trim_start_matches('#')).unwrap();
        return collect_shown(root, definition, name, file, shown);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        collect_shown(root, choice, block, file, shown);
    }
    for item in file.as_array().into_iter().flatten() {
        collect_shown(root, &schema["items"], block, item, shown);
    }
    for (key, value) in file.as_object().into_iter().flatten() {
        match schema["properties"].get(key) {
            Some(property) => {
                shown.insert((block.to_owned(), key.clone()));
                collect_shown(root, property, block, value, shown);
            }
            None => collect_shown(root, &schema["additionalProperties"], block, value, shown),
        }
    }
}
