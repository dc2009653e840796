//! Which destination takes this message: the choice over one immutable picture of a pool.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::balance::warmth::Warmth;
use crate::balance::{Needs, Picker, Policy, Slot, rendezvous};
use crate::destination::{Destination, DestinationId, Name, Standing};
use crate::hash::hash;
use crate::live::{Live, Ticket, Trial};
use crate::rng::Rng;
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

/// Destinations of one priority that may serve, and the picker built over them.
pub struct Tier {
    /// 0 is first.
    pub priority: u8,
    /// Never empty, in configured order.
    pub slots: Arc<[Slot]>,
    /// Chooses among `slots`.
    pub picker: Box<dyn Picker>,
}

/// One immutable picture of a pool: who is there, who may serve, in which order of tiers.
pub struct Snapshot {
    /// The pool.
    pub pool: Name,
    /// Grows with every publication.
    pub generation: u64,
    /// The algorithm's name.
    pub algorithm: &'static str,
    /// Everyone, in configured order; a slot's `rank` is its index here.
    pub members: Box<[Member]>,
    /// Tiers that may serve, best first. The first takes everything it can; the others are for messages
    /// that have tried all of the first.
    pub tiers: Box<[Tier]>,
    /// Ejected destinations whose time is over: the next repeatable message may try one.
    pub trials: Box<[Slot]>,
    /// From then on any message may be the trial, repeatable or not.
    pub trials_for_all: Tick,
}

impl Snapshot {
    /// A picture of `members` (in configured order): those that serve and whose weight is above 0, grouped
    /// into tiers by priority, each with a picker of `policy`. Everybody's answers are measured if that asks for
    /// it. Trials, and whatever else a pool wants to be
    /// different, are its own to add. Off the request path: building may be slow.
    pub fn build(pool: Name, generation: u64, policy: &dyn Policy, members: Vec<Member>) -> Self {
        let mut by_priority: BTreeMap<u8, Vec<Slot>> = BTreeMap::new();
        for (rank, member) in members.iter().enumerate() {
            let needs = policy.needs();
            member.live.set_measures(matches!(needs, Needs::Answers | Needs::Probes));
            if needs == Needs::Probes {
                member.live.measured().keep_near();
            }
            if member.standing.serves() && member.weight > 0 {
                by_priority.entry(member.destination.priority).or_default().push(member.slot(rank));
            }
        }
        let tiers = by_priority.into_iter().map(|(priority, slots)| {
            let slots: Arc<[Slot]> = slots.into();
            Tier { priority, picker: policy.build(slots.clone()), slots }
        });
        Self {
            pool,
            generation,
            algorithm: policy.name(),
            tiers: tiers.collect(),
            members: members.into(),
            trials: Box::default(),
            trials_for_all: Tick::NEVER,
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
    pub fn home(&self, key: u64) -> Option<&Member> {
        let slot = rendezvous::home(&self.tiers.first()?.slots, key, |_| true)?;
        self.members.get(slot.rank as usize)
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
}

impl fmt::Display for NoDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the pool has no destinations",
            Self::NoneServing => "no destination of the pool may serve",
            Self::AllTried => "every destination that may serve was tried",
        })
    }
}

impl std::error::Error for NoDestination {}

/// Chooses a destination and gives a ticket for it: an open trial first, then the picker of the first tier,
/// then, for a message that has tried the picked one, the next untried; later tiers only when all of the
/// earlier ones were tried. A message with a home asks no picker: it goes there, and if that was tried, to the
/// next.
///
/// # Errors
/// [`NoDestination`] says why nobody takes the message.
pub fn balance_load(
    snapshot: &Snapshot,
    want: &Want<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Result<Ticket, NoDestination> {
    if !snapshot.trials.is_empty()
        && (want.repeatable || now >= snapshot.trials_for_all)
        && let Some((slot, trial)) = (snapshot.trials.iter())
            .filter(|slot| !want.has_tried(slot.id))
            .find_map(|slot| Some((slot, slot.live.take_trial()?)))
    {
        return Ok(ticket(slot, want, Some(trial), now));
    }
    for tier in &snapshot.tiers {
        if let Some(slot) = choose(tier, want, now, rng) {
            return Ok(ticket(slot, want, None, now));
        }
    }
    Err(match (snapshot.members.is_empty(), snapshot.tiers.is_empty()) {
        (true, _) => NoDestination::Empty,
        (_, true) => NoDestination::NoneServing,
        _ => NoDestination::AllTried,
    })
}

/// Who of a tier takes the message. A warming destination lets some pass by, to whom the picker chooses next;
/// where all others were tried or pass it by too, the first choice stands.
fn choose<'s>(tier: &'s Tier, want: &Want<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    /// Picks before the next in the list will do.
    const PICKS: usize = 3;
    // One candidate needs no algorithm.
    if let [lone] = &*tier.slots {
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
    let after = tier.slots.iter().position(|slot| slot.id == first.id).unwrap_or(0);
    let warm = |slot: &&Slot| slot.warmth.is_none() && !want.has_tried(slot.id);
    tier.slots[after..].iter().chain(&tier.slots[..after]).find(warm).or(Some(first))
}

/// What the message's home or the picker says.
fn pick<'s>(tier: &'s Tier, want: &Want<'_>, now: Tick, rng: &mut Rng) -> Option<&'s Slot> {
    match want.home {
        Some(home) => rendezvous::home(&tier.slots, home, |slot| !want.has_tried(slot.id)),
        None => next_untried(&tier.slots, tier.picker.pick(want, now, rng), want),
    }
}

/// The same choice without a ticket for it, and without a trial.
pub(crate) fn balance_load_dry<'s>(
    snapshot: &'s Snapshot,
    want: &Want<'_>,
    now: Tick,
    rng: &mut Rng,
) -> Option<&'s Slot> {
    snapshot.tiers.iter().find_map(|tier| choose(tier, want, now, rng))
}

fn ticket(slot: &Slot, want: &Want<'_>, trial: Option<Trial>, now: Tick) -> Ticket {
    Ticket::new(slot.id, slot.rank as usize, want.worker, trial, slot.live.clone(), now)
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
        assert_eq!(snapshot.tiers.iter().map(|tier| tier.priority).collect::<Vec<_>>(), [0, 1]);
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
        snapshot.tiers.iter_mut().for_each(|tier| tier.picker = Box::new(Silent));
        assert_eq!(walk(&snapshot), (vec![0, 1], NoDestination::AllTried));
    }

    #[test]
    fn nobody_there_and_nobody_serving_are_told_apart() {
        assert_eq!(walk(&picture(Vec::new())), (vec![], NoDestination::Empty));
        let idle = picture(vec![member(0, 0, 0, Standing::Serving), member(1, 0, 1, Standing::Draining)]);
        assert_eq!(walk(&idle), (vec![], NoDestination::NoneServing));
    }
}
