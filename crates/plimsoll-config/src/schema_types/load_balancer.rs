//! Shape of a `load_balancer` block.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::Feature;
use super::default_values::{
    duration, duration_or_none, hedge_delay, keyword, or_none, percent, retry_conditions, status_range,
};
use super::scalars::{
    Algorithm, Bool, Bound, CheckProtocol, ConfigDuration, DurationOrNone, HashKey, HashTable, HedgeAfter,
    Integer, IntegerOrNone, Metric, Overprovision, Rate, RetryWhen, Share, Start, Status, Text, ZoneKeys,
};
use crate::defaults;

/// Load balancing, health check and retry settings of a pool.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct LoadBalancer {
    /// Algorithm that picks a destination for each message. Destinations of different weights use
    /// `weighted_round_robin` by default.
    #[schemars(extend("default" = defaults::ALGORITHM.name()))]
    algorithm: Option<Algorithm>,
    /// Consistent hashing settings, for `algorithm: hash` and `source_hash`.
    hash: Option<Hash>,
    /// Custom score of a destination, for `algorithm: custom`.
    custom: Option<Custom>,
    /// Handling of load reports from destinations.
    load_reports: Option<LoadReports>,
    /// Overload protection by reported load: a block, or `true` for its defaults.
    #[schemars(extend("default" = defaults::OVERLOAD_ENABLED))]
    overload: Option<Feature<Overload>>,
    /// Whether destinations are checked actively.
    #[schemars(extend("default" = defaults::HEALTH_CHECKING))]
    health_checking: Option<Bool>,
    /// Whether a message is retried on another destination after a failure, where that is safe.
    #[schemars(extend("default" = defaults::retry().failover))]
    failover: Option<Bool>,
    /// Active health checks of destinations.
    health_monitoring: Option<HealthMonitoring>,
    /// Ejection of destinations that fail real traffic.
    outlier_detection: Option<OutlierDetection>,
    /// Duration over which the share of a returning destination grows to its full weight; 1ms to 24h. No slow start
    /// by default.
    slow_start: Option<ConfigDuration>,
    /// Minimum share of the pool that ejections leave in service; 0% = no minimum.
    #[schemars(extend("default" = percent(defaults::PANIC_THRESHOLD)))]
    panic_threshold: Option<Share>,
    /// Overprovisioning factor of a priority tier, 100% to 1000%: messages overflow to the next tier if the available
    /// share of the tier times this factor is below 100%. `none` = overflow only if no destination is left.
    #[schemars(extend("default" = or_none(defaults::OVERPROVISION)))]
    overprovision: Option<Overprovision>,
    /// Preference for destinations of the balancer's own `zone`: a block, `true` or `false`.
    #[schemars(extend("default" = defaults::ZONE_AWARE))]
    zone_aware: Option<Feature<ZoneAware>>,
    /// Retries of failed messages.
    retry: Option<Retry>,
    /// Hedged attempts of slow requests. No hedging by default.
    hedge: Option<Hedge>,
    /// Total timeout and processing effort.
    performance: Option<Performance>,
    /// Retries, backup tiers and quality measurement.
    quality: Option<Quality>,
    /// Automatic weight adjustment by performance and health. Accepted, but not active yet.
    #[schemars(extend("default" = false))]
    dynamic_adjustment: Option<Feature<DynamicAdjustment>>,
    /// Performance measurement with thresholds and alerts. Accepted, but not active yet.
    #[schemars(extend("default" = false))]
    performance_monitoring: Option<Feature<PerformanceMonitoring>>,
}

/// Handling of load reports from destinations.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LoadReports {
    /// Maximum age of a load report that is still used; 10ms to 24h.
    #[schemars(extend("default" = duration(defaults::LOAD_REPORT_MAX_AGE)))]
    max_age: Option<ConfigDuration>,
    /// Whether ORCA load reports in response headers (`endpoint-load-metrics`) are read and removed.
    #[schemars(extend("default" = defaults::ORCA))]
    orca: Option<Bool>,
}

/// Overload protection by the load that destinations report.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Overload {
    /// Whether overload protection is on. `true` if the block is given.
    #[schemars(extend("default" = true))]
    enabled: Option<Bool>,
    /// Load score from which on a destination is set aside, above 0% and up to 100%.
    #[schemars(extend("default" = percent(defaults::OVERLOAD.threshold)))]
    threshold: Option<Share>,
    /// Load score below which a destination is used again. 10 percentage points below `threshold` by default.
    #[schemars(extend("default" = percent(defaults::OVERLOAD.recover)))]
    recover: Option<Share>,
    /// Maximum share of the pool that may be set aside at once.
    #[schemars(extend("default" = percent(defaults::OVERLOAD.max_overloaded)))]
    max_overloaded: Option<Share>,
}

/// Custom score of a destination, for `algorithm: custom`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Custom {
    /// CEL expression that returns a number for a destination; the lowest score wins. Example:
    /// `(in_flight + 1) / weight`.
    expression: Text,
}

/// Hedged attempts: a second attempt at another destination if the response is late. The first response wins.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Hedge {
    /// Delay before a hedged attempt: a quantile of recent response times (`p50` to `p99.9`) or a duration (1ms to
    /// 24h).
    #[schemars(extend("default" = hedge_delay(defaults::HEDGE.after)))]
    after: Option<HedgeAfter>,
    /// Maximum number of hedged attempts per message; 0 = none.
    #[schemars(extend("default" = defaults::HEDGE.max))]
    max: Option<Integer<0, 3>>,
}

/// Consistent hashing settings.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Hash {
    /// Hash key: `source` (the client's IP address), `path`, `header:NAME`, `cookie:NAME` or `query:NAME`.
    #[schemars(extend("default" = defaults::HASH_KEY.to_string()))]
    key: Option<HashKey>,
    /// Hash table: `ring`, `maglev` or `rendezvous`.
    #[schemars(extend("default" = keyword(defaults::HASH.table)))]
    table: Option<HashTable>,
    /// Maximum load of a destination relative to its fair share, 101% to 1000%, or `none`. Messages above it go to the
    /// next destination.
    #[schemars(extend("default" = or_none(defaults::HASH.bound)))]
    bound: Option<Bound>,
}

/// Preference for destinations of the balancer's own zone.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ZoneAware {
    /// Whether destinations of the own zone are preferred. `true` if the block is given.
    #[schemars(extend("default" = true))]
    enabled: Option<Bool>,
    /// Number of messages in flight per destination of weight 1 above which messages spill over to other zones; 1 to
    /// 1,000,000, or `none`.
    #[schemars(extend("default" = "none"))]
    spill_over_at: Option<IntegerOrNone>,
    /// Destinations over which hash keys are spread: `pool` (all) or `zone` (the own zone first).
    #[schemars(extend("default" = "pool"))]
    keys: Option<ZoneKeys>,
}

/// Active health checks of destinations.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HealthMonitoring {
    /// Interval from the end of a check to the start of the next; 10ms to 24h.
    #[schemars(extend("default" = duration(defaults::CHECK_INTERVAL)))]
    check_interval: Option<ConfigDuration>,
    /// Interval while a status change is pending (after a first failure or success, or a failure of traffic); 10ms to
    /// 24h, and at most `check_interval`.
    #[schemars(extend("default" = duration(defaults::CHECK_FAST_INTERVAL)))]
    fast_interval: Option<ConfigDuration>,
    /// Maximum interval of checks of a destination that is down, to which the interval doubles; 10ms to 24h.
    /// `check_interval` by default.
    down_interval: Option<ConfigDuration>,
    /// Random deviation of each interval, 0% to 50% of it.
    #[schemars(extend("default" = percent(defaults::CHECK_JITTER)))]
    jitter: Option<Share>,
    /// Maximum number of concurrent checks of this pool.
    #[schemars(extend("default" = defaults::MAX_CONCURRENT_CHECKS))]
    max_concurrent: Option<Integer<1, 65536>>,
    /// Status of a destination before its first check: `serving` or `down`.
    #[schemars(extend("default" = keyword(defaults::CHECK_START)))]
    start: Option<Start>,
    /// Maximum duration of a check, after which it has failed; 1ms to 24h.
    #[schemars(extend("default" = duration(defaults::CHECK_TIMEOUT)))]
    timeout: Option<ConfigDuration>,
    /// Number of consecutive failed checks after which a destination is down. The very first check needs one failure.
    #[schemars(extend("default" = defaults::FAILURE_THRESHOLD))]
    failure_threshold: Option<Integer<1, 1000>>,
    /// Number of consecutive passed checks after which a destination serves again.
    #[schemars(extend("default" = defaults::RECOVERY_THRESHOLD))]
    recovery_threshold: Option<Integer<1, 1000>>,
    /// Protocol of checks: `tcp` (connect), `http` (request), `grpc` (`grpc.health.v1`), `udp` (datagram) or `mqtt`
    /// (CONNECT). `udp` by default in pools that only `udp` listeners use.
    #[schemars(extend("default" = "tcp"))]
    protocol: Option<CheckProtocol>,
    /// Path of an HTTP check. Implies `protocol: http`.
    #[schemars(extend("default" = defaults::CHECK_PATH))]
    path: Option<Text>,
    /// Method of an HTTP check, such as `GET` or `HEAD`. Implies `protocol: http`.
    #[schemars(extend("default" = defaults::CHECK_METHOD))]
    method: Option<Text>,
    /// `Host` header of an HTTP check, or `:authority` of a gRPC check. The destination's address by default.
    host: Option<Text>,
    /// Statuses with which an HTTP check passes: a status, ranges, or a list, such as `"200-399"` or `"200,204"`.
    #[schemars(extend("default" = status_range(defaults::CHECK_EXPECT)))]
    expect_status: Option<Status>,
    /// Additional headers of an HTTP check, by name.
    #[schemars(extend("default" = {}))]
    headers: Option<BTreeMap<String, Text>>,
    /// Text that the first 64 KiB of the response to an HTTP check must contain; at most 1400 bytes. Any response by
    /// default.
    expect_body: Option<Text>,
    /// Port of checks, if it differs from the port of the destination.
    port: Option<Integer<1, 65535>>,
    /// Service name of a gRPC check. The empty name is the whole server.
    #[schemars(extend("default" = defaults::CHECK_SERVICE))]
    service: Option<Text>,
    /// Datagram that a UDP check sends; at most 1400 bytes. Implies `protocol: udp`.
    #[schemars(extend("default" = defaults::CHECK_DATAGRAM))]
    send: Option<Text>,
    /// Text that the reply to a UDP check must contain; at most 1400 bytes. By default no reply is required, and only
    /// an ICMP refusal fails the check.
    expect: Option<Text>,
    /// User name of an MQTT check. Anonymous by default.
    username: Option<Text>,
    /// Password of an MQTT check, for its `username`. No password by default.
    password: Option<Text>,
    /// Whether status changes of destinations and of the pool raise alerts.
    #[schemars(extend("default" = defaults::ALERTING))]
    alerting: Option<Bool>,
    /// Whether a recovered destination first gets a single trial message and then a growing share.
    #[schemars(extend("default" = defaults::RECOVERY_MANAGEMENT))]
    recovery_management: Option<Bool>,
}

/// Ejection of destinations that fail real traffic.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct OutlierDetection {
    /// Number of consecutive failures that eject a destination; 0 = never.
    #[schemars(extend("default" = defaults::OUTLIER.consecutive_failures))]
    consecutive_failures: Option<Integer<0, 1_000_000>>,
    /// Interval at which the destinations in service are compared with each other; 10ms to 24h.
    #[schemars(extend("default" = duration_or_none(defaults::OUTLIER.interval)))]
    interval: Option<ConfigDuration>,
    /// Whether destinations that are much slower than their peers are ejected. Otherwise they get less, as the algorithm
    /// decides.
    #[schemars(extend("default" = defaults::OUTLIER.latency))]
    latency: Option<bool>,
    /// Time without a response after which a destination is suspected to be unresponsive, if that is also many times
    /// longer than usual; 10ms to 24h, or `none`.
    #[schemars(extend("default" = duration_or_none(defaults::OUTLIER.unresponsive_after)))]
    unresponsive_after: Option<DurationOrNone>,
    /// Duration of the first ejection; the n-th consecutive one lasts n times as long, up to 300s. 1ms to 24h.
    #[schemars(extend("default" = duration(defaults::OUTLIER.base_ejection)))]
    base_ejection: Option<ConfigDuration>,
    /// Maximum share of the pool that may be ejected at once.
    #[schemars(extend("default" = percent(defaults::OUTLIER.max_ejected)))]
    max_ejected: Option<Share>,
}

/// Retries of failed messages.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Retry {
    /// Maximum number of attempts per message, the first included.
    #[schemars(extend("default" = defaults::retry().attempts))]
    attempts: Option<Integer<1, 10>>,
    /// Conditions under which a message is retried: `connect_failure`, `reset`, `empty_response`, `timeout`,
    /// `status:NNN` (400 to 599) or `grpc:STATUS`.
    #[schemars(extend("default" = retry_conditions(&defaults::retry())))]
    when: Option<Vec<RetryWhen>>,
    /// Maximum number of retries as a share of requests. 10 retries per second are allowed in addition.
    #[schemars(extend("default" = percent(defaults::retry().budget)))]
    budget: Option<Share>,
}

/// Total timeout and processing effort.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Performance {
    /// Maximum time of a message in the pool, all attempts included; 1ms to 24h. No limit by default.
    timeout: Option<ConfigDuration>,
    /// Whether balancing decisions are cached where that is faster than deciding again.
    #[schemars(extend("default" = defaults::CACHING))]
    caching: Option<Bool>,
    /// Whether health checks run concurrently.
    #[schemars(extend("default" = defaults::PARALLEL_CHECKS))]
    parallel_processing: Option<Bool>,
    /// Whether intervals and timeouts of checks adapt to observed traffic and response times.
    #[schemars(extend("default" = defaults::OPTIMIZATION))]
    optimization: Option<Bool>,
}

/// Retries, backup tiers and quality measurement.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Quality {
    /// Whether failed messages are retried where that is safe.
    #[schemars(extend("default" = defaults::retry().error_recovery))]
    error_recovery: Option<Bool>,
    /// Whether destinations with a `priority` above 0 take over when lower tiers fail.
    #[schemars(extend("default" = defaults::BACKUP_TIERS))]
    failover_support: Option<Bool>,
    /// Whether the deviation from the intended traffic shares and its cost are measured.
    #[schemars(extend("default" = defaults::QUALITY_METRICS))]
    quality_metrics: Option<Bool>,
    /// Whether outlier detection also compares a destination with its own learned baseline.
    #[schemars(extend("default" = defaults::LEARNING))]
    learning: Option<Bool>,
}

/// Automatic weight adjustment by performance and health. Accepted, but not active yet.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DynamicAdjustment {
    /// Whether weight adjustment is on. `true` if the block is given.
    #[schemars(extend("default" = true))]
    enabled: Option<Bool>,
    /// Interval of weight adjustments; 10ms to 24h. Not active yet.
    adjustment_interval: Option<ConfigDuration>,
    /// Performance score, 0 to 1, below which a destination loses weight. Not active yet.
    performance_threshold: Option<Share>,
    /// Health score, 0 to 1, below which a destination loses weight. Not active yet.
    health_threshold: Option<Share>,
    /// Whether the learned capacity of destinations is kept. Not active yet.
    learning: Option<Bool>,
}

/// Performance measurement with thresholds and alerts. Accepted, but not active yet.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PerformanceMonitoring {
    /// Whether performance monitoring is on. `true` if the block is given.
    #[schemars(extend("default" = true))]
    enabled: Option<Bool>,
    /// Metrics to measure: `response_time`, `throughput`, `error_rate`, `availability`. Not active yet.
    metrics: Option<Vec<Metric>>,
    /// Thresholds of acceptable performance. Not active yet.
    thresholds: Option<Thresholds>,
    /// Whether a crossed threshold raises an alert. Not active yet.
    alerting: Option<Bool>,
    /// Whether recommendations are made. Not active yet.
    optimization: Option<Bool>,
}

/// Thresholds of acceptable performance. Accepted, but not active yet.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Thresholds {
    /// Maximum response time (99th percentile), such as `100ms`. Not active yet.
    response_time: Option<ConfigDuration>,
    /// Minimum throughput while there is demand, such as `1000/s`. Not active yet.
    throughput: Option<Rate>,
    /// Maximum error rate (share of failed requests). Not active yet.
    error_rate: Option<Share>,
    /// Minimum availability (share of successful requests). Not active yet.
    availability: Option<Share>,
}
