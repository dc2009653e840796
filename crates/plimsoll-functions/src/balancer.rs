//! Who takes a message, in a program of one's own, and what is remembered from one message to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use plimsoll_core::balance::{Algorithm, Policy};
use plimsoll_core::hash::hash;
use plimsoll_core::snapshot::Member;
use plimsoll_core::{
    DestinationId, DestinationStats, NoDestination, Outcome, Rng, Snapshot, Status, Tick, Tried, Want,
    balance_load,
};
use plimsoll_proxy::Clock;

use crate::config::LoadBalancingConfig;
use crate::destination::{self, Destination};
use crate::entropy;
use crate::error::LoadBalancingError;
use crate::outcome_window::Window;
use crate::pool_report;
use crate::result::{HealthStatus, LoadDistribution, PerformanceMetrics, Recommendation};

/// Balances messages over destinations and remembers: whose turn is next, who has how many in flight, and what
/// was reported.
///
/// Clones share one memory. It may be used from many threads: they take turns at a lock that is held for a
/// choice (well under a microsecond; [`balance_load`](Self::balance_load) holds it longer, to look at every
/// destination), so rotations and counts are exact over all of them. The proxy, which must scale with cores,
/// does without: see [`plimsoll_core::Snapshot`].
///
/// ```
/// # extern crate plimsoll_functions as plimsoll;
/// use plimsoll::{Destination, LoadBalancer, LoadBalancingConfig};
///
/// let destinations = [Destination::new("a", "10.0.0.1:80"), Destination::new("b", "10.0.0.2:80")];
/// let balancer = LoadBalancer::new(&destinations, &LoadBalancingConfig::default())?;
///
/// let assignment = balancer.assign()?;
/// assert_eq!(assignment.destination().id, "a");
/// // … send the message to assignment.destination().address …
/// assignment.answered(200);
/// assert_eq!(balancer.assign()?.destination().id, "b");
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

/// All that is remembered.
struct State {
    config: LoadBalancingConfig,
    snapshot: Snapshot,
    /// The destinations as given, in the order of the snapshot's members.
    given: Vec<Arc<Destination>>,
    /// Where each of them stands in it.
    places: HashMap<DestinationId, usize>,
    /// Assignments of each member when the picture was made.
    started_before: Vec<u64>,
    window: Window,
    health: pool_report::Judged,
    /// At most one for each algorithm: going back to one goes on where it was.
    policies: HashMap<Algorithm, Box<dyn Policy>>,
    dice: Rng,
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
    /// A balancer over these destinations, which remembers nothing yet.
    ///
    /// # Errors
    /// When a destination or the configuration is not good: see [`LoadBalancingError`].
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
            places: HashMap::new(),
            started_before: Vec::new(),
            window: Window::new(now),
            health: pool_report::Judged::new(now),
            policies: HashMap::new(),
            dice: Rng::new(entropy::seed()),
            next_id: 0,
        };
        state.update(destinations, config, now)?;
        Ok(Self { shared: Arc::new(Shared { clock, state: Mutex::new(state) }) })
    }

    /// Takes over a changed list or configuration. A destination is known by its id: one that stays keeps its
    /// place, its messages in flight and what was learned about it, whatever else of it changes; new ones come
    /// after those that stay. Nothing changed means nothing is done.
    ///
    /// # Errors
    /// As [`new`](Self::new); then everything stays as it was.
    pub fn update(
        &self,
        destinations: &[Destination],
        config: &LoadBalancingConfig,
    ) -> Result<(), LoadBalancingError> {
        let now = self.shared.clock.now();
        self.shared.lock().update(destinations, config, now)
    }

    /// Chooses who takes the next message.
    ///
    /// # Errors
    /// [`LoadBalancingError::NoneServing`] when no destination takes messages.
    pub fn assign(&self) -> Result<Assignment, LoadBalancingError> {
        self.shared.assign(Tried::default(), None)
    }

    /// The same for a message with a key (a session, a tenant, an address): with [`Algorithm::Hash`] or
    /// [`Algorithm::SourceHash`] the same key goes to the same destination, in every process that has the same
    /// ones. Other algorithms do not look at it; these two draw by weight for a message without.
    ///
    /// ```
    /// # extern crate plimsoll_functions as plimsoll;
    /// use plimsoll::{Algorithm, Destination, LoadBalancer, LoadBalancingConfig};
    ///
    /// let destinations = [Destination::new("a", "10.0.0.1:80"), Destination::new("b", "10.0.0.2:80")];
    /// let balancer = LoadBalancer::new(&destinations, &LoadBalancingConfig::with(Algorithm::Hash))?;
    /// let home = balancer.assign_for(b"session-7")?.destination().id.clone();
    /// assert_eq!(balancer.assign_for(b"session-7")?.destination().id, home);
    /// # Ok::<(), plimsoll::LoadBalancingError>(())
    /// ```
    ///
    /// # Errors
    /// As [`assign`](Self::assign).
    pub fn assign_for(&self, key: &[u8]) -> Result<Assignment, LoadBalancingError> {
        self.shared.assign(Tried::default(), Some(hash(key)))
    }

    /// Chooses who takes the next message, and tells how the pool stands: the seed's `balanceLoad`. Costs a
    /// look at every destination and at the outcomes of the last minute (some 20 µs for three, 1 ms for
    /// 10,000); [`assign`](Self::assign) costs neither (0.2 µs).
    ///
    /// # Errors
    /// As [`assign`](Self::assign).
    pub fn balance_load(&self) -> Result<LoadBalancingResult, LoadBalancingError> {
        let assignment = self.assign()?;
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

    /// Who got how much, and who should have.
    pub fn load_distribution(&self) -> LoadDistribution {
        self.shared.lock().distribution()
    }

    /// How many destinations may be counted on.
    pub fn health_status(&self) -> HealthStatus {
        self.shared.health(&self.shared.lock())
    }

    /// What reported outcomes say of the last minute.
    pub fn performance(&self) -> PerformanceMetrics {
        self.shared.lock().performance(self.shared.clock.now())
    }
}

impl Shared {
    /// A panic elsewhere leaves counters that are at worst one message old, so the lock is taken all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self, state: &State) -> HealthStatus {
        let since = self.clock.unix_millis(state.health.since());
        state.health.status(&state.snapshot, &state.config, since)
    }

    fn assign(self: &Arc<Self>, tried: Tried, key: Option<u64>) -> Result<Assignment, LoadBalancingError> {
        let now = self.clock.now();
        let mut state = self.lock();
        let State { snapshot, dice, .. } = &mut *state;
        let want = Want { tried: Some(&tried), key, ..Want::default() };
        let held = balance_load(snapshot, &want, now, dice)?;
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
        config.check()?;
        destination::check(destinations)?;
        let given = self.arrange(destinations);
        if given == self.given && *config == self.config {
            return Ok(());
        }
        let members = self.members(&given, now)?;
        self.places = members.iter().map(|member| member.id).zip(0..).collect();
        self.window.retain(|id| self.places.contains_key(&id));
        self.started_before = members.iter().map(|member| member.stats.counts().started).collect();
        let policy = self.policies.entry(config.algorithm).or_insert_with(|| config.algorithm.policy(1));
        let generation = self.snapshot.generation + 1;
        self.snapshot = Snapshot::build(self.snapshot.pool.clone(), generation, &**policy, members);
        (self.given, self.config) = (given, *config);
        self.judge(now);
        Ok(())
    }

    /// Those already known in the order they had, then the new ones; each with its id filled in.
    fn arrange(&self, destinations: &[Destination]) -> Vec<Arc<Destination>> {
        let places: HashMap<&str, usize> = self.given.iter().map(|known| &*known.id).zip(0..).collect();
        let mut arranged: Vec<&Destination> = destinations.iter().collect();
        arranged.sort_by_key(|destination| places.get(destination.known_as()).copied().unwrap_or(usize::MAX));
        let named = |destination: &Destination| Destination {
            id: destination.known_as().to_owned(),
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
                warmth: None,
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

    fn judge(&mut self, now: Tick) {
        self.health.turn(pool_report::health_state(&self.snapshot, &self.config), now);
    }

    /// Learns from how a message ended at its destination, if that is still one of ours.
    fn learn(&mut self, held: &mut plimsoll_core::Assignment, outcome: Outcome, now: Tick) {
        let Some(&place) = self.places.get(&held.id()) else {
            return; // It left the list while it worked.
        };
        let member = &self.snapshot.members[place];
        let failed_before = pool_report::is_failing(member);
        held.record(now, outcome);
        let turned = pool_report::is_failing(member) != failed_before;
        self.window.record(now, held.id(), outcome);
        if turned {
            self.judge(now);
        }
    }
}

/// Who takes the message, and how the pool stands. As JSON it has the seed's five fields.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancingResult {
    /// Who takes the message.
    pub selected_destination: Destination,
    /// Who got how much, and who should have. This message included.
    pub load_distribution: LoadDistribution,
    /// How many may be counted on.
    pub health_status: HealthStatus,
    /// What reported outcomes say of the last minute.
    pub performance: PerformanceMetrics,
    /// What could be better.
    pub recommendations: Vec<Recommendation>,
    /// The message's hold on its destination. Report its outcome to teach the balancer; until the assignment
    /// goes, the message counts as in flight. Dropped with the rest it counts as cancelled.
    #[serde(skip)]
    pub assignment: Assignment,
}

/// One message's hold on a destination: counted in flight until it is finished or dropped.
///
/// Dropped without a word the message counts as cancelled, and nothing is learned from it.
#[derive(Debug)]
#[must_use = "a dropped assignment is a cancelled message"]
pub struct Assignment {
    shared: Arc<Shared>,
    held: plimsoll_core::Assignment,
    destination: Arc<Destination>,
    tried: Tried,
    key: Option<u64>,
}

impl Assignment {
    /// Who takes the message.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The message is over, and this is how it ended.
    pub fn finish(mut self, outcome: Outcome) {
        self.learn(outcome);
    }

    /// The message was answered just now, with this status (200 where there is no such thing).
    pub fn answered(self, status: u16) {
        let first_byte = self.shared.clock.now().since(self.held.started());
        self.finish(Outcome::Answered { status, first_byte });
    }

    /// The message failed here: reports that, and chooses another destination for it, one it has not tried,
    /// of a backup tier if need be. Whether it may be sent twice is the caller's to know.
    ///
    /// # Errors
    /// [`LoadBalancingError::AllTried`] when no other is left (or ten were tried),
    /// [`LoadBalancingError::FailoverOff`] when the configuration forbids it. The outcome is reported in any
    /// case.
    pub fn failover(mut self, outcome: Outcome) -> Result<Self, LoadBalancingError> {
        self.learn(outcome);
        if !self.shared.lock().config.failover {
            return Err(LoadBalancingError::FailoverOff);
        }
        self.tried.add(self.held.id());
        if self.tried.is_full() {
            return Err(NoDestination::AllTried.into());
        }
        self.shared.assign(self.tried, self.key)
    }

    fn learn(&mut self, outcome: Outcome) {
        let now = self.shared.clock.now();
        self.shared.lock().learn(&mut self.held, outcome, now);
    }
}
