//! Reports of runs: tables for the terminal and JSON.

use serde_json::{Value, json};

use crate::candidates::CandidatePolicy;
use crate::run_stats::{RunStats, mean_and_interval};
use crate::scenario::Scenario;

/// Quantiles in every report.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// Results of one candidate, one for each seed.
#[derive(Clone, Debug)]
pub struct CandidateRuns {
    /// Policy under test.
    pub candidate: CandidatePolicy,
    /// Statistics of each run.
    pub stats: Vec<RunStats>,
}

impl CandidateRuns {
    /// Returns the mean of `of` over all runs, and half of its 95 % interval.
    pub fn mean(&self, of: impl Fn(&RunStats) -> f64) -> (f64, f64) {
        mean_and_interval(&self.stats.iter().map(of).collect::<Vec<f64>>())
    }

    /// Returns the mean of a latency quantile in milliseconds, and half of its 95 % interval.
    pub fn quantile_ms(&self, share: f64) -> (f64, f64) {
        self.mean(|stats| stats.quantile(share) * 1e3)
    }

    fn in_flight(&self, share: f64) -> f64 {
        self.mean(|stats| stats.in_flight.value_at_quantile(share) as f64).0
    }
}

/// Returns a header row and a row for each candidate. With several seeds p99 has its interval.
pub fn table(runs: &[CandidateRuns]) -> Vec<Vec<String>> {
    let head = "algorithm messages errors p50 p90 p99 p99.9 p99.99 in-flight:p50/p99/max imbalance regret";
    let mut rows: Vec<Vec<String>> = vec![head.split(' ').map(str::to_owned).collect()];
    rows.extend(runs.iter().map(|runs| {
        let mut row = vec![
            runs.candidate.name(),
            format!("{:.0}", runs.mean(|stats| stats.messages as f64).0),
            percent(runs.mean(RunStats::error_share).0),
        ];
        for (name, share) in QUANTILES {
            let (mean, half) = runs.quantile_ms(share);
            let several = name == "p99" && runs.stats.len() > 1;
            row.push(if several { format!("{} ±{}", ms(mean), ms(half)) } else { ms(mean) });
        }
        let (half, tail, most) = (runs.in_flight(0.5), runs.in_flight(0.99), runs.in_flight(1.0));
        row.push(format!("{half:.0}/{tail:.0}/{most:.0}"));
        row.push(format!("{:.3}", runs.mean(RunStats::imbalance).0));
        row.push(ms(runs.mean(RunStats::mean_regret).0 * 1e3));
        row
    }));
    rows
}

/// Returns the share of messages of each group of destinations beside an equal share; empty with one group.
pub fn groups(scenario: &Scenario, runs: &[CandidateRuns]) -> Vec<Vec<String>> {
    let names = group_names(scenario);
    if names.len() < 2 {
        return Vec::new();
    }
    let head = names.iter().map(|(name, count)| {
        format!("{name} ({})", percent(*count as f64 / scenario.destinations.len() as f64))
    });
    let mut rows = vec![std::iter::once("share of messages".to_owned()).chain(head).collect::<Vec<_>>()];
    rows.extend(runs.iter().map(|runs| {
        let shares = names.iter().map(|(name, _)| percent(group_share(scenario, runs, name)));
        std::iter::once(runs.candidate.name()).chain(shares).collect()
    }));
    rows
}

/// Returns the contents of the table and more as JSON.
pub fn json(scenario: &Scenario, first_seed: u64, runs: &[CandidateRuns]) -> Value {
    json!({
        "scenario": scenario.name,
        "about": scenario.about,
        "destinations": scenario.destinations.len(),
        "balancers": scenario.balancers,
        "workers": scenario.workers,
        "rate": scenario.rate(),
        "duration_s": scenario.duration.as_secs_f64(),
        "seed": first_seed,
        "algorithms": runs.iter().map(|runs| candidate(scenario, runs)).collect::<Vec<_>>(),
    })
}

fn candidate(scenario: &Scenario, runs: &CandidateRuns) -> Value {
    let latency: serde_json::Map<String, Value> = (QUANTILES.iter())
        .map(|&(name, share)| {
            let (mean, half) = runs.quantile_ms(share);
            (name.to_owned(), json!({"mean": mean, "interval_95": half}))
        })
        .collect();
    let groups = group_names(scenario).into_iter().map(|(name, count)| {
        json!({"group": name, "destinations": count, "share": group_share(scenario, runs, &name)})
    });
    let mean = |of: fn(&RunStats) -> f64| runs.mean(of).0;
    json!({
        "algorithm": runs.candidate.name(),
        "runs": runs.stats.len(),
        "messages": mean(|stats| stats.messages as f64),
        "error_share": mean(RunStats::error_share),
        "timed_out": mean(|stats| stats.timed_out as f64),
        "failed": mean(|stats| stats.failed as f64),
        "retries": mean(|stats| stats.retries as f64),
        "hedges": mean(|stats| stats.hedges as f64),
        "hedges_won": mean(|stats| stats.hedges_won as f64),
        "latency_ms": latency,
        "in_flight": {"p50": runs.in_flight(0.5), "p99": runs.in_flight(0.99), "max": runs.in_flight(1.0)},
        "imbalance": mean(RunStats::imbalance),
        "regret_ms": mean(RunStats::mean_regret) * 1e3,
        "probes_per_message": mean(|stats| stats.probes as f64 / (stats.messages.max(1)) as f64),
        "pool_events": mean(|stats| stats.pool_events as f64),
        "groups": groups.collect::<Vec<_>>(),
    })
}

/// Groups in the order of the destinations, with the number of destinations.
fn group_names(scenario: &Scenario) -> Vec<(String, usize)> {
    let mut names: Vec<(String, usize)> = Vec::new();
    for site in &scenario.destinations {
        match names.iter_mut().find(|(name, _)| *name == site.group) {
            Some((_, count)) => *count += 1,
            None => names.push((site.group.clone(), 1)),
        }
    }
    names
}

fn group_share(scenario: &Scenario, runs: &CandidateRuns, group: &str) -> f64 {
    let of = |stats: &RunStats| {
        let all: u64 = stats.attempts.iter().sum();
        let some = stats.attempts.iter().zip(&scenario.destinations).filter(|(_, site)| site.group == group);
        some.map(|(&attempts, _)| attempts).sum::<u64>() as f64 / all.max(1) as f64
    };
    runs.mean(of).0
}

/// Formats milliseconds with three significant digits.
pub fn ms(ms: f64) -> String {
    match ms {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

/// Formats a share in percent.
pub fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}
