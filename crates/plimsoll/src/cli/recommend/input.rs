//! Observed traffic, from an access log or from two samples of a running instance.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_sim::access_log;
use plimsoll_sim::distributions::WorkDistribution;
use plimsoll_sim::recommend::trace::{Assumptions, MIN_MESSAGES, ObservedDestination, Trace, slowdowns};
use serde_json::Value;

use super::super::admin_client::{error_detail, request};
use super::super::exit_code::DOWN;
use super::super::terminal::{error_line, progress};
use super::{Failure, Observation, RecommendArgs, parse_algorithm, usage};

/// Responses needed before a destination's mean response time is used.
const MIN_RESPONSES: u64 = 20;

/// Reads an access log.
pub(super) fn read_log(args: &RecommendArgs, path: &Path) -> Result<Observation, Failure> {
    let wrong = |why: String| usage(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let log = access_log::read(BufReader::new(file)).map_err(wrong)?;
    if let Some((line, why)) = log.first_invalid {
        let count = log.invalid_lines;
        error_line(&format!("{}: skipped {count} lines; first: line {line} {why}", path.display()));
    }
    let names = log.destinations.len();
    let destinations = match (names, args.destinations) {
        (0, None) => {
            return Err(wrong(
                "the log does not name destinations; give their number with --destinations N".to_owned(),
            ));
        }
        (0, Some(count)) => usize::from(count),
        (names, _) => names,
    };
    let current = args.algorithm.as_deref().map_or(Ok(Algorithm::RoundRobin), parse_algorithm)?;
    let assumed = Assumptions {
        destinations,
        work: WorkDistribution::Exponential(args.work.0.as_secs_f64()),
        algorithm: current,
    };
    let timed = log.messages.iter().filter(|message| message.response_time.is_some()).count();
    let bad = log.messages.iter().filter(|message| message.failed).count();
    let trace = Trace::from_log(&log, assumed).map_err(wrong)?;
    let mut evidence = vec![
        format!(
            "{} messages in {}: {:.2}/s; the busiest ten-minute intervals are simulated",
            trace.messages,
            format_duration(trace.span),
            trace.rate
        ),
        describe_slow_destinations(&trace),
    ];
    evidence.extend(describe_times(&log));
    evidence.extend((trace.window_count() < 2).then(|| {
        "only one ten-minute interval: confidence intervals cover random variation, not differences between days"
            .to_owned()
    }));
    if bad > 0 {
        evidence.push(format!("{bad} failed responses; failures are not simulated"));
    }
    let mut assumptions = Vec::new();
    if timed == 0 {
        let work = format_duration(args.work.0);
        assumptions
            .push(format!("a message takes {work} on average (--work): the log has no response times"));
    }
    if names == 0 {
        assumptions.push("all destinations are equal: the log does not name them".to_owned());
    }
    if args.algorithm.is_none() {
        assumptions
            .push(format!("the algorithm in use was {} (--algorithm): logs do not name it", current.name()));
    }
    Ok(Observation { trace, subject: path.display().to_string(), pool: None, evidence, assumptions })
}

/// Samples a pool of a running instance twice, `--watch` apart.
pub(super) fn observe_instance(args: &RecommendArgs) -> Result<Observation, Failure> {
    let name = match &args.pool {
        Some(name) => name.clone(),
        None => only_pool(args)?,
    };
    let path = format!("/v1/pools/{name}");
    let before = fetch(args, &path)?;
    progress(&format!("observing {name} for {}", format_duration(args.watch.0)));
    std::thread::sleep(args.watch.0);
    let after = fetch(args, &path)?;
    let current = parse_algorithm(after["algorithm"].as_str().unwrap_or_default())?;
    let samples = difference(&before, &after);
    let messages: u64 = samples.iter().map(|sample| sample.messages).sum();
    if messages < MIN_MESSAGES as u64 {
        return Err(usage(format!(
            "{name} received {messages} messages in {}: need at least {MIN_MESSAGES}; use a longer --watch, or --log",
            format_duration(args.watch.0)
        )));
    }
    let times: Vec<Option<f64>> = samples.iter().map(|sample| sample.seconds).collect();
    let fastest = times.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let known = fastest.is_finite();
    let work = if known { fastest.max(1e-6) } else { args.work.0.as_secs_f64() };
    let slowdown = slowdowns(&times);
    let destinations = samples
        .into_iter()
        .zip(slowdown)
        .map(|(sample, slowdown)| ObservedDestination { slowdown, ..sample.destination });
    let trace = Trace {
        arrivals: None,
        rate: messages as f64 / args.watch.0.as_secs_f64(),
        messages,
        span: args.watch.0,
        destinations: destinations.collect(),
        work: WorkDistribution::Exponential(work),
        algorithm: current,
    };
    let evidence = vec![
        format!("{messages} messages in {}: {:.1}/s", format_duration(args.watch.0), trace.rate),
        describe_slow_destinations(&trace),
    ];
    let mut assumptions = vec![
        "arrivals are independent of each other and service times exponential (a log shows the real ones: --log)"
            .to_owned(),
    ];
    if !known {
        assumptions.push(format!("a message takes {} on average (--work)", format_duration(args.work.0)));
    }
    Ok(Observation { trace, subject: name.clone(), pool: Some(name), evidence, assumptions })
}

/// Returns the name of the instance's only pool.
fn only_pool(args: &RecommendArgs) -> Result<String, Failure> {
    let body = fetch(args, "/v1/pools")?;
    let names: Vec<&str> =
        body["pools"].as_array().into_iter().flatten().filter_map(|pool| pool["name"].as_str()).collect();
    match names[..] {
        [name] => Ok(name.to_owned()),
        [] => Err(usage("the instance has no pools".to_owned())),
        _ => Err(usage(format!(
            "the instance has several pools; choose one with --pool: {}",
            names.join(", ")
        ))),
    }
}

/// Fetches a document from the admin API.
fn fetch(args: &RecommendArgs, path: &str) -> Result<Value, Failure> {
    let response = request(&args.admin.address, "GET", path).map_err(|error| (DOWN, error.to_string()))?;
    match response.status {
        200 => Ok(response.body),
        404 => Err(usage(error_detail(&response.body).to_owned())),
        status => Err((DOWN, format!("{path}: response {status}: {}", error_detail(&response.body)))),
    }
}

/// Describes the response times in the log, to compare with the simulated ones.
fn describe_times(log: &access_log::ParsedLog) -> Option<String> {
    let mut took: Vec<f64> = log.messages.iter().filter_map(|message| message.response_time).collect();
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map(|seconds| seconds * 1e3);
    Some(format!("response times in the log: p50 {:.1} ms, p99 {:.1} ms", at(0.5)?, at(0.99)?))
}

/// Traffic of one destination between two samples.
struct DestinationSample {
    destination: ObservedDestination,
    messages: u64,
    seconds: Option<f64>,
}

fn difference(before: &Value, after: &Value) -> Vec<DestinationSample> {
    let list = |pool: &Value| pool["destinations"].as_array().cloned().unwrap_or_default();
    let earlier = list(before);
    let samples = list(after).into_iter().filter(|now| now["weight"].as_u64().unwrap_or(0) > 0).map(|now| {
        let then = earlier.iter().find(|then| then["id"] == now["id"]);
        let requests = |d: &Value| d["counts"]["requests"].as_u64().unwrap_or(0);
        let (sum_now, responses_now) = responses(&now);
        let (sum_then, responses_then) = then.map_or((0.0, 0), responses);
        let responses = responses_now.saturating_sub(responses_then);
        let seconds =
            (responses >= MIN_RESPONSES).then(|| ((sum_now - sum_then) / responses as f64 / 1e3).max(1e-6));
        let destination = ObservedDestination {
            name: now["id"].as_str().unwrap_or_default().to_owned(),
            weight: now["weight"].as_u64().unwrap_or(1).min(u64::from(u16::MAX)) as u16,
            responses,
            slowdown: 1.0,
        };
        DestinationSample {
            destination,
            messages: requests(&now).saturating_sub(then.map_or(0, requests)),
            seconds,
        }
    });
    samples.collect()
}

/// Returns the total time in milliseconds and the number of all responses so far.
fn responses(destination: &Value) -> (f64, u64) {
    let counts = &destination["counts"];
    let count = counts["responses"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    (counts["meanResponseMs"].as_f64().unwrap_or(0.0) * count as f64, count)
}

fn describe_slow_destinations(trace: &Trace) -> String {
    let slow = trace.destinations.iter().filter(|d| d.slowdown > 1.0);
    let slow: Vec<String> = slow.map(|d| format!("{} {:.1}", d.name, d.slowdown)).take(10).collect();
    let (count, work) = (trace.destinations.len(), trace.work.mean() * 1e3);
    let rest = if slow.is_empty() {
        "none is clearly slower".to_owned()
    } else {
        format!("times slower than the fastest: {}", slow.join(", "))
    };
    format!("{count} destinations; mean response time of the fastest {work:.2} ms; {rest}")
}

fn format_duration(span: Duration) -> String {
    match span.as_secs_f64() {
        seconds if seconds >= 7_200.0 => format!("{:.1} h", seconds / 3_600.0),
        seconds if seconds >= 1.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}
