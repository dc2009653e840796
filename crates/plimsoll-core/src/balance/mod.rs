//! The seam every algorithm enters by: a policy as configured, a picker as built for one snapshot.

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
mod smooth_sequence;

use std::sync::Arc;

use crate::destination::{Address, DestinationId, Name};
use crate::formula::Formula;
use crate::hash::mix;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

pub use self::consistent_hash::{HashSpec, HashTable};
pub use self::custom_registry::{PolicyRegistry, RegisteredPolicy};
pub use self::key_cache::KeyCacheStats;
pub use self::request::{AttemptedSet, PickRequest};
use crate::slow_start::SlowStart;

/// One destination that may serve, as a picker sees it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Never used again for another destination.
    pub id: DestinationId,
    /// Unique in the pool.
    pub name: Name,
    /// The hash of its name: where keys find it, in every process alike.
    pub name_hash: u64,
    /// Where it listens.
    pub address: Address,
    /// Effective weight in 256ths, above 0.
    pub weight: u32,
    /// Place in the configured order of the pool, an index in its list of members; grows along the list of
    /// slots.
    pub rank: u32,
    /// The number of its tier.
    pub priority: u8,
    /// Where it stands.
    pub zone: Option<Name>,
    /// Free labels.
    pub labels: Arc<[(Name, Name)]>,
    /// It is warming: some messages pass it by.
    pub slow_start: Option<SlowStart>,
    /// What all workers share about it.
    pub stats: Arc<DestinationStats>,
}

/// What a policy needs to know of a message to choose well.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: rotations and dice.
    Nothing,
    /// What it is to keep its destination by ([`PickRequest::key`]).
    Key,
    /// The messages in flight at each destination.
    Load,
    /// That, and how each destination answers: it is measured only where a policy says so.
    ResponseTimes,
    /// That, and how soon it answers by how much there is to do.
    Probes,
}

/// An algorithm as configured: one per pool, outlives its pickers, so a republish does not restart it.
pub trait Policy: Send + Sync {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// What it wants to know of each message.
    fn needs(&self) -> Needs;

    /// A picker over `slots`, which are never empty and in configured order. Off the request path: may be
    /// slow.
    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker>;

    /// The same for a part of the pool that takes messages beside other parts: a rotation over it goes on by
    /// itself. PolicyRegistry that do not rotate have nothing to tell apart.
    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let _ = part;
        self.build(slots)
    }

    /// How often it found a message's destination decided before, if it remembers such things.
    fn key_cache(&self) -> Option<Arc<KeyCacheStats>> {
        None
    }
}

/// A part of a pool, the same over republishing: its rotations stand where they stood.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u64);

impl Partition {
    /// What a pool is without parts.
    pub const WHOLE: Self = Self(0);

    /// Destinations of this priority that have something else in common; 0: nothing.
    pub const fn new(priority: u8, common: u64) -> Self {
        match (priority, common) {
            (0, 0) => Self::WHOLE,
            _ => Self(mix(common.wrapping_add(priority as u64 + 1))),
        }
    }
}

/// An algorithm built for one snapshot. It sees only destinations that may serve and never decides who may.
pub trait Picker: Send + Sync {
    /// The index of the slot that takes this message. No lock, no allocation.
    fn pick(&self, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize;

    /// What it would compare that slot by now, the lower the better; `None` where nothing is compared, or not
    /// by one number. For people: no choice asks for it.
    fn score(&self, _slot: usize, _now: Tick) -> Option<f64> {
        None
    }
}

/// The algorithms a configuration can name today.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Each in turn.
    RoundRobin,
    /// nginx's smooth sequence.
    WeightedRoundRobin,
    /// Fewest in flight.
    LeastConnections,
    /// Lowest (in flight + 1) / weight.
    WeightedLeastConnections,
    /// By weight, without looking.
    Random,
    /// The better of two drawn by weight.
    P2c,
    /// Lowest time to the first byte times what is in flight.
    ResponseTime,
    /// The same with a cost that follows peaks at once.
    PeakEwma,
    /// The same client address, the same destination.
    SourceHash,
    /// The same key, the same destination.
    Hash,
    /// By weight times how well each does.
    HealthBased,
    /// Of those without much to do the fastest.
    Prequal,
    /// Lowest score by a formula.
    Custom,
    /// One of the embedding program.
    Registered(RegisteredPolicy),
}

/// What algorithms are told beside their names; each heeds its own part.
#[derive(Clone, Debug, PartialEq)]
pub struct AlgorithmSettings {
    /// For `source_hash` and `hash`.
    pub hash: HashSpec,
    /// For `custom`; without one it is [`custom::DEFAULT`].
    pub formula: Option<Arc<Formula>>,
    /// KeyCache are remembered where that is cheaper than to decide again.
    pub caching: bool,
}

impl Default for AlgorithmSettings {
    fn default() -> Self {
        Self { hash: HashSpec::default(), formula: None, caching: true }
    }
}

impl Algorithm {
    /// All that are built in.
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

    /// The name in configuration, API and metrics.
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

    /// Do weights change how often a destination is chosen? (Weight 0 is left out by every algorithm.)
    pub const fn heeds_weights(self) -> bool {
        !matches!(self, Self::RoundRobin | Self::LeastConnections)
    }

    /// The built-in algorithm of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// A policy for a pool served by `workers` workers, with everything else as it is by default.
    pub fn policy(self, workers: usize) -> Box<dyn Policy> {
        self.policy_with(workers, &AlgorithmSettings::default())
    }

    /// The same, as configured.
    pub fn policy_with(self, workers: usize, settings: &AlgorithmSettings) -> Box<dyn Policy> {
        let hashed = |policy: consistent_hash::ConsistentHash| -> Box<dyn Policy> {
            Box::new(if settings.caching { policy.remembering(workers) } else { policy })
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

    /// Slots named a, b, c … with these ranks and weights.
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

    /// Slots of these weights with the seeds of their names, which are all different.
    pub(crate) fn named(ranks: impl IntoIterator<Item = u32>, weights: &[u32]) -> Vec<Slot> {
        let slots = slots(ranks.into_iter().zip(weights.iter().copied()));
        let named = |slot: &Slot| {
            let name: Name = format!("destination-{}", slot.rank).into();
            Slot { name_hash: crate::hash::hash(name.as_bytes()), name, ..slot.clone() }
        };
        slots.iter().map(named).collect()
    }

    /// So many messages in flight at `slot`.
    pub(crate) fn hold(slot: &Slot, count: u32) -> Vec<Assignment> {
        let assignment = |_| Assignment::take(slot.id, 0, 0, &slot.stats, Tick::ZERO).expect("no limit");
        (0..count).map(assignment).collect()
    }

    /// One answer of `slot`, so long after it was chosen.
    pub(crate) fn answer(slot: &Slot, now: Tick, status: u16, first_byte: Duration) {
        hold(slot, 1).pop().expect("one").finish(now, Outcome::Answered { status, first_byte });
    }

    /// The names of the next `count` picks of `worker`, with a space between.
    pub(crate) fn picks(picker: &dyn Picker, slots: &[Slot], worker: usize, count: usize) -> String {
        let (want, mut rng) = (PickRequest { worker, ..PickRequest::default() }, Rng::new(1));
        let names: Vec<&str> =
            (0..count).map(|_| &*slots[picker.pick(&want, Tick::ZERO, &mut rng)].name).collect();
        names.join(" ")
    }

    #[test]
    fn every_algorithm_answers_to_its_name() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(algorithm.policy(1).name(), algorithm.name());
        }
        assert_eq!(Algorithm::from_name("fastest"), None);
    }
}
