//! What is counted about one destination while it serves, and how a message holds on to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::destination::DestinationId;
use crate::time::Tick;

/// Upper bounds, in milliseconds, of the response-time buckets every histogram of the product uses: the
/// OpenTelemetry semantic conventions' advice for `http.client.request.duration`.
pub const BUCKETS_MS: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000];

/// The index in a histogram of `BUCKETS_MS.len() + 1` buckets for `span`.
pub fn bucket_of(span: Duration) -> usize {
    let nanos = span.as_nanos() as u64;
    BUCKETS_MS.iter().position(|&ms| nanos <= ms * 1_000_000).unwrap_or(BUCKETS_MS.len())
}

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
}

impl Failure {
    /// All of them, in the order counters are kept.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Reset, Self::EmptyResponse, Self::Timeout, Self::Garbage, Self::Truncated];

    /// The word used in metrics and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect_failed",
            Self::Reset => "reset",
            Self::EmptyResponse => "empty_response",
            Self::Timeout => "timeout",
            Self::Garbage => "bad_response",
            Self::Truncated => "truncated",
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
    /// Does this outcome speak against the destination? Every failure does, and every 5xx but 501 and 505,
    /// which speak about the request (HAProxy `observe layer7` draws the same line).
    pub const fn blames_destination(self) -> bool {
        match self {
            Self::Answered { status, .. } => status >= 500 && status != 501 && status != 505,
            Self::Failed(_) => true,
        }
    }
}

/// One worker's counts of one destination: written by that worker only, read by whoever scrapes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    started: AtomicU64,
    classes: [AtomicU64; 6],
    failures: [AtomicU64; Failure::ALL.len()],
    first_byte_nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
}

/// A sum of tallies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tickets given out.
    pub started: u64,
    /// Answers by status class; index 1 is 1xx … 5 is 5xx, index 0 stays 0.
    pub classes: [u64; 6],
    /// Failures, in the order of [`Failure::ALL`].
    pub failures: [u64; Failure::ALL.len()],
    /// Sum of times to the first byte, nanoseconds.
    pub first_byte_nanos: u64,
    /// Answers by time to the first byte; see [`BUCKETS_MS`].
    pub buckets: [u64; BUCKETS_MS.len() + 1],
}

impl Counts {
    /// Answers seen, of any status.
    pub fn answered(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Tries that failed.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Mean time to the first byte; `None` before the first answer.
    pub fn mean_first_byte(&self) -> Option<Duration> {
        self.first_byte_nanos.checked_div(self.answered()).map(Duration::from_nanos)
    }
}

/// One worker owns a tally, so plain load and store are enough: no locked instruction, no shared line.
/// (A program that shares worker 0 between threads may lose a count in a race; it never loses a ticket.)
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Is a destination on trial, and is the one try still to be had?
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trial {
    Closed = 0,
    Open = 1,
    Taken = 2,
}

/// What all workers share about one destination. In-flight lives on a line of its own: it is the one
/// value every message writes.
#[derive(Debug)]
#[repr(align(128))]
pub struct Live {
    in_flight: AtomicU32,
    streak: AtomicU32,
    suspect_at: AtomicU32,
    trial: AtomicU8,
    tallies: Box<[Tally]>,
}

impl Live {
    /// Counters for `workers` workers (at least one).
    pub fn new(workers: usize) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            suspect_at: AtomicU32::new(u32::MAX),
            trial: AtomicU8::new(Trial::Closed as u8),
            tallies: (0..workers.max(1)).map(|_| Tally::default()).collect(),
        }
    }

    /// Messages that hold a ticket now, over all workers, those still connecting included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Bad outcomes in a row, over all workers.
    pub fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    /// From this many bad outcomes in a row on, [`Ticket::finish`] reports a suspect.
    pub fn set_suspect_at(&self, streak: u32) {
        self.suspect_at.store(streak.max(1), Relaxed);
    }

    /// Forgets the bad outcomes in a row: a new chance.
    pub fn reset_streak(&self) {
        self.streak.store(0, Relaxed);
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

    pub(crate) fn open_trial(&self) {
        self.trial.store(Trial::Open as u8, Relaxed);
    }

    pub(crate) fn close_trial(&self) {
        self.trial.store(Trial::Closed as u8, Relaxed);
    }

    /// Exactly one caller gets `true` for each opened trial.
    pub(crate) fn take_trial(&self) -> bool {
        self.trial.load(Relaxed) == Trial::Open as u8
            && self.trial.compare_exchange(Trial::Open as u8, Trial::Taken as u8, Relaxed, Relaxed).is_ok()
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
    trial: bool,
    learned: bool,
    live: Arc<Live>,
    started: Tick,
}

impl Ticket {
    pub(crate) fn new(
        id: DestinationId,
        slot: usize,
        worker: usize,
        trial: bool,
        live: Arc<Live>,
        now: Tick,
    ) -> Self {
        live.in_flight.fetch_add(1, Relaxed);
        bump(&live.tally(worker).started, 1);
        Self { id, slot, worker, trial, learned: false, live, started: now }
    }

    /// Whose ticket this is.
    pub fn id(&self) -> DestinationId {
        self.id
    }

    /// The index of the destination in [`crate::Snapshot::members`] of the snapshot that gave the ticket.
    pub fn member(&self) -> usize {
        self.slot
    }

    /// When the destination was chosen.
    pub fn started(&self) -> Tick {
        self.started
    }

    /// The message carries the one trial of an ejected destination.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Records how the destination answered, as soon as that is known (for HTTP: at the head of the
    /// answer). The ticket goes on holding its place until it is dropped: in-flight ends with the body.
    /// A second call is ignored, but for a failure after an answer ([`Failure::Truncated`]).
    pub fn learn(&mut self, outcome: Outcome) -> Option<Suspect> {
        let late = self.learned;
        if late && !matches!(outcome, Outcome::Failed(_)) {
            return None;
        }
        self.learned = true;
        let tally = self.live.tally(self.worker);
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

    fn judge(&mut self, outcome: Outcome) -> Option<Suspect> {
        let trial = std::mem::take(&mut self.trial);
        if !outcome.blames_destination() {
            if self.live.streak.load(Relaxed) != 0 {
                self.live.streak.store(0, Relaxed);
            }
            return trial.then_some(Suspect { id: self.id, outcome, streak: 0, trial });
        }
        let streak = self.live.streak.fetch_add(1, Relaxed).saturating_add(1);
        (trial || streak >= self.live.suspect_at.load(Relaxed)).then_some(Suspect {
            id: self.id,
            outcome,
            streak,
            trial,
        })
    }

    /// Records the outcome and gives the place back.
    pub fn finish(mut self, outcome: Outcome) -> Option<Suspect> {
        self.learn(outcome)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.in_flight.fetch_sub(1, Relaxed);
        if self.trial {
            self.live.open_trial();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(live: &Arc<Live>) -> Ticket {
        Ticket::new(DestinationId(3), 0, 0, false, live.clone(), Tick::ZERO)
    }

    const OK: Outcome = Outcome::Answered { status: 200, first_byte: Duration::from_millis(7) };

    #[test]
    fn in_flight_ends_with_the_ticket_and_not_with_the_answer() {
        let live = Arc::new(Live::new(1));
        let mut held = ticket(&live);
        assert_eq!(live.in_flight(), 1);
        assert_eq!(held.learn(OK), None);
        assert_eq!(live.in_flight(), 1);
        drop(held);
        assert_eq!(live.in_flight(), 0);
        assert_eq!(live.counts().classes[2], 1);
        assert_eq!(live.counts().buckets[1], 1);
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
        assert_eq!(ticket(&live).finish(bad), None);
        assert_eq!(ticket(&live).finish(OK), None);
        assert_eq!(ticket(&live).finish(bad), None);
        let suspect = ticket(&live).finish(bad).expect("two in a row");
        assert_eq!((suspect.id, suspect.streak, suspect.trial), (DestinationId(3), 2, false));
    }

    #[test]
    fn a_503_blames_the_destination_and_a_501_the_request() {
        let answered = |status| Outcome::Answered { status, first_byte: Duration::ZERO };
        assert!(answered(503).blames_destination());
        assert!(!answered(501).blames_destination());
        assert!(!answered(429).blames_destination());
    }

    #[test]
    fn a_trial_is_taken_once_and_comes_back_when_cancelled() {
        let live = Arc::new(Live::new(1));
        live.open_trial();
        assert!(live.take_trial());
        assert!(!live.take_trial());
        drop(Ticket::new(DestinationId(0), 0, 0, true, live.clone(), Tick::ZERO));
        assert!(live.take_trial(), "a cancelled trial proves nothing");
    }

    #[test]
    fn buckets_include_their_bound() {
        assert_eq!(bucket_of(Duration::from_millis(5)), 0);
        assert_eq!(bucket_of(Duration::from_millis(6)), 1);
        assert_eq!(bucket_of(Duration::from_secs(60)), BUCKETS_MS.len());
    }
}
