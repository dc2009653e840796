//! The shape of a file, as the schema tells it to editors: every key with its words, every value as written.
//!
//! Nothing is read into these types; `check` reads the tree itself, because it wants all problems at once and a
//! serde deserializer stops at the first. A test holds the keys of both together.

#![expect(dead_code, reason = "only their shape is used")]

mod load_balancer;
mod scalars;

use std::collections::BTreeMap;

use schemars::JsonSchema;

use self::load_balancer::LoadBalancer;
use self::scalars::{
    AcceptProxyProtocol, Address, Bool, ClientAuth, ConfigDuration, GrpcWeb, Integer, ListenerProtocol,
    PoolProtocol, ProxyProtocol, Share, Size, SubsetFallback, Text, TlsVersion, UdpFlow, Workers,
};

/// A configuration of Plimsoll: the short form (`listen`, `destinations`) or the full one (`listeners`, `pools`).
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "Plimsoll configuration")]
pub(crate) struct File {
    /// Short form: where to listen for HTTP.
    listen: Option<OneOrMany<Address>>,
    /// Short form: the destinations of the one pool, named `default`.
    destinations: Option<Vec<DestinationForm>>,
    /// The zone this balancer stands in: its destinations are preferred as long as they can carry what comes.
    zone: Option<Text>,
    /// How every pool balances, checks and tries again; a pool's own block is laid over it key by key.
    load_balancer: Option<LoadBalancer>,
    /// Full form: where clients come in.
    listeners: Option<Vec<Listener>>,
    /// Full form: destinations balanced together, by name.
    pools: Option<BTreeMap<String, Pool>>,
    /// Data-plane threads; `auto` = as many as CPUs this process may use.
    workers: Option<Workers>,
    /// How the process ends.
    shutdown: Option<Shutdown>,
    /// The admin plane, or `false`.
    admin: Option<Feature<Admin>>,
    /// One line per message, or `false`.
    access_log: Option<Feature<AccessLog>>,
    /// One line for a sample of all choices, or `false`.
    decision_log: Option<Feature<DecisionLog>>,
}

/// How the process ends.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Shutdown {
    /// How long TERM waits for what runs.
    grace: Option<ConfigDuration>,
}

/// The admin plane.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Admin {
    /// A loopback address.
    address: Option<Address>,
}

/// The access log.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct AccessLog {
    /// `stdout`, or a file, which is reopened on USR1.
    path: Option<Text>,
}

/// The decision log.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DecisionLog {
    /// `stdout`, or a file, which is reopened on USR1.
    path: Option<Text>,
    /// The share of choices that are told.
    sample: Option<Share>,
}

/// A front door.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Listener {
    /// Its name in metrics and logs; unique.
    name: Text,
    /// Where it accepts: `0.0.0.0:8080`, `:8080`, `[::]:443`, `unix:/path`, or a list of them.
    address: OneOrMany<Address>,
    /// What it speaks: requests or bytes both ways, in the clear or within TLS, or datagrams.
    protocol: Option<ListenerProtocol>,
    /// How TLS ends here; for `https` and `tls`.
    tls: Option<ServerTls>,
    /// Connections of trusted proxies begin with a PROXY header.
    proxy_protocol: Option<AcceptProxyProtocol>,
    /// Networks whose `X-Forwarded-*` and PROXY headers are believed.
    trusted_proxies: Option<Vec<Text>>,
    /// Time limits towards clients.
    timeouts: Option<ClientTimeouts>,
    /// Size and count limits.
    limits: Option<Limits>,
    /// How clients and destinations are kept together; for `udp`.
    udp: Option<Udp>,
    /// How clients are kept at their destinations; for `mqtt`.
    mqtt: Option<Mqtt>,
    /// Add `Via: 1.1 plimsoll` to requests and answers.
    via: Option<Bool>,
    /// Edits of every request, before the route's.
    request_headers: Option<HeaderEdits>,
    /// Edits of every answer, before the route's.
    response_headers: Option<HeaderEdits>,
    /// The pool that takes what no route takes.
    pool: Option<Text>,
    /// Rules in order; the first that matches wins.
    routes: Option<Vec<Route>>,
}

/// How TLS ends at a listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ServerTls {
    /// By the names in them; the first is for everybody else.
    certificates: Vec<Certificate>,
    /// PEM file of the authorities whose clients are let in.
    client_ca: Option<Text>,
    /// Whether clients must show a certificate; `required` where `client_ca` is given.
    client_auth: Option<ClientAuth>,
    /// The oldest version that is spoken.
    min_version: Option<TlsVersion>,
}

/// A certificate chain and the key to it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Certificate {
    /// PEM file: the certificate first, then those that vouch for it.
    cert: Text,
    /// PEM file: its key.
    key: Text,
}

/// How a pool speaks TLS.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ClientTls {
    /// PEM file of the authorities that vouch for destinations; the system's without one.
    ca: Option<Text>,
    /// The name destinations must have a certificate for; the host of their address without one.
    server_name: Option<Text>,
    /// PEM file: our certificate, where destinations ask for one.
    cert: Option<Text>,
    /// PEM file: the key to it.
    key: Option<Text>,
    /// `false`: anybody is believed.
    verify: Option<Bool>,
}

/// Time limits towards clients.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ClientTimeouts {
    /// For the handshake of TLS, from the first silent moment of a connection.
    handshake: Option<ConfigDuration>,
    /// For the whole head of a request, from the first silent moment of a connection.
    header: Option<ConfigDuration>,
    /// Between two bytes of a request body.
    body: Option<ConfigDuration>,
    /// Between two requests; for tcp and tunnels: without a byte either way.
    idle: Option<ConfigDuration>,
    /// A connection takes requests for so long, and up to a tenth less.
    connection: Option<ConfigDuration>,
}

/// Size and count limits of a listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Limits {
    /// Open connections, over all workers.
    connections: Option<Integer<1, 1_048_576>>,
    /// Handshakes of TLS at once, over all workers.
    handshakes: Option<Integer<1, 1_048_576>>,
    /// Requests of one connection; 0 = no limit.
    requests: Option<Integer<0, 1_000_000_000>>,
    /// Streams of one HTTP/2 connection at once.
    streams: Option<Integer<1, 10_000>>,
    /// Bytes of a request head, request line included.
    header_bytes: Option<Size>,
    /// Header lines of a request.
    headers: Option<Integer<1, 256>>,
    /// Bytes of a request target.
    uri_bytes: Option<Size>,
    /// Bytes of a request body; 0 = no limit.
    body_bytes: Option<Size>,
}

/// How a udp listener keeps clients and destinations together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Udp {
    /// One destination for all datagrams of a client (`source`), or one chosen for each (`datagram`).
    flow: Option<UdpFlow>,
    /// A client is forgotten when it has sent nothing for so long.
    idle: Option<ConfigDuration>,
    /// Flows at once, over all workers; at the limit the one idle longest makes room.
    max_flows: Option<Integer<1, 1_048_576>>,
}

/// How clients of MQTT are kept at their destinations.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Mqtt {
    /// Connections that may be ended each second because their clients belong to another destination; 0 = none.
    rebalance: Option<Integer<0, 100_000>>,
}

/// Edits of header lines.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HeaderEdits {
    /// Replaces every copy.
    set: Option<BTreeMap<String, Text>>,
    /// Beside what is there.
    add: Option<BTreeMap<String, Text>>,
    /// Every copy goes.
    remove: Option<Vec<Text>>,
}

/// A rule of a listener.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Route {
    /// Its name in metrics and logs; `listener/index` without one.
    name: Option<Text>,
    /// Which requests; all, without it.
    r#match: Option<Match>,
    /// The pool it leads to.
    pool: Text,
    /// Only destinations with all of these labels.
    subset: Option<BTreeMap<String, Text>>,
    /// Where a message goes that nobody of the subset takes: nowhere, or to any destination of the pool.
    subset_fallback: Option<SubsetFallback>,
    /// After the listener's.
    request_headers: Option<HeaderEdits>,
    /// After the listener's.
    response_headers: Option<HeaderEdits>,
}

/// Which requests a route is for; all that is given must match.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Match {
    /// `api.example.com` or `*.example.com`; port and case are not compared.
    host: Option<Text>,
    /// The path starts so.
    path_prefix: Option<Text>,
    /// Any of these methods.
    method: Option<OneOrMany<Text>>,
    /// Each of these headers has exactly this value.
    headers: Option<BTreeMap<String, Text>>,
    /// The name in the hello of TLS: `api.example.com` or `*.example.com`.
    sni: Option<Text>,
}

/// Destinations balanced together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Pool {
    /// What is spoken to the destinations of http listeners.
    protocol: Option<PoolProtocol>,
    /// What becomes of calls of gRPC-Web: they reach destinations as gRPC, or as they are. For `protocol: http2`.
    grpc_web: Option<GrpcWeb>,
    /// Whether connections to destinations begin with a PROXY header.
    proxy_protocol: Option<ProxyProtocol>,
    /// TLS is spoken to the destinations: `true`, or how.
    tls: Option<Feature<ClientTls>>,
    /// Laid over the block at the top of the file, key by key.
    load_balancer: Option<LoadBalancer>,
    /// Time limits towards destinations.
    timeouts: Option<DestinationTimeouts>,
    /// What it may have at once.
    limits: Option<PoolLimits>,
    /// Who serves.
    destinations: Vec<DestinationForm>,
}

/// Time limits towards destinations.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DestinationTimeouts {
    /// To connect.
    connect: Option<ConfigDuration>,
    /// To the first byte of the answer and between its bytes.
    response: Option<ConfigDuration>,
    /// A pooled connection without work; a tunnel without a byte either way.
    idle: Option<ConfigDuration>,
}

/// What a pool may have at once, over all destinations and workers; 0 = no limit.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PoolLimits {
    /// Messages: requests, connections of TCP and MQTT, flows of datagrams.
    requests: Option<Integer<0, 1_000_000>>,
    /// Connections, idle ones included.
    connections: Option<Integer<0, 1_000_000>>,
    /// Messages that wait until there is room; 0 = none: they are refused at once.
    pending: Option<Integer<0, 1_000_000>>,
    /// How long a message waits at most.
    wait: Option<ConfigDuration>,
    /// Messages that are being tried again, beside what `retry.budget` allows.
    retries: Option<Integer<0, 1_000_000>>,
    /// What each destination may have that does not say so itself.
    per_destination: Option<DestinationLimits>,
}

/// What one destination may have at once, over all workers; 0 = no limit.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DestinationLimits {
    /// Messages: requests, connections of TCP and MQTT, flows of datagrams.
    requests: Option<Integer<0, 1_000_000>>,
    /// Connections, idle ones included.
    connections: Option<Integer<0, 1_000_000>>,
}

/// An address, or a block with one.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum DestinationForm {
    Address(Address),
    Block(Destination),
}

/// A destination.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Destination {
    /// Its name; the address without one. Unique in the pool.
    id: Option<Text>,
    /// `10.0.0.1:8080`, `app.internal:8080` or `unix:/path`.
    address: Address,
    /// Its share beside the others'; 0 takes no new work.
    weight: Option<Integer<0, 65535>>,
    /// 0 is first; higher numbers are backup tiers.
    priority: Option<Integer<0, 255>>,
    /// Where it stands.
    zone: Option<Text>,
    /// Free labels.
    labels: Option<BTreeMap<String, Text>>,
    /// What it may have at once; what is not said holds as in the pool's `limits.per_destination`.
    limits: Option<DestinationLimits>,
}

/// A switch, or a block that is enabled.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
enum Feature<T> {
    Bool(Bool),
    Block(T),
}

/// One, or a list.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}
