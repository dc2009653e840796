//! How the API shows a running proxy: the contract's types as JSON.
//!
//! Moments are milliseconds since 1970 (UTC), spans are milliseconds, shares run from 0 to 1. What was not
//! observed yet is null.

use std::collections::BTreeMap;

use plimsoll_core::measure::LoadMetric;
use plimsoll_core::pool::DestinationReport;
use plimsoll_core::{Failure, Status};
use plimsoll_functions::{DestinationHealth, HealthStatus, LastCheck, LoadDistribution};
use plimsoll_proxy::{
    CLASSES, CandidateView, Clock, DestinationView, Explained, Handle, LimitView, LimitsView, PoolView,
};
use serde::Serialize;

use crate::spec_views::{health_status, load_distribution, millis, weight};

/// One pool, whole.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pool {
    name: String,
    algorithm: &'static str,
    state: &'static str,
    health_status: HealthStatus,
    load_distribution: LoadDistribution,
    limits: Limits,
    destinations: Vec<Destination>,
}

/// How many there are now, and how many there may be; null = no limit.
#[derive(Debug, Serialize)]
struct Use {
    now: u32,
    limit: Option<u32>,
}

/// What a pool has at once and may have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    requests: Use,
    connections: Use,
    /// Messages that wait for a place; their limit is null where nothing makes them wait.
    pending: Use,
    retries: Use,
    /// A message waits for so long at most.
    wait_ms: f64,
}

impl From<LimitView> for Use {
    fn from(LimitView { current, max }: LimitView) -> Self {
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

/// One destination, whole: the contract's `DestinationHealth` and what else is known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Destination {
    id: String,
    address: String,
    weight: u16,
    effective_weight: f64,
    priority: u8,
    status: &'static str,
    /// Why it stands so, in a sentence; null for one that has served since it joined.
    reason: Option<String>,
    since: u64,
    /// An ejected destination is tried again then.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_until: Option<u64>,
    /// See [`DestinationHealth::score`].
    score: Option<f64>,
    /// The signals that the status follows from.
    signals: Option<Signals>,
    consecutive_failures: u32,
    consecutive_successes: u32,
    last_check: Option<LastCheck>,
    in_flight: u32,
    /// What it says of its own load, if it said so lately.
    load: Option<Load>,
    limits: DestinationLimits,
    counts: Counts,
}

/// What a destination says of its load.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Load {
    /// From 0, idle, to 1, full.
    score: Option<f32>,
    /// Its last word is so old.
    age_ms: Option<f64>,
    /// What each metric shows.
    gauges: BTreeMap<&'static str, f32>,
}

impl Load {
    fn new(d: &DestinationView) -> Option<Self> {
        let gauges =
            LoadMetric::KNOWN.into_iter().filter_map(|(name, metric)| Some((name, d.load.of(metric)?)));
        let load = Self { score: d.load.score(), age_ms: d.load_age.map(millis), gauges: gauges.collect() };
        (!d.load.is_empty()).then_some(load)
    }
}

/// The three signals a status follows from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signals {
    /// `ready`, `drain` or `maintenance`.
    operator: &'static str,
    /// `up`, `down`, or `unknown` before the first check and without checks.
    health_checks: &'static str,
    /// `clear`, `ejected` or `on_trial`.
    traffic: &'static str,
    /// How often traffic set it aside while its checks passed.
    passed_in_vain: u64,
    /// How often checks took it out while its messages went well.
    failed_in_vain: u64,
}

impl Signals {
    fn new(report: &DestinationReport) -> Self {
        Self {
            operator: report.admin.as_str(),
            health_checks: report.health.as_str(),
            traffic: report.ejection.as_str(),
            passed_in_vain: report.contradicted.passed,
            failed_in_vain: report.contradicted.failed,
        }
    }
}

/// What a destination has at once and may have.
#[derive(Debug, Serialize)]
struct DestinationLimits {
    requests: Use,
    connections: Use,
}

/// Counts since the start.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    /// Messages it was chosen for.
    requests: u64,
    /// Answers by class of status.
    answers: BTreeMap<&'static str, u64>,
    /// Failures by reason.
    errors: BTreeMap<&'static str, u64>,
    /// To the first byte of its answers, on average.
    mean_response_ms: Option<f64>,
    /// Bad outcomes of real traffic in a row.
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
            load_distribution: load_distribution(pool),
            limits: (&pool.limits).into(),
            destinations: pool.destinations.iter().map(|d| Destination::new(d, clock)).collect(),
        }
    }
}

impl Destination {
    pub(crate) fn new(d: &DestinationView, clock: Clock) -> Self {
        let health = d.report.as_ref().map(|r| DestinationHealth::of(r, &d.checks, d.streak, clock));
        Self {
            id: d.name.to_string(),
            address: d.address.clone(),
            weight: d.weight,
            effective_weight: weight(d.effective_weight),
            priority: d.priority,
            status: d.status.as_str(),
            reason: health.as_ref().and_then(|h| h.reason.clone()),
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
        let told = |count: &u64| *count > 0;
        let answers = CLASSES.into_iter().zip(d.counts.classes).filter(|(_, n)| told(n));
        let errors =
            Failure::ALL.map(Failure::as_str).into_iter().zip(d.counts.failures).filter(|(_, n)| told(n));
        Self {
            requests: d.counts.started,
            answers: answers.collect(),
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
    /// `running` or `draining`.
    state: &'static str,
    /// Of its pools the worst: `healthy`, `degraded` or `down`.
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
    /// Where it really listens, port 0 resolved.
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

/// The worst state of all pools.
fn worst<'p>(pools: impl Iterator<Item = &'p PoolView>) -> &'static str {
    let order = ["healthy", "degraded", "down"];
    let rank = |state| order.iter().position(|word| *word == state).unwrap_or(0);
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

/// What would become of a request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    listener: String,
    route: Option<String>,
    pool: Option<String>,
    algorithm: Option<&'static str>,
    stages: Vec<Stage>,
    candidates: Vec<Candidate>,
    /// What decided: `trial`, `key`, `lone` or `algorithm`.
    decided_by: Option<&'static str>,
    winner: Option<String>,
    /// Who would be tried next.
    next: Vec<String>,
    /// What the balancer would answer itself.
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
    chance: f64,
    score: Option<f64>,
}

#[derive(Serialize)]
struct Refused {
    status: u16,
    reason: &'static str,
    detail: &'static str,
}

impl Explanation {
    pub(crate) fn new(told: &Explained) -> Self {
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
            chance: c.chance,
            score: c.score,
        };
        let mut order = told.order.iter().map(ToString::to_string);
        let stage = |(stage, outcome): &(&'static str, String)| Stage { stage, outcome: outcome.clone() };
        Self {
            listener: told.listener.to_string(),
            route: told.route.as_ref().map(ToString::to_string),
            pool: told.pool.as_ref().map(ToString::to_string),
            algorithm: told.algorithm,
            stages: told.stages.iter().map(stage).collect(),
            candidates: told.candidates.iter().map(candidate).collect(),
            decided_by: told.decided,
            winner: order.next(),
            next: order.collect(),
            refused: told.refused.map(|(status, reason, detail)| Refused { status, reason, detail }),
        }
    }
}
