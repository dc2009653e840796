//! HedgeResult requests: a request that waits long for its response is sent to a second destination as well, and the
//! first response wins.
//!
//! Only in pools that hedge. Until a response starts, all attempts are polled. Then the others are cancelled (their
//! connection is closed, their stream reset), and the rest runs like any other exchange.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use plimsoll_core::retry::FailedAttempt;
use plimsoll_core::{Address, Failure, Tick};
use tokio::time::{Sleep, sleep};

use crate::base::counters::HedgeResult;
use crate::forward::attempts::{Target, connect_failure, report};
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{Exchange, upstream_for};
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request_context::RequestContext;
use crate::upstream::chosen::Chosen;
use crate::upstream::h2_connections::NewUpstream;
use crate::upstream::hedge_delay::HedgeDelay;
use crate::upstream::upstream_stream::Upstream;

/// One attempt: an exchange with a destination.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) exchange: Exchange,
    pub(crate) address: Address,
    /// The connection was idle before.
    pub(crate) reused: bool,
}

/// Describes the failure of an exchange for the retry rules. `reused` reports that its connection was idle before.
pub(crate) fn failed_attempt(
    exchange: &Exchange,
    reused: bool,
    request: &RequestContext,
    failure: Failure,
) -> FailedAttempt {
    FailedAttempt {
        sent: exchange.has_sent(),
        reused_connection: reused,
        response_started: exchange.response_started(),
        ..request.unsent_attempt(failure)
    }
}

/// How a hedged request ended.
pub(crate) enum HedgeOutcome {
    /// The selected attempt ended this way.
    Ended(ExchangeEnd, Box<Attempt>),
    /// The request ended before any response started, and not because of a destination.
    Aborted(ExchangeEnd),
    /// All attempts failed; the last failure is recorded already.
    AllFailed(FailedAttempt),
}

/// Reports whether a request may be sent twice: it must be idempotent, completely buffered, and framed alike for
/// every destination.
pub(crate) fn may_be_hedged(request: &RequestContext) -> bool {
    request.method.is_idempotent() && request.is_buffered() && !request.upgrade && !request.dedicated
}

/// Runs an attempt to its end, beside hedged attempts that start while it waits.
pub(crate) async fn run_hedged<D: Downstream>(
    first: Attempt,
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
) -> HedgeOutcome {
    let mut hedged = HedgedRequest::new(first, request, target);
    let decided = std::future::poll_fn(|cx| hedged.poll(cx, client, request)).await;
    drop(hedged);
    request.is_hedged = false;
    match decided {
        Decided::Selected(mut selected) => {
            let end = selected.exchange.run(client, request).await;
            HedgeOutcome::Ended(end, selected)
        }
        Decided::Over(outcome) => outcome,
    }
}

enum Decided {
    /// The response of this attempt has started.
    Selected(Box<Attempt>),
    /// The request has ended.
    Over(HedgeOutcome),
}

/// An attempt that may still respond.
struct Running {
    attempt: Attempt,
    /// The attempt is a hedge, and not the first one.
    is_hedge: bool,
    /// Deadline of its next byte.
    due: Tick,
}

/// A connection that is being opened for a hedged attempt.
struct Opening {
    chosen: Chosen,
    deadline: Tick,
    connecting: Pin<Box<dyn Future<Output = io::Result<NewUpstream>>>>,
}

struct HedgedRequest<'r> {
    target: &'r Target<'r>,
    started: Tick,
    running: Vec<Running>,
    opening: Option<Opening>,
    /// Fires when the next hedged attempt is due.
    due: Option<Pin<Box<Sleep>>>,
    hedges_left: u8,
    /// Deadline that the client's timer is set to.
    timer_at: Option<Tick>,
    last_failed: Option<FailedAttempt>,
}

impl<'r> HedgedRequest<'r> {
    fn new(first: Attempt, request: &RequestContext, target: &'r Target<'r>) -> Self {
        let max = target.route.pool.hedge_delay.borrow().as_ref().map_or(0, |delay| delay.spec.max);
        let mut hedged = Self {
            target,
            started: first.exchange.assignment.started(),
            running: vec![Running { attempt: first, is_hedge: false, due: Tick::NEVER }],
            opening: None,
            due: None,
            hedges_left: max.saturating_sub(request.hedges),
            timer_at: None,
            last_failed: None,
        };
        hedged.schedule_next();
        hedged
    }

    /// Schedules the next hedged attempt, one delay from now.
    fn schedule_next(&mut self) {
        let delay = self.target.route.pool.hedge_delay.borrow().as_ref().and_then(HedgeDelay::delay);
        self.due = delay.filter(|_| self.hedges_left > 0).map(|delay| Box::pin(sleep(delay)));
    }

    fn poll<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Poll<Decided> {
        loop {
            if let Some(decided) = self.poll_running(cx, client, request) {
                return Poll::Ready(decided);
            }
            if self.poll_opening(cx, request) || self.poll_due(cx, request) {
                continue;
            }
            if self.running.is_empty() && self.opening.is_none() {
                let failed =
                    self.last_failed.take().unwrap_or_else(|| request.unsent_attempt(Failure::Connect));
                return Poll::Ready(Decided::Over(HedgeOutcome::AllFailed(failed)));
            }
            if client.is_disconnected(cx, request.body.is_done()) {
                return Poll::Ready(self.abort(ExchangeEnd::ClientGone));
            }
            let deadline = self.deadline(request);
            // Setting a timer that has fired would cancel it.
            if self.timer_at.replace(deadline) != Some(deadline) {
                self.target.worker.timers.set(client.timer(), deadline);
            }
            if client.timer().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer_at = None;
            if let Some(decided) = self.timed_out(request) {
                return Poll::Ready(decided);
            }
        }
    }

    /// Moves the bytes of all attempts.
    fn poll_running<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Option<Decided> {
        let mut at = 0;
        while at < self.running.len() {
            request.is_hedged = self.running.len() > 1;
            let Running { attempt: Attempt { exchange, .. }, due, .. } = &mut self.running[at];
            let moved = exchange.poll_io(cx, self.target.worker, client, request);
            let responded = exchange.response_started();
            match moved {
                Ok(()) if responded => return Some(Decided::Selected(self.select(at, request))),
                Ok(()) => {
                    *due = exchange.next_deadline(self.target.worker, request).unwrap_or(*due);
                    at += 1;
                }
                Err(end) if responded || self.is_alone() => {
                    return Some(Decided::Over(HedgeOutcome::Ended(end, self.select(at, request))));
                }
                Err(ExchangeEnd::Failed(failure)) => self.fail(at, failure, request),
                Err(ExchangeEnd::Rejected) => self.drop_rejected(at),
                Err(end) => return Some(self.abort(end)),
            }
        }
        None
    }

    fn is_alone(&self) -> bool {
        self.running.len() == 1 && self.opening.is_none()
    }

    /// Polls the connection of a hedged attempt; returns whether something has changed.
    fn poll_opening(&mut self, cx: &mut Context<'_>, request: &mut RequestContext) -> bool {
        let Some(opening) = &mut self.opening else { return false };
        let Poll::Ready(connected) = opening.connecting.as_mut().poll(cx) else { return false };
        let Some(Opening { chosen, .. }) = self.opening.take() else { return false };
        match connected {
            Ok(opened) => self.start(upstream_for(opened, request), chosen, false),
            Err(error) => self.fail_to_connect(chosen, connect_failure(&error), request),
        }
        true
    }

    fn fail_to_connect(&mut self, mut chosen: Chosen, failure: Failure, request: &mut RequestContext) {
        let now = self.target.worker.now();
        request.attempts.record_failure(self.target.route, &mut chosen.assignment, failure, now);
        self.count(HedgeResult::Failed);
        self.last_failed = Some(request.unsent_attempt(failure));
    }

    fn start(&mut self, upstream: Upstream, chosen: Chosen, reused: bool) {
        let Chosen { assignment, address } = chosen;
        let exchange = Exchange::new(upstream, assignment, self.target.worker.now());
        let attempt = Attempt { exchange, address, reused };
        self.running.push(Running { attempt, is_hedge: true, due: Tick::NEVER });
    }

    /// Starts a hedged attempt when it is due; returns whether one was started.
    fn poll_due(&mut self, cx: &mut Context<'_>, request: &mut RequestContext) -> bool {
        let Some(due) = &mut self.due else { return false };
        if self.opening.is_some() || due.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.due = None;
        let Some(chosen) = self.pick(request) else { return false };
        self.hedges_left -= 1;
        request.hedges += 1;
        request.untried_left &= request.attempts.has_untried(self.target.route);
        self.schedule_next();
        let (pool, needs) = (&self.target.route.pool, request.connection_needs());
        let (id, now) = (chosen.assignment.id(), chosen.assignment.started());
        if let Some(ready) = pool.ready_upstream(id, &chosen.address, &needs, now) {
            self.start(upstream_for(ready, request), chosen, true);
            return true;
        }
        let deadline = (now + request.pool_timeouts.connect).min(request.total_deadline);
        let to_connect = pool.connect_request(id, &chosen.address, &needs);
        let pool = pool.clone();
        let connecting = Box::pin(async move { pool.open(&to_connect).await });
        self.opening = Some(Opening { chosen, deadline, connecting });
        true
    }

    /// Picks the destination of a hedged attempt, where one is left and the retry budget allows it.
    fn pick(&mut self, request: &mut RequestContext) -> Option<Chosen> {
        let now = self.target.worker.now();
        if !request.attempts.has_untried(self.target.route) {
            self.count(HedgeResult::NoDestination);
            return None;
        }
        if !self.target.route.pool.table.borrow().budget.withdraw(now) {
            self.count(HedgeResult::NoBudget);
            return None;
        }
        let chosen = request.attempts.next_hedged(self.target, now);
        if chosen.is_none() {
            self.count(HedgeResult::NoDestination);
        }
        chosen
    }

    fn count(&self, outcome: HedgeResult) {
        let pool = self.target.route.pool.table.borrow();
        pool.counters.of(self.target.worker.number).hedged(outcome);
    }

    /// Returns the earliest deadline of all attempts.
    fn deadline(&self, request: &RequestContext) -> Tick {
        let opening = self.opening.iter().map(|opening| opening.deadline);
        self.running.iter().map(|running| running.due).chain(opening).fold(request.total_deadline, Tick::min)
    }

    /// Fails the attempts with a deadline that has passed.
    fn timed_out(&mut self, request: &mut RequestContext) -> Option<Decided> {
        let now = self.target.worker.now();
        if now >= request.total_deadline {
            for Running { attempt, .. } in &mut self.running {
                attempt.exchange.timed_out(self.target.worker, request);
                report(self.target.route, attempt.exchange.signal.take());
            }
            return Some(self.abort(ExchangeEnd::TotalTimeout));
        }
        if let Some(opening) = self.opening.take_if(|opening| opening.deadline <= now) {
            self.fail_to_connect(opening.chosen, Failure::Connect, request);
        }
        while let Some(late) = self.running.iter().position(|running| running.due <= now) {
            if self.is_alone() {
                let end = self.running[late].attempt.exchange.timed_out(self.target.worker, request);
                return Some(Decided::Over(HedgeOutcome::Ended(end, self.select(late, request))));
            }
            self.fail(late, Failure::Timeout, request);
        }
        None
    }

    /// Records the failure of an attempt while others may still respond.
    fn fail(&mut self, at: usize, failure: Failure, request: &mut RequestContext) {
        let Running { mut attempt, is_hedge, .. } = self.running.remove(at);
        let failed = failed_attempt(&attempt.exchange, attempt.reused, request, failure);
        if !failed.is_stale() {
            let now = self.target.worker.now();
            let assignment = &mut attempt.exchange.assignment;
            request.attempts.record_failure(self.target.route, assignment, failure, now);
        }
        if is_hedge {
            self.count(HedgeResult::Failed);
        }
        self.last_failed = Some(failed);
    }

    /// Drops an attempt with a response that is better replaced by that of another attempt, which is already running.
    fn drop_rejected(&mut self, at: usize) {
        let Running { mut attempt, is_hedge, .. } = self.running.remove(at);
        report(self.target.route, attempt.exchange.signal.take());
        if is_hedge {
            self.count(HedgeResult::Failed);
        }
    }

    /// Selects one attempt, and cancels the others.
    fn select(&mut self, at: usize, request: &mut RequestContext) -> Box<Attempt> {
        let Running { attempt: selected, is_hedge, .. } = self.running.remove(at);
        let now = selected.exchange.ended_at(self.target.worker);
        let responded = selected.exchange.response_started();
        if is_hedge {
            self.count(if responded { HedgeResult::Won } else { HedgeResult::Failed });
        }
        if responded && let Some(delay) = &mut *self.target.route.pool.hedge_delay.borrow_mut() {
            delay.record(now.since(self.started));
        }
        if let Some(log) = &mut request.log {
            log.destination = Some(selected.exchange.assignment.id());
        }
        self.cancel_others(now);
        Box::new(selected)
    }

    fn abort(&mut self, end: ExchangeEnd) -> Decided {
        self.cancel_others(self.target.worker.now());
        Decided::Over(HedgeOutcome::Aborted(end))
    }

    fn cancel_others(&mut self, now: Tick) {
        for Running { attempt, is_hedge, .. } in std::mem::take(&mut self.running) {
            if is_hedge {
                self.count(HedgeResult::Lost);
            }
            attempt.exchange.assignment.cancelled_by_hedge(now);
        }
        if self.opening.take().is_some() {
            self.count(HedgeResult::Lost);
        }
    }
}
