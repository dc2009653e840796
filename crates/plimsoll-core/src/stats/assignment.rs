//! One message's hold on a destination, and what its outcome records.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::counts::{bucket_of, bump};
use super::{DestinationStats, Trial};
use crate::destination::DestinationId;
use crate::measure::{LoadReportState, slows};
use crate::outcome::{Failure, Outcome};
use crate::time::Tick;

/// Signal to the slow loop that an outcome may change a destination's status.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FailureSignal {
    /// Number of the destination.
    pub id: DestinationId,
    /// Outcome of its last message.
    pub outcome: Outcome,
    /// Number of consecutive bad outcomes, this one included; 0 when the outcome is good.
    pub streak: u32,
    /// The message was the trial of an ejected destination.
    pub trial: bool,
}

/// One message's hold on a destination: counted in flight from the pick to the end of the body.
///
/// Dropped without [`finish`](Self::finish) it counts as cancelled: in-flight falls, nothing is recorded, and a
/// trial it had taken is open again.
#[derive(Debug)]
pub struct Assignment {
    id: DestinationId,
    member: usize,
    worker: usize,
    trial: Option<Trial>,
    recorded: bool,
    /// The message counts among the requests of its pool.
    counted: bool,
    /// Streak that the good response ended, in case that response breaks off after all.
    interrupted_streak: u32,
    /// Messages in flight at the destination when it was picked.
    in_flight_before: u32,
    stats: Arc<DestinationStats>,
    started: Tick,
    /// Time at which the destination had received the whole message; `Tick::NEVER` before.
    sent: Tick,
}

impl Assignment {
    /// Takes a place for a message that was picked before and is over: only its outcome is to be recorded. `None` if the
    /// limit of the destination is reached.
    pub fn of_reported_message(
        id: DestinationId,
        member: usize,
        stats: &Arc<DestinationStats>,
        now: Tick,
    ) -> Option<Self> {
        Self::take(id, member, 0, stats, now)
    }

    /// Takes a place at a destination for a message that is sent at once; `None` if its limit is reached.
    #[inline]
    pub(crate) fn take(
        id: DestinationId,
        member: usize,
        worker: usize,
        stats: &Arc<DestinationStats>,
        now: Tick,
    ) -> Option<Self> {
        let mut taken = Self::take_unsent(id, member, worker, stats, now)?;
        taken.request_sent(now);
        Some(taken)
    }

    /// Takes a place at a destination for a message that is sent later, which is reported by
    /// [`request_sent`](Self::request_sent); `None` if the limit of the destination is reached.
    #[inline]
    pub(crate) fn take_unsent(
        id: DestinationId,
        member: usize,
        worker: usize,
        stats: &Arc<DestinationStats>,
        now: Tick,
    ) -> Option<Self> {
        let in_flight_before = stats.in_flight.try_acquire()?;
        bump(&stats.counts_of(worker).started, 1);
        let stats = stats.clone();
        Some(Self {
            id,
            member,
            worker,
            trial: None,
            recorded: false,
            counted: false,
            interrupted_streak: 0,
            in_flight_before,
            stats,
            started: now,
            sent: Tick::NEVER,
        })
    }

    /// Attaches the trial that the message carries.
    pub(crate) fn on_trial(mut self, trial: Trial) -> Self {
        self.trial = Some(trial);
        self
    }

    /// Marks the message as counted among the requests of its pool, to be released there.
    pub(crate) fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// Returns the number of the destination.
    pub fn id(&self) -> DestinationId {
        self.id
    }

    /// Index of the destination in [`crate::Snapshot::members`] of the snapshot that gave the assignment.
    pub fn member(&self) -> usize {
        self.member
    }

    /// The destination's latest report of its own load, to be updated from its responses.
    pub fn reported(&self) -> &LoadReportState {
        &self.stats.reported
    }

    pub(super) fn stats(&self) -> &Arc<DestinationStats> {
        &self.stats
    }

    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    pub(super) fn in_flight_before(&self) -> u32 {
        self.in_flight_before
    }

    /// Time of the pick.
    pub fn started(&self) -> Tick {
        self.started
    }

    /// Notes that the destination has received the whole message: from now on the message waits for it, and not for its
    /// client or a connection.
    #[inline]
    pub fn request_sent(&mut self, now: Tick) {
        if self.sent == Tick::NEVER && !self.recorded {
            self.sent = now;
            bump(&self.stats.counts_of(self.worker).awaited, 1);
        }
    }

    /// Notes that the message is sent again, on another connection to the same destination.
    pub fn request_repeated(&mut self) {
        if self.sent != Tick::NEVER && !self.recorded {
            self.sent = Tick::NEVER;
            bump(&self.stats.counts_of(self.worker).ended, 1);
        }
    }

    /// Returns the time for which the destination has had the whole message; zero before.
    pub fn waited(&self, now: Tick) -> Duration {
        if self.sent == Tick::NEVER { Duration::ZERO } else { now.since(self.sent) }
    }

    /// Returns whether an outcome was recorded.
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Returns whether the message carries the trial of an ejected destination.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Records the outcome as soon as it is known (for HTTP: at the head of the response). The assignment keeps its
    /// place until it is dropped: in-flight ends with the body.
    ///
    /// A second call is ignored unless its outcome counts against the destination ([`Failure::Truncated`], a bad
    /// status in gRPC trailers). Then it replaces the good outcome, so that a destination that breaks off every body
    /// has a streak of bad outcomes.
    pub fn record(&mut self, now: Tick, outcome: Outcome) -> Option<FailureSignal> {
        if std::mem::replace(&mut self.recorded, true) {
            return self.record_late(now, outcome);
        }
        self.measure(now, outcome);
        self.count(outcome);
        self.evaluate(outcome)
    }

    /// Counts an outcome that may be the fault of the message, and returns the trial that it would decide; `None` if an
    /// outcome was recorded before.
    pub(super) fn record_unsettled(&mut self, outcome: Outcome) -> Option<Option<Trial>> {
        if std::mem::replace(&mut self.recorded, true) {
            return None;
        }
        self.count(outcome);
        Some(self.trial.take())
    }

    fn count(&self, outcome: Outcome) {
        let counts = self.stats.counts_of(self.worker);
        if self.sent == Tick::NEVER {
            // An early response is progress, too.
            bump(&counts.awaited, 1);
        }
        bump(&counts.ended, 1);
        match outcome {
            Outcome::Answered { status, first_byte } => {
                bump(&counts.classes[usize::from(status / 100).min(5)], 1);
                bump(&counts.first_byte_nanos, first_byte.as_nanos() as u64);
                bump(&counts.buckets[bucket_of(first_byte)], 1);
            }
            Outcome::Failed(failure) => bump(&counts.failures[failure as usize], 1),
        }
    }

    /// Records an outcome that became known after the response had begun. It can only be worse.
    fn record_late(&mut self, now: Tick, outcome: Outcome) -> Option<FailureSignal> {
        if slows(outcome) {
            self.measure(now, outcome);
        }
        if !outcome.blames_destination() {
            return None;
        }
        if let Outcome::Failed(failure) = outcome {
            bump(&self.stats.counts_of(self.worker).failures[failure as usize], 1);
        }
        self.evaluate(outcome)
    }

    /// Measures the latency, unless the response is good and came before the whole message was sent: how long that took
    /// says nothing. Cancelled messages never get here: how long their clients waited says as much about the
    /// clients as about the destination.
    fn measure(&self, now: Tick, outcome: Outcome) {
        if self.sent != Tick::NEVER || slows(outcome) {
            measure(&self.stats, now, outcome, self.waited(now), self.in_flight_before);
        }
    }

    /// Ends the assignment because another destination responded to the hedged message first. It counts as
    /// cancelled, but the time it took is measured as a lower bound.
    pub fn cancelled_by_hedge(self, now: Tick) {
        if !self.recorded && self.sent != Tick::NEVER && self.stats.latency_tracking.load(Relaxed) {
            self.stats.measured.record_at_least(now, self.waited(now), self.in_flight_before);
        }
    }

    /// Updates the streak, and returns a signal where the slow loop has to look at the destination.
    fn evaluate(&mut self, outcome: Outcome) -> Option<FailureSignal> {
        if outcome == Outcome::Failed(Failure::NoResources) {
            return None;
        }
        let trial = self.trial.take().is_some_and(|trial| self.stats.trial.is_current(trial));
        if !outcome.blames_destination() {
            let streak = self.stats.streak.load(Relaxed);
            if streak != 0 {
                self.interrupted_streak = streak;
                self.stats.reset_streak();
            }
            return trial.then_some(FailureSignal { id: self.id, outcome, streak: 0, trial });
        }
        let more = std::mem::take(&mut self.interrupted_streak).saturating_add(1);
        evaluate(&self.stats, self.id, outcome, more, trial)
    }

    /// Records the outcome and releases the place.
    pub fn finish(mut self, now: Tick, outcome: Outcome) -> Option<FailureSignal> {
        self.record(now, outcome)
    }
}

/// Measures the latency of an outcome, where the policy of the pool needs it.
pub(super) fn measure(stats: &DestinationStats, now: Tick, outcome: Outcome, took: Duration, in_flight: u32) {
    if stats.latency_tracking.load(Relaxed) {
        stats.measured.record(now, outcome, took, in_flight);
    }
}

/// Adds a bad outcome to the streak, `more` times, and returns a signal where the slow loop has to look at the destination.
pub(super) fn evaluate(
    stats: &DestinationStats,
    id: DestinationId,
    outcome: Outcome,
    more: u32,
    trial: bool,
) -> Option<FailureSignal> {
    if outcome != Outcome::Failed(Failure::Connect) {
        stats.failed_after_connect.store(true, Relaxed);
    }
    let streak = stats.streak.fetch_add(more, Relaxed).saturating_add(more);
    let first = stats.is_first_failure();
    let signals = trial || first || streak >= stats.signal_threshold.load(Relaxed);
    signals.then_some(FailureSignal { id, outcome, streak, trial })
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.stats.in_flight.release();
        if !self.recorded && self.sent != Tick::NEVER {
            bump(&self.stats.counts_of(self.worker).ended, 1);
        }
        if let Some(trial) = self.trial {
            self.stats.give_trial_back(trial);
        }
        if let Some(limiter) = self.stats.limiter.get() {
            if self.counted {
                limiter.requests.release();
            }
            limiter.wake_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn assignment(stats: &Arc<DestinationStats>) -> Assignment {
        Assignment::take(DestinationId(3), 0, 0, stats, Tick::ZERO).expect("no limit")
    }

    const OK: Outcome = Outcome::Answered { status: 200, first_byte: Duration::from_millis(7) };

    #[test]
    fn in_flight_ends_with_the_assignment_and_not_with_the_response() {
        let stats = Arc::new(DestinationStats::new(1));
        let mut held = assignment(&stats);
        assert_eq!(stats.in_flight(), 1);
        assert_eq!(held.record(Tick::ZERO, OK), None);
        assert_eq!(stats.in_flight(), 1);
        drop(held);
        assert_eq!(stats.in_flight(), 0);
        assert_eq!(stats.counts().classes[2], 1);
        assert_eq!(stats.counts().buckets.iter().sum::<u64>(), 1);
    }

    #[test]
    fn an_attempt_cancelled_by_a_hedge_has_not_failed() {
        let stats = Arc::new(DestinationStats::new(1));
        let later = Tick::ZERO + Duration::from_millis(90);
        stats.set_latency_tracking(true);
        assignment(&stats).finish(later, OK);
        assignment(&stats).cancelled_by_hedge(later);
        assert_eq!((stats.in_flight(), stats.streak(), stats.counts().answered()), (0, 0, 1));
        assert_eq!(stats.measured().first_byte.read(later), Some(7e6 + 0.05 * 83e6));
    }

    #[test]
    fn latency_is_measured_only_where_the_policy_needs_it() {
        let stats = Arc::new(DestinationStats::new(1));
        let later = Tick::ZERO + Duration::from_millis(7);
        assignment(&stats).finish(later, OK);
        assert_eq!(stats.measured().first_byte.read(later), None);
        stats.set_latency_tracking(true);
        assignment(&stats).finish(later, OK);
        assert_eq!(stats.measured().first_byte.read(later), Some(7e6));
        let mut broken_off = assignment(&stats);
        broken_off.record(later, OK);
        broken_off.finish(later, Outcome::Failed(Failure::Truncated));
        assert!(stats.measured().first_byte.read(later) > Some(200e6), "a late outcome counts, too");
    }

    #[test]
    fn a_dropped_assignment_records_nothing() {
        let stats = Arc::new(DestinationStats::new(1));
        drop(assignment(&stats));
        assert_eq!((stats.in_flight(), stats.counts().answered(), stats.counts().failed()), (0, 0, 0));
        assert_eq!(stats.counts().started, 1);
    }

    #[test]
    fn only_consecutive_failures_are_signalled() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.set_signal_threshold(2);
        let bad = Outcome::Failed(Failure::Reset);
        assert_eq!(assignment(&stats).finish(Tick::ZERO, bad), None);
        assert_eq!(assignment(&stats).finish(Tick::ZERO, OK), None);
        assert_eq!(assignment(&stats).finish(Tick::ZERO, bad), None);
        let signal = assignment(&stats).finish(Tick::ZERO, bad).expect("two in a row");
        assert_eq!((signal.id, signal.streak, signal.trial), (DestinationId(3), 2, false));
    }

    #[test]
    fn a_lack_of_own_resources_is_counted_and_blames_no_destination() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.open_trial();
        assignment(&stats).finish(Tick::ZERO, Outcome::Failed(Failure::Reset));
        let trial = on_trial(&stats).expect("open");
        assert_eq!(trial.finish(Tick::ZERO, Outcome::Failed(Failure::NoResources)), None);
        assert_eq!(stats.streak(), 1, "neither a bad outcome nor a good one");
        assert!(on_trial(&stats).is_some(), "the trial proved nothing");
        assert_eq!(stats.counts().failures[Failure::NoResources as usize], 1);
    }

    #[test]
    fn a_response_that_breaks_off_continues_the_streak_it_ended() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.set_signal_threshold(3);
        let broken_off = || {
            let mut assignment = assignment(&stats);
            assert_eq!(assignment.record(Tick::ZERO, OK), None);
            assignment.finish(Tick::ZERO, Outcome::Failed(Failure::Truncated))
        };
        assert_eq!((broken_off(), broken_off()), (None, None));
        assert_eq!(broken_off().expect("three in a row").streak, 3);
        assignment(&stats).finish(Tick::ZERO, OK);
        assert_eq!((broken_off(), stats.streak()), (None, 1), "a complete response ends the streak for good");
    }

    fn on_trial(stats: &Arc<DestinationStats>) -> Option<Assignment> {
        let trial = stats.take_trial()?;
        Some(assignment(stats).on_trial(trial))
    }

    #[test]
    fn a_trial_is_taken_once_and_comes_back_when_cancelled() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.open_trial();
        let first = on_trial(&stats).expect("open");
        assert!(on_trial(&stats).is_none());
        drop(first);
        assert!(on_trial(&stats).is_some(), "a cancelled trial proves nothing");
    }

    #[test]
    fn an_assignment_of_an_earlier_trial_neither_reopens_nor_decides_a_later_one() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.open_trial();
        let (early, closed) = (on_trial(&stats).expect("open"), stats.clone());
        closed.close_trial();
        drop(early);
        assert!(on_trial(&stats).is_none(), "closed stays closed");
        stats.open_trial();
        let early = on_trial(&stats).expect("open");
        stats.close_trial();
        stats.open_trial();
        let late = on_trial(&stats).expect("open again");
        assert_eq!(early.finish(Tick::ZERO, OK), None, "its trial is over");
        assert!(late.finish(Tick::ZERO, OK).expect("the trial's outcome").trial);
    }

    #[test]
    fn one_failure_after_connect_marks_the_whole_streak() {
        let stats = Arc::new(DestinationStats::new(1));
        assignment(&stats).finish(Tick::ZERO, Outcome::Failed(Failure::Connect));
        assert!(stats.only_connects_failed());
        assignment(&stats).finish(Tick::ZERO, Outcome::Answered { status: 500, first_byte: Duration::ZERO });
        assignment(&stats).finish(Tick::ZERO, Outcome::Failed(Failure::Connect));
        assert!(!stats.only_connects_failed());
        assignment(&stats).finish(Tick::ZERO, OK);
        assert!(stats.only_connects_failed(), "a good response ends the streak");
    }
}
