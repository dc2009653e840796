//! Health monitoring without a data plane: the slow loop of a pool that serves no requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::health::{HealthSpec, OutlierSpec};
use plimsoll_core::pool::{DestinationReport, Input, Pool, PoolSpec};
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::{Destination, FailureSignal, Name, Rng, Tick};
use tokio::sync::{mpsc, oneshot};

use crate::base::clock::Clock;
use crate::health::driver::{CheckCounts, Driver, DriverCommand};
use crate::health::observer::{ObserverView, PoolObserver, ReportingOptions};
use crate::health::probe::ProbeConfig;
use crate::upstream::table::SnapshotCell;

/// Monitors the health of a set of destinations until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    commands: mpsc::UnboundedSender<DriverCommand>,
    snapshots: Arc<SnapshotCell>,
    /// Keeps the driver's signal channel open; nothing is sent to it.
    _signals: mpsc::Sender<FailureSignal>,
}

/// Present statuses of monitored destinations.
#[derive(Clone, Debug)]
pub struct MonitoredStatuses {
    commands: mpsc::WeakUnboundedSender<DriverCommand>,
    snapshots: Arc<SnapshotCell>,
}

impl MonitoredStatuses {
    /// Returns a number that grows with each change; `None` once the monitor has ended.
    pub fn generation(&self) -> Option<u64> {
        self.commands.upgrade().map(|_| self.snapshots.generation())
    }

    /// Returns the names of the destinations that do not serve.
    pub fn unavailable(&self) -> Vec<Name> {
        let snapshot = self.snapshots.latest();
        let members = snapshot.members.iter().filter(|member| !member.status.serves());
        members.map(|member| member.destination.name.clone()).collect()
    }
}

/// State of a monitored set of destinations.
#[derive(Clone, Debug)]
pub struct MonitorView {
    /// State of the set: `healthy`, `degraded` or `down`.
    pub state: &'static str,
    /// Time of the latest change of `state`.
    pub state_since: Tick,
    /// Reports of the destinations, in the given order.
    pub destinations: Vec<DestinationReport>,
    /// Check counts by destination.
    pub checks: HashMap<Name, CheckCounts>,
    /// Alerts and recommendations.
    pub observed: ObserverView,
}

impl Monitor {
    /// Starts to check `members`, on the current tokio runtime.
    pub fn start(name: &str, health: HealthSpec, members: Vec<Destination>, clock: Clock, seed: u64) -> Self {
        let name: Name = name.into();
        let (commands, receiver) = mpsc::unbounded_channel();
        let (signals, no_signals) = mpsc::channel(1);
        let pool = Pool::new(name.clone(), spec_of(health), members, 1, Rng::new(seed), clock.now());
        let snapshots = Arc::new(SnapshotCell::new(pool.snapshot().clone()));
        let options = ReportingOptions { alerting: true, quality: false };
        let driver = Driver {
            pool,
            commands: receiver,
            signals: no_signals,
            probes: ProbeConfig::default(),
            snapshots: snapshots.clone(),
            budget: Arc::new(RetryBudget::new(0.0, 1)),
            clock,
            observer: PoolObserver::new(name, options, clock),
            resource_starved: false,
        };
        tokio::spawn(driver.run());
        Self { commands, snapshots, _signals: signals }
    }

    /// Returns access to the present statuses, which ends with the monitor.
    pub fn statuses(&self) -> MonitoredStatuses {
        MonitoredStatuses { commands: self.commands.downgrade(), snapshots: self.snapshots.clone() }
    }

    /// Replaces the checks and the destinations. Destinations that stay keep their state.
    pub fn update(&self, health: HealthSpec, members: Vec<Destination>) {
        for input in [Input::Spec(spec_of(health)), Input::Members(members)] {
            let _driver_has_ended = self.commands.send(DriverCommand::Input(Box::new(input)));
        }
    }

    /// Reports the state once every destination was checked or `timeout` has passed; `None` if the monitor has ended.
    ///
    /// The future does not borrow the monitor, so it can be awaited after the monitor was dropped.
    pub fn report(&self, timeout: Duration) -> impl Future<Output = Option<MonitorView>> + Send + 'static {
        let commands = self.commands.downgrade();
        let (reply, checked) = oneshot::channel();
        let _driver_has_ended = self.commands.send(DriverCommand::Checked(reply));
        async move {
            let _reported_as_unchecked = tokio::time::timeout(timeout, checked).await;
            let (reply, report) = oneshot::channel();
            commands.upgrade()?.send(DriverCommand::Report(reply)).ok()?;
            let report = report.await.ok()?;
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

/// Returns a specification by which health checks alone decide, without panic threshold and outlier detection.
fn spec_of(health: HealthSpec) -> PoolSpec {
    PoolSpec {
        health: Some(health),
        outlier: OutlierSpec::OFF,
        keep_only_member: false,
        ..PoolSpec::new(Algorithm::RoundRobin)
    }
}
