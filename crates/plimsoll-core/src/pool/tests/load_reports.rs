//! Tests of load reports and overload in a pool.

use super::*;
use crate::health::OverloadSpec;
use crate::measure::LoadMetric;

fn weighing(panic_threshold: f64, max_overloaded: f64) -> PoolSpec {
    let overload = OverloadSpec { threshold: 0.9, recover: 0.7, max_overloaded };
    PoolSpec {
        health: None,
        panic_threshold,
        load: LoadSpec { max_age: SEC * 10, overload: Some(overload) },
        ..super::spec()
    }
}

impl Bench {
    fn load(&mut self, name: &str, score: f64) {
        let mut report = LoadReport::default();
        assert!(report.set(LoadMetric::Score, score));
        self.handle(Input::LoadReport { name: name.into(), report: Box::new(report) });
    }

    fn overloaded(&self) -> String {
        let reports = self.pool.reports();
        let out = reports.iter().filter(|report| report.status == Status::Overloaded);
        out.map(|report| &*report.name).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn overloaded_member_is_set_aside_until_its_load_falls() {
    let mut bench = Bench::new("a b c", weighing(0.5, 0.5));
    bench.load("b", 0.89);
    assert_eq!(bench.overloaded(), "");
    bench.load("b", 0.9);
    assert_eq!(bench.overloaded(), "b");
    assert_eq!(
        bench.lines.last().expect("a line was logged"),
        "pool api: destination b is overloaded (was serving): reported load is 90 %"
    );
    let snapshot = bench.published.last().expect("published");
    assert!(snapshot.pool_tiers.tiers[0].slots.iter().all(|slot| &*slot.name != "b"));
    bench.load("b", 0.8);
    assert_eq!(bench.overloaded(), "b", "not before it is below the lower threshold");
    bench.load("b", 0.69);
    assert_eq!(bench.overloaded(), "");
    assert!(
        bench
            .lines
            .last()
            .expect("a line was logged")
            .ends_with("serving (was overloaded): reported load is 69 %")
    );
}

#[test]
fn member_without_recent_reports_is_restored() {
    let mut bench = Bench::new("a b c", weighing(0.5, 0.5));
    bench.load("b", 1.0);
    bench.advance(SEC * 9);
    assert_eq!(bench.overloaded(), "b");
    bench.advance(SEC * 2);
    assert_eq!(bench.overloaded(), "");
    assert!(
        bench
            .lines
            .last()
            .expect("a line was logged")
            .ends_with("load reports are too old or no longer used")
    );
}

#[test]
fn reports_in_responses_are_evaluated_periodically() {
    let mut bench = Bench::new("a b", weighing(0.0, 0.5));
    let mut report = LoadReport::default();
    report.set(LoadMetric::Cpu, 0.95);
    bench.pool.snapshot().members[0].stats.reported().record(bench.now, &report);
    bench.advance(SEC);
    assert_eq!(bench.overloaded(), "a");
}

#[test]
fn most_loaded_are_set_aside_first_within_capacity() {
    let mut bench = Bench::new("a b c d", weighing(0.5, 1.0));
    for (name, score) in [("a", 0.91), ("b", 0.99), ("c", 0.95), ("d", 0.97)] {
        let mut report = LoadReport::default();
        report.set(LoadMetric::Score, score);
        let member = bench.pool.snapshot().members.iter().find(|member| &*member.destination.name == name);
        member.expect("one of them").stats.reported().record(bench.now, &report);
    }
    bench.advance(SEC);
    assert_eq!(bench.overloaded(), "b d", "half of four must be left");
    let mut bench = Bench::new("a b c d", weighing(0.0, 0.25));
    ["a", "b", "c", "d"].into_iter().for_each(|name| bench.load(name, 1.0));
    assert_eq!(bench.overloaded(), "a", "a quarter of four");
    let mut bench = Bench::new("a b", weighing(0.0, 1.0));
    ["a", "b"].into_iter().for_each(|name| bench.load(name, 1.0));
    assert_eq!(bench.overloaded(), "a", "never the last one");
    let mut single = Bench::new("a", weighing(0.0, 1.0));
    single.load("a", 1.0);
    assert_eq!(single.overloaded(), "");
}

#[test]
fn overloaded_member_is_restored_if_no_other_serves() {
    let mut bench = Bench::new("a b c", weighing(0.0, 1.0));
    bench.load("a", 0.92);
    bench.load("b", 0.99);
    assert_eq!(bench.overloaded(), "a b");
    bench.admin("c", AdminState::Maintenance);
    assert_eq!(bench.overloaded(), "b", "the one with less to do is taken back");
    assert!(bench.lines.iter().any(|line| line.contains("a is serving (was overloaded): too few other")));
}

#[test]
fn removed_overload_settings_restore_members() {
    let mut bench = Bench::new("a b c", weighing(0.5, 0.5));
    bench.load("b", 1.0);
    assert_eq!(bench.overloaded(), "b");
    bench.handle(Input::Spec(PoolSpec { load: LoadSpec::default(), ..weighing(0.5, 0.5) }));
    assert_eq!(bench.overloaded(), "");
    bench.load("b", 1.0);
    bench.advance(SEC * 2);
    assert_eq!(bench.overloaded(), "");
}
