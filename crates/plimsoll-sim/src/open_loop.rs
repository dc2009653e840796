//! What happens to a pool under work when time is a number: arrivals, choices, service, departures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Needs, Policy};
use plimsoll_core::snapshot::Member;
use plimsoll_core::{
    Address, Assignment, Destination, DestinationId, DestinationStats, NoDestination, Outcome, Rng, Snapshot,
    Status, Tick, Want, Weight, balance_load,
};

use crate::distributions::exponential;

/// How long a destination works on a message.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Service {
    /// Always so long.
    Fixed(Duration),
    /// Exponentially distributed around this mean: the memoryless server of queueing theory.
    Exponential(Duration),
}

impl Service {
    fn draw(self, rng: &mut Rng) -> Duration {
        match self {
            Self::Fixed(span) => span,
            Self::Exponential(mean) => mean.mul_f64(exponential(rng)),
        }
    }
}

/// A destination as the world builds it.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Station {
    /// Base weight.
    pub weight: u16,
    /// Tier; 0 is first.
    pub priority: u8,
    /// How long it works on a message, however many it has.
    pub service: Service,
}

impl Station {
    /// A station of weight 1 in the first tier.
    pub const fn new(service: Service) -> Self {
        Self { weight: 1, priority: 0, service }
    }

    /// The same with another weight.
    pub const fn weighing(self, weight: u16) -> Self {
        Self { weight, ..self }
    }

    /// The same in another tier.
    pub const fn in_tier(self, priority: u8) -> Self {
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
                ..Destination::new(&format!("station-{index}"), address)
            },
            status: Status::Serving,
            since: Tick::ZERO,
            weight: weight.in_256ths(),
            warmth: None,
            stats: Arc::new(DestinationStats::new(workers)),
        }
    }
}

/// A message in service.
#[derive(Debug)]
struct Held {
    until: Tick,
    /// Breaks ties of time, so that a run depends on nothing but its seed.
    order: u64,
    assignment: Assignment,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.until, self.order).cmp(&(other.until, other.order))
    }
}

/// One pool, its policy, and its destinations at work. Nothing in it waits and nothing in it is random but
/// for the seed.
pub struct World {
    policy: Box<dyn Policy>,
    services: Vec<Service>,
    members: Vec<Member>,
    snapshot: Snapshot,
    held: BinaryHeap<Reverse<Held>>,
    now: Tick,
    sent: u64,
    /// Dice of the balancer and of the world are apart, so that two policies meet the same workload.
    dice: Rng,
    fate: Rng,
}

impl World {
    /// A world where all `stations` serve. Counters are kept for one worker; rotations for as many as the
    /// policy was made for.
    pub fn new(seed: u64, policy: Box<dyn Policy>, stations: &[Station]) -> Self {
        let members: Vec<Member> =
            stations.iter().enumerate().map(|(index, station)| station.member(index, 1)).collect();
        Self {
            snapshot: Snapshot::build("world".into(), 0, &*policy, members.clone()),
            policy,
            services: stations.iter().map(|station| station.service).collect(),
            members,
            held: BinaryHeap::new(),
            now: Tick::ZERO,
            sent: 0,
            dice: Rng::new(seed),
            fate: Rng::new(!seed),
        }
    }

    /// The moment it is.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The picture in force.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Publishes anew: station `index` serves if `serves(index)`, and is down otherwise.
    pub fn publish(&mut self, serves: impl Fn(usize) -> bool) {
        for (index, member) in self.members.iter_mut().enumerate() {
            member.status = if serves(index) { Status::Serving } else { Status::Down };
        }
        let generation = self.snapshot.generation + 1;
        self.snapshot =
            Snapshot::build(self.snapshot.pool.clone(), generation, &*self.policy, self.members.clone());
    }

    /// Chooses for one message, without serving it. Where the policy needs a key and `want` has none, each message
    /// has another.
    ///
    /// # Errors
    /// As [`balance_load`].
    pub fn choose(&mut self, want: &Want<'_>) -> Result<Assignment, NoDestination> {
        let key = match self.policy.needs() {
            Needs::Key => want.key.or_else(|| Some(self.fate.next_u64())),
            Needs::Nothing | Needs::Load | Needs::Answers | Needs::Probes => want.key,
        };
        balance_load(&self.snapshot, &Want { key, ..*want }, self.now, &mut self.dice)
    }

    /// Sends one message: it holds its assignment for the service time of whoever takes it. Answers the index of
    /// that station.
    ///
    /// # Errors
    /// As [`balance_load`].
    pub fn send(&mut self, want: &Want<'_>) -> Result<usize, NoDestination> {
        let assignment = self.choose(want)?;
        let station = assignment.member();
        let until = self.now + self.services[station].draw(&mut self.fate);
        self.held.push(Reverse(Held { until, order: self.sent, assignment }));
        self.sent += 1;
        Ok(station)
    }

    /// Lets time pass; whatever ends meanwhile is answered with 200 at its moment.
    pub fn pass(&mut self, span: Duration) {
        self.now += span;
        while self.held.peek().is_some_and(|Reverse(next)| next.until <= self.now) {
            if let Some(Reverse(Held { until, assignment, .. })) = self.held.pop() {
                let first_byte = until.since(assignment.started());
                assignment.finish(until, Outcome::Answered { status: 200, first_byte });
            }
        }
    }

    /// Open work: `messages` arrive at `per_second` on average, independent of each other and of the answers
    /// (a Poisson process), all at worker 0. Answers how many each station took.
    ///
    /// # Errors
    /// As [`balance_load`], at the first message nobody takes.
    pub fn open_work(&mut self, messages: u32, per_second: f64) -> Result<Vec<u32>, NoDestination> {
        let mut taken = vec![0; self.members.len()];
        for _ in 0..messages {
            let gap = exponential(&mut self.fate) / per_second;
            self.pass(Duration::from_secs_f64(gap));
            taken[self.send(&Want::default())?] += 1;
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::balance::Algorithm;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_message_is_in_flight_for_its_service_time() {
        let station = Station::new(Service::Fixed(5 * MS));
        let mut world = World::new(1, Algorithm::RoundRobin.policy(1), &[station]);
        world.send(&Want::default()).unwrap();
        world.pass(4 * MS);
        let stats = world.snapshot().members[0].stats.clone();
        assert_eq!((stats.in_flight(), stats.counts().answered()), (1, 0));
        world.pass(MS);
        assert_eq!((stats.in_flight(), stats.counts().answered()), (0, 1));
        assert_eq!(stats.counts().mean_first_byte(), Some(5 * MS));
    }

    #[test]
    fn load_is_arrivals_times_service_time() {
        // Little's law: 1,000 a second for 20 ms each are 20 at a time, and one has just arrived.
        let station = Station::new(Service::Exponential(20 * MS));
        let mut world = World::new(3, Algorithm::RoundRobin.policy(1), &[station]);
        let mut sum = 0;
        for _ in 0..2_000 {
            world.open_work(10, 1_000.0).unwrap();
            sum += world.snapshot().members[0].stats.in_flight();
        }
        assert!((40_000..44_000).contains(&sum), "{}", f64::from(sum) / 2_000.0);
    }
}
