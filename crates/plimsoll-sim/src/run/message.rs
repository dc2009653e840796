//! Where a message is, and whether an event is still about it.

use plimsoll_core::retry::{Attempt, Budget, Decision, RetrySpec, Told, decide, decide_told};
use plimsoll_core::{Failure, Tick, Ticket, Tried};

use crate::machine::Job;

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
    pub(super) site: usize,
    /// It is at its destination.
    pub(super) there: bool,
    ticket: Option<Ticket>,
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

    pub(super) fn of_the_message(self) -> Self {
        Self { nth: 0, ..self }
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
            site: 0,
            there: false,
            ticket: None,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize] = Some(message);
        Place { index, serial: self.serial, nth: 0 }
    }

    /// The message, if it is still at this try.
    pub(super) fn at(&self, place: Place) -> Option<&Message> {
        let message = self.slots.get(place.index as usize)?.as_ref()?;
        (message.serial == place.serial && message.tries == place.nth).then_some(message)
    }

    fn at_mut(&mut self, place: Place) -> Option<&mut Message> {
        let message = self.slots.get_mut(place.index as usize)?.as_mut()?;
        (message.serial == place.serial && message.tries == place.nth).then_some(message)
    }

    /// The message, whichever try it is at.
    pub(super) fn whichever_try(&self, place: Place) -> Option<(Place, &Message)> {
        let message = self.slots.get(place.index as usize)?.as_ref()?;
        (message.serial == place.serial).then_some((Place { nth: message.tries, ..place }, message))
    }

    /// It is on its way to `site`.
    pub(super) fn begin_try(&mut self, place: Place, ticket: Ticket, site: usize) -> Place {
        if let Some(message) = self.at_mut(place) {
            message.tried.add(ticket.id());
            message.tries += 1;
            (message.site, message.there, message.ticket) = (site, false, Some(ticket));
        }
        Place { nth: place.nth + 1, ..place }
    }

    pub(super) fn is_there(&mut self, place: Place) {
        if let Some(message) = self.at_mut(place) {
            message.there = true;
        }
    }

    pub(super) fn has_left(&mut self, place: Place) {
        if let Some(message) = self.at_mut(place) {
            message.there = false;
        }
    }

    pub(super) fn take_ticket(&mut self, place: Place) -> Option<Ticket> {
        self.at_mut(place)?.ticket.take()
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
