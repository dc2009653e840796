//! Outlier detection of one destination: ejection by consecutive failures, and its end.

use std::time::Duration;

use crate::destination::Ejection;
use crate::health::OutlierSpec;
use crate::stats::FailureSignal;
use crate::time::Tick;

/// Minimum interval between two reports of a skipped ejection.
const MIN_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Capacity of a pool for further ejections.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EjectionCapacity {
    /// Number of destinations of the pool.
    pub members: usize,
    /// Number of ejected destinations, including those on trial.
    pub ejected: usize,
    /// Whether another destination takes new messages.
    pub others_serve: bool,
    /// Whether the other serving destinations reach the panic threshold.
    pub others_suffice: bool,
}

impl EjectionCapacity {
    /// Returns how many of `members` destinations may be ejected at once: `max_ejected` of them, at least one.
    pub fn max_ejected(members: usize, spec: &OutlierSpec) -> usize {
        // The epsilon makes 0.29 of 100 be 29.
        ((members as f64 * spec.max_ejected + 1e-9) as usize).max(1)
    }

    /// Returns whether one more may be ejected; the last one that serves never is.
    fn permits(self, spec: &OutlierSpec) -> bool {
        self.others_serve && self.others_suffice && self.ejected < Self::max_ejected(self.members, spec)
    }
}

/// Decision about a destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum OutlierDecision {
    /// The state does not change.
    Unchanged,
    /// The ejection is skipped because the pool has no capacity for it.
    Skipped,
    /// The destination is ejected for this time.
    Ejected(Duration),
    /// The trial failed, and the destination is ejected again for this time.
    TrialFailed(Duration),
    /// The trial passed, and the ejection ended.
    TrialPassed,
}

/// Ejection state of one destination: Envoy's ejection by consecutive failures, ended as in linkerd by exactly one trial
/// message after the ejection time.
#[derive(Clone, Debug, Default)]
pub struct Outlier {
    ejection: Ejection,
    /// Start of the current ejection.
    began: Tick,
    /// Whether all bad outcomes that led to the ejection were failures to connect.
    connects_only: bool,
    /// Number of consecutive ejections, which multiplies `base_ejection`.
    multiplier: u32,
    /// Time of the last end of an ejection.
    healthy_since: Tick,
    /// Total number of ejections.
    ejections: u32,
    skip_reported: Option<Tick>,
    /// End of the ejection time of which an early trial is made.
    early: Option<Tick>,
}

impl Outlier {
    /// Returns the ejection state.
    pub const fn ejection(&self) -> Ejection {
        self.ejection
    }

    /// Returns whether the destination is ejected, on trial or not.
    pub fn is_ejected(&self) -> bool {
        self.ejection != Ejection::None
    }

    /// Returns the number of ejections so far, including failed trials.
    pub const fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Evaluates a signal about the destination. `connects_only`: all consecutive bad outcomes were failures to connect.
    /// Late signals about an ejected destination change nothing.
    pub fn evaluate(
        &mut self,
        now: Tick,
        spec: &OutlierSpec,
        signal: &FailureSignal,
        connects_only: bool,
        capacity: EjectionCapacity,
    ) -> OutlierDecision {
        let bad = signal.outcome.blames_destination();
        let enough = spec.consecutive_failures > 0 && signal.streak >= spec.consecutive_failures;
        match self.ejection {
            Ejection::Probation if signal.trial && bad => {
                let rest = self.early.take().map(|until| until.since(now)).filter(|rest| !rest.is_zero());
                OutlierDecision::TrialFailed(match rest {
                    Some(rest) => self.resume(now, rest),
                    None => self.eject(now, spec, connects_only),
                })
            }
            Ejection::Probation if signal.trial => {
                self.uneject(now);
                OutlierDecision::TrialPassed
            }
            Ejection::None if bad && enough && capacity.permits(spec) => {
                self.decay_multiplier(now, spec.base_ejection);
                OutlierDecision::Ejected(self.eject(now, spec, connects_only))
            }
            Ejection::None if bad && enough => self.skip(now, spec),
            _ => OutlierDecision::Unchanged,
        }
    }

    /// Ejects a destination that was worse than its peers, if the pool has the capacity.
    pub fn eject_outlier(
        &mut self,
        now: Tick,
        spec: &OutlierSpec,
        capacity: EjectionCapacity,
    ) -> OutlierDecision {
        match self.ejection {
            Ejection::None if capacity.permits(spec) => {
                self.decay_multiplier(now, spec.base_ejection);
                OutlierDecision::Ejected(self.eject(now, spec, false))
            }
            Ejection::None => self.skip(now, spec),
            _ => OutlierDecision::Unchanged,
        }
    }

    /// Plans a trial of exactly one message. A destination that is ejected already keeps its ejection time.
    pub fn plan_trial(&mut self) {
        if self.ejection == Ejection::None {
            (self.ejection, self.connects_only) = (Ejection::Probation, false);
        }
    }

    /// Begins the trial before the ejection time is over, if it is running. A failure does not prolong that time. Returns
    /// whether the trial has begun.
    pub fn begin_early_trial(&mut self) -> bool {
        let Ejection::Until(until) = self.ejection else { return false };
        (self.ejection, self.early) = (Ejection::Probation, Some(until));
        true
    }

    fn resume(&mut self, now: Tick, rest: Duration) -> Duration {
        self.ejection = Ejection::Until(now + rest);
        rest
    }

    /// Ends the ejection time if it is over. Returns whether a trial is due.
    pub fn handle_timeout(&mut self, now: Tick) -> bool {
        let over = matches!(self.ejection, Ejection::Until(until) if until <= now);
        if over {
            self.ejection = Ejection::Probation;
        }
        over
    }

    /// Handles a passed check that was sent at `sent`. It ends an ejection for failed connects that it was sent after;
    /// other ejections are not ended by checks. Returns whether it ended one.
    pub fn check_passed(&mut self, now: Tick, sent: Tick) -> bool {
        self.connects_only && sent >= self.began && self.uneject(now)
    }

    /// Ends an ejection; the number of consecutive ejections stays. Returns whether there was an ejection.
    pub fn uneject(&mut self, now: Tick) -> bool {
        let was_ejected = self.is_ejected();
        if was_ejected {
            (self.ejection, self.early) = (Ejection::None, None);
            self.healthy_since = now;
        }
        was_ejected
    }

    fn eject(&mut self, now: Tick, spec: &OutlierSpec, connects_only: bool) -> Duration {
        let grows = spec.base_ejection.saturating_mul(self.multiplier) < spec.max_ejection;
        self.multiplier = self.multiplier.saturating_add(grows.into()).max(1);
        let span = spec.base_ejection.saturating_mul(self.multiplier).min(spec.max_ejection);
        self.ejection = Ejection::Until(now + span);
        (self.began, self.connects_only, self.skip_reported, self.early) = (now, connects_only, None, None);
        self.ejections = self.ejections.saturating_add(1);
        span
    }

    /// Decrements the multiplier for each `base_ejection` since the last ejection ended.
    fn decay_multiplier(&mut self, now: Tick, base: Duration) {
        let periods = now.since(self.healthy_since).as_nanos() / base.as_nanos().max(1);
        self.multiplier = self.multiplier.saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX));
    }

    fn skip(&mut self, now: Tick, spec: &OutlierSpec) -> OutlierDecision {
        let interval = spec.base_ejection.max(MIN_REPORT_INTERVAL);
        if self.skip_reported.is_some_and(|at| now.since(at) < interval) {
            return OutlierDecision::Unchanged;
        }
        self.skip_reported = Some(now);
        OutlierDecision::Skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::DestinationId;
    use crate::outcome::{Failure, Outcome};

    const SPEC: OutlierSpec = OutlierSpec {
        consecutive_failures: 5,
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(100),
        max_ejected: 0.5,
        interval: None,
        unresponsive_after: None,
        latency: false,
        learning: false,
    };
    const CAPACITY: EjectionCapacity =
        EjectionCapacity { members: 4, ejected: 0, others_serve: true, others_suffice: true };
    const BAD: Outcome = Outcome::Failed(Failure::Reset);
    const GOOD: Outcome = Outcome::Answered { status: 200, first_byte: Duration::ZERO };

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    fn signal(outcome: Outcome, streak: u32, trial: bool) -> FailureSignal {
        FailureSignal { id: DestinationId(0), outcome, streak, trial }
    }

    fn fail(outlier: &mut Outlier, seconds: u64) -> OutlierDecision {
        outlier.evaluate(at(seconds), &SPEC, &signal(BAD, 5, false), false, CAPACITY)
    }

    fn trial(outlier: &mut Outlier, seconds: u64, outcome: Outcome) -> OutlierDecision {
        outlier.handle_timeout(at(seconds));
        outlier.evaluate(at(seconds), &SPEC, &signal(outcome, 6, true), false, CAPACITY)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn consecutive_failures_eject_and_one_good_trial_ends_the_ejection() {
        let mut outlier = Outlier::default();
        let four = signal(BAD, 4, false);
        assert_eq!(outlier.evaluate(at(0), &SPEC, &four, false, CAPACITY), OutlierDecision::Unchanged);
        assert_eq!(fail(&mut outlier, 0), OutlierDecision::Ejected(secs(30)));
        assert!(!outlier.handle_timeout(at(29)));
        assert!(outlier.handle_timeout(at(30)));
        assert_eq!(outlier.ejection(), Ejection::Probation);
        assert_eq!(trial(&mut outlier, 31, GOOD), OutlierDecision::TrialPassed);
        assert_eq!(outlier.ejection(), Ejection::None);
    }

    #[test]
    fn consecutive_ejections_are_longer_up_to_the_limit() {
        let mut outlier = Outlier::default();
        assert_eq!(fail(&mut outlier, 0), OutlierDecision::Ejected(secs(30)));
        for (seconds, span) in [(30, 60), (90, 90), (180, 100), (280, 100), (380, 100)] {
            assert_eq!(trial(&mut outlier, seconds, BAD), OutlierDecision::TrialFailed(secs(span)));
        }
        assert_eq!(outlier.ejections(), 6);
    }

    #[test]
    fn time_without_ejection_shortens_the_next_one() {
        let mut outlier = Outlier::default();
        fail(&mut outlier, 0);
        trial(&mut outlier, 30, BAD);
        trial(&mut outlier, 90, BAD);
        assert_eq!(trial(&mut outlier, 180, GOOD), OutlierDecision::TrialPassed);
        assert_eq!(
            fail(&mut outlier, 210),
            OutlierDecision::Ejected(secs(90)),
            "one healthy period decrements the multiplier"
        );
        trial(&mut outlier, 300, GOOD);
        assert_eq!(fail(&mut outlier, 10_000), OutlierDecision::Ejected(secs(30)));
    }

    #[test]
    fn late_signals_about_an_ejected_destination_change_nothing() {
        let mut outlier = Outlier::default();
        fail(&mut outlier, 0);
        let before = outlier.ejection();
        assert_eq!(fail(&mut outlier, 20), OutlierDecision::Unchanged);
        assert_eq!(trial(&mut outlier, 20, GOOD), OutlierDecision::Unchanged, "no trial is open");
        assert_eq!(outlier.ejection(), before);
        outlier.handle_timeout(at(30));
        assert_eq!(fail(&mut outlier, 31), OutlierDecision::Unchanged, "only the trial decides in probation");
        assert_eq!(outlier.ejection(), Ejection::Probation);
    }

    #[test]
    fn last_serving_destination_is_never_ejected() {
        let decide = |members, ejected, others_serve, max_ejected| {
            let spec = OutlierSpec { max_ejected, ..SPEC };
            let capacity = EjectionCapacity { members, ejected, others_serve, others_suffice: true };
            Outlier::default().evaluate(at(0), &spec, &signal(BAD, 5, false), false, capacity)
        };
        assert_eq!(decide(4, 1, true, 0.5), OutlierDecision::Ejected(secs(30)));
        assert_eq!(decide(4, 2, true, 0.5), OutlierDecision::Skipped);
        assert_eq!(
            decide(3, 0, true, 0.1),
            OutlierDecision::Ejected(secs(30)),
            "one ejection is always permitted"
        );
        assert_eq!(decide(3, 0, true, 0.0), OutlierDecision::Ejected(secs(30)));
        assert_eq!(decide(3, 1, true, 0.1), OutlierDecision::Skipped);
        assert_eq!(decide(2, 1, false, 1.0), OutlierDecision::Skipped, "never the last that serves");
        assert_eq!(decide(1, 0, false, 1.0), OutlierDecision::Skipped);
        assert_eq!(decide(100, 28, true, 0.29), OutlierDecision::Ejected(secs(30)));
        assert_eq!(decide(100, 29, true, 0.29), OutlierDecision::Skipped);
    }

    #[test]
    fn skipped_ejection_is_reported_once_per_base_ejection() {
        let mut outlier = Outlier::default();
        let full = EjectionCapacity { ejected: 2, ..CAPACITY };
        let mut decide = |seconds| outlier.evaluate(at(seconds), &SPEC, &signal(BAD, 9, false), false, full);
        assert_eq!(
            [decide(0), decide(1), decide(29)],
            [OutlierDecision::Skipped, OutlierDecision::Unchanged, OutlierDecision::Unchanged]
        );
        assert_eq!(decide(30), OutlierDecision::Skipped);
    }

    #[test]
    fn passed_check_ends_only_ejections_for_failed_connects() {
        let ejected = |connects_only| {
            let mut outlier = Outlier::default();
            outlier.evaluate(at(10), &SPEC, &signal(BAD, 5, false), connects_only, CAPACITY);
            outlier
        };
        assert!(!ejected(false).check_passed(at(12), at(11)));
        assert!(ejected(true).check_passed(at(12), at(11)));
        assert!(!ejected(true).check_passed(at(12), at(9)), "the check was sent before the connects failed");
        assert!(!Outlier::default().check_passed(at(1), at(1)), "nothing to end");
        let mut on_trial = ejected(true);
        on_trial.handle_timeout(at(40));
        assert!(on_trial.check_passed(at(41), at(41)));
    }

    #[test]
    fn disabled_detection_never_ejects() {
        let off = OutlierSpec { consecutive_failures: 0, ..SPEC };
        let decision =
            Outlier::default().evaluate(at(0), &off, &signal(BAD, u32::MAX, false), true, CAPACITY);
        assert_eq!(decision, OutlierDecision::Unchanged);
    }

    #[test]
    fn extreme_spans_saturate() {
        for (base, max) in [
            (Duration::MAX, Duration::MAX),
            (Duration::ZERO, Duration::MAX),
            (secs(9), Duration::ZERO),
            (Duration::ZERO, Duration::ZERO),
        ] {
            let spec = OutlierSpec { base_ejection: base, max_ejection: max, ..SPEC };
            let mut outlier = Outlier::default();
            let first = outlier.evaluate(at(1), &spec, &signal(BAD, 5, false), false, CAPACITY);
            assert_eq!(first, OutlierDecision::Ejected(base.min(max)));
            outlier.handle_timeout(Tick::NEVER);
            outlier.evaluate(Tick::NEVER, &spec, &signal(BAD, 5, true), false, CAPACITY);
        }
    }
}
