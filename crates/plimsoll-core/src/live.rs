//! What messages show about one destination while it serves, and how each holds on to it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::circuit::{Circuit, DestinationLimits, Gauge};
use crate::destination::DestinationId;
use crate::measure::{Measured, Reported, slows};
use crate::tally::bump;
pub use crate::tally::{BUCKETS_MS, Counts, Progress, Tally, bucket_of};
use crate::time::Tick;

/// How a try at a destination failed. The word says what happened, not whose message it was.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: refused, unreachable, timed out connecting. Nothing was sent.
    Connect,
    /// The connection broke after something was sent and before any byte of the answer.
    Reset,
    /// It closed cleanly without a byte of an answer.
    EmptyResponse,
    /// No answer, or no further byte of it, in time.
    Timeout,
    /// The answer was not one: bad framing, garbage, over a limit.
    Garbage,
    /// The answer broke off before its end.
    Truncated,
    /// Nothing was tried: we had no descriptor, port or memory for a connection. Says nothing about the
    /// destination.
    NoResources,
}

impl Failure {
    /// All of them, in the order counters are kept.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Reset,
        Self::EmptyResponse,
        Self::Timeout,
        Self::Garbage,
        Self::Truncated,
        Self::NoResources,
    ];

    /// The word used in metrics and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect_failed",
            Self::Reset => "reset",
            Self::EmptyResponse => "empty_response",
            Self::Timeout => "timeout",
            Self::Garbage => "bad_response",
            Self::Truncated => "truncated",
            Self::NoResources => "no_resources",
        }
    }
}

/// How a message ended at its destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered. For HTTP the status; a TCP connection that was established counts as 200.
    Answered {
        /// 100 to 599.
        status: u16,
        /// From the send to the first byte of the answer.
        first_byte: Duration,
    },
    /// It did not.
    Failed(Failure),
}

impl Outcome {
    /// Does this outcome speak against the destination? Every failure but our own does, and every 5xx but
    /// 501 and 505, which speak about the request (HAProxy `observe layer7` draws the same line).
    pub const fn blames_destination(self) -> bool {
        match self {
            Self::Answered { status, .. } => status >= 500 && status != 501 && status != 505,
            Self::Failed(failure) => !matches!(failure, Failure::NoResources),
        }
    }
}

/// The one try of a destination in probation, in one atomic: the low two bits say how it is, the others
/// number the trials, so that a late ticket of an earlier trial can neither reopen nor decide a later one.
const TRIAL_BITS: u32 = 0b11;
const TRIAL_CLOSED: u32 = 0;
const TRIAL_OPEN: u32 = 1;
const TRIAL_TAKEN: u32 = 2;

/// The number of a trial; only the ticket that took it holds it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial(u32);

/// What all workers share about one destination. What every message writes and what every pick reads of it, the
/// messages in flight and what was measured, is in one line of memory, and nobody else's is.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Live {
    in_flight: Gauge,
    measured: Measured,
    streak: AtomicU32,
    /// Who is told when there is room again; `None` where nothing has had a limit yet.
    circuit: OnceLock<Arc<Circuit>>,
    suspect_at: AtomicU32,
    trial: AtomicU32,
    reached: AtomicBool,
    /// The next bad outcome is worth a word, whatever the row.
    listens: AtomicBool,
    /// Answers are measured.
    measures: AtomicBool,
    connections: Gauge,
    berths_wanted: AtomicU32,
    /// What it says of its load.
    reported: Reported,
    /// Times a score of it was no number.
    unscored: AtomicU32,
    tallies: Box<[Tally]>,
}

impl Live {
    /// Counters for `workers` workers (at least one).
    pub fn new(workers: usize) -> Self {
        Self {
            in_flight: Gauge::default(),
            circuit: OnceLock::new(),
            streak: AtomicU32::new(0),
            suspect_at: AtomicU32::new(u32::MAX),
            reached: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            measures: AtomicBool::new(false),
            measured: Measured::default(),
            reported: Reported::default(),
            unscored: AtomicU32::new(0),
            trial: AtomicU32::new(TRIAL_CLOSED),
            connections: Gauge::default(),
            berths_wanted: AtomicU32::new(0),
            tallies: (0..workers.max(1)).map(|_| Tally::default()).collect(),
        }
    }

    /// Messages that hold a ticket now, over all workers, those still connecting included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.now()
    }

    /// The most messages that may hold a ticket at once; `None` = no limit.
    pub fn most_in_flight(&self) -> Option<u32> {
        self.in_flight.most()
    }

    /// It takes no more messages until one ends.
    pub fn is_full(&self) -> bool {
        self.in_flight.is_full()
    }

    /// Connections to it, over all workers: counted while it or its pool has a limit of them.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Somebody waits to open a connection to it.
    pub fn wants_berth(&self) -> bool {
        self.berths_wanted.load(Relaxed) > 0
    }

    pub(crate) fn berths_wanted(&self) -> &AtomicU32 {
        &self.berths_wanted
    }

    /// It may have so much at once from now on.
    pub fn set_limits(&self, limits: DestinationLimits) {
        self.in_flight.set_most(limits.requests);
        self.connections.set_most(limits.connections);
    }

    /// From now on `circuit` is told when a message ends. Once: it is the one of its pool for good.
    pub fn join_circuit(&self, circuit: &Arc<Circuit>) {
        let _joined_before = self.circuit.set(circuit.clone());
    }

    /// For how many workers it counts.
    pub fn workers(&self) -> usize {
        self.tallies.len()
    }

    /// From now on its answers are measured, or not: as the policy of its pool needs it. What was measured stays
    /// known, and grows old.
    pub fn set_measures(&self, on: bool) {
        self.measures.store(on, Relaxed);
    }

    /// What was measured of its answers; nothing before [`set_measures`](Self::set_measures).
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// What it says of its own load, where somebody hands that on.
    pub fn reported(&self) -> &Reported {
        &self.reported
    }

    /// How often a formula had no number for it.
    pub fn unscored(&self) -> u32 {
        self.unscored.load(Relaxed)
    }

    pub(crate) fn note_unscored(&self) {
        self.unscored.fetch_add(1, Relaxed);
    }

    /// Bad outcomes in a row, over all workers.
    pub fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    /// From this many bad outcomes in a row on, [`Ticket::finish`] reports a suspect.
    pub fn set_suspect_at(&self, streak: u32) {
        self.suspect_at.store(streak.max(1), Relaxed);
    }

    /// The next bad outcome makes a suspect even if it is the first: a check may be brought forward for it. One
    /// word is enough until this is called again, however many fail.
    pub fn listen(&self) {
        self.listens.store(true, Relaxed);
    }

    /// The first bad outcome since [`listen`](Self::listen).
    fn is_news(&self) -> bool {
        self.listens.load(Relaxed) && self.listens.swap(false, Relaxed)
    }

    /// How far it has got, and how many messages wait for an answer.
    pub fn progress(&self) -> (Progress, u32) {
        let (mut progress, mut started) = (Progress::default(), 0);
        for tally in &self.tallies {
            started += tally.started.load(Relaxed);
            progress += Progress {
                answered: tally.classes.iter().map(|class| class.load(Relaxed)).sum(),
                ended: tally.ended.load(Relaxed),
                first_byte: Duration::from_nanos(tally.first_byte_nanos.load(Relaxed)),
            };
        }
        // A program that shares worker 0 may lose a count: what is in flight is exact, and no more can wait.
        let waiting = u32::try_from(started.saturating_sub(progress.ended)).unwrap_or(u32::MAX);
        (progress, waiting.min(self.in_flight()))
    }

    /// Forgets the bad outcomes in a row: a new chance.
    pub fn reset_streak(&self) {
        self.streak.store(0, Relaxed);
        self.reached.store(false, Relaxed);
    }

    /// Every bad outcome in a row was a failure to connect: the destination itself has said nothing bad.
    pub fn only_connects_failed(&self) -> bool {
        !self.reached.load(Relaxed)
    }

    /// Everything counted so far, summed over workers.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for tally in &self.tallies {
            sum.started += tally.started.load(Relaxed);
            sum.first_byte_nanos += tally.first_byte_nanos.load(Relaxed);
            for (to, from) in sum.classes.iter_mut().zip(&tally.classes) {
                *to += from.load(Relaxed);
            }
            for (to, from) in sum.failures.iter_mut().zip(&tally.failures) {
                *to += from.load(Relaxed);
            }
            for (to, from) in sum.buckets.iter_mut().zip(&tally.buckets) {
                *to += from.load(Relaxed);
            }
        }
        sum
    }

    /// Opens a new trial; tickets of earlier ones have no say in it. Called by the slow loop only.
    pub(crate) fn open_trial(&self) {
        let number = (self.trial.load(Relaxed) & !TRIAL_BITS).wrapping_add(TRIAL_BITS + 1);
        self.trial.store(number | TRIAL_OPEN, Relaxed);
    }

    /// Somebody may take the trial.
    pub(crate) fn trial_is_open(&self) -> bool {
        self.trial.load(Relaxed) & TRIAL_BITS == TRIAL_OPEN
    }

    /// Nobody takes the trial any more, and who has taken it does not decide. Called by the slow loop only.
    pub(crate) fn close_trial(&self) {
        self.trial.store(self.trial.load(Relaxed) & !TRIAL_BITS | TRIAL_CLOSED, Relaxed);
    }

    /// Exactly one caller gets an answer for each opened trial.
    pub(crate) fn take_trial(&self) -> Option<Trial> {
        let seen = self.trial.load(Relaxed);
        let number = seen & !TRIAL_BITS;
        (seen & TRIAL_BITS == TRIAL_OPEN
            && self.trial.compare_exchange(seen, number | TRIAL_TAKEN, Relaxed, Relaxed).is_ok())
        .then_some(Trial(number))
    }

    /// Who took the trial proves nothing: another message may have it.
    pub(crate) fn give_trial_back(&self, Trial(number): Trial) {
        let _ = self.trial.compare_exchange(number | TRIAL_TAKEN, number | TRIAL_OPEN, Relaxed, Relaxed);
    }

    fn trial_counts(&self, Trial(number): Trial) -> bool {
        self.trial.load(Relaxed) == number | TRIAL_TAKEN
    }

    fn tally(&self, worker: usize) -> &Tally {
        &self.tallies[worker % self.tallies.len()]
    }
}

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
pub struct Ticket {
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
    live: Arc<Live>,
    started: Tick,
}

impl Ticket {
    /// A hold on a destination that has room for one more.
    #[inline]
    pub(crate) fn take(
        id: DestinationId,
        slot: usize,
        worker: usize,
        live: &Arc<Live>,
        now: Tick,
    ) -> Option<Self> {
        let others = live.in_flight.enter()?;
        bump(&live.tally(worker).started, 1);
        let live = live.clone();
        Some(Self {
            id,
            slot,
            worker,
            trial: None,
            learned: false,
            counted: false,
            ended_row: 0,
            others,
            live,
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

    /// Whose ticket this is.
    pub fn id(&self) -> DestinationId {
        self.id
    }

    /// The index of the destination in [`crate::Snapshot::members`] of the snapshot that gave the ticket.
    pub fn member(&self) -> usize {
        self.slot
    }

    /// What the destination says of its own load, where its answers tell.
    pub fn reported(&self) -> &Reported {
        &self.live.reported
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
    /// answer). The ticket goes on holding its place until it is dropped: in-flight ends with the body.
    /// A second call is ignored, unless it speaks against the destination ([`Failure::Truncated`], a bad
    /// status in the trailers of gRPC): then it takes the place of the good outcome, so a destination that
    /// breaks off every body has a row of bad ones.
    pub fn learn(&mut self, now: Tick, outcome: Outcome) -> Option<Suspect> {
        if std::mem::replace(&mut self.learned, true) {
            return self.learn_more(now, outcome);
        }
        self.measure(now, outcome);
        let tally = self.live.tally(self.worker);
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
            bump(&self.live.tally(self.worker).failures[failure as usize], 1);
        }
        self.judge(outcome)
    }

    /// A message whose client went away before the answer teaches nothing, as ever: what it waited for says as
    /// much about the client's patience.
    fn measure(&self, now: Tick, outcome: Outcome) {
        if self.live.measures.load(Relaxed) {
            self.live.measured.record(now, outcome, now.since(self.started), self.others);
        }
    }

    /// Another destination answered the message first, and this one is not waited for: it counts as cancelled,
    /// but that it took so long is remembered.
    pub fn outrun(self, now: Tick) {
        if !self.learned && self.live.measures.load(Relaxed) {
            self.live.measured.record_at_least(now, now.since(self.started), self.others);
        }
    }

    fn judge(&mut self, outcome: Outcome) -> Option<Suspect> {
        if outcome == Outcome::Failed(Failure::NoResources) {
            return None;
        }
        let trial = self.trial.take().is_some_and(|trial| self.live.trial_counts(trial));
        if !outcome.blames_destination() {
            let row = self.live.streak.load(Relaxed);
            if row != 0 {
                self.ended_row = row;
                self.live.reset_streak();
            }
            return trial.then_some(Suspect { id: self.id, outcome, streak: 0, trial });
        }
        if outcome != Outcome::Failed(Failure::Connect) {
            self.live.reached.store(true, Relaxed);
        }
        let more = std::mem::take(&mut self.ended_row).saturating_add(1);
        let streak = self.live.streak.fetch_add(more, Relaxed).saturating_add(more);
        let news = self.live.is_news();
        (trial || news || streak >= self.live.suspect_at.load(Relaxed)).then_some(Suspect {
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

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.in_flight.leave();
        if !self.learned {
            bump(&self.live.tally(self.worker).ended, 1);
        }
        if let Some(trial) = self.trial {
            self.live.give_trial_back(trial);
        }
        if let Some(circuit) = self.live.circuit.get() {
            if self.counted {
                circuit.requests.leave();
            }
            circuit.freed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(live: &Arc<Live>) -> Ticket {
        Ticket::take(DestinationId(3), 0, 0, live, Tick::ZERO).expect("no limit")
    }

    const OK: Outcome = Outcome::Answered { status: 200, first_byte: Duration::from_millis(7) };

    #[test]
    fn in_flight_ends_with_the_ticket_and_not_with_the_answer() {
        let live = Arc::new(Live::new(1));
        let mut held = ticket(&live);
        assert_eq!(live.in_flight(), 1);
        assert_eq!(held.learn(Tick::ZERO, OK), None);
        assert_eq!(live.in_flight(), 1);
        drop(held);
        assert_eq!(live.in_flight(), 0);
        assert_eq!(live.counts().classes[2], 1);
        assert_eq!(live.counts().buckets[1], 1);
    }

    #[test]
    fn who_is_outrun_has_not_failed() {
        let live = Arc::new(Live::new(1));
        let later = Tick::ZERO + Duration::from_millis(90);
        live.set_measures(true);
        ticket(&live).finish(later, OK);
        ticket(&live).outrun(later);
        assert_eq!((live.in_flight(), live.streak(), live.counts().answered()), (0, 0, 1));
        assert_eq!(live.measured().first_byte.read(later), Some(7e6 + 0.05 * 83e6));
    }

    #[test]
    fn answers_are_measured_only_where_a_policy_asked_for_it() {
        let live = Arc::new(Live::new(1));
        let later = Tick::ZERO + Duration::from_millis(7);
        ticket(&live).finish(later, OK);
        assert_eq!(live.measured().first_byte.read(later), None);
        live.set_measures(true);
        ticket(&live).finish(later, OK);
        assert_eq!(live.measured().first_byte.read(later), Some(7e6));
        let mut broken_off = ticket(&live);
        broken_off.learn(later, OK);
        broken_off.finish(later, Outcome::Failed(Failure::Truncated));
        assert!(
            live.measured().first_byte.read(later) > Some(200e6),
            "what comes to light later counts, too"
        );
    }

    #[test]
    fn a_dropped_ticket_teaches_nothing() {
        let live = Arc::new(Live::new(1));
        drop(ticket(&live));
        assert_eq!((live.in_flight(), live.counts().answered(), live.counts().failed()), (0, 0, 0));
        assert_eq!(live.counts().started, 1);
    }

    #[test]
    fn only_failures_in_a_row_make_a_suspect() {
        let live = Arc::new(Live::new(1));
        live.set_suspect_at(2);
        let bad = Outcome::Failed(Failure::Reset);
        assert_eq!(ticket(&live).finish(Tick::ZERO, bad), None);
        assert_eq!(ticket(&live).finish(Tick::ZERO, OK), None);
        assert_eq!(ticket(&live).finish(Tick::ZERO, bad), None);
        let suspect = ticket(&live).finish(Tick::ZERO, bad).expect("two in a row");
        assert_eq!((suspect.id, suspect.streak, suspect.trial), (DestinationId(3), 2, false));
    }

    #[test]
    fn what_we_lack_is_counted_and_blames_nobody() {
        let live = Arc::new(Live::new(1));
        live.open_trial();
        ticket(&live).finish(Tick::ZERO, Outcome::Failed(Failure::Reset));
        let trial = on_trial(&live).expect("open");
        assert_eq!(trial.finish(Tick::ZERO, Outcome::Failed(Failure::NoResources)), None);
        assert_eq!(live.streak(), 1, "neither a bad outcome nor a good one");
        assert!(on_trial(&live).is_some(), "the trial proved nothing");
        assert_eq!(live.counts().failures[Failure::NoResources as usize], 1);
    }

    #[test]
    fn an_answer_that_breaks_off_continues_the_row_it_ended() {
        let live = Arc::new(Live::new(1));
        live.set_suspect_at(3);
        let broken_off = || {
            let mut ticket = ticket(&live);
            assert_eq!(ticket.learn(Tick::ZERO, OK), None);
            ticket.finish(Tick::ZERO, Outcome::Failed(Failure::Truncated))
        };
        assert_eq!((broken_off(), broken_off()), (None, None));
        assert_eq!(broken_off().expect("three in a row").streak, 3);
        ticket(&live).finish(Tick::ZERO, OK);
        assert_eq!((broken_off(), live.streak()), (None, 1), "a whole answer ends the row for good");
    }

    #[test]
    fn a_503_blames_the_destination_and_a_501_the_request() {
        let answered = |status| Outcome::Answered { status, first_byte: Duration::ZERO };
        assert!(answered(503).blames_destination());
        assert!(!answered(501).blames_destination());
        assert!(!answered(429).blames_destination());
    }

    fn on_trial(live: &Arc<Live>) -> Option<Ticket> {
        let trial = live.take_trial()?;
        Some(ticket(live).on_trial(trial))
    }

    #[test]
    fn a_trial_is_taken_once_and_comes_back_when_cancelled() {
        let live = Arc::new(Live::new(1));
        live.open_trial();
        let first = on_trial(&live).expect("open");
        assert!(on_trial(&live).is_none());
        drop(first);
        assert!(on_trial(&live).is_some(), "a cancelled trial proves nothing");
    }

    #[test]
    fn a_ticket_of_an_earlier_trial_neither_reopens_nor_decides_a_later_one() {
        let live = Arc::new(Live::new(1));
        live.open_trial();
        let (early, closed) = (on_trial(&live).expect("open"), live.clone());
        closed.close_trial();
        drop(early);
        assert!(on_trial(&live).is_none(), "closed stays closed");
        live.open_trial();
        let early = on_trial(&live).expect("open");
        live.close_trial();
        live.open_trial();
        let late = on_trial(&live).expect("open again");
        assert_eq!(early.finish(Tick::ZERO, OK), None, "its trial is over");
        assert!(late.finish(Tick::ZERO, OK).expect("the trial's answer").trial);
    }

    #[test]
    fn one_failure_that_reached_the_destination_marks_the_whole_row() {
        let live = Arc::new(Live::new(1));
        ticket(&live).finish(Tick::ZERO, Outcome::Failed(Failure::Connect));
        assert!(live.only_connects_failed());
        ticket(&live).finish(Tick::ZERO, Outcome::Answered { status: 500, first_byte: Duration::ZERO });
        ticket(&live).finish(Tick::ZERO, Outcome::Failed(Failure::Connect));
        assert!(!live.only_connects_failed());
        ticket(&live).finish(Tick::ZERO, OK);
        assert!(live.only_connects_failed(), "a good answer ends the row");
    }
}
