//! Which policy to use, by what was seen: candidates serve the past again, as it was and with what may go wrong.

pub mod trace;

use std::time::Duration;

use plimsoll_core::balance::{Algorithm, Needs};
use plimsoll_core::retry::{After, HedgeSpec};

use self::trace::Past;
use crate::candidates::Contender;
use crate::fault::{Kind, Trouble};
use crate::run::simulate;
use crate::run_stats::{Tally, mean_and_interval};
use crate::scenario::Scenario;

/// What is changed for less is changed for nothing.
const WORTH_IT: f64 = 0.03;
/// More messages that fail, as a part of all, are never made good by times.
const MORE_ERRORS: f64 = 0.000_5;
/// Copies may be this part of all messages, where hedging is recommended.
const COPIES: f64 = 0.1;

/// How the past is played again.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// As it was.
    AsItWas,
    /// The first destination takes three times as long.
    OneSlow,
    /// The first destination stands still for two seconds now and then.
    OneStalls,
}

impl Ground {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AsItWas, Self::OneSlow, Self::OneStalls];

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::AsItWas => "as it was",
            Self::OneSlow => "one three times slower",
            Self::OneStalls => "one stalls for 2 s",
        }
    }

    fn on(self, mut scenario: Scenario) -> Scenario {
        let trouble = match self {
            Self::AsItWas => return scenario,
            Self::OneSlow => Trouble::always(Kind::Slow(3.0)),
            Self::OneStalls => Trouble::always(Kind::Pausing {
                every: (scenario.duration / 4).max(Duration::from_secs(4)),
                pause: Duration::from_secs(2),
            }),
        };
        scenario.sites.first_mut().into_iter().for_each(|site| site.troubles.push(trouble));
        scenario
    }
}

/// What one policy did on one ground, run by run.
#[derive(Clone, Debug, Default)]
pub struct Course {
    runs: Vec<Marks>,
}

#[derive(Copy, Clone, Debug)]
struct Marks {
    p50: f64,
    p99: f64,
    p999: f64,
    errors: f64,
    copies: f64,
}

impl Course {
    fn mean(&self, of: impl Fn(&Marks) -> f64) -> f64 {
        mean_and_interval(&self.runs.iter().map(of).collect::<Vec<_>>()).0
    }

    /// Mean milliseconds that half of all messages did not exceed, 99 of a hundred, 999 of a thousand.
    pub fn quantiles_ms(&self) -> [f64; 3] {
        [self.mean(|marks| marks.p50), self.mean(|marks| marks.p99), self.mean(|marks| marks.p999)]
            .map(|seconds| seconds * 1e3)
    }

    /// The part of messages that failed.
    pub fn errors(&self) -> f64 {
        self.mean(|marks| marks.errors)
    }

    /// Copies for each message.
    pub fn copies(&self) -> f64 {
        self.mean(|marks| marks.copies)
    }
}

/// What one policy did.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which.
    pub algorithm: Algorithm,
    /// On each ground, in the order of [`Ground::ALL`].
    pub courses: [Course; 3],
}

impl Candidate {
    /// How bad each run was: logarithms of the tail's times, so that differences are parts. What was seen counts
    /// as much as what may go wrong.
    fn badness(&self) -> Vec<f64> {
        let [was, slow, stall] = &self.courses;
        let tail = |course: &Course, run: usize| {
            let Marks { p50, p99, p999, .. } = course.runs[run];
            [(p50, 0.2), (p99, 0.5), (p999, 0.3)]
                .map(|(span, part)| span.max(1e-6).ln() * part)
                .iter()
                .sum::<f64>()
        };
        let of = |run| tail(was, run) * 0.5 + tail(slow, run) * 0.25 + tail(stall, run) * 0.25;
        (0..was.runs.len()).map(of).collect()
    }

    fn errors(&self) -> f64 {
        self.courses.iter().map(Course::errors).sum::<f64>() / 3.0
    }

    /// What a policy keeps of each destination.
    pub fn state(&self) -> &'static str {
        state(self.algorithm)
    }
}

/// What an algorithm keeps of each destination beside what every pool counts.
pub fn state(algorithm: Algorithm) -> &'static str {
    match algorithm.policy(1).needs() {
        Needs::Nothing => "none",
        Needs::Key => "a table by key",
        Needs::Load => "the count in flight",
        Needs::Answers => "averages of its answers",
        Needs::Probes => "1 KiB of its recent times",
    }
}

/// What comes of it.
#[derive(Clone, Debug)]
pub struct Advice {
    /// The policy there was, and what it did.
    pub current: Candidate,
    /// The one that did best; the same, where none is better by enough.
    pub best: Candidate,
    /// How much better, as a part, and half of its 95 % interval over runs.
    pub gain: (f64, f64),
    /// How sure it is that it is better at all, 0 to 1 (Laplace's rule over runs).
    pub confidence: f64,
    /// The best one with hedging, where that is worth its copies.
    pub hedged: Option<Candidate>,
    /// All, the best first.
    pub candidates: Vec<Candidate>,
}

impl Advice {
    /// Somebody else should serve.
    pub fn changes(&self) -> bool {
        self.best.algorithm != self.current.algorithm
    }
}

/// Everything worth trying in place of what there is: who heeds weights, where they differ.
pub fn candidates(past: &Past) -> Vec<Algorithm> {
    let weighted = past.destinations.iter().any(|seen| seen.weight != past.destinations[0].weight);
    let all = [
        Algorithm::RoundRobin,
        Algorithm::WeightedRoundRobin,
        Algorithm::P2c,
        Algorithm::LeastConnections,
        Algorithm::WeightedLeastConnections,
        Algorithm::ResponseTime,
        Algorithm::PeakEwma,
        Algorithm::HealthBased,
        Algorithm::Prequal,
    ];
    let twin =
        |one: &Algorithm| matches!(one, Algorithm::WeightedRoundRobin | Algorithm::WeightedLeastConnections);
    let suits = |one: &Algorithm| if weighted { one.heeds_weights() } else { !twin(one) };
    let mut chosen: Vec<Algorithm> = all.into_iter().filter(suits).collect();
    if !chosen.contains(&past.algorithm) {
        chosen.push(past.algorithm);
    }
    chosen
}

/// Plays the past again, `runs` times for each candidate and ground, with seeds from `seed` on. `tell` hears who is
/// next.
pub fn recommend(past: &Past, slots: usize, seed: u64, runs: usize, tell: impl Fn(&str)) -> Advice {
    let try_one = |algorithm: Algorithm, hedge: Option<HedgeSpec>| {
        tell(algorithm.name());
        let courses = Ground::ALL.map(|ground| course(past, slots, ground, algorithm, hedge, (seed, runs)));
        Candidate { algorithm, courses }
    };
    let mut all: Vec<Candidate> = candidates(past).into_iter().map(|one| try_one(one, None)).collect();
    all.sort_by(|one, other| mean(&one.badness()).total_cmp(&mean(&other.badness())));
    let current = all.iter().find(|one| one.algorithm == past.algorithm).unwrap_or(&all[0]).clone();
    let no_worse = |one: &&Candidate| one.errors() <= current.errors() + MORE_ERRORS;
    let first = all.iter().find(no_worse).unwrap_or(&current).clone();
    let (gain, confidence) = compared(&current, &first);
    let better = gain.0 > WORTH_IT && gain.0 > gain.1;
    let best = if better { first } else { current.clone() };
    let hedged = Some(try_one(best.algorithm, Some(HedgeSpec { after: After::Share(0.95), most: 1 })));
    let hedged = hedged.filter(|hedged| {
        let (gain, _) = compared(&best, hedged);
        let copies = hedged.courses.iter().all(|course| course.copies() < COPIES);
        gain.0 > WORTH_IT && gain.0 > gain.1 && copies && hedged.errors() <= best.errors() + MORE_ERRORS
    });
    Advice { current, best, gain, confidence, hedged, candidates: all }
}

fn mean(values: &[f64]) -> f64 {
    mean_and_interval(values).0
}

/// How much better `other` is than `one`, run by run: the mean part with its interval, and how sure that is.
fn compared(one: &Candidate, other: &Candidate) -> ((f64, f64), f64) {
    let gains: Vec<f64> =
        (one.badness().iter().zip(other.badness())).map(|(one, other)| 1.0 - (other - one).exp()).collect();
    let wins = gains.iter().filter(|&&gain| gain > 0.0).count() as f64;
    (mean_and_interval(&gains), (wins + 1.0) / (gains.len() as f64 + 2.0))
}

fn course(
    past: &Past,
    slots: usize,
    ground: Ground,
    algorithm: Algorithm,
    hedge: Option<HedgeSpec>,
    (seed, runs): (u64, usize),
) -> Course {
    let run = |nth: usize| {
        let mut scenario = ground.on(past.scenario(slots, nth));
        scenario.hedge = hedge;
        marks(&simulate(&scenario, &Contender::Production(algorithm), seed.wrapping_add(nth as u64)))
    };
    Course { runs: (0..runs).map(run).collect() }
}

fn marks(tally: &Tally) -> Marks {
    Marks {
        p50: tally.quantile(0.5),
        p99: tally.quantile(0.99),
        p999: tally.quantile(0.999),
        errors: tally.error_share(),
        copies: tally.copies as f64 / tally.messages.max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::trace::Seen;
    use super::*;
    use crate::arrivals::Logged;
    use crate::distributions::Work;

    fn past(algorithm: Algorithm, slowness: &[f64]) -> Past {
        let seen = |(nth, &slowness): (usize, &f64)| Seen {
            name: format!("d{nth}"),
            weight: 1,
            answers: 100,
            slowness,
        };
        let at = |nth: u64| Logged { at: Duration::from_millis(4 * nth), ..Logged::default() };
        Past {
            rhythm: Some((0..2_000).map(at).collect()),
            rate: 250.0,
            messages: 2_000,
            span: Duration::from_secs(8),
            destinations: slowness.iter().enumerate().map(seen).collect(),
            work: Work::Exponential(0.010),
            algorithm,
        }
    }

    #[test]
    fn a_rotation_before_unequal_destinations_should_go() {
        let advice = recommend(&past(Algorithm::RoundRobin, &[1.0, 1.0, 1.0, 3.0]), 2, 1, 3, |_| ());
        assert!(advice.changes(), "{:?}", advice.best.algorithm);
        assert!(advice.gain.0 > 0.2 && advice.gain.0 > advice.gain.1, "{:?}", advice.gain);
        assert!(
            advice.confidence > 0.7
                && advice.candidates.len() == candidates(&past(Algorithm::RoundRobin, &[1.0])).len()
        );
    }

    #[test]
    fn who_does_best_already_should_stay_and_says_how_sure_that_is() {
        let one = recommend(&past(Algorithm::RoundRobin, &[1.0, 1.0, 1.0, 3.0]), 2, 1, 2, |_| ());
        let again = recommend(&past(one.best.algorithm, &[1.0, 1.0, 1.0, 3.0]), 2, 1, 2, |_| ());
        assert!(!again.changes(), "{:?} to {:?}", again.current.algorithm, again.best.algorithm);
    }

    #[test]
    fn weights_are_kept() {
        let mut past = past(Algorithm::RoundRobin, &[1.0, 1.0]);
        past.destinations[0].weight = 5;
        let all = candidates(&past);
        assert!(all.contains(&Algorithm::RoundRobin), "what there is is among them: {all:?}");
        assert!(all.iter().all(|one| one.heeds_weights() || *one == Algorithm::RoundRobin), "{all:?}");
    }
}
