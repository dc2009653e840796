//! What is seen of the trace: in an access log, or of a running plimsoll between two looks.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_sim::access_log;
use plimsoll_sim::distributions::WorkDistribution;
use plimsoll_sim::recommend::trace::{Assumptions, MIN_MESSAGES, ObservedDestination, Trace, slowdowns};
use serde_json::Value;

use super::super::admin_client::{NoReply, ask};
use super::super::terminal::{complain, progress};
use super::{Case, Recommend, algorithm, down, usage};

impl Recommend {
    pub(super) fn of_log(&self, path: &Path) -> Result<Case, (u8, String)> {
        let wrong = |why: String| usage(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let log = access_log::read(BufReader::new(file)).map_err(wrong)?;
        if let Some((line, why)) = log.first_invalid {
            let count = log.invalid_lines;
            complain(&format!(
                "{}: {count} lines are left out; the first, line {line}, {why}",
                path.display()
            ));
        }
        let names = log.destinations.len();
        let destinations = match (names, self.destinations) {
            (0, None) => {
                return Err(wrong(
                    "it names no destinations: how many are there? --destinations N".to_owned(),
                ));
            }
            (0, Some(count)) => usize::from(count),
            (names, _) => names,
        };
        let current = self.algorithm.as_deref().map_or(Ok(Algorithm::RoundRobin), algorithm)?;
        let assumed = Assumptions {
            destinations,
            work: WorkDistribution::Exponential(self.work.0.as_secs_f64()),
            algorithm: current,
        };
        let timed = log.messages.iter().filter(|message| message.response_time.is_some()).count();
        let bad = log.messages.iter().filter(|message| message.failed).count();
        let trace = Trace::from_log(&log, assumed).map_err(wrong)?;
        let mut evidence = vec![
            format!(
                "{} messages in {}: {:.2} a second, served in the rhythm of the busiest stretches of ten minutes",
                trace.messages,
                span(trace.span),
                trace.rate
            ),
            slow_ones(&trace),
        ];
        evidence.extend(times(&log));
        evidence.extend((trace.window_count() < 2).then(|| {
            "one stretch only: intervals tell of the policies' own chance, not of how other days differ"
                .to_owned()
        }));
        if bad > 0 {
            evidence
                .push(format!("{bad} answers counted against their destinations; they are not played again"));
        }
        let mut assumptions = Vec::new();
        if timed == 0 {
            let work = span(self.work.0);
            assumptions
                .push(format!("a message takes {work} on average (--work), because the log does not tell"));
        }
        if names == 0 {
            assumptions
                .push("all destinations are alike, because the log does not tell them apart".to_owned());
        }
        if self.algorithm.is_none() {
            assumptions
                .push(format!("the policy was {} (--algorithm), because no log tells", current.name()));
        }
        Ok(Case { trace, subject: path.display().to_string(), pool: None, evidence, assumptions })
    }

    pub(super) fn of_running(&self) -> Result<Case, (u8, String)> {
        let name = match &self.pool {
            Some(name) => name.clone(),
            None => self.only_pool()?,
        };
        let path = format!("/v1/pools/{name}");
        let before = self.look(&path)?;
        progress(&format!("looking at {name} for {}", span(self.watch.0)));
        std::thread::sleep(self.watch.0);
        let after = self.look(&path)?;
        let current = algorithm(after["algorithm"].as_str().unwrap_or_default())?;
        let looks = between(&before, &after);
        let messages: u64 = looks.iter().map(|look| look.messages).sum();
        if messages < MIN_MESSAGES as u64 {
            return Err(usage(format!(
                "{name} took {messages} messages in {}: need at least {MIN_MESSAGES}; --watch longer, or --log",
                span(self.watch.0)
            )));
        }
        let times: Vec<Option<f64>> = looks.iter().map(|look| look.seconds).collect();
        let fastest = times.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        let known = fastest.is_finite();
        let work = if known { fastest.max(1e-6) } else { self.work.0.as_secs_f64() };
        let slowdown = slowdowns(&times);
        let destinations = looks
            .into_iter()
            .zip(slowdown)
            .map(|(look, slowdown)| ObservedDestination { slowdown, ..look.seen });
        let trace = Trace {
            arrivals: None,
            rate: messages as f64 / self.watch.0.as_secs_f64(),
            messages,
            span: self.watch.0,
            destinations: destinations.collect(),
            work: WorkDistribution::Exponential(work),
            algorithm: current,
        };
        let evidence = vec![
            format!("{messages} messages in {}: {:.1} a second", span(self.watch.0), trace.rate),
            slow_ones(&trace),
        ];
        let mut assumptions = vec![
            "messages come independent of each other, and take exponential times (a log would tell: --log)"
                .to_owned(),
        ];
        if !known {
            assumptions.push(format!("a message takes {} on average (--work)", span(self.work.0)));
        }
        Ok(Case { trace, subject: name.clone(), pool: Some(name), evidence, assumptions })
    }

    fn only_pool(&self) -> Result<String, (u8, String)> {
        let told = self.look("/v1/pools")?;
        let names: Vec<&str> =
            told["pools"].as_array().into_iter().flatten().filter_map(|pool| pool["name"].as_str()).collect();
        match names[..] {
            [name] => Ok(name.to_owned()),
            [] => Err(usage("it has no pools".to_owned())),
            _ => Err(usage(format!("which pool? --pool {}", names.join(", --pool ")))),
        }
    }

    fn look(&self, path: &str) -> Result<Value, (u8, String)> {
        let reply = ask(&self.admin.admin, "GET", path).map_err(|why: NoReply| down(&why))?;
        match reply.status {
            200 => Ok(reply.body),
            404 => Err(usage(format!("there is no {}", path.trim_start_matches("/v1/")))),
            status => Err(down(&format!(
                "{path} answered {status}: {}",
                reply.body["detail"].as_str().unwrap_or("no reason was given")
            ))),
        }
    }
}

/// What the log itself tells of times, to hold beside what the simulation makes of the policy there was.
fn times(log: &access_log::ParsedLog) -> Option<String> {
    let mut took: Vec<f64> = log.messages.iter().filter_map(|message| message.response_time).collect();
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).map(|seconds| seconds * 1e3);
    Some(format!("times in the log: p50 {:.1} ms, p99 {:.1} ms", at(0.5)?, at(0.99)?))
}

/// One destination between two looks.
struct Look {
    seen: ObservedDestination,
    messages: u64,
    seconds: Option<f64>,
}

fn between(before: &Value, after: &Value) -> Vec<Look> {
    let list = |pool: &Value| pool["destinations"].as_array().cloned().unwrap_or_default();
    let earlier = list(before);
    let looks = list(after).into_iter().filter(|now| now["weight"].as_u64().unwrap_or(0) > 0).map(|now| {
        let then = earlier.iter().find(|then| then["id"] == now["id"]);
        let requests = |d: &Value| d["counts"]["requests"].as_u64().unwrap_or(0);
        let (sum_now, answers_now) = answers(&now);
        let (sum_then, answers_then) = then.map_or((0.0, 0), answers);
        let answers = answers_now.saturating_sub(answers_then);
        let seconds = (answers >= 20).then(|| ((sum_now - sum_then) / answers as f64 / 1e3).max(1e-6));
        let seen = ObservedDestination {
            name: now["id"].as_str().unwrap_or_default().to_owned(),
            weight: now["weight"].as_u64().unwrap_or(1).min(u64::from(u16::MAX)) as u16,
            responses: answers,
            slowdown: 1.0,
        };
        Look { seen, messages: requests(&now).saturating_sub(then.map_or(0, requests)), seconds }
    });
    looks.collect()
}

/// Milliseconds of all answers so far, and how many there were.
fn answers(destination: &Value) -> (f64, u64) {
    let counts = &destination["counts"];
    let count = counts["answers"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    (counts["meanResponseMs"].as_f64().unwrap_or(0.0) * count as f64, count)
}

fn slow_ones(trace: &Trace) -> String {
    let slow = trace.destinations.iter().filter(|seen| seen.slowdown > 1.0);
    let slow: Vec<String> = slow.map(|seen| format!("{} {:.1}", seen.name, seen.slowdown)).take(10).collect();
    let (count, work) = (trace.destinations.len(), trace.work.mean() * 1e3);
    let rest = if slow.is_empty() {
        "none is clearly slower".to_owned()
    } else {
        format!("slower than the fastest: {} times", slow.join(", "))
    };
    format!("{count} destinations; {work:.2} ms an answer of the fastest; {rest}")
}

fn span(span: Duration) -> String {
    match span.as_secs_f64() {
        seconds if seconds >= 7_200.0 => format!("{:.1} h", seconds / 3_600.0),
        seconds if seconds >= 1.0 => format!("{seconds:.0} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}
