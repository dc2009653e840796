//! Messages in progress, and whether an event still concerns one of them.

use plimsoll_core::retry::{
    Decision, FailedAttempt, ResponseStatus, RetryBudget, RetrySpec, decide, decide_on_response,
};
use plimsoll_core::{Assignment, AttemptedSet, Failure, Tick, UnsettledFailures};

use crate::service_queue::JobId;

/// Identifier of one attempt of one message. It is not reused, so that events about a finished attempt have
/// no effect.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct AttemptId {
    index: u32,
    /// Serial number of the message.
    serial: u32,
    /// Number of the attempt; 0 means the message as a whole.
    nth: u8,
}

/// Message in progress.
#[derive(Debug)]
pub(super) struct Message {
    serial: u32,
    pub(super) planned: Tick,
    pub(super) balancer: usize,
    pub(super) worker: usize,
    pub(super) work: f64,
    pub(super) tried: AttemptedSet,
    pub(super) tries: u8,
    /// Hedged attempts so far.
    pub(super) hedges: u8,
    /// Attempts without a response: one, or several where the message was hedged.
    open: Vec<OpenAttempt>,
    /// Failures that may be the fault of the message.
    pub(super) unsettled: UnsettledFailures,
}

/// Attempt without a response.
#[derive(Debug)]
pub(super) struct OpenAttempt {
    nth: u8,
    pub(super) destination: usize,
    /// Whether it has arrived at its destination.
    pub(super) at_destination: bool,
    /// Whether it is a hedged attempt.
    pub(super) is_hedge: bool,
    pub(super) assignment: Assignment,
}

/// Result of an attempt.
#[derive(Copy, Clone, Debug)]
pub(super) enum AttemptResult {
    Failed(Failure),
    Status(u16),
}

/// All messages in progress.
#[derive(Debug, Default)]
pub(super) struct Messages {
    slots: Vec<Option<Message>>,
    free: Vec<u32>,
    serial: u32,
}

impl AttemptId {
    /// Returns the number by which the destination identifies the attempt.
    pub(super) fn job(self) -> JobId {
        // 24 bits of the serial are enough: an attempt is at its destination for less than 16 million
        // messages.
        u64::from(self.index) << 32 | u64::from(self.serial & 0xff_ffff) << 8 | u64::from(self.nth)
    }

    pub(super) fn from_job(job: JobId) -> Self {
        Self { index: (job >> 32) as u32, serial: (job >> 8) as u32 & 0xff_ffff, nth: job as u8 }
    }

    fn with_attempt(self, nth: u8) -> Self {
        Self { nth, ..self }
    }
}

impl Messages {
    /// Adds a message before its first attempt.
    pub(super) fn add(&mut self, planned: Tick, balancer: usize, worker: usize, work: f64) -> AttemptId {
        self.serial = (self.serial + 1) & 0xff_ffff;
        let message = Message {
            serial: self.serial,
            planned,
            balancer,
            worker,
            work,
            tried: AttemptedSet::default(),
            tries: 0,
            hedges: 0,
            open: Vec::new(),
            unsettled: UnsettledFailures::default(),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize] = Some(message);
        AttemptId { index, serial: self.serial, nth: 0 }
    }

    /// Returns the message of an attempt.
    pub(super) fn at(&self, id: AttemptId) -> Option<&Message> {
        self.slots.get(id.index as usize)?.as_ref().filter(|message| message.serial == id.serial)
    }

    pub(super) fn at_mut(&mut self, id: AttemptId) -> Option<&mut Message> {
        self.slots.get_mut(id.index as usize)?.as_mut().filter(|message| message.serial == id.serial)
    }

    /// Returns the attempt if it has no result yet.
    pub(super) fn open_attempt(&mut self, id: AttemptId) -> Option<&mut OpenAttempt> {
        self.at_mut(id)?.open.iter_mut().find(|open| open.nth == id.nth)
    }

    /// Adds an attempt at the destination of `assignment`.
    pub(super) fn begin_attempt(&mut self, id: AttemptId, assignment: Assignment) -> AttemptId {
        let Some(message) = self.at_mut(id) else { return id };
        let (destination, is_hedge) = (assignment.member(), message.has_open_attempts());
        message.tried.add(assignment.id());
        message.tries += 1;
        message.open.push(OpenAttempt {
            nth: message.tries,
            destination,
            at_destination: false,
            is_hedge,
            assignment,
        });
        id.with_attempt(message.tries)
    }

    /// Removes an attempt that has a result.
    pub(super) fn end_attempt(&mut self, id: AttemptId) -> Option<OpenAttempt> {
        let open = &mut self.at_mut(id)?.open;
        let index = open.iter().position(|open| open.nth == id.nth)?;
        Some(open.swap_remove(index))
    }

    /// Removes any one attempt that has no result yet.
    pub(super) fn pop_attempt(&mut self, id: AttemptId) -> Option<(AttemptId, OpenAttempt)> {
        let open = self.at_mut(id)?.open.pop()?;
        Some((id.with_attempt(open.nth), open))
    }

    /// Removes a message that has ended.
    pub(super) fn remove(&mut self, id: AttemptId) {
        if self.at(id).is_some() {
            self.slots[id.index as usize] = None;
            self.free.push(id.index);
        }
    }
}

impl Message {
    /// Returns whether another attempt has no result yet.
    pub(super) fn has_open_attempts(&self) -> bool {
        !self.open.is_empty()
    }

    /// Returns whether another destination may be tried. Every simulated message is idempotent and can be
    /// replayed.
    pub(super) fn may_retry(
        &self,
        spec: &RetrySpec,
        ended: AttemptResult,
        budget: &RetryBudget,
        now: Tick,
    ) -> bool {
        let decision = match ended {
            AttemptResult::Status(status) => {
                decide_on_response(spec, ResponseStatus::Http(status), self.tries, true, true, budget, now)
            }
            AttemptResult::Failed(failure) => {
                let attempt = FailedAttempt {
                    failure,
                    attempts: self.tries,
                    idempotent: true,
                    sent: failure != Failure::Connect,
                    reused_connection: false,
                    fresh_repeat_used: false,
                    body_replayable: true,
                    response_started: false,
                };
                decide(spec, &attempt, budget, now)
            }
        };
        decision == Decision::Retry
    }
}
