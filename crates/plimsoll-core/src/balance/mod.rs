//! Balancing algorithms: a policy is an algorithm as configured, a picker is the algorithm built for one snapshot.

mod alias_table;
mod bounded_load;
pub mod consistent_hash;
pub mod custom;
mod custom_registry;
pub mod health_based;
mod key_cache;
mod latency_quantile;
pub mod least_loaded;
mod lowest_score;
mod maglev;
pub mod peak_ewma;
pub mod prequal;
mod probe_pool;
pub mod random;
pub mod rendezvous;
mod request;
pub mod response_time;
mod ring;
pub mod rotation;
mod rotation_state;
mod sampling;
mod slow_destinations;
mod smooth_sequence;
mod turns;

use std::sync::Arc;

use crate::destination::{Address, DestinationId, Name};
use crate::formula::{Attributes, Formula};
use crate::hash::mix;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

pub use self::consistent_hash::{HashSpec, HashTable};
pub use self::custom_registry::{PolicyRegistry, RegisteredPolicy};
pub use self::key_cache::KeyCacheStats;
pub use self::request::{AttemptedSet, PickRequest};
use crate::slow_start::SlowStart;

/// A destination that may serve, as pickers see it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Unique number, never reused for another destination.
    pub id: DestinationId,
    /// Name of the destination, unique in the pool.
    pub name: Name,
    /// Hash of the name, equal in every process; keys are mapped by it.
    pub name_hash: u64,
    /// Address of the destination.
    pub address: Address,
    /// Effective weight in 256ths, above 0.
    pub weight: u32,
    /// Index in the pool's list of members; ascending in a list of slots.
    pub rank: u32,
    /// Priority of the destination's tier.
    pub priority: u8,
    /// Zone of the destination.
    pub zone: Option<Name>,
    /// Labels of the destination.
    pub labels: Arc<[(Name, Name)]>,
    /// Slow start, while the destination is warming.
    pub slow_start: Option<SlowStart>,
    /// Counters that all workers share.
    pub stats: Arc<DestinationStats>,
}

impl Slot {
    /// Returns the constant attributes that a formula can read.
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            name: &self.name,
            zone: self.zone.as_ref(),
            labels: &self.labels,
            weight: self.weight,
            priority: self.priority,
        }
    }
}

/// What a policy needs to know for a pick.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Needs nothing: rotations and random picks.
    Nothing,
    /// Needs the message's key ([`PickRequest::key`]).
    Key,
    /// Needs the messages in flight at each destination.
    Load,
    /// Needs the load and response times, which are measured only for such policies.
    ResponseTimes,
    /// Needs the load, response times, and response times by load.
    Probes,
}

/// An algorithm as configured. A pool has one, which outlives its pickers, so rotations continue over snapshots.
pub trait Policy: Send + Sync {
    /// Returns the name in the configuration.
    fn name(&self) -> &'static str;

    /// Returns what the policy needs to know.
    fn needs(&self) -> Needs;

    /// Builds a picker over `slots`, which are in configured order and never empty. It may be slow.
    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker>;

    /// Builds a picker for a part of the pool with a rotation of its own. Policies without rotations ignore the
    /// partition.
    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let _ = part;
        self.build(slots)
    }

    /// Returns hits and misses of the key cache, if the policy has one.
    fn key_cache(&self) -> Option<Arc<KeyCacheStats>> {
        None
    }
}

/// A part of a pool, equal over snapshots, so that its rotation continues.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u64);

impl Partition {
    /// The whole pool.
    pub const WHOLE: Self = Self(0);

    /// Creates the partition of a priority and of another common property; 0 means no such property.
    pub const fn new(priority: u8, common: u64) -> Self {
        match (priority, common) {
            (0, 0) => Self::WHOLE,
            _ => Self(mix(common.wrapping_add(priority as u64 + 1))),
        }
    }
}

/// An algorithm built for one snapshot. It sees only destinations that may serve and never decides which may.
pub trait Picker: Send + Sync {
    /// Returns the index of the slot for a message, without locks and allocations.
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize;

    /// Returns the score of a slot, lower is better; `None` if the algorithm compares no single number. It is for
    /// display only.
    fn score(&self, _slot: usize, _now: Tick) -> Option<f64> {
        None
    }
}

/// Balancing algorithms that a configuration can name.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Rotation in configured order.
    RoundRobin,
    /// Rotation by nginx's smooth weighted sequence.
    WeightedRoundRobin,
    /// Fewest messages in flight.
    LeastConnections,
    /// Lowest messages in flight / weight.
    WeightedLeastConnections,
    /// Random by weight.
    Random,
    /// The less loaded of two drawn by weight (power of two choices).
    P2c,
    /// Lowest load multiplied by relative slowness.
    ResponseTime,
    /// Lowest latency cost, which rises at once and decays slowly, multiplied by load.
    PeakEwma,
    /// Hash of the client address.
    SourceHash,
    /// Hash of a configured key.
    Hash,
    /// Random by weight multiplied by health score.
    HealthBased,
    /// The fastest of the lightly loaded among probed destinations.
    Prequal,
    /// Lowest score by a formula.
    Custom,
    /// Policy of the embedding program.
    Registered(RegisteredPolicy),
}

/// Settings of algorithms; each uses its own part.
#[derive(Clone, Debug, PartialEq)]
pub struct AlgorithmSettings {
    /// Settings of `source_hash` and `hash`.
    pub hash: HashSpec,
    /// Formula of `custom`; [`custom::DEFAULT`] without one.
    pub formula: Option<Arc<Formula>>,
    /// Whether picks by key are cached if that is cheaper than computing them.
    pub caching: bool,
}

impl Default for AlgorithmSettings {
    fn default() -> Self {
        Self { hash: HashSpec::default(), formula: None, caching: true }
    }
}

impl Algorithm {
    /// All built-in algorithms.
    pub const ALL: [Self; 13] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::WeightedLeastConnections,
        Self::Random,
        Self::P2c,
        Self::ResponseTime,
        Self::PeakEwma,
        Self::SourceHash,
        Self::Hash,
        Self::HealthBased,
        Self::Prequal,
        Self::Custom,
    ];

    /// Returns the name in configuration, API and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::WeightedLeastConnections => "weighted_least_connections",
            Self::Random => "random",
            Self::P2c => "p2c",
            Self::ResponseTime => "response_time",
            Self::PeakEwma => "peak_ewma",
            Self::SourceHash => "source_hash",
            Self::Hash => "hash",
            Self::HealthBased => "health_based",
            Self::Prequal => "prequal",
            Self::Custom => "custom",
            Self::Registered(registered) => registered.name(),
        }
    }

    /// Returns whether weights change the shares. Every algorithm leaves out destinations of weight 0.
    pub const fn heeds_weights(self) -> bool {
        !matches!(self, Self::RoundRobin | Self::LeastConnections)
    }

    /// Returns the built-in algorithm of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Creates a policy with default settings for `workers` workers.
    pub fn policy(self, workers: usize) -> Box<dyn Policy> {
        self.policy_with(workers, &AlgorithmSettings::default())
    }

    /// Creates a policy for `workers` workers.
    pub fn policy_with(self, workers: usize, settings: &AlgorithmSettings) -> Box<dyn Policy> {
        let hashed = |policy: consistent_hash::ConsistentHash| -> Box<dyn Policy> {
            Box::new(if settings.caching { policy.with_cache(workers) } else { policy })
        };
        match self {
            Self::RoundRobin => Box::new(rotation::RoundRobin::new(workers)),
            Self::WeightedRoundRobin => Box::new(rotation::WeightedRoundRobin::new(workers)),
            Self::LeastConnections => Box::new(least_loaded::LeastConnections::unweighted(workers)),
            Self::WeightedLeastConnections => Box::new(least_loaded::LeastConnections::weighted(workers)),
            Self::Random => Box::new(random::Random),
            Self::P2c => Box::new(random::P2c),
            Self::ResponseTime => Box::new(response_time::ResponseTime::new(workers)),
            Self::PeakEwma => Box::new(peak_ewma::PeakEwma::new(workers)),
            Self::SourceHash => hashed(consistent_hash::ConsistentHash::by_source(settings.hash)),
            Self::Hash => hashed(consistent_hash::ConsistentHash::by_key(settings.hash)),
            Self::HealthBased => Box::new(health_based::HealthBased),
            Self::Prequal => Box::new(prequal::Prequal::new(workers)),
            Self::Custom => Box::new(custom::Custom::new(workers, settings.formula.clone())),
            Self::Registered(registered) => registered.policy(workers),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::Outcome;
    use crate::stats::Assignment;

    /// Returns slots named a, b, c … with these ranks and weights.
    pub(crate) fn slots(ranks_and_weights: impl IntoIterator<Item = (u32, u32)>) -> Arc<[Slot]> {
        let slot = |(rank, weight): (u32, u32)| Slot {
            id: DestinationId(rank),
            name_hash: crate::hash::hash(&rank.to_le_bytes()),
            name: String::from(char::from(b'a' + (rank % 26) as u8)).into(),
            address: Address::Socket(([127, 0, 0, 1], 9000).into()),
            weight,
            rank,
            priority: 0,
            zone: None,
            labels: Arc::default(),
            slow_start: None,
            stats: {
                let stats = Arc::new(DestinationStats::new(1));
                stats.set_latency_tracking(true);
                stats.measured().enable_latency_by_load();
                stats
            },
        };
        ranks_and_weights.into_iter().map(slot).collect()
    }

    /// Returns slots of these weights with different names and hashes.
    pub(crate) fn named(ranks: impl IntoIterator<Item = u32>, weights: &[u32]) -> Vec<Slot> {
        let slots = slots(ranks.into_iter().zip(weights.iter().copied()));
        let named = |slot: &Slot| {
            let name: Name = format!("destination-{}", slot.rank).into();
            Slot { name_hash: crate::hash::hash(name.as_bytes()), name, ..slot.clone() }
        };
        slots.iter().map(named).collect()
    }

    /// Puts messages in flight at `slot`.
    pub(crate) fn hold(slot: &Slot, count: u32) -> Vec<Assignment> {
        let assignment = |_| Assignment::take(slot.id, 0, 0, &slot.stats, Tick::ZERO).expect("no limit");
        (0..count).map(assignment).collect()
    }

    /// Records a response of `slot`.
    pub(crate) fn answer(slot: &Slot, now: Tick, status: u16, first_byte: Duration) {
        hold(slot, 1).pop().expect("one").finish(now, Outcome::Answered { status, first_byte });
    }

    /// Returns the names of the next `count` picks of `worker`, separated by spaces.
    pub(crate) fn picks(picker: &dyn Picker, slots: &[Slot], worker: usize, count: usize) -> String {
        let (want, mut rng) = (PickRequest { worker, ..PickRequest::default() }, Rng::new(1));
        let names: Vec<&str> =
            (0..count).map(|_| &*slots[picker.pick(&want, Tick::ZERO, &mut rng)].name).collect();
        names.join(" ")
    }

    #[test]
    fn algorithms_are_found_by_name() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(algorithm.policy(1).name(), algorithm.name());
        }
        assert_eq!(Algorithm::from_name("fastest"), None);
    }
}
