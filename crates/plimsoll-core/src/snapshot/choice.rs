//! Choice of the destination for one message.
//!
//! Each layer adds one thing to the layer below: the pool's limits ([`balance_load`]), trials and subsets
//! ([`pick_with_trials`]), the order of tiers ([`TierSet::pick_in_tiers`]), limits of destinations
//! ([`pick_with_capacity`]), slow start ([`pick_warm`]), and the session's key or the picker ([`pick_in_tier`]).

use super::priority_and_locality::TierSet;
use super::{NoDestination, Snapshot, Tier};
use crate::balance::{PickRequest, Slot, rendezvous};
use crate::destination::DestinationId;
use crate::rng::Rng;
use crate::stats::Assignment;
use crate::subset::Fallback;
use crate::time::Tick;

/// Chooses a destination for a message, within the limits of the pool.
///
/// - An open trial is taken first.
/// - Else the first tier's picker chooses; where several tiers have a share, the first tier is drawn.
/// - A message that tried the picked destination before goes to the next untried one.
/// - Other tiers are used only if all destinations of the first were tried or are at their limits.
/// - A message with a session goes to the session's preferred destination without a picker.
///
/// Limits are never exceeded, also not by concurrent calls.
///
/// # Errors
/// [`NoDestination`] is the reason for which there is none.
pub fn balance_load(
    snapshot: &Snapshot,
    request: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Result<Assignment, NoDestination> {
    let failed = || no_destination_reason(snapshot, request);
    let Some(limiter) = &snapshot.limiter else {
        return pick_with_trials(snapshot, request, now, rng).ok_or_else(failed);
    };
    if limiter.has_waiters() && !request.dequeued {
        return Err(failed());
    }
    if limiter.requests.max().is_none() {
        return pick_with_trials(snapshot, request, now, rng).ok_or_else(failed);
    }
    limiter.requests.try_acquire().ok_or_else(failed)?;
    let picked = pick_with_trials(snapshot, request, now, rng).map(Assignment::counted);
    picked.ok_or_else(|| {
        limiter.requests.release();
        failed()
    })
}

/// Assigns a message to the destination that it has to stay at, such as one with an authenticated connection. Returns
/// `None` if the destination is unknown or a limit is reached. Queued messages are not considered: they wait for any
/// destination.
pub fn assign(snapshot: &Snapshot, id: DestinationId, worker: usize, now: Tick) -> Option<Assignment> {
    let rank = snapshot.members.iter().position(|member| member.id == id)?;
    let take = || Assignment::take_unsent(id, rank, worker, &snapshot.members[rank].stats, now);
    let Some(limiter) = snapshot.limiter.as_ref().filter(|limiter| limiter.requests.max().is_some()) else {
        return take();
    };
    limiter.requests.try_acquire()?;
    let taken = take().map(Assignment::counted);
    if taken.is_none() {
        limiter.requests.release();
    }
    taken
}

/// Takes an open trial, else picks in the request's subset, else in the pool.
fn pick_with_trials(
    snapshot: &Snapshot,
    request: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Option<Assignment> {
    let take = |slot: &Slot| {
        let (id, rank, worker) = (slot.id, slot.rank as usize, request.worker);
        match request.sent_later {
            true => Assignment::take_unsent(id, rank, worker, &slot.stats, now),
            false => Assignment::take(id, rank, worker, &slot.stats, now),
        }
    };
    if !snapshot.trials.is_empty() && (request.repeatable || now >= snapshot.trials_for_all) {
        let fits = |slot: &&Slot| !request.has_tried(slot.id) && snapshot.is_in_subset(slot, request);
        for slot in snapshot.trials.iter().filter(fits) {
            let Some(trial) = slot.stats.take_trial() else { continue };
            match take(slot) {
                Some(assignment) => return Some(assignment.on_trial(trial)),
                None => slot.stats.give_trial_back(trial),
            }
        }
    }
    if let Some(subset) = request.subset {
        let picked = match snapshot.subset_tiers(subset) {
            Some(tiers) => tiers.pick_in_tiers(request, now, rng, take),
            None => snapshot.search_subset(subset, request, rng).and_then(|slot| take(&slot)),
        };
        if picked.is_some() || subset.fallback == Fallback::None {
            return picked;
        }
    }
    snapshot.pool_tiers.pick_in_tiers(request, now, rng, take)
}

#[cold]
fn no_destination_reason(snapshot: &Snapshot, request: &PickRequest<'_>) -> NoDestination {
    let strict = request.subset.filter(|subset| subset.fallback == Fallback::None);
    let tiers = strict.map_or(Some(&snapshot.pool_tiers), |subset| snapshot.subset_tiers(subset));
    let untried = |tier: &Tier| tier.slots.iter().any(|slot| !request.has_tried(slot.id));
    match (snapshot.members.is_empty(), tiers.filter(|set| !set.tiers.is_empty())) {
        (true, _) => NoDestination::Empty,
        (_, None) => NoDestination::NoneServing,
        (_, Some(set)) if set.tiers.iter().any(untried) => NoDestination::Full,
        _ => NoDestination::AllTried,
    }
}

impl TierSet {
    /// Returns the index of the tier that the message tries first.
    pub(super) fn select_first(&self, request: &PickRequest<'_>, rng: &mut Rng) -> usize {
        self.selector.as_ref().map_or(0, |selector| selector.draw(request, rng))
    }

    /// Picks in the selected tier, else in the others in order. `take` acquires a slot, or returns `None` at its limit.
    fn pick_in_tiers<T>(
        &self,
        request: &PickRequest<'_>,
        now: Tick,
        rng: &mut Rng,
        take: impl Fn(&Slot) -> Option<T> + Copy,
    ) -> Option<T> {
        let first = self.select_first(request, rng);
        if let Some(warm) = self.pick_beside_warming(first, request, now, rng, take) {
            return Some(warm);
        }
        let picked = self.tiers.get(first).and_then(|tier| pick_with_capacity(tier, request, now, rng, take));
        if picked.is_some() {
            return picked;
        }
        let others = self.tiers.iter().enumerate().filter(|&(nth, _)| nth != first);
        others.map(|(_, tier)| tier).find_map(|tier| pick_with_capacity(tier, request, now, rng, take))
    }
}

impl TierSet {
    /// Picks in a later tier for a message that a tier in slow start does not admit: of a tier that has just returned as a
    /// whole, no other destination can take it. `None` if the first tier is not warming, admits the message, or no other
    /// tier can take it.
    fn pick_beside_warming<T>(
        &self,
        first: usize,
        request: &PickRequest<'_>,
        now: Tick,
        rng: &mut Rng,
        take: impl Fn(&Slot) -> Option<T> + Copy,
    ) -> Option<T> {
        if self.tiers.len() < 2 || !self.tiers.get(first)?.is_warming {
            return None;
        }
        let key = request.affinity_key.or(request.key);
        let others = (0..self.tiers.len()).filter(|nth| *nth != first);
        let mut admits = |tier: &Tier| {
            let starts = tier.all_members.iter().filter_map(|slot| slot.slow_start);
            let warmest = starts.min_by_key(|start| start.until());
            !tier.is_warming || warmest.is_none_or(|start| start.admit(key, now, rng))
        };
        if admits(&self.tiers[first]) {
            return None;
        }
        let next = others.map(|nth| &self.tiers[nth]).find(|tier| admits(tier))?;
        pick_with_capacity(next, request, now, rng, take)
    }
}

/// Picks a destination of a tier that is below its limit.
fn pick_with_capacity<T>(
    tier: &Tier,
    request: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
    take: impl Fn(&Slot) -> Option<T>,
) -> Option<T> {
    /// Maximum number of picks; after that the slots are searched in order.
    const MAX_PICKS: usize = 3;
    let first = pick_warm(tier, request, now, rng)?;
    if let Some(taken) = take(first) {
        return Some(taken);
    }
    let mut tried = request.tried.copied().unwrap_or_default();
    tried.add(first.id);
    for _ in 1..MAX_PICKS {
        let next = pick_warm(tier, &PickRequest { tried: Some(&tried), ..*request }, now, rng)?;
        if let Some(taken) = take(next) {
            return Some(taken);
        }
        tried.add(next.id);
    }
    let slots = tier.slots_for(request);
    let after = slots.iter().position(|slot| slot.id == first.id).unwrap_or(0);
    let in_order = slots[after..].iter().chain(&slots[..after]);
    in_order.filter(|slot| !request.has_tried(slot.id)).find_map(take)
}

/// Picks a destination of a tier that is not in slow start, or that admits the message. If there is no
/// other, the first pick stands.
fn pick_warm<'s>(tier: &'s Tier, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    /// Maximum number of picks; after that the slots are searched in order.
    const MAX_PICKS: usize = 3;
    // A single candidate needs no algorithm.
    if let [only] = tier.slots_for(request) {
        return Some(only).filter(|only| !request.has_tried(only.id));
    }
    let first = pick_in_tier(tier, request, now, rng)?;
    let key = request.affinity_key.or(request.key);
    let rejects =
        |slot: &Slot, rng: &mut Rng| slot.slow_start.is_some_and(|start| !start.admit(key, now, rng));
    if !rejects(first, rng) {
        return Some(first);
    }
    // A key leads to the same destination again unless that counts as tried; a rotation just advances.
    let mut tried = request.tried.copied().unwrap_or_default();
    tried.add(first.id);
    let next = if key.is_some() { PickRequest { tried: Some(&tried), ..*request } } else { *request };
    for _ in 1..MAX_PICKS {
        if let Some(slot) = pick_in_tier(tier, &next, now, rng).filter(|slot| !rejects(slot, rng)) {
            return Some(slot);
        }
    }
    let slots = tier.slots_for(request);
    let after = slots.iter().position(|slot| slot.id == first.id).unwrap_or(0);
    let warm = |slot: &&Slot| slot.slow_start.is_none() && !request.has_tried(slot.id);
    slots[after..].iter().chain(&slots[..after]).find(warm).or(Some(first))
}

/// Picks by the session's key, or asks the tier's picker.
fn pick_in_tier<'s>(tier: &'s Tier, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    match request.affinity_key {
        Some(key) => rendezvous::pick(&tier.all_members, key, |slot| !request.has_tried(slot.id)),
        None => next_untried(&tier.slots, tier.picker.pick(request, now, rng), request),
    }
}

/// Picks as [`balance_load`] does, without an assignment and without trials. Returns an index of members.
pub(crate) fn balance_load_dry(
    snapshot: &Snapshot,
    request: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Option<usize> {
    let rank = |slot: &Slot| (!slot.stats.is_full()).then_some(slot.rank);
    let subset = request.subset.and_then(|subset| snapshot.subset_tiers(subset));
    let mut picked = subset.and_then(|tiers| tiers.pick_in_tiers(request, now, rng, rank));
    if picked.is_none() && request.subset.is_none_or(|subset| subset.fallback != Fallback::None) {
        picked = snapshot.pool_tiers.pick_in_tiers(request, now, rng, rank);
    }
    picked.map(|rank| rank as usize)
}

fn next_untried<'s>(slots: &'s [Slot], picked: usize, request: &PickRequest<'_>) -> Option<&'s Slot> {
    let first = &slots[picked];
    if !request.has_tried(first.id) {
        return Some(first);
    }
    slots[picked + 1..].iter().chain(&slots[..picked]).find(|slot| !request.has_tried(slot.id))
}
