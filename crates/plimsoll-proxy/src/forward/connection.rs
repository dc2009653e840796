//! The life of a TCP or MQTT connection: routing, attempts, relay, counters and log line.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use plimsoll_core::retry::FailedAttempt;
use plimsoll_core::route::RouteInput;
use plimsoll_core::{Assignment, DestinationId, Failure, Outcome, Tick};

use crate::base::clock::Clock;
use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::forward::attempts::{Attempts, Target, connect_within, report};
use crate::forward::hash_key;
use crate::listener::accepted_connection::Connection;
use crate::listener::accepted_connection::TimeLimit;
use crate::listener::worker_listener::ListenerRoutes;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::ConnectionLine;
use crate::net::proxy_protocol::{HeaderGuard, Origin};
use crate::net::stream::{Peer, Stream};
use crate::net::tunnel::{BytesCopied, TunnelEnd, tunnel};
use crate::upstream::chosen::Chosen;
use plimsoll_wire::http1::target::Method;

/// Bytes read at once from a destination before the relay starts.
const READ_SIZE: usize = 16 * 1024;

/// The upstream side of a client's connection. Dropping it counts and logs the end of the connection.
pub struct UpstreamSession {
    worker: Rc<WorkerContext>,
    routes: Rc<ListenerRoutes>,
    route: WorkerRoute,
    timer: TimerGuard,
    protocol: &'static str,
    peer: Peer,
    /// Hash key, if the pool's algorithm needs one.
    hash_key: Option<u64>,
    origin: Option<Rc<Origin>>,
    started: Tick,
    /// Time for the log line, where the access log is on.
    time: Option<SystemTime>,
    attempts: Attempts,
    destination: Option<DestinationId>,
    reason: Option<Reason>,
    copied: BytesCopied,
}

impl Connection {
    /// Routes this connection by the server name of its TLS handshake and starts its upstream session.
    /// Returns `None` if no route matches, which is counted. `protocol` is the name in the access log.
    pub fn route(&self, protocol: &'static str) -> Option<UpstreamSession> {
        UpstreamSession::begin(self, protocol, self.server_name())
    }
}

/// A connection to a destination, with its assignment.
#[derive(Debug)]
pub struct Destination {
    pub(crate) stream: Stream,
    pub(crate) assignment: Assignment,
    pub(crate) early: Vec<u8>,
}

/// Fault of a destination after the connection to it was established.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// The destination closed the connection or reported that it cannot serve.
    Refused,
    /// The destination did not respond in time.
    TimedOut,
}

/// Error of a connection that no destination serves, with the reason.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Unavailable(Reason);

impl fmt::Debug for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unavailable").field(&self.0.as_str()).finish()
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl std::error::Error for Unavailable {}

impl fmt::Debug for UpstreamSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamSession")
            .field("peer", &self.peer)
            .field("attempts", &self.attempts.count())
            .finish_non_exhaustive()
    }
}

impl UpstreamSession {
    /// Routes a connection by `server_name` and starts its upstream session. `protocol` is the name in the
    /// access log.
    pub(crate) fn begin(
        connection: &Connection,
        protocol: &'static str,
        server_name: Option<&str>,
    ) -> Option<Self> {
        let worker = connection.worker().clone();
        let routes = connection.guard.listener.routes();
        let Some(route) =
            routes.table.route(&ConnectionFacts(server_name)).map(|route| routes.routes[route].clone())
        else {
            connection.count(Reason::NoRoute);
            return None;
        };
        route.table.counters.of(worker.number).started.add(1);
        let pool = route.pool.table.borrow().clone();
        pool.budget.earn(worker.number);
        let started = worker.now();
        let time = worker.log.is_some().then(Clock::wall);
        let timer = worker.timer(started + pool.config.timeouts.connect);
        Some(Self {
            worker,
            routes,
            route,
            timer,
            protocol,
            peer: connection.peer,
            hash_key: pool.config.hash_key().and_then(|_| hash_key::source_key(connection.peer)),
            origin: connection.origin.clone(),
            started,
            time,
            attempts: Attempts::default(),
            destination: None,
            reason: None,
            copied: BytesCopied::default(),
        })
    }

    /// Connects to a destination that was not tried yet.
    ///
    /// Connections with the same `affinity_key` use the same destination while it serves; without a key, the
    /// pool's algorithm decides. While all destinations are at their limits, the connection waits in the
    /// pool's queue. A client that disconnects while queued is noticed afterwards: noticing it takes a read,
    /// and those bytes belong to the destination.
    ///
    /// # Errors
    /// No destination may serve, or none accepted a connection.
    pub async fn next(&mut self, affinity_key: Option<u64>) -> Result<Destination, Unavailable> {
        let (worker, route) = (self.worker.clone(), self.route.clone());
        let target = self.target(&worker, &route, affinity_key);
        loop {
            let now = worker.now();
            let chosen = self.attempts.next(&target, &self.timer, |_| false, now).await;
            let Chosen { assignment, address } = chosen.map_err(|error| self.unavailable(error.reason()))?;
            let timeout = route.table.pool.config.timeouts.connect;
            worker.timers.set(&self.timer, (assignment.started() + timeout).min(target.deadline));
            let opening = route.pool.connect(assignment.id(), &address, self.origin.as_deref());
            match connect_within(&self.timer, opening).await {
                Ok(stream) => return Ok(Destination { stream, assignment, early: Vec::new() }),
                Err(failure) => self.failed_attempt(assignment, failure, false)?,
            }
        }
    }

    fn target<'m>(
        &self,
        worker: &'m Rc<WorkerContext>,
        route: &'m WorkerRoute,
        affinity_key: Option<u64>,
    ) -> Target<'m> {
        let total = route.table.pool.config.timeouts.total;
        let deadline = total.map_or(Tick::NEVER, |total| self.started + total);
        Target {
            worker,
            route,
            key: self.hash_key,
            affinity_key,
            repeatable: true,
            sent_later: false,
            deadline,
        }
    }

    /// Records a failed attempt, and decides whether another follows.
    fn failed_attempt(
        &mut self,
        mut assignment: Assignment,
        failure: Failure,
        sent: bool,
    ) -> Result<(), Unavailable> {
        let (worker, route) = (self.worker.clone(), self.route.clone());
        let now = worker.now();
        self.attempts.record_failure(&route, &mut assignment, failure, now);
        let attempt = FailedAttempt { sent, ..self.attempts.unsent(failure, true, true) };
        let followed = self.attempts.failed(&self.target(&worker, &route, None), &attempt, now);
        followed.map_err(|error| self.unavailable(error.reason()))
    }

    fn unavailable(&mut self, reason: Reason) -> Unavailable {
        self.record_end(reason);
        Unavailable(reason)
    }

    /// Counts the reason for the end of the connection, and keeps it for the log line.
    pub(crate) fn record_end(&mut self, reason: Reason) {
        self.routes.table.shared.counters.of(self.worker.number).refuse(reason);
        self.reason = Some(reason);
    }

    /// Records that a connected destination did not serve. Another one can be tried with the same bytes, so
    /// nothing of the client's is lost.
    ///
    /// # Errors
    /// No other destination may be tried.
    pub fn failed(&mut self, destination: Destination, how: UpstreamFault) -> Result<(), Unavailable> {
        let failure = match how {
            UpstreamFault::Refused => Failure::EmptyResponse,
            UpstreamFault::TimedOut => Failure::Timeout,
        };
        self.failed_attempt(destination.assignment, failure, true)
    }

    /// Starts a time limit, as [`Connection::limit`] does.
    pub fn limit(&self, time: Duration) -> TimeLimit {
        TimeLimit(self.worker.timer(self.worker.now() + time))
    }

    pub(crate) fn route(&self) -> &WorkerRoute {
        &self.route
    }

    /// Records that the destination serves. The time since the pick counts as its latency.
    pub fn served(&mut self, destination: &mut Destination) {
        self.attempts.finish();
        let now = self.worker.now();
        self.attempts.settle(&self.route, true, now);
        let first_byte = now.since(destination.assignment.started());
        report(
            &self.route,
            destination.assignment.record(now, Outcome::Answered { status: 200, first_byte }),
        );
    }

    /// Returns the response timeout of the pool (`timeouts: {response}`).
    pub fn response_timeout(&self) -> Duration {
        self.route.pool.table.borrow().config.timeouts.response
    }

    /// Copies bytes both ways until both ends are done, one fails, or nothing moves for the idle timeout of
    /// the listener or pool, whichever is longer. Buffered bytes are sent first.
    pub async fn relay(self, connection: Connection, destination: Destination) {
        self.relay_for(connection, destination, Duration::ZERO).await;
    }

    /// Copies bytes both ways as [`relay`](Self::relay) does, with an idle timeout of at least `idle`.
    pub async fn relay_for(
        mut self,
        mut connection: Connection,
        mut destination: Destination,
        idle: Duration,
    ) {
        let early = std::mem::take(&mut connection.early);
        let mut client = HeaderGuard::new(&mut connection.stream, connection.rejects_proxy_header, &early);
        if !client.refused {
            let unsent = std::mem::take(&mut destination.early);
            let ends: [&mut dyn TunnelEnd; 2] = [&mut client, &mut destination.stream];
            self.copy_both_ways(ends, &destination.assignment, early, unsent, idle).await;
        }
        if client.refused {
            self.unavailable(Reason::BadProxyHeader);
        }
    }

    /// Copies bytes between two ends, the client's first.
    pub(crate) async fn copy_both_ways(
        &mut self,
        ends: [&mut dyn TunnelEnd; 2],
        assignment: &Assignment,
        early: Vec<u8>,
        unsent: Vec<u8>,
        idle: Duration,
    ) {
        self.destination = Some(assignment.id());
        let pool_idle = self.route.pool.table.borrow().config.timeouts.idle;
        let idle = idle.max(self.routes.table.config.timeouts.idle).max(pool_idle);
        self.copied = tunnel(&self.worker, &self.timer, ends, early, unsent, idle).await;
    }
}

impl Drop for UpstreamSession {
    fn drop(&mut self) {
        let now = self.worker.now();
        self.attempts.settle(&self.route, false, now);
        let total = now.since(self.started);
        let counts = self.route.table.counters.of(self.worker.number);
        counts.ended.add(1);
        counts.request_bytes.add(self.copied.to_destination);
        counts.response_bytes.add(self.copied.to_client);
        counts.request(Method::Other, if self.reason.is_none() { 200 } else { 0 }, total);
        if let (Some(log), Some(time)) = (&self.worker.log, self.time) {
            log.send(ConnectionLine {
                protocol: self.protocol,
                time,
                peer: self.peer,
                listener: self.routes.table.config.name.clone(),
                pool: self.route.table.pool.config.name.clone(),
                destination: self.destination.and_then(|id| self.route.pool.name_of(id)),
                reason: self.reason,
                copied: self.copied,
                queued: self.attempts.queued(),
                total,
            });
        }
    }
}

impl Destination {
    pub(crate) fn id(&self) -> DestinationId {
        self.assignment.id()
    }

    /// Returns the bytes that were read and not consumed yet. Bytes that an adapter leaves there go to the
    /// client first.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.early
    }

    /// Reads up to 16 KiB more into the buffer, and returns their number; 0 at the end of the stream.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn read(&mut self) -> io::Result<usize> {
        let start = self.early.len();
        self.early.resize(start + READ_SIZE, 0);
        let Self { stream, early, .. } = self;
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut early[start..])).await;
        self.early.truncate(start + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}

/// Properties of a connection that routes match on: its server name.
struct ConnectionFacts<'a>(Option<&'a str>);

impl RouteInput for ConnectionFacts<'_> {
    fn host(&self) -> &[u8] {
        b""
    }

    fn path(&self) -> &[u8] {
        b""
    }

    fn method(&self) -> &[u8] {
        b""
    }

    fn header_is(&self, _lower_name: &str, _value: &str) -> bool {
        false
    }

    fn sni(&self) -> Option<&[u8]> {
        self.0.map(str::as_bytes)
    }
}
