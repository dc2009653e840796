//! Snapshot of a pool: its members, their statuses, and the tiers that messages are balanced over.

mod choice;
mod no_destination;
mod priority_and_locality;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
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

pub(crate) use self::choice::balance_load_dry;
pub use self::choice::{assign, balance_load};
pub use self::no_destination::NoDestination;
use self::priority_and_locality::build_tiers;
pub use self::priority_and_locality::{TierSet, TierSpec, ZoneSpec};

/// Destination of a pool, serving or not, as of the snapshot.
#[derive(Clone, Debug)]
pub struct Member {
    /// Unique number of the destination.
    pub id: DestinationId,
    /// Configuration of the destination.
    pub destination: Destination,
    /// Status of the destination.
    pub status: Status,
    /// Time of the last change of the status.
    pub since: Tick,
    /// Effective weight in 256ths.
    pub weight: u32,
    /// Slow start, if the destination is warming.
    pub slow_start: Option<SlowStart>,
    /// Counters that all workers share.
    pub stats: Arc<DestinationStats>,
}

impl Member {
    /// Returns the pickers' view of the member; `rank` is its index among the members.
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

/// Destinations that are preferred equally, with a picker over those that may serve.
pub struct Tier {
    /// Priority of the destinations; 0 is the first.
    pub priority: u8,
    /// Whether the tier is the local zone's; `None` if the priority is not divided by zones.
    pub local_zone: Option<bool>,
    /// Destinations that the picker chooses from: never empty, in configured order.
    pub slots: Arc<[Slot]>,
    /// All serving destinations of the priority, in configured order: sessions do not depend on zones.
    pub all_members: Arc<[Slot]>,
    /// Picker over `slots`.
    pub picker: Box<dyn Picker>,
    /// Whether every destination of `all_members` is in its slow start.
    pub is_warming: bool,
}

impl Tier {
    /// Creates a tier of `slots`, with a rotation for `partition` of the pool.
    pub(crate) fn new(policy: &dyn Policy, priority: u8, partition: Partition, slots: Arc<[Slot]>) -> Self {
        let picker = policy.build_partition(slots.clone(), partition);
        let is_warming = slots.iter().all(|slot| slot.slow_start.is_some());
        Self { priority, local_zone: None, all_members: slots.clone(), slots, picker, is_warming }
    }

    /// Returns the destinations that a message may be sent to.
    fn slots_for(&self, request: &PickRequest<'_>) -> &[Slot] {
        if request.affinity_key.is_some() { &self.all_members } else { &self.slots }
    }
}

/// Whether a pool can serve its messages, counted when the snapshot is built. Each change of a status makes a new
/// snapshot.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSummary {
    /// Number of destinations that a message can be sent to: they may serve, have a weight, and are in a tier that is used.
    pub serving: usize,
    /// Number of destinations.
    pub total: usize,
    /// Number of destinations with a status that does not serve.
    pub unavailable: usize,
    /// Number of subsets of routes without a destination for their messages.
    pub unserved_subsets: usize,
    /// Whether destinations of a backup tier get messages, because the tiers before do not suffice.
    pub backup_in_use: bool,
}

impl HealthSummary {
    fn of(members: &[Member], spec: &TierSpec, pool_tiers: &TierSet, subsets: &[(u64, TierSet)]) -> Self {
        let ranks = pool_tiers.tiers.iter().flat_map(|tier| tier.all_members.iter().map(|slot| slot.rank));
        let serving: BTreeSet<u32> = ranks.collect();
        let is_unserved = |(subset, (_, tiers)): &(&Arc<Subset>, &(u64, TierSet))| {
            tiers.tiers.is_empty() && (subset.fallback == Fallback::None || pool_tiers.tiers.is_empty())
        };
        let first =
            members.iter().filter(|m| m.destination.weight.get() > 0).map(|m| m.destination.priority).min();
        let mut shares = pool_tiers.tiers.iter().zip(pool_tiers.shares());
        Self {
            serving: serving.len(),
            total: members.len(),
            unavailable: members.iter().filter(|member| !member.status.serves()).count(),
            unserved_subsets: spec.subsets.iter().zip(subsets).filter(is_unserved).count(),
            backup_in_use: shares.any(|(tier, share)| share > 0.0 && Some(tier.priority) > first),
        }
    }

    /// Returns `healthy`, `degraded` or `down`, as the specification names them. A pool is down if no message can be sent
    /// to a destination, whatever the statuses are.
    pub const fn state(self) -> &'static str {
        match (self.serving, self.unavailable, self.unserved_subsets) {
            (0, ..) => "down",
            (_, 0, 0) => "healthy",
            _ => "degraded",
        }
    }
}

/// Immutable state of a pool that messages are balanced with.
pub struct Snapshot {
    /// Name of the pool.
    pub pool: Name,
    /// Number that grows with every publication.
    pub generation: u64,
    /// Name of the algorithm.
    pub algorithm: &'static str,
    /// Numbers of destinations by health.
    pub health: HealthSummary,
    /// Hits and misses of the policy's key cache, if it has one.
    pub key_cache: Option<Arc<KeyCacheStats>>,
    /// All members, in configured order; a slot's `rank` is an index of this list.
    pub members: Box<[Member]>,
    /// Tiers of the whole pool.
    pub pool_tiers: TierSet,
    /// Tiers of the subsets that routes select, by the subset's number.
    pub subsets: Box<[(u64, TierSet)]>,
    /// Ejected destinations past their ejection time; the next repeatable message is the trial of one.
    pub trials: Box<[Slot]>,
    /// Time from which any message may be a trial, repeatable or not.
    pub trials_for_all: Tick,
    /// Limits of the pool; `None` if nothing in the pool has a limit.
    pub limiter: Option<Arc<PoolLimiter>>,
}

impl Snapshot {
    /// Builds a snapshot of `members` (in configured order) with one tier per priority. Building may be slow, so it
    /// does not belong on the request path. Trials and limits are added by the pool.
    pub fn build(pool: Name, generation: u64, policy: &dyn Policy, members: Vec<Member>) -> Self {
        Self::build_with(pool, generation, policy, &TierSpec::default(), members)
    }

    /// Builds a snapshot with tiers as in `spec`.
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
        let tiers_of =
            |subset: &Arc<Subset>| (subset.id(), build_tiers(policy, &members, spec, Some(subset)));
        let subsets: Box<[_]> = spec.subsets.iter().map(tiers_of).collect();
        let pool_tiers = build_tiers(policy, &members, spec, None);
        Self {
            pool,
            generation,
            algorithm: policy.name(),
            health: HealthSummary::of(&members, spec, &pool_tiers, &subsets),
            key_cache: policy.key_cache(),
            subsets,
            pool_tiers,
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
    /// Returns the preferred destination of the session with this key.
    pub fn preferred_destination(&self, key: u64, subset: Option<&Subset>) -> Option<&Member> {
        let request = PickRequest { affinity_key: Some(key), subset, ..PickRequest::default() };
        let set = self.tiers_for(&request);
        // With a key the selection uses no random numbers.
        let tier = set.select_first(&request, &mut Rng::new(0));
        let slot = rendezvous::pick(&set.tiers.get(tier)?.all_members, key, |_| true)?;
        self.members.get(slot.rank as usize)
    }

    /// Returns the tiers of a subset; `None` if the snapshot is older than the route that selects the subset.
    pub(crate) fn subset_tiers(&self, subset: &Subset) -> Option<&TierSet> {
        self.subsets.iter().find(|(id, _)| *id == subset.id()).map(|(_, tiers)| tiers)
    }

    /// Returns whether no message for this subset can be sent to a destination.
    pub fn is_unserved(&self, subset: &Subset) -> bool {
        let request = PickRequest { subset: Some(subset), ..PickRequest::default() };
        self.tiers_for(&request).tiers.is_empty()
    }

    /// Returns the tiers for a message: those of its subset, or of the pool if none of the subset serves and the
    /// subset's fallback permits it.
    pub fn tiers_for(&self, request: &PickRequest<'_>) -> &TierSet {
        match request.subset.and_then(|subset| Some((subset, self.subset_tiers(subset)?))) {
            Some((subset, set)) if !set.tiers.is_empty() || subset.fallback == Fallback::None => set,
            _ => &self.pool_tiers,
        }
    }

    /// Returns whether a destination may serve, is below its limits and was not tried.
    pub fn has_untried(&self, request: &PickRequest<'_>) -> bool {
        let strict = request.subset.is_some_and(|subset| subset.fallback == Fallback::None);
        let set = if strict { self.tiers_for(request) } else { &self.pool_tiers };
        set.tiers
            .iter()
            .flat_map(|tier| tier.slots.iter())
            .any(|slot| !request.has_tried(slot.id) && !slot.stats.is_full())
    }

    /// Returns whether the slot's destination belongs to the message's subset.
    fn is_in_subset(&self, slot: &Slot, request: &PickRequest<'_>) -> bool {
        request.subset.is_none_or(|subset| subset.has(&self.members[slot.rank as usize].destination))
    }

    /// Searches all members for one of a subset that this snapshot has no tiers for, which happens between a reload and
    /// the next snapshot.
    fn search_subset(&self, subset: &Subset, request: &PickRequest<'_>, rng: &mut Rng) -> Option<Slot> {
        let start = rng.index(self.members.len());
        let fit = |rank: &usize| {
            let member = &self.members[*rank];
            let serves = member.status.serves() && member.weight > 0;
            let fits = serves && subset.has(&member.destination) && !request.has_tried(member.id);
            fits && !member.stats.is_full()
        };
        let rank = (start..self.members.len()).chain(0..start).find(fit)?;
        Some(self.members[rank].slot(rank))
    }
}
