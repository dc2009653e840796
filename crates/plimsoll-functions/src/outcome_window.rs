//! What the outcomes of the last minute add up to.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use plimsoll_core::{DestinationId, Outcome, Tick};

use crate::result::{DestinationPerformance, PerformanceMetrics, ResponseTime};

/// Older outcomes say little about now.
const SPAN: Duration = Duration::from_secs(60);

/// So many outcomes are kept: ten beyond the 99th percentile, and 48 KiB.
const MOST: usize = 1_024;

#[derive(Copy, Clone, Debug)]
struct Seen {
    at: Tick,
    id: DestinationId,
    outcome: Outcome,
}

/// The latest outcomes of a pool, oldest first.
#[derive(Debug)]
pub(crate) struct Window {
    seen: VecDeque<Seen>,
    /// Nothing before this is known.
    since: Tick,
}

/// A destination as metrics need it.
pub(crate) struct Subject<'a> {
    pub(crate) id: DestinationId,
    pub(crate) name: &'a str,
    pub(crate) in_flight: u32,
}

impl Window {
    pub(crate) fn new(now: Tick) -> Self {
        Self { seen: VecDeque::new(), since: now }
    }

    pub(crate) fn record(&mut self, now: Tick, id: DestinationId, outcome: Outcome) {
        if self.seen.len() == MOST
            && let Some(oldest) = self.seen.pop_front()
        {
            self.since = oldest.at;
        }
        self.seen.push_back(Seen { at: now, id, outcome });
    }

    /// Forgets the outcomes of destinations that are no more.
    pub(crate) fn retain(&mut self, stays: impl Fn(DestinationId) -> bool) {
        self.seen.retain(|seen| stays(seen.id));
    }

    /// What the window holds about all of `subjects` and about each.
    pub(crate) fn metrics(&self, now: Tick, subjects: &[Subject<'_>]) -> PerformanceMetrics {
        let minute_ago = Tick::from_nanos(now.as_nanos().saturating_sub(SPAN.as_nanos() as u64));
        let window = now.since(minute_ago.max(self.since));
        let (mut total, mut by_id) = (Sample::default(), HashMap::<DestinationId, Sample>::new());
        for seen in self.seen.iter().filter(|seen| seen.at >= minute_ago) {
            total.add(seen.outcome);
            by_id.entry(seen.id).or_default().add(seen.outcome);
        }
        let destinations = subjects.iter().map(|subject| {
            let sample = by_id.remove(&subject.id).unwrap_or_default();
            DestinationPerformance {
                id: subject.name.to_owned(),
                window_ms: millis(window),
                samples: sample.count,
                throughput_per_second: sample.per_second(window),
                error_rate: sample.share(sample.bad),
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
            error_rate: total.share(total.bad),
            availability: total.share(total.first_bytes.len()),
            response_time_ms: total.response_time(),
            in_flight: subjects.iter().map(|subject| subject.in_flight).sum(),
        }
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[derive(Default)]
struct Sample {
    count: usize,
    bad: usize,
    first_bytes: Vec<Duration>,
}

impl Sample {
    fn add(&mut self, outcome: Outcome) {
        self.count += 1;
        self.bad += usize::from(outcome.blames_destination());
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
        // Nearest rank: a value that was seen, at least as high as so many in a hundred.
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

    fn answered(status: u16, millis: u64) -> Outcome {
        Outcome::Answered { status, first_byte: Duration::from_millis(millis) }
    }

    fn metrics(window: &Window, now: Tick) -> PerformanceMetrics {
        window.metrics(now, &[Subject { id: A, name: "a", in_flight: 3 }])
    }

    #[test]
    fn nothing_seen_is_nothing_known() {
        let known = metrics(&Window::new(at(0)), at(5_000));
        assert_eq!((known.samples, known.window_ms, known.in_flight), (0, 5_000.0, 3));
        assert_eq!((known.response_time_ms, known.throughput_per_second), (None, None));
        assert_eq!((known.error_rate, known.availability), (None, None));
        assert_eq!(known.destinations[0].samples, 0);
    }

    #[test]
    fn shares_and_percentiles_are_those_of_the_outcomes() {
        let mut window = Window::new(at(0));
        for millis in 1..=98 {
            window.record(at(millis), A, answered(200, millis));
        }
        window.record(at(99), A, answered(503, 99));
        window.record(at(99), A, Outcome::Failed(Failure::Connect));
        let known = metrics(&window, at(2_000));
        let times = known.response_time_ms.expect("99 answers");
        assert_eq!((times.mean, times.p50, times.p90, times.p99), (50.0, 50.0, 90.0, 99.0));
        assert_eq!((known.error_rate, known.availability), (Some(0.02), Some(0.99)));
        assert_eq!((known.samples, known.throughput_per_second), (100, Some(50.0)));
        assert_eq!(known.destinations[0].response_time_ms, known.response_time_ms);
    }

    #[test]
    fn a_minute_is_all_it_looks_back() {
        let mut window = Window::new(at(0));
        window.record(at(1_000), A, answered(500, 1));
        window.record(at(50_000), A, answered(200, 2));
        let known = metrics(&window, at(90_000));
        assert_eq!((known.samples, known.window_ms, known.error_rate), (1, 60_000.0, Some(0.0)));
    }

    #[test]
    fn when_outcomes_come_faster_the_window_is_shorter() {
        let mut window = Window::new(at(0));
        for second in 0..2 {
            for _ in 0..MOST {
                window.record(at(second * 1_000), A, answered(200, 1));
            }
        }
        let known = metrics(&window, at(2_000));
        assert_eq!((known.samples, known.window_ms), (MOST, 2_000.0));
        window.record(at(2_000), A, answered(200, 1));
        assert_eq!(metrics(&window, at(2_000)).window_ms, 1_000.0);
    }
}
