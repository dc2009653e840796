//! Who takes a message, and why nobody does.

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

fn picture(members: Vec<Member>) -> Snapshot {
    Snapshot::build("pool".into(), 1, &*Algorithm::RoundRobin.policy(1), members)
}

/// Sends one message that goes on trying until nobody is left, and tells the order of members.
fn walk(snapshot: &Snapshot) -> (Vec<usize>, NoDestination) {
    let (mut tried, mut order, mut rng) = (AttemptedSet::default(), Vec::new(), Rng::new(1));
    loop {
        let want = PickRequest { tried: Some(&tried), ..PickRequest::default() };
        match balance_load(snapshot, &want, Tick::ZERO, &mut rng) {
            Ok(assignment) => {
                tried.add(assignment.id());
                order.push(assignment.member());
            }
            Err(why) => return (order, why),
        }
    }
}

#[test]
fn the_next_untried_takes_a_retry_and_backup_tiers_come_last() {
    let down = Status::Down;
    let snapshot = picture(vec![
        member(0, 1, 1, Status::Serving),
        member(1, 0, 1, Status::Serving),
        member(2, 0, 1, down),
        member(3, 0, 1, Status::Warming),
        member(4, 0, 0, Status::Serving),
    ]);
    assert_eq!(snapshot.pool_tiers.tiers.iter().map(|tier| tier.priority).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(walk(&snapshot), (vec![1, 3, 0], NoDestination::AllTried));
}

#[test]
fn one_candidate_is_taken_without_asking_an_algorithm() {
    struct Unresponsive;
    impl Picker for Unresponsive {
        fn pick(&self, _: &PickRequest<'_>, _: Tick, _: &mut Rng) -> usize {
            panic!("nobody needs to ask");
        }
    }
    let mut snapshot = picture(vec![member(0, 0, 1, Status::Serving), member(1, 1, 1, Status::Serving)]);
    snapshot.pool_tiers.tiers.iter_mut().for_each(|tier| tier.picker = Box::new(Unresponsive));
    assert_eq!(walk(&snapshot), (vec![0, 1], NoDestination::AllTried));
}

/// A picture of three, the third a backup, each with room for so many; the pool has room for `pool`.
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
fn who_is_full_is_passed_over_and_then_the_next_tier_serves() {
    for algorithm in Algorithm::ALL {
        let snapshot = limited(2, 0, algorithm);
        let (want, mut rng) = (PickRequest { key: Some(7), ..PickRequest::default() }, Rng::new(1));
        let mut ask = |want: &PickRequest<'_>| balance_load(&snapshot, want, Tick::ZERO, &mut rng);
        let mut held: Vec<Assignment> = (0..6).map(|_| ask(&want).expect("room")).collect();
        let by = |held: &[Assignment], n| held.iter().filter(|assignment| assignment.member() == n).count();
        assert_eq!([0, 1, 2].map(|n| by(&held, n)), [2, 2, 2], "{algorithm:?}");
        assert!(
            held[..4].iter().all(|assignment| assignment.member() < 2),
            "{algorithm:?}: the backup is last"
        );
        assert_eq!(ask(&want).err(), Some(NoDestination::Full), "{algorithm:?}");
        let freed = held.swap_remove(1).member();
        assert_eq!(ask(&want).expect("room again").member(), freed, "{algorithm:?}");
        let mut tried = AttemptedSet::default();
        (0..3).for_each(|n| tried.add(DestinationId(100 + n)));
        let all = PickRequest { tried: Some(&tried), ..want };
        assert_eq!(ask(&all).err(), Some(NoDestination::AllTried), "{algorithm:?}");
    }
}

#[test]
fn a_pool_has_as_many_as_it_may_and_nobody_passes_the_line() {
    let snapshot = limited(0, 2, Algorithm::P2c);
    let limiter = snapshot.limiter.clone().expect("limited");
    let (want, mut rng) = (PickRequest::default(), Rng::new(1));
    let mut ask = |want: &PickRequest<'_>| balance_load(&snapshot, want, Tick::ZERO, &mut rng);
    let held = [ask(&want).expect("room"), ask(&want).expect("room")];
    assert_eq!((ask(&want).err(), limiter.requests.current()), (Some(NoDestination::Full), 2));
    limiter.try_enqueue(false).expect("room in the line");
    drop(held);
    assert_eq!(limiter.requests.current(), 0);
    assert_eq!(ask(&want).err(), Some(NoDestination::Full), "somebody waits");
    assert!(ask(&PickRequest { dequeued: true, ..want }).is_ok());
    limiter.leave_queue(false);
    assert!(ask(&want).is_ok());
}

#[test]
fn a_trial_without_room_is_for_somebody_else() {
    let mut snapshot = limited(1, 0, Algorithm::RoundRobin);
    let slot = snapshot.members[0].slot(0);
    slot.stats.open_trial();
    snapshot.trials = [slot.clone()].into();
    let want = PickRequest { repeatable: true, ..PickRequest::default() };
    let held = Assignment::take(slot.id, 0, 0, &slot.stats, Tick::ZERO).expect("room");
    let assignment = balance_load(&snapshot, &want, Tick::ZERO, &mut Rng::new(1)).expect("room");
    assert!(!assignment.is_trial() && slot.stats.trial_is_open());
    drop(held);
    assert!(balance_load(&snapshot, &want, Tick::ZERO, &mut Rng::new(1)).expect("room").is_trial());
}

#[test]
fn nobody_there_and_nobody_serving_are_told_apart() {
    assert_eq!(walk(&picture(Vec::new())), (vec![], NoDestination::Empty));
    let idle = picture(vec![member(0, 0, 0, Status::Serving), member(1, 0, 1, Status::Draining)]);
    assert_eq!(walk(&idle), (vec![], NoDestination::NoneServing));
}
