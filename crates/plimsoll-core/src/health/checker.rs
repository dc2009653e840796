//! What active checks say of one destination, and when to ask again.

use std::time::Duration;

use crate::destination::Health;
use crate::health::schedule::{CheckLatency, MAX_SKIPPED, MIN_EVIDENCE, Start};
use crate::health::{HealthSpec, ProbeKind, ProbeResult};
use crate::rng::Rng;
use crate::time::Tick;

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

/// What traffic showed of a destination since its last check.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSince {
    /// Messages answered well.
    pub good: u64,
    /// Messages that speak against it.
    pub bad: u64,
}

/// One destination's checks: HAProxy's rise and fall with its `init-state` `up` or `down`. The very
/// first answer counts alone; after that `failure_threshold` failures in a row take a destination out and
/// `recovery_threshold` passes in a row bring it back, an opposite answer starting the count again.
#[derive(Clone, Debug)]
pub struct Checker {
    health: Health,
    /// It has been asked, and what it said counts.
    known: bool,
    failures: u32,
    passes: u32,
    due: Tick,
    last: Option<LastCheck>,
    /// Messages wait for it in vain: a connection alone proves nothing until it has answered.
    gray: bool,
    /// Checks in a row that were not made because traffic showed enough.
    spared: u32,
    check_latency: CheckLatency,
}

impl Checker {
    /// Nothing is known yet; the first check is due at `due`.
    pub fn new(due: Tick, start: Start) -> Self {
        let health = match start {
            Start::Serving => Health::Unknown,
            Start::Down => Health::Down,
        };
        Self {
            health,
            known: false,
            failures: 0,
            passes: 0,
            due,
            last: None,
            gray: false,
            spared: 0,
            check_latency: CheckLatency::default(),
        }
    }

    /// What checks say.
    pub const fn health(&self) -> Health {
        self.health
    }

    /// A check has asked it.
    pub const fn is_known(&self) -> bool {
        self.known
    }

    /// When to ask next.
    pub const fn due(&self) -> Tick {
        self.due
    }

    /// Asks no later than `at`.
    pub fn hurry(&mut self, at: Tick) {
        self.due = self.due.min(at);
    }

    /// Traffic speaks against it: asks at once, but not within the fast interval of the last answer. `silent`:
    /// messages wait for it in vain, so the next checks ask for an answer.
    pub fn expedite(&mut self, now: Tick, spec: &HealthSpec, silent: bool) {
        self.gray |= silent;
        let fast = spec.schedule.fast.unwrap_or(spec.check_interval);
        self.hurry(self.last.as_ref().map_or(now, |last| now.max(last.at + fast)));
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

    /// How the next check asks.
    pub fn probe<'s>(&self, spec: &'s HealthSpec) -> &'s ProbeKind {
        spec.probe_if_unresponsive.as_ref().filter(|_| self.gray).unwrap_or(&spec.probe)
    }

    /// How long the next check may take. What was learned of its answers makes that shorter only while nothing
    /// is against it, and only where more than one failure takes it out: a verdict never rests on a guess.
    pub fn probe_timeout(&self, spec: &HealthSpec) -> Duration {
        let calm = self.failures == 0 && !self.gray && self.health == Health::Up;
        match spec.schedule.adaptive && calm && spec.failure_threshold > 1 {
            true => self.check_latency.probe_timeout(spec.timeout),
            false => spec.timeout,
        }
    }

    /// A check is due: puts it off by an interval if traffic has `shown` all it would. Says whether it did.
    pub fn skip_check(&mut self, now: Tick, spec: &HealthSpec, shown: TrafficSince, rng: &mut Rng) -> bool {
        let calm = self.health == Health::Up && self.failures == 0 && !self.gray;
        let proved = shown.good >= MIN_EVIDENCE && shown.bad == 0;
        let spares = spec.schedule.adaptive && calm && proved && self.spared < MAX_SKIPPED;
        if spares {
            self.spared += 1;
            self.due = now + spec.schedule.jittered(spec.check_interval, rng);
        }
        spares
    }

    /// Takes an answer in; says whether the destination went down or came up by it. (From unknown to up is
    /// neither: it served before.)
    pub fn record(&mut self, now: Tick, spec: &HealthSpec, result: ProbeResult, rng: &mut Rng) -> bool {
        let before = self.health;
        let first = !self.known;
        let last = match result {
            ProbeResult::NotMade => {
                self.due = now + spec.schedule.jittered(spec.check_interval, rng);
                return false;
            }
            ProbeResult::Passed { latency } => {
                (self.passes, self.failures, self.gray) = (self.passes.saturating_add(1), 0, false);
                self.check_latency.record(latency);
                if first || self.passes >= spec.recovery_threshold {
                    self.health = Health::Up;
                }
                LastCheck { at: now, ok: true, latency: Some(latency), detail: String::new() }
            }
            ProbeResult::Failed { detail } => {
                (self.failures, self.passes) = (self.failures.saturating_add(1), 0);
                if first || self.failures >= spec.failure_threshold {
                    self.health = Health::Down;
                }
                LastCheck { at: now, ok: false, latency: None, detail: one_line(detail) }
            }
        };
        (self.last, self.known, self.spared) = (Some(last), true, 0);
        self.due = now + spec.schedule.jittered(self.span(spec), rng);
        (before == Health::Down) != (self.health == Health::Down)
    }

    /// To the next check, as things are.
    fn span(&self, spec: &HealthSpec) -> Duration {
        match (self.health == Health::Down, self.failures > 0) {
            (false, true) | (true, false) => spec.schedule.fast.unwrap_or(spec.check_interval),
            (true, true) => {
                spec.schedule.while_down(spec.check_interval, self.failures, spec.failure_threshold)
            }
            (false, false) => spec.check_interval,
        }
    }
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
    use crate::health::schedule::CheckSchedule;

    fn spec(failure_threshold: u32, recovery_threshold: u32) -> HealthSpec {
        HealthSpec {
            check_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold,
            recovery_threshold,
            probe: ProbeKind::Tcp,
            probe_if_unresponsive: None,
            port: None,
            schedule: CheckSchedule::default(),
        }
    }

    /// Plays answers (`+` passed, `-` failed, `.` not made) and writes the health after each (`?`, `U`, `D`).
    fn check(fall: u32, rise: u32, answers: &str, expected: &str) {
        let (spec, mut rng, mut checker) =
            (spec(fall, rise), Rng::new(1), Checker::new(Tick::ZERO, Start::Serving));
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
            let (spec, mut rng, mut checker) =
                (spec(3, 2), Rng::new(seed), Checker::new(Tick::ZERO, Start::Serving));
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
        let mut checker = Checker::new(Tick::ZERO, Start::Serving);
        let detail = format!("status 500\r\nforged line {}", "é".repeat(500));
        checker.record(Tick::ZERO, &spec(1, 1), ProbeResult::Failed { detail }, &mut Rng::new(1));
        let kept = &checker.last().expect("just recorded").detail;
        assert!(kept.len() <= DETAIL_MAX && kept.starts_with("status 500  forged line é"), "{kept}");
    }

    const SEC: Duration = Duration::from_secs(1);

    /// Without jitter, fast at one second, and 60 seconds for those that stay down.
    fn paced() -> HealthSpec {
        let schedule =
            CheckSchedule { fast: Some(SEC), down: Some(SEC * 60), jitter: 0.0, ..CheckSchedule::default() };
        HealthSpec { schedule, ..spec(3, 2) }
    }

    fn passed() -> ProbeResult {
        ProbeResult::Passed { latency: Duration::from_millis(1) }
    }

    fn failed() -> ProbeResult {
        ProbeResult::Failed { detail: "refused".into() }
    }

    #[test]
    fn checks_are_quick_while_a_change_is_pending_and_rare_while_none_comes() {
        let (spec, mut rng) = (paced(), Rng::new(1));
        let mut checker = Checker::new(Tick::ZERO, Start::Serving);
        let spans: Vec<u64> = "+--+------++-"
            .chars()
            .map(|answer| {
                let now = checker.due();
                checker.record(now, &spec, if answer == '+' { passed() } else { failed() }, &mut rng);
                checker.due().since(now).as_secs()
            })
            .collect();
        assert_eq!(spans, [10, 1, 1, 10, 1, 1, 10, 20, 40, 60, 1, 10, 1]);
    }

    #[test]
    fn who_starts_down_comes_in_with_its_first_pass() {
        let (spec, mut rng) = (paced(), Rng::new(1));
        let mut checker = Checker::new(Tick::ZERO, Start::Down);
        assert_eq!((checker.health(), checker.is_known()), (Health::Down, false));
        assert!(!checker.record(Tick::ZERO, &spec, ProbeResult::NotMade, &mut rng));
        assert!(checker.record(Tick::ZERO, &spec, passed(), &mut rng));
        assert_eq!(checker.health(), Health::Up);
        let mut other = Checker::new(Tick::ZERO, Start::Down);
        assert!(!other.record(Tick::ZERO, &spec, failed(), &mut rng));
        assert!(!other.record(Tick::ZERO, &spec, passed(), &mut rng), "now it takes two");
    }

    #[test]
    fn a_doubt_brings_the_next_check_forward_but_not_within_the_fast_interval() {
        let (spec, mut rng) = (paced(), Rng::new(1));
        let mut checker = Checker::new(Tick::ZERO, Start::Serving);
        let at = |seconds| Tick::ZERO + SEC * seconds;
        checker.record(at(10), &spec, passed(), &mut rng);
        checker.expedite(at(10), &spec, false);
        assert_eq!(checker.due(), at(11));
        checker.expedite(at(15), &spec, false);
        assert_eq!(checker.due(), at(11), "never later");
        checker.record(at(11), &spec, passed(), &mut rng);
        checker.expedite(at(15), &spec, false);
        assert_eq!(checker.due(), at(15));
    }

    #[test]
    fn who_answers_no_message_must_answer_a_check() {
        let deep = ProbeKind::Udp { send: [1].into(), expect: None };
        let spec = HealthSpec { probe_if_unresponsive: Some(deep.clone()), ..paced() };
        let (mut rng, mut checker) = (Rng::new(1), Checker::new(Tick::ZERO, Start::Serving));
        checker.record(Tick::ZERO, &spec, passed(), &mut rng);
        checker.expedite(Tick::ZERO, &spec, false);
        assert_eq!(checker.probe(&spec), &ProbeKind::Tcp);
        checker.expedite(Tick::ZERO, &spec, true);
        for _ in 0..5 {
            assert_eq!(checker.probe(&spec), &deep, "until it answers");
            checker.record(Tick::ZERO, &spec, failed(), &mut rng);
        }
        checker.record(Tick::ZERO, &spec, passed(), &mut rng);
        assert_eq!(checker.probe(&spec), &ProbeKind::Tcp);
    }

    #[test]
    fn good_traffic_spares_checks_but_never_five_in_a_row() {
        let mut spec = paced();
        let (mut rng, mut checker) = (Rng::new(1), Checker::new(Tick::ZERO, Start::Serving));
        let good = TrafficSince { good: MIN_EVIDENCE, bad: 0 };
        checker.record(Tick::ZERO, &spec, passed(), &mut rng);
        assert!(!checker.skip_check(Tick::ZERO, &spec, good, &mut rng), "off");
        spec.schedule.adaptive = true;
        for shown in [TrafficSince { good: MIN_EVIDENCE - 1, bad: 0 }, TrafficSince { good: 1000, bad: 1 }] {
            assert!(!checker.skip_check(Tick::ZERO, &spec, shown, &mut rng), "{shown:?}");
        }
        for nth in 1..=3 {
            (0..MAX_SKIPPED).for_each(|_| assert!(checker.skip_check(checker.due(), &spec, good, &mut rng)));
            assert_eq!(checker.due().since(Tick::ZERO), SEC * 50 * nth);
            assert!(!checker.skip_check(checker.due(), &spec, good, &mut rng));
            checker.record(checker.due(), &spec, passed(), &mut rng);
        }
        checker.record(checker.due(), &spec, failed(), &mut rng);
        assert!(!checker.skip_check(checker.due(), &spec, good, &mut rng), "the checks know better");
    }

    #[test]
    fn time_limits_that_were_learned_never_take_a_destination_down_alone() {
        let mut spec = paced();
        spec.schedule.adaptive = true;
        let (mut rng, mut checker) = (Rng::new(1), Checker::new(Tick::ZERO, Start::Serving));
        (0..20).for_each(|_| assert!(!checker.record(Tick::ZERO, &spec, passed(), &mut rng)));
        assert_eq!(checker.probe_timeout(&spec), Duration::from_millis(100));
        let strict = HealthSpec { failure_threshold: 1, ..spec.clone() };
        assert_eq!(checker.probe_timeout(&strict), spec.timeout, "one failure would be enough");
        checker.record(Tick::ZERO, &spec, failed(), &mut rng);
        assert_eq!(checker.probe_timeout(&spec), spec.timeout, "the second opinion has all its time");
    }
}
