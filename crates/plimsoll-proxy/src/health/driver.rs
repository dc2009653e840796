//! The slow loop of one pool: drives its state machine, runs its checks and publishes its snapshots.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::alert::Alert;
use plimsoll_core::event::{Event, Reason};
use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
use plimsoll_core::pool::{Action, DestinationReport, Input, Pool, ProbeResult};
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::stats::{BUCKETS_US, Counts};
use plimsoll_core::{DestinationId, FailureSignal, Name, Snapshot, Status, Tick};
use tokio::sync::{mpsc, oneshot};

use crate::base::clock::Clock;
use crate::health::check_thread;
use crate::health::observer::{ObserverView, PoolObserver, ReportingOptions};
use crate::health::probe::{self, ProbeConfig};
use crate::upstream::table::SnapshotCell;

/// Queue size of failure signals from workers. The next bad outcome repeats a lost signal.
pub(crate) const SIGNAL_QUEUE: usize = 1024;

/// Counts of a destination's active checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// Number of passed checks.
    pub passed: u64,
    /// Number of failed checks.
    pub failed: u64,
    /// Failed checks by layer and kind.
    pub failures: BTreeMap<(CheckLayer, CheckFailureKind), u64>,
    /// Number of checks that were not made because this process or machine lacked resources.
    pub not_made: u64,
    /// Total duration of passed checks.
    pub passed_time: Duration,
    /// Latest `recent_count` results, one bit each, 1 = passed.
    recent: u32,
    recent_count: u32,
}

impl CheckCounts {
    /// Returns the share of the last 32 checks that passed, 0 to 1; `None` before the first check.
    pub fn score(&self) -> Option<f64> {
        let passed = f64::from(self.recent.count_ones());
        (self.recent_count > 0).then(|| passed / f64::from(self.recent_count))
    }

    fn record(&mut self, passed: bool) {
        self.recent = self.recent << 1 | u32::from(passed);
        self.recent_count = (self.recent_count + 1).min(u32::BITS);
    }
}

/// Histogram of durations: counts by upper bound, and the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationHistogram<const N: usize> {
    /// Count of each bucket; the last one is for durations above all bounds.
    pub buckets: [u64; N],
    /// Sum of all durations.
    pub sum: Duration,
}

impl<const N: usize> Default for DurationHistogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], sum: Duration::ZERO }
    }
}

impl<const N: usize> DurationHistogram<N> {
    /// Counts a duration; the bounds are in the given unit.
    fn record(&mut self, span: Duration, bounds: &[u64], unit: Duration) {
        let units = span.as_nanos().div_ceil(unit.as_nanos());
        let bucket = bounds.partition_point(|&bound| u128::from(bound) < units);
        self.buckets[bucket.min(N - 1)] += 1;
        self.sum += span;
    }
}

/// Upper bounds of the outage duration buckets, in milliseconds.
pub const OUTAGES_MS: [u64; 11] =
    [1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000];

/// Statistics of a pool's checks and recoveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckStats {
    /// Durations of checks that passed.
    pub passed: DurationHistogram<{ BUCKETS_US.len() + 1 }>,
    /// Durations of checks that failed.
    pub failed: DurationHistogram<{ BUCKETS_US.len() + 1 }>,
    /// Durations of outages: from the failure of a destination until it served again.
    pub outages: DurationHistogram<{ OUTAGES_MS.len() + 1 }>,
    /// Number of destinations that recovered.
    pub recovered: u64,
    /// Number of failed trials.
    pub relapsed: u64,
}

/// State and statistics of a pool, beside its snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolReport {
    pub(crate) destinations: Vec<DestinationReport>,
    pub(crate) checks: HashMap<Name, CheckCounts>,
    /// Status changes of each destination, by the names of both statuses.
    pub(crate) transitions: HashMap<Name, BTreeMap<(&'static str, &'static str), u64>>,
    /// Statistics of checks and recoveries, including removed destinations.
    pub(crate) check_stats: CheckStats,
    /// Start of the current outage of each failed destination.
    failed_at: HashMap<Name, Tick>,
    /// Ejections by reason, including removed destinations.
    pub(crate) ejections: BTreeMap<&'static str, u64>,
    /// State of the pool: `healthy`, `degraded` or `down`.
    pub(crate) state: &'static str,
    pub(crate) state_since: Tick,
    /// Whether destinations of a backup tier get messages.
    backup_in_use: bool,
    /// Number of times that a backup tier began to get messages.
    pub(crate) backup_activations: u64,
    pub(crate) observed: ObserverView,
    /// Counts at the start of the window of the performance metrics.
    pub(crate) window: Arc<WindowStart>,
}

/// Counts of all destinations at one time.
#[derive(Debug, Default)]
pub(crate) struct WindowStart {
    pub(crate) at: Tick,
    pub(crate) counts: HashMap<DestinationId, Counts>,
}

/// Starts of the windows to come: one each [`WINDOW_STEP`]. The window of the performance metrics begins at the oldest.
#[derive(Debug, Default)]
struct Windows(VecDeque<Arc<WindowStart>>);

impl Windows {
    /// Returns the start of the window: a minute ago and at most a step longer, or the start of the pool.
    fn start(&self) -> Arc<WindowStart> {
        self.0.front().cloned().unwrap_or_default()
    }

    /// Keeps the present counts, if a step has passed since the latest.
    fn advance(&mut self, now: Tick, snapshot: &Snapshot) {
        if self.0.back().is_some_and(|latest| now.since(latest.at) < WINDOW_STEP) {
            return;
        }
        let counts = snapshot.members.iter().map(|member| (member.id, member.stats.counts())).collect();
        self.0.push_back(Arc::new(WindowStart { at: now, counts }));
        while self.0.get(1).is_some_and(|second| now.since(second.at) >= WINDOW) {
            self.0.pop_front();
        }
    }
}

/// Minimum length of the window of the performance metrics.
const WINDOW: Duration = Duration::from_secs(60);
/// Time between two possible starts of the window.
const WINDOW_STEP: Duration = Duration::from_secs(15);

/// Command of the control plane to a driver.
pub(crate) enum DriverCommand {
    Input(Box<Input>),
    Probes(ProbeConfig),
    Reporting(ReportingOptions),
    Report(oneshot::Sender<PoolReport>),
    /// Replies when every destination was checked.
    Checked(oneshot::Sender<()>),
    /// Acknowledges an alert.
    Acknowledge {
        id: u64,
        by: String,
        reply: oneshot::Sender<Option<Alert>>,
    },
}

/// Slow loop of one pool.
pub(crate) struct Driver {
    pub(crate) pool: Pool,
    pub(crate) commands: mpsc::UnboundedReceiver<DriverCommand>,
    pub(crate) signals: mpsc::Receiver<FailureSignal>,
    /// Transport and check of the active checks.
    pub(crate) probes: ProbeConfig,
    pub(crate) snapshots: Arc<SnapshotCell>,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) clock: Clock,
    pub(crate) observer: PoolObserver,
    /// Whether the latest check was not made because a resource was exhausted.
    pub(crate) resource_starved: bool,
}

struct Probed {
    id: DestinationId,
    name: Name,
    result: ProbeResult,
    took: Duration,
}

impl Driver {
    /// Runs until the command channel is closed.
    pub(crate) async fn run(mut self) {
        let (probed, mut results) = mpsc::unbounded_channel::<Probed>();
        let mut report = PoolReport::default();
        let mut check_waiters: Vec<oneshot::Sender<()>> = Vec::new();
        self.update_state(&self.snapshots.latest(), &mut report);
        let mut windows = Windows::default();
        windows.advance(self.clock.now(), &self.snapshots.latest());
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.run_actions(&probed, &mut report);
            if !check_waiters.is_empty() && self.all_checked(&report) {
                for receiver in check_waiters.drain(..) {
                    let _receiver_dropped = receiver.send(());
                }
            }
            let wait = self.pool.poll_timeout().map(|at| at.since(self.clock.now()));
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(DriverCommand::Input(input)) => self.pool.handle(self.clock.now(), *input),
                    Some(DriverCommand::Probes(probes)) => self.probes = probes,
                    Some(DriverCommand::Checked(reply)) => check_waiters.push(reply),
                    Some(DriverCommand::Reporting(options)) => self.observer.set_options(self.clock.now(), options),
                    Some(DriverCommand::Acknowledge { id, by, reply }) => {
                        let _receiver_dropped = reply.send(self.observer.acknowledge(id, &by));
                    }
                    Some(DriverCommand::Report(reply)) => {
                        report.destinations = self.pool.reports();
                        report.window = windows.start();
                        report.observed = self.observer.report(self.clock.now(), &self.pool, &report.destinations);
                        let _receiver_dropped = reply.send(report.clone());
                    }
                    None => return,
                },
                Some(signal) = self.signals.recv() => {
                    self.pool.handle(self.clock.now(), Input::FailureSignal(signal));
                }
                Some(probed) = results.recv() => {
                    // All available results form one batch, and their actions run once.
                    self.on_probe_result(probed, &mut report);
                    while let Ok(probed) = results.try_recv() {
                        self.on_probe_result(probed, &mut report);
                    }
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.pool.handle_timeout(self.clock.now());
                }
                _ = second.tick() => {
                    self.budget.roll(self.clock.now());
                    windows.advance(self.clock.now(), &self.snapshots.latest());
                    self.observer.evaluate(self.clock.now(), &self.pool);
                }
            }
        }
    }

    fn all_checked(&self, report: &PoolReport) -> bool {
        let members = &self.snapshots.latest().members;
        members.iter().all(|member| report.checks.contains_key(&member.destination.name))
    }

    fn update_state(&self, snapshot: &Snapshot, report: &mut PoolReport) {
        let (pool, state, backup) = (&snapshot.pool, snapshot.health.state(), snapshot.health.backup_in_use);
        if backup != std::mem::replace(&mut report.backup_in_use, backup) {
            match backup {
                true => {
                    report.backup_activations += 1;
                    tracing::warn!(event = "backup_in_use", %pool, "pool {pool}: a backup tier gets messages");
                }
                false => {
                    tracing::info!(event = "backup_released", %pool, "pool {pool}: no backup tier gets messages")
                }
            }
        }
        if state == report.state {
            return;
        }
        match (report.state, state) {
            // A new pool starts with the statuses of its configuration.
            ("", _) => {}
            (_, "down") => {
                tracing::error!(event = "pool_down", %pool, "pool {pool}: no destination serves, messages are rejected");
            }
            ("down", _) => tracing::info!(event = "pool_up", %pool, "pool {pool}: messages are served again"),
            _ => {}
        }
        (report.state, report.state_since) = (state, self.clock.now());
    }

    fn on_probe_result(&mut self, probed: Probed, report: &mut PoolReport) {
        let name = probed.name;
        let counts = report.checks.entry(name.clone()).or_default();
        match &probed.result {
            ProbeResult::Passed { latency } => {
                counts.passed += 1;
                counts.passed_time += *latency;
                counts.record(true);
                report.check_stats.passed.record(*latency, &BUCKETS_US, Duration::from_micros(1));
            }
            ProbeResult::Failed(failure) => {
                counts.failed += 1;
                *counts.failures.entry((failure.layer, failure.kind)).or_default() += 1;
                log_failed_check(&self.pool.snapshot().pool, &name, failure);
                counts.record(false);
                report.check_stats.failed.record(probed.took, &BUCKETS_US, Duration::from_micros(1));
            }
            ProbeResult::NotMade => counts.not_made += 1,
        }
        // The shortage is logged once, until a check is made again.
        let resource_starved = matches!(probed.result, ProbeResult::NotMade);
        if resource_starved && !self.resource_starved {
            tracing::warn!(
                event = "checks_not_made",
                "no file descriptors or memory left for health checks: the status of destinations is kept"
            );
        }
        self.resource_starved = resource_starved;
        self.pool.handle(self.clock.now(), Input::Probed { id: probed.id, result: probed.result });
    }

    fn run_actions(&mut self, probed: &mpsc::UnboundedSender<Probed>, report: &mut PoolReport) {
        let mut has_events = false;
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Publish(snapshot) => {
                    self.update_state(&snapshot, report);
                    self.snapshots.publish(snapshot);
                }
                Action::Emit(event) => {
                    has_events = true;
                    self.observer.on_event(self.clock.now(), &event, &self.pool);
                    on_event(&event, self.clock.now(), report);
                }
                Action::Probe(request) => {
                    let (probed, clock, probes) = (probed.clone(), self.clock, self.probes.clone());
                    check_thread::spawn(async move {
                        let sent = clock.now();
                        let result = probe::probe(&request, &probes, clock).await;
                        let took = clock.now().since(sent);
                        let _driver_has_ended =
                            probed.send(Probed { id: request.id, name: request.name, result, took });
                    });
                }
            }
        }
        if has_events {
            self.observer.evaluate(self.clock.now(), &self.pool);
        }
        let members = &self.snapshots.latest().members;
        if report.checks.len() > members.len() {
            report.checks.retain(|name, _| members.iter().any(|m| m.destination.name == *name));
        }
    }
}

/// Records the outage of a destination that failed, and its recovery.
fn record_outage(event: &Event, now: Tick, report: &mut PoolReport) {
    let Event::StatusChanged { destination, from, to, reason, .. } = event else { return };
    let stats = &mut report.check_stats;
    if from.serves() && matches!(to, Status::Down | Status::Ejected { .. }) {
        report.failed_at.insert(destination.clone(), now);
    } else if to.serves()
        && let Some(since) = report.failed_at.remove(destination)
    {
        stats.outages.record(now.since(since), &OUTAGES_MS, Duration::from_millis(1));
        stats.recovered += u64::from(reason.recovers());
    } else if matches!(to, Status::Maintenance | Status::Draining) {
        report.failed_at.remove(destination);
    }
    stats.relapsed += u64::from(matches!(reason, Reason::TrialFailed { .. }));
}

/// Counts and logs an event.
fn on_event(event: &Event, now: Tick, report: &mut PoolReport) {
    record_outage(event, now, report);
    match event {
        Event::StatusChanged { from, reason, .. } => {
            // A destination that was down during its ejection is not ejected anew when it comes up again.
            if reason.ejects() && (from.serves() || matches!(from, Status::Ejected { .. })) {
                *report.ejections.entry(reason.as_str()).or_default() += 1;
            }
            log_status_change(event, report);
        }
        Event::EjectionSkipped { pool, destination, .. } => {
            tracing::warn!(event = "ejection_skipped", %pool, %destination, "{event}");
        }
        Event::MemberAdded { pool, destination, .. } => {
            tracing::debug!(event = "member_added", %pool, %destination, "{event}");
        }
        Event::MemberRemoved { pool, destination, .. } => {
            report.transitions.remove(destination);
            report.failed_at.remove(destination);
            tracing::info!(event = "member_removed", %pool, %destination, "{event}");
        }
    }
}

/// Counts and logs a status change: as a warning if a destination stops to serve and the operator did not request it.
fn log_status_change(event: &Event, report: &mut PoolReport) {
    let Event::StatusChanged { pool, destination, from, to, reason } = event else { return };
    let fails = from.serves() && matches!(to, Status::Down | Status::Ejected { .. } | Status::Overloaded);
    let (from, to) = (from.as_str(), to.as_str());
    // The steps of an ejection have the same status.
    if from != to {
        let changes = report.transitions.entry(destination.clone()).or_default();
        *changes.entry((from, to)).or_default() += 1;
    }
    let failure = match reason {
        Reason::ChecksFailed { failure, .. } => failure.as_ref(),
        _ => None,
    };
    let (layer, kind) = (failure.map(|f| f.layer.number()), failure.map(|f| f.kind.as_str()));
    let reason = reason.as_str();
    match fails {
        true => {
            tracing::warn!(event = "status_changed", %pool, %destination, from, to, reason, layer, kind, "{event}");
        }
        false => {
            tracing::info!(event = "status_changed", %pool, %destination, from, to, reason, layer, kind, "{event}");
        }
    }
}

/// Logs a failed check, for diagnosis.
fn log_failed_check(pool: &Name, destination: &Name, failure: &CheckFailure) {
    let (layer, kind) = (failure.layer.number(), failure.kind.as_str());
    tracing::debug!(event = "check_failed", %pool, %destination, layer, kind, "a check failed: {failure}");
}
