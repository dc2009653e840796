//! Recorded messages that a recommendation is based on, and the scenario that replays them.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::health::OutlierSpec;
use plimsoll_core::retry::RetryWhen;

use crate::access_log::ParsedLog;
use crate::arrivals::{Arrivals, LoggedMessage};
use crate::distributions::WorkDistribution;
use crate::fault::{FaultKind, SimFault};
use crate::scenario::{NO_RETRIES, OfferedLoad, Scenario};
use crate::sim_destination::{DestinationSpec, ServiceModel};

/// Minimum messages of a trace; with fewer a p99 means nothing.
pub const MIN_MESSAGES: usize = 200;
/// Length of the windows a log is split into; the busiest of them are replayed.
const WINDOW: Duration = Duration::from_secs(600);
/// Maximum messages of one run.
const MAX_RUN_MESSAGES: usize = 30_000;
/// Minimum messages of a run without a log: five messages are then above its p99.9.
const MIN_RUN_MESSAGES: f64 = 5_000.0;
/// Minimum responses for a mean of a destination's own.
const MIN_RESPONSES: usize = 20;
/// Minimum factor over the fastest destination that counts as slower.
const MIN_SLOWDOWN: f64 = 1.25;
/// Utilization assumed where the slots of destinations are not given.
const ASSUMED_LOAD: f64 = 0.65;

/// Recorded traffic of one pool.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Recorded arrivals; without them messages arrive independently.
    pub arrivals: Option<Arc<[LoggedMessage]>>,
    /// Mean rate in messages per second.
    pub rate: f64,
    /// Number of messages recorded.
    pub messages: u64,
    /// Time covered by the trace.
    pub span: Duration,
    /// Destinations that served the messages.
    pub destinations: Vec<ObservedDestination>,
    /// Response time of the fastest destination.
    pub work: WorkDistribution,
    /// Algorithm in use while recording.
    pub algorithm: Algorithm,
}

/// Recorded values of one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedDestination {
    /// Name of the destination.
    pub name: String,
    /// Base weight of the destination.
    pub weight: u16,
    /// Responses with a known response time.
    pub responses: u64,
    /// Response time over that of the fastest destination; 1 if unknown.
    pub slowdown: f64,
}

/// Values assumed where the log does not have them.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// Number of destinations if the log names none.
    pub destinations: usize,
    /// Response time if the log has none.
    pub work: WorkDistribution,
    /// Algorithm in use while recording.
    pub algorithm: Algorithm,
}

impl Trace {
    /// Builds a trace from a log.
    ///
    /// # Errors
    /// A message for the user if the log has too few messages or spans no time.
    pub fn from_log(log: &ParsedLog, assumptions: Assumptions) -> Result<Self, String> {
        let count = log.messages.len();
        let span = log.messages.last().map_or(Duration::ZERO, |last| last.at);
        if count < MIN_MESSAGES {
            return Err(format!("the log has {count} messages: need at least {MIN_MESSAGES}"));
        }
        if span.is_zero() {
            return Err("all messages of the log have the same time".to_owned());
        }
        let mut messages = log.messages.clone();
        let destinations = observe(&log.destinations, &messages, assumptions.destinations);
        for message in &mut messages {
            let slowdown = message.destination.and_then(|place| destinations.get(usize::from(place)));
            message.response_time = message
                .response_time
                .map(|response_time| response_time / slowdown.map_or(1.0, |seen| seen.slowdown));
        }
        Ok(Self {
            rate: count as f64 / span.as_secs_f64(),
            messages: count as u64,
            span,
            work: mean(&messages).map_or(assumptions.work, WorkDistribution::Exponential),
            arrivals: Some(messages.into()),
            destinations,
            algorithm: assumptions.algorithm,
        })
    }

    /// Returns slots per destination, if they are not given: in the busiest window the most loaded
    /// destination uses two thirds of them.
    pub fn slots(&self) -> usize {
        let busiest = self.busiest_windows().iter().map(|window| window.rate).fold(self.rate, f64::max);
        let all: u64 = self.destinations.iter().map(|seen| seen.responses).sum();
        let even = 1.0 / self.destinations.len().max(1) as f64;
        let share =
            |seen: &ObservedDestination| if all > 0 { seen.responses as f64 / all as f64 } else { even };
        let most = self.destinations.iter().map(|seen| share(seen) * seen.slowdown).fold(0.0, f64::max);
        (busiest * self.work.mean() * most / ASSUMED_LOAD).ceil().clamp(1.0, 100_000.0) as usize
    }

    /// Returns the number of windows that are replayed.
    pub fn window_count(&self) -> usize {
        self.busiest_windows().len()
    }

    /// Returns the scenario of run `run`.
    pub fn scenario(&self, slots: usize, run: usize) -> Scenario {
        let specs = self.destinations.iter().map(|seen| destination_spec(seen, slots)).collect();
        let mut scenario = Scenario::new("trace", specs, self.work);
        let windows = self.busiest_windows();
        if let Some(window) = windows.get(run % windows.len().max(1)) {
            scenario.arrivals = Arrivals::Replay(window.messages.clone());
            scenario.offered_load = OfferedLoad::Rate(window.rate);
            scenario.duration = window.span;
        } else {
            scenario.offered_load = OfferedLoad::Rate(self.rate);
            let enough = (self.span * 3).max(Duration::from_secs_f64(MIN_RUN_MESSAGES / self.rate));
            let most = Duration::from_secs_f64(MAX_RUN_MESSAGES as f64 / self.rate);
            scenario.duration = enough.min(most).min(WINDOW);
        }
        scenario.outlier =
            OutlierSpec { interval: Some(Duration::from_secs(10)), ..OutlierSpec::CONSECUTIVE_FAILURES };
        scenario.retry.attempts = 3;
        scenario.retry.when =
            RetryWhen { connect_failure: true, reset: true, empty_response: true, ..NO_RETRIES.when };
        scenario
    }

    /// Windows of the log with the highest rates, the highest first.
    fn busiest_windows(&self) -> Vec<TraceWindow> {
        let Some(messages) = &self.arrivals else { return Vec::new() };
        let number = |message: &LoggedMessage| message.at.as_secs() / WINDOW.as_secs();
        let mut all: Vec<TraceWindow> = messages
            .chunk_by(|one, other| number(one) == number(other))
            .flat_map(|chunk| chunk.chunks(MAX_RUN_MESSAGES))
            .filter(|chunk| chunk.len() >= MIN_MESSAGES / 2)
            .filter_map(TraceWindow::of)
            .collect();
        if all.is_empty() {
            all.extend(TraceWindow::of(&messages[..messages.len().min(MAX_RUN_MESSAGES)]));
        }
        all.sort_by(|one, other| other.rate.total_cmp(&one.rate));
        all.truncate(MAX_WINDOWS);
        all
    }
}

/// Maximum number of windows replayed.
const MAX_WINDOWS: usize = 20;

struct TraceWindow {
    messages: Arc<[LoggedMessage]>,
    rate: f64,
    span: Duration,
}

impl TraceWindow {
    fn of(messages: &[LoggedMessage]) -> Option<Self> {
        let first = messages.first()?.at;
        let span = messages.last()?.at - first;
        let again = messages.iter().map(|message| LoggedMessage { at: message.at - first, ..*message });
        let rate = messages.len() as f64 / span.as_secs_f64();
        rate.is_finite().then(|| Self { messages: again.collect(), rate, span })
    }
}

fn destination_spec(seen: &ObservedDestination, slots: usize) -> DestinationSpec {
    let slow = SimFault::always(FaultKind::Slow(seen.slowdown));
    DestinationSpec {
        group: seen.name.clone(),
        service_model: ServiceModel::Slots(slots),
        weight: seen.weight,
        priority: 0,
        faults: (seen.slowdown > 1.0).then_some(slow).into_iter().collect(),
    }
}

fn mean(messages: &[LoggedMessage]) -> Option<f64> {
    let response_time: Vec<f64> = messages.iter().filter_map(|message| message.response_time).collect();
    (!response_time.is_empty())
        .then(|| (response_time.iter().sum::<f64>() / response_time.len() as f64).max(1e-6))
}

/// Slowdown of each destination, from the geometric mean of its response times, which one long request among
/// a thousand short ones barely changes.
fn observe(names: &[String], messages: &[LoggedMessage], otherwise: usize) -> Vec<ObservedDestination> {
    let seen =
        |name: String, responses: u64, slowdown| ObservedDestination { name, weight: 1, responses, slowdown };
    if names.is_empty() {
        return (1..=otherwise).map(|nth| seen(format!("destination-{nth}"), 0, 1.0)).collect();
    }
    let mut sums = vec![(0.0, 0_u64); names.len()];
    for message in messages {
        if let (Some(place), Some(response_time), false) =
            (message.destination, message.response_time, message.failed)
        {
            let sum = &mut sums[usize::from(place)];
            *sum = (sum.0 + response_time.max(1e-6).ln(), sum.1 + 1);
        }
    }
    let times =
        sums.iter().map(|&(sum, count)| (count >= MIN_RESPONSES as u64).then(|| (sum / count as f64).exp()));
    let times: Vec<Option<f64>> = times.collect();
    let slowdown = slowdowns(&times);
    names.iter().zip(&sums).zip(slowdown).map(|((name, sum), slow)| seen(name.clone(), sum.1, slow)).collect()
}

/// Returns each destination's factor over the fastest; small differences count as 1.
pub fn slowdowns(times: &[Option<f64>]) -> Vec<f64> {
    let fastest = times.iter().flatten().copied().fold(f64::INFINITY, f64::min).max(1e-6);
    let ratio = |time: &Option<f64>| time.map_or(1.0, |time| time / fastest);
    times.iter().map(ratio).map(|ratio| if ratio < MIN_SLOWDOWN { 1.0 } else { ratio }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSUMPTIONS: Assumptions = Assumptions {
        destinations: 4,
        work: WorkDistribution::Exponential(0.01),
        algorithm: Algorithm::RoundRobin,
    };

    fn parsed_log(count: u64, line: impl Fn(u64) -> String) -> ParsedLog {
        let text: String = (0..count).map(|nth| line(nth) + "\n").collect();
        crate::access_log::read(text.as_bytes()).expect("a log")
    }

    fn json_line(nth: u64) -> String {
        let (name, ms) = if nth.is_multiple_of(2) { ("a", 10.0) } else { ("b", 30.0) };
        let (second, milli) = (nth / 100, nth % 100 * 10);
        format!(
            "{{\"time\":\"2026-02-01T00:00:{second:02}.{milli:03}Z\",\"destination\":\"{name}\",\"status\":200,\"ttfb_ms\":{ms}}}"
        )
    }

    #[test]
    fn a_json_log_yields_slowdowns_and_work() {
        let trace = Trace::from_log(&parsed_log(1_000, json_line), ASSUMPTIONS).expect("enough");
        let seen: Vec<(&str, f64)> =
            trace.destinations.iter().map(|seen| (&*seen.name, seen.slowdown)).collect();
        assert!(
            matches!(seen[..], [("a", one), ("b", three)] if one == 1.0 && (three - 3.0).abs() < 1e-9),
            "{seen:?}"
        );
        assert!(
            (trace.work.mean() - 0.010).abs() < 1e-9,
            "the work excludes the slowdown of b: {:?}",
            trace.work
        );
        assert!((trace.rate - 100.0).abs() < 1.0);
        let scenario = trace.scenario(trace.slots(), 0);
        assert_eq!(
            (scenario.destinations.len(), trace.slots()),
            (2, 3),
            "1.5 messages in flight at b are two thirds of the slots"
        );
        assert!((scenario.rate() - 100.0).abs() < 1.0);
    }

    #[test]
    fn values_missing_from_a_common_log_are_assumed() {
        let line = |nth: u64| {
            format!("a - - [17/May/2015:10:{:02}:{:02} +0000] \"GET /\" 200 1", nth / 60, nth % 60)
        };
        let trace = Trace::from_log(&parsed_log(400, line), ASSUMPTIONS).expect("enough");
        assert_eq!((trace.destinations.len(), trace.work), (4, ASSUMPTIONS.work));
        let few = Trace::from_log(&parsed_log(199, line), ASSUMPTIONS).expect_err("too few");
        assert!(few.contains("need at least 200"), "{few}");
    }

    #[test]
    fn the_busiest_ten_minutes_of_a_long_log_come_first() {
        // Ten minutes at one message per second, then ten at five, then ten at two.
        let mut messages = Vec::new();
        for (nth, rate) in [(0_u64, 1_u64), (1, 5), (2, 2)] {
            let at = |n: u64| Duration::from_millis(nth * 600_000 + n * 1_000 / rate);
            messages.extend((0..600 * rate).map(|n| LoggedMessage { at: at(n), ..LoggedMessage::default() }));
        }
        let log = ParsedLog {
            messages,
            destinations: Vec::new(),
            invalid_lines: 0,
            first_invalid: None,
            truncated: false,
        };
        let trace = Trace::from_log(&log, ASSUMPTIONS).expect("enough");
        let rate = |run| trace.scenario(1, run).rate().round();
        assert_eq!((rate(0), rate(1), rate(2), rate(3)), (5.0, 2.0, 1.0, 5.0));
    }
}
