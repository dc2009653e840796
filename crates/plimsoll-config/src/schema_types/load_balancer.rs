//! The shape of a `load_balancer` block: how a pool balances, checks and tries again.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::Feature;
use super::scalars::{
    Algorithm, Bool, Bound, CheckProtocol, ConfigDuration, DurationOrNone, HashKey, HashTable, HedgeAfter,
    Integer, IntegerOrNone, Metric, Overprovision, Rate, RetryWhen, Share, Start, Status, Text, ZoneKeys,
};

/// How a pool balances, checks and tries again.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct LoadBalancer {
    /// Which destination takes a message.
    algorithm: Option<Algorithm>,
    /// For `algorithm: hash` and `source_hash`.
    hash: Option<Hash>,
    /// For `algorithm: custom`.
    custom: Option<Custom>,
    /// What becomes of what destinations say of their load.
    load_reports: Option<LoadReports>,
    /// Destinations that say they have too much to do are set aside; off unless asked for.
    overload: Option<Feature<Overload>>,
    /// Active checks; on unless `false`.
    health_checking: Option<Bool>,
    /// Another destination is tried when one fails, where that is safe; on unless `false`.
    failover: Option<Bool>,
    /// How destinations are checked.
    health_monitoring: Option<HealthMonitoring>,
    /// When failing traffic sets a destination aside.
    outlier_detection: Option<OutlierDetection>,
    /// A destination that comes back takes a growing share for so long.
    slow_start: Option<ConfigDuration>,
    /// Ejections leave at least this share of the pool; 0% = they need not.
    panic_threshold: Option<Share>,
    /// A tier overflows to the next when what is left of it, times this, is less than the whole; `none` = never.
    overprovision: Option<Overprovision>,
    /// The own zone is preferred; on where `zone` is given, unless `false`.
    zone_aware: Option<Feature<ZoneAware>>,
    /// Tries and repeats.
    retry: Option<Retry>,
    /// A message that waits long for its answer is sent to a second destination as well.
    hedge: Option<Hedge>,
    /// Deadline and effort.
    performance: Option<Performance>,
    /// Repeats, backup tiers and measures of quality.
    quality: Option<Quality>,
    /// Weights that follow performance and health. Not active yet.
    dynamic_adjustment: Option<Feature<DynamicAdjustment>>,
    /// Measures, thresholds and alerts. Not active yet.
    performance_monitoring: Option<Feature<PerformanceMonitoring>>,
}

/// What becomes of what destinations say of their load.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LoadReports {
    /// What was said longer ago counts for nothing.
    max_age: Option<ConfigDuration>,
    /// Reports of load in answers (ORCA: `endpoint-load-metrics`) are read, and not passed on.
    orca: Option<Bool>,
}

/// When a destination has too much to do.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Overload {
    /// Off if `false`.
    enabled: Option<Bool>,
    /// From this load score on it is set aside.
    threshold: Option<Share>,
    /// Below this one it is taken back.
    recover: Option<Share>,
    /// So large a share of the pool at most, at once.
    max_overloaded: Option<Share>,
}

/// What destinations are scored by.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Custom {
    /// A CEL expression that gives a number for a destination; the lowest takes the message.
    expression: Text,
}

/// When a message without an answer is sent to a second destination as well.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Hedge {
    /// How long it waits before that: `p95`, until so many of a hundred recent messages had their answers, or `30ms`.
    after: Option<HedgeAfter>,
    /// Copies of a message at most; 0 = none.
    max: Option<Integer<0, 3>>,
}

/// What messages are hashed by, and how keys find destinations.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Hash {
    /// `source`, `path`, `header:NAME`, `cookie:NAME` or `query:NAME`.
    key: Option<HashKey>,
    /// How keys find destinations.
    table: Option<HashTable>,
    /// What a destination may have in flight, in percent of its share of all; `none` without a bound.
    bound: Option<Bound>,
}

/// How the own zone is preferred.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ZoneAware {
    /// On unless `false`.
    enabled: Option<Bool>,
    /// In flight at each of its destinations of weight 1: above it messages begin to spill over.
    spill_over_at: Option<IntegerOrNone>,
    /// Whether keys are spread over the whole pool, or over the own zone first.
    keys: Option<ZoneKeys>,
}

/// How destinations are checked.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HealthMonitoring {
    /// From the end of one check to the start of the next.
    check_interval: Option<ConfigDuration>,
    /// The same while a change is pending: after a first failure or a first pass, and when traffic raises a doubt.
    fast_interval: Option<ConfigDuration>,
    /// The same for destinations that are down: the spans double up to this.
    down_interval: Option<ConfigDuration>,
    /// Every span is longer or shorter by up to this share of it; at most 50%.
    jitter: Option<Share>,
    /// Checks of one pool at once.
    max_concurrent: Option<Integer<1, 65536>>,
    /// How a destination is taken that no check has asked yet.
    start: Option<Start>,
    /// A check without an answer by then has failed.
    timeout: Option<ConfigDuration>,
    /// Failures in a row that take a destination out; of the first check, one.
    failure_threshold: Option<Integer<1, 256>>,
    /// Passes in a row that bring it back.
    recovery_threshold: Option<Integer<1, 256>>,
    /// A connection opens, a request is answered, `grpc.health.v1` says SERVING, a datagram is not refused, or a
    /// connection of MQTT is accepted.
    protocol: Option<CheckProtocol>,
    /// What is asked for; implies `protocol: http`.
    path: Option<Text>,
    /// How it is asked for.
    method: Option<Text>,
    /// The `Host` header, and the `:authority` of a `grpc` check; the destination's address without one.
    host: Option<Text>,
    /// Good statuses: `"200-399"`, `"200,204"` or 200.
    expect_status: Option<Status>,
    /// Further lines of the request of an HTTP check.
    headers: Option<BTreeMap<String, Text>>,
    /// What the first 64 KiB of the answer to an HTTP check must contain.
    expect_body: Option<Text>,
    /// Another port than the one that serves.
    port: Option<Integer<1, 65535>>,
    /// What a `grpc` check asks about; the whole server without it.
    service: Option<Text>,
    /// What a `udp` check sends; an empty datagram without it.
    send: Option<Text>,
    /// What the answer to a `udp` check must contain; without it, silence is good and a refusal is not.
    expect: Option<Text>,
    /// Whose connection an `mqtt` check opens; nobody's without it.
    username: Option<Text>,
    /// That user's password.
    password: Option<Text>,
    /// Alerts when a destination or the pool goes or comes back; off unless `true`.
    alerting: Option<Bool>,
    /// A destination that passes its checks again serves one message first, and then a growing share.
    recovery_management: Option<Bool>,
}

/// When failing traffic sets a destination aside.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct OutlierDetection {
    /// Bad outcomes in a row; 0 = never.
    consecutive_failures: Option<Integer<0, 1_000_000>>,
    /// All that serve are compared with each other so often.
    interval: Option<ConfigDuration>,
    /// Messages that wait for so long, and many times longer than usual, make a destination suspect; `none` = never.
    unresponsive_after: Option<DurationOrNone>,
    /// The first time; the n-th in a row lasts n times as long.
    base_ejection: Option<ConfigDuration>,
    /// At most this share of the pool is set aside at once.
    max_ejected: Option<Share>,
}

/// Tries and repeats.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Retry {
    /// All tries of one message, the first included.
    attempts: Option<Integer<1, 10>>,
    /// What is worth another try.
    when: Option<Vec<RetryWhen>>,
    /// Repeats as a share of requests; a floor of 10 a second comes on top.
    budget: Option<Share>,
}

/// Deadline and effort.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Performance {
    /// One message in the pool, all tries included.
    timeout: Option<ConfigDuration>,
    /// Decisions are remembered where that is cheaper than to decide again; on unless `false`.
    caching: Option<Bool>,
    /// Checks run side by side; on unless `false`.
    parallel_processing: Option<Bool>,
    /// Intervals and time limits of checks follow what is seen, within bounds.
    optimization: Option<Bool>,
}

/// Repeats, backup tiers and measures of quality.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Quality {
    /// Safe repeats of failed messages; on unless `false`.
    error_recovery: Option<Bool>,
    /// Destinations with a `priority` above 0 may take over; on unless `false`.
    failover_support: Option<Bool>,
    /// How close shares come to what was intended, and what that costs; off unless `true`.
    quality_metrics: Option<Bool>,
    /// Outlier detection judges a destination by its own past, too.
    learning: Option<Bool>,
}

/// Weights that follow performance and health.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct DynamicAdjustment {
    /// On unless `false`.
    enabled: Option<Bool>,
    /// How often weights move.
    adjustment_interval: Option<ConfigDuration>,
    /// A destination whose performance score is below loses weight.
    performance_threshold: Option<Share>,
    /// A destination whose health score is below loses weight.
    health_threshold: Option<Share>,
    /// Learned capacity is kept.
    learning: Option<Bool>,
}

/// Measures, thresholds and alerts.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct PerformanceMonitoring {
    /// On unless `false`.
    enabled: Option<Bool>,
    /// What is measured.
    metrics: Option<Vec<Metric>>,
    /// What is still good.
    thresholds: Option<Thresholds>,
    /// Alerts when a threshold is crossed.
    alerting: Option<Bool>,
    /// Recommendations.
    optimization: Option<Bool>,
}

/// What is still good.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Thresholds {
    /// The 99th percentile at most.
    response_time: Option<ConfigDuration>,
    /// At least, while there is demand.
    throughput: Option<Rate>,
    /// At most.
    error_rate: Option<Share>,
    /// At least.
    availability: Option<Share>,
}
