//! Shapes of Prequal's results, shortened: fewer destinations, seconds instead of minutes.

use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_sim::candidates::{ProbeScore, ProbeSettings};
use plimsoll_sim::fault::{FaultKind, SimFault};
use plimsoll_sim::prequal::{figure, setup};
use plimsoll_sim::{CandidatePolicy, RunStats, Scenario, simulate};

/// Number of destinations; the sixteen probes must be a part of them, or each would be used until it expires.
const COUNT: usize = 50;

fn short(load: f64, seconds: u64) -> Scenario {
    let mut scenario = setup(COUNT, load);
    (scenario.warm_up, scenario.duration) = (Duration::from_secs(2), Duration::from_secs(seconds));
    scenario
}

fn run(scenario: &Scenario, name: &str) -> RunStats {
    simulate(scenario, &name.parse().expect("a candidate"), 1)
}

fn p99(scenario: &Scenario, candidate: CandidatePolicy) -> f64 {
    simulate(scenario, &candidate, 1).quantile(0.99)
}

#[test]
fn below_the_allocation_probing_beats_two_choices_beats_round_robin() {
    let scenario = short(0.9, 6);
    let blind = run(&scenario, "round_robin").quantile(0.99);
    let choice = run(&scenario, "p2c").quantile(0.99);
    let probing = run(&scenario, "hcl").quantile(0.99);
    assert!(probing < 0.8 * choice && choice < blind, "{probing} {choice} {blind}");
}

#[test]
fn far_above_the_allocation_round_robin_fails_a_quarter_and_probing_none() {
    // Failures take time to appear: queues must grow and the deadline must pass.
    let mut scenario = setup(20, 1.74);
    (scenario.warm_up, scenario.duration) = (Duration::from_secs(10), Duration::from_secs(10));
    let rotation = run(&scenario, "weighted_round_robin").error_share();
    let probing = run(&scenario, "hcl").error_share();
    assert!(rotation > 0.25 && probing < 0.001, "{rotation} {probing}");
}

#[test]
fn fewer_than_one_probe_per_message_are_too_few() {
    let scenario = short(1.5, 3);
    let of = |probes| {
        p99(
            &scenario,
            CandidatePolicy::Probing(ProbeSettings { probes, removes: 0.25, ..ProbeSettings::PREQUAL }),
        )
    };
    let (many, one, few) = (of(3.0), of(1.0), of(0.5));
    assert!(few > 1.5 * one && one < 2.0 * many, "{many} {one} {few}");
}

#[test]
fn with_half_of_destinations_slow_load_and_latency_together_are_best() {
    let mut scenario = short(0.75, 6);
    for destination in scenario.destinations.iter_mut().skip(1).step_by(2) {
        destination.faults.push(SimFault {
            kind: FaultKind::Slow(2.0),
            from: Tick::ZERO,
            until: Tick::NEVER,
        });
    }
    let of = |quantile| {
        let score = ProbeScore::HotCold(quantile);
        p99(&scenario, CandidatePolicy::Probing(ProbeSettings { score, ..ProbeSettings::PREQUAL }))
    };
    let (load, both, latency) = (of(0.0), of(0.9), of(1.0));
    assert!(both < 0.9 * load && both < latency, "{load} {both} {latency}");
}

#[test]
fn with_equal_destinations_some_load_in_the_score_helps() {
    // With few destinations the fastest one is the same for all balancers.
    let mut scenario = setup(40, 0.75);
    (scenario.warm_up, scenario.duration) = (Duration::from_secs(8), Duration::from_secs(12));
    let of = |share| {
        let score = ProbeScore::Linear(share);
        p99(&scenario, CandidatePolicy::Probing(ProbeSettings { score, ..ProbeSettings::PREQUAL }))
    };
    let (latency, mixed) = (of(0.0), of(0.9));
    assert!(mixed < 0.7 * latency, "{latency} {mixed}");
}

#[test]
fn every_figure_has_its_points() {
    for (number, points) in
        [(7, 2 * (plimsoll_core::balance::Algorithm::ALL.len() + 6)), (8, 7), (9, 14), (10, 14)]
    {
        let figure = figure(number, 10, &[]).expect("a figure");
        assert_eq!(figure.points.len(), points, "figure {number}");
    }
    assert!(figure(6, 10, &[]).expect("a figure").points.len() >= 9 * 4);
    assert_eq!(figure(6, 10, &["p2c".parse().expect("known")]).expect("a figure").points.len(), 9);
    assert!(figure(5, 10, &[]).is_none());
}
