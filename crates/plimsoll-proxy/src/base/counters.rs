//! Counters of routes, listeners and pools, one row per worker, summed on demand.
//!
//! Each worker writes only its own row, so counting is a plain load and store on a cache line that no other core
//! writes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_core::stats::{BUCKETS_US, bucket_of};
use plimsoll_core::{Failure, NoDestination};

use crate::base::reason::Reason;
use plimsoll_wire::http1::target::Method;

/// Status classes as metrics label them; index 0 is for requests that ended without a status.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Methods as metrics label them.
pub const METHODS: [&str; Method::NAMES.len()] = Method::NAMES;

/// Returns the reasons for local replies and closed connections, as metrics label them.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::as_str)
}

/// Histogram of durations that only one worker writes.
#[derive(Debug)]
struct Buckets([Counter; BUCKETS_US.len() + 1]);

impl Default for Buckets {
    fn default() -> Self {
        Self([const { Counter(AtomicU64::new(0)) }; BUCKETS_US.len() + 1])
    }
}

/// A counter that only one worker writes.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One row per worker, each on cache lines of its own.
#[derive(Debug)]
pub(crate) struct PerWorker<T>(Box<[Row<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Row<T>(T);

impl<T: Default> PerWorker<T> {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Row::default()).collect())
    }

    pub(crate) fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    pub(crate) fn sum(&self, read: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().map(|row| read(&row.0)).fold(0, u64::wrapping_add)
    }
}

/// Counters of one route of a listener and its pool.
#[derive(Debug, Default)]
pub(crate) struct RouteCounters {
    requests: [[Counter; CLASSES.len()]; METHODS.len()],
    durations: [Buckets; CLASSES.len()],
    duration_nanos: [Counter; CLASSES.len()],
    pub(crate) started: Counter,
    pub(crate) ended: Counter,
    pub(crate) request_bytes: Counter,
    pub(crate) response_bytes: Counter,
}

impl RouteCounters {
    /// Counts a request that ended with `status` (0 = none) after `span`.
    pub(crate) fn request(&self, method: Method, status: u16, span: Duration) {
        let class = usize::from(status / 100).min(5);
        self.requests[method as usize][class].add(1);
        self.durations[class].0[bucket_of(span)].add(1);
        self.duration_nanos[class].add(span.as_nanos() as u64);
    }
}

/// Result of a TLS handshake.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Handshake with a new session.
    Full,
    /// Handshake that resumed a session.
    Resumed,
    /// Handshake that failed.
    Failed,
}

/// Handshake results as metrics label them.
pub const HANDSHAKES: [&str; 3] = ["full", "resumed", "failed"];

/// TLS versions as metrics label them; `none` is for handshakes that failed before a version was negotiated.
pub const TLS_VERSIONS: [&str; 3] = ["none", "1.2", "1.3"];

/// Directions of datagrams as metrics label them. Datagrams received from one side and not sent to the other were
/// dropped.
pub const DIRECTIONS: [&str; 4] = ["from_clients", "to_destinations", "from_destinations", "to_clients"];

/// One counter for each reason.
#[derive(Debug)]
pub(crate) struct ByReason([Counter; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Counters of one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerCounters {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    pub(crate) refused: ByReason,
    pub(crate) accept_errors: Counter,
    handshakes: [[Counter; HANDSHAKES.len()]; TLS_VERSIONS.len()],
    handshake_buckets: Buckets,
    handshake_nanos: Counter,
    pub(crate) datagrams: [Counter; DIRECTIONS.len()],
    pub(crate) evicted: Counter,
}

impl ListenerCounters {
    /// Counts a local reply or a closed connection by its reason.
    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused.0[reason as usize].add(1);
    }

    /// Counts a handshake that took `span`.
    pub(crate) fn handshake(&self, version: &str, result: Handshake, span: Duration) {
        let version = TLS_VERSIONS.iter().position(|&known| known == version).unwrap_or(0);
        self.handshakes[version][result as usize].add(1);
        self.handshake_buckets.0[bucket_of(span)].add(1);
        self.handshake_nanos.add(span.as_nanos() as u64);
    }
}

/// A histogram for export: counts by bucket (not cumulative) and the sum in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Count of each bucket of [`BUCKETS_US`], and of the values above all of them.
    pub buckets: Vec<u64>,
    /// Sum of all values, in seconds.
    pub sum: f64,
}

/// Counts of a route, summed over all workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteCounts {
    /// Requests by method ([`METHODS`]) and status class ([`CLASSES`]).
    pub requests: Vec<Vec<u64>>,
    /// Durations by status class ([`CLASSES`]).
    pub durations: Vec<Histogram>,
    /// Number of requests in progress.
    pub in_flight: u64,
    /// Head and body bytes received from clients.
    pub request_bytes: u64,
    /// Bytes sent to clients.
    pub response_bytes: u64,
}

impl PerWorker<RouteCounters> {
    pub(crate) fn counts(&self) -> RouteCounts {
        let requests = (0..METHODS.len())
            .map(|m| (0..CLASSES.len()).map(|c| self.sum(|t| t.requests[m][c].get())).collect())
            .collect();
        let durations = (0..CLASSES.len())
            .map(|c| Histogram {
                buckets: (0..=BUCKETS_US.len()).map(|b| self.sum(|t| t.durations[c].0[b].get())).collect(),
                sum: self.sum(|t| t.duration_nanos[c].get()) as f64 / 1e9,
            })
            .collect();
        RouteCounts {
            requests,
            durations,
            in_flight: self.sum(|t| t.started.get()).saturating_sub(self.sum(|t| t.ended.get())),
            request_bytes: self.sum(|t| t.request_bytes.get()),
            response_bytes: self.sum(|t| t.response_bytes.get()),
        }
    }
}

/// Results of balancing decisions as metrics label them; `assigned` is the only success.
pub const DECISIONS: [&str; 5] = ["assigned", "empty", "none_serving", "all_tried", "full"];

/// Upper bounds of the decision time buckets, in nanoseconds: a rotation takes tens of nanoseconds, a comparison of
/// many destinations microseconds.
pub const DECISION_BUCKETS_NS: [u64; 10] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000];

/// Causes of retries as metrics label them: [`Failure::ALL`], and `status` for a listed response status.
pub const RETRY_REASONS: [&str; Failure::ALL.len() + 1] = {
    let mut names = ["status"; Failure::ALL.len() + 1];
    let mut at = 0;
    while at < Failure::ALL.len() {
        names[at] = Failure::ALL[at].as_str();
        at += 1;
    }
    names
};

/// Result of the attempt before a retry.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum PreviousAttempt {
    /// The attempt failed.
    Failed(Failure),
    /// The response had a status that is retried.
    Rejected,
}

impl PreviousAttempt {
    /// Returns its index in [`RETRY_REASONS`].
    const fn index(self) -> usize {
        match self {
            Self::Failed(failure) => failure as usize,
            Self::Rejected => Failure::ALL.len(),
        }
    }
}

/// Limit of a pool that rejected or delayed a request.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The queue was full.
    Queue,
    /// The request waited in the queue for too long.
    Wait,
    /// The maximum number of concurrent retries was reached.
    Retries,
    /// The maximum number of connections was reached, and no idle one could be closed.
    Connections,
}

/// Limits that rejected or delayed requests, as metrics label them.
pub const OVERFLOWS: [&str; 4] = ["queue", "wait", "retries", "connections"];

/// Results of hedged requests as metrics label them.
pub const HEDGES: [&str; 5] = ["won", "lost", "failed", "no_budget", "no_destination"];

/// Result of a hedged request.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum HedgeResult {
    /// The hedge responded first.
    Won,
    /// Another attempt responded first, or the client disconnected.
    Lost,
    /// The hedge failed.
    Failed,
    /// No hedge was sent: the retry budget was spent.
    NoBudget,
    /// No hedge was sent: no other destination may serve.
    NoDestination,
}

/// Results of load reports in responses, as metrics label them.
pub const ORCA_RESULTS: [&str; 3] = ["taken", "unused", "malformed"];

/// Result of a load report in a response.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadReportResult {
    /// The report was recorded.
    Accepted,
    /// The report has no metric that is used.
    Unused,
    /// The report cannot be parsed.
    Malformed,
}

/// Counters of one pool. They outlive changes of its routes.
#[derive(Debug, Default)]
pub(crate) struct PoolCounters {
    decisions: [Counter; DECISIONS.len()],
    retries: [Counter; RETRY_REASONS.len()],
    failovers: [Counter; RETRY_REASONS.len()],
    overflows: [Counter; OVERFLOWS.len()],
    wait_buckets: Buckets,
    wait_nanos: Counter,
    hedges: [Counter; HEDGES.len()],
    orca: [Counter; ORCA_RESULTS.len()],
    timed: [Counter; DECISION_BUCKETS_NS.len() + 1],
    timed_nanos: Counter,
}

impl PoolCounters {
    /// Records the duration of a decision that was timed.
    pub(crate) fn decision_took(&self, span: Duration) {
        let nanos = span.as_nanos() as u64;
        let above = DECISION_BUCKETS_NS.iter().position(|&bound| nanos <= bound);
        self.timed[above.unwrap_or(DECISION_BUCKETS_NS.len())].add(1);
        self.timed_nanos.add(nanos);
    }

    /// Counts a decision; `before` is the result of the attempt before this one.
    pub(crate) fn decided(&self, missed: Option<NoDestination>, before: Option<PreviousAttempt>) {
        self.decisions[missed.map_or(0, |why| why as usize + 1)].add(1);
        if let (None, Some(before)) = (missed, before) {
            self.retries[before.index()].add(1);
            self.failovers[before.index()].add(1);
        }
    }

    /// Counts a request that a limit rejected or delayed.
    pub(crate) fn overflowed(&self, why: Overflow) {
        self.overflows[why as usize].add(1);
    }

    /// Records how long a request was queued, whatever the result.
    pub(crate) fn waited(&self, span: Duration) {
        self.wait_buckets.0[bucket_of(span)].add(1);
        self.wait_nanos.add(span.as_nanos() as u64);
    }

    /// Counts a hedge by its result.
    pub(crate) fn hedged(&self, result: HedgeResult) {
        self.hedges[result as usize].add(1);
    }

    /// Counts a load report by its result.
    pub(crate) fn load_reported(&self, result: LoadReportResult) {
        self.orca[result as usize].add(1);
    }

    /// Counts a request that is repeated on a new connection to the same destination.
    pub(crate) fn repeated(&self, after: Failure) {
        self.retries[after as usize].add(1);
    }
}

/// Counts of a pool, summed over all workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolCounts {
    /// Decisions by result, in the order of [`DECISIONS`].
    pub decisions: [u64; DECISIONS.len()],
    /// Retries by the failure that caused them, in the order of [`RETRY_REASONS`].
    pub retries: [u64; RETRY_REASONS.len()],
    /// Retries that were sent to a different destination, in the order of [`RETRY_REASONS`].
    pub failovers: [u64; RETRY_REASONS.len()],
    /// Requests rejected or delayed because a limit was reached, in the order of [`OVERFLOWS`].
    pub overflows: [u64; OVERFLOWS.len()],
    /// Time in the queue, including requests that were not served.
    pub waits: Histogram,
    /// HedgeResult requests by result, in the order of [`HEDGES`].
    pub hedges: [u64; HEDGES.len()],
    /// Load reports by result, in the order of [`ORCA_RESULTS`].
    pub orca: [u64; ORCA_RESULTS.len()],
    /// Durations of the decisions that were timed, by bucket of [`DECISION_BUCKETS_NS`].
    pub timed: [u64; DECISION_BUCKETS_NS.len() + 1],
    /// Sum of the timed decisions, in nanoseconds.
    pub timed_nanos: u64,
}

impl PerWorker<PoolCounters> {
    pub(crate) fn counts(&self) -> PoolCounts {
        PoolCounts {
            decisions: std::array::from_fn(|d| self.sum(|t| t.decisions[d].get())),
            retries: std::array::from_fn(|f| self.sum(|t| t.retries[f].get())),
            failovers: std::array::from_fn(|f| self.sum(|t| t.failovers[f].get())),
            overflows: std::array::from_fn(|o| self.sum(|t| t.overflows[o].get())),
            waits: Histogram {
                buckets: (0..=BUCKETS_US.len()).map(|b| self.sum(|t| t.wait_buckets.0[b].get())).collect(),
                sum: self.sum(|t| t.wait_nanos.get()) as f64 / 1e9,
            },
            hedges: std::array::from_fn(|h| self.sum(|t| t.hedges[h].get())),
            orca: std::array::from_fn(|r| self.sum(|t| t.orca[r].get())),
            timed: std::array::from_fn(|b| self.sum(|t| t.timed[b].get())),
            timed_nanos: self.sum(|t| t.timed_nanos.get()),
        }
    }
}

/// Counts of a listener, summed over all workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerCounts {
    /// Number of open connections.
    pub active: u64,
    /// Number of accepted connections.
    pub total: u64,
    /// Local replies and closed connections by reason, in the order of [`reasons`].
    pub refused: Vec<u64>,
    /// Failed `accept` calls, most often because no file descriptor was left.
    pub accept_errors: u64,
    /// TLS handshakes by version ([`TLS_VERSIONS`]) and result ([`HANDSHAKES`]).
    pub handshakes: Vec<Vec<u64>>,
    /// Durations of TLS handshakes.
    pub handshake_durations: Histogram,
    /// Datagrams by direction, in the order of [`DIRECTIONS`].
    pub datagrams: [u64; DIRECTIONS.len()],
    /// UDP flows that were evicted because the maximum number was reached.
    pub evicted: u64,
}

impl PerWorker<ListenerCounters> {
    pub(crate) fn counts(&self) -> ListenerCounts {
        let total = self.sum(|t| t.opened.get());
        ListenerCounts {
            active: total.saturating_sub(self.sum(|t| t.closed.get())),
            total,
            refused: (0..Reason::ALL.len()).map(|r| self.sum(|t| t.refused.0[r].get())).collect(),
            datagrams: std::array::from_fn(|d| self.sum(|t| t.datagrams[d].get())),
            evicted: self.sum(|t| t.evicted.get()),
            accept_errors: self.sum(|t| t.accept_errors.get()),
            handshakes: (0..TLS_VERSIONS.len())
                .map(|v| (0..HANDSHAKES.len()).map(|h| self.sum(|t| t.handshakes[v][h].get())).collect())
                .collect(),
            handshake_durations: Histogram {
                buckets: (0..=BUCKETS_US.len())
                    .map(|b| self.sum(|t| t.handshake_buckets.0[b].get()))
                    .collect(),
                sum: self.sum(|t| t.handshake_nanos.get()) as f64 / 1e9,
            },
        }
    }
}
