//! What one simulated destination does with a message: takes it, refuses it, fails it, forgets it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::antagonist::{Antagonist, Shared};
use crate::fault::{Condition, Trouble, condition, turns_at};
use crate::service_queue::{Job, Machine};

/// Latencies remembered for each number in flight.
const REMEMBERED: usize = 16;
/// From this number in flight on, all count as one.
const RIFS: u32 = 256;

/// What works there.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Engine {
    /// So many messages at once, the others wait in order.
    Slots(usize),
    /// All at once, sharing so many cores.
    Sharing(f64),
    /// All at once, sharing what the neighbours on the machine leave.
    Shared(Shared),
}

impl Engine {
    /// Cores that are there for it in any case: what a load of 1 fills.
    pub fn capacity(&self) -> f64 {
        match *self {
            Self::Slots(slots) => slots as f64,
            Self::Sharing(cores) => cores,
            Self::Shared(shared) => shared.allocation,
        }
    }
}

/// A destination as a scenario describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSpec {
    /// Its kind, for the report.
    pub group: String,
    /// What works there.
    pub engine: Engine,
    /// Base weight.
    pub weight: u16,
    /// Tier.
    pub priority: u8,
    /// What ails it.
    pub troubles: Vec<Trouble>,
}

/// What becomes of a message that arrives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// It is worked on, or forgotten.
    Taken,
    /// No connection.
    Refused,
    /// Answered with an error after so long.
    Failed(Duration, u16),
}

/// What a destination says of itself when asked.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Messages there now.
    pub in_flight: u32,
    /// The median of recent latencies of messages that found about as many there, in seconds; 0 before any.
    pub latency: f64,
}

/// One destination at work.
#[derive(Debug)]
pub struct Site {
    machine: Machine,
    antagonist: Option<Antagonist>,
    troubles: Vec<Trouble>,
    condition: Condition,
    /// Accepted and forgotten.
    forgotten: Vec<Job>,
    /// What each message in work found here, and when it came.
    found: HashMap<Job, (u32, Tick)>,
    /// How long the last answers took, by what they had found here.
    recent: Vec<VecDeque<f64>>,
    /// Grows with every change, so that an event about an earlier state is known by its number.
    pub version: u32,
}

impl Site {
    /// Destination number `index` at the start of a run.
    pub fn new(spec: &SiteSpec, index: usize, mut rng: Rng) -> Self {
        let machine = match spec.engine {
            Engine::Slots(slots) => Machine::slots(slots),
            Engine::Sharing(cores) => Machine::sharing(cores),
            Engine::Shared(shared) => Machine::sharing(shared.burst),
        };
        let antagonist = match spec.engine {
            Engine::Shared(shared) => Some(Antagonist::new(shared, index, Rng::new(rng.next_u64()))),
            _ => None,
        };
        let mut site = Self {
            machine,
            antagonist,
            troubles: spec.troubles.iter().map(|trouble| trouble.anywhere_in_its_turn(rng.share())).collect(),
            condition: Condition::WELL,
            forgotten: Vec::new(),
            found: HashMap::new(),
            recent: Vec::new(),
            version: 0,
        };
        site.turn(Tick::ZERO);
        site
    }

    /// Messages here.
    pub fn load(&self) -> usize {
        self.machine.load() + self.forgotten.len()
    }

    /// Core seconds spent so far.
    pub fn used(&self) -> f64 {
        self.machine.used()
    }

    /// When the next message is done, if nothing changes.
    pub fn next(&self) -> Tick {
        self.machine.next()
    }

    /// A message arrives.
    pub fn arrive(&mut self, now: Tick, job: Job, work: f64) -> Welcome {
        match self.condition {
            Condition { down: true, .. } => Welcome::Refused,
            Condition { gray: true, .. } => {
                self.forgotten.push(job);
                Welcome::Taken
            }
            Condition { fails: Some((after, status)), .. } => Welcome::Failed(after, status),
            _ => {
                self.found.insert(job, (self.load() as u32, now));
                self.machine.arrive(now, job, work);
                self.version += 1;
                Welcome::Taken
            }
        }
    }

    /// A message is given up by its sender.
    pub fn leave(&mut self, now: Tick, job: Job) {
        match self.forgotten.iter().position(|&forgotten| forgotten == job) {
            Some(place) => {
                self.forgotten.swap_remove(place);
            }
            None => {
                self.found.remove(&job);
                self.machine.leave(now, job);
                self.version += 1;
            }
        }
    }

    /// What is done by `now`. How long each took is remembered, whether anybody still waits for it or not.
    pub fn advance(&mut self, now: Tick) -> Vec<Job> {
        let mut done = Vec::new();
        self.machine.advance(now, &mut done);
        for job in &done {
            if let Some((found, since)) = self.found.remove(job) {
                self.remember(found, now.since(since).as_secs_f64());
            }
        }
        self.version += 1;
        done
    }

    /// Its troubles may have changed. Answers what it loses by that.
    pub fn turn(&mut self, now: Tick) -> Vec<Job> {
        self.condition = condition(&self.troubles, now);
        self.machine.set_pace(now, self.condition.pace);
        self.version += 1;
        if !self.condition.down {
            return Vec::new();
        }
        self.found.clear();
        let mut lost = self.machine.drain(now);
        lost.append(&mut self.forgotten);
        lost
    }

    /// When its troubles change next.
    pub fn turns_at(&self, now: Tick) -> Tick {
        turns_at(&self.troubles, now)
    }

    /// One step of its neighbours; says whether that changed anything.
    pub fn step(&mut self, now: Tick) -> bool {
        let Some(antagonist) = &mut self.antagonist else { return false };
        let cores = antagonist.step(now);
        self.machine.set_capacity(now, cores);
        self.version += 1;
        self.machine.load() > 0
    }

    /// It shares its machine.
    pub fn has_neighbours(&self) -> bool {
        self.antagonist.is_some()
    }

    /// A message that had found `in_flight` here was answered after so many seconds.
    fn remember(&mut self, in_flight: u32, seconds: f64) {
        let rif = in_flight.min(RIFS - 1) as usize;
        if self.recent.len() <= rif {
            self.recent.resize_with(rif + 1, VecDeque::new);
        }
        let recent = &mut self.recent[rif];
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(seconds);
    }

    /// What it says when asked; `None` from one that does not answer.
    pub fn reading(&self) -> Option<Reading> {
        if self.condition.down || self.condition.gray || self.condition.pace <= 0.0 {
            return None;
        }
        let in_flight = self.load() as u32;
        Some(Reading { in_flight, latency: self.latency_at(in_flight) })
    }

    /// Passes a check that only looks for an answer of 200.
    pub fn passes_checks(&self) -> bool {
        self.reading().is_some() && self.condition.fails.is_none()
    }

    /// In how many seconds a message of `work` would be answered that came now; bad luck counts as `never`.
    pub fn forecast(&self, now: Tick, work: f64, never: f64) -> f64 {
        if self.condition.down || self.condition.gray || self.condition.fails.is_some() {
            return never;
        }
        self.machine.forecast(now, work).min(never)
    }

    /// The median of what those took that had found `in_flight` here, or a number as near to it as there is
    /// one. If that is a lower one, so much more as there are more now: else a destination that was never this
    /// full would tell of better times, and go on filling.
    fn latency_at(&self, in_flight: u32) -> f64 {
        let known = |rif: &u32| self.recent.get(*rif as usize).is_some_and(|recent| !recent.is_empty());
        let rif = in_flight.min(RIFS - 1);
        let near =
            (0..RIFS).find_map(|far| rif.checked_sub(far).filter(known).or(Some(rif + far).filter(known)));
        let Some(near) = near else { return 0.0 };
        let recent = &self.recent[near as usize];
        let mut sorted = [0.0; REMEMBERED];
        for (to, &from) in sorted.iter_mut().zip(recent) {
            *to = from;
        }
        let sorted = &mut sorted[..recent.len()];
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[sorted.len() / 2] * (f64::from(in_flight + 1) / f64::from(near + 1)).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_tells_the_median_at_about_this_load() {
        let spec = SiteSpec {
            group: "a".to_owned(),
            engine: Engine::Slots(2),
            weight: 1,
            priority: 0,
            troubles: Vec::new(),
        };
        let mut site = Site::new(&spec, 0, Rng::new(1));
        assert_eq!(site.reading(), Some(Reading { in_flight: 0, latency: 0.0 }));
        for (found, seconds) in [(0, 0.1), (0, 0.3), (0, 0.2), (4, 0.9)] {
            site.remember(found, seconds);
        }
        assert_eq!(site.reading(), Some(Reading { in_flight: 0, latency: 0.2 }));
        (0..3).for_each(|job| assert_eq!(site.arrive(Tick::ZERO, job, 1.0), Welcome::Taken));
        assert_eq!(site.reading(), Some(Reading { in_flight: 3, latency: 0.9 }), "4 is nearer than 0");
        (3..9).for_each(|job| assert_eq!(site.arrive(Tick::ZERO, job, 1.0), Welcome::Taken));
        assert_eq!(site.reading(), Some(Reading { in_flight: 9, latency: 1.8 }), "twice as full as ever");
    }
}
