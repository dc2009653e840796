//! Whether a message that waits for its answer is sent to a second destination, and whose answer it gets.
//!
//! Only in pools that hedge. Until an answer begins all who were asked are listened to; then the others are left
//! (their connection closes, their stream is reset) and the rest is a try like any other.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use plimsoll_core::retry::FailedAttempt;
use plimsoll_core::{Address, AttemptedSet, Failure, Outcome, Tick};
use tokio::time::{Sleep, sleep};

use crate::base::context::WorkerContext;
use crate::base::counters::Hedged;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{End, Exchange, upstream_for};
use crate::forward::request::{attempt, choose, failure_of, tell};
use crate::forward::request_context::Job;
use crate::listener::worker_listener::WorkerRoute;
use crate::upstream::h2_connections::Opened;
use crate::upstream::hedge_delay::HedgeDelay;
use crate::upstream::pool::Chosen;
use crate::upstream::upstream_stream::Upstream;

/// One who was asked.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) exchange: Exchange,
    pub(crate) address: Address,
    /// It runs on a connection that had served before.
    pub(crate) reused: bool,
}

/// Somebody who was asked and may still answer.
struct Entry {
    runner: Runner,
    is_copy: bool,
    /// When its next byte is due.
    due: Tick,
}

impl Runner {
    /// What its failure comes to for the rules of trying again.
    pub(crate) fn attempt(&self, job: &Job, failure: Failure) -> FailedAttempt {
        FailedAttempt {
            sent: self.exchange.has_sent(),
            reused_connection: self.reused,
            response_started: self.exchange.response_started(),
            ..attempt(job, failure)
        }
    }
}

/// How it ended.
pub(crate) enum Raced {
    /// So, with the one who was left.
    Ended(End, Box<Runner>),
    /// So, before anybody's answer began, and by no destination's fault.
    BrokenOff(End),
    /// All who were asked failed, this one last; it is blamed already.
    AllFailed(FailedAttempt),
}

/// May this message be sent twice? The destination must do the same as often as it is asked, and all of it must
/// be at hand, framed alike for everybody.
pub(crate) fn may_be_hedged(job: &Job) -> bool {
    job.method.is_idempotent() && job.is_at_hand() && !job.upgrade
}

/// Runs a try that others may be sent after, to its end.
pub(crate) async fn race<D: Downstream>(
    first: Runner,
    client: &mut D,
    job: &mut Job,
    worker: &Rc<WorkerContext>,
    rule: &WorkerRoute,
    tried: &mut AttemptedSet,
) -> Raced {
    let mut race = Race::new(first, job, worker, rule, tried);
    let decided = std::future::poll_fn(|cx| race.poll(cx, client, job)).await;
    drop(race);
    job.has_rivals = false;
    match decided {
        Decided::Answered(mut winner) => {
            let end = winner.exchange.run(client, job).await;
            Raced::Ended(end, winner)
        }
        Decided::Over(raced) => raced,
    }
}

enum Decided {
    /// This one's answer has begun.
    Answered(Box<Runner>),
    /// There is no more to it.
    Over(Raced),
}

/// A connection for a copy, on its way.
struct Opening {
    chosen: Chosen,
    deadline: Tick,
    connecting: Pin<Box<dyn Future<Output = io::Result<Opened>>>>,
}

struct Race<'r> {
    worker: &'r Rc<WorkerContext>,
    rule: &'r WorkerRoute,
    tried: &'r mut AttemptedSet,
    started: Tick,
    /// Who was asked and may still answer.
    runners: Vec<Entry>,
    opening: Option<Opening>,
    /// When the next copy is due.
    due: Option<Pin<Box<Sleep>>>,
    copies_left: u8,
    /// What the client's timer is set to.
    timer_at: Option<Tick>,
    /// How the last of those who are out failed.
    fallen: Option<FailedAttempt>,
}

impl<'r> Race<'r> {
    fn new(
        first: Runner,
        job: &Job,
        worker: &'r Rc<WorkerContext>,
        rule: &'r WorkerRoute,
        tried: &'r mut AttemptedSet,
    ) -> Self {
        let most = rule.pool.hedge_delay.borrow().as_ref().map_or(0, |hedge_delay| hedge_delay.spec.max);
        let started = first.exchange.assignment.started();
        let copies_left = most.saturating_sub(job.copies);
        let runners = vec![Entry { runner: first, is_copy: false, due: Tick::NEVER }];
        let mut race = Self {
            worker,
            rule,
            tried,
            started,
            runners,
            opening: None,
            due: None,
            copies_left,
            timer_at: None,
            fallen: None,
        };
        race.wait();
        race
    }

    /// The next copy is due a wait from now.
    fn wait(&mut self) {
        let wait = self.rule.pool.hedge_delay.borrow().as_ref().and_then(HedgeDelay::wait);
        self.due = wait.filter(|_| self.copies_left > 0).map(|wait| Box::pin(sleep(wait)));
    }

    fn poll<D: Downstream>(&mut self, cx: &mut Context<'_>, client: &mut D, job: &mut Job) -> Poll<Decided> {
        loop {
            if let Some(decided) = self.poll_runners(cx, client, job) {
                return Poll::Ready(decided);
            }
            if self.poll_opening(cx, job) || self.poll_due(cx, job) {
                continue;
            }
            if self.runners.is_empty() && self.opening.is_none() {
                let failed = self.fallen.take().unwrap_or_else(|| attempt(job, Failure::Connect));
                return Poll::Ready(Decided::Over(Raced::AllFailed(failed)));
            }
            if client.is_gone(cx, job) {
                return Poll::Ready(self.broken_off(End::ClientGone));
            }
            let deadline = self.deadline(job);
            // Setting an timer that has fired would silence it.
            if self.timer_at.replace(deadline) != Some(deadline) {
                self.worker.timers.set(client.timer(), deadline);
            }
            if client.timer().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer_at = None;
            if let Some(decided) = self.timed_out(job) {
                return Poll::Ready(decided);
            }
        }
    }

    /// Moves everybody's bytes.
    fn poll_runners<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        job: &mut Job,
    ) -> Option<Decided> {
        let mut at = 0;
        while at < self.runners.len() {
            job.has_rivals = self.runners.len() > 1;
            let Entry { runner: Runner { exchange, .. }, due, .. } = &mut self.runners[at];
            let moved = exchange.poll_bytes(cx, self.worker, client, job);
            let answered = exchange.response_started();
            match moved {
                Ok(()) if answered => return Some(Decided::Answered(self.win(at, job))),
                Ok(()) => {
                    *due = exchange.next_deadline(self.worker, job).unwrap_or(*due);
                    at += 1;
                }
                Err(end) if answered || self.is_alone() => {
                    return Some(Decided::Over(Raced::Ended(end, self.win(at, job))));
                }
                Err(End::Failed(failure)) => self.fall(at, failure, job),
                Err(End::Rejected) => self.leave_rejected(at),
                Err(end) => return Some(self.broken_off(end)),
            }
        }
        None
    }

    fn is_alone(&self) -> bool {
        self.runners.len() == 1 && self.opening.is_none()
    }

    /// The copy's connection; `true` when there is news.
    fn poll_opening(&mut self, cx: &mut Context<'_>, job: &mut Job) -> bool {
        let Some(opening) = &mut self.opening else { return false };
        let Poll::Ready(connected) = opening.connecting.as_mut().poll(cx) else { return false };
        let Some(Opening { chosen, .. }) = self.opening.take() else { return false };
        match connected {
            Ok(opened) => self.send(upstream_for(opened, job), chosen, false),
            Err(error) => self.could_not_open(chosen, failure_of(&error), job),
        }
        true
    }

    fn could_not_open(&mut self, chosen: Chosen, failure: Failure, job: &Job) {
        let Chosen { mut assignment, .. } = chosen;
        tell(self.rule, assignment.record(self.worker.now(), Outcome::Failed(failure)));
        self.count(Hedged::Failed);
        self.fallen = Some(attempt(job, failure));
    }

    fn send(&mut self, upstream: Upstream, chosen: Chosen, reused: bool) {
        let Chosen { assignment, address } = chosen;
        let exchange = Exchange::new(upstream, assignment, self.worker.now());
        let runner = Runner { exchange, address, reused };
        self.runners.push(Entry { runner, is_copy: true, due: Tick::NEVER });
    }

    /// Sends a copy when it is time; `true` when there is one.
    fn poll_due(&mut self, cx: &mut Context<'_>, job: &mut Job) -> bool {
        let Some(due) = &mut self.due else { return false };
        if self.opening.is_some() || due.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.due = None;
        let Some(chosen) = self.choose(job) else { return false };
        self.copies_left -= 1;
        job.copies += 1;
        job.tries = job.tries.saturating_add(1);
        self.tried.add(chosen.assignment.id());
        job.others_left &= self.rule.has_untried(self.tried);
        self.wait();
        let pool = &self.rule.pool;
        if let Some(upstream) = pool.ready_upstream(
            chosen.assignment.id(),
            &chosen.address,
            &job.connection_needs(),
            chosen.assignment.started(),
        ) {
            self.send(upstream_for(upstream, job), chosen, true);
            return true;
        }
        let deadline = (chosen.assignment.started() + job.pool_timeouts.connect).min(job.total_deadline);
        let wanted = pool.wanted(chosen.assignment.id(), &chosen.address, &job.connection_needs());
        let pool = pool.clone();
        let connecting = Box::pin(async move { pool.open(&wanted).await });
        self.opening = Some(Opening { chosen, deadline, connecting });
        true
    }

    /// Whom to ask as well, where there is somebody and it is paid for.
    fn choose(&mut self, job: &Job) -> Option<Chosen> {
        let now = self.worker.now();
        if !self.rule.has_untried(self.tried) {
            self.count(Hedged::Nobody);
            return None;
        }
        if !self.rule.pool.table.borrow().budget.withdraw(now) {
            self.count(Hedged::NoBudget);
            return None;
        }
        let chosen = choose(job, self.worker, self.rule, self.tried, now);
        let missed = chosen.as_ref().err().copied();
        self.rule.pool.table.borrow().tallies.of(self.worker.number).decided(missed, None);
        // A copy does not wait for a place: the message waits already.
        let chosen = chosen.ok();
        if chosen.is_none() {
            self.count(Hedged::Nobody);
        }
        chosen
    }

    fn count(&self, how: Hedged) {
        self.rule.pool.table.borrow().tallies.of(self.worker.number).hedged(how);
    }

    /// When the next byte that is due is late.
    fn deadline(&self, job: &Job) -> Tick {
        let opening = self.opening.iter().map(|opening| opening.deadline);
        self.runners.iter().map(|entry| entry.due).chain(opening).fold(job.total_deadline, Tick::min)
    }

    /// Those whose time is over have failed.
    fn timed_out(&mut self, job: &mut Job) -> Option<Decided> {
        let now = self.worker.now();
        if now >= job.total_deadline {
            for Entry { runner, .. } in &mut self.runners {
                runner.exchange.timed_out(self.worker, job);
                tell(self.rule, runner.exchange.signal.take());
            }
            return Some(self.broken_off(End::TotalTimeout));
        }
        if let Some(opening) = self.opening.take_if(|opening| opening.deadline <= now) {
            self.could_not_open(opening.chosen, Failure::Connect, job);
        }
        while let Some(late) = self.runners.iter().position(|entry| entry.due <= now) {
            if self.is_alone() {
                let end = self.runners[late].runner.exchange.timed_out(self.worker, job);
                return Some(Decided::Over(Raced::Ended(end, self.win(late, job))));
            }
            self.fall(late, Failure::Timeout, job);
        }
        None
    }

    /// One failed while others may still answer.
    fn fall(&mut self, at: usize, failure: Failure, job: &Job) {
        let Entry { mut runner, is_copy, .. } = self.runners.remove(at);
        let attempt = runner.attempt(job, failure);
        if !attempt.is_stale() {
            let now = self.worker.now();
            tell(self.rule, runner.exchange.assignment.record(now, Outcome::Failed(failure)));
        }
        if is_copy {
            self.count(Hedged::Failed);
        }
        self.fallen = Some(attempt);
    }

    /// One answered what another may do better than, and that other is asked already.
    fn leave_rejected(&mut self, at: usize) {
        let Entry { mut runner, is_copy, .. } = self.runners.remove(at);
        tell(self.rule, runner.exchange.signal.take());
        if is_copy {
            self.count(Hedged::Failed);
        }
    }

    /// This one it is; the others are left.
    fn win(&mut self, at: usize, job: &mut Job) -> Box<Runner> {
        let Entry { runner: winner, is_copy, .. } = self.runners.remove(at);
        let now = winner.exchange.ended_at(self.worker);
        let answered = winner.exchange.response_started();
        if is_copy {
            self.count(if answered { Hedged::Won } else { Hedged::Failed });
        }
        if answered && let Some(hedge_delay) = &mut *self.rule.pool.hedge_delay.borrow_mut() {
            hedge_delay.answered(now.since(self.started));
        }
        if let Some(log) = &mut job.log {
            log.destination = Some(winner.exchange.assignment.id());
        }
        self.leave_others(now);
        Box::new(winner)
    }

    fn broken_off(&mut self, end: End) -> Decided {
        self.leave_others(self.worker.now());
        Decided::Over(Raced::BrokenOff(end))
    }

    fn leave_others(&mut self, now: Tick) {
        for Entry { runner, is_copy, .. } in std::mem::take(&mut self.runners) {
            if is_copy {
                self.count(Hedged::Lost);
            }
            runner.exchange.assignment.cancelled_by_hedge(now);
        }
        if self.opening.take().is_some() {
            self.count(Hedged::Lost);
        }
    }
}
