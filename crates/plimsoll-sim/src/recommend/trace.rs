//! What is known of the messages a recommendation is made from, and the ground they are played on again.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::retry::RetryWhen;

use crate::access_log::Log;
use crate::arrivals::{Arrivals, Logged};
use crate::distributions::Work;
use crate::fault::{Kind, Trouble};
use crate::scenario::{NEVER_EJECTS, NO_RETRIES, Scenario, Volume};
use crate::sim_destination::{Engine, SiteSpec};

/// Fewer messages say nothing about the 99th of a hundred.
pub const MESSAGES_AT_LEAST: usize = 200;
/// A log is cut into stretches of this length, of which the busiest are played again.
const STRETCH: Duration = Duration::from_secs(600);
/// Messages of one run at most.
const RUN: usize = 30_000;
/// Of a run at the rate that was seen, so many at least: the 999th of a thousand is then five messages' word.
const ENOUGH: f64 = 5_000.0;
/// With fewer answers a destination's own time says nothing.
const ANSWERS: usize = 20;
/// Slower than the fastest by less is taken for chance.
const ALIKE: f64 = 1.25;
/// What part of their slots destinations are taken to use, if nobody says how many they have.
const ASSUMED_LOAD: f64 = 0.65;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Past {
    /// In which rhythm messages came; without it they come independent of each other.
    pub rhythm: Option<Arc<[Logged]>>,
    /// Messages a second, all in all.
    pub rate: f64,
    /// Messages seen.
    pub messages: u64,
    /// In so much time.
    pub span: Duration,
    /// Who served them.
    pub destinations: Vec<Seen>,
    /// How long an answer of the fastest destination takes, in seconds.
    pub work: Work,
    /// The policy there was.
    pub algorithm: Algorithm,
}

/// What was seen of one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Base weight.
    pub weight: u16,
    /// Answers that told how long they took.
    pub answers: u64,
    /// How many times as long as the fastest one's they took; 1 where that is not known.
    pub slowness: f64,
}

/// What a log does not say.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Assumed {
    /// How many destinations, where it names none.
    pub destinations: usize,
    /// How long one takes, where it does not tell.
    pub work: Work,
    /// The policy there was.
    pub algorithm: Algorithm,
}

impl Past {
    /// What a log tells.
    ///
    /// # Errors
    /// There are too few messages in it.
    pub fn of_log(log: &Log, assumed: Assumed) -> Result<Self, String> {
        let count = log.messages.len();
        let span = log.messages.last().map_or(Duration::ZERO, |last| last.at);
        if count < MESSAGES_AT_LEAST {
            return Err(format!("it has {count} messages: need at least {MESSAGES_AT_LEAST}"));
        }
        if span.is_zero() {
            return Err("all its messages came at the same moment".to_owned());
        }
        let mut messages = log.messages.clone();
        let destinations = slowness(&log.destinations, &messages, assumed.destinations);
        for message in &mut messages {
            let slowness = message.destination.and_then(|place| destinations.get(usize::from(place)));
            message.took = message.took.map(|took| took / slowness.map_or(1.0, |seen| seen.slowness));
        }
        Ok(Self {
            rate: count as f64 / span.as_secs_f64(),
            messages: count as u64,
            span,
            work: mean(&messages).map_or(assumed.work, Work::Exponential),
            rhythm: Some(messages.into()),
            destinations,
            algorithm: assumed.algorithm,
        })
    }

    /// Slots of each destination, if nobody says how many: so that in the busiest stretch the one with most to do
    /// uses two thirds of them.
    pub fn slots(&self) -> usize {
        let busiest = self.busiest().iter().map(|stretch| stretch.rate).fold(self.rate, f64::max);
        let all: u64 = self.destinations.iter().map(|seen| seen.answers).sum();
        let even = 1.0 / self.destinations.len().max(1) as f64;
        let share = |seen: &Seen| if all > 0 { seen.answers as f64 / all as f64 } else { even };
        let most = self.destinations.iter().map(|seen| share(seen) * seen.slowness).fold(0.0, f64::max);
        (busiest * self.work.mean() * most / ASSUMED_LOAD).ceil().clamp(1.0, 100_000.0) as usize
    }

    /// How many different stretches are played.
    pub fn stretches(&self) -> usize {
        self.busiest().len()
    }

    /// Run number `run` of all.
    pub fn scenario(&self, slots: usize, run: usize) -> Scenario {
        let sites = self.destinations.iter().map(|seen| site(seen, slots)).collect();
        let mut scenario = Scenario::of("past", sites, self.work);
        let stretches = self.busiest();
        if let Some(stretch) = stretches.get(run % stretches.len().max(1)) {
            scenario.arrivals = Arrivals::Replay(stretch.messages.clone());
            scenario.volume = Volume::Rate(stretch.rate);
            scenario.duration = stretch.span;
        } else {
            scenario.volume = Volume::Rate(self.rate);
            let enough = (self.span * 3).max(Duration::from_secs_f64(ENOUGH / self.rate));
            let most = Duration::from_secs_f64(RUN as f64 / self.rate);
            scenario.duration = enough.min(most).min(STRETCH);
        }
        scenario.outlier = plimsoll_core::health::OutlierSpec {
            consecutive_failures: 5,
            interval: Some(Duration::from_secs(10)),
            ..NEVER_EJECTS
        };
        scenario.retry.attempts = 3;
        scenario.retry.when =
            RetryWhen { connect_failure: true, reset: true, empty_response: true, ..NO_RETRIES.when };
        scenario
    }

    /// The stretches of the log with the most messages, those first.
    fn busiest(&self) -> Vec<Stretch> {
        let Some(messages) = &self.rhythm else { return Vec::new() };
        let number = |message: &Logged| message.at.as_secs() / STRETCH.as_secs();
        let mut all: Vec<Stretch> = messages
            .chunk_by(|one, other| number(one) == number(other))
            .flat_map(|chunk| chunk.chunks(RUN))
            .filter(|chunk| chunk.len() >= MESSAGES_AT_LEAST / 2)
            .filter_map(Stretch::of)
            .collect();
        if all.is_empty() {
            all.extend(Stretch::of(&messages[..messages.len().min(RUN)]));
        }
        all.sort_by(|one, other| other.rate.total_cmp(&one.rate));
        all.truncate(MOST_STRETCHES);
        all
    }
}

/// Stretches played again.
const MOST_STRETCHES: usize = 20;

struct Stretch {
    messages: Arc<[Logged]>,
    rate: f64,
    span: Duration,
}

impl Stretch {
    fn of(messages: &[Logged]) -> Option<Self> {
        let first = messages.first()?.at;
        let span = messages.last()?.at - first;
        let again = messages.iter().map(|message| Logged { at: message.at - first, ..*message });
        let rate = messages.len() as f64 / span.as_secs_f64();
        rate.is_finite().then(|| Self { messages: again.collect(), rate, span })
    }
}

fn site(seen: &Seen, slots: usize) -> SiteSpec {
    let slow = Trouble::always(Kind::Slow(seen.slowness));
    SiteSpec {
        group: seen.name.clone(),
        engine: Engine::Slots(slots),
        weight: seen.weight,
        priority: 0,
        troubles: (seen.slowness > 1.0).then_some(slow).into_iter().collect(),
    }
}

fn mean(messages: &[Logged]) -> Option<f64> {
    let took: Vec<f64> = messages.iter().filter_map(|message| message.took).collect();
    (!took.is_empty()).then(|| (took.iter().sum::<f64>() / took.len() as f64).max(1e-6))
}

/// Each destination beside the fastest, by the geometric mean of its times: one report among a thousand pages
/// makes nobody slow.
fn slowness(names: &[String], messages: &[Logged], otherwise: usize) -> Vec<Seen> {
    let seen = |name: String, answers: u64, slowness| Seen { name, weight: 1, answers, slowness };
    if names.is_empty() {
        return (1..=otherwise).map(|nth| seen(format!("destination-{nth}"), 0, 1.0)).collect();
    }
    let mut sums = vec![(0.0, 0_u64); names.len()];
    for message in messages {
        if let (Some(place), Some(took), false) = (message.destination, message.took, message.bad) {
            let sum = &mut sums[usize::from(place)];
            *sum = (sum.0 + took.max(1e-6).ln(), sum.1 + 1);
        }
    }
    let times =
        sums.iter().map(|&(sum, count)| (count >= ANSWERS as u64).then(|| (sum / count as f64).exp()));
    let times: Vec<Option<f64>> = times.collect();
    let slowness = beside_the_fastest(&times);
    names.iter().zip(&sums).zip(slowness).map(|((name, sum), slow)| seen(name.clone(), sum.1, slow)).collect()
}

/// How many times as long as the fastest each takes; small differences are none.
pub fn beside_the_fastest(times: &[Option<f64>]) -> Vec<f64> {
    let fastest = times.iter().flatten().copied().fold(f64::INFINITY, f64::min).max(1e-6);
    let ratio = |time: &Option<f64>| time.map_or(1.0, |time| time / fastest);
    times.iter().map(ratio).map(|ratio| if ratio < ALIKE { 1.0 } else { ratio }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSUMED: Assumed =
        Assumed { destinations: 4, work: Work::Exponential(0.01), algorithm: Algorithm::RoundRobin };

    fn log(count: u64, line: impl Fn(u64) -> String) -> Log {
        let text: String = (0..count).map(|nth| line(nth) + "\n").collect();
        crate::access_log::read(text.as_bytes()).expect("a log")
    }

    fn own(nth: u64) -> String {
        let (name, ms) = if nth.is_multiple_of(2) { ("a", 10.0) } else { ("b", 30.0) };
        let (second, milli) = (nth / 100, nth % 100 * 10);
        format!(
            "{{\"time\":\"2026-02-01T00:00:{second:02}.{milli:03}Z\",\"destination\":\"{name}\",\"status\":200,\"ttfb_ms\":{ms}}}"
        )
    }

    #[test]
    fn our_own_log_tells_who_is_slow_and_how_much_work_there_is() {
        let past = Past::of_log(&log(1_000, own), ASSUMED).expect("enough");
        let seen: Vec<(&str, f64)> =
            past.destinations.iter().map(|seen| (&*seen.name, seen.slowness)).collect();
        assert!(
            matches!(seen[..], [("a", one), ("b", three)] if one == 1.0 && (three - 3.0).abs() < 1e-9),
            "{seen:?}"
        );
        assert!((past.work.mean() - 0.010).abs() < 1e-9, "what b takes longer is its own: {:?}", past.work);
        assert!((past.rate - 100.0).abs() < 1.0);
        let scenario = past.scenario(past.slots(), 0);
        assert_eq!(
            (scenario.sites.len(), past.slots()),
            (2, 3),
            "1.5 at once at b are two thirds of the slots"
        );
        assert!((scenario.rate() - 100.0).abs() < 1.0);
    }

    #[test]
    fn what_a_common_log_does_not_tell_is_assumed() {
        let line = |nth: u64| {
            format!("a - - [17/May/2015:10:{:02}:{:02} +0000] \"GET /\" 200 1", nth / 60, nth % 60)
        };
        let past = Past::of_log(&log(400, line), ASSUMED).expect("enough");
        assert_eq!((past.destinations.len(), past.work), (4, ASSUMED.work));
        let few = Past::of_log(&log(199, line), ASSUMED).expect_err("too few");
        assert!(few.contains("need at least 200"), "{few}");
    }

    #[test]
    fn of_a_long_log_the_busiest_ten_minutes_come_first() {
        // Ten minutes at one a second, then ten at five, then ten at two.
        let mut messages = Vec::new();
        for (nth, rate) in [(0_u64, 1_u64), (1, 5), (2, 2)] {
            let at = |n: u64| Duration::from_millis(nth * 600_000 + n * 1_000 / rate);
            messages.extend((0..600 * rate).map(|n| Logged { at: at(n), ..Logged::default() }));
        }
        let log = Log { messages, destinations: Vec::new(), bad_lines: 0, first_bad: None, cut: false };
        let past = Past::of_log(&log, ASSUMED).expect("enough");
        let rate = |run| past.scenario(1, run).rate().round();
        assert_eq!((rate(0), rate(1), rate(2), rate(3)), (5.0, 2.0, 1.0, 5.0));
    }
}
