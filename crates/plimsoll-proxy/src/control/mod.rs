//! The control plane: applies configurations, all or nothing, and answers queries.

pub(crate) mod views;

mod balance;
mod commit;
mod error;
mod explain;
mod logs;
mod look;
mod prepare;
pub(crate) mod resolver;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use plimsoll_config::model::{Config, ListenAddress};
use plimsoll_core::Name;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::base::clock::Clock;
use crate::base::counters::{PerWorker, RouteCounters};
use crate::base::log_writer::LogState;
use crate::base::timer::start_ticker;
pub use crate::control::error::{InvalidConfig, ReloadError, StartError};
pub use crate::control::explain::{CandidateView, ExplainError, ExplainQuery, ExplanationView};
use crate::control::logs::Logs;
pub use crate::control::look::LoadReportError;
use crate::control::prepare::{HeldAddress, TlsConfigs, bind, find_adapters, load_tls};
use crate::control::resolver::{LookupCounts, ResolvedNames, resolve};
use crate::control::views::ReloadsView;
use crate::health::driver::DriverCommand;
use crate::listener::bind::{SocketFile, SocketSettings};
use crate::listener::tables::{ListenerShared, ListenerTable};
use crate::run::registry::Adapters;
use crate::run::worker::{self, Command};
use crate::run::worker_thread::{allowed_cpus, spawn_worker};
use crate::upstream::table::PoolTable;
use crate::upstream::wait_queue::WorkerWaker;

/// Time limit of reading the files of a configuration.
const FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the configuration for a reload.
pub type ConfigSource = Box<dyn Fn() -> Result<Config, InvalidConfig> + Send + Sync>;

/// A running data plane and its control plane.
#[derive(Debug)]
pub struct Proxy {
    handle: Handle,
    threads: Vec<std::thread::JoinHandle<()>>,
    log_threads: Vec<std::thread::JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<usize>,
}

/// Handle of a running proxy: queries, reload and drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

struct Shared {
    clock: Clock,
    workers: usize,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    source: ConfigSource,
    adapters: Adapters,
    state: Mutex<State>,
    /// Held by the running reload.
    reloading: tokio::sync::Mutex<()>,
    log: Arc<LogState>,
    decision_log: Arc<LogState>,
    draining: AtomicBool,
    /// Wakers of the workers, for queued requests.
    wakers: Box<[Waker]>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers).finish_non_exhaustive()
    }
}

struct State {
    /// Configuration of the start: its workers, admin API and logs stay in force.
    started: Arc<Config>,
    config: Arc<Config>,
    listeners: HashMap<Name, ListenerState>,
    pools: HashMap<Name, PoolState>,
    counters: HashMap<[Name; 3], Arc<PerWorker<RouteCounters>>>,
    tables: Vec<Arc<ListenerTable>>,
    reloads: ReloadsView,
    /// Latest number of a socket or a pool.
    next: u64,
    /// TLS configurations in force.
    tls: TlsConfigs,
}

struct ListenerState {
    shared: Arc<ListenerShared>,
    sockets: Vec<BoundAddress>,
}

struct BoundAddress {
    wanted: ListenAddress,
    actual: ListenAddress,
    settings: SocketSettings,
    number: u64,
    /// File of a Unix socket.
    file: Option<SocketFile>,
}

struct PoolState {
    table: Arc<PoolTable>,
    commands: mpsc::UnboundedSender<DriverCommand>,
    /// Addresses of the host names, in force.
    names: ResolvedNames,
    lookups: LookupCounts,
}

impl Proxy {
    /// Applies `config`: binds its listeners, and starts its workers and drivers.
    ///
    /// Needs a tokio runtime, which runs the control plane. `source` is called at each reload. `adapters` are the
    /// protocols and the additional health checks.
    ///
    /// # Errors
    /// The configuration cannot be applied: see [`StartError`]. Nothing is left running.
    pub async fn start(config: Config, source: ConfigSource, adapters: Adapters) -> Result<Self, StartError> {
        let clock = Clock::start();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = config.workers.map_or(cpus, usize::from);
        let pin = workers == cpus && workers == allowed_cpus();
        let logs = Logs::start(&config)?;
        let (config, adapters, tls) = read_files("TLS files", move || {
            find_adapters(&config, &adapters)?;
            let tls = load_tls(&config, &adapters, &TlsConfigs::default())?;
            Ok((config, adapters, tls))
        })
        .await??;
        let names = resolve(&config, &adapters.lookup(), &BTreeMap::new()).await;
        let sockets = bind(&config, &HashMap::new(), workers)?;
        let (ended_to, ended) = mpsc::unbounded_channel();
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        let mut ticks = Vec::new();
        for number in 0..workers {
            let (to, from) = mpsc::unbounded_channel();
            commands.push(to);
            let seed =
                SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64) ^ (number as u64) << 48;
            let tick = Arc::new(Notify::new());
            ticks.push(Arc::downgrade(&tick));
            let start = worker::Start {
                number,
                workers,
                clock,
                seed,
                log: logs.access.clone(),
                decisions: logs.decisions.clone(),
                tick,
                commands: from,
            };
            let thread = spawn_worker(start, pin, ended_to.clone());
            threads.push(thread.map_err(|error| StartError::System { what: "start a worker", error })?);
        }
        let wakers = ticks.iter().cloned().map(|tick| Waker::from(Arc::new(WorkerWaker(tick)))).collect();
        start_ticker(ticks).map_err(|error| StartError::System { what: "start the ticker", error })?;
        let handle = Handle(Arc::new(Shared {
            clock,
            workers,
            commands,
            source,
            adapters,
            state: Mutex::new(State::new(config.clone())),
            reloading: tokio::sync::Mutex::default(),
            log: logs.access_state,
            decision_log: logs.decisions_state,
            draining: AtomicBool::new(false),
            wakers,
        }));
        handle.commit(config, tls, names, sockets);
        Ok(Self { handle, threads, log_threads: logs.threads, ended })
    }

    /// Returns a handle for queries and commands.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until all workers have ended their drain. Call [`Handle::drain`] first.
    pub async fn ended(&mut self) {
        for _ in 0..self.threads.len() {
            if self.ended.recv().await.is_none() {
                break;
            }
        }
        for thread in self.threads.drain(..) {
            let _panic_was_logged = thread.join();
        }
        logs::wait_until_written(std::mem::take(&mut self.log_threads)).await;
    }
}

/// Reads files on a thread of its own, because a pipe or a dead mount may never deliver them.
///
/// # Errors
/// The files were not read in time. The thread goes on waiting; its result is dropped.
async fn read_files<T: Send + 'static>(
    what: &'static str,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StartError> {
    let failed = |error| StartError::System { what: "read files", error };
    let (reply, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("files".into());
    let read = move || drop(reply.send(read()));
    thread.spawn(read).map_err(failed)?;
    let late = || {
        let seconds = FILES_TIMEOUT.as_secs();
        failed(io::Error::new(io::ErrorKind::TimedOut, format!("{what}: not read within {seconds} s")))
    };
    let result = tokio::time::timeout(FILES_TIMEOUT, result).await.map_err(|_| late())?;
    result.map_err(|_| failed(io::Error::other("the thread ended unexpectedly")))
}

impl State {
    /// Returns the state before the first commit.
    fn new(config: Config) -> Self {
        let config = Arc::new(config);
        Self {
            started: config.clone(),
            config,
            listeners: HashMap::new(),
            pools: HashMap::new(),
            counters: HashMap::new(),
            tables: Vec::new(),
            tls: TlsConfigs::default(),
            reloads: ReloadsView { last_succeeded: true, last_success_at: epoch_now(), ..Default::default() },
            next: 0,
        }
    }
}

fn epoch_now() -> f64 {
    Clock::wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Handle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the configuration again and applies it, all or nothing. Pools keep their connections, health, counters and
    /// rotation; listeners keep their sockets.
    ///
    /// # Errors
    /// The reload was rejected: see [`ReloadError`]. The old configuration stays in force.
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
                tracing::error!(
                    event = "reload_rejected",
                    "reload rejected, the old configuration stays in force: {error}"
                );
            }
        }
        state.reloads.last_succeeded = result.is_ok();
        result
    }

    async fn try_reload(&self) -> Result<String, ReloadError> {
        if self.is_draining() {
            return Err(ReloadError::Draining);
        }
        let handle = self.clone();
        let read = read_files("configuration", move || {
            let config = (handle.0.source)().map_err(ReloadError::Invalid)?;
            find_adapters(&config, &handle.0.adapters).map_err(ReloadError::Start)?;
            let before = handle.state().tls.clone();
            let tls = load_tls(&config, &handle.0.adapters, &before).map_err(ReloadError::Start)?;
            Ok((config, tls))
        });
        let (config, tls) = read.await.map_err(ReloadError::Start)??;
        let known =
            self.state().pools.iter().map(|(name, pool)| (name.clone(), pool.names.clone())).collect();
        let names = resolve(&config, &self.0.adapters.lookup(), &known).await;
        let (started, old, current) = {
            let state = self.state();
            let held = |b: &BoundAddress| HeldAddress {
                wanted: b.wanted.clone(),
                actual: b.actual.clone(),
                settings: b.settings,
            };
            let held = |l: &ListenerState| l.sockets.iter().map(held).collect::<Vec<_>>();
            let current = state.listeners.iter().map(|(name, l)| (name.clone(), held(l))).collect();
            (state.started.clone(), state.config.clone(), current)
        };
        let sockets = bind(&config, &current, self.0.workers).map_err(ReloadError::Start)?;
        let renewed = tls.renewed_since(&self.state().tls, &old, &config);
        let summary = summary(&started, &old, &config, renewed);
        self.commit(config, tls, names, sockets);
        self.wait_until_adopted().await;
        Ok(summary)
    }

    /// Waits until all drivers have published and all workers have adopted the commit, so that the next request meets the
    /// configuration that is reported as applied.
    async fn wait_until_adopted(&self) {
        let drivers: Vec<_> = self.state().pools.values().map(|pool| pool.commands.clone()).collect();
        for commands in drivers {
            let (reply, done) = oneshot::channel();
            let _driver_has_ended = commands.send(DriverCommand::Report(reply));
            let _driver_has_ended = done.await;
        }
        for worker in &self.0.commands {
            let (reply, done) = oneshot::channel();
            let _worker_has_ended = worker.send(Command::Sync(reply));
            let _worker_has_ended = done.await;
        }
    }

    /// Stops accepting and finishes active requests. [`Proxy::ended`] waits for the end.
    pub fn drain(&self) {
        if !self.0.draining.swap(true, Relaxed) {
            let state = self.state();
            let bound = state.listeners.values().flat_map(|listener| &listener.sockets);
            bound.filter_map(|bound| bound.file.as_ref()).for_each(SocketFile::remove);
            for worker in &self.0.commands {
                let _worker_has_ended = worker.send(Command::Drain);
            }
        }
    }

    /// Closes the connections that a drain still waits for. Does nothing before a drain.
    pub fn abort(&self) {
        for worker in &self.0.commands {
            let _worker_has_ended = worker.send(Command::Abort);
        }
    }

    /// Returns whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Relaxed)
    }

    /// Reopens the log files, for log rotation.
    pub fn reopen_logs(&self) {
        self.0.log.reopen.store(true, Relaxed);
        self.0.decision_log.reopen.store(true, Relaxed);
    }

    /// Returns the time limit of a drain.
    pub fn shutdown_grace(&self) -> Duration {
        self.state().config.shutdown_grace
    }

    /// Returns the clock of all times in views. It started with the proxy.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Returns the number of data-plane threads.
    pub fn workers(&self) -> usize {
        self.0.workers
    }
}

/// Summarizes the changes of a reload in one line. `started` is the configuration of the start, parts of which stay in
/// force, and `renewed` the number of renewed TLS configurations.
fn summary(started: &Config, old: &Config, new: &Config, renewed: usize) -> String {
    let mut parts = Vec::new();
    let names = |config: &Config| config.pools.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let (before, after) = (names(old), names(new));
    let added = after.iter().filter(|name| !before.contains(name)).count();
    let removed = before.iter().filter(|name| !after.contains(name)).count();
    let changed = new.pools.iter().filter(|p| old.pools.iter().any(|o| o.name == p.name && o != *p)).count();
    let listeners = new.listeners.iter().filter(|l| !old.listeners.contains(l)).count();
    parts.push(format!("pools: {added} added, {removed} removed, {changed} changed"));
    parts.push(format!("listeners: {listeners} new or changed"));
    if renewed > 0 {
        parts.push(format!("TLS files: renewed for {renewed} listeners and pools"));
    }
    let waiting: Vec<&str> = [
        ("workers", started.workers != new.workers),
        ("admin", started.admin != new.admin),
        ("access_log", started.access_log != new.access_log),
        ("decision_log", started.decision_log != new.decision_log),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect();
    if !waiting.is_empty() {
        let keys = waiting.join(", ");
        parts.push(format!("not in force before the next start: the changed {keys}"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_compares_with_what_is_in_force() {
        let config = |text: &str| {
            let text = format!("listen: '127.0.0.1:1'\ndestinations: ['127.0.0.1:2']\n{text}");
            let loaded = plimsoll_config::load(&text, "test", std::path::Path::new("/"), &|_| None);
            loaded.config.expect("a valid configuration")
        };
        let (started, other) = (config("workers: 1"), config("workers: 2"));
        assert!(summary(&started, &started, &other, 0).ends_with("the changed workers"));
        // The second reload of the same file: the number of workers is still that of the start.
        assert!(summary(&started, &other, &other, 0).ends_with("the changed workers"));
        assert!(!summary(&started, &other, &started, 0).contains("next start"));
        assert!(summary(&started, &started, &started, 2).contains("renewed for 2 listeners and pools"));
    }
}
