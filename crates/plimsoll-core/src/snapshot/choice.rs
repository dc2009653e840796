//! Which destination takes this message.

use super::priority_and_locality::TierSet;
use super::{NoDestination, Snapshot, Tier};
use crate::balance::{PickRequest, Slot, rendezvous};
use crate::rng::Rng;
use crate::stats::Assignment;
use crate::subset::Fallback;
use crate::time::Tick;

/// Chooses a destination and gives an assignment for it: an open trial first, then the picker of the first tier,
/// then, for a message that has tried the picked one, the next untried; other tiers only when all of the
/// first were tried or are full. Which tier is the first for a message is drawn where several take a share. A message
/// with a home asks no picker: it goes there, and if that was tried, to the next. Who has as much as it may have at
/// once is passed over like one that was tried, and never given more, whoever asks at the same time.
///
/// # Errors
/// [`NoDestination`] says why nobody takes the message.
pub fn balance_load(
    snapshot: &Snapshot,
    want: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Result<Assignment, NoDestination> {
    let Some(limiter) = &snapshot.limiter else {
        return find(snapshot, want, now, rng).ok_or_else(|| nobody(snapshot, want));
    };
    if limiter.has_waiters() && !want.dequeued {
        return Err(nobody(snapshot, want));
    }
    if limiter.requests.max().is_none() {
        return find(snapshot, want, now, rng).ok_or_else(|| nobody(snapshot, want));
    }
    limiter.requests.try_acquire().ok_or_else(|| nobody(snapshot, want))?;
    let found = find(snapshot, want, now, rng).map(Assignment::counted);
    found.ok_or_else(|| {
        limiter.requests.release();
        nobody(snapshot, want)
    })
}

/// The choice among those who have room.
fn find(snapshot: &Snapshot, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> Option<Assignment> {
    let take = |slot: &Slot| Assignment::take(slot.id, slot.rank as usize, want.worker, &slot.stats, now);
    if !snapshot.trials.is_empty() && (want.repeatable || now >= snapshot.trials_for_all) {
        let meant = |slot: &&Slot| !want.has_tried(slot.id) && snapshot.is_meant(slot, want);
        for slot in snapshot.trials.iter().filter(meant) {
            let Some(trial) = slot.stats.take_trial() else { continue };
            match take(slot) {
                Some(assignment) => return Some(assignment.on_trial(trial)),
                None => slot.stats.give_trial_back(trial),
            }
        }
    }
    if let Some(subset) = want.subset {
        let found = match snapshot.part(subset) {
            Some(part) => part.place(want, now, rng, take),
            None => snapshot.search(subset, want, rng).and_then(|slot| take(&slot)),
        };
        if found.is_some() || subset.fallback == Fallback::None {
            return found;
        }
    }
    snapshot.pool_tiers.place(want, now, rng, take)
}

/// Why nobody takes it.
#[cold]
fn nobody(snapshot: &Snapshot, want: &PickRequest<'_>) -> NoDestination {
    let strict = want.subset.filter(|subset| subset.fallback == Fallback::None);
    let reach = strict.map_or(Some(&snapshot.pool_tiers), |subset| snapshot.part(subset));
    let untried = |tier: &Tier| tier.slots.iter().any(|slot| !want.has_tried(slot.id));
    match (snapshot.members.is_empty(), reach.filter(|reach| !reach.tiers.is_empty())) {
        (true, _) => NoDestination::Empty,
        (_, None) => NoDestination::NoneServing,
        (_, Some(reach)) if reach.tiers.iter().any(untried) => NoDestination::Full,
        _ => NoDestination::AllTried,
    }
}

impl TierSet {
    /// Which tier the message meets first.
    pub(super) fn first_for(&self, want: &PickRequest<'_>, rng: &mut Rng) -> usize {
        self.first.as_ref().map_or(0, |first| first.draw(want, rng))
    }

    /// What `take` gives of the first one met who has room, then of the others in order.
    fn place<T>(
        &self,
        want: &PickRequest<'_>,
        now: Tick,
        rng: &mut Rng,
        take: impl Fn(&Slot) -> Option<T> + Copy,
    ) -> Option<T> {
        let first = self.first_for(want, rng);
        if let Some(taken) = self.tiers.get(first).and_then(|tier| place(tier, want, now, rng, take)) {
            return Some(taken);
        }
        let others = self.tiers.iter().enumerate().filter(|&(nth, _)| nth != first);
        others.map(|(_, tier)| tier).find_map(|tier| place(tier, want, now, rng, take))
    }
}

/// What `take` gives of the one who is chosen, or if it is full of the next who has room.
fn place<T>(
    tier: &Tier,
    want: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
    take: impl Fn(&Slot) -> Option<T>,
) -> Option<T> {
    /// Choices before the next in the list will do.
    const CHOICES: usize = 3;
    let first = choose(tier, want, now, rng)?;
    if let Some(taken) = take(first) {
        return Some(taken);
    }
    let mut tried = want.tried.copied().unwrap_or_default();
    tried.add(first.id);
    for _ in 1..CHOICES {
        let next = choose(tier, &PickRequest { tried: Some(&tried), ..*want }, now, rng)?;
        if let Some(taken) = take(next) {
            return Some(taken);
        }
        tried.add(next.id);
    }
    let slots = tier.slots_for(want);
    let after = slots.iter().position(|slot| slot.id == first.id).unwrap_or(0);
    let list = slots[after..].iter().chain(&slots[..after]);
    list.filter(|slot| !want.has_tried(slot.id)).find_map(take)
}

/// Who of a tier takes the message. A warming destination lets some pass by, to whom the picker chooses next;
/// where all others were tried or pass it by too, the first choice stands.
fn choose<'s>(tier: &'s Tier, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    /// Picks before the next in the list will do.
    const PICKS: usize = 3;
    // One candidate needs no algorithm.
    if let [lone] = tier.slots_for(want) {
        return Some(lone).filter(|lone| !want.has_tried(lone.id));
    }
    let first = pick(tier, want, now, rng)?;
    let key = want.affinity_key.or(want.key);
    let lets_by = |slot: &Slot, rng: &mut Rng| {
        slot.slow_start.is_some_and(|slow_start| !slow_start.admit(key, now, rng))
    };
    if !lets_by(first, rng) {
        return Some(first);
    }
    // What a key leads to next is asked as by a message that was there already; a rotation just goes on.
    let mut tried = want.tried.copied().unwrap_or_default();
    tried.add(first.id);
    let next = if key.is_some() { PickRequest { tried: Some(&tried), ..*want } } else { *want };
    for _ in 1..PICKS {
        if let Some(slot) = pick(tier, &next, now, rng).filter(|slot| !lets_by(slot, rng)) {
            return Some(slot);
        }
    }
    let slots = tier.slots_for(want);
    let after = slots.iter().position(|slot| slot.id == first.id).unwrap_or(0);
    let warm = |slot: &&Slot| slot.slow_start.is_none() && !want.has_tried(slot.id);
    slots[after..].iter().chain(&slots[..after]).find(warm).or(Some(first))
}

/// What the message's home or the picker says.
fn pick<'s>(tier: &'s Tier, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    match want.affinity_key {
        Some(home) => rendezvous::home(&tier.all_members, home, |slot| !want.has_tried(slot.id)),
        None => next_untried(&tier.slots, tier.picker.pick(want, now, rng), want),
    }
}

/// The same choice without an assignment for it, and without a trial: an index of members.
pub(crate) fn balance_load_dry(
    snapshot: &Snapshot,
    want: &PickRequest<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Option<usize> {
    let rank = |slot: &Slot| (!slot.stats.is_full()).then_some(slot.rank);
    let part = want.subset.and_then(|subset| snapshot.part(subset));
    let mut found = part.and_then(|part| part.place(want, now, rng, rank));
    if found.is_none() && want.subset.is_none_or(|subset| subset.fallback != Fallback::None) {
        found = snapshot.pool_tiers.place(want, now, rng, rank);
    }
    found.map(|rank| rank as usize)
}

fn next_untried<'s>(slots: &'s [Slot], picked: usize, want: &PickRequest<'_>) -> Option<&'s Slot> {
    let first = &slots[picked];
    if !want.has_tried(first.id) {
        return Some(first);
    }
    slots[picked + 1..].iter().chain(&slots[..picked]).find(|slot| !want.has_tried(slot.id))
}
