//! Failures that may be the fault of their message.

use std::mem;
use std::sync::Arc;

use super::assignment::{Assignment, FailureSignal, evaluate, measure};
use super::counts::bump;
use super::{DestinationStats, Trial};
use crate::destination::DestinationId;
use crate::outcome::{Failure, Outcome};
use crate::time::Tick;

/// Failed attempt of a message that may still succeed at another destination.
#[derive(Debug)]
struct UnsettledFailure {
    id: DestinationId,
    worker: usize,
    stats: Arc<DestinationStats>,
    outcome: Outcome,
    trial: Option<Trial>,
    in_flight_before: u32,
}

impl UnsettledFailure {
    /// Counts the failure against its destination.
    fn blame(mut self, now: Tick) -> Option<FailureSignal> {
        measure(&self.stats, now, self.outcome, std::time::Duration::ZERO, self.in_flight_before);
        let trial = self.trial.take().is_some_and(|trial| self.stats.trial.is_current(trial));
        evaluate(&self.stats, self.id, self.outcome, 1, trial)
    }
}

/// Dropped without a decision, the failure counts against no destination, and a trial is open again.
impl Drop for UnsettledFailure {
    fn drop(&mut self) {
        if let Some(trial) = self.trial.take() {
            self.stats.give_trial_back(trial);
        }
    }
}

/// Failed attempts of one message, until it is known whether the message or the destinations are at fault. A message
/// that fails at two destinations and succeeds at none counts against neither: other messages show whether they are well.
#[derive(Debug, Default)]
pub struct UnsettledFailures(Vec<UnsettledFailure>);

impl UnsettledFailures {
    /// Returns whether an attempt has failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a failure can be the fault of the message, which therefore has to be decided later. Where no
    /// connection was made, the destination has seen nothing of the message.
    pub const fn may_be_of_message(outcome: Outcome) -> bool {
        !matches!(outcome, Outcome::Failed(Failure::Connect | Failure::NoResources))
            && outcome.blames_destination()
    }

    /// Adds the failed attempt of `assignment`. It is counted, and decided by [`settle`](Self::settle).
    pub fn add(&mut self, assignment: &mut Assignment, outcome: Outcome) {
        let Some(trial) = assignment.record_unsettled(outcome) else { return };
        let (stats, in_flight_before) = (assignment.stats().clone(), assignment.in_flight_before());
        let (id, worker) = (assignment.id(), assignment.worker());
        self.0.push(UnsettledFailure { id, worker, stats, outcome, trial, in_flight_before });
    }

    /// Decides all failures after the message `succeeded` at another destination, or failed at last. Calls `report` for
    /// each signal.
    pub fn settle(&mut self, now: Tick, succeeded: bool, mut report: impl FnMut(FailureSignal)) {
        let failures = mem::take(&mut self.0);
        let distinct = failures.iter().any(|failure| failure.id != failures[0].id);
        for failure in failures {
            if distinct && !succeeded {
                bump(&failure.stats.counts_of(failure.worker).excused, 1);
            } else if let Some(signal) = failure.blame(now) {
                report(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RESET: Outcome = Outcome::Failed(Failure::Reset);
    const UNAVAILABLE: Outcome = Outcome::Answered { status: 503, first_byte: Duration::ZERO };

    /// Returns the streaks of destinations 0 and 1 after messages with these failures each.
    fn streaks(messages: u32, failed_at: &[(u32, Outcome)], succeeded: bool) -> [u32; 2] {
        let stats = [0, 1].map(|_| Arc::new(DestinationStats::new(1)));
        let mut signals = 0;
        for _ in 0..messages {
            let mut failures = UnsettledFailures::default();
            for &(at, outcome) in failed_at {
                let stats = &stats[at as usize];
                let mut assignment =
                    Assignment::take(DestinationId(at), 0, 0, stats, Tick::ZERO).expect("no limit");
                failures.add(&mut assignment, outcome);
            }
            failures.settle(Tick::ZERO, succeeded, |_| signals += 1);
            assert!(failures.is_empty());
        }
        for (at, stats) in (0..).zip(&stats) {
            let failed = failed_at.iter().filter(|(failed, _)| *failed == at).count() as u64;
            let counts = stats.counts();
            assert_eq!(counts.failed() + counts.classes[5], u64::from(messages) * failed, "all are counted");
            assert_eq!(stats.in_flight(), 0);
        }
        stats.map(|stats| stats.streak())
    }

    #[test]
    fn message_that_fails_at_two_destinations_counts_against_neither() {
        assert_eq!(streaks(20, &[(0, RESET), (1, RESET)], false), [0, 0]);
        assert_eq!(streaks(20, &[(0, UNAVAILABLE), (1, RESET)], false), [0, 0]);
    }

    #[test]
    fn message_that_succeeds_elsewhere_or_was_not_repeated_counts() {
        assert_eq!(streaks(3, &[(0, RESET), (1, RESET)], true), [3, 3]);
        assert_eq!(streaks(3, &[(1, RESET)], true), [0, 3]);
        assert_eq!(streaks(3, &[(1, RESET)], false), [0, 3]);
        assert_eq!(streaks(3, &[(1, RESET), (1, RESET)], false), [0, 6], "one destination only");
    }

    #[test]
    fn failures_before_the_message_was_sent_are_not_its_own() {
        assert!(!UnsettledFailures::may_be_of_message(Outcome::Failed(Failure::Connect)));
        assert!(!UnsettledFailures::may_be_of_message(Outcome::Answered {
            status: 404,
            first_byte: Duration::ZERO
        }));
        assert!(
            UnsettledFailures::may_be_of_message(UNAVAILABLE) && UnsettledFailures::may_be_of_message(RESET)
        );
    }

    #[test]
    fn trial_is_open_again_after_a_failure_that_proves_nothing() {
        let stats = [0, 1].map(|_| Arc::new(DestinationStats::new(1)));
        stats[0].open_trial();
        let trial = stats[0].take_trial().expect("open");
        let take = |at: usize| Assignment::take(DestinationId(at as u32), 0, 0, &stats[at], Tick::ZERO);
        let mut failures = UnsettledFailures::default();
        failures.add(&mut take(0).expect("no limit").on_trial(trial), RESET);
        assert!(!stats[0].trial_is_open(), "it is not decided yet");
        failures.add(&mut take(1).expect("no limit"), RESET);
        failures.settle(Tick::ZERO, false, |signal| panic!("{signal:?}"));
        assert!(stats[0].trial_is_open());
    }
}
