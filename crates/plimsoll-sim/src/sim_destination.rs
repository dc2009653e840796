//! What one simulated destination does with a message: takes it, refuses it, failure it, forgets it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::antagonist::{Antagonist, SharedHost};
use crate::fault::{Condition, SimFault, condition, next_change};
use crate::service_queue::{JobId, ServiceQueue};

/// Latencies remembered for each number in flight.
const LATENCIES_KEPT: usize = 16;
/// From this number in flight on, all count as one.
const IN_FLIGHT_LEVELS: u32 = 256;

/// What works there.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum ServiceModel {
    /// So many messages at once, the others wait in order.
    Slots(usize),
    /// All at once, sharing so many cores.
    Sharing(f64),
    /// All at once, sharing what the neighbours on the queue leave.
    Shared(SharedHost),
}

impl ServiceModel {
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
pub struct DestinationSpec {
    /// Its kind, for the report.
    pub group: String,
    /// What works there.
    pub service_model: ServiceModel,
    /// Base weight.
    pub weight: u16,
    /// Tier.
    pub priority: u8,
    /// What ails it.
    pub faults: Vec<SimFault>,
}

/// What becomes of a message that arrives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ArrivalResult {
    /// It is worked on, or unanswered.
    Accepted,
    /// No connection.
    Refused,
    /// Answered with an error after so long.
    Failed(Duration, u16),
}

/// What a destination says of itself when asked.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct ProbeResponse {
    /// Messages there now.
    pub in_flight: u32,
    /// The median of recent latencies of messages that found about as many there, in seconds; 0 before any.
    pub latency: f64,
}

/// One destination at work.
#[derive(Debug)]
pub struct SimDestination {
    queue: ServiceQueue,
    antagonist: Option<Antagonist>,
    faults: Vec<SimFault>,
    condition: Condition,
    /// Accepted and unanswered.
    unanswered: Vec<JobId>,
    /// What each message in work found here, and when it came.
    arrivals: HashMap<JobId, (u32, Tick)>,
    /// How long the last answers took, by what they had found here.
    recent_latencies: Vec<VecDeque<f64>>,
    /// Grows with every change, so that an event about an earlier state is known by its number.
    pub version: u32,
}

impl SimDestination {
    /// Destination number `index` at the start of a run.
    pub fn new(spec: &DestinationSpec, index: usize, mut rng: Rng) -> Self {
        let queue = match spec.service_model {
            ServiceModel::Slots(slots) => ServiceQueue::slots(slots),
            ServiceModel::Sharing(cores) => ServiceQueue::sharing(cores),
            ServiceModel::Shared(shared) => ServiceQueue::sharing(shared.burst),
        };
        let antagonist = match spec.service_model {
            ServiceModel::Shared(shared) => Some(Antagonist::new(shared, index, Rng::new(rng.next_u64()))),
            _ => None,
        };
        let mut destination = Self {
            queue,
            antagonist,
            faults: spec.faults.iter().map(|fault| fault.with_random_phase(rng.share())).collect(),
            condition: Condition::HEALTHY,
            unanswered: Vec::new(),
            arrivals: HashMap::new(),
            recent_latencies: Vec::new(),
            version: 0,
        };
        destination.apply_faults(Tick::ZERO);
        destination
    }

    /// Messages here.
    pub fn load(&self) -> usize {
        self.queue.load() + self.unanswered.len()
    }

    /// Core seconds spent so far.
    pub fn used(&self) -> f64 {
        self.queue.used()
    }

    /// When the next message is done, if nothing changes.
    pub fn next_completion(&self) -> Tick {
        self.queue.next_completion()
    }

    /// A message arrives.
    pub fn arrive(&mut self, now: Tick, job: JobId, work: f64) -> ArrivalResult {
        match self.condition {
            Condition { down: true, .. } => ArrivalResult::Refused,
            Condition { unresponsive: true, .. } => {
                self.unanswered.push(job);
                ArrivalResult::Accepted
            }
            Condition { failure: Some((after, status)), .. } => ArrivalResult::Failed(after, status),
            _ => {
                self.arrivals.insert(job, (self.load() as u32, now));
                self.queue.arrive(now, job, work);
                self.version += 1;
                ArrivalResult::Accepted
            }
        }
    }

    /// A message is given up by its sender.
    pub fn cancel(&mut self, now: Tick, job: JobId) {
        match self.unanswered.iter().position(|&unanswered| unanswered == job) {
            Some(place) => {
                self.unanswered.swap_remove(place);
            }
            None => {
                self.arrivals.remove(&job);
                self.queue.cancel(now, job);
                self.version += 1;
            }
        }
    }

    /// What is done by `now`. How long each took is remembered, whether anybody still waits for it or not.
    pub fn advance(&mut self, now: Tick) -> Vec<JobId> {
        let mut done = Vec::new();
        self.queue.advance(now, &mut done);
        for job in &done {
            if let Some((found, since)) = self.arrivals.remove(job) {
                self.record_latency(found, now.since(since).as_secs_f64());
            }
        }
        self.version += 1;
        done
    }

    /// Its faults may have changed. Answers what it loses by that.
    pub fn apply_faults(&mut self, now: Tick) -> Vec<JobId> {
        self.condition = condition(&self.faults, now);
        self.queue.set_speed(now, self.condition.speed);
        self.version += 1;
        if !self.condition.down {
            return Vec::new();
        }
        self.arrivals.clear();
        let mut lost = self.queue.drain(now);
        lost.append(&mut self.unanswered);
        lost
    }

    /// When its faults change next.
    pub fn next_fault_change(&self, now: Tick) -> Tick {
        next_change(&self.faults, now)
    }

    /// One step of its neighbours; says whether that changed anything.
    pub fn step_neighbours(&mut self, now: Tick) -> bool {
        let Some(antagonist) = &mut self.antagonist else { return false };
        let cores = antagonist.step(now);
        self.queue.set_capacity(now, cores);
        self.version += 1;
        self.queue.load() > 0
    }

    /// It shares its queue.
    pub fn has_neighbours(&self) -> bool {
        self.antagonist.is_some()
    }

    /// A message that had found `in_flight` here was answered after so many seconds.
    fn record_latency(&mut self, in_flight: u32, seconds: f64) {
        let level = in_flight.min(IN_FLIGHT_LEVELS - 1) as usize;
        if self.recent_latencies.len() <= level {
            self.recent_latencies.resize_with(level + 1, VecDeque::new);
        }
        let recent = &mut self.recent_latencies[level];
        if recent.len() == LATENCIES_KEPT {
            recent.pop_front();
        }
        recent.push_back(seconds);
    }

    /// What it says when asked; `None` from one that does not answer.
    pub fn probe_response(&self) -> Option<ProbeResponse> {
        if self.condition.down || self.condition.unresponsive || self.condition.speed <= 0.0 {
            return None;
        }
        let in_flight = self.load() as u32;
        Some(ProbeResponse { in_flight, latency: self.latency_at(in_flight) })
    }

    /// Passes a check that only looks for an answer of 200.
    pub fn passes_checks(&self) -> bool {
        self.probe_response().is_some() && self.condition.failure.is_none()
    }

    /// In how many seconds a message of `work` would be answered that came now; bad luck counts as `never`.
    pub fn forecast(&self, now: Tick, work: f64, never: f64) -> f64 {
        if self.condition.down || self.condition.unresponsive || self.condition.failure.is_some() {
            return never;
        }
        self.queue.forecast(now, work).min(never)
    }

    /// The median of what those took that had found `in_flight` here, or a number as nearest to it as there is
    /// one. If that is a lower one, so much more as there are more now: else a destination that was never this
    /// full would tell of better times, and go on filling.
    fn latency_at(&self, in_flight: u32) -> f64 {
        let known =
            |level: &u32| self.recent_latencies.get(*level as usize).is_some_and(|recent| !recent.is_empty());
        let level = in_flight.min(IN_FLIGHT_LEVELS - 1);
        let nearest = (0..IN_FLIGHT_LEVELS)
            .find_map(|far| level.checked_sub(far).filter(known).or(Some(level + far).filter(known)));
        let Some(nearest) = nearest else { return 0.0 };
        let recent = &self.recent_latencies[nearest as usize];
        let mut sorted = [0.0; LATENCIES_KEPT];
        for (to, &from) in sorted.iter_mut().zip(recent) {
            *to = from;
        }
        let sorted = &mut sorted[..recent.len()];
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[sorted.len() / 2] * (f64::from(in_flight + 1) / f64::from(nearest + 1)).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_response_holds_the_median_latency_at_a_similar_load() {
        let spec = DestinationSpec {
            group: "a".to_owned(),
            service_model: ServiceModel::Slots(2),
            weight: 1,
            priority: 0,
            faults: Vec::new(),
        };
        let mut destination = SimDestination::new(&spec, 0, Rng::new(1));
        assert_eq!(destination.probe_response(), Some(ProbeResponse { in_flight: 0, latency: 0.0 }));
        for (found, seconds) in [(0, 0.1), (0, 0.3), (0, 0.2), (4, 0.9)] {
            destination.record_latency(found, seconds);
        }
        assert_eq!(destination.probe_response(), Some(ProbeResponse { in_flight: 0, latency: 0.2 }));
        (0..3).for_each(|job| assert_eq!(destination.arrive(Tick::ZERO, job, 1.0), ArrivalResult::Accepted));
        assert_eq!(
            destination.probe_response(),
            Some(ProbeResponse { in_flight: 3, latency: 0.9 }),
            "4 is nearer than 0"
        );
        (3..9).for_each(|job| assert_eq!(destination.arrive(Tick::ZERO, job, 1.0), ArrivalResult::Accepted));
        assert_eq!(
            destination.probe_response(),
            Some(ProbeResponse { in_flight: 9, latency: 1.8 }),
            "twice as full as ever"
        );
    }
}
