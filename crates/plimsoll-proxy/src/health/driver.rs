//! The slow loop of one pool: feeds its state machine, runs its checks, publishes its snapshots.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::alert::Alert;
use plimsoll_core::event::{Event, Reason};
use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
use plimsoll_core::pool::{Action, DestinationReport, Input, Pool, ProbeResult};
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::stats::BUCKETS_MS;
use plimsoll_core::{DestinationId, FailureSignal, Name, Snapshot, Status, Tick};
use tokio::sync::{mpsc, oneshot};

use crate::base::clock::Clock;
use crate::health::observer::{ObserverView, PoolObserver, ReportingOptions};
use crate::health::probe::{self, ProbeTransport};
use crate::upstream::table::SnapshotCell;

/// Words from workers that may wait; the next bad outcome repeats a lost one.
pub(crate) const SIGNAL_QUEUE: usize = 1024;

/// Counts of a destination's active checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// Checks that passed.
    pub passed: u64,
    /// Number of failed checks.
    pub failed: u64,
    /// Failed checks by layer and kind.
    pub failures: BTreeMap<(CheckLayer, CheckFailureKind), u64>,
    /// Checks that were not made, because this process or machine lacked what they take.
    pub not_made: u64,
    /// Time spent in those that passed.
    pub passed_time: Duration,
    /// The latest, a bit each, 1 = passed; as many as `recent_count` says.
    recent: u32,
    recent_count: u32,
}

impl CheckCounts {
    /// The share of the last 32 checks that passed, 0 to 1; `None` before the first.
    pub fn score(&self) -> Option<f64> {
        let passed = f64::from(self.recent.count_ones());
        (self.recent_count > 0).then(|| passed / f64::from(self.recent_count))
    }

    fn note(&mut self, passed: bool) {
        self.recent = self.recent << 1 | u32::from(passed);
        self.recent_count = (self.recent_count + 1).min(u32::BITS);
    }
}

/// How long something took, how often: spans by upper bound, and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationHistogram<const N: usize> {
    /// By bound; the last for what is above all of them.
    pub buckets: [u64; N],
    /// All of them together.
    pub sum: Duration,
}

impl<const N: usize> Default for DurationHistogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], sum: Duration::ZERO }
    }
}

impl<const N: usize> DurationHistogram<N> {
    fn record(&mut self, span: Duration, bounds_ms: &[u64]) {
        let ms = span.as_nanos().div_ceil(1_000_000);
        let bucket = bounds_ms.iter().position(|&bound| ms <= u128::from(bound)).unwrap_or(bounds_ms.len());
        self.buckets[bucket.min(N - 1)] += 1;
        self.sum += span;
    }
}

/// Upper bounds, in milliseconds, of how long destinations are out of service: from a blink to hours.
pub const OUTAGES_MS: [u64; 11] =
    [1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000];

/// How the checks of a pool and its recoveries went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckStats {
    /// Durations of checks that passed.
    pub passed: DurationHistogram<{ BUCKETS_MS.len() + 1 }>,
    /// Durations of checks that failed.
    pub failed: DurationHistogram<{ BUCKETS_MS.len() + 1 }>,
    /// From the moment a destination was taken out for failing until it served again.
    pub outages: DurationHistogram<{ OUTAGES_MS.len() + 1 }>,
    /// Destinations that showed that they serve again and came back.
    pub recovered: u64,
    /// Trials that failed.
    pub relapsed: u64,
}

/// What a driver can tell beside its snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolReport {
    pub(crate) destinations: Vec<DestinationReport>,
    pub(crate) checks: HashMap<Name, CheckCounts>,
    /// Changes of status, by destination and the words of both.
    pub(crate) transitions: HashMap<Name, BTreeMap<(&'static str, &'static str), u64>>,
    /// How its checks and its recoveries went, of those who left too.
    pub(crate) check_stats: CheckStats,
    /// Since when a destination does not serve because it failed.
    failed_at: HashMap<Name, Tick>,
    /// By their reason, of those who left too.
    pub(crate) ejections: BTreeMap<&'static str, u64>,
    /// The pool in one word, and since when.
    pub(crate) state: &'static str,
    pub(crate) state_since: Tick,
    pub(crate) observed: ObserverView,
}

/// What the control plane tells a driver.
pub(crate) enum DriverCommand {
    Input(Box<Input>),
    Transport(ProbeTransport),
    Reporting(ReportingOptions),
    Report(oneshot::Sender<PoolReport>),
    /// Say when every destination has been checked.
    Checked(oneshot::Sender<()>),
    /// Somebody knows of an alert.
    Acknowledge {
        id: u64,
        by: String,
        answer: oneshot::Sender<Option<Alert>>,
    },
}

/// The parts a driver runs on.
pub(crate) struct Driver {
    pub(crate) pool: Pool,
    pub(crate) commands: mpsc::UnboundedReceiver<DriverCommand>,
    pub(crate) signals: mpsc::Receiver<FailureSignal>,
    /// How checks speak to destinations.
    pub(crate) transport: ProbeTransport,
    pub(crate) snapshots: Arc<SnapshotCell>,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) clock: Clock,
    pub(crate) observer: PoolObserver,
    /// The last check was not made, because we lacked something.
    pub(crate) resource_starved: bool,
}

struct Probed {
    id: DestinationId,
    name: Name,
    result: ProbeResult,
    took: Duration,
}

impl Driver {
    /// Runs until nobody gives commands any more.
    pub(crate) async fn run(mut self) {
        let (probed, mut results) = mpsc::unbounded_channel::<Probed>();
        let mut report = PoolReport::default();
        let mut unchecked: Vec<oneshot::Sender<()>> = Vec::new();
        self.note_state(&self.snapshots.latest(), &mut report);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.run_actions(&probed, &mut report);
            if !unchecked.is_empty() && self.all_checked(&report) {
                for receiver in unchecked.drain(..) {
                    let _receiver_dropped = receiver.send(());
                }
            }
            let wait = self.pool.poll_timeout().map(|at| at.since(self.clock.now()));
            tokio::select! {
                order = self.commands.recv() => match order {
                    Some(DriverCommand::Input(input)) => self.pool.handle(self.clock.now(), *input),
                    Some(DriverCommand::Transport(transport)) => self.transport = transport,
                    Some(DriverCommand::Checked(answer)) => unchecked.push(answer),
                    Some(DriverCommand::Reporting(options)) => self.observer.set_options(self.clock.now(), options),
                    Some(DriverCommand::Acknowledge { id, by, answer }) => {
                        let _receiver_dropped = answer.send(self.observer.acknowledge(id, &by));
                    }
                    Some(DriverCommand::Report(answer)) => {
                        report.destinations = self.pool.reports();
                        report.observed = self.observer.report(self.clock.now(), &self.pool, &report.destinations);
                        let _receiver_dropped = answer.send(report.clone());
                    }
                    None => return,
                },
                Some(signal) = self.signals.recv() => {
                    self.pool.handle(self.clock.now(), Input::FailureSignal(signal));
                }
                Some(probed) = results.recv() => {
                    // Whatever else has come by now is one turn: what follows is done once for all of it.
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
                    self.observer.evaluate(self.clock.now(), &self.pool);
                }
            }
        }
    }

    fn all_checked(&self, report: &PoolReport) -> bool {
        let members = &self.snapshots.latest().members;
        members.iter().all(|member| report.checks.contains_key(&member.destination.name))
    }

    fn note_state(&self, snapshot: &Snapshot, report: &mut PoolReport) {
        let state = snapshot.health.state();
        if state != report.state {
            (report.state, report.state_since) = (state, self.clock.now());
        }
    }

    fn on_probe_result(&mut self, probed: Probed, report: &mut PoolReport) {
        let name = probed.name;
        let counts = report.checks.entry(name.clone()).or_default();
        match &probed.result {
            ProbeResult::Passed { latency } => {
                counts.passed += 1;
                counts.passed_time += *latency;
                counts.note(true);
                report.check_stats.passed.record(*latency, &BUCKETS_MS);
            }
            ProbeResult::Failed(failure) => {
                counts.failed += 1;
                *counts.failures.entry((failure.layer, failure.kind)).or_default() += 1;
                log_failed_check(&self.pool.snapshot().pool, &name, failure);
                counts.note(false);
                report.check_stats.failed.record(probed.took, &BUCKETS_MS);
            }
            ProbeResult::NotMade => counts.not_made += 1,
        }
        // Logged once, until a check was made again.
        let resource_starved = matches!(probed.result, ProbeResult::NotMade);
        if resource_starved && !self.resource_starved {
            tracing::warn!(
                event = "checks_not_made",
                "no descriptors or memory are left for health checks: destinations stay as they are"
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
                    self.note_state(&snapshot, report);
                    self.snapshots.publish(snapshot);
                }
                Action::Emit(event) => {
                    has_events = true;
                    self.observer.on_event(self.clock.now(), &event, &self.pool);
                    on_event(&event, self.clock.now(), report);
                }
                Action::Probe(order) => {
                    let (probed, clock, transport) = (probed.clone(), self.clock, self.transport.clone());
                    tokio::spawn(async move {
                        let sent = clock.now();
                        let result = probe::probe(&order, &transport, clock).await;
                        let took = clock.now().since(sent);
                        let _driver_left =
                            probed.send(Probed { id: order.id, name: order.name, result, took });
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

/// Counts how long a destination that failed is out of service, and whether it comes back.
fn record_outage(event: &Event, now: Tick, report: &mut PoolReport) {
    let Event::StatusChanged { destination, from, to, reason, .. } = event else { return };
    let stats = &mut report.check_stats;
    if from.serves() && matches!(to, Status::Down | Status::Ejected { .. }) {
        report.failed_at.insert(destination.clone(), now);
    } else if to.serves()
        && let Some(since) = report.failed_at.remove(destination)
    {
        stats.outages.record(now.since(since), &OUTAGES_MS);
        stats.recovered += u64::from(reason.recovers());
    } else if matches!(to, Status::Maintenance | Status::Draining) {
        report.failed_at.remove(destination);
    }
    stats.relapsed += u64::from(matches!(reason, Reason::TrialFailed { .. }));
}

fn on_event(event: &Event, now: Tick, report: &mut PoolReport) {
    record_outage(event, now, report);
    match event {
        Event::StatusChanged { pool, destination, from, to, reason } => {
            // One that was down meanwhile is not ejected anew when it comes up before its time is over.
            if reason.ejects() && (from.serves() || matches!(from, Status::Ejected { .. })) {
                *report.ejections.entry(reason.as_str()).or_default() += 1;
            }
            let (from, to) = (from.as_str(), to.as_str());
            // The steps of an ejection are one status.
            if from != to {
                let changes = report.transitions.entry(destination.clone()).or_default();
                *changes.entry((from, to)).or_default() += 1;
            }
            match reason {
                Reason::ChecksFailed { failure: Some(CheckFailure { layer, kind, .. }), .. } => {
                    let (layer, kind) = (layer.number(), kind.as_str());
                    tracing::info!(event = "status_changed", %pool, %destination, from, to, layer, kind, "{event}");
                }
                _ => tracing::info!(event = "status_changed", %pool, %destination, from, to, "{event}"),
            }
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

/// Logs a failed check, for the search for causes.
fn log_failed_check(pool: &Name, destination: &Name, failure: &CheckFailure) {
    let (layer, kind) = (failure.layer.number(), failure.kind.as_str());
    tracing::debug!(event = "check_failed", %pool, %destination, layer, kind, "a check failed: {failure}");
}
