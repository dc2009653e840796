//! State machine of one pool, which is the slow loop.
//!
//! It connects the modules that decide: [`crate::destination`] (whether a destination may serve), [`crate::health`]
//! (checks and outliers) and [`crate::balance`] (which destination takes a message). It publishes a snapshot after each
//! change. A driver owns the pool, passes inputs to it, calls it at [`Pool::poll_timeout`] and carries out its actions.

mod checks;
mod load_reports;
mod member_state;
mod members;
mod snapshot_builder;
#[cfg(test)]
mod tests;
mod timers;
mod traffic;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Algorithm, AlgorithmSettings, Policy};
use crate::destination::{AdminState, Destination, DestinationId, Ejection, Name, Weight};
use crate::event::{Event, Reason};
use crate::health::{CheckQueue, EjectionCapacity, HealthSpec, LoadSpec, OutlierSpec};
use crate::limit::{DestinationLimits, PoolLimits};
use crate::limiter::PoolLimiter;
use crate::measure::LoadReport;
use crate::rng::Rng;
use crate::snapshot::{Snapshot, TierSpec};
use crate::stats::FailureSignal;
use crate::time::Tick;

use self::member_state::{Change, MemberState};
use self::timers::Timers;

pub use self::member_state::{Contradictions, DestinationReport};
pub use crate::health::{LastCheck, ProbeKind, ProbeRequest, ProbeResult};

/// Maximum number of events that wait for the driver; beyond it the oldest are dropped.
pub const MAX_EVENTS: usize = 16_384;

/// Settings of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// Balancing algorithm of the pool.
    pub algorithm: Algorithm,
    /// Settings of the algorithm.
    pub settings: AlgorithmSettings,
    /// Health checks; `None` = off.
    pub health: Option<HealthSpec>,
    /// Whether checks run concurrently, up to their schedule's limit; otherwise one at a time.
    pub parallel_checks: bool,
    /// Settings of outlier detection.
    pub outlier: OutlierSpec,
    /// Priorities, zones and subsets.
    pub tiers: TierSpec,
    /// Duration of the slow start after a return; `None` = the full share at once.
    pub slow_start: Option<Duration>,
    /// Minimum share of destinations that ejections leave serving, 0.0 to 1.0; 0 = no minimum.
    pub panic_threshold: f64,
    /// Whether a recovered destination serves one trial message first, followed by a slow start.
    pub recovery: bool,
    /// Use of reported load.
    pub load: LoadSpec,
    /// Whether the only destination of the pool stays in service when it fails, because there is no other.
    pub keep_only_member: bool,
    /// Limits over all destinations of the pool.
    pub limits: PoolLimits,
}

impl PoolSpec {
    /// Default slow start of a managed recovery.
    const RECOVERY_SLOW_START: Duration = Duration::from_secs(10);

    /// Creates a spec without health checks, limits and slow start. Outlier detection ejects a destination for 30 s after
    /// 5 consecutive failures, and at most half of the pool.
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            settings: AlgorithmSettings::default(),
            health: None,
            parallel_checks: true,
            outlier: OutlierSpec::CONSECUTIVE_FAILURES,
            tiers: TierSpec::default(),
            slow_start: None,
            panic_threshold: 0.0,
            recovery: false,
            load: LoadSpec::default(),
            keep_only_member: true,
            limits: PoolLimits::default(),
        }
    }

    /// Returns the duration of a slow start.
    fn slow_start_window(&self) -> Option<Duration> {
        self.slow_start.or(self.recovery.then_some(Self::RECOVERY_SLOW_START))
    }
}

/// Input of a pool.
#[expect(clippy::large_enum_variant, reason = "queued inputs are boxed")]
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Replaces the list of destinations. A destination with an unchanged name keeps its state, unless its address changes. Of
    /// two destinations with one name the first counts.
    Members(Vec<Destination>),
    /// Replaces the list of destinations after a lookup of their host names. As [`Input::Members`], but destinations that
    /// stay keep their weight.
    Lookup(Vec<Destination>),
    /// Replaces the settings.
    Spec(PoolSpec),
    /// Sets a destination's administrative state.
    Admin {
        /// Name of the destination; an unknown one changes nothing.
        name: Name,
        /// New administrative state.
        state: AdminState,
    },
    /// Sets a destination's base weight until the next [`Input::Members`].
    Weight {
        /// Name of the destination; an unknown one changes nothing.
        name: Name,
        /// New base weight.
        weight: Weight,
    },
    /// Result of a [`ProbeRequest`].
    Probed {
        /// Number from the request.
        id: DestinationId,
        /// Result of the check.
        result: ProbeResult,
    },
    /// Signal from a finished assignment.
    FailureSignal(FailureSignal),
    /// Load report of a destination.
    LoadReport {
        /// Name of the destination; an unknown one changes nothing.
        name: Name,
        /// Load reported by the destination.
        report: Box<LoadReport>,
    },
}

/// Action for the pool's driver.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make a health check and report it with [`Input::Probed`].
    Probe(ProbeRequest),
    /// Publish a snapshot that replaces all earlier ones.
    Publish(Arc<Snapshot>),
    /// Emit an event.
    Emit(Event),
}

/// State machine of one pool.
pub struct Pool {
    name: Name,
    spec: PoolSpec,
    workers: usize,
    rng: Rng,
    policy: Box<dyn Policy>,
    /// Members in configured order.
    members: Vec<MemberState>,
    index: HashMap<DestinationId, usize>,
    next_id: u32,
    timers: Timers,
    check_queue: CheckQueue,
    limiter: Arc<PoolLimiter>,
    snapshot: Arc<Snapshot>,
    /// Whether statuses must be computed anew.
    touched: bool,
    /// Whether a new snapshot is needed.
    dirty: bool,
    unpublished: bool,
    probe_requests: VecDeque<ProbeRequest>,
    events: VecDeque<Event>,
    /// Whether the pool has started: members added later begin with a slow start.
    started: bool,
    /// Time of the next comparison with peers.
    compare_at: Tick,
    /// Time of the next evaluation of reported load.
    evaluate_load_at: Tick,
    /// End of the panic mode.
    panic_until: Tick,
    /// Time of the next early trial.
    early_trial_at: Tick,
    /// Time from that early trial to the next one.
    early_trial_wait: Duration,
    /// Time of the next detection of unresponsive members.
    detect_unresponsive_at: Tick,
}

impl Pool {
    /// Creates a pool of these destinations, all serving. Its first actions are to be fetched at once.
    pub fn new(
        name: Name,
        spec: PoolSpec,
        members: Vec<Destination>,
        workers: usize,
        rng: Rng,
        now: Tick,
    ) -> Self {
        let policy = spec.algorithm.policy_with(workers, &spec.settings);
        let snapshot = Arc::new(snapshot_builder::build_snapshot(&name, 0, &spec, &*policy, &[]));
        let mut pool = Self {
            name,
            spec,
            workers,
            rng,
            policy,
            members: Vec::new(),
            index: HashMap::new(),
            next_id: 0,
            timers: Timers::default(),
            check_queue: CheckQueue::default(),
            limiter: Arc::new(PoolLimiter::new(workers)),
            snapshot,
            touched: true,
            dirty: true,
            unpublished: false,
            probe_requests: VecDeque::new(),
            events: VecDeque::new(),
            started: false,
            compare_at: Tick::NEVER,
            evaluate_load_at: Tick::NEVER,
            panic_until: Tick::ZERO,
            early_trial_at: Tick::NEVER,
            early_trial_wait: Duration::ZERO,
            detect_unresponsive_at: Tick::NEVER,
        };
        pool.limiter.set_limits(&pool.spec.limits);
        pool.plan_comparison(now);
        pool.replace_load(now);
        pool.replace_members(now, members);
        pool.events.clear();
        pool.started = true;
        pool.handle_timeout(now);
        pool
    }

    /// Handles an input. It leads to at most one snapshot, which is to be fetched at once.
    pub fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Members(members) => self.replace_members(now, members),
            Input::Lookup(members) => self.replace_looked_up(now, members),
            Input::Spec(spec) => self.replace_spec(now, spec),
            Input::Admin { name, state } => self.set_admin(now, &name, state),
            Input::Weight { name, weight } => self.set_weight(&name, weight),
            Input::Probed { id, result } => self.on_probe_result(now, id, result),
            Input::FailureSignal(signal) => self.on_failure_signal(now, &signal),
            Input::LoadReport { name, report } => self.load_report(now, &name, &report),
        }
        self.handle_timeout(now);
    }

    /// Handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Tick) {
        for id in self.timers.take_due(now) {
            self.on_timer(now, id);
        }
        self.send_checks(now);
        if self.compare_at <= now {
            self.compare(now);
            self.plan_comparison(now);
        }
        if self.evaluate_load_at <= now {
            self.evaluate_load(now);
        }
        if self.detect_unresponsive_at <= now {
            self.detect_unresponsive(now);
            self.plan_detection(now);
        }
        if self.early_trial_at <= now {
            self.begin_early_trial(now);
        }
        self.update_statuses(now);
    }

    /// Returns the time of the next call of [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Tick> {
        let traffic = Some(self.compare_at.min(self.detect_unresponsive_at).min(self.evaluate_load_at))
            .map(|at| at.min(self.early_trial_at))
            .filter(|&at| at != Tick::NEVER);
        self.timers.next().into_iter().chain(traffic).min()
    }

    /// Returns the next action, snapshots first. To be called until it returns `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        if mem::take(&mut self.unpublished) {
            return Some(Action::Publish(self.snapshot.clone()));
        }
        let probe = self.probe_requests.pop_front().map(Action::Probe);
        probe.or_else(|| self.events.pop_front().map(Action::Emit))
    }

    /// Returns the last snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the pool's limits and queue.
    pub fn limiter(&self) -> &Arc<PoolLimiter> {
        &self.limiter
    }

    /// Returns the settings.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Returns the state of each destination, in configured order.
    pub fn reports(&self) -> Vec<DestinationReport> {
        self.members.iter().map(MemberState::report).collect()
    }

    /// Returns whether the pool is in panic mode: ejections are skipped or ended because too few other destinations serve.
    /// The mode ends after twice `base_ejection` without such an event; events repeat once per `base_ejection`.
    pub fn is_in_panic(&self, now: Tick) -> bool {
        now < self.panic_until
    }

    fn enter_panic(&mut self, now: Tick) {
        self.panic_until = now + self.spec.outlier.base_ejection.saturating_mul(2);
    }

    /// Returns the pool's capacity for an ejection of the member at `rank`.
    fn ejection_capacity(&self, rank: usize) -> EjectionCapacity {
        let backup = self.spec.tiers.backup_tiers;
        let others = self.members.iter().enumerate().filter(|&(other, _)| other != rank);
        let serving = others.filter(|(_, member)| member.takes(member.status, backup)).count();
        EjectionCapacity {
            members: self.members.len(),
            ejected: self.members.iter().filter(|member| member.outlier.is_ejected()).count(),
            others_serve: serving > 0,
            others_suffice: self.meets_panic_threshold(serving),
        }
    }

    /// Returns whether `serving` members are at least the panic threshold's share of the members that could serve.
    fn meets_panic_threshold(&self, serving: usize) -> bool {
        let backup = self.spec.tiers.backup_tiers;
        let usable = |member: &&MemberState| member.has_weight() && member.tier_is_used(backup);
        let total = self.members.iter().filter(usable).count();
        serving as f64 >= total as f64 * self.spec.panic_threshold - 1e-9
    }

    /// Computes all statuses anew, emits the changes, and builds a snapshot if anything differs.
    fn update_statuses(&mut self, now: Tick) {
        if mem::take(&mut self.touched) {
            self.restore_overloaded(now);
            self.uneject_for_capacity(now);
            let only_member = self.keeps_only_member();
            for rank in 0..self.members.len() {
                let (change, differs) = self.members[rank].update_status(now, only_member, &self.spec);
                if differs {
                    self.dirty = true;
                    self.plan(self.members[rank].id);
                }
                if let Some(Change { from, to, reason }) = change {
                    let (pool, destination) =
                        (self.name.clone(), self.members[rank].destination.name.clone());
                    self.emit(Event::StatusChanged { pool, destination, from, to, reason });
                }
            }
        }
        if mem::take(&mut self.dirty) {
            let generation = self.snapshot.generation + 1;
            let mut snapshot = snapshot_builder::build_snapshot(
                &self.name,
                generation,
                &self.spec,
                &*self.policy,
                &self.members,
            );
            snapshot.limiter = self.limiter_if_limited();
            (self.snapshot, self.unpublished) = (Arc::new(snapshot), true);
        }
    }

    /// Returns the limiter if anything in the pool has a limit; all messages then report their end to it.
    fn limiter_if_limited(&self) -> Option<Arc<PoolLimiter>> {
        let none = |member: &MemberState| member.destination.limits == DestinationLimits::default();
        let pool = PoolLimits { pending: 0, ..self.spec.limits };
        if pool == PoolLimits::default() && self.members.iter().all(none) {
            return None;
        }
        self.members.iter().for_each(|member| member.stats.set_limiter(&self.limiter));
        Some(self.limiter.clone())
    }

    /// Ends ejections that the pool has no capacity for, those that end first before the others: if the pool has shrunk,
    /// or if fewer members serve than the panic threshold because of ejections.
    fn uneject_for_capacity(&mut self, now: Tick) {
        let (count, backup) = (self.members.len(), self.spec.tiers.backup_tiers);
        let keeps_only = self.keeps_only_member();
        let max = if keeps_only { 0 } else { EjectionCapacity::max_ejected(count, &self.spec.outlier) };
        let mut ejected = self.members.iter().filter(|member| member.outlier.is_ejected()).count();
        while ejected > 0 {
            let serves = |member: &&MemberState| member.takes(member.computed_status(keeps_only), backup);
            let serving = self.members.iter().filter(serves).count();
            let suffices = serving > 0 && self.meets_panic_threshold(serving);
            let helps = |member: &&mut MemberState| {
                member.outlier.is_ejected()
                    && (ejected > max || !suffices && member.takes(member.status_if_unejected(), backup))
            };
            let first =
                self.members.iter_mut().filter(helps).min_by_key(|member| match member.outlier.ejection() {
                    Ejection::Until(until) => until,
                    Ejection::None | Ejection::Probation => Tick::ZERO,
                });
            let Some(member) = first else { break };
            member.outlier.uneject(now);
            member.clear_reason.get_or_insert(Reason::PanicThreshold);
            ejected -= 1;
            let id = member.id;
            self.plan(id);
            self.enter_panic(now);
        }
    }

    fn keeps_only_member(&self) -> bool {
        self.members.len() == 1 && self.spec.keep_only_member
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

const fn signal_threshold(outlier: &OutlierSpec) -> u32 {
    match outlier.consecutive_failures {
        0 => u32::MAX,
        some => some,
    }
}
