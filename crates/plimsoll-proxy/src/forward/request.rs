//! The life of a request, from its route to the end of its response.
//!
//! Each attempt picks a destination ([`Attempts`](crate::forward::attempts::Attempts)), obtains a connection, and runs
//! an exchange on it, hedged where the pool asks for that. The outcome is recorded, and a failure is followed by
//! another attempt where that is safe; otherwise the client gets a local reply.

use std::rc::Rc;

use plimsoll_core::retry::{self, Decision, FailedAttempt};
use plimsoll_core::{Address, Assignment, Failure, Tick};

use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::forward::attempts::{AttemptError, Target, connect_within, record_failure, report};
use crate::forward::downstream::{AfterResponse, Downstream};
use crate::forward::exchange::{Exchange, upstream_for};
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::hedge::{Attempt, HedgeOutcome, may_be_hedged, run_hedged};
use crate::forward::request_context::RequestContext;
use crate::http::local_reply::LocalReply;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::RequestLine;
use crate::upstream::chosen::Chosen;
use crate::upstream::upstream_stream::Upstream;

/// How all attempts together ended.
enum RequestEnd {
    /// The response was delivered; its last byte was sent at this time.
    Delivered(AfterResponse, Tick),
    /// The client gets a local reply.
    LocalReply(LocalReply),
    /// The client cannot get a reply any more.
    Aborted(Reason),
}

/// How one attempt ended.
enum AttemptEnd {
    /// The request has ended.
    Ended(RequestEnd),
    /// The attempt failed; the retry rules decide what follows.
    Failed(FailedAttempt),
    /// The response was discarded for a retry, which is already decided.
    Discarded,
}

/// Carries a request to a destination and the response back.
pub(crate) async fn forward<D: Downstream>(client: &mut D, request: &mut RequestContext) -> AfterResponse {
    let worker = client.guard().worker.clone();
    let Some(route) = request.routes.routes.get(request.route).cloned() else {
        let after = send_local_reply(client, request, &worker, LocalReply::NO_ROUTE).await;
        log(request, &worker, None, worker.now());
        return after;
    };
    let counters = route.table.counters.of(worker.number);
    counters.started.add(1);
    let (after, now) = match run_attempts(client, request, &worker, &route).await {
        RequestEnd::Delivered(after, now) => (after, now),
        RequestEnd::LocalReply(reply) => {
            (send_local_reply(client, request, &worker, reply).await, worker.now())
        }
        RequestEnd::Aborted(reason) => {
            count_reason(request, &worker, reason);
            (AfterResponse::Close, worker.now())
        }
    };
    counters.ended.add(1);
    counters.request_bytes.add(request.request_bytes);
    counters.response_bytes.add(request.response_bytes);
    counters.request(request.method, request.status, now.since(request.started));
    request.attempts.finish();
    log(request, &worker, Some(&route), now);
    after
}

fn log(request: &mut RequestContext, worker: &WorkerContext, route: Option<&WorkerRoute>, now: Tick) {
    let (Some(log), Some(draft)) = (&worker.log, request.log.take()) else { return };
    let destination = route.zip(draft.destination).and_then(|(route, id)| route.pool.name_of(id));
    log.send(RequestLine {
        draft: *draft,
        listener: request.routes.table.config.name.clone(),
        route: route.map(|route| route.table.name.clone()),
        pool: route.map(|route| route.table.pool.config.name.clone()),
        destination,
        status: request.status,
        request_bytes: request.request_bytes,
        response_bytes: request.response_bytes,
        queued: request.attempts.queued(),
        total: now.since(request.started),
    });
}

/// Attempts destinations until one delivers a response, none is left, or another attempt would not be safe.
async fn run_attempts<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    worker: &Rc<WorkerContext>,
    route: &WorkerRoute,
) -> RequestEnd {
    let target = Target {
        worker,
        route,
        key: request.hash_key,
        affinity_key: None,
        repeatable: request.method.is_idempotent(),
        deadline: request.total_deadline,
    };
    route.table.pool.budget.earn(worker.number);
    let mut now = request.started;
    loop {
        let (timer, complete) = (client.timer().clone(), request.body.is_done());
        let is_gone = |cx: &mut std::task::Context<'_>| client.is_disconnected(cx, complete);
        let chosen = match request.attempts.next(&target, &timer, is_gone, now).await {
            Ok(chosen) => chosen,
            Err(error) => return attempts_over(error),
        };
        let when = &route.table.pool.config.retry.when;
        request.untried_left = when.lists_responses(request.is_grpc) && request.attempts.has_untried(route);
        let followed = match run_attempt(client, request, &target, chosen).await {
            AttemptEnd::Ended(end) => return end,
            AttemptEnd::Discarded => request.attempts.discarded(&target, worker.now()),
            AttemptEnd::Failed(failed) => request.attempts.failed(&target, &failed, worker.now()),
        };
        if let Err(error) = followed {
            return attempts_over(error);
        }
        now = worker.now();
    }
}

/// Returns the reply that reports why no attempt follows.
fn attempts_over(error: AttemptError) -> RequestEnd {
    RequestEnd::LocalReply(match error {
        AttemptError::NoDestination => LocalReply::NO_DESTINATION,
        AttemptError::Failed(failure) => failure.into(),
        AttemptError::Overflow => LocalReply::OVERFLOW,
        AttemptError::QueueTimeout => LocalReply::QUEUE_TIMEOUT,
        AttemptError::TotalTimeout => LocalReply::TOTAL_TIMEOUT,
        AttemptError::ClientGone => return RequestEnd::Aborted(error.reason()),
    })
}

/// Sends the request to one destination: on an idle connection if there is one, and once more on a fresh one if that
/// was stale.
async fn run_attempt<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
    chosen: Chosen,
) -> AttemptEnd {
    let Chosen { mut assignment, mut address } = chosen;
    let mut now = assignment.started();
    let mut fresh_repeat_used = false;
    if let Some(log) = &mut request.log {
        log.destination = Some(assignment.id());
    }
    loop {
        let connected = connect(client, request, target, &assignment, &address, !fresh_repeat_used).await;
        let (upstream, reused) = match connected {
            Ok(connected) => connected,
            Err(failure) => {
                record_failure(target.route, &mut assignment, failure, target.worker.now());
                let unsent = request.unsent_attempt(failure);
                return AttemptEnd::Failed(FailedAttempt { fresh_repeat_used, ..unsent });
            }
        };
        if !reused {
            now = target.worker.now();
        }
        let mut attempt = Attempt { exchange: Exchange::new(upstream, assignment, now), address, reused };
        let end = match target.route.pool.hedges() && may_be_hedged(request) {
            false => attempt.exchange.run(client, request).await,
            true => match Box::pin(run_hedged(attempt, client, request, target)).await {
                HedgeOutcome::Ended(end, selected) => {
                    attempt = *selected;
                    end
                }
                HedgeOutcome::Aborted(end) => return AttemptEnd::Ended(aborted(client, true, end)),
                HedgeOutcome::AllFailed(failed) => return AttemptEnd::Failed(failed),
            },
        };
        match finish_attempt(client, request, target, attempt, end, fresh_repeat_used).await {
            Next::End(end) => return end,
            Next::RepeatFresh(repeated) => {
                (assignment, address) = *repeated;
                fresh_repeat_used = true;
                now = target.worker.now();
            }
        }
    }
}

/// Next step after an exchange with a destination.
enum Next {
    End(AttemptEnd),
    /// The idle connection was stale: the request is repeated on a fresh one.
    RepeatFresh(Box<(Assignment, Address)>),
}

/// Obtains a connection for an attempt: an idle one if `may_reuse`, else a new one. Also returns whether it was idle.
async fn connect<D: Downstream>(
    client: &D,
    request: &mut RequestContext,
    target: &Target<'_>,
    assignment: &Assignment,
    address: &Address,
    may_reuse: bool,
) -> Result<(Upstream, bool), Failure> {
    let (pool, id, now) = (&target.route.pool, assignment.id(), assignment.started());
    if may_reuse && let Some(ready) = pool.ready_upstream(id, address, &request.connection_needs(), now) {
        return Ok((upstream_for(ready, request), true));
    }
    let now = if may_reuse { now } else { target.worker.now() };
    let deadline = (now + request.pool_timeouts.connect).min(request.total_deadline);
    target.worker.timers.set(client.timer(), deadline);
    let needed = pool.connect_request(id, address, &request.connection_needs());
    // Boxed because it is rare, and as large as the rest of the future together.
    let opened = connect_within(client.timer(), Box::pin(pool.open(&needed))).await?;
    Ok((upstream_for(opened, request), false))
}

/// Settles an attempt after its exchange has ended.
async fn finish_attempt<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
    attempt: Attempt,
    end: ExchangeEnd,
    fresh_repeat_used: bool,
) -> Next {
    let Target { worker, route, .. } = *target;
    let mut attempt = attempt;
    report(route, attempt.exchange.signal.take());
    let failure = match end {
        ExchangeEnd::Failed(failure) => failure,
        ExchangeEnd::Rejected => return Next::End(AttemptEnd::Discarded),
        ExchangeEnd::Upgraded => {
            let unsent = attempt.exchange.unsent().to_vec();
            let Exchange { upstream, assignment, .. } = attempt.exchange;
            Box::pin(client.tunnel(request, worker, upstream, unsent)).await;
            drop(assignment);
            let end = RequestEnd::Delivered(AfterResponse::Close, worker.now());
            return Next::End(AttemptEnd::Ended(end));
        }
        ExchangeEnd::Delivered => {
            return Next::End(AttemptEnd::Ended(delivered(client, request, target, attempt)));
        }
        other => {
            let unanswered = attempt.exchange.response().is_none();
            return Next::End(AttemptEnd::Ended(aborted(client, unanswered, other)));
        }
    };
    let failed = FailedAttempt { fresh_repeat_used, ..attempt.failed(request, failure) };
    let stale = failed.is_stale();
    if stale && may_be_repeated_fresh(target, &failed) {
        return Next::RepeatFresh(Box::new((attempt.exchange.assignment, attempt.address)));
    }
    // A stale connection is no evidence against its destination, also where the request may not be repeated.
    if !stale {
        record_failure(route, &mut attempt.exchange.assignment, failure, worker.now());
    }
    Next::End(match attempt.exchange.response_started() {
        true => AttemptEnd::Ended(truncated(&attempt.exchange, client, failure)),
        false => AttemptEnd::Failed(failed),
    })
}

/// Reports whether a request that failed on a stale idle connection may be repeated on a fresh one.
fn may_be_repeated_fresh(target: &Target<'_>, failed: &FailedAttempt) -> bool {
    let pool = target.route.pool.table.borrow();
    let now = target.worker.now();
    let fresh = retry::decide(&pool.config.retry, failed, &pool.budget, now) == Decision::RepeatFresh;
    if fresh {
        pool.counters.of(target.worker.number).repeated(failed.failure);
    }
    fresh
}

/// Ends a request after its response was sent to the client in full, and keeps the connection for the next one.
fn delivered<D: Downstream>(
    client: &D,
    request: &RequestContext,
    target: &Target<'_>,
    attempt: Attempt,
) -> RequestEnd {
    let Attempt { exchange, address, .. } = attempt;
    let (pool, now) = (&target.route.pool, exchange.ended_at(target.worker));
    let reusable = exchange.reusable(request);
    let closes = exchange.response().is_none_or(|response| response.closes);
    let body_withheld = exchange.response().is_some_and(|response| response.body_withheld);
    let Exchange { upstream, assignment, .. } = exchange;
    match (upstream, reusable, body_withheld) {
        (Upstream::Http1(stream), true, false) => {
            pool.put_idle(assignment.id(), address, stream, request.origin.as_ref(), now);
        }
        (Upstream::Http1(stream), true, true) => pool.put_quarantined(assignment.id(), address, stream, now),
        (Upstream::Http2(_), ..) | (_, false, _) => {}
    }
    RequestEnd::Delivered(client.after_response(closes, request), now)
}

/// Ends a request after its exchange ended for a reason that is not the destination's.
fn aborted<D: Downstream>(client: &mut D, unanswered: bool, end: ExchangeEnd) -> RequestEnd {
    match end {
        ExchangeEnd::LocalReply(reply) if unanswered => RequestEnd::LocalReply(reply),
        ExchangeEnd::LocalReply(reply) => cut_off(client, reply.reason),
        ExchangeEnd::TotalTimeout if unanswered => RequestEnd::LocalReply(LocalReply::TOTAL_TIMEOUT),
        ExchangeEnd::TotalTimeout => cut_off(client, Reason::TotalTimeout),
        ExchangeEnd::ClientStalled => cut_off(client, Reason::ClientTimeout),
        _ => RequestEnd::Aborted(Reason::ClientClosed),
    }
}

/// Ends a request with a response that had started and cannot be finished.
fn truncated<D: Downstream>(exchange: &Exchange, client: &mut D, failure: Failure) -> RequestEnd {
    if exchange.response().is_none() {
        // Only an informational response was sent: a final one is still possible.
        return RequestEnd::LocalReply(failure.into());
    }
    cut_off(client, failure.into())
}

/// Ends the client's side so that the client cannot take the response for a complete one.
fn cut_off<D: Downstream>(client: &mut D, reason: Reason) -> RequestEnd {
    client.reset();
    RequestEnd::Aborted(reason)
}

/// Sends a local reply to the client.
async fn send_local_reply<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    worker: &Rc<WorkerContext>,
    reply: LocalReply,
) -> AfterResponse {
    count_reason(request, worker, reply.reason);
    request.status = reply.status;
    client.local_reply(request, worker, reply).await
}

/// Counts why a request ended without a destination's response, and adds it to the log line.
fn count_reason(request: &mut RequestContext, worker: &WorkerContext, reason: Reason) {
    request.routes.table.shared.counters.of(worker.number).refuse(reason);
    if let Some(log) = &mut request.log {
        log.reason = Some(reason);
    }
}
