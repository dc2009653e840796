//! What messages show about one destination while it serves.

mod assignment;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use self::assignment::{Assignment, Suspect};
use crate::circuit::{Circuit, DestinationLimits, Gauge};
use crate::measure::{Measured, Reported};
pub use crate::tally::{BUCKETS_MS, Counts, Progress, Tally, bucket_of};

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
/// number the trials, so that a late assignment of an earlier trial can neither reopen nor decide a later one.
const TRIAL_BITS: u32 = 0b11;
const TRIAL_CLOSED: u32 = 0;
const TRIAL_OPEN: u32 = 1;
const TRIAL_TAKEN: u32 = 2;

/// The number of a trial; only the assignment that took it holds it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial(u32);

/// What all workers share about one destination. What every message writes and what every pick reads of it, the
/// messages in flight and what was measured, is in one line of memory, and nobody else's is.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct DestinationStats {
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

impl DestinationStats {
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

    /// Messages that hold an assignment now, over all workers, those still connecting included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.now()
    }

    /// The most messages that may hold an assignment at once; `None` = no limit.
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

    /// From this many bad outcomes in a row on, [`Assignment::finish`] reports a suspect.
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

    /// Opens a new trial; assignments of earlier ones have no say in it. Called by the slow loop only.
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
