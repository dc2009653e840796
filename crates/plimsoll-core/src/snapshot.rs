//! Which destination takes this message: the choice over one immutable picture of a pool.

use std::fmt;
use std::sync::Arc;

use crate::balance::warmth::Warmth;
use crate::balance::{DecisionTally, Needs, Part, Picker, Policy, Slot, rendezvous};
use crate::circuit::Circuit;
use crate::destination::{Destination, DestinationId, Name, Standing};
use crate::hash::hash;
use crate::live::{Live, Ticket};
use crate::rng::Rng;
use crate::spread::{Reach, SpreadSpec, reach};
use crate::subset::{Fallback, Subset};
use crate::time::Tick;

/// A destination of the pool, serving or not, as the snapshot froze it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub id: DestinationId,
    /// As configured.
    pub destination: Destination,
    /// May it serve, and if not why.
    pub standing: Standing,
    /// Since when it stands so.
    pub since: Tick,
    /// Effective weight, 256ths.
    pub weight: u32,
    /// It is warming, for so long.
    pub warmth: Option<Warmth>,
    /// Its live counters.
    pub live: Arc<Live>,
}

impl Member {
    /// What a picker sees of it; `rank` is its index among the members.
    pub fn slot(&self, rank: usize) -> Slot {
        Slot {
            id: self.id,
            name: self.destination.name.clone(),
            seed: hash(self.destination.name.as_bytes()),
            address: self.destination.address.clone(),
            weight: self.weight,
            rank: rank as u32,
            priority: self.destination.priority,
            zone: self.destination.zone.clone(),
            labels: self.destination.labels.clone(),
            warmth: self.warmth,
            live: self.live.clone(),
        }
    }
}

/// Destinations that may serve and are preferred alike, and the picker built over them.
pub struct Tier {
    /// 0 is first.
    pub priority: u8,
    /// It is one of several of its priority: the own zone's, or another's.
    pub zoned: Option<bool>,
    /// Never empty, in configured order.
    pub slots: Arc<[Slot]>,
    /// Everybody of its priority, in configured order: homes are where they are from whatever zone a message comes.
    pub everyone: Arc<[Slot]>,
    /// Chooses among `slots`.
    pub picker: Box<dyn Picker>,
}

impl Tier {
    /// A tier of `slots`, rotated over as `part` of the pool.
    pub(crate) fn new(policy: &dyn Policy, priority: u8, part: Part, slots: Arc<[Slot]>) -> Self {
        let picker = policy.build_part(slots.clone(), part);
        Self { priority, zoned: None, everyone: slots.clone(), slots, picker }
    }

    /// Whom a message chooses from.
    fn slots_for(&self, want: &Want<'_>) -> &[Slot] {
        if want.home.is_some() { &self.everyone } else { &self.slots }
    }
}

/// How the destinations of a pool stand, all together: counted once, when the picture is made, and read by everybody
/// who asks. It is as true as the picture: each change of a standing makes another one.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSummary {
    /// May serve.
    pub serving: usize,
    /// There are.
    pub total: usize,
}

impl HealthSummary {
    fn of(members: &[Member]) -> Self {
        let serving = members.iter().filter(|member| member.standing.serves()).count();
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
    pub decisions: Option<Arc<DecisionTally>>,
    /// Everyone, in configured order; a slot's `rank` is its index here.
    pub members: Box<[Member]>,
    /// Tiers that may serve, best first, and which of them a message meets first.
    pub whole: Reach,
    /// The same of the parts that routes ask for, by their numbers.
    pub subsets: Box<[(u64, Reach)]>,
    /// Ejected destinations whose time is over: the next repeatable message may try one.
    pub trials: Box<[Slot]>,
    /// From then on any message may be the trial, repeatable or not.
    pub trials_for_all: Tick,
    /// What the pool has at once; `None` where nothing of it has a limit.
    pub circuit: Option<Arc<Circuit>>,
}

impl Snapshot {
    /// A picture of `members` (in configured order): those that serve and whose weight is above 0, grouped
    /// into tiers by priority, each with a picker of `policy`. Everybody's answers are measured if that asks for
    /// it. Trials, and whatever else a pool wants to be
    /// different, are its own to add. Off the request path: building may be slow.
    pub fn build(pool: Name, generation: u64, policy: &dyn Policy, members: Vec<Member>) -> Self {
        Self::spread(pool, generation, policy, &SpreadSpec::default(), members)
    }

    /// The same, with tiers as `spec` wants them.
    pub fn spread(
        pool: Name,
        generation: u64,
        policy: &dyn Policy,
        spec: &SpreadSpec,
        members: Vec<Member>,
    ) -> Self {
        for member in &members {
            let needs = policy.needs();
            member.live.set_measures(matches!(needs, Needs::Answers | Needs::Probes));
            if needs == Needs::Probes {
                member.live.measured().keep_near();
            }
        }
        let part = |subset: &Arc<Subset>| (subset.id(), reach(policy, &members, spec, Some(subset)));
        Self {
            pool,
            generation,
            algorithm: policy.name(),
            health: HealthSummary::of(&members),
            decisions: policy.decisions(),
            subsets: spec.subsets.iter().map(part).collect(),
            whole: reach(policy, &members, spec, None),
            members: members.into(),
            trials: Box::default(),
            trials_for_all: Tick::NEVER,
            circuit: None,
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
    pub fn home(&self, key: u64, subset: Option<&Subset>) -> Option<&Member> {
        let want = Want { home: Some(key), subset, ..Want::default() };
        let reach = self.reach(&want);
        // Nothing is drawn for who has a home.
        let tier = reach.first_for(&want, &mut Rng::new(0));
        let slot = rendezvous::home(&reach.tiers.get(tier)?.everyone, key, |_| true)?;
        self.members.get(slot.rank as usize)
    }

    /// The part of the pool a message is for; `None` where no table of it was built yet.
    pub(crate) fn part(&self, subset: &Subset) -> Option<&Reach> {
        self.subsets.iter().find(|(id, _)| *id == subset.id()).map(|(_, reach)| reach)
    }

    /// The tiers a message chooses from: of its part, or, where nobody serves there and that may be, of the whole.
    pub fn reach(&self, want: &Want<'_>) -> &Reach {
        match want.subset.and_then(|subset| Some((subset, self.part(subset)?))) {
            Some((subset, part)) if !part.tiers.is_empty() || subset.fallback == Fallback::None => part,
            _ => &self.whole,
        }
    }

    /// Is there a destination for such a message that may serve, has room and was not tried?
    pub fn has_untried(&self, want: &Want<'_>) -> bool {
        let strict = want.subset.is_some_and(|subset| subset.fallback == Fallback::None);
        let reach = if strict { self.reach(want) } else { &self.whole };
        reach
            .tiers
            .iter()
            .flat_map(|tier| tier.slots.iter())
            .any(|slot| !want.has_tried(slot.id) && !slot.live.is_full())
    }

    /// Is the destination of this slot one the message may go to at first?
    fn is_meant(&self, slot: &Slot, want: &Want<'_>) -> bool {
        want.subset.is_none_or(|subset| subset.has(&self.members[slot.rank as usize].destination))
    }

    /// Somebody of a subset this snapshot knows nothing of, because it is older than the route that asks: for the
    /// moments between a reload and the next snapshot. Looks at all.
    fn search(&self, subset: &Subset, want: &Want<'_>, rng: &mut Rng) -> Option<Slot> {
        let start = rng.index(self.members.len());
        let fit = |rank: &usize| {
            let member = &self.members[*rank];
            let serves = member.standing.serves() && member.weight > 0;
            let fits = serves && subset.has(&member.destination) && !want.has_tried(member.id);
            fits && !member.live.is_full()
        };
        let rank = (start..self.members.len()).chain(0..start).find(fit)?;
        Some(self.members[rank].slot(rank))
    }
}

/// The destinations one message has tried already; a bounded list on the stack.
#[derive(Copy, Clone, Debug)]
pub struct Tried {
    ids: [DestinationId; Self::MAX],
    len: u8,
}

impl Default for Tried {
    fn default() -> Self {
        Self { ids: [DestinationId(0); Self::MAX], len: 0 }
    }
}

impl Tried {
    /// More tries than this are never made for one message (`retry.attempts` is held below it).
    pub const MAX: usize = 10;

    /// Remembers one more; the oldest knowledge is kept when full.
    pub fn add(&mut self, id: DestinationId) {
        if !self.contains(id)
            && let Some(free) = self.ids.get_mut(usize::from(self.len))
        {
            *free = id;
            self.len += 1;
        }
    }

    /// Was it tried?
    pub fn contains(&self, id: DestinationId) -> bool {
        self.ids[..usize::from(self.len)].contains(&id)
    }

    /// No more tries are made.
    pub fn is_full(&self) -> bool {
        usize::from(self.len) == Self::MAX
    }

    /// Nobody was tried yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What one message wants of the choice.
#[derive(Copy, Clone, Debug, Default)]
pub struct Want<'a> {
    /// The worker that asks: rotations go on per worker.
    pub worker: usize,
    /// Whom it has tried.
    pub tried: Option<&'a Tried>,
    /// It may be repeated elsewhere if it fails: fit to be the trial of an ejected destination.
    pub repeatable: bool,
    /// The hash of what it keeps its destination by whatever the pool's algorithm is: the same for the same client
    /// ([`Snapshot::home`]). No picker is asked then.
    pub home: Option<u64>,
    /// The hash of what policies that need a key choose by ([`Needs::Key`]); the others do not look at it.
    pub key: Option<u64>,
    /// It has waited in the line, and is the next of its worker's. Others do not pass the line.
    pub waited: bool,
    /// The part of the pool it is for.
    pub subset: Option<&'a Subset>,
}

impl Want<'_> {
    /// The message was tried elsewhere before. Its second try takes nobody's turn: were a rotation to go on
    /// with each retry, then of two destinations the dead one would be first for every message.
    pub fn is_retry(&self) -> bool {
        self.tried.is_some_and(|tried| !tried.is_empty())
    }

    pub(crate) fn has_tried(&self, id: DestinationId) -> bool {
        self.tried.is_some_and(|tried| tried.contains(id))
    }
}

/// Why no destination takes the message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NoDestination {
    /// The pool has no destinations at all.
    Empty,
    /// It has some, and none may serve.
    NoneServing,
    /// This message has tried all that may serve.
    AllTried,
    /// Those that may serve have as much as they may have at once, or others wait for them already.
    Full,
}

impl fmt::Display for NoDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the pool has no destinations",
            Self::NoneServing => "no destination of the pool may serve",
            Self::AllTried => "every destination that may serve was tried",
            Self::Full => "every destination that may serve is at its limit",
        })
    }
}

impl std::error::Error for NoDestination {}

/// Chooses a destination and gives a ticket for it: an open trial first, then the picker of the first tier,
/// then, for a message that has tried the picked one, the next untried; other tiers only when all of the
/// first were tried or are full. Which tier is the first for a message is drawn where several take a share. A message
/// with a home asks no picker: it goes there, and if that was tried, to the next. Who has as much as it may have at
/// once is passed over like one that was tried, and never given more, whoever asks at the same time.
///
/// # Errors
/// [`NoDestination`] says why nobody takes the message.
pub fn balance_load(
    snapshot: &Snapshot,
    want: &Want<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Result<Ticket, NoDestination> {
    let Some(circuit) = &snapshot.circuit else {
        return find(snapshot, want, now, rng).ok_or_else(|| nobody(snapshot, want));
    };
    if circuit.has_line() && !want.waited {
        return Err(nobody(snapshot, want));
    }
    if circuit.requests.most().is_none() {
        return find(snapshot, want, now, rng).ok_or_else(|| nobody(snapshot, want));
    }
    circuit.requests.enter().ok_or_else(|| nobody(snapshot, want))?;
    let found = find(snapshot, want, now, rng).map(Ticket::counted);
    found.ok_or_else(|| {
        circuit.requests.leave();
        nobody(snapshot, want)
    })
}

/// The choice among those who have room.
fn find(snapshot: &Snapshot, want: &Want<'_>, now: Tick, rng: &mut Rng) -> Option<Ticket> {
    let take = |slot: &Slot| Ticket::take(slot.id, slot.rank as usize, want.worker, &slot.live, now);
    if !snapshot.trials.is_empty() && (want.repeatable || now >= snapshot.trials_for_all) {
        let meant = |slot: &&Slot| !want.has_tried(slot.id) && snapshot.is_meant(slot, want);
        for slot in snapshot.trials.iter().filter(meant) {
            let Some(trial) = slot.live.take_trial() else { continue };
            match take(slot) {
                Some(ticket) => return Some(ticket.on_trial(trial)),
                None => slot.live.give_trial_back(trial),
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
    snapshot.whole.place(want, now, rng, take)
}

/// Why nobody takes it.
#[cold]
fn nobody(snapshot: &Snapshot, want: &Want<'_>) -> NoDestination {
    let strict = want.subset.filter(|subset| subset.fallback == Fallback::None);
    let reach = strict.map_or(Some(&snapshot.whole), |subset| snapshot.part(subset));
    let untried = |tier: &Tier| tier.slots.iter().any(|slot| !want.has_tried(slot.id));
    match (snapshot.members.is_empty(), reach.filter(|reach| !reach.tiers.is_empty())) {
        (true, _) => NoDestination::Empty,
        (_, None) => NoDestination::NoneServing,
        (_, Some(reach)) if reach.tiers.iter().any(untried) => NoDestination::Full,
        _ => NoDestination::AllTried,
    }
}

impl Reach {
    /// Which tier the message meets first.
    fn first_for(&self, want: &Want<'_>, rng: &mut Rng) -> usize {
        self.first.as_ref().map_or(0, |first| first.draw(want, rng))
    }

    /// What `take` gives of the first one met who has room, then of the others in order.
    fn place<T>(
        &self,
        want: &Want<'_>,
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
    want: &Want<'_>,
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
        let next = choose(tier, &Want { tried: Some(&tried), ..*want }, now, rng)?;
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
fn choose<'s>(tier: &'s Tier, want: &Want<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    /// Picks before the next in the list will do.
    const PICKS: usize = 3;
    // One candidate needs no algorithm.
    if let [lone] = tier.slots_for(want) {
        return Some(lone).filter(|lone| !want.has_tried(lone.id));
    }
    let first = pick(tier, want, now, rng)?;
    let key = want.home.or(want.key);
    let lets_by =
        |slot: &Slot, rng: &mut Rng| slot.warmth.is_some_and(|warmth| !warmth.admits(key, now, rng));
    if !lets_by(first, rng) {
        return Some(first);
    }
    // What a key leads to next is asked as by a message that was there already; a rotation just goes on.
    let mut tried = want.tried.copied().unwrap_or_default();
    tried.add(first.id);
    let next = if key.is_some() { Want { tried: Some(&tried), ..*want } } else { *want };
    for _ in 1..PICKS {
        if let Some(slot) = pick(tier, &next, now, rng).filter(|slot| !lets_by(slot, rng)) {
            return Some(slot);
        }
    }
    let slots = tier.slots_for(want);
    let after = slots.iter().position(|slot| slot.id == first.id).unwrap_or(0);
    let warm = |slot: &&Slot| slot.warmth.is_none() && !want.has_tried(slot.id);
    slots[after..].iter().chain(&slots[..after]).find(warm).or(Some(first))
}

/// What the message's home or the picker says.
fn pick<'s>(tier: &'s Tier, want: &Want<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    match want.home {
        Some(home) => rendezvous::home(&tier.everyone, home, |slot| !want.has_tried(slot.id)),
        None => next_untried(&tier.slots, tier.picker.pick(want, now, rng), want),
    }
}

/// The same choice without a ticket for it, and without a trial: an index of members.
pub(crate) fn balance_load_dry(
    snapshot: &Snapshot,
    want: &Want<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Option<usize> {
    let rank = |slot: &Slot| (!slot.live.is_full()).then_some(slot.rank);
    let part = want.subset.and_then(|subset| snapshot.part(subset));
    let mut found = part.and_then(|part| part.place(want, now, rng, rank));
    if found.is_none() && want.subset.is_none_or(|subset| subset.fallback != Fallback::None) {
        found = snapshot.whole.place(want, now, rng, rank);
    }
    found.map(|rank| rank as usize)
}

fn next_untried<'s>(slots: &'s [Slot], picked: usize, want: &Want<'_>) -> Option<&'s Slot> {
    let first = &slots[picked];
    if !want.has_tried(first.id) {
        return Some(first);
    }
    slots[picked + 1..].iter().chain(&slots[..picked]).find(|slot| !want.has_tried(slot.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Algorithm;
    use crate::circuit::{DestinationLimits, PoolLimits};
    use crate::destination::{Address, Weight};

    fn member(rank: u32, priority: u8, weight: u16, standing: Standing) -> Member {
        let address = Address::Socket(([127, 0, 0, 1], 9000).into());
        let destination = Destination { priority, ..Destination::new(&format!("d{rank}"), address) };
        let live = Arc::new(Live::new(1));
        let weight = Weight::new(weight).in_256ths();
        Member {
            id: DestinationId(100 + rank),
            destination,
            standing,
            since: Tick::ZERO,
            weight,
            warmth: None,
            live,
        }
    }

    fn picture(members: Vec<Member>) -> Snapshot {
        Snapshot::build("pool".into(), 1, &*Algorithm::RoundRobin.policy(1), members)
    }

    /// Sends one message that goes on trying until nobody is left, and tells the order of members.
    fn walk(snapshot: &Snapshot) -> (Vec<usize>, NoDestination) {
        let (mut tried, mut order, mut rng) = (Tried::default(), Vec::new(), Rng::new(1));
        loop {
            let want = Want { tried: Some(&tried), ..Want::default() };
            match balance_load(snapshot, &want, Tick::ZERO, &mut rng) {
                Ok(ticket) => {
                    tried.add(ticket.id());
                    order.push(ticket.member());
                }
                Err(why) => return (order, why),
            }
        }
    }

    #[test]
    fn the_next_untried_takes_a_retry_and_backup_tiers_come_last() {
        let down = Standing::Down;
        let snapshot = picture(vec![
            member(0, 1, 1, Standing::Serving),
            member(1, 0, 1, Standing::Serving),
            member(2, 0, 1, down),
            member(3, 0, 1, Standing::Warming),
            member(4, 0, 0, Standing::Serving),
        ]);
        assert_eq!(snapshot.whole.tiers.iter().map(|tier| tier.priority).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(walk(&snapshot), (vec![1, 3, 0], NoDestination::AllTried));
    }

    #[test]
    fn one_candidate_is_taken_without_asking_an_algorithm() {
        struct Silent;
        impl Picker for Silent {
            fn pick(&self, _: &Want<'_>, _: Tick, _: &mut Rng) -> usize {
                panic!("nobody needs to ask");
            }
        }
        let mut snapshot =
            picture(vec![member(0, 0, 1, Standing::Serving), member(1, 1, 1, Standing::Serving)]);
        snapshot.whole.tiers.iter_mut().for_each(|tier| tier.picker = Box::new(Silent));
        assert_eq!(walk(&snapshot), (vec![0, 1], NoDestination::AllTried));
    }

    /// A picture of three, the third a backup, each with room for so many; the pool has room for `pool`.
    fn limited(each: u32, pool: u32, algorithm: Algorithm) -> Snapshot {
        let members = (0..3).map(|rank| member(rank, u8::from(rank == 2), 1, Standing::Serving));
        let mut snapshot = Snapshot::build("pool".into(), 1, &*algorithm.policy(1), members.collect());
        let circuit = Arc::new(Circuit::new(1));
        circuit.set_limits(&PoolLimits { requests: pool, pending: 10, ..PoolLimits::default() });
        for member in &snapshot.members {
            member.live.set_limits(DestinationLimits { requests: each, connections: 0 });
            member.live.join_circuit(&circuit);
        }
        snapshot.circuit = Some(circuit);
        snapshot
    }

    #[test]
    fn who_is_full_is_passed_over_and_then_the_next_tier_serves() {
        for algorithm in Algorithm::ALL {
            let snapshot = limited(2, 0, algorithm);
            let (want, mut rng) = (Want { key: Some(7), ..Want::default() }, Rng::new(1));
            let mut ask = |want: &Want<'_>| balance_load(&snapshot, want, Tick::ZERO, &mut rng);
            let mut held: Vec<Ticket> = (0..6).map(|_| ask(&want).expect("room")).collect();
            let by = |held: &[Ticket], n| held.iter().filter(|ticket| ticket.member() == n).count();
            assert_eq!([0, 1, 2].map(|n| by(&held, n)), [2, 2, 2], "{algorithm:?}");
            assert!(held[..4].iter().all(|ticket| ticket.member() < 2), "{algorithm:?}: the backup is last");
            assert_eq!(ask(&want).err(), Some(NoDestination::Full), "{algorithm:?}");
            let freed = held.swap_remove(1).member();
            assert_eq!(ask(&want).expect("room again").member(), freed, "{algorithm:?}");
            let mut tried = Tried::default();
            (0..3).for_each(|n| tried.add(DestinationId(100 + n)));
            let all = Want { tried: Some(&tried), ..want };
            assert_eq!(ask(&all).err(), Some(NoDestination::AllTried), "{algorithm:?}");
        }
    }

    #[test]
    fn a_pool_has_as_many_as_it_may_and_nobody_passes_the_line() {
        let snapshot = limited(0, 2, Algorithm::P2c);
        let circuit = snapshot.circuit.clone().expect("limited");
        let (want, mut rng) = (Want::default(), Rng::new(1));
        let mut ask = |want: &Want<'_>| balance_load(&snapshot, want, Tick::ZERO, &mut rng);
        let held = [ask(&want).expect("room"), ask(&want).expect("room")];
        assert_eq!((ask(&want).err(), circuit.requests.now()), (Some(NoDestination::Full), 2));
        circuit.join_line(false).expect("room in the line");
        drop(held);
        assert_eq!(circuit.requests.now(), 0);
        assert_eq!(ask(&want).err(), Some(NoDestination::Full), "somebody waits");
        assert!(ask(&Want { waited: true, ..want }).is_ok());
        circuit.leave_line(false);
        assert!(ask(&want).is_ok());
    }

    #[test]
    fn a_trial_without_room_is_for_somebody_else() {
        let mut snapshot = limited(1, 0, Algorithm::RoundRobin);
        let slot = snapshot.members[0].slot(0);
        slot.live.open_trial();
        snapshot.trials = [slot.clone()].into();
        let want = Want { repeatable: true, ..Want::default() };
        let held = Ticket::take(slot.id, 0, 0, &slot.live, Tick::ZERO).expect("room");
        let ticket = balance_load(&snapshot, &want, Tick::ZERO, &mut Rng::new(1)).expect("room");
        assert!(!ticket.is_trial() && slot.live.trial_is_open());
        drop(held);
        assert!(balance_load(&snapshot, &want, Tick::ZERO, &mut Rng::new(1)).expect("room").is_trial());
    }

    #[test]
    fn nobody_there_and_nobody_serving_are_told_apart() {
        assert_eq!(walk(&picture(Vec::new())), (vec![], NoDestination::Empty));
        let idle = picture(vec![member(0, 0, 0, Standing::Serving), member(1, 0, 1, Standing::Draining)]);
        assert_eq!(walk(&idle), (vec![], NoDestination::NoneServing));
    }
}
