//! The life of a request, from its route to the end of its answer.
//!
//! route (done when the head was read) → balance_load → connection → exchange → outcome → retry or answer.

use std::io;
use std::rc::Rc;

use plimsoll_core::retry::{self, Decision, FailedAttempt};
use plimsoll_core::{
    Address, AttemptedSet, DestinationId, Failure, FailureSignal, NoDestination, Outcome, PickRequest, Tick,
};

use crate::base::context::WorkerContext;
use crate::base::counters::Before;
use crate::base::reason::Reason;
use crate::base::timer::Timer;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{End, Exchange, upstream_for};
use crate::forward::hedge::{Raced, Runner, may_be_hedged, race};
use crate::forward::request_context::Job;
use crate::http::local_reply::Refusal;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::RequestLine;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Stream, is_for_want_of_means};
use crate::upstream::pool::{Chosen, WorkerPool};
use crate::upstream::queue::{self, Unplaced};
use crate::upstream::upstream_stream::Upstream;

/// What becomes of the client's connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another request may come.
    KeepAlive,
    /// It is over.
    Close,
    /// It is over, and the client may still be sending: a close with bytes unread would be a reset, and
    /// take back what is on its way.
    Linger,
}

/// How the tries ended, all together.
enum Ending {
    /// The answer was delivered; it ended at this moment.
    Answered(Verdict, Tick),
    /// We answer ourselves.
    Refuse(Refusal),
    /// There is nobody to answer.
    Gone(Reason),
}

/// How one destination was.
enum Try {
    /// That was it.
    Ended(Ending),
    /// It failed; whether another is tried is for [`retry::decide`] to say.
    Failed(FailedAttempt),
    /// It answered, and another may do better: already decided.
    Rejected,
}

/// Carries one request to a destination and its answer back.
pub(crate) async fn forward<D: Downstream>(client: &mut D, job: &mut Job) -> Verdict {
    let worker = client.guard().worker.clone();
    let Some(rule) = job.view.routes.get(job.rule).cloned() else {
        let verdict = refuse(client, job, &worker, Refusal::NO_ROUTE).await;
        log(job, &worker, None, worker.now());
        return verdict;
    };
    let tally = rule.table.tallies.of(worker.number);
    tally.started.add(1);
    let ending = tries(client, job, &worker, &rule).await;
    let (verdict, now) = match ending {
        Ending::Answered(verdict, now) => (verdict, now),
        Ending::Refuse(refusal) => (refuse(client, job, &worker, refusal).await, worker.now()),
        Ending::Gone(reason) => {
            note(job, &worker, reason);
            (Verdict::Close, worker.now())
        }
    };
    let tally = rule.table.tallies.of(worker.number);
    tally.ended.add(1);
    tally.request_bytes.add(job.request_bytes);
    tally.response_bytes.add(job.response_bytes);
    tally.request(job.method, job.status, now.since(job.started));
    job.retrying = None;
    log(job, &worker, Some(&rule), now);
    verdict
}

fn log(job: &mut Job, worker: &WorkerContext, rule: Option<&WorkerRoute>, now: Tick) {
    if let (Some(log), Some(draft)) = (&worker.log, job.log.take()) {
        let destination = rule.zip(draft.destination).and_then(|(rule, id)| rule.pool.name_of(id));
        log.send(RequestLine {
            draft: *draft,
            listener: job.view.table.config.name.clone(),
            route: rule.map(|rule| rule.table.name.clone()),
            pool: rule.map(|rule| rule.table.pool.config.name.clone()),
            destination,
            status: job.status,
            request_bytes: job.request_bytes,
            response_bytes: job.response_bytes,
            total: now.since(job.started),
        });
    }
}

/// Tries destinations until one answers, none is left, or trying again would not be safe.
async fn tries<D: Downstream>(
    client: &mut D,
    job: &mut Job,
    worker: &Rc<WorkerContext>,
    rule: &WorkerRoute,
) -> Ending {
    let pool = rule.pool.table.borrow().clone();
    pool.budget.earn(worker.number);
    let mut tried = AttemptedSet::default();
    let mut before = None;
    let mut last = Refusal::NO_DESTINATION;
    let mut now = job.started;
    loop {
        let mut chosen = choose(job, worker, rule, &tried, now);
        if matches!(chosen, Err(NoDestination::Full)) {
            // Boxed, because it is rare.
            chosen = match Box::pin(wait(client, job, worker, rule, &tried)).await {
                Ok(chosen) => Ok(chosen),
                Err(Unplaced::Nobody(why)) => Err(why),
                Err(unplaced) => {
                    pool.tallies.of(worker.number).decided(Some(NoDestination::Full), before);
                    return unserved(job, worker, unplaced);
                }
            };
            now = worker.now();
        }
        pool.tallies.of(worker.number).decided(chosen.as_ref().err().copied(), before);
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(NoDestination::AllTried) => return Ending::Refuse(last),
            Err(_) => return Ending::Refuse(Refusal::NO_DESTINATION),
        };
        tried.add(chosen.assignment.id());
        job.tries += 1;
        let when = &pool.config.retry.when;
        job.others_left = when.lists_responses(job.is_call) && rule.has_untried(&tried);
        let failed = match try_one(client, job, worker, rule, chosen, &mut tried, now).await {
            Try::Ended(ending) => return ending,
            Try::Rejected => None,
            Try::Failed(failed) => Some(failed),
        };
        now = worker.now();
        if now >= job.total_deadline {
            return Ending::Refuse(Refusal::TOTAL_TIMEOUT);
        }
        let Some(failed) = failed else {
            before = Some(Before::Rejected);
            continue;
        };
        last = refusal_of(failed.failure);
        if !job.may_try_again(&pool, worker.number) {
            return Ending::Refuse(last);
        }
        match retry::decide(&pool.config.retry, &failed, &pool.budget, now) {
            Decision::Stop(_) => return Ending::Refuse(last),
            Decision::Retry | Decision::RepeatFresh => before = Some(Before::Failed(failed.failure)),
        }
    }
}

/// The destination of the next try.
pub(crate) fn choose(
    job: &Job,
    worker: &WorkerContext,
    rule: &WorkerRoute,
    tried: &AttemptedSet,
    now: Tick,
) -> Result<Chosen, NoDestination> {
    rule.pool.balance_load(&want(job, worker, rule, tried), now, &mut worker.rng.borrow_mut())
}

fn want<'t>(
    job: &Job,
    worker: &WorkerContext,
    rule: &'t WorkerRoute,
    tried: &'t AttemptedSet,
) -> PickRequest<'t> {
    PickRequest {
        worker: worker.number,
        tried: Some(tried),
        repeatable: job.method.is_idempotent(),
        key: job.key,
        affinity_key: None,
        subset: rule.table.subset.as_deref(),
        dequeued: false,
    }
}

/// The same once there is room for it.
async fn wait<D: Downstream>(
    client: &mut D,
    job: &mut Job,
    worker: &Rc<WorkerContext>,
    rule: &WorkerRoute,
    tried: &AttemptedSet,
) -> Result<Chosen, Unplaced> {
    let (want, timer) = (want(job, worker, rule, tried), client.timer().clone());
    let began = worker.now();
    let bounds = (&timer, job.total_deadline);
    let found = queue::wait(worker, &rule.pool, &want, bounds, |cx| client.is_gone(cx, job)).await;
    if let Some(log) = &mut job.log {
        *log.queued.get_or_insert_default() += worker.now().since(began);
    }
    found
}

/// It found no place, or not in time.
fn unserved(job: &Job, worker: &WorkerContext, unplaced: Unplaced) -> Ending {
    match unplaced {
        Unplaced::Gone => Ending::Gone(Reason::ClientClosed),
        _ if worker.now() >= job.total_deadline => Ending::Refuse(Refusal::TOTAL_TIMEOUT),
        Unplaced::TimedOut => Ending::Refuse(Refusal::QUEUE_TIMEOUT),
        Unplaced::Overflow => Ending::Refuse(Refusal::OVERFLOW),
        Unplaced::Nobody(_) => Ending::Refuse(Refusal::NO_DESTINATION),
    }
}

/// One destination: on a pooled connection if there is one, once more on a fresh one if that was stale.
async fn try_one<D: Downstream>(
    client: &mut D,
    job: &mut Job,
    worker: &Rc<WorkerContext>,
    rule: &WorkerRoute,
    chosen: Chosen,
    tried: &mut AttemptedSet,
    mut now: Tick,
) -> Try {
    let Chosen { mut assignment, mut address } = chosen;
    let mut fresh_repeat_used = false;
    if let Some(log) = &mut job.log {
        log.destination = Some(assignment.id());
    }
    loop {
        let obtained = match fresh_repeat_used {
            false => rule.pool.ready_upstream(assignment.id(), &address, &job.connection_needs(), now),
            true => None,
        };
        let mut reused = obtained.is_some();
        let upstream = match obtained {
            Some(opened) => upstream_for(opened, job),
            None => {
                let deadline = (now + job.pool_timeouts.connect).min(job.total_deadline);
                worker.timers.set(client.timer(), deadline);
                let wanted = rule.pool.wanted(assignment.id(), &address, &job.connection_needs());
                // Boxed, because it is rare and as large as the rest of the future together.
                match within(client.timer(), Box::pin(rule.pool.open(&wanted))).await {
                    Ok(opened) => {
                        now = worker.now();
                        upstream_for(opened, job)
                    }
                    Err(failure) => {
                        tell(rule, assignment.record(worker.now(), Outcome::Failed(failure)));
                        return Try::Failed(FailedAttempt { fresh_repeat_used, ..attempt(job, failure) });
                    }
                }
            }
        };
        let mut exchange = Exchange::new(upstream, assignment, now);
        let end = match rule.pool.hedges() && may_be_hedged(job) {
            false => exchange.run(client, job).await,
            true => {
                let first = Runner { exchange, address, reused };
                match Box::pin(race(first, client, job, worker, rule, tried)).await {
                    Raced::Ended(end, left) => {
                        Runner { exchange, address, reused } = *left;
                        end
                    }
                    Raced::BrokenOff(end) => return Try::Ended(broken_off(client, true, end)),
                    Raced::AllFailed(attempt) => return Try::Failed(attempt),
                }
            }
        };
        tell(rule, exchange.signal.take());
        let failure = match end {
            End::Failed(failure) => failure,
            End::Rejected => return Try::Rejected,
            End::Upgraded => {
                Box::pin(client.tunnel(job, worker, exchange)).await;
                return Try::Ended(Ending::Answered(Verdict::Close, worker.now()));
            }
            End::Delivered => return Try::Ended(delivered(client, job, worker, rule, &address, exchange)),
            other => return Try::Ended(broken_off(client, exchange.answer().is_none(), other)),
        };
        let attempt = FailedAttempt {
            sent: exchange.has_sent(),
            reused_connection: reused,
            fresh_repeat_used,
            response_started: exchange.response_started(),
            ..attempt(job, failure)
        };
        let stale = attempt.is_stale();
        if stale && may_be_repeated_fresh(worker, rule, &attempt) {
            fresh_repeat_used = true;
            assignment = exchange.assignment;
            now = worker.now();
            continue;
        }
        // That a connection was stale says nothing about its destination, also where it may not be repeated.
        if !stale {
            tell(rule, exchange.assignment.record(worker.now(), Outcome::Failed(failure)));
        }
        if exchange.response_started() {
            return Try::Ended(cut_off(&exchange, client, failure));
        }
        return Try::Failed(attempt);
    }
}

/// A try of this job that failed before anything was sent.
pub(crate) fn attempt(job: &Job, failure: Failure) -> FailedAttempt {
    FailedAttempt {
        failure,
        attempts: job.tries,
        idempotent: job.method.is_idempotent(),
        sent: false,
        reused_connection: false,
        fresh_repeat_used: false,
        body_replayable: !job.streamed,
        response_started: false,
    }
}

/// It was only the pooled connection that failed: may the message have a fresh one?
fn may_be_repeated_fresh(worker: &WorkerContext, rule: &WorkerRoute, attempt: &FailedAttempt) -> bool {
    let pool = rule.pool.table.borrow();
    let fresh =
        retry::decide(&pool.config.retry, attempt, &pool.budget, worker.now()) == Decision::RepeatFresh;
    if fresh {
        pool.tallies.of(worker.number).repeated(attempt.failure);
    }
    fresh
}

/// The answer is with the client, to its end.
fn delivered<D: Downstream>(
    client: &D,
    job: &Job,
    worker: &WorkerContext,
    rule: &WorkerRoute,
    address: &Address,
    exchange: Exchange,
) -> Ending {
    let now = exchange.ended_at(worker);
    let reusable = exchange.reusable(job);
    let closes = exchange.answer().is_none_or(|a| a.closes);
    let rests = exchange.answer().is_some_and(|a| a.body_withheld);
    let Exchange { upstream, assignment, .. } = exchange;
    match (upstream, reusable, rests) {
        (Upstream::Http1(stream), true, false) => {
            rule.pool.give(assignment.id(), address.clone(), stream, job.origin.as_ref(), now);
        }
        (Upstream::Http1(stream), true, true) => {
            rule.pool.give_to_rest(assignment.id(), address.clone(), stream, now);
        }
        (Upstream::Http2(_), ..) | (_, false, _) => {}
    }
    Ending::Answered(client.after(closes, job), now)
}

/// It ended, and not by the destination's fault.
fn broken_off<D: Downstream>(client: &mut D, unanswered: bool, end: End) -> Ending {
    match end {
        End::Refused(refusal) if unanswered => Ending::Refuse(refusal),
        End::Refused(refusal) => cut_off_for(client, refusal.reason),
        End::TotalTimeout if unanswered => Ending::Refuse(Refusal::TOTAL_TIMEOUT),
        End::TotalTimeout => cut_off_for(client, Reason::TotalTimeout),
        End::ClientStalled => cut_off_for(client, Reason::ClientTimeout),
        _ => Ending::Gone(Reason::ClientClosed),
    }
}

/// The answer had begun and cannot be finished: the client must see that.
fn cut_off<D: Downstream>(exchange: &Exchange, client: &mut D, failure: Failure) -> Ending {
    if exchange.answer().is_none() {
        // Only an informational answer went out: a final one is still possible.
        return Ending::Refuse(refusal_of(failure));
    }
    cut_off_for(client, refusal_of(failure).reason)
}

fn cut_off_for<D: Downstream>(client: &mut D, reason: Reason) -> Ending {
    client.break_off();
    Ending::Gone(reason)
}

fn refusal_of(failure: Failure) -> Refusal {
    match failure {
        Failure::Connect => Refusal::CONNECT_FAILED,
        Failure::NoResources => Refusal::NO_RESOURCES,
        Failure::Reset => Refusal::RESET,
        Failure::EmptyResponse => Refusal::EMPTY_RESPONSE,
        Failure::Timeout => Refusal::RESPONSE_TIMEOUT,
        Failure::Garbage => Refusal::BAD_RESPONSE,
        Failure::Truncated => Refusal { reason: Reason::Truncated, ..Refusal::BAD_RESPONSE },
    }
}

/// Passes a word on to the slow loop.
pub(crate) fn tell(rule: &WorkerRoute, signal: Option<FailureSignal>) {
    if let Some(signal) = signal {
        // A full queue loses nothing: the next bad outcome says it again.
        let _said_again_later = rule.pool.table.borrow().signals.try_send(signal);
    }
}

/// Connects to a destination of `pool` within `deadline`.
///
/// # Errors
/// [`Failure::Connect`], or [`Failure::NoResources`] when it is our own means that did not suffice.
pub(crate) async fn connect(
    worker: &WorkerContext,
    timer: &Rc<Timer>,
    pool: &WorkerPool,
    (id, address): (DestinationId, &Address),
    origin: Option<&Origin>,
    deadline: Tick,
) -> Result<Stream, Failure> {
    worker.timers.set(timer, deadline);
    within(timer, pool.connect(id, address, origin)).await
}

/// What a connection came to before its timer rang.
async fn within<T>(timer: &Rc<Timer>, opening: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match timer.within(opening).await {
        Some(Ok(opened)) => Ok(opened),
        Some(Err(error)) => Err(failure_of(&error)),
        None => Err(Failure::Connect),
    }
}

/// Why no connection came to be.
pub(crate) fn failure_of(error: &io::Error) -> Failure {
    if is_for_want_of_means(error) { Failure::NoResources } else { Failure::Connect }
}

/// Answers the client ourselves.
async fn refuse<D: Downstream>(
    client: &mut D,
    job: &mut Job,
    worker: &Rc<WorkerContext>,
    refusal: Refusal,
) -> Verdict {
    note(job, worker, refusal.reason);
    job.status = refusal.status;
    client.refuse(job, worker, refusal).await
}

/// Counts why, and leaves it for the log line.
fn note(job: &mut Job, worker: &WorkerContext, reason: Reason) {
    job.view.table.shared.tallies.of(worker.number).refuse(reason);
    if let Some(log) = &mut job.log {
        log.reason = Some(reason);
    }
}
