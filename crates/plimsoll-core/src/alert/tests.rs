//! Alerts of a pool in virtual time, and the limits of what is kept.

use std::time::Duration;

use super::*;
use crate::balance::Algorithm;
use crate::balance::PickRequest;
use crate::destination::{Address, AdminState, Destination};
use crate::health::{HealthSpec, OutlierSpec, ProbeKind, ProbeResult};
use crate::outcome::{Failure, Outcome};
use crate::pool::{Action, Input, Pool};
use crate::rng::Rng;
use crate::snapshot::balance_load;

const SEC: Duration = Duration::from_secs(1);

fn spec() -> PoolSpec {
    PoolSpec {
        health: Some(HealthSpec {
            check_interval: SEC * 10,
            timeout: SEC,
            failure_threshold: 3,
            recovery_threshold: 2,
            probe: ProbeKind::Tcp,
            probe_if_unresponsive: None,
            port: None,
            schedule: Default::default(),
        }),
        outlier: OutlierSpec {
            consecutive_failures: 2,
            max_ejected: 1.0,
            ..OutlierSpec::CONSECUTIVE_FAILURES
        },
        ..PoolSpec::new(Algorithm::RoundRobin)
    }
}

/// A pool and its alerts, driven as the proxy's driver does.
struct World {
    now: Tick,
    pool: Pool,
    alerts: Alerts,
    flaps: FlapDetector,
    /// Whether each destination passes its checks.
    up: Vec<bool>,
    changes: Vec<String>,
}

impl World {
    fn new(count: usize, spec: PoolSpec) -> Self {
        let member = |n: usize| {
            Destination::new(&format!("d{n}"), Address::Socket(([127, 0, 0, 1], 9000 + n as u16).into()))
        };
        let members = (0..count).map(member).collect();
        let pool = Pool::new("api".into(), spec, members, 1, Rng::new(7), Tick::ZERO);
        let alerts = Alerts::new("api".into(), 1);
        let mut world = Self {
            now: Tick::ZERO,
            pool,
            alerts,
            flaps: FlapDetector::default(),
            up: vec![true; count],
            changes: Vec::new(),
        };
        world.act();
        world
    }

    fn act(&mut self) {
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Probe(order) => {
                    let n: usize = order.name[1..].parse().expect("a number");
                    let result = match self.up[n] {
                        true => ProbeResult::Passed { latency: Duration::from_millis(1) },
                        false => ProbeResult::Failed("refused".into()),
                    };
                    self.pool.handle(self.now, Input::Probed { id: order.id, result });
                }
                Action::Emit(event) => {
                    self.flaps.on_event(self.now, &event);
                    self.alerts.on_event(self.now, &event, self.pool.spec());
                }
                Action::Publish(_) => {}
            }
        }
        let panics = self.pool.is_in_panic(self.now);
        self.alerts.evaluate(self.now, self.pool.snapshot(), self.pool.spec(), panics, &self.flaps);
        while let Some(alert) = self.alerts.poll_change() {
            let sign = if alert.cleared_at.is_some() { '-' } else { '+' };
            self.changes.push(format!("{sign}{} {}", alert.kind.as_str(), alert.subject));
        }
    }

    fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now += SEC;
            self.pool.handle_timeout(self.now);
            self.act();
        }
    }

    /// Sends one message with this outcome.
    fn message(&mut self, outcome: Outcome) {
        let snapshot = self.pool.snapshot().clone();
        let want = PickRequest { repeatable: true, ..PickRequest::default() };
        if let Ok(assignment) = balance_load(&snapshot, &want, self.now, &mut Rng::new(1))
            && let Some(signal) = assignment.finish(self.now, outcome)
        {
            self.pool.handle(self.now, Input::FailureSignal(signal));
        }
        self.act();
    }

    fn take_changes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.changes)
    }
}

#[test]
fn an_outage_raises_one_alert_which_is_cleared_afterwards() {
    let mut world = World::new(2, spec());
    world.run(SEC * 30);
    assert_eq!(world.take_changes(), [""; 0]);
    world.up[0] = false;
    world.run(SEC * 300);
    assert_eq!(world.take_changes(), ["+destination_down d0", "+pool_degraded api"]);
    let down =
        world.alerts.all().find(|alert| alert.kind == AlertKind::DestinationDown).expect("active").clone();
    assert_eq!((down.value, down.threshold), (Some(3.0), Some(3.0)));
    assert!(down.message.contains("last: refused"), "{}", down.message);
    world.up[0] = true;
    world.run(SEC * 60);
    assert_eq!(world.take_changes(), ["-destination_down d0", "-pool_degraded api"]);
    let over: Vec<_> = world.alerts.all().collect();
    assert_eq!((over.len(), over[0].kind), (2, AlertKind::PoolDegraded));
    assert!(over.iter().all(|alert| alert.cleared_at > Some(alert.raised_at)));
    assert_eq!(world.alerts.active(), [0; AlertKind::ALL.len()]);
    assert_eq!(world.alerts.raised()[AlertKind::DestinationDown as usize], 1);
}

#[test]
fn a_pool_without_serving_destinations_is_down_and_no_longer_degraded() {
    let mut world = World::new(2, spec());
    world.run(SEC * 5);
    world.up = vec![false, false];
    world.run(SEC * 120);
    let changes = world.take_changes();
    assert!(
        changes.contains(&"-pool_degraded api".into()) && changes.contains(&"+pool_down api".into()),
        "{changes:?}"
    );
    assert_eq!(
        world.alerts.all().next().map(|alert| alert.kind),
        Some(AlertKind::PoolDown),
        "the most severe first"
    );
    world.up[1] = true;
    world.run(SEC * 60);
    assert_eq!(world.take_changes(), ["-destination_down d1", "-pool_down api", "+pool_degraded api"]);
}

#[test]
fn maintenance_raises_no_alert_and_clears_one() {
    let mut world = World::new(3, spec());
    world.run(SEC * 5);
    let admin = |name: &str| Input::Admin { name: name.into(), state: AdminState::Maintenance };
    world.pool.handle(world.now, admin("d2"));
    world.act();
    assert_eq!(world.take_changes(), [""; 0]);
    world.up[0] = false;
    world.run(SEC * 60);
    assert_eq!(world.take_changes(), ["+destination_down d0", "+pool_degraded api"]);
    world.pool.handle(world.now, admin("d0"));
    world.act();
    assert_eq!(world.take_changes(), ["-destination_down d0", "-pool_degraded api"]);
}

#[test]
fn ejections_and_failed_trials_raise_alerts_until_a_trial_passes() {
    let mut spec = spec();
    spec.health = None;
    let mut world = World::new(2, spec);
    let bad = Outcome::Answered { status: 500, first_byte: Duration::ZERO };
    let good = Outcome::Answered { status: 200, first_byte: Duration::ZERO };
    for outcome in [bad, good, bad] {
        world.message(outcome);
    }
    assert_eq!(world.take_changes(), ["+destination_ejected d0", "+pool_degraded api"]);
    world.run(SEC * 31);
    world.message(bad);
    assert_eq!(world.take_changes(), ["+recovery_failed d0"]);
    world.run(SEC * 61);
    world.message(bad);
    assert_eq!(world.take_changes(), [""; 0], "the alert is active already");
    let failed = world.alerts.all().find(|alert| alert.kind == AlertKind::RecoveryFailed).expect("active");
    assert_eq!(failed.value, Some(2.0), "two trials");
    world.run(SEC * 91);
    world.message(good);
    assert_eq!(
        world.take_changes(),
        ["-destination_ejected d0", "-recovery_failed d0", "-pool_degraded api"]
    );
}

#[test]
fn skipped_ejections_raise_the_panic_alert_for_a_while() {
    let mut spec = spec();
    (spec.health, spec.panic_threshold) = (None, 1.0);
    let mut world = World::new(2, spec);
    let bad = Outcome::Failed(Failure::Reset);
    for _ in 0..4 {
        world.message(bad);
    }
    assert_eq!(world.take_changes(), ["+pool_panic api"]);
    world.run(SEC * 59);
    assert_eq!(world.take_changes(), [""; 0]);
    world.run(SEC * 2);
    assert_eq!(world.take_changes(), ["-pool_panic api"]);
}

#[test]
fn a_destination_that_fails_three_times_flaps_until_it_is_stable() {
    let mut world = World::new(2, spec());
    world.run(SEC * 5);
    for _ in 0..3 {
        world.up[0] = false;
        world.run(SEC * 35);
        world.up[0] = true;
        world.run(SEC * 30);
    }
    let changes = world.take_changes();
    assert_eq!(changes.iter().filter(|line| *line == "+destination_flapping d0").count(), 1, "{changes:?}");
    world.run(SEC * 400);
    assert_eq!(world.take_changes(), ["-destination_flapping d0"]);
}

#[test]
fn an_alert_is_acknowledged_once_and_cleared_with_its_destination() {
    let mut world = World::new(2, spec());
    world.up[0] = false;
    world.run(SEC * 60);
    let id = world.alerts.all().next().expect("active").id;
    assert_eq!(
        world.alerts.acknowledge(id, "anna").and_then(|a| a.acknowledged_by.clone()),
        Some("anna".into())
    );
    assert_eq!(
        world.alerts.acknowledge(id, "bert").and_then(|a| a.acknowledged_by.clone()),
        Some("anna".into())
    );
    assert_eq!(world.alerts.acknowledge(9999, "anna"), None);
    world.take_changes();
    world.pool.handle(world.now, Input::Members(Vec::new()));
    world.act();
    let changes = world.take_changes();
    assert!(changes.contains(&"-destination_down d0".into()), "{changes:?}");
}

#[test]
fn alerts_are_bounded_and_those_about_the_pool_always_raised() {
    let mut alerts = Alerts::new("api".into(), 1);
    let (spec, flaps) = (spec(), FlapDetector::default());
    let change = |n: usize, to| Event::StatusChanged {
        pool: "api".into(),
        destination: format!("d{n}").into(),
        from: Status::Serving,
        to,
        reason: Reason::ChecksFailed { count: 3, failure: None },
    };
    for n in 0..ACTIVE_MAX + 10 {
        alerts.on_event(Tick::ZERO, &change(n, Status::Down), &spec);
    }
    assert_eq!((alerts.lost(), alerts.active()[0]), (10, ACTIVE_MAX as u64));
    let empty = Snapshot::build("api".into(), 1, &*Algorithm::RoundRobin.policy(1), Vec::new());
    alerts.evaluate(Tick::ZERO, &empty, &spec, true, &flaps);
    assert_eq!(
        (alerts.active()[AlertKind::PoolDown as usize], alerts.active()[AlertKind::PoolPanic as usize]),
        (1, 1)
    );
    for n in 0..ACTIVE_MAX {
        alerts.on_event(Tick::ZERO, &change(n, Status::Serving), &spec);
    }
    assert_eq!(alerts.all().count(), PAST_MAX + 2);
    let mut ids: Vec<u64> = alerts.all().map(|alert| alert.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), PAST_MAX + 2, "numbers are unique");
}

#[test]
fn value_and_message_of_an_active_alert_follow_its_cause() {
    let mut world = World::new(3, spec());
    world.up[0] = false;
    world.run(SEC * 60);
    let find =
        |world: &World, kind| world.alerts.all().find(|alert| alert.kind == kind).expect("active").clone();
    assert!(find(&world, AlertKind::PoolDegraded).message.contains("2 of 3"));
    world.up[1] = false;
    world.run(SEC * 60);
    let degraded = find(&world, AlertKind::PoolDegraded);
    assert!(degraded.message.contains("1 of 3"), "{}", degraded.message);
    assert!(degraded.value < Some(0.34), "{:?}", degraded.value);
    world.alerts.update_failed_checks(&"d0".into(), 12, "timeout");
    let down = find(&world, AlertKind::DestinationDown);
    assert_eq!(down.value, Some(12.0));
    assert!(down.message.ends_with("12 checks failed in a row, last: timeout"), "{}", down.message);
}

#[test]
fn a_pool_is_down_if_no_message_can_be_sent_whatever_the_statuses_are() {
    let mut world = World::new(2, spec());
    let members = |weights: [u16; 2], priorities: [u8; 2]| {
        let member = |n: usize| Destination {
            weight: crate::destination::Weight::new(weights[n]),
            priority: priorities[n],
            ..Destination::new(&format!("d{n}"), Address::Socket(([127, 0, 0, 1], 9000 + n as u16).into()))
        };
        Input::Members(vec![member(0), member(1)])
    };
    world.pool.handle(world.now, members([0, 0], [0, 0]));
    world.run(SEC);
    assert_eq!(world.pool.snapshot().health.state(), "down");
    assert!(world.take_changes().contains(&"+pool_down api".to_owned()));
    world.pool.handle(world.now, members([1, 0], [0, 0]));
    world.run(SEC);
    assert_eq!(world.pool.snapshot().health.state(), "healthy", "a weight of 0 is the operator's decision");
    assert!(world.take_changes().contains(&"-pool_down api".to_owned()));

    // The first tier fails: its backup takes over, or must not.
    world.pool.handle(world.now, members([1, 1], [0, 1]));
    world.up[0] = false;
    world.run(SEC * 60);
    let health = world.pool.snapshot().health;
    assert_eq!((health.state(), health.serving, health.backup_in_use), ("degraded", 1, true));
    assert!(world.take_changes().contains(&"+backup_in_use api".to_owned()));
    let off =
        PoolSpec { tiers: crate::snapshot::TierSpec { backup_tiers: false, ..Default::default() }, ..spec() };
    world.pool.handle(world.now, Input::Spec(off));
    world.run(SEC);
    let health = world.pool.snapshot().health;
    assert_eq!((health.state(), health.serving, health.backup_in_use), ("down", 0, false));
    let changes = world.take_changes();
    assert!(
        changes.contains(&"+pool_down api".to_owned()) && changes.contains(&"-backup_in_use api".to_owned())
    );
}

#[test]
fn a_subset_without_destinations_degrades_the_pool() {
    use crate::subset::{Fallback, Subset};
    let labels = vec![("version".into(), "2".into())];
    let with = |fallback| PoolSpec {
        tiers: crate::snapshot::TierSpec {
            subsets: vec![std::sync::Arc::new(Subset::new(labels.clone(), fallback))],
            ..Default::default()
        },
        ..spec()
    };
    let mut world = World::new(2, with(Fallback::None));
    assert_eq!(world.pool.snapshot().health.state(), "degraded");
    let alert = world.alerts.all().next().expect("raised");
    assert_eq!(alert.kind, AlertKind::PoolDegraded);
    assert!(alert.message.contains("none of the subset version=2"), "{}", alert.message);
    world.pool.handle(world.now, Input::Spec(with(Fallback::Any)));
    world.run(SEC);
    assert_eq!(world.pool.snapshot().health.state(), "healthy");
}
