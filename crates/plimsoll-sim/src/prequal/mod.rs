//! Evaluation of Prequal (Wydrowski et al., NSDI 2024), repeated: its figures, what each varies, and the
//! paper's results.

mod published;
mod setup;

use std::time::Duration;

use plimsoll_core::Tick;
use plimsoll_core::balance::Algorithm;

use self::published::published;
use crate::candidates::{CandidatePolicy, ProbeScore, ProbeSettings};
use crate::chart::Chart;
use crate::fault::{FaultKind, SimFault};
use crate::report::{CandidateRuns, ms, percent};
use crate::run::simulate;
use crate::run_stats::RunStats;
use crate::scenario::Scenario;

pub use self::setup::{NEIGHBOURS, setup};

/// Numbers of the figures that can be repeated.
pub const FIGURES: [u8; 5] = [6, 7, 8, 9, 10];

/// Destinations of the paper's test bed, and as many balancers.
pub const COUNT: usize = 100;

/// Figure of the paper: a scenario and a candidate for each of its points.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Number of the figure in the paper.
    pub number: u8,
    /// Title of the figure.
    pub title: &'static str,
    /// Name of the parameter that is varied.
    pub varied: &'static str,
    /// Points of the figure in order.
    pub points: Vec<Point>,
}

/// Point of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Value of the varied parameter.
    pub x: String,
    /// Name of the point's line.
    pub series: String,
    /// Policy to run.
    pub candidate: CandidatePolicy,
    /// Scenario to run it in.
    pub scenario: Scenario,
}

/// Returns figure `number` with `count` destinations. `candidates` replace the figure's own where it compares
/// policies (6 and 7).
pub fn figure(number: u8, count: usize, candidates: &[CandidatePolicy]) -> Option<Figure> {
    let figure = |title, varied, points| Some(Figure { number, title, varied, points });
    match number {
        6 => figure("Load ramp", "load over allocation", ramp(count, candidates)),
        7 => figure("Rules", "load over allocation", rules(count, candidates)),
        8 => figure("Probe rate", "probes for each message", probe_rates(count)),
        9 => figure("Hot and cold", "quantile of load that is hot", quantiles(count)),
        10 => figure("Linear mixes", "share of load in the score", mixes(count)),
        _ => None,
    }
}

fn point(x: &str, candidate: CandidatePolicy, scenario: Scenario) -> Point {
    Point { x: x.to_owned(), series: candidate.name(), candidate, scenario }
}

/// Points of every candidate at several loads.
fn compare_at(count: usize, loads: &[f64], candidates: &[CandidatePolicy]) -> Vec<Point> {
    let at = |&load: &f64| {
        candidates.iter().map(move |one| point(&format!("{load:.2}"), one.clone(), setup(count, load)))
    };
    loads.iter().flat_map(at).collect()
}

/// Candidates by name; those the product does not have yet are left out.
fn named(names: &[&str]) -> Vec<CandidatePolicy> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn ramp(count: usize, candidates: &[CandidatePolicy]) -> Vec<Point> {
    const LOADS: [f64; 9] = [0.75, 0.83, 0.93, 1.03, 1.14, 1.27, 1.41, 1.57, 1.74];
    let own = named(&["weighted_round_robin", "weighted_by_use", "p2c", "prequal", "hcl"]);
    compare_at(count, &LOADS, if candidates.is_empty() { &own } else { candidates })
}

fn rules(count: usize, candidates: &[CandidatePolicy]) -> Vec<Point> {
    let production = Algorithm::ALL.map(CandidatePolicy::Production);
    let trial = named(&["weighted_by_use", "yarp", "linear:0.5", "c3", "hcl", "oracle"]);
    let own = [&production[..], &trial].concat();
    compare_at(count, &[0.7, 0.9], if candidates.is_empty() { &own } else { candidates })
}

fn probe_rates(count: usize) -> Vec<Point> {
    let rate = |halves: i32| {
        let probes = 2.0_f64.powf(f64::from(halves) / 2.0);
        // At the lower rates more probes would be removed than added; the paper lowers the rate of removal
        // for all of them.
        let probing = ProbeSettings { probes, removes: 0.25, ..ProbeSettings::PREQUAL };
        let series = "hcl, r_remove 0.25".to_owned();
        let candidate = CandidatePolicy::Probing(probing);
        Point { x: format!("{probes:.2}"), series, candidate, scenario: setup(count, 1.5) }
    };
    (-2..=4).rev().map(rate).collect()
}

fn quantiles(count: usize) -> Vec<Point> {
    const QUANTILES: [f64; 14] =
        [0.0, 0.35, 0.39, 0.43, 0.48, 0.53, 0.59, 0.66, 0.73, 0.81, 0.9, 0.99, 0.999, 1.0];
    let scores = QUANTILES.map(|quantile| (quantile, ProbeScore::HotCold(quantile)));
    points(&uneven(count), "hcl", &scores)
}

fn mixes(count: usize) -> Vec<Point> {
    const SHARES: [f64; 13] = [0.0, 0.5, 0.7, 0.769, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 1.0];
    // All destinations are equal here: where half of them are permanently slow, latency predicts more than
    // load.
    let scenario = setup(count, SCORE_LOAD);
    let mut points = points(&scenario, "linear", &SHARES.map(|share| (share, ProbeScore::Linear(share))));
    points.push(point("hcl", CandidatePolicy::Probing(ProbeSettings::PREQUAL), scenario));
    points
}

fn points(scenario: &Scenario, series: &str, scores: &[(f64, ProbeScore)]) -> Vec<Point> {
    let of = |&(at, score): &(f64, ProbeScore)| {
        let candidate = CandidatePolicy::Probing(ProbeSettings { score, ..ProbeSettings::PREQUAL });
        Point { x: at.to_string(), series: series.to_owned(), candidate, scenario: scenario.clone() }
    };
    scores.iter().map(of).collect()
}

/// Load in figures 9 and 10, as a share of the allocation.
const SCORE_LOAD: f64 = 0.75;

/// Scenario with half of the destinations twice as slow, at a load of three quarters.
fn uneven(count: usize) -> Scenario {
    let mut scenario = setup(count, SCORE_LOAD);
    for destination in scenario.destinations.iter_mut().skip(1).step_by(2) {
        destination.faults.push(SimFault {
            kind: FaultKind::Slow(2.0),
            from: Tick::ZERO,
            until: Tick::NEVER,
        });
    }
    scenario
}

impl Figure {
    /// Sets the time that is measured.
    #[must_use]
    pub fn with_duration(mut self, duration: Duration) -> Self {
        self.points.iter_mut().for_each(|point| point.scenario.duration = duration);
        self
    }

    /// Runs point `index` with each seed.
    pub fn run(&self, index: usize, seeds: impl Iterator<Item = u64>) -> CandidateRuns {
        let Point { candidate, scenario, .. } = &self.points[index];
        let stats = seeds.map(|seed| simulate(scenario, candidate, seed)).collect();
        CandidateRuns { candidate: candidate.clone(), stats }
    }

    /// Returns a row for each point, with the paper's result in the last column.
    pub fn table(&self, runs: &[CandidateRuns]) -> Vec<Vec<String>> {
        let head =
            [self.varied, "rule", "errors", "p50", "p90", "p99", "p99.9", "in flight p99", "probes", "paper"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.points.iter().zip(runs).map(|(point, runs)| {
            let mut row = vec![point.x.clone(), point.series.clone()];
            row.push(percent(runs.mean(RunStats::error_share).0));
            row.extend([0.5, 0.9, 0.99, 0.999].map(|share| {
                let (mean, half) = runs.quantile_ms(share);
                if share == 0.99 && runs.stats.len() > 1 {
                    format!("{} ±{}", ms(mean), ms(half))
                } else {
                    ms(mean)
                }
            }));
            row.push(format!("{:.0}", runs.mean(|stats| stats.in_flight.value_at_quantile(0.99) as f64).0));
            row.push(format!(
                "{:.2}",
                runs.mean(|stats| stats.probes as f64 / stats.messages.max(1) as f64).0
            ));
            row.push(published(self.number, &point.x, &point.series).unwrap_or("").to_owned());
            row
        }));
        rows
    }

    /// Returns a chart of p99 over the varied parameter, with a line for each rule.
    pub fn chart(&self, runs: &[CandidateRuns]) -> Chart {
        let mut chart = Chart {
            title: format!("Prequal, figure {}: {} (p99)", self.number, self.title),
            x_label: self.varied.to_owned(),
            ..Chart::default()
        };
        for (point, runs) in self.points.iter().zip(runs) {
            let known = chart.x_ticks.iter().position(|x| *x == point.x);
            let x = known.unwrap_or_else(|| {
                chart.x_ticks.push(point.x.clone());
                chart.x_ticks.len() - 1
            });
            let at = (x as f64, runs.quantile_ms(0.99).0);
            match chart.series.iter_mut().find(|(series, _)| *series == point.series) {
                Some((_, points)) => points.push(at),
                None => chart.series.push((point.series.clone(), vec![at])),
            }
        }
        chart
    }
}
