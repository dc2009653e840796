//! Tests of changes by the operator and the configuration.

use super::*;

#[test]
fn destination_without_a_known_address_is_down_and_is_not_checked() {
    let mut bench = Bench::up("a b", spec());
    let mut unresolved = destinations("a b");
    let cause = "no such name".into();
    unresolved[0].address = Address::Unresolved { name: "a.test:80".into(), cause };
    bench.handle(Input::Lookup(unresolved));
    assert_eq!(bench.word("a"), "down");
    assert!(bench.lines.last().expect("an event").contains("no known address: no such name"));
    bench.orders.clear();
    (0..3).for_each(|_| bench.round(""));
    assert_eq!(bench.report("a").last_check, None, "there is no address to check");
    bench.handle(Input::Lookup(destinations("a b")));
    assert_eq!(bench.word("a"), "serving");
    bench.round("");
    assert!(bench.report("a").last_check.is_some());
}

#[test]
fn lookup_keeps_the_weight_that_the_operator_has_set() {
    let mut bench = Bench::up("a b", spec());
    bench.handle(Input::Weight { name: "a".into(), weight: Weight::new(7) });
    bench.handle(Input::Lookup(destinations("a c*3")));
    assert_eq!((bench.report("a").weight.get(), bench.report("c").weight.get()), (7, 3));
    bench.members("a c*3");
    assert_eq!(bench.report("a").weight.get(), 1, "a reload sets the configured weight");
}

#[test]
fn member_with_the_same_name_keeps_its_state() {
    let mut bench = Bench::up("a b c", spec());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("b", RESET, 5);
    bench.admin("c", AdminState::Drain);
    let (before, seen) = (bench.pool.snapshot().clone(), bench.pool.reports());
    bench.members("c*5 b!1 a*0");
    let after = bench.pool.snapshot();
    for (old, name) in before.members.iter().zip(["a", "b", "c"]) {
        let new = after.members.iter().find(|m| &*m.destination.name == name).expect(name);
        assert!(Arc::ptr_eq(&old.stats, &new.stats), "{name}");
        assert_eq!((old.id, old.status, old.since), (new.id, new.status, new.since), "{name}");
    }
    for old in seen {
        let new = bench.report(&old.name);
        assert_eq!((new.health, new.ejection, new.last_check), (old.health, old.ejection, old.last_check));
    }
    let published = bench.published.len();
    bench.members("c*5 b!1 a*0");
    assert_eq!(bench.published.len(), published, "the same again is no news");
    bench.members("b!1 c*5 a*0");
    assert_eq!(bench.published.len(), published + 1, "the order is");
}

#[test]
fn changed_address_resets_the_state() {
    let mut bench = Bench::up("a b", spec());
    bench.traffic("a", RESET, 5);
    let id = bench.report("a").id;
    bench.advance(SEC * 11);
    let old = bench.orders.iter().find(|order| order.id == id).expect("a check is out").clone();
    bench.orders.clear();
    bench.members("a:81 b");
    assert_eq!((bench.word("a"), bench.report("a").id), ("serving", id));
    bench.answer(&old, false);
    assert_eq!(bench.word("a"), "serving", "the result was about the old address");
    let new = bench.orders.remove(0);
    assert_eq!(new.address.to_string(), "127.0.0.97:81");
    bench.answer(&new, false);
    assert_eq!(bench.word("a"), "down", "a first check counts alone");
}

#[test]
fn removal_is_published_at_once_and_its_id_is_never_reused() {
    let mut bench = Bench::up("a b", spec());
    let (id, assignment) = (bench.report("a").id, bench.assignment("a"));
    bench.advance(SEC * 11);
    let order = bench.orders.iter().find(|order| order.id == id).expect("asked").clone();
    let published = bench.published.len();
    bench.members("b");
    assert_eq!((bench.published.len(), &*bench.tiers()), (published + 1, "b"));
    bench.members("a b");
    assert_ne!(bench.report("a").id, id);
    bench.answer(&order, false);
    assignment
        .finish(bench.now, RESET)
        .into_iter()
        .for_each(|signal| bench.handle(Input::FailureSignal(signal)));
    assert_eq!(bench.tiers(), "a b");
    let expected = ["pool api: destination a removed, was serving", "pool api: destination a added, serving"];
    assert_eq!(bench.lines, expected);
}

#[test]
fn weight_zero_stops_new_messages_and_keeps_the_status() {
    let mut bench = Bench::unchecked("a b");
    bench.handle(Input::Weight { name: "a".into(), weight: Weight::new(0) });
    assert_eq!((bench.word("a"), &*bench.tiers()), ("serving", "b"));
    bench.handle(Input::Weight { name: "b".into(), weight: Weight::new(0) });
    assert_eq!(bench.tiers(), "");
    bench.handle(Input::Weight { name: "a".into(), weight: Weight::new(3) });
    assert_eq!(bench.published.last().expect("published").pool_tiers.tiers[0].slots[0].weight, 3 * 256);
}

#[test]
fn tiers_follow_priority_and_backup_setting() {
    let mut bench = Bench::up("a!2 b c!1 d", spec());
    assert_eq!(bench.tiers(), "b d | c | a");
    (0..3).for_each(|_| bench.round("bd"));
    assert_eq!(bench.tiers(), "c | a", "the backups take over");
    bench.handle(Input::Spec(PoolSpec { tiers: TierSpec { backup_tiers: false, ..spec().tiers }, ..spec() }));
    assert_eq!(bench.tiers(), "");
    (0..2).for_each(|_| bench.round(""));
    assert_eq!(bench.tiers(), "b d");
}

#[test]
fn unchanged_algorithm_keeps_its_policy() {
    let mut bench = Bench::unchecked("a b");
    let policy = |bench: &Bench| std::ptr::from_ref(&*bench.pool.policy).cast::<()>();
    let before = policy(&bench);
    bench.handle(Input::Spec(spec()));
    bench.members("a b c");
    assert_eq!(policy(&bench), before);
    bench.handle(Input::Spec(PoolSpec { algorithm: Algorithm::P2c, ..spec() }));
    assert_eq!(bench.pool.snapshot().algorithm, "p2c");
}

#[test]
fn one_input_makes_at_most_one_snapshot_which_comes_first() {
    let now = Tick::ZERO;
    let mut pool = Pool::new("api".into(), spec(), destinations("a b"), 1, Rng::new(1), now);
    pool.handle(now, Input::Members(destinations("c d e!1")));
    let actions: Vec<Action> = std::iter::from_fn(|| pool.poll_action()).collect();
    let publications = actions.iter().filter(|action| matches!(action, Action::Publish(_))).count();
    assert!(matches!(&actions[0], Action::Publish(snapshot) if snapshot.members.len() == 3));
    assert_eq!(publications, 1, "an unfetched one is replaced");
}

#[test]
fn duplicate_name_counts_once() {
    let mut bench = Bench::unchecked("a b");
    bench.members("a a*9 b");
    assert_eq!(bench.tiers(), "a b");
    assert_eq!(bench.report("a").weight, Weight::ONE);
}
