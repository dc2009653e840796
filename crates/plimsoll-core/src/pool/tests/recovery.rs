//! Tests of recovery, slow start and the panic threshold.

use super::*;
use crate::subset::{Fallback, Subset};

fn slow() -> PoolSpec {
    PoolSpec { slow_start: Some(SEC * 100), ..spec() }
}

/// Sends a thousand messages and returns the number that `name` receives.
fn taken(bench: &Bench, name: &str) -> usize {
    let mut rng = Rng::new(9);
    let assignments = (0..1000).map(|_| {
        let snapshot = bench.pool.snapshot();
        let assignment =
            balance_load(snapshot, &PickRequest::default(), bench.now, &mut rng).expect("a member serves");
        snapshot.members[assignment.member()].destination.name.clone()
    });
    assignments.filter(|taker| &**taker == name).count()
}

#[test]
fn returning_member_receives_a_growing_share_up_to_its_weight() {
    for algorithm in Algorithm::ALL {
        let mut bench = Bench::up("a b c d", PoolSpec { algorithm, ..slow() });
        (0..3).for_each(|_| bench.round("a"));
        assert_eq!(bench.word("a"), "down");
        (0..2).for_each(|_| bench.round(""));
        assert_eq!((bench.word("a"), &*bench.tiers()), ("warming", "a b c d"));
        // Assignments are dropped at once, so loads are equal: least connections rotates.
        let mut last = 0;
        for _ in 0..5 {
            let now = taken(&bench, "a");
            assert!(now <= 400 && now + 60 > last, "{algorithm:?}: {now} after {last}");
            last = now;
            bench.advance(SEC * 20);
        }
        assert_eq!(bench.word("a"), "serving");
        let warm = taken(&bench, "a");
        // No member has measurements, so algorithms that use them may deviate a little.
        assert!((150..400).contains(&warm), "{algorithm:?}: {warm}");
    }
}

#[test]
fn slow_start_begins_with_a_tenth_and_its_end_is_logged() {
    let mut bench = Bench::up("a b", slow());
    (0..3).for_each(|_| bench.round("a"));
    (0..2).for_each(|_| bench.round(""));
    let begun = taken(&bench, "a");
    assert!((20..90).contains(&begun), "{begun}");
    bench.advance(SEC * 100);
    assert_eq!(
        bench.lines.last().map(String::as_str),
        Some("pool api: destination a is serving (was warming): the slow start is over")
    );
}

#[test]
fn member_added_later_has_a_slow_start_and_initial_ones_do_not() {
    let mut bench = Bench::up("a b", slow());
    assert_eq!((bench.word("a"), bench.word("b")), ("serving", "serving"));
    bench.members("a b c");
    assert_eq!((bench.word("a"), bench.word("c")), ("serving", "warming"));
    bench.admin("b", AdminState::Drain);
    bench.admin("b", AdminState::Ready);
    assert_eq!(bench.word("b"), "serving", "a drained member is warm");
    bench.admin("b", AdminState::Maintenance);
    bench.admin("b", AdminState::Ready);
    assert_eq!(bench.word("b"), "warming");
}

#[test]
fn key_moves_once_when_its_destination_is_warm_enough() {
    let mut bench = Bench::up("a b c", slow());
    (0..3).for_each(|_| bench.round("a"));
    (0..2).for_each(|_| bench.round(""));
    let mut rng = Rng::new(3);
    let mut homes: Vec<Vec<usize>> = vec![Vec::new(); 300];
    for _ in 0..12 {
        for (key, homes) in (0_u64..).zip(&mut homes) {
            let want = PickRequest { affinity_key: Some(crate::hash::mix(key)), ..PickRequest::default() };
            let assignment = balance_load(bench.pool.snapshot(), &want, bench.now, &mut rng).expect("served");
            homes.push(assignment.member());
        }
        bench.advance(SEC * 10);
    }
    let moved = |homes: &Vec<usize>| homes.windows(2).filter(|two| two[0] != two[1]).count();
    assert!(homes.iter().all(|homes| moved(homes) <= 1));
    let late = homes.iter().filter(|homes| moved(homes) == 1).count();
    assert!((60..130).contains(&late), "{late} of about 90 came home after the first moment");
}

#[test]
fn panic_threshold_stops_and_ends_ejections() {
    let spec = PoolSpec { panic_threshold: 0.5, ..spec() };
    let mut bench = Bench::up("a b c d", spec.clone());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("b", RESET, 5);
    assert_eq!(&*bench.tiers(), "c d");
    bench.traffic("c", RESET, 5);
    assert_eq!(&*bench.tiers(), "c d", "two of four must be left");
    (0..3).for_each(|_| bench.round("a d"));
    assert_eq!(&*bench.tiers(), "b c", "b is needed now that d is down");
    assert!(bench.lines.iter().any(|line| line.contains("destination b is serving (was ejected)")));
    let mut calm = Bench::up("a b c d", PoolSpec { panic_threshold: 0.0, ..spec });
    (0..3).for_each(|_| calm.round("a"));
    calm.traffic("b", RESET, 5);
    calm.traffic("c", RESET, 5);
    assert_eq!(&*calm.tiers(), "d");
}

#[test]
fn managed_recovery_has_a_plan_a_trial_validation_and_a_ramp() {
    let mut bench = Bench::up("a b", PoolSpec { recovery: true, ..spec() });
    (0..3).for_each(|_| bench.round("a"));
    (0..2).for_each(|_| bench.round(""));
    assert_eq!((bench.word("a"), &*bench.tiers()), ("ejected", "b"));
    bench.try_out(OK);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("warming", "a b"));
    bench.advance(SEC * 10);
    let steps: Vec<&str> =
        bench.lines[1..].iter().map(|line| &line["pool api: destination ".len()..]).collect();
    assert_eq!(
        steps,
        [
            "a is on trial: 2 checks passed in a row: one message validates the recovery",
            "a is warming (was ejected): the trial passed",
            "a is serving (was warming): the slow start is over",
        ]
    );
    (0..3).for_each(|_| bench.round("a"));
    (0..2).for_each(|_| bench.round(""));
    bench.try_out(RESET);
    assert_eq!(&*bench.tiers(), "b", "it passes its checks, and does not serve");
}

#[test]
fn outlier_among_peers_is_ejected_without_consecutive_failures() {
    let outlier = OutlierSpec { interval: Some(SEC * 10), latency: true, ..spec().outlier };
    let mut bench = Bench::new("a b c", PoolSpec { health: None, outlier, ..spec() });
    for _ in 0..40 {
        bench.traffic("a", RESET, 3);
        bench.traffic("a", OK, 2);
        bench.traffic("b", OK, 5);
        bench.traffic("c", OK, 5);
    }
    assert_eq!(bench.tiers(), "a b c", "never five in a row");
    bench.advance(SEC * 9);
    assert_eq!(bench.tiers(), "a b c");
    bench.advance(SEC);
    assert_eq!(
        (bench.report("a").reason.map(|reason| reason.as_str()), &*bench.tiers()),
        (Some("failure_share"), "b c")
    );
    bench.advance(SEC * 30);
    bench.try_out(OK);
    for _ in 0..200 {
        bench.traffic("a", Outcome::Answered { status: 200, first_byte: SEC }, 1);
        bench.traffic("b", OK, 1);
        bench.traffic("c", OK, 1);
    }
    bench.advance(SEC * 10);
    assert_eq!(bench.report("a").reason.map(|reason| reason.as_str()), Some("slow"));
    assert_eq!(
        bench.lines.last().map(|line| line.contains("mean time to the first byte 995 ms, 0 ms at its peers")),
        Some(true),
        "{:?}",
        bench.lines.last()
    );
}

#[test]
fn latency_alone_ejects_no_destination_by_default_and_none_that_keys_select() {
    for (algorithm, latency, expected) in [
        (Algorithm::RoundRobin, false, "a b c"),
        (Algorithm::RoundRobin, true, "b c"),
        (Algorithm::Hash, true, "a b c"),
    ] {
        for learning in [false, true] {
            let outlier = OutlierSpec { interval: Some(SEC * 10), latency, learning, ..spec().outlier };
            let mut bench =
                Bench::new("a b c", PoolSpec { health: None, outlier, ..PoolSpec::new(algorithm) });
            for interval in 0..12 {
                let slow = if interval < 8 { Duration::from_millis(20) } else { SEC };
                bench.traffic("a", Outcome::Answered { status: 200, first_byte: slow }, 200);
                bench.traffic("b", OK, 200);
                bench.traffic("c", OK, 200);
                bench.advance(SEC * 10);
                if interval == 8 {
                    assert_eq!(
                        bench.tiers(),
                        expected,
                        "{algorithm:?}, latency {latency}, learning {learning}"
                    );
                }
            }
        }
    }
}

#[test]
fn returning_primaries_leave_messages_to_warm_backups_during_their_slow_start() {
    for primaries in ["a", "a b"] {
        let spec = PoolSpec { slow_start: Some(SEC * 10), ..spec() };
        let mut bench = Bench::up(&format!("{primaries} x!1 y!1"), spec);
        (0..3).for_each(|_| bench.round(primaries));
        assert_eq!(bench.tiers(), "x y");
        (0..2).for_each(|_| bench.round(""));
        assert_eq!(bench.tiers(), format!("{primaries} | x y"));
        let share = |bench: &Bench| {
            let (snapshot, mut rng) = (bench.pool.snapshot(), Rng::new(3));
            let pick = |rng: &mut Rng| balance_load(snapshot, &PickRequest::default(), bench.now, rng);
            let names = (0..400).map(|_| pick(&mut rng).expect("all serve").member());
            names.filter(|&member| member < snapshot.members.len() - 2).count() as f64 / 400.0
        };
        let cold = share(&bench);
        assert!((0.05..0.16).contains(&cold), "{cold} at first");
        bench.advance(SEC * 5);
        let half = share(&bench);
        assert!((0.4..0.62).contains(&half), "{half} after half of the time");
        bench.advance(SEC * 5);
        assert!(share(&bench) > 0.99, "all of it in the end");
    }
}

#[test]
fn warming_tier_takes_all_where_no_other_can() {
    let spec = PoolSpec { slow_start: Some(SEC * 10), ..spec() };
    let mut bench = Bench::up("a x!1", spec);
    (0..3).for_each(|_| bench.round("a x"));
    (0..2).for_each(|_| bench.round("x"));
    assert_eq!(bench.tiers(), "a");
    for seed in 0..50 {
        let snapshot = bench.pool.snapshot();
        assert!(balance_load(snapshot, &PickRequest::default(), bench.now, &mut Rng::new(seed)).is_ok());
    }
}

/// Returns a bench in which destination a is labelled as the canary, with the subset of that label.
fn with_canary(members: &str, canaries: &[&str], fallback: Fallback) -> (Bench, Subset) {
    let subset = Subset::new(vec![("track".into(), "canary".into())], fallback);
    let tiers = TierSpec { subsets: vec![Arc::new(subset.clone())], ..TierSpec::default() };
    let mut bench = Bench::new(members, PoolSpec { tiers, ..spec() });
    let mut labelled = destinations(members);
    for destination in &mut labelled {
        if canaries.contains(&&*destination.name) {
            destination.labels = [("track".into(), "canary".into())].into();
        }
    }
    bench.handle(Input::Members(labelled));
    bench.answer_all(true);
    (bench, subset)
}

fn picked_in(bench: &Bench, subset: &Subset) -> Result<usize, NoDestination> {
    let want = PickRequest { subset: Some(subset), ..PickRequest::default() };
    balance_load(bench.pool.snapshot(), &want, bench.now, &mut Rng::new(1)).map(|picked| picked.member())
}

#[test]
fn last_destination_of_a_strict_subset_is_never_taken_out_for_failing() {
    let (mut bench, subset) = with_canary("a b c", &["a"], Fallback::None);
    bench.traffic("a", RESET, 5);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("ejected", "b c"), "other messages avoid it");
    assert_eq!(picked_in(&bench, &subset), Ok(0));
    (0..3).for_each(|_| bench.round("a"));
    assert_eq!((bench.word("a"), picked_in(&bench, &subset)), ("down", Ok(0)), "as the only one of a pool");
    bench.admin("a", AdminState::Maintenance);
    assert_eq!(picked_in(&bench, &subset), Err(NoDestination::NoneServing), "the operator decides");
}

#[test]
fn traffic_never_takes_out_the_last_of_several_in_a_strict_subset() {
    let (mut bench, subset) = with_canary("a b c d e", &["a", "b"], Fallback::None);
    bench.traffic("a", RESET, 5);
    assert_eq!(picked_in(&bench, &subset), Ok(1));
    (0..3).for_each(|_| bench.round("b"));
    assert_eq!((bench.word("a"), bench.word("b")), ("ejected", "down"));
    assert_eq!(
        picked_in(&bench, &subset),
        Ok(0),
        "one that failed messages comes before one that fails checks"
    );
    (0..3).for_each(|_| bench.round("a b"));
    assert_eq!(picked_in(&bench, &subset), Err(NoDestination::NoneServing), "checks have both");
}

#[test]
fn subset_with_a_fallback_uses_the_pool() {
    let (mut bench, subset) = with_canary("a b c", &["a"], Fallback::Any);
    bench.traffic("a", RESET, 5);
    assert!(matches!(picked_in(&bench, &subset), Ok(1 | 2)));
}

/// Sends one message per 100 ms to each serving member in turn, and takes every trial; members for which `fails` returns
/// true reset it. Failed messages are not repeated.
fn run_for(bench: &mut Bench, tenths: u32, fails: impl Fn(&str) -> bool) {
    for nth in 0..tenths {
        bench.advance(SEC / 10);
        let mut rng = Rng::new(u64::from(nth));
        let want = PickRequest { repeatable: true, ..PickRequest::default() };
        for _ in 0..3 {
            let picked = balance_load(bench.pool.snapshot(), &want, bench.now, &mut rng).expect("one serves");
            let name = bench.pool.snapshot().members[picked.member()].destination.name.clone();
            let signal = picked.finish(bench.now, if fails(&name) { RESET } else { OK });
            signal.into_iter().for_each(|signal| bench.handle(Input::FailureSignal(signal)));
        }
    }
}

#[test]
fn ejections_during_a_failure_of_the_whole_pool_end_when_it_recovers() {
    let mut bench = Bench::unchecked("a b c");
    run_for(&mut bench, 50, |_| true);
    assert_eq!(bench.tiers().len(), 3, "one is ejected: {}", bench.tiers());
    run_for(&mut bench, 40, |_| false);
    assert_eq!(bench.tiers(), "a b c", "{:?}", bench.lines);
    run_for(&mut bench, 20, |name| name == "b");
    assert_eq!(
        (bench.word("b"), &*bench.tiers()),
        ("ejected", "a c"),
        "there is room for one that really fails"
    );
}

#[test]
fn best_comes_back_where_the_worst_has_to_go() {
    let mut bench = Bench::unchecked("a b c");
    run_for(&mut bench, 10, |name| name == "a");
    assert_eq!(bench.tiers(), "b c");
    run_for(&mut bench, 40, |name| name == "b");
    assert_eq!(bench.tiers(), "a c", "{:?}", bench.lines);
}

#[test]
fn failed_early_trials_prolong_no_ejection() {
    let mut bench = Bench::unchecked("a b c");
    run_for(&mut bench, 10, |name| name == "a");
    let Status::Ejected { until } = bench.report("a").status else { panic!("not ejected") };
    run_for(&mut bench, 200, |name| name != "c");
    let Status::Ejected { until: later } = bench.report("a").status else { panic!("not ejected") };
    assert!(later <= until + SEC / 10, "{later:?} after {until:?}");
    let trials = bench.lines.iter().filter(|line| line.contains("a is on trial")).count();
    assert!((2..8).contains(&trials), "{trials} in 20 seconds");
}
