//! Tests of health checks in a pool: effects and times.

use super::*;

#[test]
fn pool_starts_serving_and_checks_at_once() {
    let bench = Bench::new("a b c", spec());
    assert_eq!(bench.published.len(), 1);
    assert_eq!(bench.tiers(), "a b c");
    assert_eq!(bench.orders.len(), 3);
    assert!(bench.lines.is_empty());
    fn is_send<T: Send>(_: &T) {}
    is_send(&bench.pool);
}

#[test]
fn first_check_takes_out_by_one_failure_and_later_ones_by_three() {
    let mut bench = Bench::new("a b", spec());
    let order = bench.orders.remove(0);
    bench.answer(&order, false);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("down", "b"));
    bench.answer_all(true);
    bench.round("");
    assert_eq!(bench.tiers(), "b", "one pass is not enough");
    bench.round("");
    assert_eq!(bench.tiers(), "a b");
    bench.round("a");
    bench.round("a");
    assert_eq!(bench.tiers(), "a b");
    bench.round("a");
    assert_eq!(bench.tiers(), "b");
    assert_eq!(
        bench.lines,
        [
            "pool api: destination a is down (was serving): a check failed: connection refused",
            "pool api: destination a is serving (was down): 2 checks passed in a row",
            "pool api: destination a is down (was serving): \
             3 checks failed in a row, last: connection refused",
        ]
    );
    let report = bench.report("a");
    assert_eq!((report.health, report.consecutive_failures), (Health::Down, 3));
    assert!(report.last_check.is_some_and(|check| !check.ok && check.detail() == "connection refused"));
}

#[test]
fn no_serving_destination_is_reported_at_once() {
    let mut bench = Bench::new("a b", spec());
    bench.answer_all(false);
    assert_eq!(bench.tiers(), "");
    let picked = balance_load(bench.pool.snapshot(), &PickRequest::default(), bench.now, &mut Rng::new(1));
    assert_eq!(picked.err(), Some(NoDestination::NoneServing));
}

#[test]
fn only_member_always_serves_until_another_is_added() {
    let mut bench = Bench::new("a", spec());
    bench.answer_all(false);
    bench.traffic("a", RESET, 20);
    assert_eq!(bench.tiers(), "a");
    assert_eq!(bench.report("a").health, Health::Down);
    bench.members("a b");
    assert_eq!(bench.tiers(), "b");
    bench.members("a");
    assert_eq!((bench.word("a"), &*bench.tiers()), ("serving", "a"));
    assert_eq!(
        bench.lines.last().expect("a line was logged"),
        "pool api: destination a is serving (was down): it is the only destination of the pool"
    );
}

#[test]
fn draining_member_is_checked_and_one_in_maintenance_is_not() {
    let mut bench = Bench::up("a b c", spec());
    bench.admin("a", AdminState::Drain);
    bench.admin("b", AdminState::Maintenance);
    assert_eq!((bench.word("a"), bench.word("b"), &*bench.tiers()), ("draining", "maintenance", "c"));
    bench.advance(SEC * 60);
    let asked: Vec<&str> = bench.orders.iter().map(|order| &*order.name).collect();
    assert_eq!(asked.len(), 2);
    assert!(!asked.contains(&"b"));
    bench.orders.clear();
    bench.admin("b", AdminState::Ready);
    assert_eq!(bench.tiers(), "b c", "it serves at once");
    bench.answer_all(false);
    assert_eq!(bench.tiers(), "c", "and its first check counts alone");
}

#[test]
fn disabled_checks_discard_results_and_enabled_ones_start_again() {
    let mut bench = Bench::new("a b", spec());
    bench.answer_all(false);
    bench.advance(SEC * 11);
    let out = mem::take(&mut bench.orders);
    bench.handle(Input::Spec(PoolSpec { health: None, ..spec() }));
    assert_eq!(bench.tiers(), "a b");
    bench.answer(&out[0], false);
    assert_eq!((bench.report("a").health, bench.pool.poll_timeout().is_some()), (Health::Unknown, true));
    bench.answer(&out[1], false);
    assert_eq!(bench.pool.poll_timeout(), None);
    bench.handle(Input::Spec(spec()));
    assert_eq!(bench.orders.len(), 2);
}

#[test]
fn changed_checks_run_at_once_and_keep_the_health() {
    let mut bench = Bench::new("a b", spec());
    bench.answer_all(false);
    let health = Some(HealthSpec { port: Some(9000), ..checks() });
    bench.handle(Input::Spec(PoolSpec { health, ..spec() }));
    assert_eq!(bench.tiers(), "");
    let asked: Vec<String> = bench.orders.iter().map(|order| order.address.to_string()).collect();
    assert_eq!(asked, ["127.0.0.97:9000", "127.0.0.98:9000"]);
}

#[test]
fn sequential_checks_run_one_at_a_time() {
    let mut bench = Bench::new("a b c", PoolSpec { parallel_checks: false, ..spec() });
    let mut asked = Vec::new();
    for _ in 0..6 {
        assert_eq!(bench.orders.len(), 1);
        let order = bench.orders.remove(0);
        asked.push(order.name.to_string());
        bench.answer(&order, true);
        if bench.orders.is_empty() {
            bench.advance(SEC * 11);
        }
    }
    asked[3..].sort();
    assert_eq!(asked, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn lost_check_is_sent_again_and_blocks_no_other() {
    let mut bench = Bench::new("a b", PoolSpec { parallel_checks: false, ..spec() });
    let lost = bench.orders.remove(0);
    bench.advance(SEC * 10);
    assert!(bench.orders.is_empty());
    bench.advance(SEC);
    assert_eq!(bench.orders.remove(0).name, "b".into());
    bench.answer(&lost, false);
    assert_eq!(bench.word("a"), "serving", "its time is over");
}

#[test]
fn first_checks_of_many_members_are_spread() {
    let now = Tick::ZERO;
    let crowd =
        (0..5000).map(|n: u16| Destination::new(&n.to_string(), Address::Socket(([127, 0, 0, 1], n).into())));
    let mut pool = Pool::new("api".into(), spec(), crowd.collect(), 1, Rng::new(1), now);
    let probes = |pool: &mut Pool| {
        std::iter::from_fn(|| pool.poll_action()).filter(|a| matches!(a, Action::Probe(_))).count()
    };
    assert_eq!(probes(&mut pool), 64);
    pool.handle_timeout(now + Duration::from_millis(1));
    assert_eq!(probes(&mut pool), 64);
    pool.handle_timeout(now + Duration::from_millis(100));
    assert_eq!(probes(&mut pool), CheckSchedule::MAX_CONCURRENT - 128, "no more sockets than that");
}

#[test]
fn unfetched_request_is_withdrawn_when_its_member_is_removed() {
    let now = Tick::ZERO;
    let mut pool = Pool::new("api".into(), spec(), destinations("a b"), 1, Rng::new(1), now);
    pool.handle(now, Input::Members(destinations("b:81")));
    let orders: Vec<String> = std::iter::from_fn(|| pool.poll_action())
        .filter_map(|action| match action {
            Action::Probe(order) => Some(format!("{} {}", order.name, order.address)),
            _ => None,
        })
        .collect();
    assert_eq!(orders, ["b 127.0.0.98:81"]);
}
