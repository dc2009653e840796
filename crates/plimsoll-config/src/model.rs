//! Checked configuration: every value is valid and every name is resolved.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use plimsoll_core::balance::{Algorithm, HashSpec};
use plimsoll_core::formula::Formula;
use plimsoll_core::health::HealthSpec;
use plimsoll_core::health::LoadSpec;
use plimsoll_core::health::OutlierSpec;
use plimsoll_core::retry::{HedgeSpec, RetrySpec};
use plimsoll_core::route::Match;
use plimsoll_core::snapshot::TierSpec;
use plimsoll_core::subset::Subset;
use plimsoll_core::{DestinationLimits, Name, PoolLimits, Weight};

/// Checked configuration of the whole process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Number of data-plane threads; `None` = number of CPUs that this process may use.
    pub workers: Option<NonZeroUsize>,
    /// Maximum time that running messages get to finish after TERM.
    pub shutdown_grace: Duration,
    /// Listeners with unique names, at least one.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools with unique names.
    pub pools: Vec<Arc<Pool>>,
    /// Admin plane; `None` = off (`admin: false`).
    pub admin: Option<Admin>,
    /// Access log; `None` = off.
    pub access_log: Option<AccessLog>,
    /// Decision log; `None` = off.
    pub decision_log: Option<DecisionLog>,
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
pub struct DecisionLog {
    /// Output of the lines.
    pub target: AccessLog,
    /// Share of balancing decisions that are logged, above 0 and up to 1.
    pub sample: f64,
}

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP address and port.
    Socket(SocketAddr),
    /// Path of a Unix stream socket.
    Unix(PathBuf),
    /// UDP address and port. It does not conflict with the TCP port of the same number.
    Udp(SocketAddr),
}

/// Protocol of a listener after TLS termination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2 requests.
    Http,
    /// Byte streams over TCP.
    Tcp,
    /// Datagrams over UDP.
    Udp,
    /// MQTT connections, each to its preferred destination.
    Mqtt,
    /// Detection from the first bytes of a connection: HTTP, MQTT, TLS, or a protocol of the embedding program.
    Auto,
    /// Protocol of the embedding program, by its name.
    Other(&'static str),
}

impl Protocol {
    /// Returns the name of the protocol, by which its adapter is found.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Mqtt => "mqtt",
            Self::Auto => "auto",
            Self::Other(name) => name,
        }
    }
}

/// Scope of a balancing decision for datagrams.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum UdpFlow {
    /// One destination for all datagrams of a client address, until the flow is idle for too long.
    #[default]
    Source,
    /// One destination for each datagram.
    Datagram,
}

impl UdpFlow {
    /// All variants, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::Source, Self::Datagram];

    /// Returns the keyword of the configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Datagram => "datagram",
        }
    }
}

/// Flow settings of a UDP listener.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Scope of a balancing decision.
    pub flow: UdpFlow,
    /// Time after the client's last datagram at which its flow ends.
    pub idle: Duration,
    /// Maximum number of concurrent flows over all workers. At the limit the flow that is idle longest ends.
    pub max_flows: usize,
}

/// Settings of an MQTT listener.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Maximum number of connections per second that are closed to move clients back to their preferred destination,
    /// over all workers; 0 = none.
    pub rebalance: usize,
}

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

/// Listening addresses with their protocol, limits and routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Name, unique among listeners.
    pub name: Name,
    /// Addresses that this listener accepts on, at least one.
    pub addresses: Vec<ListenAddress>,
    /// Protocol after TLS termination.
    pub protocol: Protocol,
    /// TLS termination; `None` = TLS is not terminated here.
    pub tls: Option<ServerTls>,
    /// Whether connections of trusted proxies must begin with a PROXY header.
    pub accepts_proxy_protocol: bool,
    /// Networks from which `X-Forwarded-*` and PROXY headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Timeouts of client connections.
    pub timeouts: ClientTimeouts,
    /// Size and count limits of connections and requests.
    pub limits: Limits,
    /// Flow settings of a UDP listener.
    pub udp: Udp,
    /// Settings of an MQTT listener.
    pub mqtt: Mqtt,
    /// Whether `Via: 1.1 plimsoll` is added to requests and responses.
    pub via: bool,
    /// Header edits of every request, applied before those of the route.
    pub request_headers: HeaderEdits,
    /// Header edits of every response, applied before those of the route.
    pub response_headers: HeaderEdits,
    /// Routes in order of precedence; the first that matches is used. Empty on UDP listeners.
    pub routes: Vec<Route>,
    /// Pool for messages that no route matches, as an index into [`Config::pools`].
    pub pool: Option<usize>,
}

/// PEM files of a certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate chain, the own certificate first.
    pub cert: PathBuf,
    /// Private key in PKCS#8, PKCS#1 or SEC1 format.
    pub key: PathBuf,
}

/// Requirement of client certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Client certificates are not requested.
    #[default]
    None,
    /// Client certificates are optional. One that is not of these authorities is rejected.
    Optional(PathBuf),
    /// Client certificates of these authorities are required.
    Required(PathBuf),
}

/// Minimum TLS version.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 and newer.
    #[default]
    V1_2,
    /// TLS 1.3 only.
    V1_3,
}

impl TlsVersion {
    /// All variants, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// Returns the keyword of the configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// TLS termination of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificates, at least one. They are selected by server name; the first is used if no name matches.
    pub certificates: Vec<CertificateFiles>,
    /// Requirement of client certificates.
    pub client_auth: ClientAuth,
    /// Minimum TLS version.
    pub min_version: TlsVersion,
}

/// TLS to the destinations of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificate authorities of the destinations; `None` = those of the system.
    pub ca: Option<PathBuf>,
    /// Server name that destinations must present a certificate for; `None` = the host of the address.
    pub server_name: Option<String>,
    /// Client certificate, for destinations that require one.
    pub identity: Option<CertificateFiles>,
    /// Whether the certificates of destinations are verified.
    pub verify: bool,
}

/// Timeouts of client connections.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// Maximum duration of the TLS handshake, counted from the accepted connection.
    pub handshake: Duration,
    /// Maximum time to receive a whole request head, counted from the accepted connection or from the first byte of a
    /// later request.
    pub header: Duration,
    /// Maximum gap between two bytes of a request body.
    pub body: Duration,
    /// Maximum idle time between two requests; for TCP and tunnels, without a byte in either direction.
    pub idle: Duration,
    /// Maximum age of a connection that still accepts requests, reduced by up to 10% at random; `None` = no limit.
    pub connection: Option<Duration>,
}

/// Size and count limits of a listener.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of open connections over all workers.
    pub connections: usize,
    /// Maximum number of concurrent TLS handshakes over all workers.
    pub handshakes: usize,
    /// Maximum number of requests per connection; 0 = no limit.
    pub requests: usize,
    /// Maximum number of concurrent streams per HTTP/2 connection.
    pub streams: u32,
    /// Maximum bytes of a request head, including the request line.
    pub header_bytes: usize,
    /// Maximum number of header fields per request.
    pub headers: usize,
    /// Maximum bytes of a request target.
    pub uri_bytes: usize,
    /// Maximum bytes of a request body; 0 = no limit.
    pub body_bytes: u64,
}

/// Header edits. Names are valid and in lower case; values are valid and free of CR, LF and NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Headers to set. All existing fields of that name are replaced.
    pub set: Vec<(String, String)>,
    /// Headers to add. Existing fields of that name stay.
    pub add: Vec<(String, String)>,
    /// Headers to remove.
    pub remove: Vec<String>,
}

/// Route of a listener: match conditions and the pool for matching messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name in metrics and logs: the `name` of the file, or `LISTENER/INDEX`.
    pub name: Name,
    /// Match conditions, all of which must hold.
    pub matches: Match,
    /// Pool for matching messages, as an index into [`Config::pools`].
    pub pool: usize,
    /// Subset of the pool for matching messages; `None` = the whole pool.
    pub subset: Option<Arc<Subset>>,
    /// Header edits of requests, applied after those of the listener.
    pub request_headers: HeaderEdits,
    /// Header edits of responses, applied after those of the listener.
    pub response_headers: HeaderEdits,
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
    /// Timeouts of connections to destinations.
    pub timeouts: DestinationTimeouts,
    /// Concurrency limits over all destinations and workers.
    pub limits: PoolLimits,
    /// Maximum time that a message waits in the queue.
    pub wait: Duration,
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
