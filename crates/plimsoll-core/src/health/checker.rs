//! What active checks say of one destination, and when to ask again.

use std::time::Duration;

use crate::destination::Health;
use crate::health::{HealthSpec, ProbeResult};
use crate::rng::Rng;
use crate::time::Tick;

/// Checks are spread by up to a 20th (5 %) of their interval to either side, so that they do not run in step.
const JITTER_PART: u64 = 20;
/// Bytes kept of what a failed check saw.
const DETAIL_MAX: usize = 200;

/// The last answer of a destination to a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// When it came.
    pub at: Tick,
    /// As expected.
    pub ok: bool,
    /// How long it took; `None` when it failed.
    pub latency: Option<Duration>,
    /// What was seen; empty when it passed.
    pub detail: String,
}

/// One destination's checks: HAProxy's rise and fall with its `init-state up-on-one-failure-down`. The very
/// first answer counts alone; after that `failure_threshold` failures in a row take a destination out and
/// `recovery_threshold` passes in a row bring it back, an opposite answer starting the count again.
#[derive(Clone, Debug)]
pub struct Checker {
    health: Health,
    failures: u32,
    passes: u32,
    due: Tick,
    last: Option<LastCheck>,
}

impl Checker {
    /// Nothing is known yet; the first check is due at `due`.
    pub const fn new(due: Tick) -> Self {
        Self { health: Health::Unknown, failures: 0, passes: 0, due, last: None }
    }

    /// What checks say.
    pub const fn health(&self) -> Health {
        self.health
    }

    /// When to ask next.
    pub const fn due(&self) -> Tick {
        self.due
    }

    /// Asks no later than `at`.
    pub fn hurry(&mut self, at: Tick) {
        self.due = self.due.min(at);
    }

    /// Failures in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Passes in a row.
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// The last answer.
    pub const fn last(&self) -> Option<&LastCheck> {
        self.last.as_ref()
    }

    /// Takes an answer in; says whether the destination went down or came up by it. (From unknown to up is
    /// neither: it served before.)
    pub fn record(&mut self, now: Tick, spec: &HealthSpec, result: ProbeResult, rng: &mut Rng) -> bool {
        let before = self.health;
        self.due = now + jittered(spec.check_interval, rng);
        let last = match result {
            ProbeResult::NotMade => return false,
            ProbeResult::Passed { latency } => {
                (self.passes, self.failures) = (self.passes.saturating_add(1), 0);
                if before == Health::Unknown || self.passes >= spec.recovery_threshold {
                    self.health = Health::Up;
                }
                LastCheck { at: now, ok: true, latency: Some(latency), detail: String::new() }
            }
            ProbeResult::Failed { detail } => {
                (self.failures, self.passes) = (self.failures.saturating_add(1), 0);
                if before == Health::Unknown || self.failures >= spec.failure_threshold {
                    self.health = Health::Down;
                }
                LastCheck { at: now, ok: false, latency: None, detail: one_line(detail) }
            }
        };
        self.last = Some(last);
        (before == Health::Down) != (self.health == Health::Down)
    }
}

fn jittered(interval: Duration, rng: &mut Rng) -> Duration {
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    let spread = nanos / JITTER_PART;
    Duration::from_nanos((nanos - spread).saturating_add(rng.below(2 * spread + 1)))
}

/// Fit for a log line: short, and without control characters, whatever the destination sent.
fn one_line(detail: String) -> String {
    if detail.len() <= DETAIL_MAX && !detail.contains(char::is_control) {
        return detail;
    }
    let end = detail.floor_char_boundary(DETAIL_MAX);
    detail[..end].replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::ProbeKind;

    fn spec(failure_threshold: u32, recovery_threshold: u32) -> HealthSpec {
        HealthSpec {
            check_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold,
            recovery_threshold,
            probe: ProbeKind::Tcp,
            port: None,
        }
    }

    /// Plays answers (`+` passed, `-` failed, `.` not made) and writes the health after each (`?`, `U`, `D`).
    fn check(fall: u32, rise: u32, answers: &str, expected: &str) {
        let (spec, mut rng, mut checker) = (spec(fall, rise), Rng::new(1), Checker::new(Tick::ZERO));
        let seen: String = answers
            .chars()
            .map(|answer| {
                let before = checker.health();
                let result = match answer {
                    '+' => ProbeResult::Passed { latency: Duration::from_millis(1) },
                    '.' => ProbeResult::NotMade,
                    _ => ProbeResult::Failed { detail: "refused".into() },
                };
                let flipped = checker.record(Tick::ZERO, &spec, result, &mut rng);
                let after = checker.health();
                assert_eq!(flipped, (before == Health::Down) != (after == Health::Down));
                match after {
                    Health::Unknown => '?',
                    Health::Up => 'U',
                    Health::Down => 'D',
                }
            })
            .collect();
        assert_eq!(seen, expected, "fall {fall}, rise {rise}, answers {answers}");
    }

    #[test]
    fn the_first_answer_counts_alone() {
        check(3, 2, "-", "D");
        check(3, 2, "+", "U");
        check(3, 2, "+--", "UUU");
    }

    #[test]
    fn only_answers_in_a_row_count() {
        check(3, 2, "+---", "UUUD");
        check(3, 2, "+--+--+---", "UUUUUUUUUD");
        check(3, 2, "-+-+-++", "DDDDDDU");
        check(1, 1, "+-+-", "UDUD");
    }

    #[test]
    fn a_check_that_was_not_made_says_nothing() {
        check(2, 2, "...", "???");
        check(2, 2, ".-.+.+", "?DDDDU");
        check(2, 2, "+-.-.", "UUUDD");
    }

    #[test]
    fn a_threshold_of_zero_means_one() {
        check(0, 0, "+-+-", "UDUD");
    }

    #[test]
    fn checks_do_not_run_in_step_and_never_far_from_their_interval() {
        for seed in 0..200 {
            let (spec, mut rng, mut checker) = (spec(3, 2), Rng::new(seed), Checker::new(Tick::ZERO));
            let mut gaps = Vec::new();
            for _ in 0..50 {
                let now = checker.due();
                checker.record(now, &spec, ProbeResult::Passed { latency: Duration::ZERO }, &mut rng);
                gaps.push(checker.due().since(now));
            }
            let (low, high) = (Duration::from_millis(9_500), Duration::from_millis(10_500));
            assert!(gaps.iter().all(|gap| (low..=high).contains(gap)), "seed {seed}: {gaps:?}");
            gaps.sort();
            gaps.dedup();
            assert!(gaps.len() > 40, "seed {seed}: in step");
        }
    }

    #[test]
    fn what_a_destination_sent_cannot_break_the_log() {
        let mut checker = Checker::new(Tick::ZERO);
        let detail = format!("status 500\r\nforged line {}", "é".repeat(500));
        checker.record(Tick::ZERO, &spec(1, 1), ProbeResult::Failed { detail }, &mut Rng::new(1));
        let kept = &checker.last().expect("just recorded").detail;
        assert!(kept.len() <= DETAIL_MAX && kept.starts_with("status 500  forged line é"), "{kept}");
    }
}
