//! Checked configuration: every value is valid and every name is resolved.
//!
//! Structs are built by their constructors and then changed field by field, so that a new field breaks no embedder.
//! Enums are exhaustive on purpose: the proxy must handle each variant, and the compiler shows where it does not.

mod listener;
mod pool;
mod route;
mod socket;
mod tls;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use listener::{ClientTimeouts, Limits, Listener, Mqtt, Protocol, Udp, UdpFlow};
pub use pool::{
    Destination, DestinationAddress, DestinationTimeouts, GrpcWeb, HashKey, Pool, PoolProtocol, ProxyProtocol,
};
pub use route::{HeaderEdits, Route};
pub use socket::{ListenAddress, TcpOptions, UnixFile};
pub use tls::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};

/// Checked configuration of the whole process.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Number of data-plane threads; `None` = number of CPUs that this process may use.
    pub workers: Option<NonZeroUsize>,
    /// Maximum time that running messages get to finish after TERM.
    pub shutdown_grace: Duration,
    /// Listeners with unique names, at least one.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools with unique names.
    pub pools: Vec<Arc<Pool>>,
    /// Bytes that the process may buffer for peers that do not read.
    pub max_buffered: MemoryLimit,
    /// Admin plane; `None` = off (`admin: false`).
    pub admin: Option<Admin>,
    /// Access log; `None` = off.
    pub access_log: Option<AccessLog>,
    /// Decision log; `None` = off.
    pub decision_log: Option<DecisionLog>,
}

/// Limit of memory.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum MemoryLimit {
    /// Share of the memory that the process may use, above 0 and up to 1.
    Share(f64),
    /// Number of bytes.
    Bytes(u64),
}

/// Settings of the admin plane.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Admin {
    /// Loopback address and port.
    pub address: SocketAddr,
    /// Whether the file names the address. A configured address that is in use prevents the start; the default address
    /// that is in use is only logged.
    pub configured: bool,
}

/// Output of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output of the process.
    Stdout,
    /// File that lines are appended to, reopened on USR1.
    File(PathBuf),
}

/// Settings of the decision log.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecisionLog {
    /// Output of the lines.
    pub target: AccessLog,
    /// Share of balancing decisions that are logged, above 0 and up to 1.
    pub sample: f64,
}

impl DecisionLog {
    /// Creates a log of this share of the decisions, above 0 and up to 1.
    pub const fn new(target: AccessLog, sample: f64) -> Self {
        Self { target, sample }
    }
}
