//! How a recommendation is told: in words with the lines to paste, or as JSON.

use std::hint::black_box;

use plimsoll_core::{Rng, Tick, Tried};
use plimsoll_proxy::Clock;
use plimsoll_sim::Contender;
use plimsoll_sim::balancer::Balancer;
use plimsoll_sim::recommend::trace::Past;
use plimsoll_sim::recommend::{Advice, Candidate, Course, Ground};
use plimsoll_sim::report::{ms, percent};
use serde_json::{Value, json};

use super::super::Output;
use super::super::terminal::table;
use super::Case;

/// Picks that are timed.
const PICKS: u32 = 50_000;

/// Nanoseconds one choice of each candidate takes on this machine, assignment and all.
pub(super) fn costs(past: &Past, slots: usize, advice: &Advice) -> Vec<f64> {
    let scenario = past.scenario(slots, 0);
    let cost = |candidate: &Candidate| {
        let contender = Contender::Production(candidate.algorithm);
        let mut balancer = Balancer::new(&scenario, &contender, &mut Rng::new(1));
        let (clock, tried) = (Clock::start(), Tried::default());
        let start = clock.now();
        for pick in 0..PICKS {
            let now = Tick::from_nanos(u64::from(pick) * 1_000);
            drop(black_box(balancer.choose(0, &tried, now)));
        }
        clock.now().since(start).as_nanos() as f64 / f64::from(PICKS)
    };
    advice.candidates.iter().map(cost).collect()
}

pub(super) fn keep(case: &Case, why: &str, output: Output) -> String {
    let why = format!("{}: keep {}: {why}", case.subject, case.past.algorithm.name());
    match output {
        Output::Text => why + "\n",
        Output::Json => format!("{:#}\n", json!({"recommendations": [], "message": why})),
    }
}

pub(super) fn text(case: &Case, advice: &Advice, costs: &[f64]) -> String {
    let mut out = format!("{}\n  {}\n\n", message(case, advice), expected(advice));
    if let Some(hedged) = &advice.hedged {
        out += &format!("{}\n  {}\n\n", hedging_message(advice), hedging_effect(advice, hedged));
    }
    if advice.changes() || advice.hedged.is_some() {
        out += &format!("{}\nThen: plimsoll reload\n\n", snippet(case, advice));
    }
    out += &table(&rows(advice, costs));
    out += "Milliseconds from the planned moment, p50 p99 p99.9; ns: one choice on this machine.\n\nSeen:\n";
    out += &list(&case.evidence);
    out += "Assumed:\n";
    out += &list(&case.assumptions);
    out
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  - {line}\n")).collect()
}

pub(super) fn json(case: &Case, advice: &Advice, costs: &[f64]) -> Value {
    let mut recommendations = Vec::new();
    let evidence = |more: Vec<String>| [case.evidence.clone(), more, case.assumptions.clone()].concat();
    if advice.changes() {
        recommendations.push(json!({
            "id": format!("algorithm:{}:{}", case.subject, advice.best.algorithm.name()),
            "kind": "algorithm",
            "subject": case.subject,
            "message": message(case, advice),
            "evidence": evidence(beside(&advice.current, &advice.best)),
            "expectedEffect": expected(advice),
            "confidence": advice.confidence,
            "command": "plimsoll reload",
            "config": snippet(case, advice),
        }));
    }
    if let Some(hedged) = &advice.hedged {
        recommendations.push(json!({
            "id": format!("hedge:{}", case.subject),
            "kind": "hedge",
            "subject": case.subject,
            "message": hedging_message(advice),
            "evidence": evidence(beside(&advice.best, hedged)),
            "expectedEffect": hedging_effect(advice, hedged),
            "confidence": advice.confidence,
            "command": "plimsoll reload",
            "config": snippet(case, advice),
        }));
    }
    let candidates = advice.candidates.iter().zip(costs).map(|(candidate, cost)| {
        let grounds = Ground::ALL.iter().zip(&candidate.courses).map(|(ground, course)| {
            let [p50, p99, p999] = course.quantiles_ms();
            json!({"ground": ground.words(), "p50Ms": p50, "p99Ms": p99, "p999Ms": p999, "errorShare": course.errors()})
        });
        let (name, state) = (candidate.algorithm.name(), candidate.state());
        json!({"algorithm": name, "nanosAPick": cost, "state": state, "grounds": grounds.collect::<Vec<_>>()})
    });
    json!({
        "subject": case.subject,
        "current": advice.current.algorithm.name(),
        "message": message(case, advice),
        "recommendations": recommendations,
        "candidates": candidates.collect::<Vec<_>>(),
        "assumptions": case.assumptions,
    })
}

fn message(case: &Case, advice: &Advice) -> String {
    let (current, best) = (advice.current.algorithm.name(), advice.best.algorithm.name());
    match advice.changes() {
        true => format!("{}: use {best} in place of {current}", case.subject),
        false => format!("{}: keep {current}; nothing is better by more than chance", case.subject),
    }
}

/// Two policies on the ground as it was.
fn effect(from: &Candidate, to: &Candidate) -> String {
    let ([p50, p99, _], [to_p50, to_p99, _]) = (from.courses[0].quantiles_ms(), to.courses[0].quantiles_ms());
    let alike = (to_p99 / p99 - 1.0).abs() < 0.03 && (to_p50 / p50 - 1.0).abs() < 0.03;
    let where_then =
        if alike { "; alike while all is well, better where a destination is in trouble" } else { "" };
    format!(
        "p50 {} to {} ms, p99 {} to {} ms, errors {} to {}{where_then}",
        ms(p50),
        ms(to_p50),
        ms(p99),
        ms(to_p99),
        percent(from.courses[0].errors()),
        percent(to.courses[0].errors())
    )
}

fn expected(advice: &Advice) -> String {
    let (gain, half) = (advice.gain.0 * 100.0, advice.gain.1 * 100.0);
    match advice.changes() {
        true => format!(
            "{}; over all grounds {gain:.1} % better (±{half:.1}), confidence {:.2}",
            effect(&advice.current, &advice.best),
            advice.confidence
        ),
        false => format!("the best of the others would be {gain:.1} % better (±{half:.1})"),
    }
}

fn beside(from: &Candidate, to: &Candidate) -> Vec<String> {
    let grounds = Ground::ALL.iter().zip(from.courses.iter().zip(&to.courses));
    let line = |(ground, (from, to)): (&Ground, (&Course, &Course))| {
        let ([_, p99, p999], [_, to_p99, to_p999]) = (from.quantiles_ms(), to.quantiles_ms());
        let words = ground.words();
        format!("{words}: p99 {} to {} ms, p99.9 {} to {} ms", ms(p99), ms(to_p99), ms(p999), ms(to_p999))
    };
    grounds.map(line).collect()
}

fn hedging_message(advice: &Advice) -> String {
    format!(
        "hedge: send what waits longer than 95 of a hundred to a second destination, with {}",
        advice.best.algorithm.name()
    )
}

fn hedging_effect(advice: &Advice, hedged: &Candidate) -> String {
    let lines = beside(&advice.best, hedged).join("; ");
    format!(
        "{lines}; {} more messages to destinations, idempotent ones only",
        percent(hedged.courses[0].copies())
    )
}

fn snippet(case: &Case, advice: &Advice) -> String {
    let hedge = if advice.hedged.is_some() { "\n  hedge: {after: p95, max: 1}" } else { "" };
    let block = format!("load_balancer:\n  algorithm: {}{hedge}", advice.best.algorithm.name());
    match &case.pool {
        Some(pool) => {
            let within: Vec<String> = block.lines().map(|line| format!("    {line}")).collect();
            format!("pools:\n  {pool}:\n{}", within.join("\n"))
        }
        None => block,
    }
}

fn rows(advice: &Advice, costs: &[f64]) -> Vec<Vec<String>> {
    let head =
        ["POLICY"].into_iter().chain(Ground::ALL.map(Ground::words)).chain(["ERRORS", "NS", "KEEPS OF EACH"]);
    let mut rows = vec![head.map(str::to_uppercase).collect::<Vec<_>>()];
    rows.extend(advice.candidates.iter().zip(costs).map(|(candidate, cost)| {
        let now = if candidate.algorithm == advice.current.algorithm { " (now)" } else { "" };
        let mut row = vec![format!("{}{now}", candidate.algorithm.name())];
        row.extend(candidate.courses.iter().map(|course| course.quantiles_ms().map(ms).join(" ")));
        row.extend([
            percent(candidate.courses[0].errors()),
            format!("{cost:.0}"),
            candidate.state().to_owned(),
        ]);
        row
    }));
    rows
}
