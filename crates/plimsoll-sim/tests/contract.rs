//! Checks that the built-in policies keep their guarantees, and that violations are detected.

use std::panic::catch_unwind;
use std::sync::Arc;

use plimsoll_core::balance::{
    Algorithm, AlgorithmSettings, HashSpec, HashTable, Needs, Picker, Policy, Slot,
};
use plimsoll_core::formula::Formula;
use plimsoll_core::{PickRequest, Rng, Tick};
use plimsoll_sim::{Guarantees, check_contract};

/// Guarantees of each algorithm: the intended shares, within random sampling. (Load-aware algorithms do
/// better.)
const fn guarantees(algorithm: Algorithm) -> Guarantees {
    let rotates = matches!(algorithm, Algorithm::RoundRobin | Algorithm::WeightedRoundRobin);
    // A peak is the maximum of many responses, so equal destinations differ for as long as one lasts. With
    // exponential response times an average varies by a sixth, and with it the health score and the slowdown.
    let tolerance = match algorithm {
        Algorithm::PeakEwma => 0.5,
        // Prequal guarantees no shares: a destination known to be slow gets none while others are cold, and
        // here response times do not depend on the load.
        Algorithm::Prequal => 1.0,
        Algorithm::HealthBased | Algorithm::ResponseTime => 0.1,
        _ => 0.0,
    };
    Guarantees { follows_weights: algorithm.heeds_weights(), rotates, tolerance }
}

fn keeps(algorithm: Algorithm) {
    check_contract(&|workers| algorithm.policy(workers), &guarantees(algorithm));
}

#[test]
fn round_robin_keeps_the_contract() {
    keeps(Algorithm::RoundRobin);
}

#[test]
fn custom_keeps_the_contract_by_any_formula() {
    for formula in [
        "(in_flight + 1) / weight",
        "(in_flight + 1) / weight * (has(load.cpu) ? 1 + load.cpu : 1)",
        "zone == 'eu' ? 1e9 : (in_flight + 1) / weight",
    ] {
        let formula = Some(Arc::new(Formula::parse(formula).expect("a formula")));
        let settings = AlgorithmSettings { formula, ..AlgorithmSettings::default() };
        check_contract(
            &|workers| Algorithm::Custom.policy_with(workers, &settings),
            &guarantees(Algorithm::Custom),
        );
    }
}

#[test]
fn weighted_round_robin_keeps_the_contract() {
    keeps(Algorithm::WeightedRoundRobin);
}

#[test]
fn least_connections_keeps_the_contract() {
    keeps(Algorithm::LeastConnections);
}

#[test]
fn weighted_least_connections_keeps_the_contract() {
    keeps(Algorithm::WeightedLeastConnections);
}

#[test]
fn random_keeps_the_contract() {
    keeps(Algorithm::Random);
}

#[test]
fn p2c_keeps_the_contract() {
    keeps(Algorithm::P2c);
}

#[test]
fn response_time_keeps_the_contract() {
    keeps(Algorithm::ResponseTime);
}

#[test]
fn peak_ewma_keeps_the_contract() {
    keeps(Algorithm::PeakEwma);
}

#[test]
fn hash_keeps_the_contract() {
    keeps(Algorithm::Hash);
}

/// Covers `source_hash` too, which is the same policy by another name.
#[test]
fn every_table_with_a_bound_keeps_the_contract() {
    for table in [HashTable::Ring, HashTable::Rendezvous] {
        let settings =
            AlgorithmSettings { hash: HashSpec { table, bound: Some(125) }, ..AlgorithmSettings::default() };
        let ring_guarantees = Guarantees {
            tolerance: if table == HashTable::Ring { 0.1 } else { 0.0 },
            ..guarantees(Algorithm::Hash)
        };
        check_contract(&|workers| Algorithm::Hash.policy_with(workers, &settings), &ring_guarantees);
    }
}

#[test]
fn health_based_keeps_the_contract() {
    keeps(Algorithm::HealthBased);
}

#[test]
fn prequal_keeps_the_contract() {
    keeps(Algorithm::Prequal);
}

/// Policy made from a function of the number of slots and random numbers.
struct FunctionPolicy(fn(usize, &mut Rng) -> usize);

impl Policy for FunctionPolicy {
    fn name(&self) -> &'static str {
        "pick"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(FunctionPicker(slots.len(), self.0))
    }
}

struct FunctionPicker(usize, fn(usize, &mut Rng) -> usize);

impl Picker for FunctionPicker {
    fn pick(&self, _want: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        (self.1)(self.0, rng)
    }
}

/// Returns the name of the guarantee that `pick` violates.
fn broken_guarantee(pick: fn(usize, &mut Rng) -> usize, guarantees: Guarantees) -> String {
    let broken = catch_unwind(|| check_contract(&|_| Box::new(FunctionPolicy(pick)), &guarantees))
        .expect_err("a broken guarantee");
    let message = broken.downcast_ref::<String>().expect("a message");
    message.split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn every_broken_guarantee_is_detected() {
    let random = Guarantees { follows_weights: false, rotates: false, tolerance: 0.0 };
    assert_eq!(broken_guarantee(|slots, _| slots, random), "serving destinations only");
    assert_eq!(broken_guarantee(|_, _| 0, random), "even across republishes");
    let even = |slots: usize, rng: &mut Rng| rng.index(slots);
    check_contract(&|_| Box::new(FunctionPolicy(even)), &random);
    assert_eq!(broken_guarantee(even, Guarantees { follows_weights: true, ..random }), "follows weights");
    assert_eq!(broken_guarantee(even, Guarantees { rotates: true, ..random }), "exact per worker");
}
