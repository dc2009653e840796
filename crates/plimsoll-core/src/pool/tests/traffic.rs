//! Tests of outlier detection by traffic.

use super::*;

#[test]
fn consecutive_failures_eject_and_a_good_trial_restores() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 4);
    bench.traffic("a", OK, 1);
    bench.traffic("a", RESET, 4);
    assert_eq!(bench.tiers(), "a b");
    bench.traffic("a", RESET, 1);
    assert_eq!((bench.word("a"), &*bench.tiers()), ("ejected", "b"));
    bench.advance(SEC * 29);
    assert!(bench.trial(true).is_none());
    bench.advance(SEC);
    assert_eq!(bench.tiers(), "b");
    bench.try_out(OK);
    assert_eq!(bench.tiers(), "a b");
    assert_eq!(bench.assignment("a").finish(bench.now, RESET), None, "the row starts anew");
    assert_eq!(
        bench.lines,
        [
            "pool api: destination a is ejected (was serving): \
             5 messages failed in a row, last: connection reset; trial in 30s",
            "pool api: destination a is on trial: the ejection time is over, one message is sent as a trial",
            "pool api: destination a is serving (was ejected): the trial passed",
        ]
    );
}

#[test]
fn exactly_one_message_is_the_trial_and_only_a_repeatable_one_at_first() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 5);
    bench.advance(SEC * 30);
    assert!(bench.trial(false).is_none());
    bench.now += SEC;
    let held = bench.trial(false).expect("after a second anyone may");
    assert!(bench.trial(true).is_none());
    drop(held);
    let held = bench.trial(true).expect("a cancelled trial proves nothing");
    let signal =
        held.finish(bench.now, Outcome::Answered { status: 503, first_byte: SEC }).expect("a trial speaks");
    bench.handle(Input::FailureSignal(signal));
    assert!(bench.trial(true).is_none());
    bench.advance(SEC * 59);
    assert!(bench.trial(true).is_none(), "the second time is twice as long");
    bench.advance(SEC);
    assert!(bench.trial(true).is_some());
}

#[test]
fn lost_trial_is_opened_again() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 5);
    bench.advance(SEC * 30);
    let hangs = bench.trial(true).expect("open");
    bench.advance(SEC * 4);
    assert!(bench.trial(true).is_none());
    bench.advance(SEC);
    bench.try_out(OK);
    assert_eq!(bench.word("a"), "serving");
    assert_eq!(hangs.finish(bench.now, RESET), None, "it came too late to decide");
}

#[test]
fn each_of_several_trial_messages_decides() {
    for (first, word) in [(OK, "serving"), (RESET, "ejected")] {
        let mut bench = Bench::unchecked("a b");
        bench.traffic("a", RESET, 5);
        bench.advance(SEC * 30);
        let slow = bench.trial(true).expect("open");
        bench.advance(SEC * 5);
        let _slower = bench.trial(true).expect("open again");
        let signal = slow.finish(bench.now, first).expect("a trial speaks");
        assert!(signal.trial);
        bench.handle(Input::FailureSignal(signal));
        assert_eq!((bench.word("a"), bench.trial(true).is_none()), (word, true));
        assert_eq!(bench.report("a").ejections, if word == "ejected" { 2 } else { 1 });
    }
}

#[test]
fn late_results_of_old_snapshots_do_not_change_an_ejection() {
    let mut bench = Bench::unchecked("a b");
    let late: Vec<Assignment> = (0..10).map(|_| bench.assignment("a")).collect();
    bench.traffic("a", RESET, 5);
    let before = bench.report("a").ejection;
    bench.advance(SEC * 10);
    let mut late: Vec<FailureSignal> =
        late.into_iter().filter_map(|assignment| assignment.finish(bench.now, RESET)).collect();
    let very_late = late.split_off(5);
    late.into_iter().for_each(|signal| bench.handle(Input::FailureSignal(signal)));
    assert_eq!(bench.report("a").ejection, before);
    bench.advance(SEC * 20);
    bench.try_out(OK);
    very_late.into_iter().for_each(|signal| bench.handle(Input::FailureSignal(signal)));
    assert_eq!(bench.tiers(), "a b", "that row had ended");
}

#[test]
fn passed_check_ends_only_ejections_for_failed_connects() {
    for (outcomes, word) in
        [(&[REFUSED; 5], "serving"), (&[RESET, REFUSED, REFUSED, REFUSED, REFUSED], "ejected")]
    {
        let mut bench = Bench::up("a b", spec());
        outcomes.iter().for_each(|&outcome| bench.traffic("a", outcome, 1));
        assert_eq!(bench.word("a"), "ejected");
        bench.round("");
        assert_eq!(bench.word("a"), word, "{outcomes:?}");
    }
}

#[test]
fn check_sent_before_the_failures_ends_no_ejection() {
    let mut bench = Bench::up("a b", spec());
    bench.advance(SEC * 11);
    bench.now += SEC;
    bench.traffic("a", REFUSED, 5);
    bench.answer_all(true);
    assert_eq!(bench.word("a"), "ejected");
    bench.round("");
    assert_eq!(bench.word("a"), "serving");
}

#[test]
fn member_restored_by_checks_may_still_be_ejected() {
    let mut bench = Bench::up("a b", spec());
    bench.traffic("a", RESET, 5);
    let story = ["a", "a", "a", "", ""].map(|bad| {
        bench.round(bad);
        bench.word("a")
    });
    assert_eq!(story, ["ejected", "ejected", "down", "down", "ejected"]);
    bench.try_out(OK);
    assert_eq!(bench.word("a"), "serving");
}

#[test]
fn outcomes_are_ignored_while_down_or_in_maintenance() {
    let mut bench = Bench::up("a b c", spec());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("a", RESET, 9);
    bench.admin("b", AdminState::Drain);
    bench.traffic("b", RESET, 9);
    assert_eq!([bench.report("a").ejection, bench.report("b").ejection], [Ejection::None; 2]);
    bench.admin("b", AdminState::Ready);
    (0..2).for_each(|_| bench.round(""));
    bench.traffic("a", RESET, 4);
    bench.traffic("b", RESET, 4);
    assert_eq!(bench.tiers(), "a b c", "a return starts the row anew");
}

#[test]
fn ejections_stop_at_the_capacity_of_the_pool() {
    let mut bench = Bench::unchecked("a b c d");
    for name in ["a", "b", "c", "d"] {
        bench.traffic(name, RESET, 8);
    }
    assert_eq!(bench.tiers(), "c d");
    let skipped =
        "pool api: destination c failed 5 messages in a row and is not ejected: too few others would be left";
    assert_eq!(bench.lines.iter().filter(|line| *line == skipped).count(), 1, "{:?}", bench.lines);
    bench.members("a b d");
    assert_eq!(bench.tiers(), "a d", "a pool of three bears one");
}

#[test]
fn traffic_alone_never_ejects_the_last_serving_member() {
    let mut bench = Bench::up("a b", spec());
    (0..3).for_each(|_| bench.round("a"));
    bench.traffic("b", RESET, 20);
    assert_eq!(bench.tiers(), "b", "checks have the other");
    let mut bench = Bench::up("a b", spec());
    bench.traffic("a", RESET, 5);
    (0..2).for_each(|_| bench.round("b"));
    assert_eq!(bench.tiers(), "b");
    bench.admin("b", AdminState::Maintenance);
    assert_eq!(bench.tiers(), "a", "readmitted: {:?}", bench.lines);
}

#[test]
fn disabled_detection_ends_ejections() {
    let mut bench = Bench::unchecked("a b c d");
    bench.traffic("a", RESET, 5);
    let mut off = PoolSpec { health: None, ..spec() };
    off.outlier.consecutive_failures = 0;
    bench.handle(Input::Spec(off));
    assert_eq!(bench.tiers(), "a b c d");
    bench.traffic("a", RESET, 1000);
    assert_eq!(bench.tiers(), "a b c d");
}

#[test]
fn ejection_and_trial_are_one_status_since_one_time() {
    let mut bench = Bench::unchecked("a b");
    bench.traffic("a", RESET, 5);
    let since = bench.report("a").since;
    bench.advance(SEC * 30);
    assert_eq!(bench.report("a").status, Status::Ejected { until: Tick::ZERO });
    bench.try_out(RESET);
    assert_eq!((bench.report("a").since, bench.report("a").ejections), (since, 2));
}

#[test]
fn learning_compares_each_member_with_its_own_past() {
    let outlier = OutlierSpec { interval: Some(SEC * 10), latency: true, learning: true, ..spec().outlier };
    let mut bench = Bench::new("a b c", PoolSpec { health: None, outlier, ..spec() });
    let response = |ms| Outcome::Answered { status: 200, first_byte: Duration::from_millis(ms) };
    let interval = |bench: &mut Bench, a, b, c| {
        for (name, ms) in [("a", a), ("b", b), ("c", c)] {
            bench.traffic(name, response(ms), 200);
        }
        bench.advance(SEC * 10);
    };
    // Destination c is remote, but not slow enough to be an outlier among its peers at first.
    (0..8).for_each(|_| interval(&mut bench, 40, 40, 190));
    interval(&mut bench, 20, 20, 200);
    assert_eq!(bench.tiers(), "a b c", "slower than the others as ever");
    interval(&mut bench, 190, 20, 190);
    assert_eq!((bench.tiers(), bench.word("a")), ("b c".to_owned(), "ejected"));
    assert_eq!(bench.report("a").reason.expect("one").as_str(), "slower_than_usual");
    let mut shared = Bench::new("a b c", PoolSpec { health: None, outlier, ..spec() });
    (0..8).for_each(|_| interval(&mut shared, 40, 40, 40));
    interval(&mut shared, 900, 900, 900);
    assert_eq!(shared.tiers(), "a b c", "they share it");
}
