//! Why a message would go where it would go: the choice told candidate by candidate, and nothing changed by it.

use crate::destination::{DestinationId, Status};
use crate::rng::Rng;
use crate::snapshot::{Member, Snapshot, Want, balance_load_dry};
use crate::spread::Reach;
use crate::time::Tick;

/// Why a destination is no candidate for a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SetAside {
    /// It may not serve.
    Status(Status),
    /// Weight 0 takes no new work.
    NoWeight,
    /// It has not the labels that the route asks for.
    Subset,
    /// It is of a later tier, and the first one serves.
    Backup,
    /// It has as much as it may have at once.
    Full,
    /// It is of another zone, and the own one carries everything.
    Zone,
}

impl SetAside {
    /// The word used in API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status(status) => status.as_str(),
            Self::NoWeight => "no_weight",
            Self::Subset => "subset",
            Self::Backup => "backup",
            Self::Full => "full",
            Self::Zone => "zone",
        }
    }
}

/// One destination, as the choice saw it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its index in [`Snapshot::members`].
    pub member: usize,
    /// Why it is out of the question; `None` for a candidate.
    pub set_aside: Option<SetAside>,
    /// Messages in flight there.
    pub in_flight: u32,
    /// (in flight + 1) / weight, which algorithms that look at load compare; without a weight they heed, by
    /// in flight + 1 alone.
    pub load: f64,
    /// The chance with which it takes what the algorithm gives it; below 1 while it warms up.
    pub chance: f64,
    /// What the algorithm compares it by, the lower the better; `None` where it compares nothing.
    pub score: Option<f64>,
    /// The share of messages that meet its tier first, 0 to 1.
    pub share: f64,
}

/// What decided.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// An ejected destination is on trial, and this message may be it.
    Trial,
    /// What the message keeps its destination by.
    Key,
    /// There was only one.
    Lone,
    /// The algorithm.
    Algorithm,
}

impl Decided {
    /// The word used in API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Key => "key",
            Self::Lone => "lone",
            Self::Algorithm => "algorithm",
        }
    }
}

/// The choice of one message.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Everyone, in configured order.
    pub candidates: Vec<Candidate>,
    /// Who would take it: indices of members, the winner first, then who would be tried next, and so on.
    pub order: Vec<usize>,
    /// What decided; `None` when nobody takes it.
    pub decided: Option<Decided>,
    /// It would have to wait: nobody who may serve has room, or others wait already.
    pub waits: bool,
}

/// Tells the choice that [`crate::balance_load`] would make now. Rotations stay where they are and no trial is
/// taken; an algorithm that draws lots draws them from `rng`, so another message may be drawn another one.
pub fn explain(snapshot: &Snapshot, want: &Want<'_>, now: Tick, rng: &mut Rng) -> Explanation {
    let candidates = candidates(snapshot, want, now);
    let fit = fit(&candidates);
    let shut = snapshot.limiter.as_ref().is_some_and(|c| c.has_waiters() || c.requests.is_full());
    let (order, decided) = if shut { (Vec::new(), None) } else { order(snapshot, want, fit, now, rng) };
    let waits = order.is_empty() && !snapshot.reach(want).tiers.is_empty();
    Explanation { candidates, order, decided, waits }
}

/// Those that are not set aside.
fn fit(candidates: &[Candidate]) -> usize {
    candidates.iter().filter(|candidate| candidate.set_aside.is_none()).count()
}

/// What decides over a message that meets these, where no trial is open.
pub fn decided(want: &Want<'_>, candidates: &[Candidate]) -> Decided {
    decided_among(want, fit(candidates))
}

const fn decided_among(want: &Want<'_>, candidates: usize) -> Decided {
    match (want.home.is_some() || want.key.is_some(), candidates) {
        (_, 1) => Decided::Lone,
        (true, _) => Decided::Key,
        (false, _) => Decided::Algorithm,
    }
}

/// Everyone, in configured order, as the choice of a message would see them. Nothing is asked of a picker that
/// it would remember.
pub fn candidates(snapshot: &Snapshot, want: &Want<'_>, now: Tick) -> Vec<Candidate> {
    let reach = snapshot.reach(want);
    let shares = shares_of(reach, want, snapshot.members.len());
    let scores = scores(reach, snapshot.members.len(), now);
    let candidate = |(member, m): (usize, &Member)| {
        let in_subset = std::ptr::eq(reach, &raw const snapshot.whole)
            || want.subset.is_none_or(|subset| subset.has(&m.destination));
        let (share, other_zone) = shares[member];
        let set_aside = match (m.status.serves(), m.weight) {
            (false, _) => Some(SetAside::Status(m.status)),
            (true, 0) => Some(SetAside::NoWeight),
            _ if !in_subset => Some(SetAside::Subset),
            _ if m.stats.is_full() => Some(SetAside::Full),
            _ if share > 0.0 => None,
            _ if other_zone => Some(SetAside::Zone),
            _ => Some(SetAside::Backup),
        };
        let in_flight = m.stats.in_flight();
        let load = f64::from(in_flight + 1) / (f64::from(m.weight.max(1)) / 256.0);
        let chance = m.warmth.map_or(1.0, |warmth| warmth.chance(now));
        Candidate { member, set_aside, in_flight, load, chance, share, score: scores[member] }
    };
    snapshot.members.iter().enumerate().map(candidate).collect()
}

/// What the pickers would compare each member by.
fn scores(reach: &Reach, members: usize, now: Tick) -> Vec<Option<f64>> {
    let mut scores = vec![None; members];
    for tier in &reach.tiers {
        for (at, slot) in tier.slots.iter().enumerate() {
            scores[slot.rank as usize] = tier.picker.score(at, now);
        }
    }
    scores
}

/// For each member the share of messages that meet its tier first, and whether that is another zone's.
fn shares_of(reach: &Reach, want: &Want<'_>, members: usize) -> Vec<(f64, bool)> {
    let mut shares = vec![(0.0, false); members];
    for (tier, share) in reach.tiers.iter().zip(reach.shares()) {
        // Who has a home goes there from whatever zone.
        let (slots, share) = match want.home {
            Some(_) => {
                let alike =
                    reach.tiers.iter().zip(reach.shares()).filter(|(t, _)| t.priority == tier.priority);
                (&tier.everyone, alike.map(|(_, share)| share).sum())
            }
            None => (&tier.slots, share),
        };
        for slot in slots.iter() {
            shares[slot.rank as usize] = (share, tier.zoned == Some(false));
        }
    }
    shares
}

fn order(
    snapshot: &Snapshot,
    want: &Want<'_>,
    candidates: usize,
    now: Tick,
    rng: &mut Rng,
) -> (Vec<usize>, Option<Decided>) {
    /// Nobody's number: a message that has tried somebody takes nobody's turn.
    const NOBODY: DestinationId = DestinationId(u32::MAX);
    let mut tried = want.tried.copied().unwrap_or_default();
    tried.add(NOBODY);
    let (mut order, mut decided) = (Vec::new(), None);
    let may_try = want.repeatable || now >= snapshot.trials_for_all;
    if let Some(slot) =
        snapshot.trials.iter().find(|slot| may_try && slot.stats.trial_is_open() && !slot.stats.is_full())
    {
        order.push(slot.rank as usize);
        tried.add(slot.id);
        decided = Some(Decided::Trial);
    }
    while !tried.is_full() {
        let Some(rank) = balance_load_dry(snapshot, &Want { tried: Some(&tried), ..*want }, now, rng) else {
            break;
        };
        tried.add(snapshot.members[rank].id);
        order.push(rank);
        decided.get_or_insert(decided_among(want, candidates));
    }
    (order, decided)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Algorithm;
    use crate::limit::{DestinationLimits, PoolLimits};
    use crate::limiter::PoolLimiter;
    use crate::snapshot::balance_load;
    use crate::snapshot::tests::member;

    #[test]
    fn it_tells_what_would_happen_and_then_that_happens() {
        for algorithm in [Algorithm::RoundRobin, Algorithm::WeightedRoundRobin, Algorithm::LeastConnections] {
            let members = (0..5).map(|rank| member(rank, 0, 1 + rank as u16, Status::Serving)).collect();
            let snapshot = Snapshot::build("p".into(), 1, &*algorithm.policy(1), members);
            let (mut rng, want) = (Rng::new(1), Want::default());
            let mut held = Vec::new();
            for _ in 0..20 {
                let told = explain(&snapshot, &want, Tick::ZERO, &mut rng);
                let again = explain(&snapshot, &want, Tick::ZERO, &mut rng);
                assert_eq!(told.order, again.order, "{algorithm:?}: telling changes nothing");
                let assignment = balance_load(&snapshot, &want, Tick::ZERO, &mut rng).expect("all serve");
                assert_eq!(told.order[0], assignment.member(), "{algorithm:?}");
                assert_eq!((told.decided, told.order.len()), (Some(Decided::Algorithm), 5));
                held.push(assignment);
            }
        }
    }

    #[test]
    fn who_has_no_room_is_full_and_a_message_that_finds_nobody_waits() {
        let members = (0..2).map(|rank| member(rank, 0, 1, Status::Serving)).collect();
        let mut snapshot = Snapshot::build("p".into(), 1, &*Algorithm::RoundRobin.policy(1), members);
        let limiter = Arc::new(PoolLimiter::new(1));
        limiter.set_limits(&PoolLimits { pending: 1, ..PoolLimits::default() });
        snapshot.limiter = Some(limiter.clone());
        for member in &snapshot.members {
            member.stats.set_limits(DestinationLimits { requests: 1, connections: 0 });
        }
        let (want, mut rng) = (Want::default(), Rng::new(1));
        let mut held = vec![balance_load(&snapshot, &want, Tick::ZERO, &mut rng).expect("room")];
        let told = explain(&snapshot, &want, Tick::ZERO, &mut rng);
        assert_eq!(told.candidates[held[0].member()].set_aside, Some(SetAside::Full));
        assert_eq!((told.order, told.waits), (vec![1 - held[0].member()], false));
        held.push(balance_load(&snapshot, &want, Tick::ZERO, &mut rng).expect("room"));
        let told = explain(&snapshot, &want, Tick::ZERO, &mut rng);
        assert_eq!((told.order.len(), told.decided, told.waits), (0, None, true));
        drop(held);
        limiter.try_enqueue(false).expect("room in the line");
        assert!(explain(&snapshot, &want, Tick::ZERO, &mut rng).waits, "behind who waits already");
    }

    #[test]
    fn who_is_out_is_out_for_a_reason() {
        let members = vec![
            member(0, 0, 1, Status::Down),
            member(1, 0, 0, Status::Serving),
            member(2, 0, 1, Status::Serving),
            member(3, 1, 1, Status::Serving),
        ];
        let snapshot = Snapshot::build("p".into(), 1, &*Algorithm::RoundRobin.policy(1), members);
        let told = explain(&snapshot, &Want::default(), Tick::ZERO, &mut Rng::new(1));
        let why: Vec<_> = told.candidates.iter().map(|candidate| candidate.set_aside).collect();
        let out =
            [Some(SetAside::Status(Status::Down)), Some(SetAside::NoWeight), None, Some(SetAside::Backup)];
        assert_eq!(why, out);
        assert_eq!((told.order, told.decided), (vec![2, 3], Some(Decided::Lone)));
        assert_eq!(told.candidates[2].score, None, "a rotation compares nothing");
        let nobody = Snapshot::build("p".into(), 1, &*Algorithm::RoundRobin.policy(1), Vec::new());
        let told = explain(&nobody, &Want::default(), Tick::ZERO, &mut Rng::new(1));
        assert_eq!((told.order.len(), told.decided), (0, None));
    }

    #[test]
    fn scores_are_what_the_algorithm_compares() {
        let members = vec![member(0, 0, 1, Status::Serving), member(1, 0, 4, Status::Serving)];
        let policy = Algorithm::WeightedLeastConnections.policy(1);
        let snapshot = Snapshot::build("p".into(), 1, &*policy, members);
        let _held = balance_load(&snapshot, &Want::default(), Tick::ZERO, &mut Rng::new(1)).expect("serves");
        let told = explain(&snapshot, &Want::default(), Tick::ZERO, &mut Rng::new(1));
        let scores: Vec<_> = told.candidates.iter().map(|candidate| candidate.score).collect();
        assert_eq!(scores, [Some(1.0), Some(0.5)], "the heavier one has one in flight");
    }
}
