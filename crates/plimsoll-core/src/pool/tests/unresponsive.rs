//! Tests of unresponsive members, and of the effect of failing traffic on checks.

use super::*;

const DEEP: ProbeKind = ProbeKind::Other("deep");

/// Returns a pool with checks every 10 s, every second after failures, and detection after a second without response.
fn detecting() -> PoolSpec {
    let schedule = CheckSchedule { fast: Some(SEC), jitter: 0.0, ..CheckSchedule::default() };
    let health = HealthSpec { schedule, probe_if_unresponsive: Some(DEEP), ..checks() };
    let outlier = OutlierSpec { unresponsive_after: Some(SEC), ..spec().outlier };
    PoolSpec { health: Some(health), outlier, ..spec() }
}

/// Returns `count` messages without a response, which end when they are dropped.
fn hold(bench: &Bench, name: &str, count: usize) -> Vec<Assignment> {
    (0..count).map(|_| bench.assignment(name)).collect()
}

fn wait(bench: &mut Bench, half_seconds: u32) {
    (0..half_seconds).for_each(|_| bench.advance(SEC / 2));
}

#[test]
fn first_bad_outcome_brings_the_check_forward_once() {
    let mut bench = Bench::up("a b", detecting());
    bench.advance(SEC * 5);
    assert!(bench.orders.is_empty());
    bench.traffic("a", RESET, 1);
    assert_eq!(bench.orders.len(), 1);
    assert_eq!((&*bench.orders[0].name, &bench.orders[0].kind), ("a", &ProbeKind::Tcp));
    let signals = (0..3).filter_map(|_| bench.assignment("a").finish(bench.now, RESET)).count();
    assert_eq!(signals, 0, "the slow loop knows");
    bench.answer_all(true);
    bench.traffic("a", RESET, 1);
    assert!(bench.orders.is_empty(), "not within the fast interval");
    bench.advance(SEC);
    assert_eq!(bench.orders.len(), 1);
}

#[test]
fn timeout_makes_the_next_checks_require_a_response() {
    let mut bench = Bench::up("a b", detecting());
    bench.advance(SEC * 5);
    bench.traffic("a", Outcome::Failed(Failure::Timeout), 1);
    for _ in 0..3 {
        assert_eq!(bench.orders[0].kind, DEEP);
        bench.answer_all(false);
        bench.advance(SEC);
    }
    assert_eq!((bench.word("a"), &*bench.tiers()), ("down", "b"));
    bench.advance(SEC * 10);
    for order in mem::take(&mut bench.orders) {
        let deep = order.kind == DEEP;
        assert_eq!(deep, &*order.name == "a", "its peer is in no doubt");
        bench.answer(&order, true);
    }
    bench.advance(SEC);
    assert!(bench.orders.iter().any(|order| &*order.name == "a" && order.kind == ProbeKind::Tcp));
}

#[test]
fn unusually_long_wait_triggers_a_check() {
    let mut bench = Bench::up("a b", detecting());
    wait(&mut bench, 2);
    let _held = hold(&bench, "a", 1);
    wait(&mut bench, 2);
    assert!(bench.orders.is_empty());
    wait(&mut bench, 1);
    assert_eq!(bench.orders.len(), 1);
    assert_eq!((&*bench.orders[0].name, &bench.orders[0].kind), ("a", &DEEP));
    assert_eq!(bench.tiers(), "a b", "one message is no proof");
}

#[test]
fn unresponsive_member_is_ejected_within_seconds() {
    let mut bench = Bench::new("a b c", PoolSpec { health: None, ..detecting() });
    let mut held = Vec::new();
    for half_seconds in 0.. {
        held.extend(hold(&bench, "a", 5));
        bench.traffic("b", OK, 5);
        bench.traffic("c", OK, 5);
        wait(&mut bench, 1);
        if bench.word("a") == "ejected" {
            assert!((4..=6).contains(&half_seconds), "after {half_seconds} half seconds");
            break;
        }
        assert!(half_seconds < 60, "never");
    }
    assert_eq!(bench.tiers(), "b c");
    let line = bench.lines.last().expect("a line was logged");
    assert!(line.contains("messages wait, with no response for"), "{line}");
    assert_eq!(bench.report("a").reason.expect("one").as_str(), "unresponsive");
}

#[test]
fn long_polls_eject_no_member() {
    for health in [None, detecting().health] {
        let mut bench = Bench::up("a b c", PoolSpec { health, ..detecting() });
        let polls = hold(&bench, "a", 7);
        for _ in 0..60 {
            bench.traffic("b", OK, 20);
            bench.traffic("c", OK, 20);
            bench.answer_all(true);
            wait(&mut bench, 1);
            assert_eq!(bench.tiers(), "a b c");
        }
        for poll in polls {
            poll.finish(bench.now, Outcome::Answered { status: 200, first_byte: SEC * 30 });
        }
        assert_eq!(bench.tiers(), "a b c");
    }
}

#[test]
fn failed_check_that_needs_a_response_confirms_long_waits() {
    let mut bench = Bench::up("a b c", detecting());
    let _waiting = hold(&bench, "a", 7);
    for half_seconds in 0..20 {
        bench.traffic("b", OK, 20);
        bench.traffic("c", OK, 20);
        for order in mem::take(&mut bench.orders) {
            let ok = order.kind != DEEP;
            bench.answer(&order, ok);
        }
        wait(&mut bench, 1);
        if bench.word("a") == "ejected" {
            assert!(half_seconds < 8, "after {half_seconds} half seconds");
            return;
        }
    }
    panic!("never");
}

#[test]
fn message_without_its_end_does_not_wait() {
    let mut bench = Bench::new("a b c", PoolSpec { health: None, ..detecting() });
    let want = PickRequest { sent_later: true, ..PickRequest::default() };
    let snapshot = bench.pool.snapshot().clone();
    let mut uploads: Vec<Assignment> = (0..60)
        .filter_map(|_| balance_load(&snapshot, &want, bench.now, &mut Rng::new(1)).ok())
        .filter(|upload| upload.member() == 0)
        .collect();
    for _ in 0..20 {
        bench.traffic("b", OK, 20);
        bench.traffic("c", OK, 20);
        wait(&mut bench, 1);
        assert_eq!(bench.tiers(), "a b c");
    }
    assert_eq!(uploads.len(), 20);
    let mut upload = uploads.pop().expect("one");
    assert_eq!(upload.waited(bench.now), Duration::ZERO);
    upload.request_sent(bench.now);
    wait(&mut bench, 2);
    assert_eq!(upload.waited(bench.now), SEC);
    assert!(upload.finish(bench.now, OK).is_none());
}

#[test]
fn no_member_is_ejected_if_none_responds() {
    let mut bench = Bench::new("a b c", PoolSpec { health: None, ..detecting() });
    let _held: Vec<_> = ["a", "b", "c"].map(|name| hold(&bench, name, 50)).into();
    wait(&mut bench, 200);
    assert_eq!(bench.tiers(), "a b c");
}

#[test]
fn usually_slow_member_is_not_unresponsive() {
    let slow = Outcome::Answered { status: 200, first_byte: SEC * 30 };
    let mut bench = Bench::new("a b", PoolSpec { health: None, ..detecting() });
    bench.traffic("a", slow, 10);
    let _held = hold(&bench, "a", 10);
    for _ in 0..100 {
        bench.traffic("b", OK, 10);
        wait(&mut bench, 1);
    }
    assert_eq!(bench.tiers(), "a b");
}

#[test]
fn cancelled_message_does_not_wait() {
    let mut bench = Bench::new("a b", PoolSpec { health: None, ..detecting() });
    for _ in 0..100 {
        drop(hold(&bench, "a", 10));
        bench.traffic("b", OK, 10);
        wait(&mut bench, 1);
    }
    assert_eq!(bench.tiers(), "a b");
}

#[test]
fn good_traffic_replaces_checks_and_a_failure_checks_at_once() {
    let mut spec = detecting();
    spec.health.as_mut().expect("checks").schedule.adaptive = true;
    let mut bench = Bench::up("a b", spec);
    let mut asked = Vec::new();
    for _ in 0..10 {
        bench.traffic("a", OK, 20);
        bench.advance(SEC * 10);
        asked.push(bench.orders.iter().map(|order| &*order.name).collect::<Vec<_>>().join(" "));
        bench.answer_all(true);
    }
    assert_eq!(asked, ["b", "b", "b", "b", "a b", "b", "b", "b", "b", "a b"].map(sorted_as(&asked)));
    bench.traffic("a", OK, 20);
    bench.advance(SEC * 3);
    assert!(bench.orders.is_empty());
    bench.traffic("a", RESET, 1);
    assert_eq!(bench.orders.len(), 1);
}

/// Returns names in the order of checks that were sent at one time.
fn sorted_as(asked: &[String]) -> impl Fn(&'static str) -> String + '_ {
    |names| match names {
        "a b" if asked.iter().any(|both| both == "b a") => "b a".to_owned(),
        names => names.to_owned(),
    }
}

#[test]
fn member_that_starts_down_serves_after_its_first_passed_check() {
    let mut spec = spec();
    spec.health.as_mut().expect("checks").schedule.start = crate::health::Start::Down;
    let mut bench = Bench::new("a b c", spec);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("down", ""));
    assert_eq!(bench.report("a").reason, Some(Reason::NotChecked));
    let order = bench.orders.remove(0);
    bench.answer(&order, true);
    assert_eq!(bench.tiers(), "a");
    bench.answer_all(false);
    assert_eq!((bench.word("b"), &*bench.tiers()), ("down", "a"));
    bench.members("a d");
    assert_eq!((bench.word("d"), &*bench.tiers()), ("down", "a"));
}

#[test]
fn pools_with_one_address_are_independent() {
    let (mut one, mut other) = (Bench::up("a b c", spec()), Bench::up("a b c", spec()));
    one.traffic("a", RESET, 5);
    one.round("b");
    one.round("b");
    one.round("b");
    assert_eq!((one.word("a"), one.word("b")), ("ejected", "down"));
    other.round("");
    assert_eq!((other.word("a"), other.word("b"), &*other.tiers()), ("serving", "serving", "a b c"));
    let signal = other.assignment("a").finish(other.now, RESET).expect("the first is worth a check");
    assert_eq!(signal.streak, 1, "its row has just begun");
}

#[test]
fn contradictions_of_checks_and_traffic_are_counted() {
    let mut bench = Bench::up("a b c", spec());
    bench.traffic("a", RESET, 5);
    for _ in 0..3 {
        bench.traffic("b", OK, 1);
        bench.traffic("c", RESET, 1);
        bench.round("b c");
    }
    let seen = |name| {
        let counts = bench.report(name).contradictions;
        (counts.passed, counts.failed)
    };
    assert_eq!([seen("a"), seen("b"), seen("c")], [(1, 0), (0, 1), (0, 0)]);
}
