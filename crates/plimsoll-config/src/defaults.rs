//! What holds when a file says nothing, and how far it may go when it does; docs/defaults.md has the reasons.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use plimsoll_core::PoolLimits;
use plimsoll_core::balance::{Algorithm, HashSpec, HashTable};
use plimsoll_core::health::{OutlierSpec, OverloadSpec};
use plimsoll_core::retry::{HedgeAfter, HedgeSpec, RetrySpec, RetryWhen};

use crate::model::{ClientTimeouts, DestinationTimeouts, HashKey, Limits, Mqtt, Udp, UdpFlow};

/// Where the admin plane listens unless told otherwise.
pub const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);
/// How long TERM waits for what runs.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// Which destination takes a message, where all weigh alike.
pub const ALGORITHM: Algorithm = Algorithm::ResponseTime;
/// The same where they do not: only a rotation gives each its share at any load.
pub const WEIGHTED_ALGORITHM: Algorithm = Algorithm::WeightedRoundRobin;
/// How keys find destinations.
pub const HASH: HashSpec = HashSpec { table: HashTable::Maglev, bound: None };
/// What a `hedge` block says that says nothing.
pub const HEDGE: HedgeSpec = HedgeSpec { after: HedgeAfter::Quantile(0.95), max: 1 };

/// What `hash` hashes by.
pub const HASH_KEY: HashKey = HashKey::Source;
/// `Via` is added to nothing.
pub const VIA: bool = false;

/// Time limits towards clients.
pub const CLIENT_TIMEOUTS: ClientTimeouts = ClientTimeouts {
    handshake: Duration::from_secs(10),
    header: Duration::from_secs(10),
    body: Duration::from_secs(30),
    idle: Duration::from_secs(60),
    connection: None,
};

/// Time limits towards destinations.
pub const DESTINATION_TIMEOUTS: DestinationTimeouts = DestinationTimeouts {
    connect: Duration::from_secs(1),
    response: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    total: None,
};

/// What a pool may have at once.
pub const POOL_LIMITS: PoolLimits = PoolLimits { requests: 0, connections: 0, pending: 1024, retries: 0 };
/// How long a message waits for room.
pub const WAIT: Duration = Duration::from_secs(1);
/// Messages or connections at once.
pub(crate) const CONCURRENT: RangeInclusive<i64> = 0..=1_000_000;

/// Size and count limits of a listener.
pub const LIMITS: Limits = Limits {
    connections: 20_000,
    handshakes: 2_000,
    requests: 0,
    streams: 128,
    header_bytes: 64 << 10,
    headers: 100,
    uri_bytes: 8 << 10,
    body_bytes: 0,
};

/// How a udp listener keeps clients and destinations together.
pub const UDP: Udp = Udp { flow: UdpFlow::Source, idle: Duration::from_secs(60), max_flows: 65_536 };

/// How clients of MQTT are kept at their destinations.
pub const MQTT: Mqtt = Mqtt { rebalance: 10 };

/// From the end of one check to the start of the next.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The same while a change is pending; never longer than the interval.
pub const CHECK_FAST_INTERVAL: Duration = Duration::from_secs(1);
/// A check without an answer by then has failed.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Failures in a row that take a destination out.
pub const FAILURE_THRESHOLD: u32 = 3;
/// Passes in a row that bring it back.
pub const RECOVERY_THRESHOLD: u32 = 2;
/// How an HTTP check asks.
pub const CHECK_METHOD: &str = "GET";
/// What an HTTP check asks for.
pub const CHECK_PATH: &str = "/";
/// Statuses an HTTP check takes for good.
pub const CHECK_EXPECT: (u16, u16) = (200, 399);
/// Whom a gRPC check asks about: the whole server.
pub const CHECK_SERVICE: &str = "";

/// When real traffic sets a destination aside.
pub const OUTLIER: OutlierSpec = OutlierSpec {
    consecutive_failures: 5,
    base_ejection: Duration::from_secs(30),
    max_ejection: Duration::from_secs(300),
    max_ejected: 0.5,
    interval: Some(Duration::from_secs(10)),
    unresponsive_after: Some(Duration::from_secs(1)),
    learning: false,
};

/// When a destination has too much to do, where that is asked for.
pub const OVERLOAD: OverloadSpec = OverloadSpec { threshold: 0.9, recover: 0.8, max_overloaded: 0.5 };

/// Ejections leave at least this share of a pool.
pub const PANIC_THRESHOLD: f64 = 0.5;

/// Tries and repeats.
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

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Time limits: a shorter one would cut off what it should only bound.
pub(crate) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
/// Checks more often than that are load, not checks.
pub(crate) const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// None at all is good: TERM then ends at once.
pub(crate) const GRACE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// Threads.
pub(crate) const WORKERS: RangeInclusive<i64> = 1..=1024;
/// Checks in a row.
pub(crate) const THRESHOLD: RangeInclusive<i64> = 1..=1000;
/// Checks of one pool at once, each with a socket.
pub(crate) const CONCURRENT_CHECKS: RangeInclusive<i64> = 1..=65_536;
/// A span that may be anything between nothing and twice itself is none.
pub(crate) const MAX_JITTER: f64 = 0.5;
/// Open connections: as many as a process may have files (Linux `fs.nr_open`).
pub(crate) const CONNECTIONS: RangeInclusive<i64> = 1..=1_048_576;
/// Connections ended in a second.
pub(crate) const REBALANCE: RangeInclusive<i64> = 0..=100_000;
/// Requests of a connection: more than any lives to see.
pub(crate) const REQUESTS: RangeInclusive<i64> = 0..=1_000_000_000;
/// Streams of a connection, each of which may hold a window of bytes.
pub(crate) const STREAMS: RangeInclusive<i64> = 1..=10_000;
/// Header lines.
pub(crate) const HEADERS: RangeInclusive<i64> = 1..=256;
/// Bytes of a head, which is held in memory.
pub(crate) const HEADER_BYTES: RangeInclusive<u64> = 1024..=128 << 10;
/// Bytes of a target, part of the head.
pub(crate) const URI_BYTES: RangeInclusive<u64> = 64..=1 << 20;

/// Reports of load in answers are read.
pub(crate) const ORCA: bool = false;

/// The share of choices that the decision log tells.
pub(crate) const DECISION_SAMPLE: f64 = 0.01;

#[cfg(test)]
mod tests {
    use plimsoll_core::health::LoadSpec;

    use super::*;
    use plimsoll_core::health::{CheckSchedule, Start};

    use crate::model::GrpcWeb;
    use crate::units::{ConfigDuration, Size};

    /// Every row of docs/defaults.md that this crate answers for: key, value as it is written there.
    fn rows() -> Vec<(&'static str, String)> {
        let dur = |d: Duration| ConfigDuration(d).to_string();
        let (client, upstream) = (CLIENT_TIMEOUTS, DESTINATION_TIMEOUTS);
        let retry = retry();
        let percent = |share: f64| format!("{}%", share * 100.0);
        vec![
            ("admin.address", ADMIN.to_string()),
            ("shutdown.grace", dur(SHUTDOWN_GRACE)),
            ("listeners[].via", VIA.to_string()),
            ("listeners[].timeouts.handshake", dur(client.handshake)),
            ("listeners[].timeouts.header", dur(client.header)),
            ("listeners[].timeouts.body", dur(client.body)),
            ("listeners[].timeouts.idle", dur(client.idle)),
            ("decision_log.sample", percent(DECISION_SAMPLE)),
            ("panic_threshold", percent(PANIC_THRESHOLD)),
            ("load_reports.max_age", dur(LoadSpec::MAX_AGE)),
            ("load_reports.orca", ORCA.to_string()),
            ("overload.threshold", percent(OVERLOAD.threshold)),
            ("overload.recover", percent(OVERLOAD.recover)),
            ("overload.max_overloaded", percent(OVERLOAD.max_overloaded)),
            ("listeners[].mqtt.rebalance", MQTT.rebalance.to_string()),
            ("listeners[].limits.connections", LIMITS.connections.to_string()),
            ("listeners[].limits.handshakes", LIMITS.handshakes.to_string()),
            ("listeners[].limits.requests", LIMITS.requests.to_string()),
            ("listeners[].limits.streams", LIMITS.streams.to_string()),
            ("listeners[].limits.header_bytes", Size(LIMITS.header_bytes as u64).to_string()),
            ("listeners[].limits.headers", LIMITS.headers.to_string()),
            ("listeners[].limits.uri_bytes", Size(LIMITS.uri_bytes as u64).to_string()),
            ("listeners[].limits.body_bytes", Size(LIMITS.body_bytes).to_string()),
            (
                "listeners[].udp.flow",
                if UDP.flow == UdpFlow::Source { "source" } else { "datagram" }.to_owned(),
            ),
            ("listeners[].udp.idle", dur(UDP.idle)),
            ("listeners[].udp.max_flows", UDP.max_flows.to_string()),
            (
                "pools.*.grpc_web",
                if GrpcWeb::default() == GrpcWeb::Translate { "translate" } else { "pass" }.to_owned(),
            ),
            ("pools.*.timeouts.connect", dur(upstream.connect)),
            ("pools.*.timeouts.response", dur(upstream.response)),
            ("pools.*.timeouts.idle", dur(upstream.idle)),
            ("pools.*.limits.requests", POOL_LIMITS.requests.to_string()),
            ("pools.*.limits.connections", POOL_LIMITS.connections.to_string()),
            ("pools.*.limits.pending", POOL_LIMITS.pending.to_string()),
            ("pools.*.limits.wait", dur(WAIT)),
            ("pools.*.limits.retries", POOL_LIMITS.retries.to_string()),
            ("load_balancer.algorithm", ALGORITHM.name().to_owned()),
            ("hash.key", format!("{HASH_KEY:?}").to_lowercase()),
            ("hash.table", format!("{:?}", HASH.table).to_lowercase()),
            ("health_monitoring.check_interval", dur(CHECK_INTERVAL)),
            ("health_monitoring.fast_interval", dur(CHECK_FAST_INTERVAL)),
            ("health_monitoring.jitter", percent(CheckSchedule::JITTER)),
            ("health_monitoring.max_concurrent", CheckSchedule::MAX_CONCURRENT.to_string()),
            ("health_monitoring.start", format!("{:?}", Start::default()).to_lowercase()),
            ("health_monitoring.timeout", dur(CHECK_TIMEOUT)),
            ("health_monitoring.failure_threshold", FAILURE_THRESHOLD.to_string()),
            ("health_monitoring.recovery_threshold", RECOVERY_THRESHOLD.to_string()),
            ("health_monitoring.method", CHECK_METHOD.to_owned()),
            ("health_monitoring.path", CHECK_PATH.to_owned()),
            ("health_monitoring.expect_status", format!("{}-{}", CHECK_EXPECT.0, CHECK_EXPECT.1)),
            ("health_monitoring.service", format!("{CHECK_SERVICE:?}")),
            ("outlier_detection.consecutive_failures", OUTLIER.consecutive_failures.to_string()),
            ("outlier_detection.base_ejection", dur(OUTLIER.base_ejection)),
            ("outlier_detection.interval", OUTLIER.interval.map_or(String::new(), dur)),
            ("outlier_detection.unresponsive_after", OUTLIER.unresponsive_after.map_or(String::new(), dur)),
            ("outlier_detection.max_ejected", percent(OUTLIER.max_ejected)),
            ("retry.attempts", retry.attempts.to_string()),
            ("retry.budget", percent(retry.budget)),
            (
                "hedge.after",
                match HEDGE.after {
                    HedgeAfter::Quantile(share) => format!("p{}", share * 100.0),
                    HedgeAfter::Fixed(span) => dur(span),
                },
            ),
            ("hedge.max", HEDGE.max.to_string()),
        ]
    }

    #[test]
    fn the_table_in_the_docs_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/defaults.md");
        let text = std::fs::read_to_string(path).unwrap();
        for (key, value) in rows() {
            let row = format!("| `{key}` | `{value}` | ");
            let reason = text.lines().find_map(|line| line.strip_prefix(&row));
            assert!(
                reason.is_some_and(|r| r.len() > 10),
                "docs/defaults.md lacks this row with a reason: {row}"
            );
        }
    }
}
