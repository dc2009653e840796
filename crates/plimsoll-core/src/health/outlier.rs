//! Whether real traffic sets one destination aside, and when it may come back.

use std::time::Duration;

use crate::destination::Ejection;
use crate::health::OutlierSpec;
use crate::stats::FailureSignal;
use crate::time::Tick;

/// A spared destination is told of at most this often, however often it fails.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How much ejecting a pool can bear.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct EjectionCapacity {
    /// Destinations of the pool.
    pub members: usize,
    /// Of these ejected, those on trial included.
    pub ejected: usize,
    /// Another destination takes new messages.
    pub others_serve: bool,
    /// The others that do are as many as must be left.
    pub others_suffice: bool,
}

impl EjectionCapacity {
    /// How many of `members` destinations may be ejected at once: `max_ejected` of them, and one in any case.
    pub fn most(members: usize, spec: &OutlierSpec) -> usize {
        // A hair more, so that 0.29 of 100 is 29.
        ((members as f64 * spec.max_ejected + 1e-9) as usize).max(1)
    }

    /// One more may go: never the last one that serves.
    fn allows(self, spec: &OutlierSpec) -> bool {
        self.others_serve && self.others_suffice && self.ejected < Self::most(self.members, spec)
    }
}

/// What came of a word about a destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum OutlierDecision {
    /// Nothing.
    Nothing,
    /// It deserved ejection, and the pool cannot spare it.
    Spared,
    /// It is set aside for so long.
    Ejected(Duration),
    /// It failed its trial and is set aside again for so long.
    TrialFailed(Duration),
    /// It is back.
    TrialPassed,
}

/// What traffic showed of one destination: Envoy's consecutive-failure ejection with linkerd's way back,
/// exactly one trial message after the time is over.
#[derive(Clone, Debug, Default)]
pub struct Outlier {
    ejection: Ejection,
    /// When the ejection under way began.
    began: Tick,
    /// Failing to connect was all there was against it.
    connects_only: bool,
    /// Ejections in a row: the length of the next one, in units of `base_ejection`.
    in_a_row: u32,
    /// Since when it has stayed well.
    well_since: Tick,
    /// Ejections in all.
    ejections: u32,
    told_spared: Option<Tick>,
}

impl Outlier {
    /// Its state.
    pub const fn ejection(&self) -> Ejection {
        self.ejection
    }

    /// Set aside, on trial or not.
    pub fn is_out(&self) -> bool {
        self.ejection != Ejection::None
    }

    /// How often it was ejected so far, failed trials included.
    pub const fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Takes a word about the destination in. `connects_only` says that every bad outcome in the row was a
    /// failure to connect. Late words about one that is set aside already change nothing.
    pub fn judge(
        &mut self,
        now: Tick,
        spec: &OutlierSpec,
        signal: &FailureSignal,
        connects_only: bool,
        room: EjectionCapacity,
    ) -> OutlierDecision {
        let bad = signal.outcome.blames_destination();
        let enough = spec.consecutive_failures > 0 && signal.streak >= spec.consecutive_failures;
        match self.ejection {
            Ejection::Probation if signal.trial && bad => {
                OutlierDecision::TrialFailed(self.eject(now, spec, connects_only))
            }
            Ejection::Probation if signal.trial => {
                self.uneject(now);
                OutlierDecision::TrialPassed
            }
            Ejection::None if bad && enough && room.allows(spec) => {
                self.decay_multiplier(now, spec.base_ejection);
                OutlierDecision::Ejected(self.eject(now, spec, connects_only))
            }
            Ejection::None if bad && enough => self.spare(now, spec),
            _ => OutlierDecision::Nothing,
        }
    }

    /// Its interval was worse than the others': sets it aside if the pool can spare it.
    pub fn set_aside(&mut self, now: Tick, spec: &OutlierSpec, room: EjectionCapacity) -> OutlierDecision {
        match self.ejection {
            Ejection::None if room.allows(spec) => {
                self.decay_multiplier(now, spec.base_ejection);
                OutlierDecision::Ejected(self.eject(now, spec, false))
            }
            Ejection::None => self.spare(now, spec),
            _ => OutlierDecision::Nothing,
        }
    }

    /// Exactly one message is to show whether it serves again. One that is set aside already waits for its time.
    pub fn plan_trial(&mut self) {
        if self.ejection == Ejection::None {
            (self.ejection, self.connects_only) = (Ejection::Probation, false);
        }
    }

    /// Its time may be over; says whether a trial is due by that.
    pub fn handle_timeout(&mut self, now: Tick) -> bool {
        let over = matches!(self.ejection, Ejection::Until(until) if until <= now);
        if over {
            self.ejection = Ejection::Probation;
        }
        over
    }

    /// A check passed that was sent at `sent`. It ends an ejection for failed connects, if it was sent after
    /// them; of anything else a check knows nothing. Says whether it did.
    pub fn check_passed(&mut self, now: Tick, sent: Tick) -> bool {
        self.connects_only && sent >= self.began && self.uneject(now)
    }

    /// Ends an ejection; what came before goes on counting for the length of the next. Says whether there
    /// was one.
    pub fn uneject(&mut self, now: Tick) -> bool {
        let was_out = self.is_out();
        if was_out {
            self.ejection = Ejection::None;
            self.well_since = now;
        }
        was_out
    }

    fn eject(&mut self, now: Tick, spec: &OutlierSpec, connects_only: bool) -> Duration {
        let longer = spec.base_ejection.saturating_mul(self.in_a_row) < spec.max_ejection;
        self.in_a_row = self.in_a_row.saturating_add(longer.into()).max(1);
        let span = spec.base_ejection.saturating_mul(self.in_a_row).min(spec.max_ejection);
        self.ejection = Ejection::Until(now + span);
        (self.began, self.connects_only, self.told_spared) = (now, connects_only, None);
        self.ejections = self.ejections.saturating_add(1);
        span
    }

    /// Each `base_ejection` of staying well takes one off the row.
    fn decay_multiplier(&mut self, now: Tick, base: Duration) {
        let periods = now.since(self.well_since).as_nanos() / base.as_nanos().max(1);
        self.in_a_row = self.in_a_row.saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX));
    }

    fn spare(&mut self, now: Tick, spec: &OutlierSpec) -> OutlierDecision {
        let quiet = spec.base_ejection.max(TELL_EVERY);
        if self.told_spared.is_some_and(|told| now.since(told) < quiet) {
            return OutlierDecision::Nothing;
        }
        self.told_spared = Some(now);
        OutlierDecision::Spared
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
        learning: false,
    };
    const ROOM: EjectionCapacity =
        EjectionCapacity { members: 4, ejected: 0, others_serve: true, others_suffice: true };
    const BAD: Outcome = Outcome::Failed(Failure::Reset);
    const GOOD: Outcome = Outcome::Answered { status: 200, first_byte: Duration::ZERO };

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    fn word(outcome: Outcome, streak: u32, trial: bool) -> FailureSignal {
        FailureSignal { id: DestinationId(0), outcome, streak, trial }
    }

    fn fail(outlier: &mut Outlier, seconds: u64) -> OutlierDecision {
        outlier.judge(at(seconds), &SPEC, &word(BAD, 5, false), false, ROOM)
    }

    fn trial(outlier: &mut Outlier, seconds: u64, outcome: Outcome) -> OutlierDecision {
        outlier.handle_timeout(at(seconds));
        outlier.judge(at(seconds), &SPEC, &word(outcome, 6, true), false, ROOM)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn enough_in_a_row_eject_and_one_good_trial_brings_back() {
        let mut outlier = Outlier::default();
        let four = word(BAD, 4, false);
        assert_eq!(outlier.judge(at(0), &SPEC, &four, false, ROOM), OutlierDecision::Nothing);
        assert_eq!(fail(&mut outlier, 0), OutlierDecision::Ejected(secs(30)));
        assert!(!outlier.handle_timeout(at(29)));
        assert!(outlier.handle_timeout(at(30)));
        assert_eq!(outlier.ejection(), Ejection::Probation);
        assert_eq!(trial(&mut outlier, 31, GOOD), OutlierDecision::TrialPassed);
        assert_eq!(outlier.ejection(), Ejection::None);
    }

    #[test]
    fn each_ejection_in_a_row_is_longer_up_to_the_limit() {
        let mut outlier = Outlier::default();
        assert_eq!(fail(&mut outlier, 0), OutlierDecision::Ejected(secs(30)));
        for (seconds, span) in [(30, 60), (90, 90), (180, 100), (280, 100), (380, 100)] {
            assert_eq!(trial(&mut outlier, seconds, BAD), OutlierDecision::TrialFailed(secs(span)));
        }
        assert_eq!(outlier.ejections(), 6);
    }

    #[test]
    fn staying_well_shortens_the_next_one() {
        let mut outlier = Outlier::default();
        fail(&mut outlier, 0);
        trial(&mut outlier, 30, BAD);
        trial(&mut outlier, 90, BAD);
        assert_eq!(trial(&mut outlier, 180, GOOD), OutlierDecision::TrialPassed);
        assert_eq!(
            fail(&mut outlier, 210),
            OutlierDecision::Ejected(secs(90)),
            "one period well takes one of three"
        );
        trial(&mut outlier, 300, GOOD);
        assert_eq!(fail(&mut outlier, 10_000), OutlierDecision::Ejected(secs(30)));
    }

    #[test]
    fn late_words_about_an_ejected_one_change_nothing() {
        let mut outlier = Outlier::default();
        fail(&mut outlier, 0);
        let before = outlier.ejection();
        assert_eq!(fail(&mut outlier, 20), OutlierDecision::Nothing);
        assert_eq!(trial(&mut outlier, 20, GOOD), OutlierDecision::Nothing, "no trial is open");
        assert_eq!(outlier.ejection(), before);
        outlier.handle_timeout(at(30));
        assert_eq!(fail(&mut outlier, 31), OutlierDecision::Nothing, "only the trial decides in probation");
        assert_eq!(outlier.ejection(), Ejection::Probation);
    }

    #[test]
    fn the_pool_is_never_emptied() {
        let verdict = |members, ejected, others_serve, max_ejected| {
            let spec = OutlierSpec { max_ejected, ..SPEC };
            let room = EjectionCapacity { members, ejected, others_serve, others_suffice: true };
            Outlier::default().judge(at(0), &spec, &word(BAD, 5, false), false, room)
        };
        assert_eq!(verdict(4, 1, true, 0.5), OutlierDecision::Ejected(secs(30)));
        assert_eq!(verdict(4, 2, true, 0.5), OutlierDecision::Spared);
        assert_eq!(verdict(3, 0, true, 0.1), OutlierDecision::Ejected(secs(30)), "one always may go");
        assert_eq!(verdict(3, 0, true, 0.0), OutlierDecision::Ejected(secs(30)));
        assert_eq!(verdict(3, 1, true, 0.1), OutlierDecision::Spared);
        assert_eq!(verdict(2, 1, false, 1.0), OutlierDecision::Spared, "but never the last that serves");
        assert_eq!(verdict(1, 0, false, 1.0), OutlierDecision::Spared);
        assert_eq!(verdict(100, 28, true, 0.29), OutlierDecision::Ejected(secs(30)));
        assert_eq!(verdict(100, 29, true, 0.29), OutlierDecision::Spared);
    }

    #[test]
    fn a_spared_one_is_told_of_once_per_base_ejection() {
        let mut outlier = Outlier::default();
        let full = EjectionCapacity { ejected: 2, ..ROOM };
        let mut told = |seconds| outlier.judge(at(seconds), &SPEC, &word(BAD, 9, false), false, full);
        assert_eq!(
            [told(0), told(1), told(29)],
            [OutlierDecision::Spared, OutlierDecision::Nothing, OutlierDecision::Nothing]
        );
        assert_eq!(told(30), OutlierDecision::Spared);
    }

    #[test]
    fn a_check_ends_only_what_failed_connects_began() {
        let ejected = |connects_only| {
            let mut outlier = Outlier::default();
            outlier.judge(at(10), &SPEC, &word(BAD, 5, false), connects_only, ROOM);
            outlier
        };
        assert!(!ejected(false).check_passed(at(12), at(11)));
        assert!(ejected(true).check_passed(at(12), at(11)));
        assert!(!ejected(true).check_passed(at(12), at(9)), "it was asked before the connects failed");
        assert!(!Outlier::default().check_passed(at(1), at(1)), "nothing to end");
        let mut on_trial = ejected(true);
        on_trial.handle_timeout(at(40));
        assert!(on_trial.check_passed(at(41), at(41)));
    }

    #[test]
    fn switched_off_it_never_ejects() {
        let off = OutlierSpec { consecutive_failures: 0, ..SPEC };
        let verdict = Outlier::default().judge(at(0), &off, &word(BAD, u32::MAX, false), true, ROOM);
        assert_eq!(verdict, OutlierDecision::Nothing);
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
            let first = outlier.judge(at(1), &spec, &word(BAD, 5, false), false, ROOM);
            assert_eq!(first, OutlierDecision::Ejected(base.min(max)));
            outlier.handle_timeout(Tick::NEVER);
            outlier.judge(Tick::NEVER, &spec, &word(BAD, 5, true), false, ROOM);
        }
    }
}
