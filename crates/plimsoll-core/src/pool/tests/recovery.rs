//! Tests of recovery, slow start and the panic threshold.

use super::*;

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
