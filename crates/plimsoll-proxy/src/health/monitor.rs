//! A pool that is stats and serves nobody: the slow loop and its checks, without a data plane.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Algorithm, AlgorithmSettings};
use plimsoll_core::health::{HealthSpec, OutlierSpec};
use plimsoll_core::pool::{DestinationReport, Input, Pool, PoolSpec};
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::snapshot::TierSpec;
use plimsoll_core::{Destination, FailureSignal, Name, Rng, Tick};
use tokio::sync::{mpsc, oneshot};

use crate::base::clock::Clock;
use crate::health::driver::{CheckCounts, Driver, DriverCommand};
use crate::health::observer::{ObserverView, PoolObserver, ReportingOptions};
use crate::health::probe::ProbeTransport;
use crate::upstream::table::SnapshotCell;

/// A set of destinations whose health is monitored for as long as this lives.
#[derive(Debug)]
pub struct Monitor {
    commands: mpsc::UnboundedSender<DriverCommand>,
    /// Nobody sends messages here, and the driver need not wonder why nobody can.
    _signals: mpsc::Sender<FailureSignal>,
}

/// What a monitor has seen.
#[derive(Clone, Debug)]
pub struct MonitorView {
    /// `healthy`, `degraded` or `down`.
    pub state: &'static str,
    /// Since when.
    pub state_since: Tick,
    /// In the order given.
    pub destinations: Vec<DestinationReport>,
    /// Counts of checks, by destination.
    pub checks: HashMap<Name, CheckCounts>,
    /// Alerts and advice.
    pub observed: ObserverView,
}

impl Monitor {
    /// Begins to check `members` as `health` says. Needs a tokio runtime, on which it runs.
    pub fn start(name: &str, health: HealthSpec, members: Vec<Destination>, clock: Clock, seed: u64) -> Self {
        let name: Name = name.into();
        let (commands, from_outside) = mpsc::unbounded_channel();
        let (signals, from_nobody) = mpsc::channel(1);
        let pool = Pool::new(name.clone(), spec_of(health), members, 1, Rng::new(seed), clock.now());
        let snapshots = Arc::new(SnapshotCell::new(pool.snapshot().clone()));
        let options = ReportingOptions { alerting: true, quality: false };
        let driver = Driver {
            pool,
            commands: from_outside,
            signals: from_nobody,
            transport: ProbeTransport::default(),
            snapshots,
            budget: Arc::new(RetryBudget::new(0.0, 1)),
            clock,
            observer: PoolObserver::new(name, options, clock),
            resource_starved: false,
        };
        tokio::spawn(driver.run());
        Self { commands, _signals: signals }
    }

    /// Monitors these from now on, so; whoever stays keeps what is known of it.
    pub fn update(&self, health: HealthSpec, members: Vec<Destination>) {
        for input in [Input::Spec(spec_of(health)), Input::Members(members)] {
            let _driver_has_ended = self.commands.send(DriverCommand::Input(Box::new(input)));
        }
    }

    /// What was seen, once every destination has been checked or `timeout` is over; `None` where the monitor
    /// has ended. The future holds no monitor: it may be waited for after this one is gone.
    pub fn report(&self, timeout: Duration) -> impl Future<Output = Option<MonitorView>> + Send + 'static {
        let commands = self.commands.downgrade();
        let (ask, checked) = oneshot::channel();
        let _driver_has_ended = self.commands.send(DriverCommand::Checked(ask));
        async move {
            let _told_as_unchecked = tokio::time::timeout(timeout, checked).await;
            let (ask, answer) = oneshot::channel();
            commands.upgrade()?.send(DriverCommand::Report(ask)).ok()?;
            let report = answer.await.ok()?;
            Some(MonitorView {
                state: report.state,
                state_since: report.state_since,
                destinations: report.destinations,
                checks: report.checks,
                observed: report.observed,
            })
        }
    }
}

/// Checks alone decide, and whom nobody else could stand in for is told like any other: nothing is sent to it.
fn spec_of(health: HealthSpec) -> PoolSpec {
    PoolSpec {
        algorithm: Algorithm::RoundRobin,
        settings: AlgorithmSettings::default(),
        health: Some(health),
        parallel_checks: true,
        outlier: OutlierSpec {
            consecutive_failures: 0,
            base_ejection: Duration::ZERO,
            max_ejection: Duration::ZERO,
            interval: None,
            unresponsive_after: None,
            learning: false,
            max_ejected: 0.0,
        },
        tiers: TierSpec::default(),
        slow_start: None,
        panic_threshold: 0.0,
        recovery: false,
        keep_only_member: false,
        load: Default::default(),
        limits: Default::default(),
    }
}
