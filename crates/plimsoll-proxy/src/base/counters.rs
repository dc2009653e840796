//! What is counted, per worker, and how it is summed when somebody asks.
//!
//! Each worker owns its row of every table, so counting is a plain load and store on a line no other core
//! writes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_core::stats::{BUCKETS_MS, bucket_of};
use plimsoll_core::{Failure, NoDestination};

use crate::base::reason::Reason;
use plimsoll_wire::http1::target::Method;

/// Status classes as metrics label them; index 0 is for requests that ended without a status.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Methods as metrics label them.
pub const METHODS: [&str; Method::NAMES.len()] = Method::NAMES;

/// Why the proxy answered itself or ended a connection, as metrics label it.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    Reason::ALL.into_iter().map(Reason::word)
}

/// A number only its worker writes.
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

/// One row a worker, on lines of its own.
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

/// Counts of one rule: a route of a listener and the pool it leads to.
#[derive(Debug, Default)]
pub(crate) struct RuleTally {
    requests: [[Counter; CLASSES.len()]; METHODS.len()],
    durations: [[Counter; BUCKETS_MS.len() + 1]; CLASSES.len()],
    duration_nanos: [Counter; CLASSES.len()],
    pub(crate) started: Counter,
    pub(crate) ended: Counter,
    pub(crate) request_bytes: Counter,
    pub(crate) response_bytes: Counter,
}

impl RuleTally {
    /// A request ended with `status` (0 = with none) after `span`.
    pub(crate) fn request(&self, method: Method, status: u16, span: Duration) {
        let class = usize::from(status / 100).min(5);
        self.requests[method as usize][class].add(1);
        self.durations[class][bucket_of(span)].add(1);
        self.duration_nanos[class].add(span.as_nanos() as u64);
    }
}

/// How a handshake of TLS ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// From nothing.
    Full,
    /// Taking up an earlier session.
    Resumed,
    /// It came to nothing.
    Failed,
}

/// How handshakes end, as metrics label it.
pub const HANDSHAKES: [&str; 3] = ["full", "resumed", "failed"];

/// Versions of TLS, as metrics label them; the first is for handshakes that ended before one was agreed on.
pub const TLS_VERSIONS: [&str; 3] = ["none", "1.2", "1.3"];

/// Which way datagrams went, as metrics label it. What came from one side and did not go to the other was
/// dropped.
pub const DIRECTIONS: [&str; 4] = ["from_clients", "to_destinations", "from_destinations", "to_clients"];

/// A counter for each reason.
#[derive(Debug)]
pub(crate) struct ByReason([Counter; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Counts of one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerTally {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    pub(crate) refused: ByReason,
    pub(crate) accept_errors: Counter,
    handshakes: [[Counter; HANDSHAKES.len()]; TLS_VERSIONS.len()],
    handshake_buckets: [Counter; BUCKETS_MS.len() + 1],
    handshake_nanos: Counter,
    pub(crate) datagrams: [Counter; DIRECTIONS.len()],
    pub(crate) evicted: Counter,
}

impl ListenerTally {
    /// The proxy answered itself, or ended a connection, for this reason.
    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused.0[reason as usize].add(1);
    }

    /// A handshake ended so after `span`.
    pub(crate) fn handshake(&self, version: &str, how: Handshake, span: Duration) {
        let version = TLS_VERSIONS.iter().position(|&known| known == version).unwrap_or(0);
        self.handshakes[version][how as usize].add(1);
        self.handshake_buckets[bucket_of(span)].add(1);
        self.handshake_nanos.add(span.as_nanos() as u64);
    }
}

/// A histogram as it is exported: counts by bucket (not cumulative), their sum in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// One more than [`BUCKETS_MS`] has; the last holds what is above all of them.
    pub buckets: Vec<u64>,
    /// Seconds.
    pub sum: f64,
}

/// A rule's counts, summed over workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleCounts {
    /// Requests by method ([`METHODS`]) and class ([`CLASSES`]).
    pub requests: Vec<Vec<u64>>,
    /// Durations by class.
    pub durations: Vec<Histogram>,
    /// Being served now.
    pub in_flight: u64,
    /// Body and head bytes received from clients.
    pub request_bytes: u64,
    /// Bytes sent to clients.
    pub response_bytes: u64,
}

impl PerWorker<RuleTally> {
    pub(crate) fn counts(&self) -> RuleCounts {
        let requests = (0..METHODS.len())
            .map(|m| (0..CLASSES.len()).map(|c| self.sum(|t| t.requests[m][c].get())).collect())
            .collect();
        let durations = (0..CLASSES.len())
            .map(|c| Histogram {
                buckets: (0..=BUCKETS_MS.len()).map(|b| self.sum(|t| t.durations[c][b].get())).collect(),
                sum: self.sum(|t| t.duration_nanos[c].get()) as f64 / 1e9,
            })
            .collect();
        RuleCounts {
            requests,
            durations,
            in_flight: self.sum(|t| t.started.get()).saturating_sub(self.sum(|t| t.ended.get())),
            request_bytes: self.sum(|t| t.request_bytes.get()),
            response_bytes: self.sum(|t| t.response_bytes.get()),
        }
    }
}

/// How a choice of a destination can end, as metrics label it; the first is for those that found one.
pub const DECISIONS: [&str; 5] = ["assigned", "empty", "none_serving", "all_tried", "full"];

/// Upper bounds, in nanoseconds, of the buckets for how long choices take: tens of nanoseconds for a rotation,
/// microseconds for a look at many destinations.
pub const DECISION_BUCKETS_NS: [u64; 10] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000];

/// How a try that another one follows had ended, as metrics label it: [`Failure::ALL`], and a listed status.
pub const RETRY_REASONS: [&str; Failure::ALL.len() + 1] = {
    let mut words = ["status"; Failure::ALL.len() + 1];
    let mut at = 0;
    while at < Failure::ALL.len() {
        words[at] = Failure::ALL[at].as_str();
        at += 1;
    }
    words
};

/// How the try before had ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It failed.
    Failed(Failure),
    /// It answered with a status another destination may do better than.
    Rejected,
}

impl Before {
    /// Its place in [`RETRY_REASONS`].
    const fn place(self) -> usize {
        match self {
            Self::Failed(failure) => failure as usize,
            Self::Rejected => Failure::ALL.len(),
        }
    }
}

/// What a limit of a pool kept a message from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// To wait: too many did.
    Queue,
    /// To wait any longer.
    Wait,
    /// To be tried again: too many were.
    Retries,
    /// A connection: there were as many as there may be, and none could be closed for it.
    Connections,
}

/// What a limit of a pool kept messages from, as metrics label it.
pub const OVERFLOWS: [&str; 4] = ["queue", "wait", "retries", "connections"];

/// How a copy of a message that waited long ended, or why there was none, as metrics label it.
pub const HEDGES: [&str; 5] = ["won", "lost", "failed", "no_budget", "nobody"];

/// The same.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hedged {
    /// Its answer was the first.
    Won,
    /// Another answer was, or the client went away.
    Lost,
    /// It had none.
    Failed,
    /// There was none: the retry budget was spent.
    NoBudget,
    /// There was none: no other destination may serve.
    Nobody,
}

/// What a report of load in an answer was worth, as metrics label it.
pub const ORCA_RESULTS: [&str; 3] = ["taken", "unused", "malformed"];

/// The same.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was taken.
    Load,
    /// It tells nothing that has a meaning here.
    Nothing,
    /// It is none; it changed nothing.
    Nonsense,
}

/// Counts of one pool, kept while the pool lives, whichever rules come and go.
#[derive(Debug, Default)]
pub(crate) struct PoolTally {
    decisions: [Counter; DECISIONS.len()],
    retries: [Counter; RETRY_REASONS.len()],
    failovers: [Counter; RETRY_REASONS.len()],
    overflows: [Counter; OVERFLOWS.len()],
    wait_buckets: [Counter; BUCKETS_MS.len() + 1],
    wait_nanos: Counter,
    hedges: [Counter; HEDGES.len()],
    orca: [Counter; ORCA_RESULTS.len()],
    timed: [Counter; DECISION_BUCKETS_NS.len() + 1],
    timed_nanos: Counter,
}

impl PoolTally {
    /// A choice took so long: one of those that are timed.
    pub(crate) fn took(&self, span: Duration) {
        let nanos = span.as_nanos() as u64;
        let above = DECISION_BUCKETS_NS.iter().position(|&bound| nanos <= bound);
        self.timed[above.unwrap_or(DECISION_BUCKETS_NS.len())].add(1);
        self.timed_nanos.add(nanos);
    }

    /// A destination was chosen, or was not; `before` says how the message's try before this one ended.
    pub(crate) fn decided(&self, missed: Option<NoDestination>, before: Option<Before>) {
        self.decisions[missed.map_or(0, |why| why as usize + 1)].add(1);
        if let (None, Some(before)) = (missed, before) {
            self.retries[before.place()].add(1);
            self.failovers[before.place()].add(1);
        }
    }

    /// A message that would have waited was refused, or has waited for too long.
    pub(crate) fn overflowed(&self, why: Overflow) {
        self.overflows[why as usize].add(1);
    }

    /// A message has waited for so long, whatever came of it.
    pub(crate) fn waited(&self, span: Duration) {
        self.wait_buckets[bucket_of(span)].add(1);
        self.wait_nanos.add(span.as_nanos() as u64);
    }

    /// A copy of a message ended so, or was not made.
    pub(crate) fn hedged(&self, how: Hedged) {
        self.hedges[how as usize].add(1);
    }

    /// An answer told of its destination's load.
    pub(crate) fn load_told(&self, what: Told) {
        self.orca[what as usize].add(1);
    }

    /// A message is repeated on a fresh connection to the same destination.
    pub(crate) fn repeated(&self, after: Failure) {
        self.retries[after as usize].add(1);
    }
}

/// A pool's counts, summed over workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolCounts {
    /// Choices of a destination by how they ended, in the order of [`DECISIONS`].
    pub decisions: [u64; DECISIONS.len()],
    /// Tries after a message's first, by how the one before ended, in the order of [`RETRY_REASONS`].
    pub retries: [u64; RETRY_REASONS.len()],
    /// Of these the ones at another destination.
    pub failovers: [u64; RETRY_REASONS.len()],
    /// Messages that a limit kept from something, in the order of [`OVERFLOWS`].
    pub overflows: [u64; OVERFLOWS.len()],
    /// How long messages have waited for a place, those that got none included.
    pub waits: Histogram,
    /// Copies of messages that waited long, in the order of [`HEDGES`].
    pub hedges: [u64; HEDGES.len()],
    /// Reports of load in answers, in the order of [`ORCA_RESULTS`].
    pub orca: [u64; ORCA_RESULTS.len()],
    /// Choices that were timed, by how long they took; see [`DECISION_BUCKETS_NS`].
    pub timed: [u64; DECISION_BUCKETS_NS.len() + 1],
    /// Their sum, nanoseconds.
    pub timed_nanos: u64,
}

impl PerWorker<PoolTally> {
    pub(crate) fn counts(&self) -> PoolCounts {
        PoolCounts {
            decisions: std::array::from_fn(|d| self.sum(|t| t.decisions[d].get())),
            retries: std::array::from_fn(|f| self.sum(|t| t.retries[f].get())),
            failovers: std::array::from_fn(|f| self.sum(|t| t.failovers[f].get())),
            overflows: std::array::from_fn(|o| self.sum(|t| t.overflows[o].get())),
            waits: Histogram {
                buckets: (0..=BUCKETS_MS.len()).map(|b| self.sum(|t| t.wait_buckets[b].get())).collect(),
                sum: self.sum(|t| t.wait_nanos.get()) as f64 / 1e9,
            },
            hedges: std::array::from_fn(|h| self.sum(|t| t.hedges[h].get())),
            orca: std::array::from_fn(|r| self.sum(|t| t.orca[r].get())),
            timed: std::array::from_fn(|b| self.sum(|t| t.timed[b].get())),
            timed_nanos: self.sum(|t| t.timed_nanos.get()),
        }
    }
}

/// A listener's counts, summed over workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerCounts {
    /// Connections open now.
    pub active: u64,
    /// Connections accepted.
    pub total: u64,
    /// By reason, in the order of [`reasons`].
    pub refused: Vec<u64>,
    /// `accept` failed, most often for want of file descriptors.
    pub accept_errors: u64,
    /// Handshakes of TLS by version ([`TLS_VERSIONS`]) and end ([`HANDSHAKES`]).
    pub handshakes: Vec<Vec<u64>>,
    /// How long they took.
    pub handshake_durations: Histogram,
    /// Datagrams, in the order of [`DIRECTIONS`].
    pub datagrams: [u64; DIRECTIONS.len()],
    /// Flows of datagrams that ended early to make room.
    pub evicted: u64,
}

impl PerWorker<ListenerTally> {
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
                buckets: (0..=BUCKETS_MS.len()).map(|b| self.sum(|t| t.handshake_buckets[b].get())).collect(),
                sum: self.sum(|t| t.handshake_nanos.get()) as f64 / 1e9,
            },
        }
    }
}
