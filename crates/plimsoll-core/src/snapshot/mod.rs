//! One immutable picture of a pool: who belongs to it, who may serve, and who is met first.

mod choice;
mod no_destination;
mod priority_and_locality;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use crate::balance::{KeyCacheStats, Needs, Partition, PickRequest, Picker, Policy, Slot, rendezvous};
use crate::destination::{Destination, DestinationId, Name, Status};
use crate::hash::hash;
use crate::limiter::PoolLimiter;
use crate::rng::Rng;
use crate::slow_start::SlowStart;
use crate::stats::DestinationStats;
use crate::subset::{Fallback, Subset};
use crate::time::Tick;

pub use self::choice::balance_load;
pub(crate) use self::choice::balance_load_dry;
pub use self::no_destination::NoDestination;
use self::priority_and_locality::build_tiers;
pub use self::priority_and_locality::{TierSet, TierSpec, ZoneSpec};

/// A destination of the pool, serving or not, as the snapshot froze it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub id: DestinationId,
    /// As configured.
    pub destination: Destination,
    /// May it serve, and if not why.
    pub status: Status,
    /// Since when it stands so.
    pub since: Tick,
    /// Effective weight, 256ths.
    pub weight: u32,
    /// It is warming, for so long.
    pub slow_start: Option<SlowStart>,
    /// Its counters.
    pub stats: Arc<DestinationStats>,
}

impl Member {
    /// What a picker sees of it; `rank` is its index among the members.
    pub fn slot(&self, rank: usize) -> Slot {
        Slot {
            id: self.id,
            name: self.destination.name.clone(),
            name_hash: hash(self.destination.name.as_bytes()),
            address: self.destination.address.clone(),
            weight: self.weight,
            rank: rank as u32,
            priority: self.destination.priority,
            zone: self.destination.zone.clone(),
            labels: self.destination.labels.clone(),
            slow_start: self.slow_start,
            stats: self.stats.clone(),
        }
    }
}

/// Destinations that may serve and are preferred alike, and the picker built over them.
pub struct Tier {
    /// 0 is first.
    pub priority: u8,
    /// It is one of several of its priority: the own zone's, or another's.
    pub local_zone: Option<bool>,
    /// Never empty, in configured order.
    pub slots: Arc<[Slot]>,
    /// Everybody of its priority, in configured order: homes are where they are from whatever zone a message comes.
    pub all_members: Arc<[Slot]>,
    /// Chooses among `slots`.
    pub picker: Box<dyn Picker>,
}

impl Tier {
    /// A tier of `slots`, rotated over as `part` of the pool.
    pub(crate) fn new(policy: &dyn Policy, priority: u8, part: Partition, slots: Arc<[Slot]>) -> Self {
        let picker = policy.build_partition(slots.clone(), part);
        Self { priority, local_zone: None, all_members: slots.clone(), slots, picker }
    }

    /// Whom a message chooses from.
    fn slots_for(&self, want: &PickRequest<'_>) -> &[Slot] {
        if want.affinity_key.is_some() { &self.all_members } else { &self.slots }
    }
}

/// How the destinations of a pool stand, all together: counted once, when the picture is made, and read by everybody
/// who asks. It is as true as the picture: each change of a status makes another one.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSummary {
    /// May serve.
    pub serving: usize,
    /// There are.
    pub total: usize,
}

impl HealthSummary {
    fn of(members: &[Member]) -> Self {
        let serving = members.iter().filter(|member| member.status.serves()).count();
        Self { serving, total: members.len() }
    }

    /// `healthy`, `degraded` or `down`, the seed's three words.
    pub const fn state(self) -> &'static str {
        match self.serving {
            0 => "down",
            n if n == self.total => "healthy",
            _ => "degraded",
        }
    }
}

/// One immutable picture of a pool: who is there, who may serve, in which order of tiers.
pub struct Snapshot {
    /// The pool.
    pub pool: Name,
    /// Grows with every publication.
    pub generation: u64,
    /// The algorithm's name.
    pub algorithm: &'static str,
    /// How they stand, all together.
    pub health: HealthSummary,
    /// How often its policy found a decision made before, if it remembers any.
    pub key_cache: Option<Arc<KeyCacheStats>>,
    /// Everyone, in configured order; a slot's `rank` is its index here.
    pub members: Box<[Member]>,
    /// Tiers that may serve, best first, and which of them a message meets first.
    pub pool_tiers: TierSet,
    /// The same of the parts that routes ask for, by their numbers.
    pub subsets: Box<[(u64, TierSet)]>,
    /// Ejected destinations whose time is over: the next repeatable message may try one.
    pub trials: Box<[Slot]>,
    /// From then on any message may be the trial, repeatable or not.
    pub trials_for_all: Tick,
    /// What the pool has at once; `None` where nothing of it has a limit.
    pub limiter: Option<Arc<PoolLimiter>>,
}

impl Snapshot {
    /// A picture of `members` (in configured order): those that serve and whose weight is above 0, grouped
    /// into tiers by priority, each with a picker of `policy`. Everybody's answers are measured if that asks for
    /// it. Trials, and whatever else a pool wants to be
    /// different, are its own to add. Off the request path: building may be slow.
    pub fn build(pool: Name, generation: u64, policy: &dyn Policy, members: Vec<Member>) -> Self {
        Self::build_with(pool, generation, policy, &TierSpec::default(), members)
    }

    /// The same, with tiers as `spec` wants them.
    pub fn build_with(
        pool: Name,
        generation: u64,
        policy: &dyn Policy,
        spec: &TierSpec,
        members: Vec<Member>,
    ) -> Self {
        for member in &members {
            let needs = policy.needs();
            member.stats.set_latency_tracking(matches!(needs, Needs::ResponseTimes | Needs::Probes));
            if needs == Needs::Probes {
                member.stats.measured().enable_latency_by_load();
            }
        }
        let part = |subset: &Arc<Subset>| (subset.id(), build_tiers(policy, &members, spec, Some(subset)));
        Self {
            pool,
            generation,
            algorithm: policy.name(),
            health: HealthSummary::of(&members),
            key_cache: policy.key_cache(),
            subsets: spec.subsets.iter().map(part).collect(),
            pool_tiers: build_tiers(policy, &members, spec, None),
            members: members.into(),
            trials: Box::default(),
            trials_for_all: Tick::NEVER,
            limiter: None,
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("pool", &self.pool)
            .field("generation", &self.generation)
            .field("algorithm", &self.algorithm)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The destination `key` belongs to, as of now.
    pub fn preferred_destination(&self, key: u64, subset: Option<&Subset>) -> Option<&Member> {
        let want = PickRequest { affinity_key: Some(key), subset, ..PickRequest::default() };
        let reach = self.tiers_for(&want);
        // Nothing is drawn for who has a home.
        let tier = reach.first_for(&want, &mut Rng::new(0));
        let slot = rendezvous::home(&reach.tiers.get(tier)?.all_members, key, |_| true)?;
        self.members.get(slot.rank as usize)
    }

    /// The part of the pool a message is for; `None` where no table of it was built yet.
    pub(crate) fn part(&self, subset: &Subset) -> Option<&TierSet> {
        self.subsets.iter().find(|(id, _)| *id == subset.id()).map(|(_, reach)| reach)
    }

    /// The tiers a message chooses from: of its part, or, where nobody serves there and that may be, of the whole.
    pub fn tiers_for(&self, want: &PickRequest<'_>) -> &TierSet {
        match want.subset.and_then(|subset| Some((subset, self.part(subset)?))) {
            Some((subset, part)) if !part.tiers.is_empty() || subset.fallback == Fallback::None => part,
            _ => &self.pool_tiers,
        }
    }

    /// Is there a destination for such a message that may serve, has room and was not tried?
    pub fn has_untried(&self, want: &PickRequest<'_>) -> bool {
        let strict = want.subset.is_some_and(|subset| subset.fallback == Fallback::None);
        let reach = if strict { self.tiers_for(want) } else { &self.pool_tiers };
        reach
            .tiers
            .iter()
            .flat_map(|tier| tier.slots.iter())
            .any(|slot| !want.has_tried(slot.id) && !slot.stats.is_full())
    }

    /// Is the destination of this slot one the message may go to at first?
    fn is_meant(&self, slot: &Slot, want: &PickRequest<'_>) -> bool {
        want.subset.is_none_or(|subset| subset.has(&self.members[slot.rank as usize].destination))
    }

    /// Somebody of a subset this snapshot knows nothing of, because it is older than the route that asks: for the
    /// moments between a reload and the next snapshot. Looks at all.
    fn search(&self, subset: &Subset, want: &PickRequest<'_>, rng: &mut Rng) -> Option<Slot> {
        let start = rng.index(self.members.len());
        let fit = |rank: &usize| {
            let member = &self.members[*rank];
            let serves = member.status.serves() && member.weight > 0;
            let fits = serves && subset.has(&member.destination) && !want.has_tried(member.id);
            fits && !member.stats.is_full()
        };
        let rank = (start..self.members.len()).chain(0..start).find(fit)?;
        Some(self.members[rank].slot(rank))
    }
}
