//! Which tier a message meets first: priorities that overflow, and the own zone before the others.
//!
//! A tier is a list of destinations with a picker of its own. What is decided here is decided when a snapshot is
//! built; a message draws one number, and only where there is something to draw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::balance::PickRequest;
use crate::balance::{Needs, Partition, Policy, Slot};
use crate::destination::Name;
use crate::hash::{hash, mix};
use crate::rng::Rng;
use crate::snapshot::{Member, Tier};
use crate::subset::Subset;

/// Where a pool's messages may go, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct TierSpec {
    /// Priorities above 0 may take over.
    pub backup_tiers: bool,
    /// Envoy's overprovisioning factor: a priority takes its whole share while (serving / all) times this is at least
    /// 1, and what it misses of that overflows to the next. `None`: a later priority takes nothing before the earlier
    /// one is gone, as backups of HAProxy and nginx do.
    pub overprovision: Option<f64>,
    /// The own zone is preferred.
    pub zone: Option<ZoneSpec>,
    /// PartitionRotations that routes ask for, at most [`Subset::MAX`]; no two have one number.
    pub subsets: Vec<Arc<Subset>>,
}

impl Default for TierSpec {
    fn default() -> Self {
        Self { backup_tiers: true, overprovision: None, zone: None, subsets: Vec::new() }
    }
}

/// How the own zone is preferred.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneSpec {
    /// Where this balancer stands.
    pub own: Name,
    /// So much in flight for each destination of the own zone (of weight 1) is enough: above it messages begin to
    /// spill over, and at twice that they are spread over all zones. `None`: they are never too spill_over_at.
    pub spill_over_at: Option<u32>,
    /// Keys are spread like other messages; else a key's destination is the same whatever zone it comes from.
    pub zone_local_keys: bool,
}

/// Zones told apart; destinations of any further ones count as having none.
const ZONES: usize = 32;

/// Tiers, best first, and which of them a message meets first.
#[derive(Default)]
pub struct TierSet {
    /// A message that the first one met cannot take goes on with the others in this order.
    pub tiers: Box<[Tier]>,
    /// `None`: the first takes everything it can.
    pub(crate) first: Option<TierSelector>,
}

/// How the first tier is drawn.
pub(crate) struct TierSelector {
    levels: Box<[PriorityLevel]>,
    /// What is expected of each tier as the first one met, spill_over_at or not.
    shares: Box<[f64]>,
}

/// One priority.
struct PriorityLevel {
    /// Draws below this, and not below that of the level before, meet it first.
    end: u64,
    tier: usize,
    zones: Option<Zones>,
}

/// The tiers of one priority, one for each zone.
struct Zones {
    /// The first is the own zone's, if that has any: as much as it is to carry, and what others have to spare.
    preferred: WeightedDraw,
    /// All by weight.
    even: WeightedDraw,
    spill_over_at: Option<Busy>,
}

/// Tiers, and up to where draws of 32 bits fall to each.
struct WeightedDraw(Box<[(u64, usize)]>);

impl WeightedDraw {
    fn new(shares: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let mut sum = 0.0;
        let ends = shares.into_iter().map(|(tier, share)| {
            sum += share;
            (threshold(sum), tier)
        });
        let mut ends: Vec<(u64, usize)> = ends.collect();
        // Whatever rounding leaves falls to the last that has a share at all.
        let last = (0..ends.len()).rev().find(|&n| ends[n].0 > n.checked_sub(1).map_or(0, |n| ends[n].0));
        ends.iter_mut().skip(last.unwrap_or(0)).for_each(|end| end.0 = 1 << 32);
        Self(ends.into())
    }

    fn draw(&self, bits: u64) -> usize {
        self.0.iter().find(|(end, _)| bits < *end).or(self.0.last()).map_or(0, |&(_, tier)| tier)
    }
}

fn threshold(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * (1_u64 << 32) as f64) as u64
}

impl TierSet {
    /// The share of messages that meet each tier first, in the order of tiers.
    pub fn shares(&self) -> Vec<f64> {
        match &self.first {
            Some(first) => first.shares.to_vec(),
            None => (0..self.tiers.len()).map(|nth| if nth == 0 { 1.0 } else { 0.0 }).collect(),
        }
    }
}

impl TierSelector {
    /// The index of the tier this message meets first. The same key meets the same one while the shares stay.
    pub(crate) fn draw(&self, want: &PickRequest<'_>, rng: &mut Rng) -> usize {
        const SALT: u64 = 0x7a6f_6e65_2074_6965;
        let drawn = want.affinity_key.or(want.key).map_or_else(|| rng.next_u64(), |key| mix(key ^ SALT));
        let Some(level) = self.levels.iter().find(|level| drawn >> 32 < level.end) else { return 0 };
        let Some(zones) = &level.zones else { return level.tier };
        let lots = match &zones.spill_over_at {
            Some(spill_over_at) if spill_over_at.spills(want.worker, rng) => &zones.even,
            _ => &zones.preferred,
        };
        lots.draw(drawn & u64::from(u32::MAX))
    }
}

/// How much the own zone has in flight, as each worker has sampled it.
struct Busy {
    from: f32,
    own: Arc<[Slot]>,
    cells: Box<[Cell]>,
}

/// The bits of a moving average, on a line of its own.
#[repr(align(128))]
struct Cell(AtomicU32);

impl Busy {
    /// What one sample counts: about as many as a pool has destinations make the average.
    const NEWEST: f32 = 1.0 / 32.0;

    fn new(from: u32, own: Arc<[Slot]>) -> Self {
        let load: f32 = own.iter().map(load).sum::<f32>() / own.len() as f32;
        let workers = own.first().map_or(1, |slot| slot.stats.workers());
        let cells = (0..workers).map(|_| Cell(AtomicU32::new(load.to_bits()))).collect();
        Self { from: from as f32, own, cells }
    }

    /// Looks at one of them, and says whether this message is one of those that are too many: none up to `from` in
    /// flight each, all of them from twice that on, and in between the more the more there is.
    fn spills(&self, worker: usize, rng: &mut Rng) -> bool {
        let cell = &self.cells[worker % self.cells.len()].0;
        let before = f32::from_bits(cell.load(Relaxed));
        let seen = load(&self.own[rng.index(self.own.len())]);
        let now = before + Self::NEWEST * (seen - before);
        cell.store(now.to_bits(), Relaxed);
        now > self.from && rng.share() < f64::from(now / self.from - 1.0)
    }
}

fn load(slot: &Slot) -> f32 {
    slot.stats.in_flight() as f32 * 256.0 / slot.weight as f32
}

/// What a snapshot's members are for one priority.
#[derive(Default)]
struct Found {
    /// Weights of all, serving or not.
    all: u64,
    serving: u64,
    /// Zones that have any, serving or not.
    zones: BTreeSet<Name>,
    slots: Vec<Slot>,
}

/// The tiers `members` make, of `subset` only if there is one.
pub(crate) fn build_tiers(
    policy: &dyn Policy,
    members: &[Member],
    spec: &TierSpec,
    subset: Option<&Subset>,
) -> TierSet {
    let zone = spec.zone.as_ref().filter(|zone| zone.zone_local_keys || policy.needs() != Needs::Key);
    let part = subset.map_or(0, Subset::id);
    let (mut tiers, mut levels, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    let found: Vec<(u8, Found)> = find(members, spec, subset).into_iter().collect();
    let mut ends = overflow(&found, spec.overprovision).into_iter();
    for (priority, found) in found.into_iter().filter(|(_, found)| !found.slots.is_empty()) {
        let (tier, (start, end)) = (tiers.len(), ends.next().unwrap_or((1.0, 1.0)));
        let zones = zone.and_then(|zone| by_zone(policy, members, zone, priority, part, &found, &mut tiers));
        if zones.is_none() {
            let slots: Arc<[Slot]> = found.slots.into();
            tiers.push(Tier::new(policy, priority, Partition::new(priority, part), slots));
        }
        shares.resize(tiers.len(), 0.0);
        match &zones {
            None => shares[tier] = end - start,
            Some(zones) => {
                let mut before = 0;
                for &(until, tier) in &zones.preferred.0 {
                    shares[tier] = (end - start) * (until - before) as f64 / (1_u64 << 32) as f64;
                    before = until;
                }
            }
        }
        levels.push(PriorityLevel { end: threshold(end), tier, zones });
    }
    let strict = levels.first().is_none_or(|level| level.end == 1 << 32 && level.zones.is_none());
    let first = (!strict).then(|| TierSelector { levels: levels.into(), shares: shares.into() });
    TierSet { tiers: tiers.into(), first }
}

fn find(members: &[Member], spec: &TierSpec, subset: Option<&Subset>) -> BTreeMap<u8, Found> {
    let mut by_priority: BTreeMap<u8, Found> = BTreeMap::new();
    for (rank, member) in members.iter().enumerate() {
        let destination = &member.destination;
        let used = spec.backup_tiers || destination.priority == 0;
        if !used || member.weight == 0 || subset.is_some_and(|subset| !subset.has(destination)) {
            continue;
        }
        let found = by_priority.entry(destination.priority).or_default();
        found.all += u64::from(member.weight);
        found.zones.extend(destination.zone.clone());
        if member.status.serves() {
            found.serving += u64::from(member.weight);
            found.slots.push(member.slot(rank));
        }
    }
    by_priority
}

/// From where to where the draws reach that fall to each priority which has anybody, as shares of all (Envoy,
/// "priority levels"): health is min(1, factor × serving / all), by weight; each takes its health of what is left,
/// and where all of them together fall short, each its part of that.
fn overflow(found: &[(u8, Found)], factor: Option<f64>) -> Vec<(f64, f64)> {
    let some = found.iter().filter(|(_, found)| !found.slots.is_empty());
    let Some(factor) = factor else {
        return some.enumerate().map(|(nth, _)| if nth == 0 { (0.0, 1.0) } else { (1.0, 1.0) }).collect();
    };
    let health = |found: &Found| (factor * found.serving as f64 / found.all as f64).min(1.0);
    let sum: f64 = some.clone().map(|(_, found)| health(found)).sum();
    let mut end = 0.0_f64;
    let mut ends: Vec<(f64, f64)> = some
        .map(|(_, found)| {
            let start = end;
            end = (end + health(found) / sum.min(1.0)).min(1.0);
            (start, end)
        })
        .collect();
    if let Some(last) = ends.iter_mut().find(|(_, end)| *end > 1.0 - 1e-9) {
        last.1 = 1.0;
    }
    ends
}

/// The tiers of one priority, one for each zone, the own first; `None` where there is nothing to tell apart.
///
/// Each zone that has destinations is taken to send an equal part of all messages, for a balancer cannot see what
/// those of other zones do (Kubernetes' topology aware routing and Envoy's zone aware routing reckon alike). So a zone
/// with its equal part of the capacity keeps all it sends; one with less keeps as much as its destinations can carry
/// with everybody else's load, and sends the rest to zones that have more than their part, by how much more. Where
/// the assumption holds, each destination has the same load for its weight, whatever zones lose.
fn by_zone(
    policy: &dyn Policy,
    members: &[Member],
    zone: &ZoneSpec,
    priority: u8,
    part: u64,
    found: &Found,
    tiers: &mut Vec<Tier>,
) -> Option<Zones> {
    let known: BTreeSet<&Name> = found.zones.iter().filter(|name| **name != zone.own).take(ZONES).collect();
    // Of three groups the own zone is the first, other zones follow by name, and who has none is last.
    let group = |slot: &Slot| match &members[slot.rank as usize].destination.zone {
        Some(name) if *name == zone.own => (0, None),
        Some(name) if known.contains(name) => (1, Some(name.clone())),
        _ => (2, None),
    };
    let mut groups: BTreeMap<(u8, Option<Name>), Vec<Slot>> = BTreeMap::new();
    found.slots.iter().for_each(|slot| groups.entry(group(slot)).or_default().push(slot.clone()));
    if groups.len() < 2 {
        return None;
    }
    let all_members: Arc<[Slot]> = found.slots.clone().into();
    let demand = 1.0 / (known.len() + 1) as f64;
    let (mut keep, mut weights, mut spare, mut spill_over_at) = (0.0, Vec::new(), Vec::new(), None);
    for ((kind, name), slots) in groups {
        let weight =
            slots.iter().map(|slot| u64::from(slot.weight)).sum::<u64>() as f64 / found.serving as f64;
        let (tier, slots): (usize, Arc<[Slot]>) = (tiers.len(), slots.into());
        match kind {
            0 => {
                keep = (weight / demand).min(1.0);
                spill_over_at = zone.spill_over_at.map(|from| Busy::new(from, slots.clone()));
            }
            1 => spare.push((tier, (weight - demand).max(0.0))),
            _ => spare.push((tier, weight)),
        }
        weights.push((tier, weight));
        let named = name.map_or(u64::from(kind), |name| hash(name.as_bytes()));
        let mut tier =
            Tier::new(policy, priority, Partition::new(priority, mix(part ^ mix(named + 1))), slots);
        tier.all_members = all_members.clone();
        tier.local_zone = Some(kind == 0);
        tiers.push(tier);
    }
    Some(Zones {
        preferred: preferred(keep, &weights, &spare),
        even: WeightedDraw::new(weights),
        spill_over_at,
    })
}

/// What the own zone keeps, and the others by what they have to spare; by weight where none has, which only rounding
/// can bring about.
fn preferred(keep: f64, weights: &[(usize, f64)], spare: &[(usize, f64)]) -> WeightedDraw {
    let own = weights.len() > spare.len();
    let kept = weights.first().filter(|_| own).map(|&(tier, _)| (tier, keep));
    let others = &weights[usize::from(own)..];
    let sum = |shares: &[(usize, f64)]| shares.iter().map(|(_, share)| share).sum::<f64>();
    let shares = if sum(spare) > 1e-9 { spare } else { others };
    let all = sum(shares);
    let rest = 1.0 - kept.map_or(0.0, |(_, keep)| keep);
    WeightedDraw::new(kept.into_iter().chain(shares.iter().map(|&(tier, share)| (tier, rest * share / all))))
}
