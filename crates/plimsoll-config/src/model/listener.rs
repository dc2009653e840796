//! Listeners, with their timeouts and limits.

use std::time::Duration;

use ipnet::IpNet;
use plimsoll_core::Name;

use super::{HeaderEdits, ListenAddress, Route, ServerTls, TcpOptions, UnixFile};

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
#[non_exhaustive]
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
#[non_exhaustive]
pub struct Mqtt {
    /// Maximum number of connections per second that are closed to move clients back to their preferred destination,
    /// over all workers; 0 = none.
    pub rebalance: usize,
}

/// Listening addresses with their protocol, limits and routes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Listener {
    /// Name, unique among listeners.
    pub name: Name,
    /// Addresses that this listener accepts on, at least one.
    pub addresses: Vec<ListenAddress>,
    /// Mode and owner of the files of its Unix sockets.
    pub unix: UnixFile,
    /// TCP options of its connections.
    pub tcp: TcpOptions,
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
    /// Whether an HTTP/1 client may close its sending side and still receive its response.
    pub half_close: bool,
    /// Header edits of every request, applied before those of the route.
    pub request_headers: HeaderEdits,
    /// Header edits of every response, applied before those of the route.
    pub response_headers: HeaderEdits,
    /// Routes in order of precedence; the first that matches is used. Empty on UDP listeners.
    pub routes: Vec<Route>,
    /// Pool for messages that no route matches, as an index into [`Config::pools`](crate::Config::pools).
    pub pool: Option<usize>,
}

/// Timeouts of client connections.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientTimeouts {
    /// Maximum duration of the TLS handshake, counted from the accepted connection.
    pub handshake: Duration,
    /// Maximum time to receive what a client sends first, each as a whole: PROXY header, TLS ClientHello, MQTT CONNECT,
    /// request head. For a later request it counts from its first byte.
    pub header: Duration,
    /// Maximum gap between two bytes of a request body.
    pub body: Duration,
    /// Minimum rate of a request's head and body in bytes per second, after the first 10 s; 0 = none.
    pub min_rate: u64,
    /// Maximum idle time between two requests; for TCP and tunnels, without a byte in either direction.
    pub idle: Duration,
    /// Maximum age of a connection that still accepts requests, reduced by up to 10% at random; `None` = no limit.
    pub connection: Option<Duration>,
}

/// Size and count limits of a listener.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of open connections over all workers.
    pub connections: usize,
    /// Maximum number of open connections per source: an IPv4 address, or a /64 network of IPv6. Loopback and trusted
    /// proxies are exempt.
    pub connections_per_source: usize,
    /// Maximum number of concurrent TLS handshakes over all workers, each counted from its whole ClientHello.
    pub handshakes: usize,
    /// Maximum number of concurrent TLS handshakes per source.
    pub handshakes_per_source: usize,
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
