//! Performance metrics from the outcomes of the last minute.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use plimsoll_core::{DestinationId, Outcome, Tick};

use crate::result::{DestinationPerformance, PerformanceMetrics, ResponseTime};

/// Age limit of outcomes.
const WINDOW: Duration = Duration::from_secs(60);

/// Maximum number of outcomes: ten beyond the 99th percentile, in 48 KiB.
const MAX_OUTCOMES: usize = 1_024;

/// An outcome with its time and destination.
#[derive(Copy, Clone, Debug)]
struct TimedOutcome {
    at: Tick,
    id: DestinationId,
    outcome: Outcome,
}

/// The latest outcomes of a pool, oldest first.
#[derive(Debug)]
pub(crate) struct OutcomeWindow {
    outcomes: VecDeque<TimedOutcome>,
    /// Start of the time covered.
    since: Tick,
}

/// A destination to report metrics of.
pub(crate) struct MeasuredDestination<'a> {
    pub(crate) id: DestinationId,
    pub(crate) name: &'a str,
    pub(crate) in_flight: u32,
}

impl OutcomeWindow {
    /// Creates a window that starts now.
    pub(crate) fn new(now: Tick) -> Self {
        Self { outcomes: VecDeque::new(), since: now }
    }

    /// Adds an outcome; the oldest one is dropped if the window is full.
    pub(crate) fn record(&mut self, now: Tick, id: DestinationId, outcome: Outcome) {
        if self.outcomes.len() == MAX_OUTCOMES
            && let Some(oldest) = self.outcomes.pop_front()
        {
            self.since = oldest.at;
        }
        self.outcomes.push_back(TimedOutcome { at: now, id, outcome });
    }

    /// Removes the outcomes of destinations that were removed.
    pub(crate) fn retain(&mut self, keep: impl Fn(DestinationId) -> bool) {
        self.outcomes.retain(|timed| keep(timed.id));
    }

    /// Returns the metrics of all `subjects` together and of each.
    pub(crate) fn metrics(&self, now: Tick, subjects: &[MeasuredDestination<'_>]) -> PerformanceMetrics {
        let minute_ago = Tick::from_nanos(now.as_nanos().saturating_sub(WINDOW.as_nanos() as u64));
        let window = now.since(minute_ago.max(self.since));
        let (mut total, mut by_id) = (Sample::default(), HashMap::<DestinationId, Sample>::new());
        for timed in self.outcomes.iter().filter(|timed| timed.at >= minute_ago) {
            total.add(timed.outcome);
            by_id.entry(timed.id).or_default().add(timed.outcome);
        }
        let destinations = subjects.iter().map(|subject| {
            let sample = by_id.remove(&subject.id).unwrap_or_default();
            DestinationPerformance {
                id: subject.name.to_owned(),
                window_ms: millis(window),
                samples: sample.count,
                throughput_per_second: sample.per_second(window),
                error_rate: sample.share(sample.failed),
                availability: sample.share(sample.first_bytes.len()),
                response_time_ms: sample.response_time(),
                in_flight: subject.in_flight,
            }
        });
        PerformanceMetrics {
            destinations: destinations.collect(),
            window_ms: millis(window),
            samples: total.count,
            throughput_per_second: total.per_second(window),
            error_rate: total.share(total.failed),
            availability: total.share(total.first_bytes.len()),
            response_time_ms: total.response_time(),
            in_flight: subjects.iter().map(|subject| subject.in_flight).sum(),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Counts and response times of one destination or of all.
#[derive(Default)]
struct Sample {
    count: usize,
    failed: usize,
    first_bytes: Vec<Duration>,
}

impl Sample {
    fn add(&mut self, outcome: Outcome) {
        self.count += 1;
        self.failed += usize::from(outcome.blames_destination());
        if let Outcome::Answered { first_byte, .. } = outcome {
            self.first_bytes.push(first_byte);
        }
    }

    fn share(&self, part: usize) -> Option<f64> {
        (self.count > 0).then(|| part as f64 / self.count as f64)
    }

    fn per_second(&self, window: Duration) -> Option<f64> {
        (self.count > 0 && !window.is_zero()).then(|| self.count as f64 / window.as_secs_f64())
    }

    fn response_time(mut self) -> Option<ResponseTime> {
        let count = self.first_bytes.len();
        if count == 0 {
            return None;
        }
        self.first_bytes.sort_unstable();
        // Nearest rank: the smallest observed value that `percent` of all values do not exceed.
        let percentile = |percent: usize| millis(self.first_bytes[(count * percent).div_ceil(100) - 1]);
        let sum: Duration = self.first_bytes.iter().sum();
        Some(ResponseTime {
            mean: millis(sum) / count as f64,
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
        })
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::Failure;

    use super::*;

    const A: DestinationId = DestinationId(1);

    fn at(millis: u64) -> Tick {
        Tick::ZERO + Duration::from_millis(millis)
    }

    fn response(status: u16, millis: u64) -> Outcome {
        Outcome::Answered { status, first_byte: Duration::from_millis(millis) }
    }

    fn metrics(window: &OutcomeWindow, now: Tick) -> PerformanceMetrics {
        window.metrics(now, &[MeasuredDestination { id: A, name: "a", in_flight: 3 }])
    }

    #[test]
    fn without_outcomes_all_rates_are_absent() {
        let known = metrics(&OutcomeWindow::new(at(0)), at(5_000));
        assert_eq!((known.samples, known.window_ms, known.in_flight), (0, 5_000.0, 3));
        assert_eq!((known.response_time_ms, known.throughput_per_second), (None, None));
        assert_eq!((known.error_rate, known.availability), (None, None));
        assert_eq!(known.destinations[0].samples, 0);
    }

    #[test]
    fn rates_and_percentiles_match_the_outcomes() {
        let mut window = OutcomeWindow::new(at(0));
        for millis in 1..=98 {
            window.record(at(millis), A, response(200, millis));
        }
        window.record(at(99), A, response(503, 99));
        window.record(at(99), A, Outcome::Failed(Failure::Connect));
        let known = metrics(&window, at(2_000));
        let times = known.response_time_ms.expect("99 responses");
        assert_eq!((times.mean, times.p50, times.p90, times.p99), (50.0, 50.0, 90.0, 99.0));
        assert_eq!((known.error_rate, known.availability), (Some(0.02), Some(0.99)));
        assert_eq!((known.samples, known.throughput_per_second), (100, Some(50.0)));
        assert_eq!(known.destinations[0].response_time_ms, known.response_time_ms);
    }

    #[test]
    fn outcomes_older_than_a_minute_do_not_count() {
        let mut window = OutcomeWindow::new(at(0));
        window.record(at(1_000), A, response(500, 1));
        window.record(at(50_000), A, response(200, 2));
        let known = metrics(&window, at(90_000));
        assert_eq!((known.samples, known.window_ms, known.error_rate), (1, 60_000.0, Some(0.0)));
    }

    #[test]
    fn window_is_shorter_at_high_rates() {
        let mut window = OutcomeWindow::new(at(0));
        for second in 0..2 {
            for _ in 0..MAX_OUTCOMES {
                window.record(at(second * 1_000), A, response(200, 1));
            }
        }
        let known = metrics(&window, at(2_000));
        assert_eq!((known.samples, known.window_ms), (MAX_OUTCOMES, 2_000.0));
        window.record(at(2_000), A, response(200, 1));
        assert_eq!(metrics(&window, at(2_000)).window_ms, 1_000.0);
    }
}
