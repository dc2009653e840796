//! Shape of an item of `listeners`.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::OneOrMany;
use super::default_values::{byte_rate, duration, duration_or_none, size};
use super::scalars::{
    AcceptProxyProtocol, Address, Bool, ByteRate, ClientAuth, ConfigDuration, DurationOrNone, FileMode,
    Integer, ListenerProtocol, Size, SubsetFallback, Text, TlsVersion, UdpFlow,
};
use crate::{defaults, model};

/// Listening address with its protocol, limits and routes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Listener {
    /// Name of this listener in metrics and logs. Unique; 1 to 64 letters, digits, `_`, `-` and `.`.
    name: Text,
    /// Address, or list of addresses, on which this listener accepts: `0.0.0.0:8080`, `:8080`, `[::]:443` or
    /// `unix:/path`.
    address: OneOrMany<Address>,
    /// Mode and owner of the files of this listener's Unix sockets.
    unix: Option<UnixFile>,
    /// TCP options of client connections, which end those of vanished clients.
    tcp: Option<TcpOptions>,
    /// Protocol of the clients: `http` or `https` (requests), `tcp` or `tls` (byte streams), `udp` (datagrams),
    /// `mqtt`, or `auto` (detected from the first bytes).
    #[schemars(extend("default" = defaults::LISTENER_PROTOCOL.as_str()))]
    protocol: Option<ListenerProtocol>,
    /// TLS termination. Required for `https` and `tls`, optional for `mqtt` and `auto`.
    tls: Option<ServerTls>,
    /// PROXY protocol on accepted connections: `none`, or `accept` to require a PROXY header from `trusted_proxies`.
    #[schemars(extend("default" = if defaults::ACCEPTS_PROXY_PROTOCOL { "accept" } else { "none" }))]
    proxy_protocol: Option<AcceptProxyProtocol>,
    /// Networks from which `X-Forwarded-*` headers and PROXY headers are trusted, such as `10.0.0.0/8`.
    #[schemars(extend("default" = []))]
    trusted_proxies: Option<Vec<Text>>,
    /// Timeouts of client connections.
    timeouts: Option<ClientTimeouts>,
    /// Size and count limits of client connections and requests.
    limits: Option<Limits>,
    /// Flow settings of a `udp` listener.
    udp: Option<Udp>,
    /// MQTT settings of an `mqtt` or `auto` listener.
    mqtt: Option<Mqtt>,
    /// Whether `Via: 1.1 plimsoll` is added to requests and responses.
    #[schemars(extend("default" = defaults::VIA))]
    via: Option<Bool>,
    /// Whether an HTTP/1 client may close its sending side and still receive its response. By default the request of
    /// a client that does so is cancelled.
    #[schemars(extend("default" = defaults::HALF_CLOSE))]
    half_close: Option<Bool>,
    /// Header edits of every request, applied before those of the route.
    request_headers: Option<HeaderEdits>,
    /// Header edits of every response, applied before those of the route.
    response_headers: Option<HeaderEdits>,
    /// Pool for messages that no route matches.
    pool: Option<Text>,
    /// Routes in order of precedence; the first that matches is used.
    #[schemars(extend("default" = []))]
    routes: Option<Vec<Route>>,
}

/// Mode and owner of the file of a Unix socket. A client needs write permission to connect.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct UnixFile {
    /// Permission bits in octal, such as `0660`. What the process's umask leaves, by default.
    mode: Option<FileMode>,
    /// Name or number of the owner. The user of the process by default.
    user: Option<Text>,
    /// Name or number of the group. The group of the process by default.
    group: Option<Text>,
}

/// TCP options of connections, which end those of vanished peers.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct TcpOptions {
    /// Idle time after which the kernel probes the peer, 1s to 9h in whole seconds; `none` = never.
    #[schemars(extend("default" = duration_or_none(defaults::TCP.keepalive)))]
    keepalive: Option<DurationOrNone>,
    /// Time for which sent data and probes may stay unacknowledged before the connection is closed, 1s to 24h;
    /// `none` = as the kernel decides.
    #[schemars(extend("default" = duration_or_none(defaults::TCP.user_timeout)))]
    user_timeout: Option<DurationOrNone>,
}

/// TLS termination of a listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ServerTls {
    /// Certificates, selected by the server name (SNI). The first is used if no name matches.
    certificates: Vec<Certificate>,
    /// PEM file of the certificate authorities that client certificates are verified against.
    client_ca: Option<Text>,
    /// Client certificates: `none`, `optional` or `required`. `required` if `client_ca` is given, otherwise `none`.
    client_auth: Option<ClientAuth>,
    /// PEM file of certificate revocation lists, one of each authority of client certificates. Not checked by default.
    client_crl: Option<Text>,
    /// Minimum TLS version: `1.2` or `1.3`.
    #[schemars(extend("default" = model::TlsVersion::default().as_str()))]
    min_version: Option<TlsVersion>,
    /// Whether requests for a host that neither the server name (SNI) nor the certificate covers get status 421.
    #[schemars(extend("default" = defaults::STRICT_HOST))]
    strict_host: Option<bool>,
}

/// Certificate chain with its private key.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Certificate {
    /// PEM file of the certificate chain, the server's own certificate first.
    cert: Text,
    /// PEM file of the private key (PKCS#8, PKCS#1 or SEC1).
    key: Text,
}

/// Timeouts of client connections, 1ms to 24h each.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ClientTimeouts {
    /// Maximum duration of the TLS handshake, counted from the accepted connection.
    #[schemars(extend("default" = duration(defaults::CLIENT_TIMEOUTS.handshake)))]
    handshake: Option<ConfigDuration>,
    /// Maximum time to receive what a client sends first, each as a whole: PROXY header, TLS ClientHello, MQTT CONNECT,
    /// request head. For a later request it counts from its first byte.
    #[schemars(extend("default" = duration(defaults::CLIENT_TIMEOUTS.header)))]
    header: Option<ConfigDuration>,
    /// Maximum gap between two bytes of a request body.
    #[schemars(extend("default" = duration(defaults::CLIENT_TIMEOUTS.body)))]
    body: Option<ConfigDuration>,
    /// Minimum rate of a request's head and body, after the first 10 s that its client was waited for; 0 = none.
    /// Tunnels and gRPC calls have none.
    #[schemars(extend("default" = byte_rate(defaults::CLIENT_TIMEOUTS.min_rate)))]
    min_rate: Option<ByteRate>,
    /// Maximum idle time between two requests; for `tcp`, `mqtt` and tunnels, without a byte in either direction.
    #[schemars(extend("default" = duration(defaults::CLIENT_TIMEOUTS.idle)))]
    idle: Option<ConfigDuration>,
    /// Maximum age of a connection that still accepts requests, reduced by up to 10% at random. No limit by default.
    connection: Option<ConfigDuration>,
}

/// Size and count limits of client connections and requests.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Limits {
    /// Maximum number of open connections of this listener, over all workers.
    #[schemars(extend("default" = defaults::LIMITS.connections))]
    connections: Option<Integer<1, 1_048_576>>,
    /// Maximum number of open connections per source: an IPv4 address, or a /64 network of IPv6. Half of `connections`
    /// if only that is given. Loopback and `trusted_proxies` are exempt.
    #[schemars(extend("default" = defaults::LIMITS.connections_per_source))]
    connections_per_source: Option<Integer<1, 1_048_576>>,
    /// Maximum number of concurrent TLS handshakes of this listener, over all workers, each counted from its whole
    /// ClientHello. At the limit the handshake that waits longest for its client is closed.
    #[schemars(extend("default" = defaults::LIMITS.handshakes))]
    handshakes: Option<Integer<1, 1_048_576>>,
    /// Maximum number of concurrent TLS handshakes per source. Half of `handshakes` if only that is given.
    #[schemars(extend("default" = defaults::LIMITS.handshakes_per_source))]
    handshakes_per_source: Option<Integer<1, 1_048_576>>,
    /// Maximum number of requests per connection; 0 = no limit.
    #[schemars(extend("default" = defaults::LIMITS.requests))]
    requests: Option<Integer<0, 1_000_000_000>>,
    /// Maximum number of concurrent streams per HTTP/2 connection.
    #[schemars(extend("default" = defaults::LIMITS.streams))]
    streams: Option<Integer<1, 10_000>>,
    /// Maximum size of a request head, including the request line; 1KiB to 128KiB.
    #[schemars(extend("default" = size(defaults::LIMITS.header_bytes as u64)))]
    header_bytes: Option<Size>,
    /// Maximum number of header fields per request.
    #[schemars(extend("default" = defaults::LIMITS.headers))]
    headers: Option<Integer<1, 256>>,
    /// Maximum size of a request target (URI); 64B to 1MiB, and at most `header_bytes`.
    #[schemars(extend("default" = size(defaults::LIMITS.uri_bytes as u64)))]
    uri_bytes: Option<Size>,
    /// Maximum size of a request body; 0 = no limit.
    #[schemars(extend("default" = size(defaults::LIMITS.body_bytes)))]
    body_bytes: Option<Size>,
}

/// Flow settings of a `udp` listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Udp {
    /// Scope of a balancing decision: `source` keeps the datagrams of a client address on one destination,
    /// `datagram` picks a destination for each datagram.
    #[schemars(extend("default" = defaults::UDP.flow.as_str()))]
    flow: Option<UdpFlow>,
    /// Time after the client's last datagram at which its flow ends; 1ms to 24h.
    #[schemars(extend("default" = duration(defaults::UDP.idle)))]
    idle: Option<ConfigDuration>,
    /// Maximum number of concurrent flows, over all workers. At the limit the flow that is idle longest ends.
    #[schemars(extend("default" = defaults::UDP.max_flows))]
    max_flows: Option<Integer<1, 1_048_576>>,
}

/// MQTT settings of an `mqtt` or `auto` listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Mqtt {
    /// Maximum number of connections per second that are closed to move clients back to their preferred destination,
    /// over all workers; 0 = none.
    #[schemars(extend("default" = defaults::MQTT.rebalance))]
    rebalance: Option<Integer<0, 100_000>>,
}

/// Header edits of requests or responses.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HeaderEdits {
    /// Headers to set, by name. All existing fields of that name are replaced.
    #[schemars(extend("default" = {}))]
    set: Option<BTreeMap<String, Text>>,
    /// Headers to add, by name. Existing fields of that name stay.
    #[schemars(extend("default" = {}))]
    add: Option<BTreeMap<String, Text>>,
    /// Names of headers to remove.
    #[schemars(extend("default" = []))]
    remove: Option<Vec<Text>>,
}

/// Route of a listener: match conditions and the pool for matching messages.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Route {
    /// Name of this route in metrics and logs, unique in the listener. `LISTENER/INDEX` by default.
    name: Option<Text>,
    /// Match conditions, all of which must hold. A route without conditions matches every message.
    #[schemars(extend("default" = {}))]
    r#match: Option<Match>,
    /// Pool for messages that match this route.
    pool: Text,
    /// Labels that a destination of the pool must have to be used by this route. All destinations by default.
    subset: Option<BTreeMap<String, Text>>,
    /// Fallback if no destination of the subset is available: `none` (a 503 response) or `any` (the whole pool).
    #[schemars(extend("default" = super::default_values::keyword(defaults::SUBSET_FALLBACK)))]
    subset_fallback: Option<SubsetFallback>,
    /// Header edits of requests, applied after those of the listener.
    request_headers: Option<HeaderEdits>,
    /// Header edits of responses, applied after those of the listener.
    response_headers: Option<HeaderEdits>,
}

/// Match conditions of a route, all of which must hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Match {
    /// Host of the request: `api.example.com` or `*.example.com`, compared without port and case. Any by default.
    host: Option<Text>,
    /// Prefix of the request path, such as `/v1/`. Any path by default.
    path_prefix: Option<Text>,
    /// Request method, or a list of methods, such as `GET`. Any method by default.
    method: Option<OneOrMany<Text>>,
    /// Request headers with their exact values, by name. No condition by default.
    #[schemars(extend("default" = {}))]
    headers: Option<BTreeMap<String, Text>>,
    /// Server name (SNI) of the TLS ClientHello: `api.example.com` or `*.example.com`. Any by default.
    sni: Option<Text>,
}
