//! One message's hold on a destination, and what it teaches about it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{DestinationStats, Failure, Outcome, Trial};
use crate::destination::DestinationId;
use crate::measure::{Reported, slows};
use crate::tally::{bucket_of, bump};
use crate::time::Tick;

/// A word to the slow loop: look at this destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Whom.
    pub id: DestinationId,
    /// How its last message ended.
    pub outcome: Outcome,
    /// Bad outcomes in a row, this one included; 0 when the outcome is good.
    pub streak: u32,
    /// This message was the one trial of a probation.
    pub trial: bool,
}

/// One message's hold on a destination: counted in flight from the choice to the end of the body.
///
/// Dropped without [`finish`](Self::finish) it counts as cancelled: in-flight falls, nothing is learned, and
/// a trial it had taken is open again.
#[derive(Debug)]
pub struct Assignment {
    id: DestinationId,
    slot: usize,
    worker: usize,
    trial: Option<Trial>,
    learned: bool,
    /// It counts among the requests of its pool.
    counted: bool,
    /// The row of bad outcomes its good answer ended, in case that answer breaks off after all.
    ended_row: u32,
    /// Messages that were in flight there when it was chosen.
    others: u32,
    stats: Arc<DestinationStats>,
    started: Tick,
}

impl Assignment {
    /// A hold on a destination that has room for one more.
    #[inline]
    pub(crate) fn take(
        id: DestinationId,
        slot: usize,
        worker: usize,
        stats: &Arc<DestinationStats>,
        now: Tick,
    ) -> Option<Self> {
        let others = stats.in_flight.enter()?;
        bump(&stats.tally(worker).started, 1);
        let stats = stats.clone();
        Some(Self {
            id,
            slot,
            worker,
            trial: None,
            learned: false,
            counted: false,
            ended_row: 0,
            others,
            stats,
            started: now,
        })
    }

    /// It carries a trial.
    pub(crate) fn on_trial(mut self, trial: Trial) -> Self {
        self.trial = Some(trial);
        self
    }

    /// It counts among the requests of its pool, where it has a place already.
    pub(crate) fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// Whose assignment this is.
    pub fn id(&self) -> DestinationId {
        self.id
    }

    /// The index of the destination in [`crate::Snapshot::members`] of the snapshot that gave the assignment.
    pub fn member(&self) -> usize {
        self.slot
    }

    /// What the destination says of its own load, where its answers tell.
    pub fn reported(&self) -> &Reported {
        &self.stats.reported
    }

    /// When the destination was chosen.
    pub fn started(&self) -> Tick {
        self.started
    }

    /// The message carries the one trial of an ejected destination.
    pub fn is_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// Records how the destination answered, as soon as that is known (for HTTP: at the head of the
    /// answer). The assignment goes on holding its place until it is dropped: in-flight ends with the body.
    /// A second call is ignored, unless it speaks against the destination ([`Failure::Truncated`], a bad
    /// status in the trailers of gRPC): then it takes the place of the good outcome, so a destination that
    /// breaks off every body has a row of bad ones.
    pub fn learn(&mut self, now: Tick, outcome: Outcome) -> Option<Suspect> {
        if std::mem::replace(&mut self.learned, true) {
            return self.learn_more(now, outcome);
        }
        self.measure(now, outcome);
        let tally = self.stats.tally(self.worker);
        bump(&tally.ended, 1);
        match outcome {
            Outcome::Answered { status, first_byte } => {
                bump(&tally.classes[usize::from(status / 100).min(5)], 1);
                bump(&tally.first_byte_nanos, first_byte.as_nanos() as u64);
                bump(&tally.buckets[bucket_of(first_byte)], 1);
            }
            Outcome::Failed(failure) => bump(&tally.failures[failure as usize], 1),
        }
        self.judge(outcome)
    }

    /// What came to light after the answer had begun: it can only be worse.
    fn learn_more(&mut self, now: Tick, outcome: Outcome) -> Option<Suspect> {
        if slows(outcome) {
            self.measure(now, outcome);
        }
        if !outcome.blames_destination() {
            return None;
        }
        if let Outcome::Failed(failure) = outcome {
            bump(&self.stats.tally(self.worker).failures[failure as usize], 1);
        }
        self.judge(outcome)
    }

    /// A message whose client went away before the answer teaches nothing, as ever: what it waited for says as
    /// much about the client's patience.
    fn measure(&self, now: Tick, outcome: Outcome) {
        if self.stats.measures.load(Relaxed) {
            self.stats.measured.record(now, outcome, now.since(self.started), self.others);
        }
    }

    /// Another destination answered the message first, and this one is not waited for: it counts as cancelled,
    /// but that it took so long is remembered.
    pub fn outrun(self, now: Tick) {
        if !self.learned && self.stats.measures.load(Relaxed) {
            self.stats.measured.record_at_least(now, now.since(self.started), self.others);
        }
    }

    fn judge(&mut self, outcome: Outcome) -> Option<Suspect> {
        if outcome == Outcome::Failed(Failure::NoResources) {
            return None;
        }
        let trial = self.trial.take().is_some_and(|trial| self.stats.trial_counts(trial));
        if !outcome.blames_destination() {
            let row = self.stats.streak.load(Relaxed);
            if row != 0 {
                self.ended_row = row;
                self.stats.reset_streak();
            }
            return trial.then_some(Suspect { id: self.id, outcome, streak: 0, trial });
        }
        if outcome != Outcome::Failed(Failure::Connect) {
            self.stats.reached.store(true, Relaxed);
        }
        let more = std::mem::take(&mut self.ended_row).saturating_add(1);
        let streak = self.stats.streak.fetch_add(more, Relaxed).saturating_add(more);
        let news = self.stats.is_news();
        (trial || news || streak >= self.stats.suspect_at.load(Relaxed)).then_some(Suspect {
            id: self.id,
            outcome,
            streak,
            trial,
        })
    }

    /// Records the outcome and gives the place back.
    pub fn finish(mut self, now: Tick, outcome: Outcome) -> Option<Suspect> {
        self.learn(now, outcome)
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        self.stats.in_flight.leave();
        if !self.learned {
            bump(&self.stats.tally(self.worker).ended, 1);
        }
        if let Some(trial) = self.trial {
            self.stats.give_trial_back(trial);
        }
        if let Some(circuit) = self.stats.circuit.get() {
            if self.counted {
                circuit.requests.leave();
            }
            circuit.freed();
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
    fn in_flight_ends_with_the_ticket_and_not_with_the_answer() {
        let stats = Arc::new(DestinationStats::new(1));
        let mut held = assignment(&stats);
        assert_eq!(stats.in_flight(), 1);
        assert_eq!(held.learn(Tick::ZERO, OK), None);
        assert_eq!(stats.in_flight(), 1);
        drop(held);
        assert_eq!(stats.in_flight(), 0);
        assert_eq!(stats.counts().classes[2], 1);
        assert_eq!(stats.counts().buckets[1], 1);
    }

    #[test]
    fn who_is_outrun_has_not_failed() {
        let stats = Arc::new(DestinationStats::new(1));
        let later = Tick::ZERO + Duration::from_millis(90);
        stats.set_measures(true);
        assignment(&stats).finish(later, OK);
        assignment(&stats).outrun(later);
        assert_eq!((stats.in_flight(), stats.streak(), stats.counts().answered()), (0, 0, 1));
        assert_eq!(stats.measured().first_byte.read(later), Some(7e6 + 0.05 * 83e6));
    }

    #[test]
    fn answers_are_measured_only_where_a_policy_asked_for_it() {
        let stats = Arc::new(DestinationStats::new(1));
        let later = Tick::ZERO + Duration::from_millis(7);
        assignment(&stats).finish(later, OK);
        assert_eq!(stats.measured().first_byte.read(later), None);
        stats.set_measures(true);
        assignment(&stats).finish(later, OK);
        assert_eq!(stats.measured().first_byte.read(later), Some(7e6));
        let mut broken_off = assignment(&stats);
        broken_off.learn(later, OK);
        broken_off.finish(later, Outcome::Failed(Failure::Truncated));
        assert!(
            stats.measured().first_byte.read(later) > Some(200e6),
            "what comes to light later counts, too"
        );
    }

    #[test]
    fn a_dropped_ticket_teaches_nothing() {
        let stats = Arc::new(DestinationStats::new(1));
        drop(assignment(&stats));
        assert_eq!((stats.in_flight(), stats.counts().answered(), stats.counts().failed()), (0, 0, 0));
        assert_eq!(stats.counts().started, 1);
    }

    #[test]
    fn only_failures_in_a_row_make_a_suspect() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.set_suspect_at(2);
        let bad = Outcome::Failed(Failure::Reset);
        assert_eq!(assignment(&stats).finish(Tick::ZERO, bad), None);
        assert_eq!(assignment(&stats).finish(Tick::ZERO, OK), None);
        assert_eq!(assignment(&stats).finish(Tick::ZERO, bad), None);
        let suspect = assignment(&stats).finish(Tick::ZERO, bad).expect("two in a row");
        assert_eq!((suspect.id, suspect.streak, suspect.trial), (DestinationId(3), 2, false));
    }

    #[test]
    fn what_we_lack_is_counted_and_blames_nobody() {
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
    fn an_answer_that_breaks_off_continues_the_row_it_ended() {
        let stats = Arc::new(DestinationStats::new(1));
        stats.set_suspect_at(3);
        let broken_off = || {
            let mut assignment = assignment(&stats);
            assert_eq!(assignment.learn(Tick::ZERO, OK), None);
            assignment.finish(Tick::ZERO, Outcome::Failed(Failure::Truncated))
        };
        assert_eq!((broken_off(), broken_off()), (None, None));
        assert_eq!(broken_off().expect("three in a row").streak, 3);
        assignment(&stats).finish(Tick::ZERO, OK);
        assert_eq!((broken_off(), stats.streak()), (None, 1), "a whole answer ends the row for good");
    }

    #[test]
    fn a_503_blames_the_destination_and_a_501_the_request() {
        let answered = |status| Outcome::Answered { status, first_byte: Duration::ZERO };
        assert!(answered(503).blames_destination());
        assert!(!answered(501).blames_destination());
        assert!(!answered(429).blames_destination());
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
    fn a_ticket_of_an_earlier_trial_neither_reopens_nor_decides_a_later_one() {
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
        assert!(late.finish(Tick::ZERO, OK).expect("the trial's answer").trial);
    }

    #[test]
    fn one_failure_that_reached_the_destination_marks_the_whole_row() {
        let stats = Arc::new(DestinationStats::new(1));
        assignment(&stats).finish(Tick::ZERO, Outcome::Failed(Failure::Connect));
        assert!(stats.only_connects_failed());
        assignment(&stats).finish(Tick::ZERO, Outcome::Answered { status: 500, first_byte: Duration::ZERO });
        assignment(&stats).finish(Tick::ZERO, Outcome::Failed(Failure::Connect));
        assert!(!stats.only_connects_failed());
        assignment(&stats).finish(Tick::ZERO, OK);
        assert!(stats.only_connects_failed(), "a good answer ends the row");
    }
}
