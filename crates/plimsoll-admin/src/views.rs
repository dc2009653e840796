//! JSON views of a running proxy.
//!
//! Times are milliseconds since 1970 (UTC), durations milliseconds, shares 0 to 1. A value that was not observed
//! yet is null.

use std::collections::BTreeMap;

use plimsoll_core::measure::LoadMetric;
use plimsoll_core::pool::DestinationReport;
use plimsoll_core::{Failure, Status};
use plimsoll_functions::pool_views::{destination_health, health_status, load_distribution, millis, weight};
use plimsoll_functions::{HealthStatus, LastCheck, LoadDistribution};
use plimsoll_proxy::{
    CLASSES, CandidateView, Clock, DestinationView, ExplanationView, Handle, LimitView, LimitsView, PoolView,
};
use serde::Serialize;

/// A pool with its destinations.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pool {
    name: String,
    algorithm: &'static str,
    state: &'static str,
    health_status: HealthStatus,
    /// Whether destinations of a backup tier get messages.
    backup_in_use: bool,
    load_distribution: LoadDistribution,
    limits: Limits,
    destinations: Vec<Destination>,
}

/// Current value and limit; a null limit is none.
#[derive(Debug, Serialize)]
struct Usage {
    now: u32,
    limit: Option<u32>,
}

/// Usage of a pool's limits.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    requests: Usage,
    connections: Usage,
    /// Queued requests; the limit is null if no other limit can make them wait.
    pending: Usage,
    retries: Usage,
    /// Maximum time in the queue.
    wait_ms: f64,
}

impl From<LimitView> for Usage {
    fn from(LimitView { current, max, .. }: LimitView) -> Self {
        Self { now: current, limit: max }
    }
}

impl From<&LimitsView> for Limits {
    fn from(limits: &LimitsView) -> Self {
        Self {
            requests: limits.requests.into(),
            connections: limits.connections.into(),
            pending: limits.pending.into(),
            retries: limits.retries.into(),
            wait_ms: millis(limits.wait),
        }
    }
}

/// A destination: the specification's `DestinationHealth` with load, limits and counts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Destination {
    id: String,
    address: String,
    weight: u16,
    effective_weight: f64,
    priority: u8,
    status: &'static str,
    /// Reason of the status, as a sentence; null if it has served since it was added.
    reason: Option<String>,
    /// Name of the reason, such as `trial_passed`; null with it.
    reason_code: Option<&'static str>,
    since: u64,
    /// End of an ejection.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_until: Option<u64>,
    /// Health score, see [`plimsoll_functions::DestinationHealth::score`].
    score: Option<f64>,
    /// The three signals the status follows from.
    signals: Option<Signals>,
    consecutive_failures: u32,
    consecutive_successes: u32,
    last_check: Option<LastCheck>,
    in_flight: u32,
    /// Reported load; null without a recent report.
    load: Option<Load>,
    limits: DestinationLimits,
    counts: Counts,
}

/// Load reported by a destination.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Load {
    /// Load score, from 0 (idle) to 1 (fully loaded).
    score: Option<f64>,
    /// Age of the last report.
    age_ms: Option<f64>,
    /// Reported metrics by name.
    gauges: BTreeMap<&'static str, f64>,
}

impl Load {
    fn new(d: &DestinationView) -> Option<Self> {
        let gauges = LoadMetric::KNOWN
            .into_iter()
            .filter_map(|(name, metric)| Some((name, decimal(d.load.of(metric)?))));
        let load = Self {
            score: d.load.score().map(decimal),
            age_ms: d.load_age.map(millis),
            gauges: gauges.collect(),
        };
        (!d.load.is_empty()).then_some(load)
    }
}

/// Converts a reported number as it was written: 0.42, and not the 0.41999998 that is nearest in single precision.
fn decimal(reported: f32) -> f64 {
    let rounded = (f64::from(reported) * 1e6).round() / 1e6;
    if rounded as f32 == reported { rounded } else { f64::from(reported) }
}

/// Signals of operator, health checks and traffic.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signals {
    /// Operator: `ready`, `drain` or `maintenance`.
    operator: &'static str,
    /// Health checks: `up`, `down`, or `unknown` before the first check and without checks.
    health_checks: &'static str,
    /// Traffic: `clear`, `ejected` or `on_trial`.
    traffic: &'static str,
    /// Number of ejections while health checks passed.
    passed_in_vain: u64,
    /// Number of times health checks took it out of service while its messages succeeded.
    failed_in_vain: u64,
}

impl Signals {
    fn new(report: &DestinationReport) -> Self {
        Self {
            operator: report.admin.as_str(),
            health_checks: report.health.as_str(),
            traffic: report.ejection.as_str(),
            passed_in_vain: report.contradictions.passed,
            failed_in_vain: report.contradictions.failed,
        }
    }
}

/// Usage of a destination's limits.
#[derive(Debug, Serialize)]
struct DestinationLimits {
    requests: Usage,
    connections: Usage,
}

/// Counts since the start of the process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    /// Messages assigned to the destination.
    requests: u64,
    /// Responses by status class.
    responses: BTreeMap<&'static str, u64>,
    /// Failures by reason.
    errors: BTreeMap<&'static str, u64>,
    /// Mean time to the first byte of a response.
    mean_response_ms: Option<f64>,
    /// Consecutive failures of messages.
    failures_in_a_row: u32,
    ejections: u32,
    transitions: u64,
    checks_passed: u64,
    checks_failed: u64,
}

impl Pool {
    pub(crate) fn new(pool: &PoolView, clock: Clock) -> Self {
        Self {
            name: pool.name.to_string(),
            algorithm: pool.algorithm,
            state: pool.state(),
            health_status: health_status(pool, clock),
            backup_in_use: pool.health.backup_in_use,
            load_distribution: load_distribution(pool),
            limits: (&pool.limits).into(),
            destinations: pool.destinations.iter().map(|d| Destination::new(d, clock)).collect(),
        }
    }
}

impl Destination {
    pub(crate) fn new(d: &DestinationView, clock: Clock) -> Self {
        let health = destination_health(d, clock);
        Self {
            id: d.name.to_string(),
            address: d.address.clone(),
            weight: d.weight,
            effective_weight: weight(d.effective_weight),
            priority: d.priority,
            status: d.status.as_str(),
            reason: health.as_ref().and_then(|h| h.reason.clone()),
            reason_code: d.report.as_ref().and_then(|report| Some(report.reason.as_ref()?.as_str())),
            since: clock.unix_millis(d.since),
            ejected_until: match d.status {
                Status::Ejected { until } => Some(clock.unix_millis(until.max(d.since))),
                _ => None,
            },
            score: health.as_ref().and_then(|h| h.score),
            signals: d.report.as_ref().map(Signals::new),
            consecutive_failures: health.as_ref().map_or(0, |h| h.consecutive_failures),
            consecutive_successes: health.as_ref().map_or(0, |h| h.consecutive_successes),
            last_check: health.and_then(|h| h.last_check),
            in_flight: d.in_flight,
            load: Load::new(d),
            limits: DestinationLimits { requests: d.requests.into(), connections: d.connections.into() },
            counts: Counts::new(d),
        }
    }
}

impl Counts {
    fn new(d: &DestinationView) -> Self {
        let is_counted = |count: &u64| *count > 0;
        let responses = CLASSES.into_iter().zip(d.counts.classes).filter(|(_, n)| is_counted(n));
        let errors = Failure::ALL
            .map(Failure::as_str)
            .into_iter()
            .zip(d.counts.failures)
            .filter(|(_, n)| is_counted(n));
        Self {
            requests: d.counts.started,
            responses: responses.collect(),
            errors: errors.collect(),
            mean_response_ms: d.counts.mean_first_byte().map(millis),
            failures_in_a_row: d.streak,
            ejections: d.report.as_ref().map_or(0, |r| r.ejections),
            transitions: d.transitions.values().sum(),
            checks_passed: d.checks.passed,
            checks_failed: d.checks.failed,
        }
    }
}

/// The process as a whole.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Server {
    version: &'static str,
    /// State: `running` or `draining`.
    state: &'static str,
    /// Worst state of all pools: `healthy`, `degraded` or `down`.
    health: &'static str,
    started_at: u64,
    uptime_ms: u64,
    workers: usize,
    listeners: Vec<Listener>,
    reloads: Reloads,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listener {
    name: String,
    protocol: &'static str,
    /// Bound addresses, with port 0 resolved.
    addresses: Vec<String>,
    connections: u64,
    connections_total: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reloads {
    succeeded: u64,
    failed: u64,
    last_succeeded: bool,
    last_success_at: u64,
}

/// Returns the worst state of all pools.
fn worst<'p>(pools: impl Iterator<Item = &'p PoolView>) -> &'static str {
    let order = ["healthy", "degraded", "down"];
    let rank = |state| order.iter().position(|name| *name == state).unwrap_or(0);
    order[pools.map(|pool| rank(pool.state())).max().unwrap_or(0)]
}

impl Server {
    pub(crate) fn new(handle: &Handle, pools: &[PoolView]) -> Self {
        let (traffic, clock) = (handle.traffic(), handle.clock());
        let uptime = clock.now();
        let listeners = traffic.listeners.into_iter().map(|l| Listener {
            name: l.name.to_string(),
            protocol: l.protocol,
            addresses: l.addresses,
            connections: l.counts.active,
            connections_total: l.counts.total,
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            state: if handle.is_draining() { "draining" } else { "running" },
            health: worst(pools.iter()),
            started_at: clock.unix_millis(plimsoll_core::Tick::ZERO),
            uptime_ms: uptime.as_nanos() / 1_000_000,
            workers: handle.workers(),
            listeners: listeners.collect(),
            reloads: Reloads {
                succeeded: traffic.reloads.succeeded,
                failed: traffic.reloads.failed,
                last_succeeded: traffic.reloads.last_succeeded,
                last_success_at: (traffic.reloads.last_success_at * 1e3) as u64,
            },
        }
    }
}

/// The explanation of a request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    listener: String,
    route: Option<String>,
    pool: Option<String>,
    algorithm: Option<&'static str>,
    stages: Vec<Stage>,
    candidates: Vec<Candidate>,
    /// Stage that decided: `trial`, `key`, `only_candidate` or `algorithm`.
    decided_by: Option<&'static str>,
    winner: Option<String>,
    /// Destinations that would be tried next, in order.
    next: Vec<String>,
    /// Local reply the request would get instead.
    refused: Option<Refused>,
}

#[derive(Serialize)]
struct Stage {
    stage: &'static str,
    outcome: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    id: String,
    address: String,
    priority: u8,
    weight: u16,
    status: &'static str,
    set_aside: Option<&'static str>,
    because: Option<String>,
    in_flight: u32,
    load: f64,
    /// Share of its messages it gets during slow start; 1 otherwise.
    slow_start: f64,
    /// Score the algorithm compares; the lowest wins.
    score: Option<f64>,
}

#[derive(Serialize)]
struct Refused {
    status: u16,
    reason: &'static str,
    detail: &'static str,
}

impl Explanation {
    pub(crate) fn new(explained: &ExplanationView) -> Self {
        let candidate = |c: &CandidateView| Candidate {
            id: c.name.to_string(),
            address: c.address.clone(),
            priority: c.priority,
            weight: c.weight,
            status: c.status.as_str(),
            set_aside: c.set_aside,
            because: c.because.clone(),
            in_flight: c.in_flight,
            load: c.load,
            slow_start: c.slow_start,
            score: c.score,
        };
        let mut order = explained.order.iter().map(ToString::to_string);
        let stage = |(stage, outcome): &(&'static str, String)| Stage { stage, outcome: outcome.clone() };
        Self {
            listener: explained.listener.to_string(),
            route: explained.route.as_ref().map(ToString::to_string),
            pool: explained.pool.as_ref().map(ToString::to_string),
            algorithm: explained.algorithm,
            stages: explained.stages.iter().map(stage).collect(),
            candidates: explained.candidates.iter().map(candidate).collect(),
            decided_by: explained.decided,
            winner: order.next(),
            next: order.collect(),
            refused: explained.refused.map(|(status, reason, detail)| Refused { status, reason, detail }),
        }
    }
}
