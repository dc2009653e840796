//! The slow loop of one pool: feeds its state machine, runs its checks, publishes its snapshots.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::alert::Alert;
use plimsoll_core::event::{Event, Reason};
use plimsoll_core::pool::{Action, DestinationReport, Input, Pool, ProbeResult};
use plimsoll_core::retry::Budget;
use plimsoll_core::{DestinationId, Name, Snapshot, Standing, Suspect, Tick};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::probe::{self, Speaks};
use crate::tables::Feed;
use crate::watch::{Wants, Watch, Watched};

/// Words from workers that may wait; the next bad outcome repeats a lost one.
pub(crate) const SUSPECTS: usize = 1024;

/// Counts of a destination's active checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
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

/// What a driver can tell beside its snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolReport {
    pub(crate) destinations: Vec<DestinationReport>,
    pub(crate) checks: HashMap<Name, CheckCounts>,
    /// Changes of standing, by destination and the words of both.
    pub(crate) transitions: HashMap<Name, BTreeMap<(&'static str, &'static str), u64>>,
    /// By their reason, of those who left too.
    pub(crate) ejections: BTreeMap<&'static str, u64>,
    /// The pool in one word, and since when.
    pub(crate) state: &'static str,
    pub(crate) state_since: Tick,
    pub(crate) watched: Watched,
}

/// What the control plane tells a driver.
pub(crate) enum Order {
    Input(Box<Input>),
    Speaks(Speaks),
    Wants(Wants),
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
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    pub(crate) suspects: mpsc::Receiver<Suspect>,
    /// How checks speak to destinations.
    pub(crate) speaks: Speaks,
    pub(crate) feed: Arc<Feed>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) clock: Clock,
    pub(crate) watch: Watch,
    /// The last check was not made, because we lacked something.
    pub(crate) lacks: bool,
}

struct Probed {
    id: DestinationId,
    name: Name,
    result: ProbeResult,
}

impl Driver {
    /// Runs until nobody gives orders any more.
    pub(crate) async fn run(mut self) {
        let (probed, mut results) = mpsc::unbounded_channel::<Probed>();
        let mut report = PoolReport::default();
        let mut unchecked: Vec<oneshot::Sender<()>> = Vec::new();
        self.note_state(&self.feed.latest(), &mut report);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.act(&probed, &mut report);
            if !unchecked.is_empty() && self.all_checked(&report) {
                for asker in unchecked.drain(..) {
                    let _asker_left = asker.send(());
                }
            }
            let wait = self.pool.poll_timeout().map(|at| at.since(self.clock.now()));
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Input(input)) => self.pool.handle(self.clock.now(), *input),
                    Some(Order::Speaks(speaks)) => self.speaks = speaks,
                    Some(Order::Checked(answer)) => unchecked.push(answer),
                    Some(Order::Wants(wants)) => self.watch.want(self.clock.now(), wants),
                    Some(Order::Acknowledge { id, by, answer }) => {
                        let _asker_left = answer.send(self.watch.acknowledge(id, &by));
                    }
                    Some(Order::Report(answer)) => {
                        report.destinations = self.pool.reports();
                        report.watched = self.watch.report(self.clock.now(), &self.pool, &report.destinations);
                        let _asker_left = answer.send(report.clone());
                    }
                    None => return,
                },
                Some(suspect) = self.suspects.recv() => {
                    self.pool.handle(self.clock.now(), Input::Suspect(suspect));
                }
                Some(probed) = results.recv() => self.take(probed, &mut report),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    self.pool.handle_timeout(self.clock.now());
                }
                _ = second.tick() => {
                    self.budget.roll(self.clock.now());
                    self.watch.look(self.clock.now(), &self.pool);
                }
            }
        }
    }

    fn all_checked(&self, report: &PoolReport) -> bool {
        let members = &self.feed.latest().members;
        members.iter().all(|member| report.checks.contains_key(&member.destination.name))
    }

    fn note_state(&self, snapshot: &Snapshot, report: &mut PoolReport) {
        let state = snapshot.health.state();
        if state != report.state {
            (report.state, report.state_since) = (state, self.clock.now());
        }
    }

    fn take(&mut self, probed: Probed, report: &mut PoolReport) {
        let counts = report.checks.entry(probed.name).or_default();
        match &probed.result {
            ProbeResult::Passed { latency } => {
                counts.passed += 1;
                counts.passed_time += *latency;
                counts.note(true);
            }
            ProbeResult::Failed { .. } => {
                counts.failed += 1;
                counts.note(false);
            }
            ProbeResult::NotMade => counts.not_made += 1,
        }
        // Told once, until a check was made again.
        let lacks = matches!(probed.result, ProbeResult::NotMade);
        if lacks && !self.lacks {
            tracing::warn!(
                event = "checks_not_made",
                "no descriptors or memory are left for health checks: destinations stay as they are"
            );
        }
        self.lacks = lacks;
        self.pool.handle(self.clock.now(), Input::Probed { id: probed.id, result: probed.result });
    }

    fn act(&mut self, probed: &mpsc::UnboundedSender<Probed>, report: &mut PoolReport) {
        let mut heard = false;
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Publish(snapshot) => {
                    self.note_state(&snapshot, report);
                    self.feed.publish(snapshot);
                }
                Action::Tell(event) => {
                    heard = true;
                    self.watch.hear(self.clock.now(), &event, &self.pool);
                    tell(&event, report);
                }
                Action::Probe(order) => {
                    let (probed, clock, speaks) = (probed.clone(), self.clock, self.speaks.clone());
                    tokio::spawn(async move {
                        let result = probe::probe(&order, &speaks, clock).await;
                        let _driver_left = probed.send(Probed { id: order.id, name: order.name, result });
                    });
                }
            }
        }
        if heard {
            self.watch.look(self.clock.now(), &self.pool);
        }
        let members = &self.feed.latest().members;
        if report.checks.len() > members.len() {
            report.checks.retain(|name, _| members.iter().any(|m| m.destination.name == *name));
        }
    }
}

fn tell(event: &Event, report: &mut PoolReport) {
    match event {
        Event::StandingChanged { pool, destination, from, to, reason } => {
            let ejected = matches!(reason, Reason::TrafficFailed { .. } | Reason::TrialFailed { .. });
            // One that was down meanwhile is not ejected anew when it comes up before its time is over.
            if ejected && (from.serves() || matches!(from, Standing::Ejected { .. })) {
                *report.ejections.entry(reason.word()).or_default() += 1;
            }
            let (from, to) = (from.word(), to.word());
            // The steps of an ejection are one standing.
            if from != to {
                let changes = report.transitions.entry(destination.clone()).or_default();
                *changes.entry((from, to)).or_default() += 1;
            }
            tracing::info!(event = "standing_changed", %pool, %destination, from, to, "{event}");
        }
        Event::EjectionSpared { pool, destination, .. } => {
            tracing::warn!(event = "ejection_spared", %pool, %destination, "{event}");
        }
        Event::Joined { pool, destination, .. } => {
            tracing::debug!(event = "joined", %pool, %destination, "{event}");
        }
        Event::Left { pool, destination, .. } => {
            report.transitions.remove(destination);
            tracing::info!(event = "left", %pool, %destination, "{event}");
        }
    }
}
