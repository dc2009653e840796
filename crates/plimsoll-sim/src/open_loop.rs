//! Open-loop simulation of one pool: arrivals, choices, service and departures in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Needs, Policy};
use plimsoll_core::snapshot::Member;
use plimsoll_core::{
    Address, Assignment, Destination, DestinationId, DestinationStats, NoDestination, Outcome, PickRequest,
    Rng, Snapshot, Status, Tick, Weight, balance_load,
};

use crate::distributions::exponential;

/// Time a destination works on a message.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServiceTime {
    /// Constant service time.
    Fixed(Duration),
    /// Exponentially distributed service time with this mean, as in M/M/1.
    Exponential(Duration),
}

impl ServiceTime {
    fn draw(self, rng: &mut Rng) -> Duration {
        match self {
            Self::Fixed(span) => span,
            Self::Exponential(mean) => mean.mul_f64(exponential(rng)),
        }
    }
}

/// Destination of an open-loop simulation.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct OpenLoopServer {
    /// Base weight of the destination.
    pub weight: u16,
    /// Priority tier; 0 is first.
    pub priority: u8,
    /// Service time of a message, independent of the load.
    pub service: ServiceTime,
}

impl OpenLoopServer {
    /// Creates a server of weight 1 in the first tier.
    pub const fn new(service: ServiceTime) -> Self {
        Self { weight: 1, priority: 0, service }
    }

    /// Sets the base weight.
    pub const fn with_weight(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// Sets the priority tier.
    pub const fn with_priority(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    fn member(&self, index: usize, workers: usize) -> Member {
        let address = Address::Socket(([127, 0, 0, 1], 9000).into());
        let weight = Weight::new(self.weight);
        let priority = self.priority;
        Member {
            id: DestinationId(index as u32),
            destination: Destination {
                weight,
                priority,
                ..Destination::new(&format!("server-{index}"), address)
            },
            status: Status::Serving,
            since: Tick::ZERO,
            weight: weight.in_256ths(),
            slow_start: None,
            stats: Arc::new(DestinationStats::new(workers)),
        }
    }
}

/// Message in service.
#[derive(Debug)]
struct InService {
    until: Tick,
    /// Breaks ties of time, so that a run depends on its random seed alone.
    order: u64,
    assignment: Assignment,
}

impl PartialEq for InService {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for InService {}

impl PartialOrd for InService {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InService {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.until, self.order).cmp(&(other.until, other.order))
    }
}

/// One pool with its policy and its destinations. Nothing in it waits, and only the seed makes it random.
pub struct OpenLoop {
    policy: Box<dyn Policy>,
    services: Vec<ServiceTime>,
    members: Vec<Member>,
    snapshot: Snapshot,
    in_service: BinaryHeap<Reverse<InService>>,
    now: Tick,
    sent: u64,
    /// Separate random numbers for the policy and the workload, so that two policies get the same workload.
    policy_rng: Rng,
    workload_rng: Rng,
}

impl OpenLoop {
    /// Creates a simulation in which all `servers` serve. Counters are kept for one worker; rotations for as
    /// many as the policy was created for.
    pub fn new(seed: u64, policy: Box<dyn Policy>, servers: &[OpenLoopServer]) -> Self {
        let members: Vec<Member> =
            servers.iter().enumerate().map(|(index, server)| server.member(index, 1)).collect();
        Self {
            snapshot: Snapshot::build("open_loop".into(), 0, &*policy, members.clone()),
            policy,
            services: servers.iter().map(|server| server.service).collect(),
            members,
            in_service: BinaryHeap::new(),
            now: Tick::ZERO,
            sent: 0,
            policy_rng: Rng::new(seed),
            workload_rng: Rng::new(!seed),
        }
    }

    /// Returns the current virtual time.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Publishes a snapshot in which server `index` serves if `serves(index)`, and is down otherwise.
    pub fn publish(&mut self, serves: impl Fn(usize) -> bool) {
        for (index, member) in self.members.iter_mut().enumerate() {
            member.status = if serves(index) { Status::Serving } else { Status::Down };
        }
        let generation = self.snapshot.generation + 1;
        self.snapshot =
            Snapshot::build(self.snapshot.pool.clone(), generation, &*self.policy, self.members.clone());
    }

    /// Chooses a destination for one message without serving it. Where the policy needs a key and `want` has
    /// none, each message gets a random one.
    ///
    /// # Errors
    /// The error of [`balance_load`].
    pub fn choose(&mut self, want: &PickRequest<'_>) -> Result<Assignment, NoDestination> {
        let key = match self.policy.needs() {
            Needs::Key => want.key.or_else(|| Some(self.workload_rng.next_u64())),
            Needs::Nothing | Needs::Load | Needs::ResponseTimes | Needs::Probes => want.key,
        };
        balance_load(&self.snapshot, &PickRequest { key, ..*want }, self.now, &mut self.policy_rng)
    }

    /// Sends one message, which holds its assignment for the service time, and returns the index of its
    /// server.
    ///
    /// # Errors
    /// The error of [`balance_load`].
    pub fn send(&mut self, want: &PickRequest<'_>) -> Result<usize, NoDestination> {
        let assignment = self.choose(want)?;
        let server = assignment.member();
        let until = self.now + self.services[server].draw(&mut self.workload_rng);
        self.in_service.push(Reverse(InService { until, order: self.sent, assignment }));
        self.sent += 1;
        Ok(server)
    }

    /// Advances the virtual time; messages completed meanwhile get a response of 200 at their time.
    pub fn advance(&mut self, span: Duration) {
        self.now += span;
        while self.in_service.peek().is_some_and(|Reverse(next)| next.until <= self.now) {
            if let Some(Reverse(InService { until, assignment, .. })) = self.in_service.pop() {
                let first_byte = until.since(assignment.started());
                assignment.finish(until, Outcome::Answered { status: 200, first_byte });
            }
        }
    }

    /// Sends `messages` at `per_second` on average, independent of each other and of the responses (a Poisson
    /// process), all at worker 0. Returns how many each server received.
    ///
    /// # Errors
    /// The error of [`balance_load`] at the first message that has no destination.
    pub fn run_poisson(&mut self, messages: u32, per_second: f64) -> Result<Vec<u32>, NoDestination> {
        let mut received = vec![0; self.members.len()];
        for _ in 0..messages {
            let gap = exponential(&mut self.workload_rng) / per_second;
            self.advance(Duration::from_secs_f64(gap));
            received[self.send(&PickRequest::default())?] += 1;
        }
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::balance::Algorithm;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_message_is_in_flight_for_its_service_time() {
        let server = OpenLoopServer::new(ServiceTime::Fixed(5 * MS));
        let mut open_loop = OpenLoop::new(1, Algorithm::RoundRobin.policy(1), &[server]);
        open_loop.send(&PickRequest::default()).unwrap();
        open_loop.advance(4 * MS);
        let stats = open_loop.snapshot().members[0].stats.clone();
        assert_eq!((stats.in_flight(), stats.counts().answered()), (1, 0));
        open_loop.advance(MS);
        assert_eq!((stats.in_flight(), stats.counts().answered()), (0, 1));
        assert_eq!(stats.counts().mean_first_byte(), Some(5 * MS));
    }

    #[test]
    fn the_mean_load_follows_littles_law() {
        // Little's law: 1,000 per second of 20 ms each are 20 in flight, and one has just arrived.
        let server = OpenLoopServer::new(ServiceTime::Exponential(20 * MS));
        let mut open_loop = OpenLoop::new(3, Algorithm::RoundRobin.policy(1), &[server]);
        let mut sum = 0;
        for _ in 0..2_000 {
            open_loop.run_poisson(10, 1_000.0).unwrap();
            sum += open_loop.snapshot().members[0].stats.in_flight();
        }
        assert!((40_000..44_000).contains(&sum), "{}", f64::from(sum) / 2_000.0);
    }
}
