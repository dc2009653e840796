//! How a configuration is put to work: all of it or nothing, and what it keeps of the one before.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use plimsoll_config::Problem;
use plimsoll_config::model::{
    Config, DestinationAddress, ListenAddress, Listener, Pool as PoolConfig, Protocol,
};
use plimsoll_core::health::ProbeKind;
use plimsoll_core::pool::{Input, Pool, PoolSpec};
use plimsoll_core::retry::Budget;
use plimsoll_core::{Address, Destination, Name, Rng, Snapshot};
use tokio::sync::{mpsc, oneshot};

use crate::access_log::{self, LogSender, LogState};
use crate::clock::Clock;
use crate::counters::{PerWorker, RuleTally};
use crate::driver::{Driver, Order, PoolReport, SUSPECTS};
use crate::listener::{self, Socket};
use crate::tables::{Edits, Feed, ListenerShared, ListenerTable, PoolTable, RuleTable};
use crate::views::{DestinationView, ListenerView, PoolView, ReloadsView, RuleView, TrafficView};
use crate::worker::{self, Command, DoorOrder};

/// Reads the configuration anew.
pub type Source = Box<dyn Fn() -> Result<Config, Invalid> + Send + Sync>;

/// Why there is no configuration to put to work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalid {
    /// For people: the words of `plimsoll check`.
    pub text: String,
    /// For programs; empty when nothing could be read at all.
    pub problems: Vec<Problem>,
}

impl From<&str> for Invalid {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), problems: Vec::new() }
    }
}

/// Why a configuration could not be put to work. Nothing of it was.
#[derive(Debug)]
pub enum StartError {
    /// A destination's name did not resolve.
    Resolve {
        /// The pool.
        pool: Name,
        /// The destination.
        destination: Name,
        /// What the resolver said.
        error: io::Error,
    },
    /// A listener's address could not be bound.
    Bind {
        /// The listener.
        listener: Name,
        /// The address.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// A thread or a file of our own.
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { pool, destination, error } => {
                write!(f, "pool {pool}: destination {destination} cannot be resolved: {error}")
            }
            Self::Bind { listener, address, error } => {
                write!(f, "listener {listener}: cannot listen on {address}: {error}")
            }
            Self::System { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a reload was refused; the old configuration goes on.
#[derive(Debug)]
pub enum ReloadError {
    /// The file is not valid, in the words of `plimsoll check`.
    Invalid(Invalid),
    /// It is, and cannot be put to work here.
    Start(StartError),
    /// The proxy is shutting down.
    Draining,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => f.write_str(&invalid.text),
            Self::Start(error) => error.fmt(f),
            Self::Draining => f.write_str("the proxy is shutting down"),
        }
    }
}

impl std::error::Error for ReloadError {}

/// A running data plane and its control plane.
#[derive(Debug)]
pub struct Proxy {
    handle: Handle,
    threads: Vec<std::thread::JoinHandle<()>>,
    log_thread: Option<std::thread::JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<usize>,
}

/// A hold on a running proxy: looks at it, reloads it, drains it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

struct Shared {
    clock: Clock,
    workers: usize,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    source: Source,
    state: Mutex<State>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    log: Arc<LogState>,
    draining: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers).finish_non_exhaustive()
    }
}

struct State {
    config: Arc<Config>,
    listeners: HashMap<Name, ListenerState>,
    pools: HashMap<Name, PoolState>,
    tallies: HashMap<[Name; 3], Arc<PerWorker<RuleTally>>>,
    tables: Vec<Arc<ListenerTable>>,
    reloads: ReloadsView,
    /// The next number for a socket or a pool.
    next: u64,
}

struct ListenerState {
    shared: Arc<ListenerShared>,
    sockets: Vec<BoundAddress>,
}

#[derive(Clone)]
struct BoundAddress {
    wanted: ListenAddress,
    actual: ListenAddress,
    number: u64,
}

struct PoolState {
    table: Arc<PoolTable>,
    orders: mpsc::UnboundedSender<Order>,
}

/// Sockets bound for a configuration that is not in force yet.
type NewSockets = HashMap<(Name, ListenAddress), (ListenAddress, Vec<socket2::Socket>)>;
type Resolved = Vec<Vec<Destination>>;

impl Proxy {
    /// Puts `config` to work: binds its listeners, starts its workers and drivers. Needs a tokio runtime,
    /// which becomes the control plane. `source` is asked at every reload.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub async fn start(config: Config, source: Source) -> Result<Self, StartError> {
        let clock = Clock::start();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.workers.map_or(cpus, usize::from);
        let log_state = Arc::new(LogState::default());
        let (log, log_thread) = match &config.access_log {
            None => (None, None),
            Some(target) => {
                let (sender, thread) = access_log::start(target, log_state.clone())
                    .map_err(|error| StartError::System { what: "open the access log", error })?;
                (Some(sender), Some(thread))
            }
        };
        let resolved = resolve(&config).await?;
        let sockets = bind(&config, &HashMap::new(), workers)?;
        let (ended_to, ended) = mpsc::unbounded_channel();
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        for number in 0..workers {
            let (to, from) = mpsc::unbounded_channel();
            commands.push(to);
            let thread = spawn_worker(number, workers == cpus, clock, log.clone(), from, ended_to.clone());
            threads.push(thread.map_err(|error| StartError::System { what: "start a worker", error })?);
        }
        let state = State {
            config: Arc::new(config.clone()),
            listeners: HashMap::new(),
            pools: HashMap::new(),
            tallies: HashMap::new(),
            tables: Vec::new(),
            reloads: ReloadsView { last_succeeded: true, last_success_at: epoch_now(), ..Default::default() },
            next: 0,
        };
        let handle = Handle(Arc::new(Shared {
            clock,
            workers,
            commands,
            source,
            state: Mutex::new(state),
            reloading: tokio::sync::Mutex::default(),
            log: log_state,
            draining: AtomicBool::new(false),
        }));
        handle.commit(config, resolved, sockets);
        Ok(Self { handle, threads, log_thread, ended })
    }

    /// A hold on it for whoever looks or commands.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until every worker has ended its drain. Call [`Handle::drain`] first.
    pub async fn ended(&mut self) {
        for _ in 0..self.threads.len() {
            if self.ended.recv().await.is_none() {
                break;
            }
        }
        for thread in self.threads.drain(..) {
            let _panicked_and_said_so = thread.join();
        }
        if let Some(thread) = self.log_thread.take() {
            let _panicked_and_said_so = thread.join();
        }
    }
}

fn spawn_worker(
    number: usize,
    pin: bool,
    clock: Clock,
    log: Option<LogSender>,
    commands: mpsc::UnboundedReceiver<Command>,
    ended: mpsc::UnboundedSender<usize>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let seed = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64) ^ (number as u64) << 48;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if pin {
            pin_to(number);
        }
        let start = worker::Start { number, clock, seed, log, commands };
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => runtime.block_on(worker::run(start)),
            Err(error) => tracing::error!(%error, "a worker cannot start"),
        }
        let _nobody_waits = ended.send(number);
    })
}

/// Keeps this thread on the `number`-th CPU it may use. Only done when there is one worker for each, so two
/// programs with fewer workers do not end up on the same CPU.
fn pin_to(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    if let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).nth(number) {
        let mut only = CpuSet::new();
        only.set(cpu);
        let _an_optimisation_only = sched_setaffinity(None, &only);
    }
}

fn epoch_now() -> f64 {
    Clock::wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Every destination of every pool with its address looked up.
async fn resolve(config: &Config) -> Result<Resolved, StartError> {
    let mut pools = Vec::new();
    for pool in &config.pools {
        let mut members = Vec::new();
        for d in &pool.destinations {
            let address = match &d.address {
                DestinationAddress::Socket(address) => Address::Socket(*address),
                DestinationAddress::Unix(path) => Address::Unix(path.as_path().into()),
                DestinationAddress::Name(host, port) => {
                    let failed = |error| StartError::Resolve {
                        pool: pool.name.clone(),
                        destination: d.name.clone(),
                        error,
                    };
                    let mut found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(failed)?;
                    Address::Socket(found.next().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?)
                }
            };
            members.push(Destination {
                name: d.name.clone(),
                address,
                weight: d.weight,
                priority: d.priority,
                zone: d.zone.clone(),
                labels: d.labels.clone(),
            });
        }
        pools.push(members);
    }
    Ok(pools)
}

/// Binds every address no listener of `current` has yet.
fn bind(
    config: &Config,
    current: &HashMap<Name, Vec<ListenAddress>>,
    workers: usize,
) -> Result<NewSockets, StartError> {
    let mut sockets = NewSockets::new();
    for l in &config.listeners {
        for address in &l.addresses {
            let key = (l.name.clone(), address.clone());
            if current.get(&l.name).is_some_and(|have| have.contains(address)) || sockets.contains_key(&key) {
                continue;
            }
            let bound = listener::bind(address, workers).map_err(|error| StartError::Bind {
                listener: l.name.clone(),
                address: show(address),
                error,
            })?;
            sockets.insert(key, bound);
        }
    }
    Ok(sockets)
}

fn show(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Socket(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn spec_of(pool: &PoolConfig) -> PoolSpec {
    PoolSpec {
        algorithm: pool.algorithm,
        health: pool.health.clone(),
        parallel_checks: pool.parallel_checks,
        outlier: pool.outlier,
        backup_tiers: pool.backup_tiers,
    }
}

impl Handle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a prepared configuration into force. Nothing here can fail.
    fn commit(&self, config: Config, resolved: Resolved, mut sockets: NewSockets) {
        let mut state = self.state();
        let pools: Vec<_> = config
            .pools
            .iter()
            .zip(resolved)
            .map(|(pool, members)| self.pool(&mut state, pool, members))
            .collect();
        state.pools.retain(|name, _| config.pools.iter().any(|pool| pool.name == *name));
        let mut orders: Vec<Vec<DoorOrder>> = (0..self.0.workers).map(|_| Vec::new()).collect();
        let mut tables = Vec::new();
        for l in &config.listeners {
            let table = self.table(&mut state, l, &pools);
            self.doors(&mut state, l, &table, &mut sockets, &mut orders);
            tables.push(table);
        }
        state.listeners.retain(|name, _| config.listeners.iter().any(|l| l.name == *name));
        let used: Vec<_> = tables.iter().flat_map(|t| t.rules.iter().map(|r| r.tallies.clone())).collect();
        state.tallies.retain(|_, tally| used.iter().any(|u| Arc::ptr_eq(u, tally)));
        state.tables = tables;
        state.config = Arc::new(config);
        for (worker, orders) in self.0.commands.iter().zip(orders) {
            let _worker_has_ended = worker.send(Command::Doors(orders));
        }
    }

    /// The pool of that name, told of its new configuration, or a new one with a driver of its own.
    fn pool(&self, state: &mut State, config: &Arc<PoolConfig>, members: Vec<Destination>) -> Arc<PoolTable> {
        let spec = spec_of(config);
        if let Some(known) = state.pools.get_mut(&config.name) {
            known.table.budget.set_share(config.retry.budget);
            for input in [Input::Spec(spec), Input::Members(members)] {
                let _driver_has_ended = known.orders.send(Order::Input(Box::new(input)));
            }
            let old = &known.table;
            known.table = Arc::new(PoolTable {
                number: old.number,
                config: config.clone(),
                feed: old.feed.clone(),
                budget: old.budget.clone(),
                suspects: old.suspects.clone(),
                tallies: old.tallies.clone(),
            });
            return known.table.clone();
        }
        state.next += 1;
        let (orders, from_control) = mpsc::unbounded_channel();
        let (suspects, from_workers) = mpsc::channel(SUSPECTS);
        let clock = self.0.clock;
        let rng = Rng::new(state.next ^ clock.now().as_nanos());
        let pool = Pool::new(config.name.clone(), spec, members, self.0.workers, rng, clock.now());
        let feed = Arc::new(Feed::new(pool.snapshot().clone()));
        let budget = Arc::new(Budget::new(config.retry.budget, self.0.workers));
        let table = Arc::new(PoolTable {
            number: state.next,
            config: config.clone(),
            feed: feed.clone(),
            budget: budget.clone(),
            suspects,
            tallies: Arc::new(PerWorker::new(self.0.workers)),
        });
        let driver = Driver { pool, orders: from_control, suspects: from_workers, feed, budget, clock };
        tokio::spawn(driver.run());
        state.pools.insert(config.name.clone(), PoolState { table: table.clone(), orders });
        table
    }

    fn table(
        &self,
        state: &mut State,
        config: &Arc<Listener>,
        pools: &[Arc<PoolTable>],
    ) -> Arc<ListenerTable> {
        let mut rule = |name: &Name, matches, pool: usize, edits: [Edits; 2]| {
            let pool = pools[pool].clone();
            let key = [config.name.clone(), name.clone(), pool.config.name.clone()];
            let tallies =
                state.tallies.entry(key).or_insert_with(|| Arc::new(PerWorker::new(self.0.workers))).clone();
            let [request_edits, response_edits] = edits;
            Arc::new(RuleTable { name: name.clone(), matches, pool, request_edits, response_edits, tallies })
        };
        let mut rules: Vec<_> = config
            .routes
            .iter()
            .map(|r| {
                let edits = [
                    Edits::fold(&[&config.request_headers, &r.request_headers]),
                    Edits::fold(&[&config.response_headers, &r.response_headers]),
                ];
                rule(&r.name, Some(r.matches.clone()), r.pool, edits)
            })
            .collect();
        if let Some(pool) = config.pool {
            let edits = [Edits::fold(&[&config.request_headers]), Edits::fold(&[&config.response_headers])];
            rules.push(rule(&"default".into(), None, pool, edits));
        }
        let shared =
            state.listeners.get(&config.name).map(|known| known.shared.clone()).unwrap_or_else(|| {
                Arc::new(ListenerShared {
                    tallies: PerWorker::new(self.0.workers),
                    open: AtomicUsize::new(0),
                })
            });
        Arc::new(ListenerTable { config: config.clone(), rules, shared })
    }

    /// Which sockets of a listener open and close at each worker.
    fn doors(
        &self,
        state: &mut State,
        config: &Arc<Listener>,
        table: &Arc<ListenerTable>,
        sockets: &mut NewSockets,
        orders: &mut [Vec<DoorOrder>],
    ) {
        let known = state
            .listeners
            .entry(config.name.clone())
            .or_insert_with(|| ListenerState { shared: table.shared.clone(), sockets: Vec::new() });
        let (keep, gone): (Vec<_>, Vec<_>) =
            known.sockets.drain(..).partition(|bound| config.addresses.contains(&bound.wanted));
        known.sockets = keep;
        let close: Vec<u64> = gone.iter().map(|bound| bound.number).collect();
        let mut open: Vec<Vec<Socket>> = (0..orders.len()).map(|_| Vec::new()).collect();
        for wanted in &config.addresses {
            let Some((actual, bound)) = sockets.remove(&(config.name.clone(), wanted.clone())) else {
                continue;
            };
            state.next += 1;
            tracing::info!(listener = %config.name, address = show(&actual), "listening");
            known.sockets.push(BoundAddress { wanted: wanted.clone(), actual, number: state.next });
            for (open, inner) in open.iter_mut().zip(bound) {
                open.push(Socket { number: state.next, inner });
            }
        }
        for (orders, open) in orders.iter_mut().zip(open) {
            orders.push(DoorOrder { table: table.clone(), open, close: close.clone() });
        }
    }

    /// Reads the configuration again and puts it to work: all or nothing. Pools keep their connections,
    /// health, counters and rotation; listeners keep their sockets.
    ///
    /// # Errors
    /// [`ReloadError`]; the old configuration goes on untouched.
    pub async fn reload(&self) -> Result<String, ReloadError> {
        let _one_at_a_time = self.0.reloading.lock().await;
        let result = self.try_reload().await;
        let mut state = self.state();
        match &result {
            Ok(summary) => {
                state.reloads.succeeded += 1;
                state.reloads.last_success_at = epoch_now();
                tracing::info!(event = "reloaded", "{summary}");
            }
            Err(error) => {
                state.reloads.failed += 1;
                tracing::error!(event = "reload_refused", "the old configuration goes on: {error}");
            }
        }
        state.reloads.last_succeeded = result.is_ok();
        result
    }

    async fn try_reload(&self) -> Result<String, ReloadError> {
        if self.is_draining() {
            return Err(ReloadError::Draining);
        }
        let config = (self.0.source)().map_err(ReloadError::Invalid)?;
        let resolved = resolve(&config).await.map_err(ReloadError::Start)?;
        let (old, current) = {
            let state = self.state();
            let wanted = |l: &ListenerState| l.sockets.iter().map(|b| b.wanted.clone()).collect::<Vec<_>>();
            let current = state.listeners.iter().map(|(name, l)| (name.clone(), wanted(l))).collect();
            (state.config.clone(), current)
        };
        let sockets = bind(&config, &current, self.0.workers).map_err(ReloadError::Start)?;
        let summary = summary(&old, &config);
        self.commit(config, resolved, sockets);
        self.settled().await;
        Ok(summary)
    }

    /// Waits until every driver has published and every worker has taken over what was committed: what was
    /// told as applied is what the next request meets.
    async fn settled(&self) {
        let drivers: Vec<_> = self.state().pools.values().map(|pool| pool.orders.clone()).collect();
        for orders in drivers {
            let (ask, answer) = oneshot::channel();
            let _driver_has_ended = orders.send(Order::Report(ask));
            let _driver_has_ended = answer.await;
        }
        for worker in &self.0.commands {
            let (ask, answer) = oneshot::channel();
            let _worker_has_ended = worker.send(Command::Settled(ask));
            let _worker_has_ended = answer.await;
        }
    }

    /// Takes nothing new, finishes what runs. [`Proxy::ended`] tells when.
    pub fn drain(&self) {
        if !self.0.draining.swap(true, Relaxed) {
            for worker in &self.0.commands {
                let _worker_has_ended = worker.send(Command::Drain);
            }
        }
    }

    /// Ends what a drain still waits for: connections are closed as they are. Nothing before a drain.
    pub fn cut(&self) {
        for worker in &self.0.commands {
            let _worker_has_ended = worker.send(Command::Cut);
        }
    }

    /// A drain has begun.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Relaxed)
    }

    /// The access log's file is opened anew, for log rotation.
    pub fn reopen_logs(&self) {
        self.0.log.reopen.store(true, Relaxed);
    }

    /// How long a drain may take.
    pub fn shutdown_grace(&self) -> Duration {
        self.state().config.shutdown_grace
    }

    /// The clock all moments in views are of. It started with the proxy.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Data-plane threads.
    pub fn workers(&self) -> usize {
        self.0.workers
    }

    /// Where listeners really listen, by listener, port 0 resolved.
    pub fn addresses(&self) -> Vec<(Name, Vec<ListenAddress>)> {
        let state = self.state();
        let actual = |name: &Name| {
            state.listeners.get(name).map(|l| l.sockets.iter().map(|b| b.actual.clone()).collect())
        };
        state.config.listeners.iter().map(|l| (l.name.clone(), actual(&l.name).unwrap_or_default())).collect()
    }

    /// Every pool, in configured order.
    pub async fn pools(&self) -> Vec<PoolView> {
        let pools: Vec<_> = {
            let state = self.state();
            let known = state.config.pools.iter().filter_map(|config| state.pools.get(&config.name));
            known.map(|pool| (pool.table.clone(), pool.orders.clone())).collect()
        };
        let mut views = Vec::new();
        for (table, orders) in pools {
            let (ask, answer) = oneshot::channel();
            let _driver_has_ended = orders.send(Order::Report(ask));
            views.push(view_of(&table, answer.await.unwrap_or_default()));
        }
        views
    }

    /// Everything counted outside pools.
    pub fn traffic(&self) -> TrafficView {
        let state = self.state();
        let protocol = |p| if p == Protocol::Http { "http" } else { "tcp" };
        let listeners = state.tables.iter().map(|table| ListenerView {
            name: table.config.name.clone(),
            protocol: protocol(table.config.protocol),
            addresses: state
                .listeners
                .get(&table.config.name)
                .map_or(Vec::new(), |l| l.sockets.iter().map(|bound| show(&bound.actual)).collect()),
            counts: table.shared.tallies.counts(),
        });
        let rules = state.tables.iter().flat_map(|table| {
            table.rules.iter().map(move |rule| RuleView {
                listener: table.config.name.clone(),
                route: rule.name.clone(),
                pool: rule.pool.config.name.clone(),
                protocol: protocol(table.config.protocol),
                counts: rule.tallies.counts(),
            })
        });
        TrafficView {
            listeners: listeners.collect(),
            rules: rules.collect(),
            log_dropped: self.0.log.dropped.load(Relaxed),
            reloads: state.reloads,
        }
    }
}

/// One line on what a reload changes.
fn summary(old: &Config, new: &Config) -> String {
    let mut parts = Vec::new();
    let names = |config: &Config| config.pools.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    let added = after.iter().filter(|name| !before.contains(name)).count();
    let removed = before.iter().filter(|name| !after.contains(name)).count();
    let changed = new.pools.iter().filter(|p| old.pools.iter().any(|o| o.name == p.name && o != *p)).count();
    let listeners = new.listeners.iter().filter(|l| !old.listeners.contains(l)).count();
    parts.push(format!("pools: {added} added, {removed} removed, {changed} changed"));
    parts.push(format!("listeners: {listeners} new or changed"));
    if old.workers != new.workers || old.admin != new.admin || old.access_log != new.access_log {
        parts.push("changes of workers, admin and access_log take effect at the next start".into());
    }
    parts.join("; ")
}

/// The share each member should get: of the first tier, by weight where the algorithm heeds weights.
fn intended_shares(table: &PoolTable, snapshot: &Snapshot) -> Vec<f64> {
    let mut shares = vec![0.0; snapshot.members.len()];
    let first = snapshot.tiers.first().map(|tier| tier.slots.clone()).unwrap_or_default();
    let pull = |weight: u32| if table.config.algorithm.heeds_weights() { f64::from(weight) } else { 1.0 };
    let pulls: f64 = first.iter().map(|slot| pull(slot.weight)).sum();
    for slot in first.iter() {
        shares[slot.rank as usize] = pull(slot.weight) / pulls;
    }
    shares
}

fn view_of(table: &PoolTable, mut report: PoolReport) -> PoolView {
    let snapshot = table.feed.latest();
    let intended = intended_shares(table, &snapshot);
    let mut reports: HashMap<Name, _> =
        report.destinations.into_iter().map(|r| (r.name.clone(), r)).collect();
    let destinations = snapshot.members.iter().zip(intended).map(|(member, intended_share)| {
        let d = &member.destination;
        DestinationView {
            name: d.name.clone(),
            address: d.address.to_string(),
            weight: d.weight.get(),
            effective_weight: member.weight,
            intended_share,
            priority: d.priority,
            standing: member.standing,
            since: member.since,
            in_flight: member.live.in_flight(),
            streak: member.live.streak(),
            counts: member.live.counts(),
            report: reports.remove(&d.name),
            checks: report.checks.remove(&d.name).unwrap_or_default(),
            transitions: report.transitions.remove(&d.name).unwrap_or_default(),
        }
    });
    PoolView {
        name: snapshot.pool.clone(),
        algorithm: snapshot.algorithm,
        generation: snapshot.generation,
        destinations: destinations.collect(),
        check_type: table.config.health.as_ref().map(|spec| match spec.probe {
            ProbeKind::Tcp => "tcp",
            ProbeKind::Http { .. } => "http",
        }),
        outlier: table.config.outlier,
        state_since: report.state_since,
        counts: table.tallies.counts(),
        ejections: report.ejections,
    }
}
