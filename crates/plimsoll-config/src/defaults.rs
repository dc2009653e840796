//! Default values and ranges of configuration keys. docs/defaults.md gives the reason of each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use plimsoll_core::balance::{Algorithm, HashSpec, HashTable};
use plimsoll_core::health::{CheckSchedule, LoadSpec, OutlierSpec, OverloadSpec, Start};
use plimsoll_core::retry::{HedgeAfter, HedgeSpec, RetrySpec, RetryWhen};
use plimsoll_core::subset::Fallback;
use plimsoll_core::{DestinationLimits, PoolLimits, Weight};

use crate::model::{
    ClientTimeouts, DestinationTimeouts, HashKey, Limits, MemoryLimit, Mqtt, Protocol, TcpOptions, Udp,
    UdpFlow,
};

/// Address of the admin plane.
pub const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);
/// Maximum time that running messages get to finish after TERM.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// Bytes that the process may buffer for peers that do not read.
pub const MAX_BUFFERED: MemoryLimit = MemoryLimit::Share(0.25);
/// Algorithm of a pool with destinations of equal weights.
pub const ALGORITHM: Algorithm = Algorithm::ResponseTime;
/// Algorithm of a pool with destinations of different weights. Only a rotation keeps the shares at any load.
pub const WEIGHTED_ALGORITHM: Algorithm = Algorithm::WeightedRoundRobin;
/// Table and bound of consistent hashing.
pub const HASH: HashSpec = HashSpec { table: HashTable::Maglev, bound: None };
/// Hedging of a pool with an empty `hedge` block.
pub const HEDGE: HedgeSpec = HedgeSpec { after: HedgeAfter::Quantile(0.95), max: 1 };

/// Key of `algorithm: hash`.
pub const HASH_KEY: HashKey = HashKey::Source;
/// Whether `Via` is added to requests and responses.
pub const VIA: bool = false;
/// Whether an HTTP/1 client may close its sending side and still receive its response.
pub const HALF_CLOSE: bool = false;

/// Whether requests for hosts that the served certificate does not cover are rejected.
pub const STRICT_HOST: bool = false;

/// TCP options of connections with clients and destinations.
pub const TCP: TcpOptions =
    TcpOptions { keepalive: Some(Duration::from_secs(60)), user_timeout: Some(Duration::from_secs(30)) };

/// Timeouts of client connections.
pub const CLIENT_TIMEOUTS: ClientTimeouts = ClientTimeouts {
    handshake: Duration::from_secs(10),
    header: Duration::from_secs(10),
    body: Duration::from_secs(30),
    min_rate: 240,
    idle: Duration::from_secs(60),
    connection: None,
};

/// Time that a client has for a request before its minimum rate applies.
pub const MIN_RATE_AFTER: Duration = Duration::from_secs(10);

/// Timeouts of connections to destinations.
pub const DESTINATION_TIMEOUTS: DestinationTimeouts = DestinationTimeouts {
    connect: Duration::from_secs(1),
    response: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    total: None,
};

/// Time between two lookups of the host names of destinations.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// Concurrency limits of a pool.
pub const POOL_LIMITS: PoolLimits = PoolLimits { requests: 0, connections: 0, pending: 1024, retries: 0 };
/// Concurrency limits of a destination.
pub const DESTINATION_LIMITS: DestinationLimits = DestinationLimits { requests: 0, connections: 0 };
/// Maximum time that a message waits in the queue of a pool.
pub const WAIT: Duration = Duration::from_secs(1);

/// Size and count limits of a listener.
pub const LIMITS: Limits = Limits {
    connections: 20_000,
    connections_per_source: 10_000,
    handshakes: 2_000,
    handshakes_per_source: 1_000,
    requests: 0,
    streams: 128,
    header_bytes: 64 << 10,
    headers: 100,
    uri_bytes: 8 << 10,
    body_bytes: 0,
};

/// Flow settings of a UDP listener.
pub const UDP: Udp = Udp { flow: UdpFlow::Source, idle: Duration::from_secs(60), max_flows: 65_536 };

/// Settings of an MQTT listener.
pub const MQTT: Mqtt = Mqtt { rebalance: 10 };

/// Interval from the end of a check to the start of the next.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of checks while a status change is pending, capped by the check interval.
pub const CHECK_FAST_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum duration of a check.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Consecutive failed checks after which a destination is down.
pub const FAILURE_THRESHOLD: u32 = 3;
/// Consecutive passed checks after which a destination serves again.
pub const RECOVERY_THRESHOLD: u32 = 2;
/// Method of an HTTP check.
pub const CHECK_METHOD: &str = "GET";
/// Path of an HTTP check.
pub const CHECK_PATH: &str = "/";
/// Range of statuses with which an HTTP check passes.
pub const CHECK_EXPECT: (u16, u16) = (200, 399);
/// Service name of a gRPC check. The empty name is the whole server.
pub const CHECK_SERVICE: &str = "";
/// Datagram that a UDP check sends.
pub const CHECK_DATAGRAM: &str = "";

/// Ejection of destinations that fail real traffic.
pub const OUTLIER: OutlierSpec = OutlierSpec {
    interval: Some(Duration::from_secs(10)),
    unresponsive_after: Some(Duration::from_secs(1)),
    ..OutlierSpec::CONSECUTIVE_FAILURES
};

/// Overload protection of a pool with `overload: true`.
pub const OVERLOAD: OverloadSpec = OverloadSpec { threshold: 0.9, recover: 0.8, max_overloaded: 0.5 };

/// Minimum share of a pool that ejections leave in service.
pub const PANIC_THRESHOLD: f64 = 0.5;

/// Returns the retry settings of a pool.
pub fn retry() -> RetrySpec {
    let when = RetryWhen {
        connect_failure: true,
        reset: true,
        empty_response: true,
        timeout: false,
        statuses: Vec::new(),
        grpc_statuses: Vec::new(),
    };
    RetrySpec { attempts: 3, when, budget: 0.2, failover: true, error_recovery: true }
}

/// Number of data-plane threads: one per available CPU.
pub(crate) const WORKERS_AUTO: &str = "auto";
/// Whether the admin plane is on.
pub(crate) const ADMIN_ENABLED: bool = true;
/// Whether the access log is on.
pub(crate) const ACCESS_LOG_ENABLED: bool = false;
/// Whether the decision log is on.
pub(crate) const DECISION_LOG_ENABLED: bool = false;
/// Output of a log.
pub(crate) const LOG_PATH: &str = "stdout";
/// Share of balancing decisions in the decision log.
pub(crate) const DECISION_SAMPLE: f64 = 0.01;
/// Protocol of a listener.
pub(crate) const LISTENER_PROTOCOL: Protocol = Protocol::Http;
/// Whether a PROXY header is required from trusted proxies.
pub(crate) const ACCEPTS_PROXY_PROTOCOL: bool = false;
/// Fallback of a route with a subset.
pub(crate) const SUBSET_FALLBACK: Fallback = Fallback::None;
/// Whether a pool uses TLS to its destinations.
pub(crate) const POOL_TLS: bool = false;
/// Whether the certificates of destinations are verified.
pub(crate) const VERIFY_DESTINATIONS: bool = true;
/// Weight of a destination.
pub(crate) const WEIGHT: Weight = Weight::ONE;
/// Priority tier of a destination.
pub(crate) const PRIORITY: u8 = 0;
/// Whether destinations are checked actively.
pub(crate) const HEALTH_CHECKING: bool = true;
/// Random deviation of check intervals.
pub(crate) const CHECK_JITTER: f64 = CheckSchedule::JITTER;
/// Concurrent checks of a pool.
pub(crate) const MAX_CONCURRENT_CHECKS: usize = CheckSchedule::MAX_CONCURRENT;
/// Status of a destination before its first check.
pub(crate) const CHECK_START: Start = Start::Serving;
/// Whether status changes raise alerts.
pub(crate) const ALERTING: bool = false;
/// Whether a recovered destination gets a trial message first.
pub(crate) const RECOVERY_MANAGEMENT: bool = false;
/// Maximum age of a load report.
pub(crate) const LOAD_REPORT_MAX_AGE: Duration = LoadSpec::MAX_AGE;
/// Whether ORCA load reports in responses are read.
pub(crate) const ORCA: bool = false;
/// Whether overload protection is on.
pub(crate) const OVERLOAD_ENABLED: bool = false;
/// Overprovisioning factor of a priority tier.
pub(crate) const OVERPROVISION: Option<f64> = None;
/// Whether destinations of the own zone are preferred.
pub(crate) const ZONE_AWARE: bool = true;
/// Whether backup tiers are used.
pub(crate) const BACKUP_TIERS: bool = true;
/// Whether balancing decisions are cached.
pub(crate) const CACHING: bool = true;
/// Whether health checks run concurrently.
pub(crate) const PARALLEL_CHECKS: bool = true;
/// Whether check intervals and timeouts adapt to traffic.
pub(crate) const OPTIMIZATION: bool = false;
/// Whether the quality of the distribution is measured.
pub(crate) const QUALITY_METRICS: bool = false;
/// Whether outlier detection uses a learned baseline.
pub(crate) const LEARNING: bool = OUTLIER.learning;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Range of timeouts. A longer one is a mistake in the unit.
pub(crate) const MIN_RATE: RangeInclusive<u64> = 0..=1 << 30;
pub(crate) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
/// Range of TCP keep-alive times: the kernel takes whole seconds, up to 32,767.
pub(crate) const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(9 * 3600);
/// Range of TCP user timeouts. Below a second, a lost packet or two would end a connection.
pub(crate) const USER_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;
/// Range of check intervals. More frequent checks would be load.
pub(crate) const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// Range of the time between lookups. More frequent ones would be load on the name servers.
pub(crate) const RESOLVE: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;
/// Range of the shutdown grace. With zero, TERM ends the process at once.
pub(crate) const GRACE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// Range of the number of data-plane threads.
pub(crate) const WORKERS: RangeInclusive<i64> = 1..=1024;
/// Range of consecutive checks.
pub(crate) const THRESHOLD: RangeInclusive<i64> = 1..=1000;
/// Range of concurrent checks of a pool. Each uses a socket.
pub(crate) const CONCURRENT_CHECKS: RangeInclusive<i64> = 1..=65_536;
/// Maximum jitter. With more, an interval could be anything between nothing and twice its length.
pub(crate) const MAX_JITTER: f64 = 0.5;
/// Range of concurrent messages or connections of a pool.
pub(crate) const CONCURRENT: RangeInclusive<i64> = 0..=1_000_000;
/// Range of open connections, up to the open files a Linux process may have (`fs.nr_open`).
pub(crate) const CONNECTIONS: RangeInclusive<i64> = 1..=1_048_576;
/// Range of connections closed per second for rebalancing.
pub(crate) const REBALANCE: RangeInclusive<i64> = 0..=100_000;
/// Range of requests per connection.
pub(crate) const REQUESTS: RangeInclusive<i64> = 0..=1_000_000_000;
/// Range of streams per connection. Each may hold a window of bytes.
pub(crate) const STREAMS: RangeInclusive<i64> = 1..=10_000;
/// Range of header fields.
pub(crate) const HEADERS: RangeInclusive<i64> = 1..=256;
/// Range of the bytes that the process may buffer.
pub(crate) const BUFFERED_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// Range of the size of a head, which is held in memory.
pub(crate) const HEADER_BYTES: RangeInclusive<u64> = 1024..=128 << 10;
/// Range of the size of a request target, which is a part of the head.
pub(crate) const URI_BYTES: RangeInclusive<u64> = 64..=1 << 20;
