//! What becomes of destinations in trouble under the product's own pools: ejection, return, retries.

use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_sim::scenario::known;
use plimsoll_sim::{Contender, Scenario, Tally, simulate};

fn scenario(name: &str) -> Scenario {
    known(name).expect("built in").unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn each(scenario: &Scenario, check: impl Fn(Algorithm, &Tally)) {
    for algorithm in Algorithm::ALL {
        check(algorithm, &simulate(scenario, &Contender::Production(algorithm), 7));
    }
}

/// Where the destinations of a group are in the list.
fn of_group<'a>(scenario: &'a Scenario, group: &'a str) -> impl Fn(usize) -> bool + 'a {
    move |site| scenario.sites[site].group == group
}

#[test]
fn a_destination_that_fails_fast_gets_less_than_a_hundredth_after_one_second() {
    let mut scenario = scenario("fast-failing");
    scenario.duration = Duration::from_secs(20);
    each(&scenario, |algorithm, tally| {
        let before = tally.share(2, 10, of_group(&scenario, "failing"));
        let after = tally.share(11, 20, of_group(&scenario, "failing"));
        assert!((0.05..0.15).contains(&before) || !is_even(algorithm), "{algorithm:?}: {before}");
        assert!(after < 0.01, "{algorithm:?}: {after}");
        assert!(tally.error_share() < 0.001, "{algorithm:?}: {}", tally.error_share());
    });
}

/// Where all are alike, each gets as much.
fn is_even(algorithm: Algorithm) -> bool {
    let even = ["round_robin", "weighted_round_robin", "random", "p2c"];
    even.contains(&algorithm.name()) || algorithm.name().ends_with("least_connections")
}

#[test]
fn without_ejection_it_would_be_a_sinkhole_for_who_looks_at_load() {
    let mut scenario = scenario("fast-failing");
    scenario.duration = Duration::from_secs(14);
    scenario.outlier.consecutive_failures = 0;
    scenario.health = None;
    let tally = simulate(&scenario, &Contender::Production(Algorithm::LeastConnections), 7);
    let after = tally.share(11, 14, of_group(&scenario, "failing"));
    assert!(after > 0.12, "{after}");
}

#[test]
fn a_destination_that_returns_is_not_above_its_fair_share() {
    let mut scenario = scenario("returning");
    scenario.duration = Duration::from_secs(42);
    for name in ["round_robin", "weighted_round_robin", "random", "p2c", "least_connections"] {
        let tally = simulate(&scenario, &name.parse().expect("known"), 7);
        let share = |second| tally.share(second, second + 1, of_group(&scenario, "returning"));
        assert!(share(20) < 0.01, "{name}: it is away: {}", share(20));
        let back = (30..42).find(|&second| share(second) > 0.02).expect("it comes back");
        // A message each time it is tried while it is away, and no more.
        assert!(back <= 40, "{name}: {back}");
        // 1,200 messages a second: chance alone makes a fifth of them 0.2 give or take 0.035.
        let most = (30..42).map(share).fold(0.0, f64::max);
        assert!(most < 0.235, "{name}: {most}");
        assert!(tally.error_share() < 1e-3, "{name}: {}", tally.error_share());
    }
}

#[test]
fn a_destination_that_answers_nobody_gets_nothing_after_four_seconds() {
    let mut scenario = scenario("silent");
    scenario.duration = Duration::from_secs(20);
    each(&scenario, |algorithm, tally| {
        let before = tally.share(2, 10, of_group(&scenario, "silent"));
        assert!((0.05..0.15).contains(&before) || !is_even(algorithm), "{algorithm:?}: {before}");
        let after = tally.share(14, 20, of_group(&scenario, "silent"));
        assert!(after < 0.001, "{algorithm:?}: {after}");
    });
    scenario.outlier.silence = None;
    let tally = simulate(&scenario, &Contender::Production(Algorithm::RoundRobin), 7);
    let after = tally.share(14, 20, of_group(&scenario, "silent"));
    assert!(after > 0.08, "nothing else finds it before a minute is over: {after}");
}
