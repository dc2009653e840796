//! Simulated destination: accepts, refuses, fails or never answers a message.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::antagonist::{Antagonist, SharedHost};
use crate::fault::{Condition, SimFault, condition, next_change};
use crate::service_queue::{JobId, ServiceQueue};

/// Latencies kept for each number of messages in flight.
const LATENCIES_KEPT: usize = 16;
/// Number of messages in flight from which on all counts share one entry.
const IN_FLIGHT_LEVELS: u32 = 256;

/// How a destination serves its messages.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServiceModel {
    /// A fixed number of messages at once; the others wait in order.
    Slots(usize),
    /// All messages at once, sharing a number of cores.
    Sharing(f64),
    /// All messages at once, sharing the cores that the neighbours on the host leave.
    Shared(SharedHost),
}

impl ServiceModel {
    /// Returns the guaranteed cores; a load of 1 uses all of them.
    pub fn capacity(&self) -> f64 {
        match *self {
            Self::Slots(slots) => slots as f64,
            Self::Sharing(cores) => cores,
            Self::Shared(shared) => shared.allocation,
        }
    }
}

/// Destination of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationSpec {
    /// Group of the destination in reports.
    pub group: String,
    /// How it serves its messages.
    pub service_model: ServiceModel,
    /// Base weight of the destination.
    pub weight: u16,
    /// Priority tier; 0 is first.
    pub priority: u8,
    /// Faults it has during the run.
    pub faults: Vec<SimFault>,
}

/// Result of an arrival at a destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ArrivalResult {
    /// Accepted for service, or never answered.
    Accepted,
    /// Connection was refused.
    Refused,
    /// Error response with this status after this time.
    Failed(Duration, u16),
}

/// Response to a probe.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct ProbeResponse {
    /// Messages at the destination now.
    pub in_flight: u32,
    /// Median of recent latencies of messages that arrived at about this load, in seconds; 0 before the
    /// first.
    pub latency: f64,
}

/// Running state of one destination.
#[derive(Debug)]
pub struct SimDestination {
    queue: ServiceQueue,
    antagonist: Option<Antagonist>,
    faults: Vec<SimFault>,
    condition: Condition,
    /// Messages accepted that will never get a response.
    unanswered: Vec<JobId>,
    /// Load found and arrival time of each message in service.
    arrivals: HashMap<JobId, (u32, Tick)>,
    /// Latencies of the last responses by the load found at arrival.
    recent_latencies: Vec<VecDeque<f64>>,
    /// Version that increases with every change, so that events about an earlier state are recognised.
    pub version: u32,
}

impl SimDestination {
    /// Creates destination `index` at the start of a run.
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

    /// Returns the number of messages at the destination.
    pub fn load(&self) -> usize {
        self.queue.load() + self.unanswered.len()
    }

    /// Returns the core seconds spent so far.
    pub fn used(&self) -> f64 {
        self.queue.used()
    }

    /// Returns when the next message completes if nothing changes.
    pub fn next_completion(&self) -> Tick {
        self.queue.next_completion()
    }

    /// Handles the arrival of a message.
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

    /// Removes a message that its sender has given up.
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

    /// Returns the messages completed by `now`. The latency of each is recorded even if its sender has given
    /// it up.
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

    /// Applies the faults active at `now` and returns the messages dropped by that.
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

    /// Returns when its faults change next.
    pub fn next_fault_change(&self, now: Tick) -> Tick {
        next_change(&self.faults, now)
    }

    /// Advances the neighbours by one step; returns whether that changes the service of a message.
    pub fn step_neighbours(&mut self, now: Tick) -> bool {
        let Some(antagonist) = &mut self.antagonist else { return false };
        let cores = antagonist.step(now);
        self.queue.set_capacity(now, cores);
        self.version += 1;
        self.queue.load() > 0
    }

    /// Returns whether it shares its host.
    pub fn has_neighbours(&self) -> bool {
        self.antagonist.is_some()
    }

    /// Records the latency of a message that arrived with `in_flight` others.
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

    /// Returns the response to a probe; `None` if the destination does not respond in time.
    pub fn probe_response(&self) -> Option<ProbeResponse> {
        if self.condition.down || self.condition.unresponsive || self.condition.speed <= 0.0 {
            return None;
        }
        let in_flight = self.load() as u32;
        Some(ProbeResponse { in_flight, latency: self.latency_at(in_flight) })
    }

    /// Returns whether it passes a health check that expects 200.
    pub fn passes_checks(&self) -> bool {
        self.probe_response().is_some() && self.condition.failure.is_none()
    }

    /// Returns the seconds until a message of `work` arriving now would get its response; `never` if it would
    /// fail.
    pub fn forecast(&self, now: Tick, work: f64, never: f64) -> f64 {
        if self.condition.down || self.condition.unresponsive || self.condition.failure.is_some() {
            return never;
        }
        self.queue.forecast(now, work).min(never)
    }

    /// Median latency of messages that arrived with `in_flight` others, or with the nearest number recorded.
    /// From a lower number it is scaled up: otherwise a destination that was never this full would report its
    /// better times and keep filling.
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
