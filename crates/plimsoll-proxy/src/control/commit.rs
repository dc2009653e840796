//! Commit of a prepared configuration: which state is kept, created or removed. No step can fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use plimsoll_config::model::{Config, HashKey, Listener, MemoryLimit, Pool as PoolConfig, ProxyProtocol};
use plimsoll_core::balance::AlgorithmSettings;
use plimsoll_core::health::ProbeKind;
use plimsoll_core::pool::{Input, Pool, PoolSpec};
use plimsoll_core::retry::RetryBudget;
use plimsoll_core::{Name, PoolLimits, Rng};
use tokio::sync::mpsc;

use crate::base::counters::PerWorker;
use crate::base::memory;
use crate::control::prepare::{NewSockets, TlsConfigs, format_address, max_concurrent_requests};
use crate::control::resolver::{LookupCounts, ResolvedNames, keep_resolved};
use crate::control::{BoundAddress, Handle, ListenerState, PoolState, State};
use crate::health::driver::{Driver, DriverCommand, SIGNAL_QUEUE};
use crate::health::observer::{PoolObserver, ReportingOptions};
use crate::health::probe::{ProbeConfig, ProbeTransport};
use crate::http::header_edits::{decisive_fields, fold_edits};
use crate::listener::accept::Socket;
use crate::listener::adapter::SocketHandler;
use crate::listener::bind::{BoundSockets, SocketSettings};
use crate::listener::tables::{ListenerShared, ListenerTable, RouteTable};
use crate::listener::waiting_connections::WaitingConnections;
use crate::net::tls::client_config::ClientTlsConfig;
use crate::run::worker::{Command, ListenerUpdate};
use crate::serve::tcp::Tcp;
use crate::upstream::table::PoolTable;
use crate::upstream::table::SnapshotCell;
use plimsoll_wire::http1::HeaderEdits;

impl Handle {
    /// Applies a prepared configuration.
    pub(super) fn commit(
        &self,
        config: Config,
        tls: TlsConfigs,
        mut names: BTreeMap<Name, ResolvedNames>,
        mut sockets: NewSockets,
    ) {
        let mut state = self.state();
        state.tls = tls;
        let pools: Vec<_> = config
            .pools
            .iter()
            .map(|pool| self.pool(&mut state, pool, names.remove(&pool.name).unwrap_or_default()))
            .collect();
        state.pools.retain(|name, _| config.pools.iter().any(|pool| pool.name == *name));
        let mut commands: Vec<Vec<ListenerUpdate>> = (0..self.0.workers).map(|_| Vec::new()).collect();
        let (mut tables, mut gone) = (Vec::new(), Vec::new());
        for l in &config.listeners {
            let table = self.table(&mut state, l, &pools);
            // Their files are removed at the end, when another listener may have taken the path.
            gone.extend(self.listener_updates(&mut state, l, &table, &mut sockets, &mut commands));
            tables.push(table);
        }
        state.listeners.retain(|name, _| config.listeners.iter().any(|l| l.name == *name));
        let used: Vec<_> = tables.iter().flat_map(|t| t.routes.iter().map(|r| r.counters.clone())).collect();
        state.counters.retain(|_, counters| used.iter().any(|u| Arc::ptr_eq(u, counters)));
        state.tables = tables;
        memory::set_max_buffered(max_buffered(config.max_buffered));
        state.config = Arc::new(config);
        for (worker, commands) in self.0.commands.iter().zip(commands) {
            let _worker_has_ended = worker.send(Command::Listeners(commands));
        }
    }

    /// Returns the table of a pool: updates the running pool of that name, or starts a new one.
    fn pool(&self, state: &mut State, config: &Arc<PoolConfig>, names: ResolvedNames) -> Arc<PoolTable> {
        let client_tls = state.tls.pools.get(&config.name).cloned();
        let probes = self.probes(config, client_tls.clone());
        keep_resolved(&self.0, config.clone(), names.clone());
        match state.pools.get_mut(&config.name) {
            Some(known) => known.update(config, names, probes, client_tls),
            None => self.start_pool(state, config, names, probes, client_tls),
        }
    }

    /// Returns the transport and the check of a pool's health checks.
    fn probes(&self, config: &PoolConfig, client_tls: Option<Arc<ClientTlsConfig>>) -> ProbeConfig {
        let check = match config.health.as_ref().map(|health| &health.probe) {
            Some(ProbeKind::Other(name)) => self.0.adapters.check(name),
            _ => None,
        };
        let (protocol, proxy_protocol) = (config.protocol, config.proxy_protocol);
        let transport = ProbeTransport { client_tls, protocol, proxy_protocol };
        ProbeConfig { transport, check }
    }

    /// Starts a new pool with its driver.
    fn start_pool(
        &self,
        state: &mut State,
        config: &Arc<PoolConfig>,
        names: ResolvedNames,
        probes: ProbeConfig,
        client_tls: Option<Arc<ClientTlsConfig>>,
    ) -> Arc<PoolTable> {
        state.next += 1;
        let (commands, from_control) = mpsc::unbounded_channel();
        let (signals, from_workers) = mpsc::channel(SIGNAL_QUEUE);
        let clock = self.0.clock;
        let rng = Rng::new(state.next ^ clock.now().as_nanos());
        // One rotation and counter row more than workers, for decisions of the API.
        let rows = self.0.workers + 1;
        let members = names.destinations(config);
        let pool = Pool::new(config.name.clone(), spec_of(config), members, rows, rng, clock.now());
        let limiter = pool.limiter().clone();
        limiter.set_wakers(self.0.wakers.clone());
        let snapshots = Arc::new(SnapshotCell::new(pool.snapshot().clone()));
        let budget = Arc::new(RetryBudget::new(config.retry.budget, self.0.workers));
        let table = Arc::new(PoolTable {
            number: state.next,
            config: config.clone(),
            client_tls,
            snapshots: snapshots.clone(),
            budget: budget.clone(),
            limiter,
            signals,
            counters: Arc::new(PerWorker::new(rows)),
        });
        let driver = Driver {
            pool,
            commands: from_control,
            signals: from_workers,
            probes,
            snapshots,
            budget,
            clock,
            observer: PoolObserver::new(config.name.clone(), reporting_options(config), clock),
            resource_starved: false,
        };
        tokio::spawn(driver.run());
        state.pools.insert(
            config.name.clone(),
            PoolState { table: table.clone(), commands, names, lookups: LookupCounts::default() },
        );
        table
    }

    /// Builds the table of a listener.
    fn table(
        &self,
        state: &mut State,
        config: &Arc<Listener>,
        pools: &[Arc<PoolTable>],
    ) -> Arc<ListenerTable> {
        let decisive = decisive_of(config, pools);
        let mut route = |name: &Name, matches, pool: usize, subset, edits: [HeaderEdits; 2]| {
            let pool = pools[pool].clone();
            let key = [config.name.clone(), name.clone(), pool.config.name.clone()];
            let counters =
                state.counters.entry(key).or_insert_with(|| Arc::new(PerWorker::new(self.0.workers))).clone();
            let [mut request_edits, response_edits] = edits;
            request_edits.decisive.clone_from(&decisive);
            Arc::new(RouteTable {
                name: name.clone(),
                matches,
                pool,
                subset,
                request_edits,
                response_edits,
                counters,
            })
        };
        let mut routes: Vec<_> = config
            .routes
            .iter()
            .map(|r| {
                let edits = [
                    fold_edits(&[&config.request_headers, &r.request_headers]),
                    fold_edits(&[&config.response_headers, &r.response_headers]),
                ];
                route(&r.name, Some(r.matches.clone()), r.pool, r.subset.clone(), edits)
            })
            .collect();
        if let Some(pool) = config.pool {
            let edits = [fold_edits(&[&config.request_headers]), fold_edits(&[&config.response_headers])];
            routes.push(route(&"default".into(), None, pool, None, edits));
        }
        let shared =
            state.listeners.get(&config.name).map(|known| known.shared.clone()).unwrap_or_else(|| {
                Arc::new(ListenerShared {
                    counters: PerWorker::new(self.0.workers),
                    open: AtomicUsize::new(0),
                    sources: Arc::default(),
                    silent: WaitingConnections::default(),
                    handshakes: AtomicUsize::new(0),
                    queued: WaitingConnections::default(),
                    handshaking: WaitingConnections::default(),
                })
            });
        let server_tls = state.tls.listeners.get(&config.name).cloned();
        let sends_header = |route: &Arc<RouteTable>| route.pool.config.proxy_protocol != ProxyProtocol::None;
        let needs_origin = routes.iter().any(sends_header);
        Arc::new(ListenerTable { config: config.clone(), routes, server_tls, needs_origin, shared })
    }

    /// Adds the update of a listener to the commands of each worker: its table, and sockets to open and close. Returns the
    /// addresses that it does not have any more.
    fn listener_updates(
        &self,
        state: &mut State,
        config: &Arc<Listener>,
        table: &Arc<ListenerTable>,
        sockets: &mut NewSockets,
        commands: &mut [Vec<ListenerUpdate>],
    ) -> Vec<BoundAddress> {
        let known = state
            .listeners
            .entry(config.name.clone())
            .or_insert_with(|| ListenerState { shared: table.shared.clone(), sockets: Vec::new() });
        let settings = SocketSettings::of(config);
        let (keep, gone): (Vec<_>, Vec<_>) = known
            .sockets
            .drain(..)
            .partition(|bound| bound.settings == settings && config.addresses.contains(&bound.wanted));
        known.sockets = keep;
        // `find_adapters` has verified that there is one.
        let handler = self.0.adapters.of(config.protocol);
        let handler = handler.unwrap_or_else(|| SocketHandler::Streams(Arc::new(Tcp)));
        let close: Vec<u64> = gone.iter().map(|bound| bound.number).collect();
        let mut open: Vec<Vec<Socket>> = (0..commands.len()).map(|_| Vec::new()).collect();
        for wanted in &config.addresses {
            let Some(bound) = sockets.remove(&(config.name.clone(), wanted.clone())) else { continue };
            let BoundSockets { actual, sockets: bound, mut file } = bound;
            if let Some(file) = &mut file {
                file.install();
            }
            state.next += 1;
            tracing::info!(listener = %config.name, address = format_address(&actual), "listening");
            let wanted = wanted.clone();
            known.sockets.push(BoundAddress { wanted, actual, settings, number: state.next, file });
            for (open, inner) in open.iter_mut().zip(bound) {
                open.push(Socket { number: state.next, inner });
            }
        }
        for (commands, open) in commands.iter_mut().zip(open) {
            let (table, handler) = (table.clone(), handler.clone());
            commands.push(ListenerUpdate { table, handler, open, close: close.clone() });
        }
        gone
    }
}

impl PoolState {
    /// Returns the counts of lookups, if the pool has host names.
    pub(super) fn lookups(&self) -> Option<LookupCounts> {
        (!self.names.is_empty()).then_some(self.lookups)
    }

    /// Sends the new configuration to the driver, and returns the new table, which keeps the pool's state.
    fn update(
        &mut self,
        config: &Arc<PoolConfig>,
        names: ResolvedNames,
        probes: ProbeConfig,
        client_tls: Option<Arc<ClientTlsConfig>>,
    ) -> Arc<PoolTable> {
        self.table.budget.set_share(config.retry.budget);
        let inputs = [Input::Spec(spec_of(config)), Input::Members(names.destinations(config))];
        let inputs = inputs.into_iter().map(|input| DriverCommand::Input(Box::new(input)));
        let options = DriverCommand::Reporting(reporting_options(config));
        for command in [DriverCommand::Probes(probes), options].into_iter().chain(inputs) {
            let _driver_has_ended = self.commands.send(command);
        }
        self.names = names;
        let old = &self.table;
        self.table = Arc::new(PoolTable {
            number: old.number,
            config: config.clone(),
            client_tls,
            snapshots: old.snapshots.clone(),
            budget: old.budget.clone(),
            limiter: old.limiter.clone(),
            signals: old.signals.clone(),
            counters: old.counters.clone(),
        });
        self.table.clone()
    }
}

/// Returns a limit in bytes. A share of memory that is not known is no limit.
fn max_buffered(limit: MemoryLimit) -> usize {
    let bytes = match limit {
        MemoryLimit::Bytes(bytes) => bytes,
        MemoryLimit::Share(share) => {
            memory::available_memory().map_or(u64::MAX, |all| (all as f64 * share) as u64)
        }
    };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn reporting_options(config: &PoolConfig) -> ReportingOptions {
    ReportingOptions { alerting: config.alerting, quality: config.quality_metrics }
}

fn spec_of(pool: &PoolConfig) -> PoolSpec {
    PoolSpec {
        algorithm: pool.algorithm,
        settings: AlgorithmSettings { hash: pool.hash, formula: pool.formula.clone(), caching: pool.caching },
        health: pool.health.clone(),
        parallel_checks: pool.parallel_checks,
        outlier: pool.outlier,
        tiers: pool.tiers.clone(),
        slow_start: pool.slow_start,
        panic_threshold: pool.panic_threshold,
        recovery: pool.recovery,
        load: pool.load,
        keep_only_member: true,
        limits: PoolLimits {
            requests: max_concurrent_requests(pool.protocol, pool.limits.requests, pool.limits.connections),
            ..pool.limits
        },
    }
}

/// Returns the fields that decide about the requests of a listener.
fn decisive_of(config: &Listener, pools: &[Arc<PoolTable>]) -> Vec<(String, String)> {
    let matched = config.routes.iter().flat_map(|route| &route.matches.headers).map(|(name, _)| &**name);
    let used = config.routes.iter().map(|route| route.pool).chain(config.pool);
    let hashed = used.filter_map(|pool| match pools[pool].config.hash_key() {
        Some(HashKey::Header(name)) => Some(&**name),
        _ => None,
    });
    decisive_fields(matched.chain(hashed))
}
