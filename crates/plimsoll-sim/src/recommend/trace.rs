//! What is known of the messages a recommendation is made from, and the variant they are played on again.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::retry::RetryWhen;

use crate::access_log::ParsedLog;
use crate::arrivals::{Arrivals, LoggedMessage};
use crate::distributions::WorkDistribution;
use crate::fault::{FaultKind, SimFault};
use crate::scenario::{NO_OUTLIER_DETECTION, NO_RETRIES, OfferedLoad, Scenario};
use crate::sim_destination::{DestinationSpec, ServiceModel};

/// Fewer messages say nothing about the 99th of a hundred.
pub const MIN_MESSAGES: usize = 200;
/// A log is cut into windows of this length, of which the busiest are played again.
const WINDOW: Duration = Duration::from_secs(600);
/// Messages of one run at most.
const MAX_RUN_MESSAGES: usize = 30_000;
/// Of a run at the rate that was seen, so many at least: the 999th of a thousand is then five messages' word.
const MIN_RUN_MESSAGES: f64 = 5_000.0;
/// With fewer responses a destination's own time says nothing.
const MIN_RESPONSES: usize = 20;
/// Slower than the fastest by less is taken for chance.
const MIN_SLOWDOWN: f64 = 1.25;
/// What part of their slots destinations are taken to use, if nobody says how many they have.
const ASSUMED_LOAD: f64 = 0.65;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Trace {
    /// In which arrivals messages came; without it they come independent of each other.
    pub arrivals: Option<Arc<[LoggedMessage]>>,
    /// Messages a second, all in all.
    pub rate: f64,
    /// Messages seen.
    pub messages: u64,
    /// In so much time.
    pub span: Duration,
    /// Who served them.
    pub destinations: Vec<ObservedDestination>,
    /// How long an answer of the fastest destination takes, in seconds.
    pub work: WorkDistribution,
    /// The policy there was.
    pub algorithm: Algorithm,
}

/// What was seen of one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedDestination {
    /// Its name.
    pub name: String,
    /// Base weight.
    pub weight: u16,
    /// Answers that told how long they response_time.
    pub responses: u64,
    /// How many times as long as the fastest one's they response_time; 1 where that is not known.
    pub slowdown: f64,
}

/// What a log does not say.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// How many destinations, where it names none.
    pub destinations: usize,
    /// How long one takes, where it does not tell.
    pub work: WorkDistribution,
    /// The policy there was.
    pub algorithm: Algorithm,
}

impl Trace {
    /// What a log tells.
    ///
    /// # Errors
    /// There are too few messages in it.
    pub fn from_log(log: &ParsedLog, assumptions: Assumptions) -> Result<Self, String> {
        let count = log.messages.len();
        let span = log.messages.last().map_or(Duration::ZERO, |last| last.at);
        if count < MIN_MESSAGES {
            return Err(format!("it has {count} messages: need at least {MIN_MESSAGES}"));
        }
        if span.is_zero() {
            return Err("all its messages came at the same moment".to_owned());
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

    /// Slots of each destination, if nobody says how many: so that in the busiest window the one with most to do
    /// uses two thirds of them.
    pub fn slots(&self) -> usize {
        let busiest = self.busiest_windows().iter().map(|window| window.rate).fold(self.rate, f64::max);
        let all: u64 = self.destinations.iter().map(|seen| seen.responses).sum();
        let even = 1.0 / self.destinations.len().max(1) as f64;
        let share =
            |seen: &ObservedDestination| if all > 0 { seen.responses as f64 / all as f64 } else { even };
        let most = self.destinations.iter().map(|seen| share(seen) * seen.slowdown).fold(0.0, f64::max);
        (busiest * self.work.mean() * most / ASSUMED_LOAD).ceil().clamp(1.0, 100_000.0) as usize
    }

    /// How many different windows are played.
    pub fn window_count(&self) -> usize {
        self.busiest_windows().len()
    }

    /// Run number `run` of all.
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
        scenario.outlier = plimsoll_core::health::OutlierSpec {
            consecutive_failures: 5,
            interval: Some(Duration::from_secs(10)),
            ..NO_OUTLIER_DETECTION
        };
        scenario.retry.attempts = 3;
        scenario.retry.when =
            RetryWhen { connect_failure: true, reset: true, empty_response: true, ..NO_RETRIES.when };
        scenario
    }

    /// The windows of the log with the most messages, those first.
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

/// Stretches played again.
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

/// Each destination beside the fastest, by the geometric mean of its times: one report among a thousand pages
/// makes nobody slow.
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

/// How many times as long as the fastest each takes; small differences are none.
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
        assert!((trace.work.mean() - 0.010).abs() < 1e-9, "what b takes longer is its own: {:?}", trace.work);
        assert!((trace.rate - 100.0).abs() < 1.0);
        let scenario = trace.scenario(trace.slots(), 0);
        assert_eq!(
            (scenario.destinations.len(), trace.slots()),
            (2, 3),
            "1.5 at once at b are two thirds of the slots"
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
        // Ten minutes at one a second, then ten at five, then ten at two.
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
