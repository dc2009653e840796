//! The life of a request, from its route to the end of its response.
//!
//! Each attempt picks a destination ([`Attempts`](crate::forward::attempts::Attempts)), obtains a connection, and runs
//! an exchange on it, hedged where the pool asks for that. The outcome is recorded, and a failure is followed by
//! another attempt where that is safe; otherwise the client gets a local reply.

use std::rc::Rc;
use std::task::Poll;

use plimsoll_core::retry::{self, Decision, FailedAttempt};
use plimsoll_core::{Address, Assignment, Failure, Tick};

use crate::base::context::WorkerContext;
use crate::base::memory;
use crate::base::reason::Reason;
use crate::forward::attempts::{AttemptError, Target, connect_failure, report};
use crate::forward::downstream::{AfterResponse, Downstream};
use crate::forward::exchange::{Exchange, upstream_for};
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::hedge::{Attempt, HedgeOutcome, failed_attempt, may_be_hedged, run_hedged};
use crate::forward::request_context::RequestContext;
use crate::http::local_reply::LocalReply;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::RequestLine;
use crate::upstream::chosen::Chosen;
use crate::upstream::h2_connections::NewUpstream;
use crate::upstream::pool::WorkerPool;
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
    let end = match memory::is_full() {
        true => RequestEnd::LocalReply(LocalReply::MEMORY_LIMIT),
        false => run_attempts(client, request, &worker, &route).await,
    };
    let (after, now) = match end {
        RequestEnd::Delivered(after, now) => (after, now),
        RequestEnd::LocalReply(reply) => {
            (send_local_reply(client, request, &worker, reply).await, worker.now())
        }
        RequestEnd::Aborted(reason) => {
            count_reason(request, &worker, reason);
            (AfterResponse::Close, worker.now())
        }
    };
    request.attempts.settle(&route, false, now);
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
        sent_later: true,
        deadline: request.total_deadline,
    };
    route.table.pool.budget.earn(worker.number);
    let mut now = request.started;
    loop {
        let chosen = match stay_at_dedicated(client, request, &target, now) {
            Some(chosen) => chosen,
            None => {
                let (timer, complete) = (client.timer().clone(), request.body.is_done());
                let is_gone = |cx: &mut std::task::Context<'_>| client.is_disconnected(cx, complete);
                match request.attempts.next(&target, &timer, is_gone, now).await {
                    Ok(chosen) => chosen,
                    Err(error) => return attempts_over(error),
                }
            }
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

/// Chooses the destination to which the client has an authenticated connection.
#[inline]
fn stay_at_dedicated<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
    now: Tick,
) -> Option<Chosen> {
    let dedicated = client.dedicated().filter(|_| request.attempts.count() == 0)?;
    let stays_at = dedicated.destination_of(target.route.pool.number())?;
    request.attempts.stay(target, stays_at, now)
}

/// Returns a connection to the destination that is ready.
#[inline]
fn ready_upstream<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    pool: &WorkerPool,
    (assignment, address): (&Assignment, &Address),
    now: Tick,
) -> Option<NewUpstream> {
    if let Some(dedicated) = client.dedicated()
        && let Some(stream) = dedicated.take(pool.number(), assignment.id(), address)
    {
        request.dedicated = true;
        return Some(NewUpstream::Http1(stream));
    }
    pool.ready_upstream(assignment.id(), address, &request.connection_needs(), now)
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
    let pool = &target.route.pool;
    let mut now = assignment.started();
    let mut fresh_repeat_used = false;
    if let Some(log) = &mut request.log {
        log.destination = Some(assignment.id());
    }
    loop {
        let ready = match fresh_repeat_used {
            false => ready_upstream(client, request, pool, (&assignment, &address), now),
            true => None,
        };
        let mut reused = ready.is_some();
        let upstream = match ready {
            Some(ready) => upstream_for(ready, request),
            None => match connect(client, request, target, (&assignment, &address), now).await {
                Ok(upstream) => {
                    now = target.worker.now();
                    upstream
                }
                Err(None) => return AttemptEnd::Ended(RequestEnd::Aborted(Reason::ClientClosed)),
                Err(Some(failure)) => {
                    let now = target.worker.now();
                    request.attempts.record_failure(target.route, &mut assignment, failure, now);
                    let unsent = request.unsent_attempt(failure);
                    return AttemptEnd::Failed(FailedAttempt { fresh_repeat_used, ..unsent });
                }
            },
        };
        // The exchange is large: it stays where it is until its end.
        let mut exchange = Exchange::new(upstream, assignment, now);
        let end = match pool.hedges() && may_be_hedged(request) {
            false => exchange.run(client, request).await,
            true => {
                let first = Attempt { exchange, address, reused };
                match Box::pin(run_hedged(first, client, request, target)).await {
                    HedgeOutcome::Ended(end, selected) => {
                        Attempt { exchange, address, reused } = *selected;
                        end
                    }
                    HedgeOutcome::Aborted(end) => return AttemptEnd::Ended(aborted(client, true, end)),
                    HedgeOutcome::AllFailed(failed) => return AttemptEnd::Failed(failed),
                }
            }
        };
        report(target.route, exchange.signal.take());
        let failure = match end {
            ExchangeEnd::Delivered => {
                return AttemptEnd::Ended(delivered(client, request, target, address, exchange));
            }
            ExchangeEnd::Failed(failure) => failure,
            ExchangeEnd::Rejected => return AttemptEnd::Discarded,
            other => {
                return AttemptEnd::Ended(
                    Box::pin(unfinished(client, request, target, exchange, other)).await,
                );
            }
        };
        let failed =
            FailedAttempt { fresh_repeat_used, ..failed_attempt(&exchange, reused, request, failure) };
        if failed.is_stale() && may_be_repeated_fresh(target, &failed) {
            fresh_repeat_used = true;
            assignment = exchange.assignment;
            assignment.request_repeated();
            now = target.worker.now();
            continue;
        }
        return settle_failure(client, request, target, exchange, failed);
    }
}

/// Opens a connection for an attempt. `now` is when the attempt began. `Err(None)` means that the client has left.
async fn connect<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
    (assignment, address): (&Assignment, &Address),
    now: Tick,
) -> Result<Upstream, Option<Failure>> {
    let pool = &target.route.pool;
    let deadline = (now + request.pool_timeouts.connect).min(request.total_deadline);
    target.worker.timers.set(client.timer(), deadline);
    let needed = pool.connect_request(assignment.id(), address, &request.connection_needs());
    // Boxed because it is rare, and as large as the rest of the future together.
    let mut opening = Box::pin(pool.open(&needed));
    let complete = request.body.is_done();
    let opened = std::future::poll_fn(|cx| {
        if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
            return Poll::Ready(opened.map_err(|error| Some(connect_failure(&error))));
        }
        if client.is_disconnected(cx, complete) {
            return Poll::Ready(Err(None));
        }
        client.timer().poll(cx).map(|()| Err(Some(Failure::Connect)))
    });
    Ok(upstream_for(opened.await?, request))
}

/// Ends a request after an exchange that neither delivered a response nor failed.
async fn unfinished<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
    exchange: Exchange,
    end: ExchangeEnd,
) -> RequestEnd {
    if end != ExchangeEnd::Upgraded {
        keep_unsent(&exchange, request);
        return aborted(client, exchange.response().is_none(), end);
    }
    let unsent = exchange.unsent().to_vec();
    let Exchange { upstream, assignment, .. } = exchange;
    client.tunnel(request, target.worker, upstream, unsent).await;
    drop(assignment);
    RequestEnd::Delivered(AfterResponse::Close, target.worker.now())
}

/// Records a failed attempt that is not repeated on a fresh connection.
fn settle_failure<D: Downstream>(
    client: &mut D,
    request: &mut RequestContext,
    target: &Target<'_>,
    mut exchange: Exchange,
    failed: FailedAttempt,
) -> AttemptEnd {
    // A stale connection is no evidence against its destination, also where the request may not be repeated.
    if !failed.is_stale() {
        let now = target.worker.now();
        request.attempts.record_failure(target.route, &mut exchange.assignment, failed.failure, now);
    }
    keep_unsent(&exchange, request);
    match exchange.response_started() {
        true => AttemptEnd::Ended(truncated(&exchange, client, failed.failure)),
        false => AttemptEnd::Failed(failed),
    }
}

/// Keeps the rest of an informational response, so that a local reply follows it and does not cut into it.
fn keep_unsent(exchange: &Exchange, request: &mut RequestContext) {
    if exchange.response().is_none() {
        request.unsent = exchange.unsent().to_vec();
    }
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
    client: &mut D,
    request: &RequestContext,
    target: &Target<'_>,
    address: Address,
    exchange: Exchange,
) -> RequestEnd {
    let (pool, now) = (&target.route.pool, exchange.ended_at(target.worker));
    let reusable = exchange.reusable(request);
    let closes = exchange.response().is_none_or(|response| response.closes);
    let body_withheld = exchange.response().is_some_and(|response| response.body_withheld);
    let Exchange { upstream, assignment, .. } = exchange;
    match (upstream, reusable, body_withheld) {
        (Upstream::Http1(stream), true, _) if request.dedicated => {
            client.dedicate(pool.number(), assignment.id(), address, stream);
        }
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
        ExchangeEnd::RequiresHttp1 => RequestEnd::Aborted(Reason::ProtocolNotSupported),
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
