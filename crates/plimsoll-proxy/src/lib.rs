//! The data plane of the Plimsoll load balancer: sockets, threads, and the life of every message.
//!
//! A [`Proxy`] runs a configuration. It binds the listeners, serves HTTP/1.1, HTTP/2, WebSocket, gRPC, MQTT, TCP, TLS
//! and UDP, checks the health of the destinations, and reloads without losing a connection. The decisions (which
//! destination, which status, whether to retry) are made by `plimsoll-core`, the formats are parsed by
//! `plimsoll-wire`, and the configuration comes from `plimsoll-config`.
//!
//! # Embedding
//! Load a configuration with `plimsoll-config`, then start it on a Tokio runtime. The configured number of worker
//! threads is started beside that runtime. [`Proxy::handle`] returns a [`Handle`] for everything else: views and
//! counters, commands to destinations, reloads, drains.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! use plimsoll_proxy::adapter::Adapters;
//! use plimsoll_proxy::{ConfigSource, InvalidConfig, Proxy};
//!
//! fn load(text: &str) -> Result<plimsoll_config::Config, InvalidConfig> {
//!     let loaded = plimsoll_config::load(text, "example.yaml", ".".as_ref(), &|_| None);
//!     let problems = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
//!     loaded.config.ok_or_else(|| problems.as_str().into())
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A destination that sends one response.
//! let destination = TcpListener::bind("127.0.0.1:0")?;
//! let address = destination.local_addr()?;
//! std::thread::spawn(move || {
//!     for mut stream in destination.incoming().flatten() {
//!         if matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
//!             let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
//!         }
//!     }
//! });
//!
//! let text = format!("admin: false\nlisten: '127.0.0.1:0'\nworkers: 1\ndestinations: ['{address}']\n");
//! let config = load(&text).map_err(|invalid| invalid.text)?;
//! let source: ConfigSource = Box::new(move || load(&text)); // read again at each reload
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! runtime.block_on(async {
//!     let mut proxy = Proxy::start(config, source, Adapters::built_in()).await?;
//!     let listener = proxy.handle().traffic().listeners[0].addresses[0].clone();
//!
//!     let response = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
//!         let mut client = TcpStream::connect(listener)?;
//!         client.write_all(b"GET / HTTP/1.1\r\nhost: example\r\nconnection: close\r\n\r\n")?;
//!         let mut response = String::new();
//!         client.read_to_string(&mut response)?;
//!         Ok(response)
//!     });
//!     assert!(response.await??.ends_with("hello"));
//!
//!     proxy.handle().drain(); // stop accepting, finish what is in progress
//!     proxy.ended().await;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! Programs can add their own protocols and health checks ([`adapter`]) and their own algorithms (`Policy` in
//! `plimsoll-core`). `examples/adapter.rs`, `examples/check.rs` and `examples/policy.rs` are complete programs.
//!
//! # Threads
//! Each worker thread has its own listening sockets, connection pools, timers and counters. Workers share only the
//! atomic counters of destinations and the snapshots that tell them where to send. One driver per pool runs on the
//! caller's runtime: it evaluates health checks and outcomes, and publishes a new snapshot when a status changes.
//!
//! # Layers
//! Each module imports only from the modules below it.
//!
//! | module | contents |
//! |---|---|
//! | `control` | applying a configuration, views, `explain` |
//! | `run` | worker threads and the registry of adapters |
//! | `serve` | protocols of clients: HTTP/1, HTTP/2, TCP, MQTT, UDP |
//! | `forward` | the life of a message: attempts, exchanges, hedging |
//! | `health` | pool drivers and health checks |
//! | `listener` | accepting connections: limits, PROXY protocol, TLS |
//! | `upstream` | connection pools, limits and queues of destinations |
//! | `log` | access log and decision log |
//! | `http` | local replies, header edits, translation between HTTP/1 and HTTP/2 |
//! | `net` | streams, tunnels, socket options, TLS |
//! | `base` | clock, timers, buffers, counters |

pub(crate) mod base;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod net;
pub(crate) mod run;
pub(crate) mod serve;

mod control;
mod forward;
mod listener;
mod upstream;

/// Custom protocols and health checks: the [`Adapter`](adapter::Adapter) trait, its registry, and checks.
pub mod adapter {
    pub use crate::forward::connection::{Destination, Unavailable, UpstreamFault, UpstreamSession};
    pub use crate::health::probe::custom::{Check, CheckContext};
    pub use crate::listener::accepted_connection::{Connection, Fault, TimeLimit};
    pub use crate::listener::adapter::Adapter;
    pub use crate::net::name_lookup::NameLookup;
    pub use crate::run::registry::Adapters;
    pub use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
    pub use plimsoll_wire::Detection;
}
pub use crate::net::tls;

pub use crate::base::clock::Clock;
pub use crate::base::counters::{
    CLASSES, DECISION_BUCKETS_NS, DECISIONS, DIRECTIONS, HANDSHAKES, HEDGES, Histogram, ListenerCounts,
    METHODS, ORCA_RESULTS, OVERFLOWS, PoolCounts, RETRY_REASONS, RouteCounts, TLS_VERSIONS, reasons,
};
pub use crate::base::memory::{BufferedBytes, buffered_bytes};
pub use crate::control::resolver::LookupCounts;
pub use crate::control::views::{
    DestinationView, LimitView, LimitsView, ListenerView, PoolView, ReloadsView, RouteView, TrafficView,
};
pub use crate::control::{
    CandidateView, ConfigSource, ExplainError, ExplainQuery, ExplanationView, Handle, InvalidConfig,
    LoadReportError, Proxy, ReloadError, StartError,
};
pub use crate::health::driver::{CheckCounts, CheckStats, DurationHistogram, OUTAGES_MS};
pub use crate::health::monitor::{Monitor, MonitorView, MonitoredStatuses};
pub use crate::health::observer::ObserverView;
