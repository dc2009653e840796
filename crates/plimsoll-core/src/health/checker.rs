//! Health checks of one destination: its health, and the time of its next check.

use std::time::Duration;

use crate::destination::Health;
use crate::health::schedule::{CheckLatency, MAX_SKIPPED, MIN_EVIDENCE, Start};
use crate::health::{CheckFailure, HealthSpec, ProbeKind, ProbeResult};
use crate::rng::Rng;
use crate::time::Tick;

/// Result of a destination's last check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// Time of the result.
    pub at: Tick,
    /// Whether the check passed.
    pub ok: bool,
    /// Duration of the check; `None` if it failed.
    pub latency: Option<Duration>,
    /// Cause of a failure; `None` if the check passed.
    pub failure: Option<CheckFailure>,
}

impl LastCheck {
    /// Returns the detail of a failure; empty if the check passed.
    pub fn detail(&self) -> &str {
        self.failure.as_ref().map_or("", |failure| &failure.detail)
    }
}

/// Outcomes of a destination's messages since its last check.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSince {
    /// Number of messages with a good response.
    pub good: u64,
    /// Number of messages with a bad outcome.
    pub bad: u64,
}

/// State of one destination's checks: HAProxy's rise and fall with its `init-state` `up` or `down`. The first result
/// decides alone. After that `failure_threshold` consecutive failures take a destination out, and `recovery_threshold`
/// consecutive passes bring it back.
#[derive(Clone, Debug)]
pub struct Checker {
    health: Health,
    /// Whether a check has finished.
    known: bool,
    failures: u32,
    passes: u32,
    due: Tick,
    last: Option<LastCheck>,
    /// Whether messages wait without a response; until a check passes, an open connection alone proves nothing.
    unresponsive: bool,
    /// Number of consecutive checks that traffic replaced.
    skipped: u32,
    check_latency: CheckLatency,
}

impl Checker {
    /// Creates the state before any check; the first one is due at `due`.
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
            unresponsive: false,
            skipped: 0,
            check_latency: CheckLatency::default(),
        }
    }

    /// Returns the destination's health according to its checks.
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Returns whether a check has finished.
    pub const fn is_known(&self) -> bool {
        self.known
    }

    /// Returns the time of the next check.
    pub const fn due(&self) -> Tick {
        self.due
    }

    /// Brings the next check forward to `at`, unless it is earlier already.
    pub fn check_by(&mut self, at: Tick) {
        self.due = self.due.min(at);
    }

    /// Brings the next check forward because traffic fails: to now, but not within the fast interval after the last
    /// result. If the destination is `unresponsive`, the next checks require a response.
    pub fn expedite(&mut self, now: Tick, spec: &HealthSpec, unresponsive: bool) {
        self.unresponsive |= unresponsive;
        let fast = spec.schedule.fast.unwrap_or(spec.check_interval);
        self.check_by(self.last.as_ref().map_or(now, |last| now.max(last.at + fast)));
    }

    /// Returns the number of consecutive failures.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the number of consecutive passes.
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// Returns the last result.
    pub const fn last(&self) -> Option<&LastCheck> {
        self.last.as_ref()
    }

    /// Returns the kind of the next check.
    pub fn probe<'s>(&self, spec: &'s HealthSpec) -> &'s ProbeKind {
        spec.probe_if_unresponsive.as_ref().filter(|_| self.unresponsive).unwrap_or(&spec.probe)
    }

    /// Returns the timeout of the next check. It adapts only while the destination is healthy and only if more than one
    /// failure takes it out, so that an estimate never decides alone.
    pub fn probe_timeout(&self, spec: &HealthSpec) -> Duration {
        let healthy = self.failures == 0 && !self.unresponsive && self.health == Health::Up;
        match spec.schedule.adaptive && healthy && spec.failure_threshold > 1 {
            true => self.check_latency.probe_timeout(spec.timeout),
            false => spec.timeout,
        }
    }

    /// Postpones a check that is due by an interval if `traffic` replaces it. Returns whether it did.
    pub fn skip_check(&mut self, now: Tick, spec: &HealthSpec, traffic: TrafficSince, rng: &mut Rng) -> bool {
        let healthy = self.health == Health::Up && self.failures == 0 && !self.unresponsive;
        let proven = traffic.good >= MIN_EVIDENCE && traffic.bad == 0;
        let skips = spec.schedule.adaptive && healthy && proven && self.skipped < MAX_SKIPPED;
        if skips {
            self.skipped += 1;
            self.due = now + spec.schedule.jittered(spec.check_interval, rng);
        }
        skips
    }

    /// Records a result. Returns whether the destination went down or came back by it; a change from unknown to up is
    /// neither, because the destination served before.
    pub fn record(&mut self, now: Tick, spec: &HealthSpec, result: ProbeResult, rng: &mut Rng) -> bool {
        let before = self.health;
        let first = !self.known;
        let last = match result {
            ProbeResult::NotMade => {
                self.due = now + spec.schedule.jittered(spec.check_interval, rng);
                return false;
            }
            ProbeResult::Passed { latency } => {
                (self.passes, self.failures, self.unresponsive) = (self.passes.saturating_add(1), 0, false);
                self.check_latency.record(latency);
                if first || self.passes >= spec.recovery_threshold {
                    self.health = Health::Up;
                }
                LastCheck { at: now, ok: true, latency: Some(latency), failure: None }
            }
            ProbeResult::Failed(failure) => {
                (self.failures, self.passes) = (self.failures.saturating_add(1), 0);
                if first || self.failures >= spec.failure_threshold {
                    self.health = Health::Down;
                }
                LastCheck { at: now, ok: false, latency: None, failure: Some(failure.in_one_line()) }
            }
        };
        (self.last, self.known, self.skipped) = (Some(last), true, 0);
        self.due = now + spec.schedule.jittered(self.interval(spec), rng);
        (before == Health::Down) != (self.health == Health::Down)
    }

    /// Returns the interval to the next check.
    fn interval(&self, spec: &HealthSpec) -> Duration {
        match (self.health == Health::Down, self.failures > 0) {
            (false, true) | (true, false) => spec.schedule.fast.unwrap_or(spec.check_interval),
            (true, true) => {
                spec.schedule.while_down(spec.check_interval, self.failures, spec.failure_threshold)
            }
            (false, false) => spec.check_interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::check_failure::MAX_DETAIL;
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

    /// Records results (`+` passed, `-` failed, `.` not made) and compares the health after each (`?`, `U`, `D`).
    fn check(fall: u32, rise: u32, results: &str, expected: &str) {
        let (spec, mut rng, mut checker) =
            (spec(fall, rise), Rng::new(1), Checker::new(Tick::ZERO, Start::Serving));
        let seen: String = results
            .chars()
            .map(|result| {
                let before = checker.health();
                let result = match result {
                    '+' => ProbeResult::Passed { latency: Duration::from_millis(1) },
                    '.' => ProbeResult::NotMade,
                    _ => ProbeResult::Failed("refused".into()),
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
        assert_eq!(seen, expected, "fall {fall}, rise {rise}, results {results}");
    }

    #[test]
    fn first_result_decides_alone() {
        check(3, 2, "-", "D");
        check(3, 2, "+", "U");
        check(3, 2, "+--", "UUU");
    }

    #[test]
    fn only_consecutive_results_count() {
        check(3, 2, "+---", "UUUD");
        check(3, 2, "+--+--+---", "UUUUUUUUUD");
        check(3, 2, "-+-+-++", "DDDDDDU");
        check(1, 1, "+-+-", "UDUD");
    }

    #[test]
    fn check_that_was_not_made_changes_nothing() {
        check(2, 2, "...", "???");
        check(2, 2, ".-.+.+", "?DDDDU");
        check(2, 2, "+-.-.", "UUUDD");
    }

    #[test]
    fn threshold_of_zero_counts_as_one() {
        check(0, 0, "+-+-", "UDUD");
    }

    #[test]
    fn intervals_are_jittered_within_bounds() {
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
            assert!(gaps.len() > 40, "seed {seed}: not jittered");
        }
    }

    #[test]
    fn detail_from_a_destination_cannot_break_the_log() {
        let mut checker = Checker::new(Tick::ZERO, Start::Serving);
        let detail = format!("status 500\r\nforged line {}", "é".repeat(500));
        checker.record(Tick::ZERO, &spec(1, 1), ProbeResult::Failed(detail.into()), &mut Rng::new(1));
        let kept = checker.last().expect("just recorded").detail();
        assert!(kept.len() <= MAX_DETAIL && kept.starts_with("status 500  forged line é"), "{kept}");
    }

    const SEC: Duration = Duration::from_secs(1);

    /// Returns a schedule without jitter, with a fast interval of 1 s and at most 60 s while down.
    fn without_jitter() -> HealthSpec {
        let schedule =
            CheckSchedule { fast: Some(SEC), down: Some(SEC * 60), jitter: 0.0, ..CheckSchedule::default() };
        HealthSpec { schedule, ..spec(3, 2) }
    }

    fn passed() -> ProbeResult {
        ProbeResult::Passed { latency: Duration::from_millis(1) }
    }

    fn failed() -> ProbeResult {
        ProbeResult::Failed("refused".into())
    }

    #[test]
    fn checks_are_frequent_while_a_change_is_pending_and_rare_while_down() {
        let (spec, mut rng) = (without_jitter(), Rng::new(1));
        let mut checker = Checker::new(Tick::ZERO, Start::Serving);
        let spans: Vec<u64> = "+--+------++-"
            .chars()
            .map(|result| {
                let now = checker.due();
                checker.record(now, &spec, if result == '+' { passed() } else { failed() }, &mut rng);
                checker.due().since(now).as_secs()
            })
            .collect();
        assert_eq!(spans, [10, 1, 1, 10, 1, 1, 10, 20, 40, 60, 1, 10, 1]);
    }

    #[test]
    fn destination_that_starts_down_comes_up_with_its_first_pass() {
        let (spec, mut rng) = (without_jitter(), Rng::new(1));
        let mut checker = Checker::new(Tick::ZERO, Start::Down);
        assert_eq!((checker.health(), checker.is_known()), (Health::Down, false));
        assert!(!checker.record(Tick::ZERO, &spec, ProbeResult::NotMade, &mut rng));
        assert!(checker.record(Tick::ZERO, &spec, passed(), &mut rng));
        assert_eq!(checker.health(), Health::Up);
        let mut other = Checker::new(Tick::ZERO, Start::Down);
        assert!(!other.record(Tick::ZERO, &spec, failed(), &mut rng));
        assert!(!other.record(Tick::ZERO, &spec, passed(), &mut rng), "two passes are required now");
    }

    #[test]
    fn failing_traffic_brings_the_next_check_forward_but_not_within_the_fast_interval() {
        let (spec, mut rng) = (without_jitter(), Rng::new(1));
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
    fn unresponsive_destination_must_respond_to_a_check() {
        let deep = ProbeKind::Udp { send: [1].into(), expect: None };
        let spec = HealthSpec { probe_if_unresponsive: Some(deep.clone()), ..without_jitter() };
        let (mut rng, mut checker) = (Rng::new(1), Checker::new(Tick::ZERO, Start::Serving));
        checker.record(Tick::ZERO, &spec, passed(), &mut rng);
        checker.expedite(Tick::ZERO, &spec, false);
        assert_eq!(checker.probe(&spec), &ProbeKind::Tcp);
        checker.expedite(Tick::ZERO, &spec, true);
        for _ in 0..5 {
            assert_eq!(checker.probe(&spec), &deep, "until it responds");
            checker.record(Tick::ZERO, &spec, failed(), &mut rng);
        }
        checker.record(Tick::ZERO, &spec, passed(), &mut rng);
        assert_eq!(checker.probe(&spec), &ProbeKind::Tcp);
    }

    #[test]
    fn good_traffic_spares_checks_but_never_five_in_a_row() {
        let mut spec = without_jitter();
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
        let mut spec = without_jitter();
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
