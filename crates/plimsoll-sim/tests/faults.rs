//! Behaviour of the product's pools with faulty destinations: ejection, recovery, retries.

use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::retry::{HedgeAfter, HedgeSpec};
use plimsoll_sim::scenario::built_in;
use plimsoll_sim::{CandidatePolicy, RunStats, Scenario, simulate};

fn scenario(name: &str) -> Scenario {
    built_in(name).expect("built in").unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn each(scenario: &Scenario, check: impl Fn(Algorithm, &RunStats)) {
    for algorithm in Algorithm::ALL {
        check(algorithm, &simulate(scenario, &CandidatePolicy::Production(algorithm), 7));
    }
}

#[test]
fn a_recovered_destination_ramps_up_in_its_slow_start_window() {
    let mut scenario = scenario("returning");
    (scenario.duration, scenario.slow_start) = (Duration::from_secs(45), Some(Duration::from_secs(10)));
    each(&scenario, |algorithm, stats| {
        let share = |second| stats.share(second, second + 1, of_group(&scenario, "returning"));
        let back = (30..41).find(|&second| share(second) > 0.002).unwrap_or_else(|| panic!("{algorithm:?}"));
        // A fifth is a fair share; the window starts with a tenth of that and ends with all of it. (A key is
        // sent to no other destination, so a hash serves those of its keys that the window admits.)
        for second in back..back + 10 {
            let most = 0.2 + 0.035;
            assert!(share(second) < most, "{algorithm:?}, second {second}: {}", share(second));
        }
        let early = stats.share(back, back + 3, of_group(&scenario, "returning"));
        assert!(early < 0.1, "{algorithm:?}: {early} in the first three seconds");
    });
}

/// Returns whether a destination is in the group.
fn of_group<'a>(scenario: &'a Scenario, group: &'a str) -> impl Fn(usize) -> bool + 'a {
    move |destination| scenario.destinations[destination].group == group
}

#[test]
fn a_fast_failing_destination_gets_under_one_percent_after_a_second() {
    let mut scenario = scenario("fast-failing");
    scenario.duration = Duration::from_secs(20);
    each(&scenario, |algorithm, stats| {
        let before = stats.share(2, 10, of_group(&scenario, "failing"));
        let after = stats.share(11, 20, of_group(&scenario, "failing"));
        assert!((0.05..0.15).contains(&before) || !is_even(algorithm), "{algorithm:?}: {before}");
        assert!(after < 0.01, "{algorithm:?}: {after}");
        assert!(stats.error_share() < 0.001, "{algorithm:?}: {}", stats.error_share());
    });
}

/// Whether the algorithm gives equal destinations equal shares.
fn is_even(algorithm: Algorithm) -> bool {
    let even = ["round_robin", "weighted_round_robin", "random", "p2c"];
    even.contains(&algorithm.name()) || algorithm.name().ends_with("least_connections")
}

#[test]
fn without_ejection_a_fast_failing_destination_attracts_load() {
    let mut scenario = scenario("fast-failing");
    scenario.duration = Duration::from_secs(14);
    scenario.outlier.consecutive_failures = 0;
    scenario.health = None;
    let stats = simulate(&scenario, &CandidatePolicy::Production(Algorithm::LeastConnections), 7);
    let after = stats.share(11, 14, of_group(&scenario, "failing"));
    assert!(after > 0.12, "{after}");
}

#[test]
fn a_recovered_destination_stays_within_its_fair_share() {
    let mut scenario = scenario("returning");
    scenario.duration = Duration::from_secs(42);
    for name in ["round_robin", "weighted_round_robin", "random", "p2c", "least_connections"] {
        let stats = simulate(&scenario, &name.parse().expect("known"), 7);
        let share = |second| stats.share(second, second + 1, of_group(&scenario, "returning"));
        assert!(share(20) < 0.01, "{name}: it is down: {}", share(20));
        let back = (30..42).find(|&second| share(second) > 0.02).expect("it comes back");
        // Only trial messages are sent while it is down.
        assert!(back <= 40, "{name}: {back}");
        // At 1,200 messages a second random sampling makes a fifth of them 0.2 ± 0.035.
        let most = (30..42).map(share).fold(0.0, f64::max);
        assert!(most < 0.235, "{name}: {most}");
        assert!(stats.error_share() < 1e-3, "{name}: {}", stats.error_share());
    }
}

#[test]
fn an_unresponsive_destination_gets_nothing_after_four_seconds() {
    let mut scenario = scenario("unresponsive");
    scenario.duration = Duration::from_secs(20);
    each(&scenario, |algorithm, stats| {
        let before = stats.share(2, 10, of_group(&scenario, "unresponsive"));
        assert!((0.05..0.15).contains(&before) || !is_even(algorithm), "{algorithm:?}: {before}");
        let after = stats.share(14, 20, of_group(&scenario, "unresponsive"));
        assert!(after < 0.001, "{algorithm:?}: {after}");
    });
    scenario.outlier.unresponsive_after = None;
    let stats = simulate(&scenario, &CandidatePolicy::Production(Algorithm::RoundRobin), 7);
    let after = stats.share(14, 20, of_group(&scenario, "unresponsive"));
    assert!(after > 0.08, "nothing else detects it within a minute: {after}");
}

#[test]
fn hedging_shortens_the_tail_of_a_stall_for_a_twentieth_more_requests() {
    let mut scenario = scenario("stalls");
    scenario.duration = Duration::from_secs(40);
    let run = |scenario: &Scenario| simulate(scenario, &CandidatePolicy::Production(Algorithm::P2c), 7);
    let alone = run(&scenario);
    scenario.hedge = Some(HedgeSpec { after: HedgeAfter::Quantile(0.95), max: 1 });
    let hedged = run(&scenario);
    let tail = |stats: &RunStats| stats.quantile(0.9999);
    assert!(tail(&alone) > 1.0 && tail(&hedged) < 0.2, "{} {}", tail(&alone), tail(&hedged));
    let copies = hedged.hedges as f64 / hedged.messages as f64;
    assert!((0.04..0.07).contains(&copies), "{copies}");
    assert!(hedged.hedges_won > 0 && hedged.hedges_won < hedged.hedges && alone.hedges == 0);
    assert_eq!((hedged.failed, hedged.timed_out), (0, 0));
    let median = hedged.quantile(0.5) / alone.quantile(0.5);
    assert!(median < 1.05, "{median}");
}

#[test]
fn hedging_stays_within_the_retry_budget() {
    let mut scenario = scenario("two-slow");
    (scenario.duration, scenario.retry.budget) = (Duration::from_secs(20), 0.01);
    scenario.hedge = Some(HedgeSpec { after: HedgeAfter::Fixed(Duration::from_millis(1)), max: 3 });
    let stats = simulate(&scenario, &CandidatePolicy::Production(Algorithm::P2c), 7);
    // One percent, and the reserve of ten a second.
    let most = 0.01 * stats.messages as f64 + 10.0 * 25.0 + 100.0;
    assert!(stats.hedges > 100 && (stats.hedges as f64) < most, "{} of {}", stats.hedges, stats.messages);
}

#[test]
fn among_many_balancers_response_times_help_more_than_own_counts() {
    let mut scenario = scenario("two-slow");
    (scenario.duration, scenario.balancers, scenario.workers) = (Duration::from_secs(20), 16, 1);
    let p99 = |name: &str| simulate(&scenario, &name.parse().expect("known"), 7).quantile(0.99);
    let (blind, by_time) = (p99("least_connections"), p99("response_time"));
    assert!(by_time < 0.6 * blind, "{by_time} {blind}");
}
