//! The configuration as the rest of the program sees it: every value checked, every name resolved.

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

/// A whole configuration, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data-plane threads; `None` = as many as CPUs this process may use.
    pub workers: Option<NonZeroUsize>,
    /// How long TERM waits for what runs.
    pub shutdown_grace: Duration,
    /// Names are unique; never empty.
    pub listeners: Vec<Arc<Listener>>,
    /// Names are unique.
    pub pools: Vec<Arc<Pool>>,
    /// `None` = `admin: false`.
    pub admin: Option<Admin>,
    /// `None` = off.
    pub access_log: Option<AccessLog>,
    /// `None` = off.
    pub decision_log: Option<DecisionLog>,
}

/// Where the admin plane listens.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Loopback only, for now.
    pub address: SocketAddr,
    /// The file named it: if it is busy, the program does not start. Otherwise it says so and goes on.
    pub configured: bool,
}

/// Where the lines of a log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Appended to this file; reopened on USR1.
    File(PathBuf),
}

/// Which decisions are told one by one, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionLog {
    /// Where lines go.
    pub target: AccessLog,
    /// The share of choices that are told, above 0 and up to 1.
    pub sample: f64,
}

/// Where a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP.
    Socket(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
    /// UDP: another port than TCP's of that number.
    Udp(SocketAddr),
}

/// What a listener speaks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// Bytes both ways.
    Tcp,
    /// Datagrams both ways.
    Udp,
    /// Packets of MQTT, each client's to its own destination.
    Mqtt,
    /// What each connection's first bytes say: HTTP, MQTT, TLS, or what the embedding program added.
    Auto,
    /// What the embedding program calls so.
    Other(&'static str),
}

impl Protocol {
    /// The adapter's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Mqtt => "mqtt",
            Self::Auto => "auto",
            Self::Other(word) => word,
        }
    }
}

/// What the datagrams of one client have in common.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum UdpFlow {
    /// Their destination: chosen with the first, kept until the client is silent for too long.
    #[default]
    Source,
    /// Nothing: a destination is chosen for each.
    Datagram,
}

/// How a udp listener keeps clients and destinations together.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// What the datagrams of one client have in common.
    pub flow: UdpFlow,
    /// A client is forgotten when it has sent nothing for so long.
    pub idle: Duration,
    /// Flows at once, over all workers; at the limit the one idle longest makes room.
    pub max_flows: usize,
}

/// How clients of MQTT are kept at their destinations.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Connections that may be ended each second, over all workers, because their clients belong elsewhere;
    /// 0 = none.
    pub rebalance: usize,
}

/// Which header of the PROXY protocol goes to destinations.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    None,
    /// The line of text.
    V1,
    /// The binary one, with what clients' proxies added.
    V2,
}

/// One front door.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique.
    pub name: Name,
    /// At least one.
    pub addresses: Vec<ListenAddress>,
    /// What it speaks, once TLS is off.
    pub protocol: Protocol,
    /// TLS ends here (`https`, `tls`).
    pub tls: Option<ServerTls>,
    /// Connections of trusted proxies begin with a header of the PROXY protocol.
    pub accepts_proxy_protocol: bool,
    /// Whose `X-Forwarded-*` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Time limits towards clients.
    pub timeouts: ClientTimeouts,
    /// Size and count limits.
    pub limits: Limits,
    /// Of udp listeners.
    pub udp: Udp,
    /// Of mqtt listeners.
    pub mqtt: Mqtt,
    /// Add `Via: 1.1 plimsoll` to requests and answers.
    pub via: bool,
    /// Edits of every request, before the route's.
    pub request_headers: HeaderEdits,
    /// Edits of every answer, before the route's.
    pub response_headers: HeaderEdits,
    /// In order; the first that matches wins. Empty on udp listeners.
    pub routes: Vec<Route>,
    /// The last resort, an index into [`Config::pools`].
    pub pool: Option<usize>,
}

/// A certificate chain and the key to it: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate first, then those that vouch for it.
    pub cert: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Whether clients must prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// Who has a certificate of these authorities may show it; a wrong one is refused.
    Optional(PathBuf),
    /// Nobody comes in without a certificate of these authorities.
    Required(PathBuf),
}

/// The oldest version of TLS that is spoken.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2 and newer.
    #[default]
    V1_2,
    /// 1.3 only.
    V1_3,
}

/// How a listener ends TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// At least one; by the names in them, and the first for everybody else.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients must prove who they are.
    pub client_auth: ClientAuth,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
}

/// How a pool speaks TLS to its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Who vouches for them; `None` = whom the system believes.
    pub ca: Option<PathBuf>,
    /// The name they must have a certificate for; `None` = the host of their address.
    pub server_name: Option<String>,
    /// How we prove who we are.
    pub identity: Option<CertificateFiles>,
    /// `false`: anybody is believed.
    pub verify: bool,
}

/// Time limits towards clients.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// For the handshake of TLS, from the first silent moment of a connection.
    pub handshake: Duration,
    /// For the whole head of a request, from the first silent moment of a connection or the first byte of
    /// a later request.
    pub header: Duration,
    /// Between two bytes of a request body.
    pub body: Duration,
    /// Between two requests; for tcp and tunnels: without a byte either way.
    pub idle: Duration,
    /// A connection takes requests for so long, and up to a tenth less; `None` = no limit.
    pub connection: Option<Duration>,
}

/// Size and count limits of a listener.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, over all workers.
    pub connections: usize,
    /// Handshakes of TLS at once, over all workers.
    pub handshakes: usize,
    /// Requests of one connection; 0 = no limit.
    pub requests: usize,
    /// Streams of one HTTP/2 connection at once.
    pub streams: u32,
    /// Bytes of a request head, request line included.
    pub header_bytes: usize,
    /// Header lines of a request.
    pub headers: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
    /// Bytes of a request body; 0 = no limit.
    pub body_bytes: u64,
}

/// Edits of header lines. Names are valid and lower case, values are valid and free of CR, LF, NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaces every copy.
    pub set: Vec<(String, String)>,
    /// Beside what is there.
    pub add: Vec<(String, String)>,
    /// Every copy goes.
    pub remove: Vec<String>,
}

/// One rule of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its label in metrics and logs: the `name` given, or `listener/index`.
    pub name: Name,
    /// Which requests.
    pub matches: Match,
    /// Where to: an index into [`Config::pools`].
    pub pool: usize,
    /// The part of that pool it is for; `None` = all of it.
    pub subset: Option<Arc<Subset>>,
    /// After the listener's.
    pub request_headers: HeaderEdits,
    /// After the listener's.
    pub response_headers: HeaderEdits,
}

/// What a pool speaks to its destinations, where requests are carried.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum PoolProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: agreed on within TLS, or known beforehand without.
    Http2,
    /// What each destination chooses within TLS (ALPN).
    Auto,
}

/// What becomes of calls of gRPC-Web.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum GrpcWeb {
    /// They reach destinations as gRPC.
    #[default]
    Translate,
    /// Destinations speak it themselves.
    Pass,
}

/// What of a message decides where it goes, for algorithms that hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Source,
    /// The value of a header, by its name in lower case.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The path without the query.
    Path,
    /// The value of a parameter of the query.
    Query(String),
}

/// Destinations balanced together.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique.
    pub name: Name,
    /// Which of them takes a message.
    pub algorithm: Algorithm,
    /// How keys find destinations, for algorithms that hash.
    pub hash: HashSpec,
    /// What `algorithm: hash` hashes by.
    pub hash_key: HashKey,
    /// What `algorithm: custom` scores by.
    pub formula: Option<Arc<Formula>>,
    /// What becomes of what destinations say of their load.
    pub load: LoadSpec,
    /// They say it in their answers, too (`load_reports.orca`).
    pub orca: bool,
    /// Decisions are remembered where that is cheaper than to decide again (`performance.caching`).
    pub caching: bool,
    /// Active checks; `None` = `health_checking: false`.
    pub health: Option<HealthSpec>,
    /// Checks run side by side (`performance.parallel_processing`).
    pub parallel_checks: bool,
    /// Passive ejection.
    pub outlier: OutlierSpec,
    /// Tries and repeats.
    pub retry: RetrySpec,
    /// Backup tiers, zones, and the subsets that routes ask for.
    pub tiers: TierSpec,
    /// Second copies of messages that wait long for their answer; `None` = there are none.
    pub hedge: Option<HedgeSpec>,
    /// Who comes back takes a growing share for so long; `None` = all of it at once.
    pub slow_start: Option<Duration>,
    /// Ejections may not leave fewer than this share of the destinations; 0 = they may.
    pub panic_threshold: f64,
    /// Who passes its checks again serves one message first, and then takes a growing share
    /// (`health_monitoring.recovery_management`).
    pub recovery: bool,
    /// People are told when destinations and the pool go or come back (`health_monitoring.alerting`).
    pub alerting: bool,
    /// How well messages are spread is measured (`quality.quality_metrics`).
    pub quality_metrics: bool,
    /// What is spoken to them.
    pub protocol: PoolProtocol,
    /// How they are told whose connection it is.
    pub proxy_protocol: ProxyProtocol,
    /// What becomes of calls of gRPC-Web; of use with HTTP/2 only.
    pub grpc_web: GrpcWeb,
    /// TLS is spoken to them.
    pub tls: Option<ClientTls>,
    /// Time limits towards destinations.
    pub timeouts: DestinationTimeouts,
    /// What it may have at once, over all destinations and workers.
    pub limits: PoolLimits,
    /// How long a message waits for room at most.
    pub wait: Duration,
    /// Names are unique.
    pub destinations: Vec<Destination>,
}

impl Pool {
    /// What messages are hashed by, if the algorithm asks for it.
    pub const fn hash_key(&self) -> Option<&HashKey> {
        match self.algorithm {
            Algorithm::SourceHash => Some(&HashKey::Source),
            Algorithm::Hash => Some(&self.hash_key),
            _ => None,
        }
    }

    /// Has it, or one of its destinations, a limit of connections?
    pub fn limits_connections(&self) -> bool {
        self.limits.connections > 0 || self.destinations.iter().any(|d| d.limits.connections > 0)
    }

    /// Does a call of gRPC-Web with this method reach its destination as gRPC?
    pub fn translates_grpc_web(&self, method: &str) -> bool {
        self.protocol == PoolProtocol::Http2 && self.grpc_web == GrpcWeb::Translate && method == "POST"
    }
}

/// Time limits towards destinations.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct DestinationTimeouts {
    /// To connect.
    pub connect: Duration,
    /// To the first byte of the answer and between its bytes.
    pub response: Duration,
    /// A pooled connection without work; a tunnel without a byte either way.
    pub idle: Duration,
    /// One message in the pool, all tries included (`performance.timeout`); `None` = no limit.
    pub total: Option<Duration>,
}

/// A destination's address before it is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationAddress {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A host name and port, resolved when the configuration is put to work.
    Name(String, u16),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// One destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// `id`, or the address as written.
    pub name: Name,
    /// Where it listens.
    pub address: DestinationAddress,
    /// Base weight; 0 takes no new work.
    pub weight: Weight,
    /// 0 is first; higher numbers are backup tiers.
    pub priority: u8,
    /// Free text.
    pub zone: Option<Name>,
    /// Free labels, sorted by key.
    pub labels: Arc<[(Name, Name)]>,
    /// What it may have at once, over all workers.
    pub limits: DestinationLimits,
}
