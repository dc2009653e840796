//! Whether the examples work as they stand, and hold the specification's text byte for byte.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_config::{Code, Config, Loaded, load_path};
use plimsoll_core::balance::Algorithm;

const BASIC: &str = include_str!("specification/basic.yaml");
const ADVANCED: &str = include_str!("specification/advanced.yaml");

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn example(name: &str) -> Loaded {
    load_path(&examples().join(name), &|_| None).unwrap()
}

/// The specification's text is in the example, and the example works with these keys warned of.
fn check_specification(name: &str, specified: &str, inactive: &[&str]) -> Config {
    let text = std::fs::read_to_string(examples().join(name)).unwrap();
    assert!(text.contains(specified), "{name} does not hold the specification's text byte for byte");
    let loaded = example(name);
    assert!(loaded.problems.iter().all(|p| p.code == Code::NotActiveYet), "{:?}", loaded.problems);
    let told: Vec<&str> =
        loaded.problems.iter().filter_map(|p| p.path.strip_prefix("load_balancer.")).collect();
    assert_eq!(told, inactive);
    loaded.config.unwrap()
}

#[test]
fn the_basic_example_of_the_specification() {
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
fn the_advanced_example_of_the_specification() {
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
fn every_other_example_works_without_a_word() {
    let mut seen = 0;
    for entry in std::fs::read_dir(examples()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("specification-") || !name.ends_with(".yaml") {
            continue;
        }
        let loaded = example(&name);
        let told = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
        assert!(loaded.config.is_some() && told.is_empty(), "{told}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen} examples");
}
