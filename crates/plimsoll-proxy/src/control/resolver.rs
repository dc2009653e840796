//! Lookups of the host names of destinations: before a configuration is in force, and again in the background.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use plimsoll_config::model::{Config, DestinationAddress, Pool};
use plimsoll_core::pool::Input;
use plimsoll_core::{Address, Destination, DestinationLimits, Name};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::control::prepare::max_concurrent_requests;
use crate::control::{Handle, Shared};
use crate::health::driver::DriverCommand;
use crate::net::name_lookup::NameLookup;

/// Time that a start or a reload waits for lookups. Names without a result by then are looked up in the background.
const WAIT_AT_START: Duration = Duration::from_secs(2);
/// Maximum time until a failed lookup is made again.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Time after which a lookup has failed. The system's resolver may take longer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of concurrent lookups of a pool, each on a thread of its own.
const CONCURRENT_LOOKUPS: usize = 16;
/// Maximum number of addresses of a name; the others are ignored.
const MAX_ADDRESSES: usize = 256;

/// Host name and port of a destination.
type HostPort = (String, u16);

/// Lookups of names that are in progress.
type Lookups = JoinSet<(HostPort, Result<Vec<SocketAddr>, Name>)>;

/// Result of the lookups of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lookup {
    /// Addresses of the latest successful lookup, sorted.
    Found(Vec<SocketAddr>),
    /// No lookup has succeeded yet; the cause of the latest failure.
    Failed(Name),
}

/// Results of the lookups of a pool's host names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvedNames(BTreeMap<HostPort, Lookup>);

impl ResolvedNames {
    /// Returns the destinations of `pool`: each address of a name is a destination of its own.
    pub(super) fn destinations(&self, pool: &Pool) -> Vec<Destination> {
        let mut destinations = Vec::with_capacity(pool.destinations.len());
        for configured in &pool.destinations {
            let mut add = |name: Name, address, host| {
                let d = &configured.limits;
                let requests = max_concurrent_requests(pool.protocol, d.requests, d.connections);
                destinations.push(Destination {
                    name,
                    address,
                    host,
                    weight: configured.weight,
                    priority: configured.priority,
                    zone: configured.zone.clone(),
                    labels: configured.labels.clone(),
                    limits: DestinationLimits { requests, ..configured.limits },
                });
            };
            let name = &configured.name;
            match &configured.address {
                DestinationAddress::Socket(address) => add(name.clone(), Address::Socket(*address), None),
                DestinationAddress::Unix(path) => {
                    add(name.clone(), Address::Unix(path.as_path().into()), None);
                }
                DestinationAddress::Name(host, port) => {
                    let host_name: Name = host.as_str().into();
                    match self.0.get(&(host.clone(), *port)) {
                        Some(Lookup::Found(addresses)) => {
                            for address in addresses {
                                let id = format!("{name}/{address}").into();
                                add(id, Address::Socket(*address), Some(host_name.clone()));
                            }
                        }
                        failed => {
                            let cause = match failed {
                                Some(Lookup::Failed(cause)) => cause.clone(),
                                _ => "it was not looked up yet".into(),
                            };
                            let written = format!("{host}:{port}").into();
                            add(name.clone(), Address::Unresolved { name: written, cause }, Some(host_name));
                        }
                    }
                }
            }
        }
        destinations
    }

    /// Returns whether the pool has no host names.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a name has no known address.
    fn has_failed(&self) -> bool {
        self.0.values().any(|lookup| matches!(lookup, Lookup::Failed(_)))
    }

    /// Records the result of a lookup. Known addresses outlive a failed one.
    fn record(&mut self, name: HostPort, result: Result<Vec<SocketAddr>, Name>) {
        match (result, self.0.get(&name)) {
            (Ok(addresses), _) => drop(self.0.insert(name, Lookup::Found(addresses))),
            (Err(_), Some(Lookup::Found(_))) => {}
            (Err(cause), _) => drop(self.0.insert(name, Lookup::Failed(cause))),
        }
    }
}

/// Looks up the names of all pools. Names that are known from `before` are not looked up again.
pub(super) async fn resolve(
    config: &Config,
    lookup: &Arc<dyn NameLookup>,
    before: &BTreeMap<Name, ResolvedNames>,
) -> BTreeMap<Name, ResolvedNames> {
    let mut wait = std::pin::pin!(tokio::time::sleep(WAIT_AT_START));
    let mut resolved = BTreeMap::new();
    let running = config.pools.iter().map(|pool| start_unknown(pool, lookup, before.get(&pool.name)));
    let running: Vec<_> = running.collect();
    for (pool, (mut names, mut lookups)) in config.pools.iter().zip(running) {
        loop {
            let finished = match wait.is_elapsed() {
                true => lookups.try_join_next(),
                false => tokio::select! {
                    finished = lookups.join_next() => finished,
                    () = &mut wait => continue,
                },
            };
            let Some(Ok((name, result))) = finished else { break };
            names.record(name, result);
        }
        for (name, lookup) in &names.0 {
            if let Lookup::Failed(cause) = lookup {
                log_unresolved(&pool.name, name, cause);
            }
        }
        resolved.insert(pool.name.clone(), names);
    }
    resolved
}

/// Returns the names of `pool` as known before, and the lookups of the unknown ones.
fn start_unknown(
    pool: &Pool,
    lookup: &Arc<dyn NameLookup>,
    known: Option<&ResolvedNames>,
) -> (ResolvedNames, Lookups) {
    let pending = || Lookup::Failed("the lookup has not finished yet".into());
    let before = |name: &HostPort| known.and_then(|known| known.0.get(name)).cloned().unwrap_or_else(pending);
    let names = ResolvedNames(names_of(pool).map(|name| (name.clone(), before(&name))).collect());
    let unknown = names.0.iter().filter(|(_, lookup)| matches!(lookup, Lookup::Failed(_)));
    let lookups = start_lookups(lookup, unknown.map(|(name, _)| name.clone()).collect());
    (names, lookups)
}

/// Looks up the names of `pool` in the background, until another configuration of the pool is in force.
pub(super) fn keep_resolved(shared: &Arc<Shared>, pool: Arc<Pool>, mut names: ResolvedNames) {
    if names.is_empty() {
        return;
    }
    let lookup = shared.adapters.lookup();
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        loop {
            let every = pool.resolve_every;
            tokio::time::sleep(if names.has_failed() { every.min(RETRY_EVERY) } else { every }).await;
            let mut found = names.clone();
            let mut lookups = start_lookups(&lookup, names.0.keys().cloned().collect());
            let mut counts = LookupCounts::default();
            while let Some(Ok((name, result))) = lookups.join_next().await {
                counts.record(result.is_ok());
                if let (Err(cause), Some(Lookup::Found(_))) = (&result, names.0.get(&name)) {
                    let (host, port) = &name;
                    tracing::debug!(event = "lookup_failed", pool = %pool.name, "cannot look up {host}:{port}, its known addresses are kept: {cause}");
                }
                found.record(name, result);
            }
            if !apply(&shared, &pool, &found, counts) {
                return;
            }
            log_changes(&pool.name, &names, &found);
            names = found;
        }
    });
}

/// Puts the results of lookups in force. Returns `false` if `pool` is no longer the configuration in force.
fn apply(shared: &Weak<Shared>, pool: &Arc<Pool>, found: &ResolvedNames, counts: LookupCounts) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let handle = Handle(shared);
    // The lock is held while the list is sent, so that a reload never precedes the list of an older configuration.
    let mut state = handle.state();
    let Some(known) = state.pools.get_mut(&pool.name) else { return false };
    if !Arc::ptr_eq(&known.table.config, pool) {
        return false;
    }
    known.lookups.add(counts);
    if known.names != *found {
        known.names = found.clone();
        let input = Input::Lookup(found.destinations(pool));
        let _driver_has_ended = known.commands.send(DriverCommand::Input(Box::new(input)));
    }
    true
}

/// Number of lookups of a pool's names since it was added.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// Number of successful lookups.
    pub succeeded: u64,
    /// Number of failed lookups.
    pub failed: u64,
}

impl LookupCounts {
    fn record(&mut self, succeeded: bool) {
        self.succeeded += u64::from(succeeded);
        self.failed += u64::from(!succeeded);
    }

    fn add(&mut self, more: Self) {
        self.succeeded += more.succeeded;
        self.failed += more.failed;
    }
}

fn names_of(pool: &Pool) -> impl Iterator<Item = HostPort> {
    pool.destinations.iter().filter_map(|destination| match &destination.address {
        DestinationAddress::Name(host, port) => Some((host.clone(), *port)),
        _ => None,
    })
}

/// Starts the lookups of `names`.
fn start_lookups(lookup: &Arc<dyn NameLookup>, names: Vec<HostPort>) -> Lookups {
    let permits = Arc::new(Semaphore::new(CONCURRENT_LOOKUPS));
    let mut lookups = JoinSet::new();
    for name in names {
        let (permits, lookup) = (permits.clone(), lookup.clone());
        lookups.spawn(async move {
            let _permit = permits.acquire().await;
            let result = look_up(lookup, name.clone()).await;
            (name, result)
        });
    }
    lookups
}

/// Looks up a name on a thread of its own: the system's resolver may hang, which must not hold up the end of the process.
async fn look_up(lookup: Arc<dyn NameLookup>, name: HostPort) -> Result<Vec<SocketAddr>, Name> {
    let (reply, result) = oneshot::channel();
    let look_up = move || {
        let _receiver_dropped = reply.send(lookup.look_up(&name.0, name.1));
    };
    let cause = |error: io::Error| Name::from(error.to_string());
    std::thread::Builder::new().name("lookup".into()).spawn(look_up).map_err(cause)?;
    let mut addresses = match tokio::time::timeout(LOOKUP_TIMEOUT, result).await {
        Ok(Ok(result)) => result.map_err(cause)?,
        Ok(Err(_)) => return Err("the lookup ended without a result".into()),
        Err(_) => return Err(format!("no result after {LOOKUP_TIMEOUT:?}").into()),
    };
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    match addresses.is_empty() {
        true => Err("the name has no addresses".into()),
        false => Ok(addresses),
    }
}

/// Logs the names that have other addresses than before.
fn log_changes(pool: &Name, before: &ResolvedNames, after: &ResolvedNames) {
    for (name, lookup) in &after.0 {
        if before.0.get(name) == Some(lookup) {
            continue;
        }
        match lookup {
            Lookup::Found(addresses) => {
                let (host, port) = name;
                tracing::info!(event = "addresses_changed", %pool, "{host}:{port} has the addresses {addresses:?}");
            }
            Lookup::Failed(cause) => log_unresolved(pool, name, cause),
        }
    }
}

fn log_unresolved(pool: &Name, (host, port): &HostPort, cause: &Name) {
    tracing::warn!(event = "unresolved", %pool, "{host}:{port} has no known address, its destination is down: {cause}");
}
