//! Statistics of one destination, shared by all workers.

mod assignment;
mod connection;
mod counts;
mod trial;
mod unsettled;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use self::assignment::{Assignment, FailureSignal};
pub use self::connection::{ConnectionPermit, ConnectionWait};
pub(crate) use self::counts::bump;
pub use self::counts::{BUCKETS_US, Counts, PUBLISHED_US, Progress, WorkerCounts, bucket_of};
#[cfg(not(loom))]
pub(crate) use self::trial::Trial;
#[cfg(not(loom))]
use self::trial::TrialSlot;
// Public for the loom test.
#[cfg(loom)]
pub use self::trial::{Trial, TrialSlot};
pub use self::unsettled::UnsettledFailures;
use crate::limit::{DestinationLimits, Limit};
use crate::limiter::PoolLimiter;
use crate::measure::{LoadReportState, Measurements};

/// Statistics of one destination, shared by all workers.
///
/// What every message writes and every pick reads, the messages in flight and the measured latency, shares the
/// first cache lines with nothing of another destination.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct DestinationStats {
    in_flight: Limit,
    measured: Measurements,
    streak: AtomicU32,
    /// Limiter to notify when a message ends; unset while nothing of the pool ever had a limit.
    limiter: OnceLock<Arc<PoolLimiter>>,
    signal_threshold: AtomicU32,
    trial: TrialSlot,
    /// A bad outcome of the streak was not a failed connect.
    failed_after_connect: AtomicBool,
    /// The next bad outcome is signalled, whatever the streak.
    notify_next_failure: AtomicBool,
    latency_tracking: AtomicBool,
    connections: Limit,
    connection_waiters: AtomicU32,
    reported: LoadReportState,
    score_errors: AtomicU32,
    workers: Box<[WorkerCounts]>,
}

impl DestinationStats {
    /// Statistics for `workers` workers (at least one).
    pub fn new(workers: usize) -> Self {
        Self {
            in_flight: Limit::default(),
            limiter: OnceLock::new(),
            streak: AtomicU32::new(0),
            signal_threshold: AtomicU32::new(u32::MAX),
            failed_after_connect: AtomicBool::new(false),
            notify_next_failure: AtomicBool::new(false),
            latency_tracking: AtomicBool::new(false),
            measured: Measurements::default(),
            reported: LoadReportState::default(),
            score_errors: AtomicU32::new(0),
            trial: TrialSlot::default(),
            connections: Limit::default(),
            connection_waiters: AtomicU32::new(0),
            workers: (0..workers.max(1)).map(|_| WorkerCounts::default()).collect(),
        }
    }

    /// Number of messages that hold an assignment, over all workers, those still connecting included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.current()
    }

    /// Maximum number of messages in flight; `None` = no limit.
    pub fn max_in_flight(&self) -> Option<u32> {
        self.in_flight.max()
    }

    /// Returns whether the limit of messages in flight is reached.
    pub fn is_full(&self) -> bool {
        self.in_flight.is_full()
    }

    /// Number and limit of connections over all workers; counted while the destination or its pool has a limit.
    pub fn connections(&self) -> &Limit {
        &self.connections
    }

    /// Returns whether a task waits to open a connection to the destination.
    pub fn has_connection_waiters(&self) -> bool {
        self.connection_waiters.load(Relaxed) > 0
    }

    /// Changes the limits. What is held above them stays held.
    pub fn set_limits(&self, limits: DestinationLimits) {
        self.in_flight.set_max(limits.requests);
        self.connections.set_max(limits.connections);
    }

    /// Sets the limiter to notify when a message ends. Only the first call has an effect: the limiter of a pool stays
    /// the same.
    pub fn set_limiter(&self, limiter: &Arc<PoolLimiter>) {
        let _already_set = self.limiter.set(limiter.clone());
    }

    /// Number of workers with counts of their own.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Switches the measurement of latencies on or off, as the policy of the pool needs it. Earlier measurements stay
    /// and age.
    pub fn set_latency_tracking(&self, on: bool) {
        self.latency_tracking.store(on, Relaxed);
    }

    /// Measurements latencies; empty before [`set_latency_tracking`](Self::set_latency_tracking).
    pub fn measured(&self) -> &Measurements {
        &self.measured
    }

    /// The destination's latest report of its own load.
    pub fn reported(&self) -> &LoadReportState {
        &self.reported
    }

    /// Number of times a formula had no number as the destination's score.
    pub fn score_errors(&self) -> u32 {
        self.score_errors.load(Relaxed)
    }

    pub(crate) fn count_score_error(&self) {
        self.score_errors.fetch_add(1, Relaxed);
    }

    /// Number of consecutive bad outcomes, over all workers.
    pub fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    /// Sets the number of consecutive bad outcomes from which [`Assignment::finish`] returns a signal.
    pub fn set_signal_threshold(&self, streak: u32) {
        self.signal_threshold.store(streak.max(1), Relaxed);
    }

    /// Requests a signal for the next bad outcome even if it is the first, so that a check can be brought forward.
    /// Only one signal follows each call, however many messages fail.
    pub fn notify_next_failure(&self) {
        self.notify_next_failure.store(true, Relaxed);
    }

    /// Returns whether this is the first bad outcome since [`notify_next_failure`](Self::notify_next_failure).
    fn is_first_failure(&self) -> bool {
        self.notify_next_failure.load(Relaxed) && self.notify_next_failure.swap(false, Relaxed)
    }

    /// Returns the progress of all workers, and the number of messages that wait for a response. A message of which the
    /// destination has not received the end does not wait.
    pub fn progress(&self) -> (Progress, u32) {
        let mut progress = Progress::default();
        for counts in &self.workers {
            progress += Progress {
                answered: counts.classes.iter().map(|class| class.load(Relaxed)).sum(),
                awaited: counts.awaited.load(Relaxed),
                ended: counts.ended.load(Relaxed),
                first_byte: Duration::from_nanos(counts.first_byte_nanos.load(Relaxed)),
            };
        }
        // A program that shares worker 0 may lose a count: in-flight is exact, and no more messages can wait.
        let waiting = u32::try_from(progress.awaited.saturating_sub(progress.ended)).unwrap_or(u32::MAX);
        (progress, waiting.min(self.in_flight()))
    }

    /// Resets the streak of bad outcomes.
    pub fn reset_streak(&self) {
        self.streak.store(0, Relaxed);
        self.failed_after_connect.store(false, Relaxed);
    }

    /// Returns whether every bad outcome of the streak was a failed connect.
    pub fn only_connects_failed(&self) -> bool {
        !self.failed_after_connect.load(Relaxed)
    }

    /// Returns all counts, summed over workers.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in &self.workers {
            sum.started += counts.started.load(Relaxed);
            sum.excused += counts.excused.load(Relaxed);
            sum.first_byte_nanos += counts.first_byte_nanos.load(Relaxed);
            for (to, from) in sum.classes.iter_mut().zip(&counts.classes) {
                *to += from.load(Relaxed);
            }
            for (to, from) in sum.failures.iter_mut().zip(&counts.failures) {
                *to += from.load(Relaxed);
            }
            for (to, from) in sum.buckets.iter_mut().zip(&counts.buckets) {
                *to += from.load(Relaxed);
            }
        }
        sum
    }

    /// Opens a new trial. Called by the slow loop only.
    pub(crate) fn open_trial(&self) {
        self.trial.open();
    }

    /// Lets another message take the trial beside the one that has it. Called by the slow loop only.
    pub(crate) fn reopen_trial(&self) {
        self.trial.reopen();
    }

    /// Returns whether a message may take the trial.
    pub(crate) fn trial_is_open(&self) -> bool {
        self.trial.is_open()
    }

    /// Closes the trial. Called by the slow loop only.
    pub(crate) fn close_trial(&self) {
        self.trial.close();
    }

    /// Takes the trial. Exactly one caller succeeds for each opened trial.
    pub(crate) fn take_trial(&self) -> Option<Trial> {
        self.trial.take()
    }

    /// Opens the trial again after its message ended without a proof.
    pub(crate) fn give_trial_back(&self, trial: Trial) {
        self.trial.give_back(trial);
    }

    fn counts_of(&self, worker: usize) -> &WorkerCounts {
        &self.workers[worker % self.workers.len()]
    }
}
