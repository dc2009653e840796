//! The proxy under test: runs in this process on free ports, and must leave nothing open at its end.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::JoinHandle;

use plimsoll_config::model::{
    AccessLog, Config, DecisionLog, Destination as DestinationConfig, DestinationAddress, HeaderEdits,
    ListenAddress, Listener, MemoryLimit, Pool, Protocol, Route,
};
use plimsoll_core::balance::Algorithm;
use plimsoll_core::route::Match;
use plimsoll_proxy::adapter::{Adapters, NameLookup};
use plimsoll_proxy::{
    DestinationView, Handle, InvalidConfig, PoolView, Proxy, ReloadError, StartError, reasons,
};
use tokio::sync::oneshot;

use super::client::Client;
use super::destination::Destination;
use super::endpoint::Endpoint;
use super::http::Response;
use super::{Stopwatch, TIMEOUT, ms, secs};

/// A configuration to start from: one listener and one pool.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) workers: usize,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) decision_log: Option<DecisionLog>,
    pub(crate) max_buffered: MemoryLimit,
    /// Addresses of host names; `None` = the system's resolver.
    pub(crate) names: Option<Names>,
}

impl Setup {
    /// Returns an HTTP listener with a pool of these destinations.
    pub(crate) fn http(destinations: &[&Destination]) -> Self {
        Self {
            listeners: vec![listener("web")],
            pools: vec![pool("main", destinations)],
            workers: 1,
            access_log: None,
            decision_log: None,
            max_buffered: MemoryLimit::Share(0.25),
            names: None,
        }
    }

    /// Returns a TCP listener with a pool of these destinations.
    pub(crate) fn tcp(destinations: &[&Destination]) -> Self {
        Self::http(destinations).with(|s| s.listeners[0].protocol = Protocol::Tcp)
    }

    /// Returns a UDP listener with a pool of destinations at these addresses.
    pub(crate) fn udp(destinations: &[SocketAddr]) -> Self {
        let mut setup = Self::http(&[]);
        setup.listeners[0].protocol = Protocol::Udp;
        setup.listeners[0].addresses = vec![ListenAddress::Udp(([127, 0, 0, 1], 0).into())];
        setup.pools[0].destinations = destinations
            .iter()
            .enumerate()
            .map(|(n, &address)| member("main", n, DestinationAddress::Socket(address)))
            .collect();
        setup
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Adds a pool of these destinations.
    pub(crate) fn and_pool(mut self, name: &str, destinations: &[&Destination]) -> Self {
        self.pools.push(pool(name, destinations));
        self
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new(self.listeners.clone(), self.pools.clone());
        config.workers = NonZeroUsize::new(self.workers);
        config.shutdown_grace = secs(5);
        config.max_buffered = self.max_buffered;
        config.access_log = self.access_log.clone();
        config.decision_log = self.decision_log.clone();
        config
    }

    pub(crate) fn start(&self) -> Balancer {
        self.try_start().expect("a good configuration")
    }

    pub(crate) fn try_start(&self) -> Result<Balancer, StartError> {
        let adapters = Adapters::built_in();
        Balancer::start(
            self.config(),
            match self.names.clone() {
                Some(names) => adapters.with_lookup(names),
                None => adapters,
            },
        )
    }
}

fn listener(name: &str) -> Listener {
    let loopback = ListenAddress::Socket(([127, 0, 0, 1], 0).into());
    let mut listener = Listener::new(name, vec![loopback], Protocol::Http);
    listener.timeouts.body = secs(10);
    listener.timeouts.idle = secs(10);
    listener.udp.idle = secs(10);
    listener
}

fn member(pool: &str, n: usize, address: DestinationAddress) -> DestinationConfig {
    DestinationConfig::new(format!("{pool}-{n}"), address)
}

/// Returns a pool without ejection and health checks, and with the default retries.
fn pool(name: &str, destinations: &[&Destination]) -> Pool {
    let destinations = destinations
        .iter()
        .enumerate()
        .map(|(n, destination)| member(name, n, destination.endpoint.as_destination()))
        .collect();
    let mut pool = Pool::new(name, Algorithm::RoundRobin, destinations);
    pool.outlier.consecutive_failures = 0;
    pool.outlier.interval = None;
    pool.outlier.unresponsive_after = None;
    pool.panic_threshold = 0.0;
    pool.wait = secs(5);
    pool.timeouts.connect = secs(5);
    pool.timeouts.response = secs(10);
    pool.timeouts.idle = secs(10);
    pool
}

/// Returns a route with a match and its pool.
pub(crate) fn route(name: &str, pool: usize, matches: Match) -> Route {
    Route::new(name, matches, pool)
}

/// Returns header edits.
pub(crate) fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
    let pairs = |list: &[(&str, &str)]| list.iter().map(|&(n, v)| (n.into(), v.into())).collect();
    HeaderEdits::new(pairs(set), pairs(add), remove.iter().map(|&n| n.into()).collect())
}

/// Host names with their addresses, which tests change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

impl Names {
    pub(crate) fn set(&self, host: &str, addresses: &[[u8; 4]]) {
        let addresses = addresses.iter().map(|&address| address.into()).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host.into(), addresses);
    }

    pub(crate) fn remove(&self, host: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

impl NameLookup for Names {
    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = names.get(host).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(found.iter().map(|&address| SocketAddr::new(address, port)).collect())
    }
}

type Wanted = Arc<Mutex<Result<Config, String>>>;

/// A running proxy in this process.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) handle: Handle,
    wanted: Wanted,
    runtime: tokio::runtime::Handle,
    thread: Option<JoinHandle<()>>,
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics of workers. A panic ends only its own task, so a test would not notice it.
fn count_panics_of_workers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("worker-")) {
                PANICS.fetch_add(1, SeqCst);
            }
            usual(info);
        }));
    });
}

impl Balancer {
    fn start(config: Config, adapters: Adapters) -> Result<Self, StartError> {
        count_panics_of_workers();
        let wanted: Wanted = Arc::new(Mutex::new(Ok(config.clone())));
        let source = wanted.clone();
        let (started, starting) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let source = Box::new(move || {
                let wanted = source.lock().unwrap_or_else(PoisonError::into_inner).clone();
                wanted.map_err(|text| InvalidConfig::from(&*text))
            });
            runtime.block_on(async {
                let mut proxy = match Proxy::start(config, source, adapters).await {
                    Ok(proxy) => proxy,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let handle = (proxy.handle(), tokio::runtime::Handle::current());
                started.send(Ok(handle)).expect("the test waits");
                proxy.ended().await;
            });
        });
        let (handle, runtime) = starting.blocking_recv().expect("started or not")?;
        Ok(Self { handle, wanted, runtime, thread: Some(thread) })
    }

    /// Returns the address of the first listener.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::of(&self.handle.addresses()[0].1[0])
    }

    /// Returns the address of the listener of that name.
    pub(crate) fn endpoint_of(&self, listener: &str) -> Endpoint {
        let addresses = self.handle.addresses();
        let (_, places) = addresses.iter().find(|(name, _)| &**name == listener).expect("a listener");
        Endpoint::of(&places[0])
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.endpoint())
    }

    /// Opens a TLS connection.
    #[track_caller]
    pub(crate) fn connect_tls(&self, config: &Arc<rustls::ClientConfig>, name: &str) -> Client {
        Client::try_connect_tls(self.endpoint(), config.clone(), name).expect("a handshake")
    }

    /// Sends one request on a connection of its own and returns the response.
    #[track_caller]
    pub(crate) fn fetch(&self, request: impl AsRef<[u8]>) -> Response {
        let method = if request.as_ref().starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        let mut client = self.connect();
        client.send(request);
        client.read_response_to(method)
    }

    /// Number of requests or connections that the first listener refused for this reason.
    pub(crate) fn refusals(&self, reason: &str) -> u64 {
        let index = reasons().position(|known| known == reason).expect("a known reason");
        self.handle.traffic().listeners[0].counts.refused[index]
    }

    /// Number of open connections of the first listener.
    pub(crate) fn active(&self) -> u64 {
        self.handle.traffic().listeners[0].counts.active
    }

    pub(crate) fn retries(&self) -> u64 {
        self.pools()[0].counts.retries.iter().sum()
    }

    pub(crate) fn pools(&self) -> Vec<PoolView> {
        self.runtime.block_on(self.handle.pools())
    }

    /// Returns the `n`-th destination of the first pool.
    pub(crate) fn destination(&self, n: usize) -> DestinationView {
        self.pools().remove(0).destinations.remove(n)
    }

    /// Applies another configuration.
    pub(crate) fn reload(&self, setup: &Setup) -> Result<String, ReloadError> {
        self.reload_to(Ok(setup.config()))
    }

    pub(crate) fn reload_to(&self, wanted: Result<Config, String>) -> Result<String, ReloadError> {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.runtime.block_on(self.handle.reload())
    }

    /// Reports whether a drain has finished.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn leftovers(&self) -> Option<String> {
        let traffic = self.handle.traffic();
        let open = traffic.listeners.iter().find(|l| l.counts.active > 0);
        let running = traffic.routes.iter().find(|r| r.counts.in_flight > 0);
        match (open, running) {
            (Some(l), _) => Some(format!("{} connections of {} are open", l.counts.active, l.name)),
            (_, Some(r)) => Some(format!("{} messages of {} are in flight", r.counts.in_flight, r.route)),
            _ => None,
        }
    }
}

impl Drop for Balancer {
    /// Drains, and fails the test if anything is left open.
    fn drop(&mut self) {
        self.handle.drain();
        if std::thread::panicking() {
            return;
        }
        let stopwatch = Stopwatch::start();
        while !self.has_ended() {
            assert!(stopwatch.elapsed() < TIMEOUT, "the drain does not end: {:?}", self.leftovers());
            std::thread::sleep(ms(2));
        }
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the control plane does not panic");
        }
        assert_eq!(self.leftovers(), None);
        assert_eq!(PANICS.load(SeqCst), 0, "a worker panicked, in this test or another");
    }
}
