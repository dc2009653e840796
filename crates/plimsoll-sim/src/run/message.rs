//! Where a message is, and whether an event is still about it.

use plimsoll_core::retry::{
    Decision, FailedAttempt, ResponseStatus, RetryBudget, RetrySpec, decide, decide_on_response,
};
use plimsoll_core::{Assignment, Failure, Tick, Tried};

use crate::service_queue::JobId;

/// One try of one message, as events name it. A name is never used again: what comes too late finds nobody.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct AttemptId {
    index: u32,
    /// Of the message.
    serial: u32,
    /// Of the try; 0 names the message as a whole.
    nth: u8,
}

/// One message on its way.
#[derive(Debug)]
pub(super) struct Message {
    serial: u32,
    pub(super) planned: Tick,
    pub(super) balancer: usize,
    pub(super) worker: usize,
    pub(super) work: f64,
    pub(super) tried: Tried,
    pub(super) tries: u8,
    /// Copies sent because an answer took long.
    pub(super) hedges: u8,
    /// Tries without an answer yet: one, or more where the message was hedged.
    open: Vec<OpenAttempt>,
}

/// One destination asked for one message.
#[derive(Debug)]
pub(super) struct OpenAttempt {
    nth: u8,
    pub(super) destination: usize,
    /// It is at its destination.
    pub(super) at_destination: bool,
    /// It was sent because another try took long.
    pub(super) is_hedge: bool,
    pub(super) assignment: Assignment,
}

/// How a try ended.
#[derive(Copy, Clone, Debug)]
pub(super) enum AttemptResult {
    Failed(Failure),
    Status(u16),
}

/// Every message on its way.
#[derive(Debug, Default)]
pub(super) struct Messages {
    slots: Vec<Option<Message>>,
    free: Vec<u32>,
    serial: u32,
}

impl AttemptId {
    /// The number a destination knows it by.
    pub(super) fn job(self) -> JobId {
        // 24 bits of a serial are enough: a job is at its destination for less than 16 million messages.
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
    /// A new message, before its first try.
    pub(super) fn add(&mut self, planned: Tick, balancer: usize, worker: usize, work: f64) -> AttemptId {
        self.serial = (self.serial + 1) & 0xff_ffff;
        let message = Message {
            serial: self.serial,
            planned,
            balancer,
            worker,
            work,
            tried: Tried::default(),
            tries: 0,
            hedges: 0,
            open: Vec::new(),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize] = Some(message);
        AttemptId { index, serial: self.serial, nth: 0 }
    }

    /// The message, whichever of its tries is meant.
    pub(super) fn at(&self, id: AttemptId) -> Option<&Message> {
        self.slots.get(id.index as usize)?.as_ref().filter(|message| message.serial == id.serial)
    }

    pub(super) fn at_mut(&mut self, id: AttemptId) -> Option<&mut Message> {
        self.slots.get_mut(id.index as usize)?.as_mut().filter(|message| message.serial == id.serial)
    }

    /// This try, if nothing has come of it yet.
    pub(super) fn open_attempt(&mut self, id: AttemptId) -> Option<&mut OpenAttempt> {
        self.at_mut(id)?.open.iter_mut().find(|open| open.nth == id.nth)
    }

    /// It is on its way to the destination of `assignment`.
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

    /// Something has come of this try.
    pub(super) fn end_attempt(&mut self, id: AttemptId) -> Option<OpenAttempt> {
        let open = &mut self.at_mut(id)?.open;
        let index = open.iter().position(|open| open.nth == id.nth)?;
        Some(open.swap_remove(index))
    }

    /// Some try that is still open, and its id.
    pub(super) fn pop_attempt(&mut self, id: AttemptId) -> Option<(AttemptId, OpenAttempt)> {
        let open = self.at_mut(id)?.open.pop()?;
        Some((id.with_attempt(open.nth), open))
    }

    /// It has ended.
    pub(super) fn remove(&mut self, id: AttemptId) {
        if self.at(id).is_some() {
            self.slots[id.index as usize] = None;
            self.free.push(id.index);
        }
    }
}

impl Message {
    /// Another destination is still asked.
    pub(super) fn has_open_attempts(&self) -> bool {
        !self.open.is_empty()
    }

    /// May it try another destination? Every simulated message may be repeated, and is whole.
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
