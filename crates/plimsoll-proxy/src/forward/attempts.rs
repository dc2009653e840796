//! The attempts of one message: which destination is next, and whether another attempt follows a failure.
//!
//! HTTP requests, TCP and MQTT connections and UDP datagrams all make their attempts by [`Attempts`]: it picks the
//! destination, waits in the pool's queue, counts, reports failures to the pool, and asks the retry rules.

use std::io;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use plimsoll_core::limiter::RetryPermit;
use plimsoll_core::retry::{self, Decision, FailedAttempt};
use plimsoll_core::{
    Address, Assignment, AttemptedSet, DestinationId, Failure, FailureSignal, NoDestination, Outcome,
    PickRequest, Tick, UnsettledFailures,
};

use crate::base::context::WorkerContext;
use crate::base::counters::{Overflow, PreviousAttempt};
use crate::base::reason::Reason;
use crate::base::timer::Timer;
use crate::listener::worker_listener::WorkerRoute;
use crate::net::stream::is_resource_exhausted;
use crate::upstream::chosen::Chosen;
use crate::upstream::queue::{self, QueueError};
use crate::upstream::table::PoolTable;

/// Where a message may go, and until when.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Target<'m> {
    pub(crate) worker: &'m Rc<WorkerContext>,
    pub(crate) route: &'m WorkerRoute,
    /// Hash key, where the pool's algorithm needs one.
    pub(crate) key: Option<u64>,
    /// Key of the preferred destination, whatever the algorithm.
    pub(crate) affinity_key: Option<u64>,
    /// The message may be sent more than once.
    pub(crate) repeatable: bool,
    /// The attempt reports when the destination has the whole message.
    pub(crate) sent_later: bool,
    /// End of the time for all attempts together.
    pub(crate) deadline: Tick,
}

/// Why no further attempt is made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttemptError {
    /// No destination may serve.
    NoDestination,
    /// The latest attempt failed, and no other follows.
    Failed(Failure),
    /// All destinations are at their limits, and the message cannot be queued.
    Overflow,
    /// No destination had capacity within the time that a message may be queued.
    QueueTimeout,
    /// The time for all attempts together is over.
    TotalTimeout,
    /// The client disconnected while the message was queued.
    ClientGone,
}

impl AttemptError {
    /// Returns the reason for counters and logs.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::NoDestination => Reason::NoHealthyDestination,
            Self::Failed(failure) => failure.into(),
            Self::Overflow => Reason::Overflow,
            Self::QueueTimeout => Reason::QueueTimeout,
            Self::TotalTimeout => Reason::TotalTimeout,
            Self::ClientGone => Reason::ClientClosed,
        }
    }
}

/// Attempts of one message so far.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    tried: AttemptedSet,
    count: u8,
    /// How the previous attempt ended, for the counters of decisions.
    previous: Option<PreviousAttempt>,
    last_failure: Option<Failure>,
    /// Counts the message among the pool's concurrent retries.
    retry_permit: Option<RetryPermit>,
    /// Time spent in the queue, if it was queued.
    queued: Option<Duration>,
    /// Failures that may be the fault of the message.
    unsettled: UnsettledFailures,
}

impl Attempts {
    /// Number of attempts, the current one included.
    pub(crate) fn count(&self) -> u8 {
        self.count
    }

    /// Time spent in the pool's queue; `None` if the message was never queued.
    pub(crate) fn queued(&self) -> Option<Duration> {
        self.queued
    }

    /// Reports whether a destination may serve that was not tried yet.
    pub(crate) fn has_untried(&self, route: &WorkerRoute) -> bool {
        route.has_untried(&self.tried)
    }

    /// Excludes a destination from the next attempts.
    pub(crate) fn exclude(&mut self, destination: DestinationId) {
        self.tried.add(destination);
    }

    /// Notes that an established destination failed: the next attempt is a retry at another one.
    pub(crate) fn replaces(&mut self, failed: DestinationId) {
        self.exclude(failed);
        self.count = self.count.max(1);
    }

    /// Records the failure of a destination. Where it may be the fault of the message, it counts once the message has
    /// ended: a message that fails at two destinations counts against neither.
    pub(crate) fn record_failure(
        &mut self,
        route: &WorkerRoute,
        assignment: &mut Assignment,
        failure: Failure,
        now: Tick,
    ) {
        let outcome = Outcome::Failed(failure);
        match UnsettledFailures::may_be_of_message(outcome) && !assignment.is_recorded() {
            true => self.unsettled.add(assignment, outcome),
            false => report(route, assignment.record(now, outcome)),
        }
    }

    /// Records a response that is discarded for another attempt, or passed on after others failed.
    pub(crate) fn record_response(
        &mut self,
        assignment: &mut Assignment,
        outcome: Outcome,
        is_last: bool,
        now: Tick,
    ) -> Option<FailureSignal> {
        if UnsettledFailures::may_be_of_message(outcome) && !(is_last && self.unsettled.is_empty()) {
            self.unsettled.add(assignment, outcome);
            return None;
        }
        assignment.record(now, outcome)
    }

    /// Decides the failures of earlier attempts after the message `succeeded` at a destination, or failed at last.
    pub(crate) fn settle(&mut self, route: &WorkerRoute, succeeded: bool, now: Tick) {
        if !self.unsettled.is_empty() {
            self.unsettled.settle(now, succeeded, |signal| report(route, Some(signal)));
        }
    }

    /// Begins the first attempt at the destination that the message has to stay at; `None` if that cannot serve it.
    pub(crate) fn stay(
        &mut self,
        target: &Target<'_>,
        (id, address): (DestinationId, Address),
        now: Tick,
    ) -> Option<Chosen> {
        let chosen = target.route.pool.assign(id, address, now)?;
        self.begin(target, Ok(chosen)).ok()
    }

    /// Picks the destination of the next attempt. Fails at once if all are at their limits.
    pub(crate) fn next_unqueued(&mut self, target: &Target<'_>, now: Tick) -> Result<Chosen, AttemptError> {
        let mut picked = self.pick(target, now);
        if self.count == 0 && matches!(picked, Err(NoDestination::AllTried)) {
            // The excluded destination is the only one.
            self.tried = AttemptedSet::default();
            picked = self.pick(target, now);
        }
        self.begin(target, picked)
    }

    /// Picks the destination of the next attempt. While all are at their limits, waits in the pool's queue, unless
    /// `is_gone` reports that the client disconnected.
    pub(crate) async fn next(
        &mut self,
        target: &Target<'_>,
        timer: &Rc<Timer>,
        is_gone: impl FnMut(&mut Context<'_>) -> bool,
        now: Tick,
    ) -> Result<Chosen, AttemptError> {
        let mut picked = self.pick(target, now);
        if matches!(picked, Err(NoDestination::Full)) {
            // Boxed because queueing is rare, and its future is large.
            picked = Box::pin(self.wait(target, timer, is_gone)).await?;
        }
        self.begin(target, picked)
    }

    /// Picks the destination of a hedged attempt, which runs beside the current one and is never queued.
    pub(crate) fn next_hedged(&mut self, target: &Target<'_>, now: Tick) -> Option<Chosen> {
        let picked = self.pick(target, now);
        let missed = picked.as_ref().err().copied();
        target.route.pool.table.borrow().counters.of(target.worker.number).decided(missed, None);
        let chosen = picked.ok()?;
        self.tried.add(chosen.assignment.id());
        self.count = self.count.saturating_add(1);
        Some(chosen)
    }

    fn pick(&self, target: &Target<'_>, now: Tick) -> Result<Chosen, NoDestination> {
        let Target { worker, route, .. } = target;
        let request = request_of(target, &self.tried);
        route.pool.balance_load(&request, now, &mut worker.rng.borrow_mut())
    }

    async fn wait(
        &mut self,
        target: &Target<'_>,
        timer: &Rc<Timer>,
        is_gone: impl FnMut(&mut Context<'_>) -> bool,
    ) -> Result<Result<Chosen, NoDestination>, AttemptError> {
        let Target { worker, route, deadline, .. } = *target;
        let began = worker.now();
        let tried = self.tried;
        let request = request_of(target, &tried);
        let placed = queue::wait(worker, &route.pool, &request, (timer, deadline), is_gone).await;
        *self.queued.get_or_insert_default() += worker.now().since(began);
        let error = match placed {
            Ok(chosen) => return Ok(Ok(chosen)),
            Err(QueueError::NoDestination(why)) => return Ok(Err(why)),
            Err(QueueError::ClientClosed) => AttemptError::ClientGone,
            Err(_) if worker.now() >= deadline => AttemptError::TotalTimeout,
            Err(QueueError::TimedOut) => AttemptError::QueueTimeout,
            Err(QueueError::Overflow) => AttemptError::Overflow,
        };
        let pool = route.pool.table.borrow();
        pool.counters.of(worker.number).decided(Some(NoDestination::Full), self.previous);
        Err(error)
    }

    fn begin(
        &mut self,
        target: &Target<'_>,
        picked: Result<Chosen, NoDestination>,
    ) -> Result<Chosen, AttemptError> {
        let pool = target.route.pool.table.borrow();
        pool.counters.of(target.worker.number).decided(picked.as_ref().err().copied(), self.previous);
        let chosen = picked.map_err(|error| match (error, self.last_failure) {
            (NoDestination::AllTried, Some(failure)) => AttemptError::Failed(failure),
            (NoDestination::Full, _) => AttemptError::Overflow,
            _ => AttemptError::NoDestination,
        })?;
        self.tried.add(chosen.assignment.id());
        self.count += 1;
        Ok(chosen)
    }

    /// Describes an attempt that failed before anything was sent.
    pub(crate) fn unsent(&self, failure: Failure, idempotent: bool, body_replayable: bool) -> FailedAttempt {
        FailedAttempt {
            failure,
            attempts: self.count,
            idempotent,
            sent: false,
            reused_connection: false,
            fresh_repeat_used: false,
            body_replayable,
            response_started: false,
        }
    }

    /// Decides whether another attempt follows a failed one.
    ///
    /// # Errors
    /// No other attempt follows.
    pub(crate) fn failed(
        &mut self,
        target: &Target<'_>,
        attempt: &FailedAttempt,
        now: Tick,
    ) -> Result<(), AttemptError> {
        self.last_failure = Some(attempt.failure);
        self.check_deadline(target, now)?;
        let pool = target.route.pool.table.borrow();
        if !self.acquire_retry_permit(&pool, target.worker.number) {
            return Err(AttemptError::Failed(attempt.failure));
        }
        match retry::decide(&pool.config.retry, attempt, &pool.budget, now) {
            Decision::Stop(_) => Err(AttemptError::Failed(attempt.failure)),
            Decision::Retry | Decision::RepeatFresh => {
                self.previous = Some(PreviousAttempt::Failed(attempt.failure));
                Ok(())
            }
        }
    }

    /// Notes that a response was discarded, for which a retry was already decided.
    ///
    /// # Errors
    /// The time for all attempts together is over.
    pub(crate) fn discarded(&mut self, target: &Target<'_>, now: Tick) -> Result<(), AttemptError> {
        self.check_deadline(target, now)?;
        self.previous = Some(PreviousAttempt::Rejected);
        Ok(())
    }

    fn check_deadline(&self, target: &Target<'_>, now: Tick) -> Result<(), AttemptError> {
        if now >= target.deadline { Err(AttemptError::TotalTimeout) } else { Ok(()) }
    }

    /// Acquires the permit of a concurrent retry, where the limit of retries allows one more.
    pub(crate) fn acquire_retry_permit(&mut self, pool: &PoolTable, worker: usize) -> bool {
        if self.retry_permit.is_none() {
            self.retry_permit = pool.limiter.acquire_retry();
        }
        if self.retry_permit.is_none() {
            pool.counters.of(worker).overflowed(Overflow::Retries);
        }
        self.retry_permit.is_some()
    }

    /// Ends the message's share of the pool's concurrent retries.
    pub(crate) fn finish(&mut self) {
        self.retry_permit = None;
    }
}

fn request_of<'t>(target: &Target<'t>, tried: &'t AttemptedSet) -> PickRequest<'t> {
    PickRequest {
        worker: target.worker.number,
        tried: Some(tried),
        repeatable: target.repeatable,
        sent_later: target.sent_later,
        key: target.key,
        affinity_key: target.affinity_key,
        subset: target.route.table.subset.as_deref(),
        dequeued: false,
    }
}

/// Sends a failure signal to the driver of the pool.
pub(crate) fn report(route: &WorkerRoute, signal: Option<FailureSignal>) {
    if let Some(signal) = signal {
        // A full channel loses nothing: the next failure sends the signal again.
        let _sent_again_later = route.pool.table.borrow().signals.try_send(signal);
    }
}

/// Waits for a new connection until the timer fires.
///
/// # Errors
/// [`Failure::Connect`], or [`Failure::NoResources`] when this process or machine lacked a resource.
pub(crate) async fn connect_within<T>(
    timer: &Rc<Timer>,
    opening: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timer.within(opening).await {
        Some(Ok(opened)) => Ok(opened),
        Some(Err(error)) => Err(connect_failure(&error)),
        None => Err(Failure::Connect),
    }
}

/// Classifies the error of a failed connect.
pub(crate) fn connect_failure(error: &io::Error) -> Failure {
    if is_resource_exhausted(error) { Failure::NoResources } else { Failure::Connect }
}
