//! What the slow loop does next: the state machine of one pool.
//!
//! It decides nothing itself: whether a destination may serve is decided in [`crate::destination`], what
//! checks and traffic say of it in [`crate::health`], who takes a message in [`crate::balance`]. It carries
//! their words from one to the other, and publishes a snapshot when the picture has changed. One driver
//! owns it, feeds it inputs, wakes it at [`Pool::poll_timeout`] and carries out its actions.

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
use crate::snapshot::Snapshot;
use crate::snapshot::TierSpec;
use crate::stats::FailureSignal;
use crate::time::Tick;

use self::member_state::{Change, MemberState};
use self::timers::Timers;

pub use self::member_state::{Contradictions, DestinationReport};
pub use crate::health::{LastCheck, ProbeKind, ProbeRequest, ProbeResult};

/// Events kept for a driver that does not fetch them; past it the oldest are lost.
pub const EVENTS_MAX: usize = 16_384;

/// How a pool is run.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// Who takes a message.
    pub algorithm: Algorithm,
    /// What that is told.
    pub settings: AlgorithmSettings,
    /// Active checks; `None` = off.
    pub health: Option<HealthSpec>,
    /// Checks run side by side, as many as their schedule allows; off: one at a time.
    pub parallel_checks: bool,
    /// What real traffic may show.
    pub outlier: OutlierSpec,
    /// Where messages may go.
    pub tiers: TierSpec,
    /// Who comes back takes a growing share for so long; `None` = all of it at once.
    pub slow_start: Option<Duration>,
    /// Ejections may not leave fewer than this share of the destinations; 0 = they may.
    pub panic_threshold: f64,
    /// Who passes its checks again serves one message first, and then takes a growing share.
    pub recovery: bool,
    /// What becomes of what destinations say of their load.
    pub load: LoadSpec,
    /// The pool's only destination is never taken out for failing: failing over to nothing helps nobody.
    pub keep_only_member: bool,
    /// What it may have at once, over all destinations.
    pub limits: PoolLimits,
}

impl PoolSpec {
    /// A recovery that is managed is never without a ramp.
    const RAMP: Duration = Duration::from_secs(10);

    fn window(&self) -> Option<Duration> {
        self.slow_start.or(self.recovery.then_some(Self::RAMP))
    }
}

/// What a pool is told.
#[expect(clippy::large_enum_variant, reason = "where inputs wait they are boxed")]
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// These are the destinations now, all of them. Whose name stays keeps everything known of it, but for
    /// one at a new address: nothing is known against that. Of a name given twice the first counts.
    Members(Vec<Destination>),
    /// It is run so from now on.
    Spec(PoolSpec),
    /// The operator wants a destination so.
    Admin {
        /// Which; an unknown name changes nothing.
        name: Name,
        /// What.
        state: AdminState,
    },
    /// A destination has another base weight, until the next [`Input::Members`] says otherwise.
    Weight {
        /// Which; an unknown name changes nothing.
        name: Name,
        /// How much.
        weight: Weight,
    },
    /// The answer to a [`ProbeRequest`].
    Probed {
        /// From the order.
        id: DestinationId,
        /// What was seen.
        result: ProbeResult,
    },
    /// An assignment's word about a destination.
    FailureSignal(FailureSignal),
    /// What a destination says of its load.
    LoadReport {
        /// Which; an unknown name changes nothing.
        name: Name,
        /// What.
        report: Box<LoadReport>,
    },
}

/// What a pool wants done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make this check and answer with [`Input::Probed`].
    Probe(ProbeRequest),
    /// This is the picture now; it replaces all earlier ones.
    Publish(Arc<Snapshot>),
    /// Tell whoever listens.
    Emit(Event),
}

/// One pool's slow loop.
pub struct Pool {
    name: Name,
    spec: PoolSpec,
    workers: usize,
    rng: Rng,
    policy: Box<dyn Policy>,
    /// In configured order.
    entries: Vec<MemberState>,
    index: HashMap<DestinationId, usize>,
    next_id: u32,
    timers: Timers,
    check_queue: CheckQueue,
    limiter: Arc<PoolLimiter>,
    snapshot: Arc<Snapshot>,
    /// A witness may have changed: statuses must be settled.
    touched: bool,
    /// The picture has changed.
    dirty: bool,
    unpublished: bool,
    orders: VecDeque<ProbeRequest>,
    events: VecDeque<Event>,
    /// It has begun: who joins from now on comes cold.
    runs: bool,
    /// When destinations are next compared with each other.
    compare_at: Tick,
    /// When their loads are next looked at.
    evaluate_load_at: Tick,
    /// A destination that deserved ejection was kept a short time ago; over then.
    panics_until: Tick,
    /// When it is next looked for who has fallen silent.
    look_at: Tick,
}

impl Pool {
    /// A pool of these destinations, all serving; its first snapshot and its first checks are to be fetched.
    pub fn new(
        name: Name,
        spec: PoolSpec,
        members: Vec<Destination>,
        workers: usize,
        rng: Rng,
        now: Tick,
    ) -> Self {
        let policy = spec.algorithm.policy_with(workers, &spec.settings);
        let snapshot = Arc::new(snapshot_builder::picture(&name, 0, &spec, &*policy, &[]));
        let mut pool = Self {
            name,
            spec,
            workers,
            rng,
            policy,
            entries: Vec::new(),
            index: HashMap::new(),
            next_id: 0,
            timers: Timers::default(),
            check_queue: CheckQueue::default(),
            limiter: Arc::new(PoolLimiter::new(workers)),
            snapshot,
            touched: true,
            dirty: true,
            unpublished: false,
            orders: VecDeque::new(),
            events: VecDeque::new(),
            runs: false,
            compare_at: Tick::NEVER,
            evaluate_load_at: Tick::NEVER,
            panics_until: Tick::ZERO,
            look_at: Tick::NEVER,
        };
        pool.limiter.set_limits(&pool.spec.limits);
        pool.plan_comparison(now);
        pool.replace_load(now);
        pool.replace_members(now, members);
        pool.events.clear();
        pool.runs = true;
        pool.handle_timeout(now);
        pool
    }

    /// Takes one input in. At most one snapshot comes of it, and it is there to be fetched at once.
    pub fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Members(members) => self.replace_members(now, members),
            Input::Spec(spec) => self.replace_spec(now, spec),
            Input::Admin { name, state } => self.set_admin(now, &name, state),
            Input::Weight { name, weight } => self.set_weight(&name, weight),
            Input::Probed { id, result } => self.probed(now, id, result),
            Input::FailureSignal(signal) => self.signal(now, &signal),
            Input::LoadReport { name, report } => self.load_report(now, &name, &report),
        }
        self.handle_timeout(now);
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Tick) {
        for id in self.timers.take_due(now) {
            self.wake(now, id);
        }
        self.send_checks(now);
        if self.compare_at <= now {
            self.compare(now);
            self.plan_comparison(now);
        }
        if self.evaluate_load_at <= now {
            self.evaluate_load(now);
        }
        if self.look_at <= now {
            self.look(now);
            self.plan_look(now);
        }
        self.settle(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do next.
    pub fn poll_timeout(&self) -> Option<Tick> {
        let traffic = Some(self.compare_at.min(self.look_at).min(self.evaluate_load_at))
            .filter(|&at| at != Tick::NEVER);
        self.timers.next().into_iter().chain(traffic).min()
    }

    /// The next thing to do; a snapshot always comes first. Fetch until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        if mem::take(&mut self.unpublished) {
            return Some(Action::Publish(self.snapshot.clone()));
        }
        let order = self.orders.pop_front().map(Action::Probe);
        order.or_else(|| self.events.pop_front().map(Action::Emit))
    }

    /// The last snapshot published.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What it has at once, and who waits for it.
    pub fn limiter(&self) -> &Arc<PoolLimiter> {
        &self.limiter
    }

    /// How it is run.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// What is known of each destination, in configured order.
    pub fn reports(&self) -> Vec<DestinationReport> {
        self.entries.iter().map(MemberState::report).collect()
    }

    /// Destinations that deserve ejection are kept, or were taken back, because too few others would be left.
    /// Nobody tells when that is over, so it is when nothing of the kind has been seen for as long as two first
    /// ejections: of one that fails on it is told once in the time of one.
    pub fn is_in_panic(&self, now: Tick) -> bool {
        now < self.panics_until
    }

    fn panic(&mut self, now: Tick) {
        self.panics_until = now + self.spec.outlier.base_ejection.saturating_mul(2);
    }

    /// What ejecting the destination at `rank` would cost the pool.
    fn room(&self, rank: usize) -> EjectionCapacity {
        let (before, after) = (&self.entries[..rank], &self.entries[rank + 1..]);
        EjectionCapacity {
            members: self.entries.len(),
            ejected: self.entries.iter().filter(|entry| entry.outlier.is_out()).count(),
            others_serve: before.iter().chain(after).any(|e| e.takes(e.status, self.spec.tiers.backup_tiers)),
            others_suffice: self.suffices(before.iter().chain(after)),
        }
    }

    /// Those of `entries` that serve are as many of the whole pool as must be left.
    fn suffices<'e>(&self, entries: impl Iterator<Item = &'e MemberState>) -> bool {
        let backup = self.spec.tiers.backup_tiers;
        let fit = |entry: &&MemberState| entry.destination.weight.get() > 0 && entry.tier_is_used(backup);
        let all = self.entries.iter().filter(fit).count();
        let serving = entries.filter(|entry| entry.takes(entry.status, backup)).count();
        serving as f64 >= all as f64 * self.spec.panic_threshold - 1e-9
    }

    /// Brings statuses in line with the signals, tells what changed, and publishes if the picture did.
    fn settle(&mut self, now: Tick) {
        if mem::take(&mut self.touched) {
            self.restore_overloaded(now);
            self.uneject_for_capacity(now);
            let lone = self.spares_lone();
            for rank in 0..self.entries.len() {
                let (change, differs) = self.entries[rank].settle(now, lone, &self.spec);
                if differs {
                    self.dirty = true;
                    self.plan(self.entries[rank].id);
                }
                if let Some(Change { from, to, reason }) = change {
                    let (pool, destination) =
                        (self.name.clone(), self.entries[rank].destination.name.clone());
                    self.emit(Event::StatusChanged { pool, destination, from, to, reason });
                }
            }
        }
        if mem::take(&mut self.dirty) {
            let generation = self.snapshot.generation + 1;
            let mut picture =
                snapshot_builder::picture(&self.name, generation, &self.spec, &*self.policy, &self.entries);
            picture.limiter = self.limiter_if_limited();
            (self.snapshot, self.unpublished) = (Arc::new(picture), true);
        }
    }

    /// the limiter, if anything of the pool has a limit; then all its messages tell it when they end.
    fn limiter_if_limited(&self) -> Option<Arc<PoolLimiter>> {
        let none = |entry: &MemberState| entry.destination.limits == DestinationLimits::default();
        let pool = PoolLimits { pending: 0, ..self.spec.limits };
        if pool == PoolLimits::default() && self.entries.iter().all(none) {
            return None;
        }
        self.entries.iter().for_each(|entry| entry.stats.set_limiter(&self.limiter));
        Some(self.limiter.clone())
    }

    /// Takes ejections back that the pool can no longer bear, the one that ends first before the others: when
    /// the pool has shrunk below them, and when too few would serve for nothing but ejections.
    fn uneject_for_capacity(&mut self, now: Tick) {
        let (count, backup) = (self.entries.len(), self.spec.tiers.backup_tiers);
        let lone = self.spares_lone();
        let most = if lone { 0 } else { EjectionCapacity::most(count, &self.spec.outlier) };
        let mut out = self.entries.iter().filter(|entry| entry.outlier.is_out()).count();
        while out > 0 {
            let stand = |entry: &&MemberState| entry.takes(entry.stands(lone), backup);
            let serving = self.entries.iter().filter(stand).count();
            let fit = |entry: &&MemberState| entry.destination.weight.get() > 0 && entry.tier_is_used(backup);
            let wanted = self.entries.iter().filter(fit).count() as f64 * self.spec.panic_threshold - 1e-9;
            let served = serving > 0 && serving as f64 >= wanted;
            let fit = |entry: &&mut MemberState| {
                entry.outlier.is_out()
                    && (out > most || !served && entry.takes(entry.status_if_unejected(), backup))
            };
            let first =
                self.entries.iter_mut().filter(fit).min_by_key(|entry| match entry.outlier.ejection() {
                    Ejection::Until(until) => until,
                    Ejection::None | Ejection::Probation => Tick::ZERO,
                });
            let Some(entry) = first else { break };
            entry.outlier.uneject(now);
            entry.clear_reason.get_or_insert(Reason::PanicThreshold);
            out -= 1;
            let id = entry.id;
            self.plan(id);
            self.panic(now);
        }
    }

    fn spares_lone(&self) -> bool {
        self.entries.len() == 1 && self.spec.keep_only_member
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
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
