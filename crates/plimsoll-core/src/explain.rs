//! Explanation of a pick: all candidates, what decided, and no side effects.

use crate::balance::PickRequest;
use crate::destination::{DestinationId, Status};
use crate::rng::Rng;
use crate::snapshot::TierSet;
use crate::snapshot::{Member, Snapshot, balance_load_dry};
use crate::time::Tick;

/// Why a destination is not a candidate for a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SetAside {
    /// The status does not allow new messages.
    Status(Status),
    /// The weight is 0.
    NoWeight,
    /// The labels do not match the subset of the route.
    Subset,
    /// The destination is in a backup tier, and the first tier serves.
    Backup,
    /// The destination is in a backup tier, and the pool uses none (`quality.failover_support` is off).
    BackupOff,
    /// The limit of messages in flight is reached.
    Full,
    /// The destination is in another zone, and the local zone takes all messages.
    Zone,
}

impl SetAside {
    /// Name in API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status(status) => status.as_str(),
            Self::NoWeight => "no_weight",
            Self::Subset => "subset",
            Self::Backup => "backup",
            Self::BackupOff => "backup_off",
            Self::Full => "full",
            Self::Zone => "zone",
        }
    }
}

/// One destination in the explanation of a pick.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Index in [`Snapshot::members`].
    pub member: usize,
    /// Reason for its exclusion; `None` for a candidate.
    pub set_aside: Option<SetAside>,
    /// Number of messages in flight.
    pub in_flight: u32,
    /// In flight / weight, the load that algorithms compare.
    pub load: f64,
    /// Probability that the destination accepts a pick; below 1 during slow start.
    pub slow_start: f64,
    /// Score of the algorithm, lower is better; `None` where the algorithm compares no scores.
    pub score: Option<f64>,
    /// Share of the messages that are picked in its tier first, 0 to 1.
    pub share: f64,
}

/// What decided a pick.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecidedBy {
    /// An ejected destination has an open trial, and the message takes it.
    Trial,
    /// The hash key or session of the message.
    Key,
    /// There was only one candidate.
    OnlyCandidate,
    /// The balancing algorithm.
    Algorithm,
}

impl DecidedBy {
    /// Name in API and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Key => "key",
            Self::OnlyCandidate => "only_candidate",
            Self::Algorithm => "algorithm",
        }
    }
}

/// Explanation of one pick.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// All members, in configured order.
    pub candidates: Vec<Candidate>,
    /// Indices of members in the order of the attempts, the winner first.
    pub order: Vec<usize>,
    /// What decided; `None` without a destination.
    pub decided: Option<DecidedBy>,
    /// Whether the message would wait: all destinations are at their limits, or other messages wait already.
    pub waits: bool,
}

/// Explains the pick that [`crate::balance_load`] would make now. Rotations do not advance and no trial is taken. An
/// algorithm that samples uses `rng`, so another message may get another destination.
pub fn explain(snapshot: &Snapshot, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> Explanation {
    let candidates = candidates(snapshot, want, now);
    let eligible = eligible(&candidates);
    let must_wait =
        snapshot.limiter.as_ref().is_some_and(|limiter| limiter.has_waiters() || limiter.requests.is_full());
    let (order, decided) =
        if must_wait { (Vec::new(), None) } else { order(snapshot, want, eligible, now, rng) };
    let waits = order.is_empty() && !snapshot.tiers_for(want).tiers.is_empty();
    Explanation { candidates, order, decided, waits }
}

/// Counts the candidates that are not excluded.
fn eligible(candidates: &[Candidate]) -> usize {
    candidates.iter().filter(|candidate| candidate.set_aside.is_none()).count()
}

/// Returns what decides a pick among these candidates, without an open trial.
pub fn decided(want: &PickRequest<'_>, candidates: &[Candidate]) -> DecidedBy {
    decided_by_count(want, eligible(candidates))
}

const fn decided_by_count(want: &PickRequest<'_>, candidates: usize) -> DecidedBy {
    match (want.affinity_key.is_some() || want.key.is_some(), candidates) {
        (_, 1) => DecidedBy::OnlyCandidate,
        (true, _) => DecidedBy::Key,
        (false, _) => DecidedBy::Algorithm,
    }
}

/// Returns all members, in configured order, as the pick of a message would see them. The pickers' state does not
/// change.
pub fn candidates(snapshot: &Snapshot, want: &PickRequest<'_>, now: Tick) -> Vec<Candidate> {
    let reach = snapshot.tiers_for(want);
    let shares = shares_of(reach, want, snapshot.members.len());
    let scores = scores(reach, snapshot.members.len(), now);
    let candidate = |(member, m): (usize, &Member)| {
        let in_subset = std::ptr::eq(reach, &raw const snapshot.pool_tiers)
            || want.subset.is_none_or(|subset| subset.has(&m.destination));
        let MemberShare { share, other_zone, in_tier } = shares[member];
        let set_aside = match (m.status.serves(), m.weight) {
            // The last destination of a subset takes its messages whatever its status.
            (false, _) if share == 0.0 => Some(SetAside::Status(m.status)),
            (true, 0) => Some(SetAside::NoWeight),
            _ if !in_subset => Some(SetAside::Subset),
            _ if m.stats.is_full() => Some(SetAside::Full),
            _ if share > 0.0 => None,
            _ if other_zone => Some(SetAside::Zone),
            _ if !in_tier => Some(SetAside::BackupOff),
            _ => Some(SetAside::Backup),
        };
        let in_flight = m.stats.in_flight();
        let load = f64::from(in_flight) / (f64::from(m.weight.max(1)) / 256.0);
        let slow_start = m.slow_start.map_or(1.0, |ramp| ramp.chance(now));
        Candidate { member, set_aside, in_flight, load, slow_start, share, score: scores[member] }
    };
    snapshot.members.iter().enumerate().map(candidate).collect()
}

/// Returns the score of each member in its picker.
fn scores(reach: &TierSet, members: usize, now: Tick) -> Vec<Option<f64>> {
    let mut scores = vec![None; members];
    for tier in &reach.tiers {
        for (at, slot) in tier.slots.iter().enumerate() {
            scores[slot.rank as usize] = tier.picker.score(at, now);
        }
    }
    scores
}

/// A member in the tiers that a message may use.
#[derive(Copy, Clone, Default)]
struct MemberShare {
    /// Share of messages that are picked in its tier first.
    share: f64,
    /// Whether it is in another zone.
    other_zone: bool,
    /// Whether it is in a tier at all.
    in_tier: bool,
}

fn shares_of(reach: &TierSet, want: &PickRequest<'_>, members: usize) -> Vec<MemberShare> {
    let mut shares = vec![MemberShare::default(); members];
    for slot in reach.tiers.iter().flat_map(|tier| tier.all_members.iter()) {
        shares[slot.rank as usize].in_tier = true;
    }
    for (tier, share) in reach.tiers.iter().zip(reach.shares()) {
        // A message with a session goes to its destination from every zone.
        let (slots, share) = match want.affinity_key {
            Some(_) => {
                let alike =
                    reach.tiers.iter().zip(reach.shares()).filter(|(t, _)| t.priority == tier.priority);
                (&tier.all_members, alike.map(|(_, share)| share).sum())
            }
            None => (&tier.slots, share),
        };
        for slot in slots.iter() {
            let member = &mut shares[slot.rank as usize];
            (member.share, member.other_zone) = (share, tier.local_zone == Some(false));
        }
    }
    shares
}

fn order(
    snapshot: &Snapshot,
    want: &PickRequest<'_>,
    candidates: usize,
    now: Tick,
    rng: &mut Rng,
) -> (Vec<usize>, Option<DecidedBy>) {
    /// Id of no destination: a message that attempted one does not advance the rotation.
    const NONE: DestinationId = DestinationId(u32::MAX);
    let mut tried = want.tried.copied().unwrap_or_default();
    tried.add(NONE);
    let (mut order, mut decided) = (Vec::new(), None);
    let may_try = want.repeatable || now >= snapshot.trials_for_all;
    if let Some(slot) =
        snapshot.trials.iter().find(|slot| may_try && slot.stats.trial_is_open() && !slot.stats.is_full())
    {
        order.push(slot.rank as usize);
        tried.add(slot.id);
        decided = Some(DecidedBy::Trial);
    }
    while !tried.is_full() {
        let Some(rank) = balance_load_dry(snapshot, &PickRequest { tried: Some(&tried), ..*want }, now, rng)
        else {
            break;
        };
        tried.add(snapshot.members[rank].id);
        order.push(rank);
        decided.get_or_insert(decided_by_count(want, candidates));
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
    fn the_explained_pick_is_the_one_that_is_made() {
        for algorithm in [Algorithm::RoundRobin, Algorithm::WeightedRoundRobin, Algorithm::LeastConnections] {
            let members = (0..5).map(|rank| member(rank, 0, 1 + rank as u16, Status::Serving)).collect();
            let snapshot = Snapshot::build("p".into(), 1, &*algorithm.policy(1), members);
            let (mut rng, want) = (Rng::new(1), PickRequest::default());
            let mut held = Vec::new();
            for _ in 0..20 {
                let explained = explain(&snapshot, &want, Tick::ZERO, &mut rng);
                let again = explain(&snapshot, &want, Tick::ZERO, &mut rng);
                assert_eq!(explained.order, again.order, "{algorithm:?}: an explanation changes nothing");
                let assignment = balance_load(&snapshot, &want, Tick::ZERO, &mut rng).expect("all serve");
                assert_eq!(explained.order[0], assignment.member(), "{algorithm:?}");
                assert_eq!((explained.decided, explained.order.len()), (Some(DecidedBy::Algorithm), 5));
                held.push(assignment);
            }
        }
    }

    #[test]
    fn a_destination_at_its_limit_is_full_and_a_message_without_one_waits() {
        let members = (0..2).map(|rank| member(rank, 0, 1, Status::Serving)).collect();
        let mut snapshot = Snapshot::build("p".into(), 1, &*Algorithm::RoundRobin.policy(1), members);
        let limiter = Arc::new(PoolLimiter::new(1));
        limiter.set_limits(&PoolLimits { pending: 1, ..PoolLimits::default() });
        snapshot.limiter = Some(limiter.clone());
        for member in &snapshot.members {
            member.stats.set_limits(DestinationLimits { requests: 1, connections: 0 });
        }
        let (want, mut rng) = (PickRequest::default(), Rng::new(1));
        let mut held = vec![balance_load(&snapshot, &want, Tick::ZERO, &mut rng).expect("room")];
        let explained = explain(&snapshot, &want, Tick::ZERO, &mut rng);
        assert_eq!(explained.candidates[held[0].member()].set_aside, Some(SetAside::Full));
        assert_eq!((explained.order, explained.waits), (vec![1 - held[0].member()], false));
        held.push(balance_load(&snapshot, &want, Tick::ZERO, &mut rng).expect("room"));
        let explained = explain(&snapshot, &want, Tick::ZERO, &mut rng);
        assert_eq!((explained.order.len(), explained.decided, explained.waits), (0, None, true));
        drop(held);
        limiter.try_enqueue(false).expect("below the limit");
        assert!(explain(&snapshot, &want, Tick::ZERO, &mut rng).waits, "behind the queue");
    }

    #[test]
    fn every_exclusion_has_its_reason() {
        let members = vec![
            member(0, 0, 1, Status::Down),
            member(1, 0, 0, Status::Serving),
            member(2, 0, 1, Status::Serving),
            member(3, 1, 1, Status::Serving),
        ];
        let snapshot = Snapshot::build("p".into(), 1, &*Algorithm::RoundRobin.policy(1), members);
        let explained = explain(&snapshot, &PickRequest::default(), Tick::ZERO, &mut Rng::new(1));
        let why: Vec<_> = explained.candidates.iter().map(|candidate| candidate.set_aside).collect();
        let out =
            [Some(SetAside::Status(Status::Down)), Some(SetAside::NoWeight), None, Some(SetAside::Backup)];
        assert_eq!(why, out);
        assert_eq!((explained.order, explained.decided), (vec![2, 3], Some(DecidedBy::OnlyCandidate)));
        assert_eq!(explained.candidates[2].score, None, "a rotation has no scores");
        let spec = crate::snapshot::TierSpec { backup_tiers: false, ..Default::default() };
        let members = vec![member(0, 0, 1, Status::Down), member(1, 1, 1, Status::Serving)];
        let no_backups =
            Snapshot::build_with("p".into(), 1, &*Algorithm::RoundRobin.policy(1), &spec, members);
        let explained = explain(&no_backups, &PickRequest::default(), Tick::ZERO, &mut Rng::new(1));
        assert_eq!(explained.candidates[1].set_aside, Some(SetAside::BackupOff), "no other tier serves");
        let empty = Snapshot::build("p".into(), 1, &*Algorithm::RoundRobin.policy(1), Vec::new());
        let explained = explain(&empty, &PickRequest::default(), Tick::ZERO, &mut Rng::new(1));
        assert_eq!((explained.order.len(), explained.decided), (0, None));
    }

    #[test]
    fn scores_are_those_of_the_algorithm() {
        let members = vec![member(0, 0, 1, Status::Serving), member(1, 0, 4, Status::Serving)];
        let policy = Algorithm::WeightedLeastConnections.policy(1);
        let snapshot = Snapshot::build("p".into(), 1, &*policy, members);
        let _held =
            balance_load(&snapshot, &PickRequest::default(), Tick::ZERO, &mut Rng::new(1)).expect("serves");
        let explained = explain(&snapshot, &PickRequest::default(), Tick::ZERO, &mut Rng::new(1));
        let scores: Vec<_> = explained.candidates.iter().map(|candidate| candidate.score).collect();
        assert_eq!(scores, [Some(0.0), Some(0.25)], "the heavier one has one in flight");
    }
}
