//! Priority levels and locality: the tiers of a pool, and which of them a message tries first.
//!
//! A tier is a list of destinations with a picker. The shares of tiers are computed when a snapshot is built; a message
//! draws one number, and only if several tiers have a share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::balance::PickRequest;
use crate::balance::{Needs, Partition, Policy, Slot};
use crate::destination::{Name, Status};
use crate::hash::{hash, mix};
use crate::rng::Rng;
use crate::snapshot::{Member, Tier};
use crate::subset::{Fallback, Subset};

/// How a pool's destinations are grouped into tiers, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct TierSpec {
    /// Whether priorities above 0 are used.
    pub backup_tiers: bool,
    /// Envoy's overprovisioning factor: a priority keeps its whole share while (serving / all) times the factor is at
    /// least 1; what is missing overflows to the next. `None`: a later priority is used only if no destination of the
    /// earlier ones serves, as with backups of HAProxy and nginx.
    pub overprovision: Option<f64>,
    /// Preference of the local zone; `None` without one.
    pub zone: Option<ZoneSpec>,
    /// Subsets that routes select: at most [`Subset::MAX`], each once.
    pub subsets: Vec<Arc<Subset>>,
}

impl Default for TierSpec {
    fn default() -> Self {
        Self { backup_tiers: true, overprovision: None, zone: None, subsets: Vec::new() }
    }
}

/// Preference of the local zone.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneSpec {
    /// Zone of this balancer.
    pub own: Name,
    /// Messages in flight per destination of the local zone (of weight 1) at which messages begin to spill over to other
    /// zones; at twice this number all zones share by weight. `None`: no spill-over.
    pub spill_over_at: Option<u32>,
    /// Whether keys prefer the local zone, too. Otherwise a key has one destination in all zones.
    pub zone_local_keys: bool,
}

/// Maximum number of zones that are distinguished; destinations of further zones count as having none.
const MAX_ZONES: usize = 32;

/// Tiers of a pool or of a subset, with the selection of the first one to try.
#[derive(Default)]
pub struct TierSet {
    /// Tiers by preference. A message that fails in the selected tier tries the others in this order.
    pub tiers: Box<[Tier]>,
    /// Selection of the first tier; `None` if it is always index 0.
    pub(crate) selector: Option<TierSelector>,
}

/// Weighted selection of the tier that a message tries first.
pub(crate) struct TierSelector {
    levels: Box<[PriorityLevel]>,
    /// Expected share of messages that try each tier first, without spill-over.
    shares: Box<[f64]>,
}

/// Range of draws that select one priority.
struct PriorityLevel {
    /// End of the range; it starts at the end of the level before.
    end: u64,
    tier: usize,
    zones: Option<Zones>,
}

/// Tiers of one priority, one for each zone.
struct Zones {
    /// Draw that prefers the local zone: its tier, if any, is the first.
    preferred: WeightedDraw,
    /// Draw by weight over all zones.
    even: WeightedDraw,
    local_load: Option<LocalLoad>,
}

/// Weighted draw of a tier: tiers with the end of their range of 32 bits.
struct WeightedDraw(Box<[(u64, usize)]>);

impl WeightedDraw {
    fn new(shares: impl IntoIterator<Item = (usize, f64)>) -> Self {
        let mut sum = 0.0;
        let ends = shares.into_iter().map(|(tier, share)| {
            sum += share;
            (threshold(sum), tier)
        });
        let mut ends: Vec<(u64, usize)> = ends.collect();
        // The remainder of rounding goes to the last tier that has a share.
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
    /// Returns the share of messages that try each tier first, in the order of tiers.
    pub fn shares(&self) -> Vec<f64> {
        match &self.selector {
            Some(selector) => selector.shares.to_vec(),
            None => (0..self.tiers.len()).map(|nth| if nth == 0 { 1.0 } else { 0.0 }).collect(),
        }
    }
}

impl TierSelector {
    /// Returns the index of the tier that a message tries first. Equal keys try the same tier while the shares stay.
    pub(crate) fn draw(&self, request: &PickRequest<'_>, rng: &mut Rng) -> usize {
        const SALT: u64 = 0x7a6f_6e65_2074_6965;
        let drawn =
            request.affinity_key.or(request.key).map_or_else(|| rng.next_u64(), |key| mix(key ^ SALT));
        let Some(level) = self.levels.iter().find(|level| drawn >> 32 < level.end) else { return 0 };
        let Some(zones) = &level.zones else { return level.tier };
        let draw = match &zones.local_load {
            Some(load) if load.spills_over(request.worker, rng) => &zones.even,
            _ => &zones.preferred,
        };
        draw.draw(drawn & u64::from(u32::MAX))
    }
}

/// Messages in flight in the local zone, as each worker has sampled them.
struct LocalLoad {
    spill_over_at: f32,
    own: Arc<[Slot]>,
    cells: Box<[Cell]>,
}

/// Bits of a moving average, on a cache line of its own.
#[repr(align(128))]
struct Cell(AtomicU32);

impl LocalLoad {
    /// Weight of one sample: about the last 32 make the average.
    const SAMPLE_WEIGHT: f32 = 1.0 / 32.0;

    fn new(spill_over_at: u32, own: Arc<[Slot]>) -> Self {
        let load: f32 = own.iter().map(load).sum::<f32>() / own.len() as f32;
        let workers = own.first().map_or(1, |slot| slot.stats.workers());
        let cells = (0..workers).map(|_| Cell(AtomicU32::new(load.to_bits()))).collect();
        Self { spill_over_at: spill_over_at as f32, own, cells }
    }

    /// Samples one destination and returns whether this message spills over: never up to `spill_over_at`, always from
    /// twice that on, and with growing probability in between.
    fn spills_over(&self, worker: usize, rng: &mut Rng) -> bool {
        let cell = &self.cells[worker % self.cells.len()].0;
        let before = f32::from_bits(cell.load(Relaxed));
        let sample = load(&self.own[rng.index(self.own.len())]);
        let now = before + Self::SAMPLE_WEIGHT * (sample - before);
        cell.store(now.to_bits(), Relaxed);
        now > self.spill_over_at && rng.share() < f64::from(now / self.spill_over_at - 1.0)
    }
}

fn load(slot: &Slot) -> f32 {
    slot.stats.in_flight() as f32 * 256.0 / slot.weight as f32
}

/// Members of one priority.
#[derive(Default)]
struct Group {
    /// Number of all members, serving or not.
    members: usize,
    /// Sum of the weights of all members, serving or not.
    all: u64,
    /// Sum of the weights of the serving members.
    serving: u64,
    /// Zones of all members, serving or not.
    zones: BTreeSet<Name>,
    slots: Vec<Slot>,
}

/// Builds the tiers of `members`, or of those in `subset`.
pub(crate) fn build_tiers(
    policy: &dyn Policy,
    members: &[Member],
    spec: &TierSpec,
    subset: Option<&Subset>,
) -> TierSet {
    let zone = spec.zone.as_ref().filter(|zone| zone.zone_local_keys || policy.needs() != Needs::Key);
    let partition = subset.map_or(0, Subset::id);
    let (mut tiers, mut levels, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    let found: Vec<(u8, Group)> = serving_groups(members, spec, subset).into_iter().collect();
    let mut ends = priority_ranges(&found, spec.overprovision).into_iter();
    for (priority, found) in found.into_iter().filter(|(_, found)| !found.slots.is_empty()) {
        let (tier, (start, end)) = (tiers.len(), ends.next().unwrap_or((1.0, 1.0)));
        let zones =
            zone.and_then(|zone| by_zone(policy, members, zone, priority, partition, &found, &mut tiers));
        if zones.is_none() {
            let slots: Arc<[Slot]> = found.slots.into();
            tiers.push(Tier::new(policy, priority, Partition::new(priority, partition), slots));
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
    let selector = (!strict).then(|| TierSelector { levels: levels.into(), shares: shares.into() });
    TierSet { tiers: tiers.into(), selector }
}

/// Returns the serving members by priority. A subset without fallback is never left without any: traffic never takes out its last destination, and its only one serves whatever checks say, as that of a pool.
fn serving_groups(members: &[Member], spec: &TierSpec, subset: Option<&Subset>) -> BTreeMap<u8, Group> {
    let groups = group_by_priority(members, spec, subset, Status::serves);
    let serves = |groups: &BTreeMap<u8, Group>| groups.values().any(|group| !group.slots.is_empty());
    if serves(&groups) || subset.is_none_or(|subset| subset.fallback != Fallback::None) {
        return groups;
    }
    let failed = |status| matches!(status, Status::Ejected { .. } | Status::Overloaded);
    let groups = group_by_priority(members, spec, subset, failed);
    let count: usize = groups.values().map(|group| group.members).sum();
    if serves(&groups) || count != 1 {
        return groups;
    }
    let wanted = |status| !matches!(status, Status::Draining | Status::Maintenance);
    group_by_priority(members, spec, subset, wanted)
}

fn group_by_priority(
    members: &[Member],
    spec: &TierSpec,
    subset: Option<&Subset>,
    serves: impl Fn(Status) -> bool,
) -> BTreeMap<u8, Group> {
    let mut by_priority: BTreeMap<u8, Group> = BTreeMap::new();
    for (rank, member) in members.iter().enumerate() {
        let destination = &member.destination;
        let used = spec.backup_tiers || destination.priority == 0;
        if !used || member.weight == 0 || subset.is_some_and(|subset| !subset.has(destination)) {
            continue;
        }
        let found = by_priority.entry(destination.priority).or_default();
        found.all += u64::from(member.weight);
        found.zones.extend(destination.zone.clone());
        found.members += 1;
        if serves(member.status) {
            found.serving += u64::from(member.weight);
            found.slots.push(member.slot(rank));
        }
    }
    by_priority
}

/// Returns the start and the end of the range of each priority with serving members, as shares of all messages (Envoy,
/// "priority levels"). A priority's health is min(1, factor × serving / all), by weight. Each takes its health of what
/// is left; if the sum of all is below 1, the shares are scaled up.
fn priority_ranges(found: &[(u8, Group)], factor: Option<f64>) -> Vec<(f64, f64)> {
    let some = found.iter().filter(|(_, found)| !found.slots.is_empty());
    let Some(factor) = factor else {
        return some.enumerate().map(|(nth, _)| if nth == 0 { (0.0, 1.0) } else { (1.0, 1.0) }).collect();
    };
    let health = |found: &Group| (factor * found.serving as f64 / found.all as f64).min(1.0);
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

/// Builds the tiers of one priority, one for each zone, the local zone first. `None` if there is only one zone.
///
/// A balancer does not see what those of other zones send, so each zone with destinations is assumed to send an equal
/// share of all messages (as in Kubernetes' topology aware routing and Envoy's zone aware routing).
///
/// - A zone with at least its equal share of the capacity keeps all its messages.
/// - A zone with less keeps what its destinations can carry at the pool's average load, and sends the rest to zones that
///   have more than their share, in proportion to the excess.
///
/// Where the assumption holds, each destination has the same load per weight, whatever zones lose.
fn by_zone(
    policy: &dyn Policy,
    members: &[Member],
    zone: &ZoneSpec,
    priority: u8,
    partition: u64,
    found: &Group,
    tiers: &mut Vec<Tier>,
) -> Option<Zones> {
    let known: BTreeSet<&Name> =
        found.zones.iter().filter(|name| **name != zone.own).take(MAX_ZONES).collect();
    // The local zone is the first, other zones follow by name, destinations without a zone are the last.
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
    let (mut keep, mut weights, mut spare, mut local_load) = (0.0, Vec::new(), Vec::new(), None);
    for ((kind, name), slots) in groups {
        let weight =
            slots.iter().map(|slot| u64::from(slot.weight)).sum::<u64>() as f64 / found.serving as f64;
        let (tier, slots): (usize, Arc<[Slot]>) = (tiers.len(), slots.into());
        match kind {
            0 => {
                keep = (weight / demand).min(1.0);
                local_load = zone.spill_over_at.map(|at| LocalLoad::new(at, slots.clone()));
            }
            1 => spare.push((tier, (weight - demand).max(0.0))),
            _ => spare.push((tier, weight)),
        }
        weights.push((tier, weight));
        let named = name.map_or(u64::from(kind), |name| hash(name.as_bytes()));
        let mut tier =
            Tier::new(policy, priority, Partition::new(priority, mix(partition ^ mix(named + 1))), slots);
        tier.all_members = all_members.clone();
        tier.is_warming &= all_members.iter().all(|slot| slot.slow_start.is_some());
        tier.local_zone = Some(kind == 0);
        tiers.push(tier);
    }
    Some(Zones { preferred: preferred(keep, &weights, &spare), even: WeightedDraw::new(weights), local_load })
}

/// Builds the draw that prefers the local zone: it keeps its share, and the others share the rest by their spare
/// capacity, or by weight if rounding left none.
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
