//! Shape of an entry of `pools`.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::Feature;
use super::default_values::duration;
use super::listener::TcpOptions;
use super::load_balancer::LoadBalancer;
use super::scalars::{Address, Bool, ConfigDuration, GrpcWeb, Integer, PoolProtocol, ProxyProtocol, Text};
use crate::{defaults, model};

/// Pool of destinations that are balanced together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Pool {
    /// HTTP version to the destinations: `http1`, `http2` (over TLS, or with prior knowledge) or `auto` (ALPN).
    /// Ignored by `tcp`, `tls`, `udp` and `mqtt` listeners.
    #[schemars(extend("default" = model::PoolProtocol::default().as_str()))]
    protocol: Option<PoolProtocol>,
    /// gRPC-Web calls: `translate` to gRPC, or `pass` unchanged. For `protocol: http2`.
    #[schemars(extend("default" = model::GrpcWeb::default().as_str()))]
    grpc_web: Option<GrpcWeb>,
    /// PROXY header sent at the start of connections to destinations: `none`, `v1` (text) or `v2` (binary).
    #[schemars(extend("default" = model::ProxyProtocol::default().as_str()))]
    proxy_protocol: Option<ProxyProtocol>,
    /// TLS to the destinations: `true` for verified TLS with the system's authorities, `false`, or a block.
    #[schemars(extend("default" = defaults::POOL_TLS))]
    tls: Option<Feature<ClientTls>>,
    /// Load balancing settings of this pool. They override the block at the top of the file key by key.
    load_balancer: Option<LoadBalancer>,
    /// TCP options of connections to destinations, which end those of vanished destinations.
    tcp: Option<TcpOptions>,
    /// Timeouts of connections to destinations.
    timeouts: Option<DestinationTimeouts>,
    /// Concurrency limits of this pool.
    limits: Option<PoolLimits>,
    /// Lookups of the host names of destinations.
    resolve: Option<Resolve>,
    /// Destinations of this pool: addresses, or blocks with an address. Each address of a host name is a destination
    /// of its own, named `NAME/ADDRESS`.
    destinations: Vec<DestinationForm>,
}

/// TLS to the destinations of a pool.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ClientTls {
    /// PEM file of the certificate authorities that destinations are verified against. The system's by default.
    ca: Option<Text>,
    /// Server name that destinations must present a certificate for. The host of the address by default.
    server_name: Option<Text>,
    /// PEM file of the client certificate chain, for destinations that require one. None by default.
    cert: Option<Text>,
    /// PEM file of the private key of `cert`. None by default.
    key: Option<Text>,
    /// Whether the certificates of destinations are verified. `false` is insecure.
    #[schemars(extend("default" = defaults::VERIFY_DESTINATIONS))]
    verify: Option<Bool>,
}

/// Lookups of the host names of destinations.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Resolve {
    /// Time between two lookups; 100ms to 24h. If a lookup fails, the addresses found before stay.
    #[schemars(extend("default" = duration(defaults::RESOLVE_EVERY)))]
    every: Option<ConfigDuration>,
}

/// Timeouts of connections to destinations, 1ms to 24h each.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DestinationTimeouts {
    /// Maximum time to establish a connection.
    #[schemars(extend("default" = duration(defaults::DESTINATION_TIMEOUTS.connect)))]
    connect: Option<ConfigDuration>,
    /// Maximum time to the first byte of the response, and between two of its bytes.
    #[schemars(extend("default" = duration(defaults::DESTINATION_TIMEOUTS.response)))]
    response: Option<ConfigDuration>,
    /// Maximum idle time of a pooled connection; for tunnels, without a byte in either direction.
    #[schemars(extend("default" = duration(defaults::DESTINATION_TIMEOUTS.idle)))]
    idle: Option<ConfigDuration>,
}

/// Concurrency limits of a pool, over all its destinations and all workers.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PoolLimits {
    /// Maximum number of concurrent messages (requests, TCP and MQTT connections, UDP flows); 0 = no limit.
    #[schemars(extend("default" = defaults::POOL_LIMITS.requests))]
    requests: Option<Integer<0, 1_000_000>>,
    /// Maximum number of connections to destinations, idle ones included; 0 = no limit.
    #[schemars(extend("default" = defaults::POOL_LIMITS.connections))]
    connections: Option<Integer<0, 1_000_000>>,
    /// Maximum number of messages queued while a limit is reached; 0 = reject them at once.
    #[schemars(extend("default" = defaults::POOL_LIMITS.pending))]
    pending: Option<Integer<0, 1_000_000>>,
    /// Maximum time that a message waits in the queue; 1ms to 24h.
    #[schemars(extend("default" = duration(defaults::WAIT)))]
    wait: Option<ConfigDuration>,
    /// Maximum number of concurrent retries, in addition to `retry.budget`; 0 = no limit.
    #[schemars(extend("default" = defaults::POOL_LIMITS.retries))]
    retries: Option<Integer<0, 1_000_000>>,
    /// Limits of each destination that has no `limits` of its own.
    per_destination: Option<PerDestinationLimits>,
}

/// Concurrency limits of each destination of a pool, over all workers.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PerDestinationLimits {
    /// Maximum number of concurrent messages per destination; 0 = no limit.
    #[schemars(extend("default" = defaults::DESTINATION_LIMITS.requests))]
    requests: Option<Integer<0, 1_000_000>>,
    /// Maximum number of connections per destination, idle ones included; 0 = no limit.
    #[schemars(extend("default" = defaults::DESTINATION_LIMITS.connections))]
    connections: Option<Integer<0, 1_000_000>>,
}

/// Concurrency limits of one destination, over all workers.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DestinationLimits {
    /// Maximum number of concurrent messages; 0 = no limit. `limits.per_destination.requests` of the pool by default.
    requests: Option<Integer<0, 1_000_000>>,
    /// Maximum number of connections, idle ones included; 0 = no limit. `limits.per_destination.connections` of the
    /// pool by default.
    connections: Option<Integer<0, 1_000_000>>,
}

/// A destination as an address, or as a block with an address.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(super) enum DestinationForm {
    Address(Address),
    Block(Destination),
}

/// Destination with its address, weight and labels.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Destination {
    /// Name of this destination in metrics, logs and commands, unique in the pool. The address by default.
    id: Option<Text>,
    /// Address of this destination: `10.0.0.1:8080`, `app.internal:8080` or `unix:/path`.
    address: Address,
    /// Weight relative to the other destinations of the same priority; 0 = no new messages.
    #[schemars(extend("default" = defaults::WEIGHT.get()))]
    weight: Option<Integer<0, 65535>>,
    /// Priority tier: 0 is used first, higher numbers are backup tiers.
    #[schemars(extend("default" = defaults::PRIORITY))]
    priority: Option<Integer<0, 255>>,
    /// Zone in which this destination runs. No zone by default.
    zone: Option<Text>,
    /// Labels of this destination, which the `subset` of a route selects by; at most 64.
    #[schemars(extend("default" = {}))]
    labels: Option<BTreeMap<String, Text>>,
    /// Concurrency limits of this destination. `limits.per_destination` of the pool by default.
    limits: Option<DestinationLimits>,
}
