//! Pools and their destinations.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::{Algorithm, HashSpec};
use plimsoll_core::formula::Formula;
use plimsoll_core::health::{HealthSpec, LoadSpec, OutlierSpec};
use plimsoll_core::retry::{HedgeSpec, RetrySpec};
use plimsoll_core::snapshot::TierSpec;
use plimsoll_core::{DestinationLimits, Name, PoolLimits, Weight};

use super::{ClientTls, TcpOptions};
/// Version of the PROXY header sent to destinations.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No PROXY header.
    #[default]
    None,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary, with the TLVs that the client's proxy added.
    V2,
}

impl ProxyProtocol {
    /// All variants, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::None, Self::V1, Self::V2];

    /// Returns the keyword of the configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// HTTP version to the destinations of a pool.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum PoolProtocol {
    /// HTTP/1.1 for all requests.
    #[default]
    Http1,
    /// HTTP/2: negotiated within TLS, or with prior knowledge without TLS.
    Http2,
    /// HTTP/1.1 or HTTP/2, negotiated with each destination (ALPN).
    Auto,
}

impl PoolProtocol {
    /// All variants, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Auto];

    /// Returns the keyword of the configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Auto => "auto",
        }
    }
}

/// Handling of gRPC-Web calls.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum GrpcWeb {
    /// Calls are translated to gRPC.
    #[default]
    Translate,
    /// Calls are passed unchanged.
    Pass,
}

impl GrpcWeb {
    /// All variants, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::Translate, Self::Pass];

    /// Returns the keyword of the configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Translate => "translate",
            Self::Pass => "pass",
        }
    }
}

/// Key of consistent hashing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// IP address of the client.
    #[default]
    Source,
    /// Value of the header with this name in lower case.
    Header(String),
    /// Value of the cookie with this name.
    Cookie(String),
    /// Path without the query.
    Path,
    /// Value of the query parameter with this name.
    Query(String),
}

impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("source"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Path => f.write_str("path"),
            Self::Query(name) => write!(f, "query:{name}"),
        }
    }
}

/// Pool of destinations that are balanced together.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pool {
    /// Name, unique among pools.
    pub name: Name,
    /// Algorithm that picks a destination for each message.
    pub algorithm: Algorithm,
    /// Table and bound of consistent hashing.
    pub hash: HashSpec,
    /// Key of `algorithm: hash`.
    pub hash_key: HashKey,
    /// Formula of `algorithm: custom`.
    pub formula: Option<Arc<Formula>>,
    /// Handling of load reports and overload.
    pub load: LoadSpec,
    /// Whether ORCA load reports in responses are read (`load_reports.orca`).
    pub orca: bool,
    /// Whether balancing decisions are cached (`performance.caching`).
    pub caching: bool,
    /// Active health checks; `None` = off (`health_checking: false`).
    pub health: Option<HealthSpec>,
    /// Whether health checks run concurrently (`performance.parallel_processing`).
    pub parallel_checks: bool,
    /// Ejection of destinations that fail real traffic.
    pub outlier: OutlierSpec,
    /// Retries of failed messages.
    pub retry: RetrySpec,
    /// Backup tiers, zones, and the subsets of routes.
    pub tiers: TierSpec,
    /// Hedged attempts of slow requests; `None` = off.
    pub hedge: Option<HedgeSpec>,
    /// Duration over which the share of a returning destination grows; `None` = full share at once.
    pub slow_start: Option<Duration>,
    /// Minimum share of destinations that ejections leave in service; 0 = no minimum.
    pub panic_threshold: f64,
    /// Whether a recovered destination first gets a trial message and then a growing share
    /// (`health_monitoring.recovery_management`).
    pub recovery: bool,
    /// Whether status changes raise alerts (`health_monitoring.alerting`).
    pub alerting: bool,
    /// Whether the quality of the distribution is measured (`quality.quality_metrics`).
    pub quality_metrics: bool,
    /// HTTP version to the destinations.
    pub protocol: PoolProtocol,
    /// PROXY header sent to the destinations.
    pub proxy_protocol: ProxyProtocol,
    /// Handling of gRPC-Web calls, which applies to HTTP/2 only.
    pub grpc_web: GrpcWeb,
    /// TLS to the destinations; `None` = plain text.
    pub tls: Option<ClientTls>,
    /// TCP options of connections to destinations.
    pub tcp: TcpOptions,
    /// Timeouts of connections to destinations.
    pub timeouts: DestinationTimeouts,
    /// Concurrency limits over all destinations and workers.
    pub limits: PoolLimits,
    /// Maximum time that a message waits in the queue.
    pub wait: Duration,
    /// Time between two lookups of the destinations' host names.
    pub resolve_every: Duration,
    /// Destinations with unique names.
    pub destinations: Vec<Destination>,
}

impl Pool {
    /// Returns the hash key, if the algorithm uses one.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        match self.algorithm {
            Algorithm::SourceHash => Some(&HashKey::Source),
            Algorithm::Hash => Some(&self.hash_key),
            _ => None,
        }
    }

    /// Returns whether the pool, or one of its destinations, has a connection limit.
    pub fn limits_connections(&self) -> bool {
        self.limits.connections > 0 || self.destinations.iter().any(|d| d.limits.connections > 0)
    }

    /// Returns whether a gRPC-Web call with this method is translated to gRPC.
    pub fn translates_grpc_web(&self, method: &str) -> bool {
        self.protocol == PoolProtocol::Http2 && self.grpc_web == GrpcWeb::Translate && method == "POST"
    }
}

/// Timeouts of connections to destinations.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DestinationTimeouts {
    /// Maximum time to establish a connection.
    pub connect: Duration,
    /// Maximum time to the first byte of the response, and between two of its bytes.
    pub response: Duration,
    /// Maximum idle time of a pooled connection; for tunnels, without a byte in either direction.
    pub idle: Duration,
    /// Maximum time of a message in the pool, all attempts included (`performance.timeout`); `None` = no limit.
    pub total: Option<Duration>,
}

/// Address of a destination before name resolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationAddress {
    /// IP address and port.
    Socket(SocketAddr),
    /// Host name and port, resolved when the configuration is applied.
    Name(String, u16),
    /// Path of a Unix stream socket.
    Unix(PathBuf),
}

/// Destination of a pool.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Destination {
    /// Name: the `id` of the file, or the address as written.
    pub name: Name,
    /// Address that the destination listens on.
    pub address: DestinationAddress,
    /// Base weight; 0 = no new messages.
    pub weight: Weight,
    /// Priority tier: 0 is used first, higher numbers are backup tiers.
    pub priority: u8,
    /// Zone in which the destination runs.
    pub zone: Option<Name>,
    /// Labels, sorted by key.
    pub labels: Arc<[(Name, Name)]>,
    /// Concurrency limits over all workers.
    pub limits: DestinationLimits,
}
