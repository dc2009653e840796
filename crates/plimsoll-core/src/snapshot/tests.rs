//! Tests of picks and of the reasons for which there is none.

use super::*;
use crate::balance::{Algorithm, AttemptedSet};
use crate::destination::{Address, Weight};
use crate::limit::{DestinationLimits, PoolLimits};
use crate::stats::Assignment;

pub(crate) fn member(rank: u32, priority: u8, weight: u16, status: Status) -> Member {
    let address = Address::Socket(([127, 0, 0, 1], 9000).into());
    let destination = Destination { priority, ..Destination::new(&format!("d{rank}"), address) };
    let stats = Arc::new(DestinationStats::new(1));
    let weight = Weight::new(weight).in_256ths();
    Member {
        id: DestinationId(100 + rank),
        destination,
        status,
        since: Tick::ZERO,
        weight,
        slow_start: None,
        stats,
    }
}

fn snapshot_of(members: Vec<Member>) -> Snapshot {
    Snapshot::build("pool".into(), 1, &*Algorithm::RoundRobin.policy(1), members)
}

/// Retries one message until no destination is left, and returns the order of members.
fn retry_until_none(snapshot: &Snapshot) -> (Vec<usize>, NoDestination) {
    let (mut tried, mut order, mut rng) = (AttemptedSet::default(), Vec::new(), Rng::new(1));
    loop {
        let request = PickRequest { tried: Some(&tried), ..PickRequest::default() };
        match balance_load(snapshot, &request, Tick::ZERO, &mut rng) {
            Ok(assignment) => {
                tried.add(assignment.id());
                order.push(assignment.member());
            }
            Err(why) => return (order, why),
        }
    }
}

#[test]
fn retries_go_to_the_next_untried_and_backup_tiers_are_last() {
    let down = Status::Down;
    let snapshot = snapshot_of(vec![
        member(0, 1, 1, Status::Serving),
        member(1, 0, 1, Status::Serving),
        member(2, 0, 1, down),
        member(3, 0, 1, Status::Warming),
        member(4, 0, 0, Status::Serving),
    ]);
    assert_eq!(snapshot.pool_tiers.tiers.iter().map(|tier| tier.priority).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(retry_until_none(&snapshot), (vec![1, 3, 0], NoDestination::AllTried));
}

#[test]
fn single_candidate_is_picked_without_an_algorithm() {
    struct PanickingPicker;
    impl Picker for PanickingPicker {
        fn pick(&self, _: &PickRequest<'_>, _: Tick, _: &mut Rng) -> usize {
            panic!("the picker is not needed");
        }
    }
    let mut snapshot = snapshot_of(vec![member(0, 0, 1, Status::Serving), member(1, 1, 1, Status::Serving)]);
    snapshot.pool_tiers.tiers.iter_mut().for_each(|tier| tier.picker = Box::new(PanickingPicker));
    assert_eq!(retry_until_none(&snapshot), (vec![0, 1], NoDestination::AllTried));
}

/// Returns a snapshot of three members, the third a backup, with a limit of requests each and of the pool.
fn limited(each: u32, pool: u32, algorithm: Algorithm) -> Snapshot {
    let members = (0..3).map(|rank| member(rank, u8::from(rank == 2), 1, Status::Serving));
    let mut snapshot = Snapshot::build("pool".into(), 1, &*algorithm.policy(1), members.collect());
    let limiter = Arc::new(PoolLimiter::new(1));
    limiter.set_limits(&PoolLimits { requests: pool, pending: 10, ..PoolLimits::default() });
    for member in &snapshot.members {
        member.stats.set_limits(DestinationLimits { requests: each, connections: 0 });
        member.stats.set_limiter(&limiter);
    }
    snapshot.limiter = Some(limiter);
    snapshot
}

#[test]
fn destinations_at_their_limit_are_skipped_before_the_next_tier_is_used() {
    for algorithm in Algorithm::ALL {
        let snapshot = limited(2, 0, algorithm);
        let (request, mut rng) = (PickRequest { key: Some(7), ..PickRequest::default() }, Rng::new(1));
        let mut pick = |request: &PickRequest<'_>| balance_load(&snapshot, request, Tick::ZERO, &mut rng);
        let mut held: Vec<Assignment> = (0..6).map(|_| pick(&request).expect("room")).collect();
        let by = |held: &[Assignment], n| held.iter().filter(|assignment| assignment.member() == n).count();
        assert_eq!([0, 1, 2].map(|n| by(&held, n)), [2, 2, 2], "{algorithm:?}");
        assert!(
            held[..4].iter().all(|assignment| assignment.member() < 2),
            "{algorithm:?}: the backup is last"
        );
        assert_eq!(pick(&request).err(), Some(NoDestination::Full), "{algorithm:?}");
        let freed = held.swap_remove(1).member();
        assert_eq!(pick(&request).expect("room again").member(), freed, "{algorithm:?}");
        let mut tried = AttemptedSet::default();
        (0..3).for_each(|n| tried.add(DestinationId(100 + n)));
        let all = PickRequest { tried: Some(&tried), ..request };
        assert_eq!(pick(&all).err(), Some(NoDestination::AllTried), "{algorithm:?}");
    }
}

#[test]
fn pool_limit_holds_and_new_messages_do_not_overtake_the_queue() {
    let snapshot = limited(0, 2, Algorithm::P2c);
    let limiter = snapshot.limiter.clone().expect("limited");
    let (request, mut rng) = (PickRequest::default(), Rng::new(1));
    let mut pick = |request: &PickRequest<'_>| balance_load(&snapshot, request, Tick::ZERO, &mut rng);
    let held = [pick(&request).expect("room"), pick(&request).expect("room")];
    assert_eq!((pick(&request).err(), limiter.requests.current()), (Some(NoDestination::Full), 2));
    limiter.try_enqueue(false).expect("the queue has room");
    drop(held);
    assert_eq!(limiter.requests.current(), 0);
    assert_eq!(pick(&request).err(), Some(NoDestination::Full), "a message is queued");
    assert!(pick(&PickRequest { dequeued: true, ..request }).is_ok());
    limiter.leave_queue(false);
    assert!(pick(&request).is_ok());
}

#[test]
fn an_assignment_to_one_destination_keeps_the_limits() {
    let snapshot = limited(1, 2, Algorithm::RoundRobin);
    let [first, second] = [0, 1].map(|n| snapshot.members[n].id);
    let held = assign(&snapshot, first, 0, Tick::ZERO).expect("below both limits");
    assert_eq!((held.id(), held.member()), (first, 0));
    assert!(assign(&snapshot, first, 0, Tick::ZERO).is_none(), "the destination is at its limit");
    assert!(assign(&snapshot, DestinationId(7), 0, Tick::ZERO).is_none(), "no such destination");
    let other = assign(&snapshot, second, 0, Tick::ZERO);
    assert!(other.is_some(), "failed calls took nothing from the pool's limit");
    assert_eq!(snapshot.limiter.as_ref().map(|limiter| limiter.requests.current()), Some(2));
    drop((held, other));
    assert_eq!(snapshot.limiter.as_ref().map(|limiter| limiter.requests.current()), Some(0));
}

#[test]
fn trial_of_a_destination_at_its_limit_stays_open() {
    let mut snapshot = limited(1, 0, Algorithm::RoundRobin);
    let slot = snapshot.members[0].slot(0);
    slot.stats.open_trial();
    snapshot.trials = [slot.clone()].into();
    let request = PickRequest { repeatable: true, ..PickRequest::default() };
    let held = Assignment::take(slot.id, 0, 0, &slot.stats, Tick::ZERO).expect("room");
    let assignment = balance_load(&snapshot, &request, Tick::ZERO, &mut Rng::new(1)).expect("room");
    assert!(!assignment.is_trial() && slot.stats.trial_is_open());
    drop(held);
    assert!(balance_load(&snapshot, &request, Tick::ZERO, &mut Rng::new(1)).expect("room").is_trial());
}

#[test]
fn empty_pool_and_no_serving_destination_are_distinguished() {
    assert_eq!(retry_until_none(&snapshot_of(Vec::new())), (vec![], NoDestination::Empty));
    let idle = snapshot_of(vec![member(0, 0, 0, Status::Serving), member(1, 0, 1, Status::Draining)]);
    assert_eq!(retry_until_none(&idle), (vec![], NoDestination::NoneServing));
}
