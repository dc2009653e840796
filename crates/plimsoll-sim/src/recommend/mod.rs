//! Recommendation of an algorithm: candidates serve a recorded trace again, unchanged and with faults.

pub mod trace;

use std::time::Duration;

use plimsoll_core::balance::{Algorithm, Needs};
use plimsoll_core::retry::{HedgeAfter, HedgeSpec};

use self::trace::Trace;
use crate::candidates::CandidatePolicy;
use crate::fault::{FaultKind, SimFault};
use crate::run::simulate;
use crate::run_stats::{RunStats, mean_and_interval};
use crate::scenario::Scenario;

/// Minimum relative gain that justifies a change.
const MIN_GAIN: f64 = 0.03;
/// Maximum increase of the share of failed messages.
const MAX_ADDED_ERRORS: f64 = 0.000_5;
/// Maximum hedged attempts per message where hedging is recommended.
const MAX_HEDGE_SHARE: f64 = 0.1;

/// Variant of the trace's scenario.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScenarioVariant {
    /// Scenario as recorded.
    Unchanged,
    /// First destination three times slower.
    OneSlow,
    /// First destination stalled for two seconds at regular intervals.
    OneStalls,
}

impl ScenarioVariant {
    /// Every variant in order.
    pub const ALL: [Self; 3] = [Self::Unchanged, Self::OneSlow, Self::OneStalls];

    /// Returns the name for reports.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Unchanged => "as recorded",
            Self::OneSlow => "one three times slower",
            Self::OneStalls => "one stalls for 2 s",
        }
    }

    fn apply(self, mut scenario: Scenario) -> Scenario {
        let fault = match self {
            Self::Unchanged => return scenario,
            Self::OneSlow => SimFault::always(FaultKind::Slow(3.0)),
            Self::OneStalls => SimFault::always(FaultKind::Pausing {
                every: (scenario.duration / 4).max(Duration::from_secs(4)),
                pause: Duration::from_secs(2),
            }),
        };
        scenario.destinations.first_mut().into_iter().for_each(|destination| destination.faults.push(fault));
        scenario
    }
}

/// Runs of one algorithm on one variant.
#[derive(Clone, Debug, Default)]
pub struct VariantRuns {
    runs: Vec<RunSummary>,
}

#[derive(Copy, Clone, Debug)]
struct RunSummary {
    p50: f64,
    p99: f64,
    p999: f64,
    errors: f64,
    hedge_share: f64,
}

impl VariantRuns {
    fn mean(&self, of: impl Fn(&RunSummary) -> f64) -> f64 {
        mean_and_interval(&self.runs.iter().map(of).collect::<Vec<_>>()).0
    }

    /// Returns the mean p50, p99 and p99.9 in milliseconds.
    pub fn quantiles_ms(&self) -> [f64; 3] {
        [
            self.mean(|summary| summary.p50),
            self.mean(|summary| summary.p99),
            self.mean(|summary| summary.p999),
        ]
        .map(|seconds| seconds * 1e3)
    }

    /// Returns the mean share of failed messages.
    pub fn error_share(&self) -> f64 {
        self.mean(|summary| summary.errors)
    }

    /// Returns the mean hedged attempts per message.
    pub fn hedge_share(&self) -> f64 {
        self.mean(|summary| summary.hedge_share)
    }
}

/// Results of one algorithm on all variants.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Evaluation {
    /// Algorithm under test.
    pub algorithm: Algorithm,
    /// Results on each variant, in the order of [`ScenarioVariant::ALL`].
    pub variants: [VariantRuns; 3],
}

impl Evaluation {
    /// Returns the score of each run, lower is better: logarithms of latency quantiles, so that differences
    /// are relative. The recorded variant counts as much as the two with faults.
    fn scores(&self) -> Vec<f64> {
        let [was, slow, stall] = &self.variants;
        let tail = |runs: &VariantRuns, run: usize| {
            let RunSummary { p50, p99, p999, .. } = runs.runs[run];
            [(p50, 0.2), (p99, 0.5), (p999, 0.3)]
                .map(|(span, part)| span.max(1e-6).ln() * part)
                .iter()
                .sum::<f64>()
        };
        let of = |run| tail(was, run) * 0.5 + tail(slow, run) * 0.25 + tail(stall, run) * 0.25;
        (0..was.runs.len()).map(of).collect()
    }

    fn error_share(&self) -> f64 {
        self.variants.iter().map(VariantRuns::error_share).sum::<f64>() / 3.0
    }

    /// Returns the state the algorithm keeps per destination.
    pub fn state(&self) -> &'static str {
        state(self.algorithm)
    }
}

/// Returns the state an algorithm keeps per destination beside the counters of every pool.
pub fn state(algorithm: Algorithm) -> &'static str {
    match algorithm.policy(1).needs() {
        Needs::Nothing => "none",
        Needs::Key => "lookup table",
        Needs::Load => "in-flight count",
        Needs::ResponseTimes => "response averages",
        Needs::Probes => "1 KiB of recent latencies",
    }
}

/// Recommendation with its evidence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyRecommendation {
    /// Results of the current algorithm.
    pub current: Evaluation,
    /// Results of the best algorithm; the current one if no other is better by enough.
    pub best: Evaluation,
    /// Relative gain of the best algorithm, and half of its 95 % interval over runs.
    pub gain: (f64, f64),
    /// Confidence that the algorithm is better at all, 0 to 1 (Laplace's rule over runs).
    pub confidence: f64,
    /// Results of the best algorithm with hedging, where the gain justifies the hedged attempts.
    pub hedged: Option<Evaluation>,
    /// Results of all algorithms, the best first.
    pub candidates: Vec<Evaluation>,
}

impl PolicyRecommendation {
    /// Returns whether another algorithm is recommended.
    pub fn changes_algorithm(&self) -> bool {
        self.best.algorithm != self.current.algorithm
    }
}

/// Returns the algorithms to try; only weight-aware ones where weights differ.
pub fn candidates(trace: &Trace) -> Vec<Algorithm> {
    let weighted = trace.destinations.iter().any(|seen| seen.weight != trace.destinations[0].weight);
    let all = [
        Algorithm::RoundRobin,
        Algorithm::WeightedRoundRobin,
        Algorithm::P2c,
        Algorithm::LeastConnections,
        Algorithm::WeightedLeastConnections,
        Algorithm::ResponseTime,
        Algorithm::PeakEwma,
        Algorithm::HealthBased,
        Algorithm::Prequal,
    ];
    let twin =
        |one: &Algorithm| matches!(one, Algorithm::WeightedRoundRobin | Algorithm::WeightedLeastConnections);
    let suits = |one: &Algorithm| if weighted { one.heeds_weights() } else { !twin(one) };
    let mut chosen: Vec<Algorithm> = all.into_iter().filter(suits).collect();
    if !chosen.contains(&trace.algorithm) {
        chosen.push(trace.algorithm);
    }
    chosen
}

/// Replays the trace `runs` times for each algorithm and variant, with seeds from `seed` on. `report` is
/// called with the name of each algorithm before its runs.
pub fn recommend(
    trace: &Trace,
    slots: usize,
    seed: u64,
    runs: usize,
    report: impl Fn(&str),
) -> PolicyRecommendation {
    let evaluate = |algorithm: Algorithm, hedge: Option<HedgeSpec>| {
        report(algorithm.name());
        let variants = ScenarioVariant::ALL
            .map(|variant| evaluate_variant(trace, slots, variant, algorithm, hedge, (seed, runs)));
        Evaluation { algorithm, variants }
    };
    let mut all: Vec<Evaluation> = candidates(trace).into_iter().map(|one| evaluate(one, None)).collect();
    all.sort_by(|one, other| mean(&one.scores()).total_cmp(&mean(&other.scores())));
    let current = all.iter().find(|one| one.algorithm == trace.algorithm).unwrap_or(&all[0]).clone();
    let no_worse = |one: &&Evaluation| one.error_share() <= current.error_share() + MAX_ADDED_ERRORS;
    let first = all.iter().find(no_worse).unwrap_or(&current).clone();
    let (gain, confidence) = compare(&current, &first);
    let better = gain.0 > MIN_GAIN && gain.0 > gain.1;
    let best = if better { first } else { current.clone() };
    let hedged =
        Some(evaluate(best.algorithm, Some(HedgeSpec { after: HedgeAfter::Quantile(0.95), max: 1 })));
    let hedged = hedged.filter(|hedged| {
        let (gain, _) = compare(&best, hedged);
        let hedge_share = hedged.variants.iter().all(|runs| runs.hedge_share() < MAX_HEDGE_SHARE);
        gain.0 > MIN_GAIN
            && gain.0 > gain.1
            && hedge_share
            && hedged.error_share() <= best.error_share() + MAX_ADDED_ERRORS
    });
    PolicyRecommendation { current, best, gain, confidence, hedged, candidates: all }
}

fn mean(values: &[f64]) -> f64 {
    mean_and_interval(values).0
}

/// Returns the relative gain of `other` over `one` run by run, as a mean with its interval, and the
/// confidence in it.
fn compare(one: &Evaluation, other: &Evaluation) -> ((f64, f64), f64) {
    let gains: Vec<f64> =
        (one.scores().iter().zip(other.scores())).map(|(one, other)| 1.0 - (other - one).exp()).collect();
    let wins = gains.iter().filter(|&&gain| gain > 0.0).count() as f64;
    (mean_and_interval(&gains), (wins + 1.0) / (gains.len() as f64 + 2.0))
}

fn evaluate_variant(
    trace: &Trace,
    slots: usize,
    variant: ScenarioVariant,
    algorithm: Algorithm,
    hedge: Option<HedgeSpec>,
    (seed, runs): (u64, usize),
) -> VariantRuns {
    let run = |nth: usize| {
        let mut scenario = variant.apply(trace.scenario(slots, nth));
        scenario.hedge = hedge;
        summary(&simulate(&scenario, &CandidatePolicy::Production(algorithm), seed.wrapping_add(nth as u64)))
    };
    VariantRuns { runs: (0..runs).map(run).collect() }
}

fn summary(stats: &RunStats) -> RunSummary {
    RunSummary {
        p50: stats.quantile(0.5),
        p99: stats.quantile(0.99),
        p999: stats.quantile(0.999),
        errors: stats.error_share(),
        hedge_share: stats.hedges as f64 / stats.messages.max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::trace::ObservedDestination;
    use super::*;
    use crate::arrivals::LoggedMessage;
    use crate::distributions::WorkDistribution;

    fn trace(algorithm: Algorithm, slowdown: &[f64]) -> Trace {
        let seen = |(nth, &slowdown): (usize, &f64)| ObservedDestination {
            name: format!("d{nth}"),
            weight: 1,
            responses: 100,
            slowdown,
        };
        let at = |nth: u64| LoggedMessage { at: Duration::from_millis(4 * nth), ..LoggedMessage::default() };
        Trace {
            arrivals: Some((0..2_000).map(at).collect()),
            rate: 250.0,
            messages: 2_000,
            span: Duration::from_secs(8),
            destinations: slowdown.iter().enumerate().map(seen).collect(),
            work: WorkDistribution::Exponential(0.010),
            algorithm,
        }
    }

    #[test]
    fn round_robin_over_unequal_destinations_is_replaced() {
        let recommendation = recommend(&trace(Algorithm::RoundRobin, &[1.0, 1.0, 1.0, 3.0]), 2, 1, 3, |_| ());
        assert!(recommendation.changes_algorithm(), "{:?}", recommendation.best.algorithm);
        assert!(
            recommendation.gain.0 > 0.2 && recommendation.gain.0 > recommendation.gain.1,
            "{:?}",
            recommendation.gain
        );
        assert!(
            recommendation.confidence > 0.7
                && recommendation.candidates.len() == candidates(&trace(Algorithm::RoundRobin, &[1.0])).len()
        );
    }

    #[test]
    fn the_best_algorithm_is_kept() {
        let one = recommend(&trace(Algorithm::RoundRobin, &[1.0, 1.0, 1.0, 3.0]), 2, 1, 2, |_| ());
        let again = recommend(&trace(one.best.algorithm, &[1.0, 1.0, 1.0, 3.0]), 2, 1, 2, |_| ());
        assert!(!again.changes_algorithm(), "{:?} to {:?}", again.current.algorithm, again.best.algorithm);
    }

    #[test]
    fn only_weight_aware_algorithms_are_tried_when_weights_differ() {
        let mut trace = trace(Algorithm::RoundRobin, &[1.0, 1.0]);
        trace.destinations[0].weight = 5;
        let all = candidates(&trace);
        assert!(all.contains(&Algorithm::RoundRobin), "the current algorithm is included: {all:?}");
        assert!(all.iter().all(|one| one.heeds_weights() || *one == Algorithm::RoundRobin), "{all:?}");
    }
}
