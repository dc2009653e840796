//! How a recommendation is told: in words with the lines to paste, or as JSON.

use std::hint::black_box;

use plimsoll_core::{Rng, Tick, Tried};
use plimsoll_proxy::Clock;
use plimsoll_sim::CandidatePolicy;
use plimsoll_sim::balancer::SimBalancer;
use plimsoll_sim::recommend::trace::Trace;
use plimsoll_sim::recommend::{Evaluation, PolicyRecommendation, ScenarioVariant, VariantRuns};
use plimsoll_sim::report::{ms, percent};
use serde_json::{Value, json};

use super::super::Output;
use super::super::terminal::table;
use super::Case;

/// Picks that are timed.
const PICKS: u32 = 50_000;

/// Nanoseconds one choice of each candidate takes on this machine, including its assignment.
pub(super) fn costs(trace: &Trace, slots: usize, recommendation: &PolicyRecommendation) -> Vec<f64> {
    let scenario = trace.scenario(slots, 0);
    let cost = |candidate: &Evaluation| {
        let policy = CandidatePolicy::Production(candidate.algorithm);
        let mut balancer = SimBalancer::new(&scenario, &policy, &mut Rng::new(1));
        let (clock, tried) = (Clock::start(), Tried::default());
        let start = clock.now();
        for pick in 0..PICKS {
            let now = Tick::from_nanos(u64::from(pick) * 1_000);
            drop(black_box(balancer.choose(0, &tried, now)));
        }
        clock.now().since(start).as_nanos() as f64 / f64::from(PICKS)
    };
    recommendation.candidates.iter().map(cost).collect()
}

pub(super) fn keep(case: &Case, why: &str, output: Output) -> String {
    let why = format!("{}: keep {}: {why}", case.subject, case.trace.algorithm.name());
    match output {
        Output::Text => why + "\n",
        Output::Json => format!("{:#}\n", json!({"recommendations": [], "message": why})),
    }
}

pub(super) fn text(case: &Case, recommendation: &PolicyRecommendation, costs: &[f64]) -> String {
    let mut out = format!("{}\n  {}\n\n", message(case, recommendation), expected(recommendation));
    if let Some(hedged) = &recommendation.hedged {
        out +=
            &format!("{}\n  {}\n\n", hedging_message(recommendation), hedging_effect(recommendation, hedged));
    }
    if recommendation.changes_algorithm() || recommendation.hedged.is_some() {
        out += &format!("{}\nThen: plimsoll reload\n\n", snippet(case, recommendation));
    }
    out += &table(&rows(recommendation, costs));
    out += "Milliseconds from the planned moment, p50 p99 p99.9; ns: one choice on this machine.\n\nSeen:\n";
    out += &list(&case.evidence);
    out += "Assumptions:\n";
    out += &list(&case.assumptions);
    out
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  - {line}\n")).collect()
}

pub(super) fn json(case: &Case, recommendation: &PolicyRecommendation, costs: &[f64]) -> Value {
    let mut recommendations = Vec::new();
    let evidence = |more: Vec<String>| [case.evidence.clone(), more, case.assumptions.clone()].concat();
    if recommendation.changes_algorithm() {
        recommendations.push(json!({
            "id": format!("algorithm:{}:{}", case.subject, recommendation.best.algorithm.name()),
            "kind": "algorithm",
            "subject": case.subject,
            "message": message(case, recommendation),
            "evidence": evidence(beside(&recommendation.current, &recommendation.best)),
            "expectedEffect": expected(recommendation),
            "confidence": recommendation.confidence,
            "command": "plimsoll reload",
            "config": snippet(case, recommendation),
        }));
    }
    if let Some(hedged) = &recommendation.hedged {
        recommendations.push(json!({
            "id": format!("hedge:{}", case.subject),
            "kind": "hedge",
            "subject": case.subject,
            "message": hedging_message(recommendation),
            "evidence": evidence(beside(&recommendation.best, hedged)),
            "expectedEffect": hedging_effect(recommendation, hedged),
            "confidence": recommendation.confidence,
            "command": "plimsoll reload",
            "config": snippet(case, recommendation),
        }));
    }
    let candidates = recommendation.candidates.iter().zip(costs).map(|(candidate, cost)| {
        let variants = ScenarioVariant::ALL.iter().zip(&candidate.variants).map(|(variant, runs)| {
            let [p50, p99, p999] = runs.quantiles_ms();
            json!({"variant": variant.description(), "p50Ms": p50, "p99Ms": p99, "p999Ms": p999, "errorShare": runs.error_share()})
        });
        let (name, state) = (candidate.algorithm.name(), candidate.state());
        json!({"algorithm": name, "nanosAPick": cost, "state": state, "variants": variants.collect::<Vec<_>>()})
    });
    json!({
        "subject": case.subject,
        "current": recommendation.current.algorithm.name(),
        "message": message(case, recommendation),
        "recommendations": recommendations,
        "candidates": candidates.collect::<Vec<_>>(),
        "assumptions": case.assumptions,
    })
}

fn message(case: &Case, recommendation: &PolicyRecommendation) -> String {
    let (current, best) = (recommendation.current.algorithm.name(), recommendation.best.algorithm.name());
    match recommendation.changes_algorithm() {
        true => format!("{}: use {best} in place of {current}", case.subject),
        false => format!("{}: keep {current}; nothing is better by more than chance", case.subject),
    }
}

/// Two policies on the variant as it was.
fn effect(from: &Evaluation, to: &Evaluation) -> String {
    let ([p50, p99, _], [to_p50, to_p99, _]) =
        (from.variants[0].quantiles_ms(), to.variants[0].quantiles_ms());
    let alike = (to_p99 / p99 - 1.0).abs() < 0.03 && (to_p50 / p50 - 1.0).abs() < 0.03;
    let where_then =
        if alike { "; alike while all is well, better where a destination is in trouble" } else { "" };
    format!(
        "p50 {} to {} ms, p99 {} to {} ms, errors {} to {}{where_then}",
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
            "{}; over all variants {gain:.1} % better (±{half:.1}), confidence {:.2}",
            effect(&recommendation.current, &recommendation.best),
            recommendation.confidence
        ),
        false => format!("the best of the others would be {gain:.1} % better (±{half:.1})"),
    }
}

fn beside(from: &Evaluation, to: &Evaluation) -> Vec<String> {
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
        "hedge: send what waits longer than 95 of a hundred to a second destination, with {}",
        recommendation.best.algorithm.name()
    )
}

fn hedging_effect(recommendation: &PolicyRecommendation, hedged: &Evaluation) -> String {
    let lines = beside(&recommendation.best, hedged).join("; ");
    format!(
        "{lines}; {} more messages to destinations, idempotent ones only",
        percent(hedged.variants[0].hedge_share())
    )
}

fn snippet(case: &Case, recommendation: &PolicyRecommendation) -> String {
    let hedge = if recommendation.hedged.is_some() { "\n  hedge: {after: p95, max: 1}" } else { "" };
    let block = format!("load_balancer:\n  algorithm: {}{hedge}", recommendation.best.algorithm.name());
    match &case.pool {
        Some(pool) => {
            let within: Vec<String> = block.lines().map(|line| format!("    {line}")).collect();
            format!("pools:\n  {pool}:\n{}", within.join("\n"))
        }
        None => block,
    }
}

fn rows(recommendation: &PolicyRecommendation, costs: &[f64]) -> Vec<Vec<String>> {
    let head = ["POLICY"].into_iter().chain(ScenarioVariant::ALL.map(ScenarioVariant::description)).chain([
        "ERRORS",
        "NS",
        "KEEPS OF EACH",
    ]);
    let mut rows = vec![head.map(str::to_uppercase).collect::<Vec<_>>()];
    rows.extend(recommendation.candidates.iter().zip(costs).map(|(candidate, cost)| {
        let now = if candidate.algorithm == recommendation.current.algorithm { " (now)" } else { "" };
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
