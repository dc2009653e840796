//! Output of a recommendation: text with the configuration to paste, or JSON.

use std::hint::black_box;

use plimsoll_core::{AttemptedSet, Rng, Tick};
use plimsoll_proxy::Clock;
use plimsoll_sim::CandidatePolicy;
use plimsoll_sim::balancer::SimBalancer;
use plimsoll_sim::recommend::trace::Trace;
use plimsoll_sim::recommend::{Evaluation, PolicyRecommendation, ScenarioVariant, VariantRuns};
use plimsoll_sim::report::{ms, percent};
use serde_json::{Value, json};

use super::super::options::TextFormat;
use super::super::terminal::table;
use super::Observation;

/// Number of timed picks.
const PICKS: u32 = 50_000;

/// Measures the time of one pick of each candidate on this machine, in nanoseconds.
pub(super) fn measure_picks(trace: &Trace, slots: usize, recommendation: &PolicyRecommendation) -> Vec<f64> {
    let scenario = trace.scenario(slots, 0);
    let cost = |candidate: &Evaluation| {
        let contender = CandidatePolicy::Production(candidate.algorithm);
        let mut balancer = SimBalancer::new(&scenario, &contender, &mut Rng::new(1));
        let (clock, tried) = (Clock::start(), AttemptedSet::default());
        let start = clock.now();
        for pick in 0..PICKS {
            let now = Tick::from_nanos(u64::from(pick) * 1_000);
            drop(black_box(balancer.choose(0, &tried, now)));
        }
        clock.now().since(start).as_nanos() as f64 / f64::from(PICKS)
    };
    recommendation.candidates.iter().map(cost).collect()
}

/// Formats the recommendation to keep the algorithm.
pub(super) fn keep(observation: &Observation, reason: &str, output: TextFormat) -> String {
    let message = format!("{}: keep {}: {reason}", observation.subject, observation.trace.algorithm.name());
    match output {
        TextFormat::Text => message + "\n",
        TextFormat::Json => format!("{:#}\n", json!({"recommendations": [], "message": message})),
    }
}

/// Formats a recommendation as text.
pub(super) fn text(
    observation: &Observation,
    recommendation: &PolicyRecommendation,
    pick_nanos: &[f64],
) -> String {
    let mut out = format!("{}\n  {}\n\n", message(observation, recommendation), expected(recommendation));
    if let Some(hedged) = &recommendation.hedged {
        out +=
            &format!("{}\n  {}\n\n", hedging_message(recommendation), hedging_effect(recommendation, hedged));
    }
    if recommendation.changes_algorithm() || recommendation.hedged.is_some() {
        out += &format!("{}\nApply with: plimsoll reload\n\n", snippet(observation, recommendation));
    }
    out += &table(&rows(recommendation, pick_nanos));
    out += "Times: p50 p99 p99.9 in milliseconds since the scheduled arrival. NS: nanoseconds of one pick on this machine.\n\n\
            Observed:\n";
    out += &list(&observation.evidence);
    out += "Assumed:\n";
    out += &list(&observation.assumptions);
    out
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  - {line}\n")).collect()
}

/// Formats a recommendation as JSON.
pub(super) fn json(
    observation: &Observation,
    recommendation: &PolicyRecommendation,
    pick_nanos: &[f64],
) -> Value {
    let mut recommendations = Vec::new();
    let evidence =
        |more: Vec<String>| [observation.evidence.clone(), more, observation.assumptions.clone()].concat();
    if recommendation.changes_algorithm() {
        recommendations.push(json!({
            "id": format!("algorithm:{}:{}", observation.subject, recommendation.best.algorithm.name()),
            "kind": "algorithm",
            "subject": observation.subject,
            "message": message(observation, recommendation),
            "evidence": evidence(compare(&recommendation.current, &recommendation.best)),
            "expectedEffect": expected(recommendation),
            "confidence": recommendation.confidence,
            "command": "plimsoll reload",
            "config": snippet(observation, recommendation),
        }));
    }
    if let Some(hedged) = &recommendation.hedged {
        recommendations.push(json!({
            "id": format!("hedge:{}", observation.subject),
            "kind": "hedge",
            "subject": observation.subject,
            "message": hedging_message(recommendation),
            "evidence": evidence(compare(&recommendation.best, hedged)),
            "expectedEffect": hedging_effect(recommendation, hedged),
            "confidence": recommendation.confidence,
            "command": "plimsoll reload",
            "config": snippet(observation, recommendation),
        }));
    }
    let candidates = recommendation.candidates.iter().zip(pick_nanos).map(|(candidate, cost)| {
        let variants = ScenarioVariant::ALL.iter().zip(&candidate.variants).map(|(variant, runs)| {
            let [p50, p99, p999] = runs.quantiles_ms();
            json!({"variant": variant.description(), "p50Ms": p50, "p99Ms": p99, "p999Ms": p999, "errorShare": runs.error_share()})
        });
        let (name, state) = (candidate.algorithm.name(), candidate.state());
        json!({"algorithm": name, "pickNanos": cost, "state": state, "variants": variants.collect::<Vec<_>>()})
    });
    json!({
        "subject": observation.subject,
        "current": recommendation.current.algorithm.name(),
        "message": message(observation, recommendation),
        "recommendations": recommendations,
        "candidates": candidates.collect::<Vec<_>>(),
        "assumptions": observation.assumptions,
    })
}

fn message(observation: &Observation, recommendation: &PolicyRecommendation) -> String {
    let (current, best) = (recommendation.current.algorithm.name(), recommendation.best.algorithm.name());
    match recommendation.changes_algorithm() {
        true => format!("{}: use {best} in place of {current}", observation.subject),
        false => {
            format!("{}: keep {current}; no other algorithm is significantly better", observation.subject)
        }
    }
}

/// Compares two algorithms as recorded.
fn effect(from: &Evaluation, to: &Evaluation) -> String {
    let ([p50, p99, _], [to_p50, to_p99, _]) =
        (from.variants[0].quantiles_ms(), to.variants[0].quantiles_ms());
    let alike = (to_p99 / p99 - 1.0).abs() < 0.03 && (to_p50 / p50 - 1.0).abs() < 0.03;
    let when_better = if alike { "; equal as recorded, better when a destination has a fault" } else { "" };
    format!(
        "p50 {} to {} ms, p99 {} to {} ms, errors {} to {}{when_better}",
        ms(p50),
        ms(to_p50),
        ms(p99),
        ms(to_p99),
        percent(from.variants[0].error_share()),
        percent(to.variants[0].error_share())
    )
}

fn expected(recommendation: &PolicyRecommendation) -> String {
    let (gain, half) = (recommendation.gain.0 * 100.0, recommendation.gain.1 * 100.0);
    match recommendation.changes_algorithm() {
        true => format!(
            "{}; {gain:.1} % better over all variants (±{half:.1}), confidence {:.2}",
            effect(&recommendation.current, &recommendation.best),
            recommendation.confidence
        ),
        false => format!("the best other algorithm is {gain:.1} % better (±{half:.1})"),
    }
}

fn compare(from: &Evaluation, to: &Evaluation) -> Vec<String> {
    let variants = ScenarioVariant::ALL.iter().zip(from.variants.iter().zip(&to.variants));
    let line = |(variant, (from, to)): (&ScenarioVariant, (&VariantRuns, &VariantRuns))| {
        let ([_, p99, p999], [_, to_p99, to_p999]) = (from.quantiles_ms(), to.quantiles_ms());
        let words = variant.description();
        format!("{words}: p99 {} to {} ms, p99.9 {} to {} ms", ms(p99), ms(to_p99), ms(p999), ms(to_p999))
    };
    variants.map(line).collect()
}

fn hedging_message(recommendation: &PolicyRecommendation) -> String {
    format!(
        "hedge: send requests slower than p95 to a second destination, with {}",
        recommendation.best.algorithm.name()
    )
}

fn hedging_effect(recommendation: &PolicyRecommendation, hedged: &Evaluation) -> String {
    let lines = compare(&recommendation.best, hedged).join("; ");
    format!(
        "{lines}; {} more messages to destinations; only idempotent requests are hedged",
        percent(hedged.variants[0].hedge_share())
    )
}

fn snippet(observation: &Observation, recommendation: &PolicyRecommendation) -> String {
    let hedge = if recommendation.hedged.is_some() { "\n  hedge: {after: p95, max: 1}" } else { "" };
    let block = format!("load_balancer:\n  algorithm: {}{hedge}", recommendation.best.algorithm.name());
    match &observation.pool {
        Some(pool) => {
            let within: Vec<String> = block.lines().map(|line| format!("    {line}")).collect();
            format!("pools:\n  {pool}:\n{}", within.join("\n"))
        }
        None => block,
    }
}

fn rows(recommendation: &PolicyRecommendation, pick_nanos: &[f64]) -> Vec<Vec<String>> {
    let head = ["ALGORITHM"]
        .into_iter()
        .chain(ScenarioVariant::ALL.map(ScenarioVariant::description))
        .chain(["ERRORS", "NS", "STATE PER DESTINATION"]);
    let mut rows = vec![head.map(str::to_uppercase).collect::<Vec<_>>()];
    rows.extend(recommendation.candidates.iter().zip(pick_nanos).map(|(candidate, cost)| {
        let now = if candidate.algorithm == recommendation.current.algorithm { " (current)" } else { "" };
        let mut row = vec![format!("{}{now}", candidate.algorithm.name())];
        row.extend(candidate.variants.iter().map(|runs| runs.quantiles_ms().map(ms).join(" ")));
        row.extend([
            percent(candidate.variants[0].error_share()),
            format!("{cost:.0}"),
            candidate.state().to_owned(),
        ]);
        row
    }));
    rows
}
