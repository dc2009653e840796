//! Where a message is, and whether an event is still about it.

use plimsoll_core::retry::{Attempt, Budget, Decision, RetrySpec, Told, decide, decide_told};
use plimsoll_core::{Assignment, Failure, Tick, Tried};

use crate::service_queue::Job;

/// One try of one message, as events name it. A name is never used again: what comes too late finds nobody.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
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
    pub(super) copies: u8,
    /// Tries without an answer yet: one, or more where the message was hedged.
    open: Vec<Try>,
}

/// One destination asked for one message.
#[derive(Debug)]
pub(super) struct Try {
    nth: u8,
    pub(super) site: usize,
    /// It is at its destination.
    pub(super) there: bool,
    /// It was sent because another try took long.
    pub(super) is_copy: bool,
    pub(super) assignment: Assignment,
}

/// How a try ended.
#[derive(Copy, Clone, Debug)]
pub(super) enum Ended {
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

impl Place {
    /// The number a destination knows it by.
    pub(super) fn job(self) -> Job {
        // 24 bits of a serial are enough: a job is at its destination for less than 16 million messages.
        u64::from(self.index) << 32 | u64::from(self.serial & 0xff_ffff) << 8 | u64::from(self.nth)
    }

    pub(super) fn of_job(job: Job) -> Self {
        Self { index: (job >> 32) as u32, serial: (job >> 8) as u32 & 0xff_ffff, nth: job as u8 }
    }

    fn of_try(self, nth: u8) -> Self {
        Self { nth, ..self }
    }
}

impl Messages {
    /// A new message, before its first try.
    pub(super) fn enter(&mut self, planned: Tick, balancer: usize, worker: usize, work: f64) -> Place {
        self.serial = (self.serial + 1) & 0xff_ffff;
        let message = Message {
            serial: self.serial,
            planned,
            balancer,
            worker,
            work,
            tried: Tried::default(),
            tries: 0,
            copies: 0,
            open: Vec::new(),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize] = Some(message);
        Place { index, serial: self.serial, nth: 0 }
    }

    /// The message, whichever of its tries is meant.
    pub(super) fn at(&self, place: Place) -> Option<&Message> {
        self.slots.get(place.index as usize)?.as_ref().filter(|message| message.serial == place.serial)
    }

    pub(super) fn at_mut(&mut self, place: Place) -> Option<&mut Message> {
        self.slots.get_mut(place.index as usize)?.as_mut().filter(|message| message.serial == place.serial)
    }

    /// This try, if nothing has come of it yet.
    pub(super) fn open_try(&mut self, place: Place) -> Option<&mut Try> {
        self.at_mut(place)?.open.iter_mut().find(|open| open.nth == place.nth)
    }

    /// It is on its way to the destination of `assignment`.
    pub(super) fn begin_try(&mut self, place: Place, assignment: Assignment) -> Place {
        let Some(message) = self.at_mut(place) else { return place };
        let (site, is_copy) = (assignment.member(), message.waits());
        message.tried.add(assignment.id());
        message.tries += 1;
        message.open.push(Try { nth: message.tries, site, there: false, is_copy, assignment });
        place.of_try(message.tries)
    }

    /// Something has come of this try.
    pub(super) fn end_try(&mut self, place: Place) -> Option<Try> {
        let open = &mut self.at_mut(place)?.open;
        let index = open.iter().position(|open| open.nth == place.nth)?;
        Some(open.swap_remove(index))
    }

    /// Some try that is still open, and its place.
    pub(super) fn end_any_try(&mut self, place: Place) -> Option<(Place, Try)> {
        let open = self.at_mut(place)?.open.pop()?;
        Some((place.of_try(open.nth), open))
    }

    /// It has ended.
    pub(super) fn leave(&mut self, place: Place) {
        if self.at(place).is_some() {
            self.slots[place.index as usize] = None;
            self.free.push(place.index);
        }
    }
}

impl Message {
    /// Another destination is still asked.
    pub(super) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// May it try another destination? Every simulated message may be repeated, and is whole.
    pub(super) fn may_go_on(&self, spec: &RetrySpec, ended: Ended, budget: &Budget, now: Tick) -> bool {
        let decision = match ended {
            Ended::Status(status) => {
                decide_told(spec, Told::Status(status), self.tries, true, true, budget, now)
            }
            Ended::Failed(failure) => {
                let attempt = Attempt {
                    failure,
                    tries: self.tries,
                    idempotent: true,
                    sent: failure != Failure::Connect,
                    reused_connection: false,
                    fresh_repeat_used: false,
                    body_replayable: true,
                    answer_started: false,
                };
                decide(spec, &attempt, budget, now)
            }
        };
        decision == Decision::Again
    }
}
