//! The [`LoadBalancer`]: assigns messages to destinations and learns from their outcomes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use plimsoll_core::balance::{Algorithm, Policy};
use plimsoll_core::hash::hash;
use plimsoll_core::snapshot::Member;
use plimsoll_core::{
    AttemptedSet, DestinationId, DestinationStats, Failure, NoDestination, Outcome, PickRequest, Rng,
    Snapshot, Status, Tick, balance_load,
};
use plimsoll_proxy::{Clock, MonitoredStatuses};

use crate::config::LoadBalancingConfig;
use crate::destination::{self, Destination};
use crate::entropy::random_seed;
use crate::error::LoadBalancingError;
use crate::health_statuses::HealthStatuses;
use crate::outcome_window::OutcomeWindow;
use crate::pool_report;
use crate::result::{HealthStatus, LoadDistribution, PerformanceMetrics, Recommendation};

/// Assigns messages to destinations and keeps the state between them: rotations, messages in flight, outcomes.
///
/// Clones share one state, which is protected by a lock, so rotations and counts are exact over all threads.
/// The lock is held for a pick (well under a microsecond); [`balance_load`](Self::balance_load) holds it longer,
/// to read every destination. The proxy, which must scale with cores, works without one: see
/// [`plimsoll_core::Snapshot`].
///
/// ```
/// # extern crate plimsoll_functions as plimsoll;
/// use plimsoll::{Destination, LoadBalancer, LoadBalancingConfig};
///
/// let destinations = [Destination::new("a", "10.0.0.1:80"), Destination::new("b", "10.0.0.2:80")];
/// let balancer = LoadBalancer::new(&destinations, &LoadBalancingConfig::default())?;
///
/// let assignment = balancer.pick()?;
/// assert_eq!(assignment.destination().id, "a");
/// // … send the message to assignment.destination().address …
/// assignment.responded(200);
/// assert_eq!(balancer.pick()?.destination().id, "b");
/// # Ok::<(), plimsoll::LoadBalancingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct LoadBalancer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
}

/// The state behind the lock.
struct State {
    config: LoadBalancingConfig,
    snapshot: Snapshot,
    /// The destinations as given, in the order of the snapshot's members.
    given: Vec<Arc<Destination>>,
    /// Index of each destination among the members.
    positions: HashMap<DestinationId, usize>,
    /// Messages assigned to each member before the snapshot was built.
    started_before: Vec<u64>,
    window: OutcomeWindow,
    health: pool_report::HealthTracker,
    statuses: HealthStatuses,
    /// At most one per algorithm, kept so that switching back continues a rotation.
    policies: HashMap<Algorithm, Box<dyn Policy>>,
    rng: Rng,
    next_id: u32,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("config", &self.config)
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

impl LoadBalancer {
    /// Creates a balancer without any history.
    ///
    /// # Errors
    /// [`LoadBalancingError`] if a destination or the configuration is invalid.
    pub fn new(
        destinations: &[Destination],
        config: &LoadBalancingConfig,
    ) -> Result<Self, LoadBalancingError> {
        let clock = Clock::start();
        let now = clock.now();
        let idle = config.algorithm.policy(1);
        let mut state = State {
            config: *config,
            snapshot: Snapshot::build("library".into(), 0, &*idle, Vec::new()),
            given: Vec::new(),
            positions: HashMap::new(),
            started_before: Vec::new(),
            window: OutcomeWindow::new(now),
            health: pool_report::HealthTracker::new(now),
            statuses: HealthStatuses::default(),
            policies: HashMap::new(),
            rng: Rng::new(random_seed()),
            next_id: 0,
        };
        state.update(destinations, config, now)?;
        Ok(Self { shared: Arc::new(Shared { clock, state: Mutex::new(state) }) })
    }

    /// Applies a changed list or configuration.
    ///
    /// Destinations are identified by their id: one that stays keeps its position, its messages in flight and its
    /// history, whatever else of it changes. New ones come after those that stay. An unchanged list does nothing.
    ///
    /// # Errors
    /// As [`new`](Self::new); the state is unchanged then.
    pub fn update(
        &self,
        destinations: &[Destination],
        config: &LoadBalancingConfig,
    ) -> Result<(), LoadBalancingError> {
        let now = self.shared.clock.now();
        self.shared.lock().update(destinations, config, now)
    }

    /// Picks the destination of the next message.
    ///
    /// # Errors
    /// [`LoadBalancingError::NoneServing`] if no destination may serve.
    pub fn pick(&self) -> Result<Assignment, LoadBalancingError> {
        self.shared.pick(AttemptedSet::default(), None)
    }

    /// Picks the destination of a message with a key: a session, a tenant or an address.
    ///
    /// With [`Algorithm::Hash`] or [`Algorithm::SourceHash`] a key goes to the same destination in every process
    /// with the same destinations. Both pick at random by weight without a key; other algorithms ignore it.
    ///
    /// ```
    /// # extern crate plimsoll_functions as plimsoll;
    /// use plimsoll::{Algorithm, Destination, LoadBalancer, LoadBalancingConfig};
    ///
    /// let destinations = [Destination::new("a", "10.0.0.1:80"), Destination::new("b", "10.0.0.2:80")];
    /// let balancer = LoadBalancer::new(&destinations, &LoadBalancingConfig::with_algorithm(Algorithm::Hash))?;
    /// let selected = balancer.pick_with_key(b"session-7")?.destination().id.clone();
    /// assert_eq!(balancer.pick_with_key(b"session-7")?.destination().id, selected);
    /// # Ok::<(), plimsoll::LoadBalancingError>(())
    /// ```
    ///
    /// # Errors
    /// As [`pick`](Self::pick).
    pub fn pick_with_key(&self, key: &[u8]) -> Result<Assignment, LoadBalancingError> {
        self.shared.pick(AttemptedSet::default(), Some(hash(key)))
    }

    /// Picks the destination of the next message and reports the state of the pool: the specification's
    /// `balanceLoad`.
    ///
    /// Reads every destination and the outcomes of the last minute (about 20 µs for three destinations, 1 ms for
    /// 10,000); [`pick`](Self::pick) reads neither (0.2 µs).
    ///
    /// # Errors
    /// As [`pick`](Self::pick).
    pub fn balance_load(&self) -> Result<LoadBalancingResult, LoadBalancingError> {
        let assignment = self.pick()?;
        let state = self.shared.lock();
        Ok(LoadBalancingResult {
            selected_destination: assignment.destination().clone(),
            load_distribution: state.distribution(),
            health_status: self.shared.health(&state),
            performance: state.performance(self.shared.clock.now()),
            recommendations: pool_report::recommendations(&state.snapshot, &state.config),
            assignment,
        })
    }

    /// Returns the actual and the intended shares of the destinations.
    pub fn load_distribution(&self) -> LoadDistribution {
        self.shared.lock().distribution()
    }

    /// Returns the health of the pool.
    pub fn health_status(&self) -> HealthStatus {
        self.shared.health(&self.shared.lock())
    }

    /// Sets aside the destinations that health checks found down; `None` if they are not monitored.
    pub(crate) fn apply_checks(&self, checks: Option<&MonitoredStatuses>) {
        let now = self.shared.clock.now();
        let mut state = self.shared.lock();
        if state.statuses.set_checks(checks) {
            state.update_statuses(now);
        }
    }

    /// Returns whether a destination has this id or address.
    pub(crate) fn has_destination(&self, name: &str) -> bool {
        self.shared.lock().given.iter().any(|known| known.is_named(name))
    }

    /// Records the outcome of a message at the destinations with this id or address.
    pub(crate) fn record_outcome(&self, name: &str, ok: bool, response_time: Option<Duration>) {
        let now = self.shared.clock.now();
        self.shared.lock().record_outcome(name, ok, response_time, now);
    }

    /// Returns the performance in the last minute.
    pub fn performance(&self) -> PerformanceMetrics {
        self.shared.lock().performance(self.shared.clock.now())
    }
}

impl Shared {
    /// Locks the state. After a panic of another thread its counters are at most one message off, so a poisoned
    /// lock is used all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self, state: &State) -> HealthStatus {
        let since = self.clock.unix_millis(state.health.since());
        state.health.status(&state.snapshot, &state.config, since)
    }

    fn pick(
        self: &Arc<Self>,
        tried: AttemptedSet,
        key: Option<u64>,
    ) -> Result<Assignment, LoadBalancingError> {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.statuses.is_expired(now) {
            state.update_statuses(now);
        }
        let State { snapshot, rng, .. } = &mut *state;
        let want = PickRequest { tried: Some(&tried), key, ..PickRequest::default() };
        let held = balance_load(snapshot, &want, now, rng)?;
        let destination = state.given[held.member()].clone();
        Ok(Assignment { shared: self.clone(), held, destination, tried, key })
    }
}

impl State {
    fn update(
        &mut self,
        destinations: &[Destination],
        config: &LoadBalancingConfig,
        now: Tick,
    ) -> Result<(), LoadBalancingError> {
        config.validate()?;
        destination::validate(destinations)?;
        let given = self.arrange(destinations);
        if given == self.given && *config == self.config {
            return Ok(());
        }
        let members = self.members(&given, now)?;
        self.positions = members.iter().map(|member| member.id).zip(0..).collect();
        self.window.retain(|id| self.positions.contains_key(&id));
        self.started_before = members.iter().map(|member| member.stats.counts().started).collect();
        let policy = self.policies.entry(config.algorithm).or_insert_with(|| config.algorithm.policy(1));
        let generation = self.snapshot.generation + 1;
        self.snapshot = Snapshot::build(self.snapshot.pool.clone(), generation, &**policy, members);
        (self.given, self.config) = (given, *config);
        self.update_statuses(now);
        self.update_health(now);
        Ok(())
    }

    /// Publishes the statuses that follow from checks and outcomes, if they have changed.
    fn update_statuses(&mut self, now: Tick) {
        let checked = self.config.health_checking;
        let wanted = self.statuses.of(&self.snapshot.members, checked, now);
        if self.snapshot.members.iter().zip(&wanted).all(|(member, status)| member.status == *status) {
            return;
        }
        let members = self.snapshot.members.iter().zip(wanted).map(|(member, status)| Member {
            status,
            since: if member.status == status { member.since } else { now },
            ..member.clone()
        });
        let policy =
            self.policies.entry(self.config.algorithm).or_insert_with(|| self.config.algorithm.policy(1));
        let generation = self.snapshot.generation + 1;
        self.snapshot = Snapshot::build(self.snapshot.pool.clone(), generation, &**policy, members.collect());
        self.update_health(now);
    }

    fn record_outcome(&mut self, name: &str, ok: bool, response_time: Option<Duration>, now: Tick) {
        for position in 0..self.given.len() {
            if !self.given[position].is_named(name) {
                continue;
            }
            let member = &self.snapshot.members[position];
            // Without a time, the outcome must not change the mean.
            let first_byte =
                response_time.or_else(|| member.stats.counts().mean_first_byte()).unwrap_or_default();
            let outcome = match (ok, response_time) {
                (true, _) => Outcome::Answered { status: 200, first_byte },
                (false, Some(_)) => Outcome::Answered { status: 500, first_byte },
                (false, None) => Outcome::Failed(Failure::EmptyResponse),
            };
            let held =
                plimsoll_core::Assignment::of_reported_message(member.id, position, &member.stats, now);
            let Some(mut held) = held else { continue };
            // The pick has counted the message already.
            self.started_before[position] += 1;
            self.record(&mut held, outcome, now);
        }
    }

    /// Returns known destinations in their present order, then new ones, all with their id set.
    fn arrange(&self, destinations: &[Destination]) -> Vec<Arc<Destination>> {
        let positions: HashMap<&str, usize> = self.given.iter().map(|known| &*known.id).zip(0..).collect();
        let mut arranged: Vec<&Destination> = destinations.iter().collect();
        arranged.sort_by_key(|destination| {
            positions.get(destination.id_or_address()).copied().unwrap_or(usize::MAX)
        });
        let named = |destination: &Destination| Destination {
            id: destination.id_or_address().to_owned(),
            ..destination.clone()
        };
        arranged.into_iter().map(named).map(Arc::new).collect()
    }

    fn members(&mut self, given: &[Arc<Destination>], now: Tick) -> Result<Vec<Member>, LoadBalancingError> {
        let known: HashMap<&str, &Member> =
            self.snapshot.members.iter().map(|member| (&*member.destination.name, member)).collect();
        let mut next_id = self.next_id;
        let mut members = Vec::with_capacity(given.len());
        for destination in given {
            let (id, since, stats) = match known.get(&*destination.id) {
                Some(member) => (member.id, member.since, member.stats.clone()),
                None => {
                    next_id += 1;
                    (DestinationId(next_id), now, Arc::new(DestinationStats::new(1)))
                }
            };
            let destination = destination.parse()?;
            let weight = destination.weight.in_256ths();
            members.push(Member {
                id,
                destination,
                status: Status::Serving,
                since,
                weight,
                slow_start: None,
                stats,
            });
        }
        self.next_id = next_id;
        Ok(members)
    }

    fn distribution(&self) -> LoadDistribution {
        pool_report::distribution(&self.snapshot, self.config.algorithm, &self.started_before)
    }

    fn performance(&self, now: Tick) -> PerformanceMetrics {
        pool_report::performance(&self.snapshot, &self.window, now)
    }

    fn update_health(&mut self, now: Tick) {
        self.health.set(pool_report::health_state(&self.snapshot, &self.config), now);
    }

    /// Records the outcome of a message, unless its destination was removed.
    fn record(&mut self, held: &mut plimsoll_core::Assignment, outcome: Outcome, now: Tick) {
        let Some(&position) = self.positions.get(&held.id()) else {
            return;
        };
        let member = &self.snapshot.members[position];
        let failed_before = pool_report::is_failing(member);
        held.record(now, outcome);
        let changed = pool_report::is_failing(member) != failed_before;
        let failing = pool_report::is_failing(member);
        self.window.record(now, held.id(), outcome);
        let ejects = failing && outcome.blames_destination();
        if self.config.health_checking && self.statuses.set_ejected(held.id(), ejects.then_some(now)) {
            self.update_statuses(now);
        }
        if changed {
            self.update_health(now);
        }
    }
}

/// The assignment of a message and the state of the pool. Its JSON has the five fields of the specification.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LoadBalancingResult {
    /// Destination of the message.
    pub selected_destination: Destination,
    /// Actual and intended shares, with this message.
    pub load_distribution: LoadDistribution,
    /// Health of the pool.
    pub health_status: HealthStatus,
    /// Performance in the last minute.
    pub performance: PerformanceMetrics,
    /// Recommended changes of the pool.
    pub recommendations: Vec<Recommendation>,
    /// Assignment of the message: report its outcome here. Dropped, the message counts as cancelled.
    #[serde(skip)]
    pub assignment: Assignment,
}

/// One message's hold on a destination: the message is in flight until this is finished or dropped.
///
/// Dropped without an outcome, the message counts as cancelled and no outcome is recorded.
#[derive(Debug)]
#[must_use = "a dropped assignment is a cancelled message"]
pub struct Assignment {
    shared: Arc<Shared>,
    held: plimsoll_core::Assignment,
    destination: Arc<Destination>,
    tried: AttemptedSet,
    key: Option<u64>,
}

impl Assignment {
    /// Returns the destination of the message.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Reports the outcome of the message.
    pub fn finish(mut self, outcome: Outcome) {
        self.record(outcome);
    }

    /// Reports a response received now, with its status; 200 for protocols without one.
    pub fn responded(self, status: u16) {
        let first_byte = self.shared.clock.now().since(self.held.started());
        self.finish(Outcome::Answered { status, first_byte });
    }

    /// Reports a failure and picks another destination, of a backup tier if necessary.
    ///
    /// The caller decides whether the message may be sent twice.
    ///
    /// # Errors
    /// [`LoadBalancingError::AllTried`] if no untried destination is left or ten were tried,
    /// [`LoadBalancingError::FailoverOff`] if the configuration forbids it. The outcome is recorded in any case.
    pub fn failover(mut self, outcome: Outcome) -> Result<Self, LoadBalancingError> {
        self.record(outcome);
        if !self.shared.lock().config.failover {
            return Err(LoadBalancingError::FailoverOff);
        }
        self.tried.add(self.held.id());
        if self.tried.is_full() {
            return Err(NoDestination::AllTried.into());
        }
        self.shared.pick(self.tried, self.key)
    }

    fn record(&mut self, outcome: Outcome) {
        let now = self.shared.clock.now();
        self.shared.lock().record(&mut self.held, outcome, now);
    }
}
