//! What becomes of destinations in trouble under the product's own pools: ejection, return, retries.

use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::retry::{After, HedgeSpec};
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

#[test]
fn a_destination_that_returns_gets_less_than_its_share_in_its_first_window() {
    let mut scenario = scenario("returning");
    (scenario.duration, scenario.slow_start) = (Duration::from_secs(45), Some(Duration::from_secs(10)));
    each(&scenario, |algorithm, tally| {
        let share = |second| tally.share(second, second + 1, of_group(&scenario, "returning"));
        let back = (30..41).find(|&second| share(second) > 0.002).unwrap_or_else(|| panic!("{algorithm:?}"));
        // A fifth is fair; the window begins with a tenth of that and ends with all of it. (A key is sent nowhere
        // else, so a hash gives of its keys what the window lets through.)
        for second in back..back + 10 {
            let most = 0.2 + 0.035;
            assert!(share(second) < most, "{algorithm:?}, second {second}: {}", share(second));
        }
        let early = tally.share(back, back + 3, of_group(&scenario, "returning"));
        assert!(early < 0.1, "{algorithm:?}: {early} in the first three seconds");
    });
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
    scenario.outlier.unresponsive_after = None;
    let tally = simulate(&scenario, &Contender::Production(Algorithm::RoundRobin), 7);
    let after = tally.share(14, 20, of_group(&scenario, "silent"));
    assert!(after > 0.08, "nothing else finds it before a minute is over: {after}");
}

#[test]
fn a_copy_saves_what_a_stall_would_hold_up_and_costs_a_twentieth() {
    let mut scenario = scenario("stalls");
    scenario.duration = Duration::from_secs(40);
    let run = |scenario: &Scenario| simulate(scenario, &Contender::Production(Algorithm::P2c), 7);
    let alone = run(&scenario);
    scenario.hedge = Some(HedgeSpec { after: After::Share(0.95), most: 1 });
    let hedged = run(&scenario);
    let tail = |tally: &Tally| tally.quantile(0.9999);
    assert!(tail(&alone) > 1.0 && tail(&hedged) < 0.2, "{} {}", tail(&alone), tail(&hedged));
    let copies = hedged.copies as f64 / hedged.messages as f64;
    assert!((0.04..0.07).contains(&copies), "{copies}");
    assert!(hedged.copies_won > 0 && hedged.copies_won < hedged.copies && alone.copies == 0);
    assert_eq!((hedged.failed, hedged.late), (0, 0));
    let median = hedged.quantile(0.5) / alone.quantile(0.5);
    assert!(median < 1.05, "{median}");
}

#[test]
fn copies_stop_where_the_budget_does() {
    let mut scenario = scenario("two-slow");
    (scenario.duration, scenario.retry.budget) = (Duration::from_secs(20), 0.01);
    scenario.hedge = Some(HedgeSpec { after: After::Span(Duration::from_millis(1)), most: 3 });
    let tally = simulate(&scenario, &Contender::Production(Algorithm::P2c), 7);
    // One in a hundred, and the reserve of ten a second.
    let most = 0.01 * tally.messages as f64 + 10.0 * 25.0 + 100.0;
    assert!(tally.copies > 100 && (tally.copies as f64) < most, "{} of {}", tally.copies, tally.messages);
}

#[test]
fn a_balancer_among_many_is_helped_by_what_answers_tell_and_not_by_its_own_counts() {
    let mut scenario = scenario("two-slow");
    (scenario.duration, scenario.balancers, scenario.workers) = (Duration::from_secs(20), 16, 1);
    let p99 = |name: &str| simulate(&scenario, &name.parse().expect("known"), 7).quantile(0.99);
    let (blind, by_time) = (p99("least_connections"), p99("response_time"));
    assert!(by_time < 0.6 * blind, "{by_time} {blind}");
}
