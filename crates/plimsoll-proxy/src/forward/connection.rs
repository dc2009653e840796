//! How one connection finds its destination and is carried there: routed, counted, retried, logged.

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
use crate::forward::attempts::{Attempts, Target, connect_within, record_failure, report};
use crate::forward::hash_key;
use crate::listener::accepted_connection::Connection;
use crate::listener::accepted_connection::TimeLimit;
use crate::listener::worker_listener::ListenerRoutes;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::ConnectionLine;
use crate::net::proxy_protocol::{HeaderGuard, Origin};
use crate::net::stream::{Peer, Stream};
use crate::net::tunnel::{BytesCopied, TunnelEnd, tunnel};
use crate::upstream::pool::Chosen;
use plimsoll_wire::http1::target::Method;

/// Bytes read at once of a destination before its bytes are passed on as they are.
const READ: usize = 16 * 1024;

/// One connection on its way to a destination. When it is dropped, it has ended: that is counted and logged.
pub struct UpstreamSession {
    worker: Rc<WorkerContext>,
    view: Rc<ListenerRoutes>,
    route: WorkerRoute,
    timer: TimerGuard,
    protocol: &'static str,
    peer: Peer,
    /// What its pool's algorithm hashes by, if it does.
    key: Option<u64>,
    origin: Option<Rc<Origin>>,
    started: Tick,
    /// The time of its log line, if there is to be one.
    time: Option<SystemTime>,
    attempts: Attempts,
    destination: Option<DestinationId>,
    reason: Option<Reason>,
    copied: BytesCopied,
}

impl Connection {
    /// Finds the route for this connection, by the name in its handshake, and begins its way to a destination.
    /// `None`: there is no route, which is counted. The access log calls it `protocol`.
    pub fn route(&self, protocol: &'static str) -> Option<UpstreamSession> {
        UpstreamSession::begin(self, protocol, self.server_name())
    }
}

/// A connection to a destination, and the hold on it.
#[derive(Debug)]
pub struct Destination {
    pub(crate) stream: Stream,
    pub(crate) assignment: Assignment,
    pub(crate) early: Vec<u8>,
}

/// How a destination that was connected to did not serve.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// It ended the connection, or said that it cannot serve now.
    Refused,
    /// It did not say anything in time.
    TimedOut,
}

/// Why no destination serves a connection.
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
    /// The way of a connection that asks for `server_name`, and is called `protocol` in the log.
    pub(crate) fn begin(
        connection: &Connection,
        protocol: &'static str,
        server_name: Option<&str>,
    ) -> Option<Self> {
        let worker = connection.worker().clone();
        let view = connection.guard.listener.routes();
        let Some(route) = view.table.route(&Asked(server_name)).map(|route| view.routes[route].clone())
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
            view,
            route,
            timer,
            protocol,
            peer: connection.peer,
            key: pool.config.hash_key().and_then(|_| hash_key::source(connection.peer)),
            origin: connection.origin.clone(),
            started,
            time,
            attempts: Attempts::default(),
            destination: None,
            reason: None,
            copied: BytesCopied::default(),
        })
    }

    /// Connects to a destination that was not tried yet. Connections with the same `home` go to the same destination
    /// while it serves; without it, the pool's algorithm decides. While all destinations are at their limits, the
    /// connection waits in the pool's queue; a client that disconnects meanwhile is noticed afterwards, because
    /// noticing it takes a read, and what is read belongs to the destination.
    ///
    /// # Errors
    /// No destination may serve, or none could be connected to.
    pub async fn next(&mut self, home: Option<u64>) -> Result<Destination, Unavailable> {
        let (worker, route) = (self.worker.clone(), self.route.clone());
        let target = self.target(&worker, &route, home);
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
        home: Option<u64>,
    ) -> Target<'m> {
        let total = route.table.pool.config.timeouts.total;
        let deadline = total.map_or(Tick::NEVER, |total| self.started + total);
        Target { worker, route, key: self.key, home, repeatable: true, deadline }
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
        record_failure(&route, &mut assignment, failure, now);
        let attempt = FailedAttempt { sent, ..self.attempts.unsent(failure, true, true) };
        let followed = self.attempts.failed(&self.target(&worker, &route, None), &attempt, now);
        followed.map_err(|error| self.unavailable(error.reason()))
    }

    fn unavailable(&mut self, reason: Reason) -> Unavailable {
        self.ended(reason);
        Unavailable(reason)
    }

    /// Counts why we ended it, and leaves that for the log line.
    pub(crate) fn ended(&mut self, reason: Reason) {
        self.view.table.shared.counters.of(self.worker.number).refuse(reason);
        self.reason = Some(reason);
    }

    /// The destination connected and then did not serve: it ended, or it said that it cannot. Nothing of the
    /// client's is lost if another is tried with the same bytes.
    ///
    /// # Errors
    /// No other may be tried.
    pub fn failed(&mut self, destination: Destination, how: UpstreamFault) -> Result<(), Unavailable> {
        let failure = match how {
            UpstreamFault::Refused => Failure::EmptyResponse,
            UpstreamFault::TimedOut => Failure::Timeout,
        };
        self.failed_attempt(destination.assignment, failure, true)
    }

    /// Bounds what follows in time, as [`Connection::limit`] does.
    pub fn limit(&self, time: Duration) -> TimeLimit {
        TimeLimit(self.worker.timer(self.worker.now() + time))
    }

    pub(crate) fn route(&self) -> &WorkerRoute {
        &self.route
    }

    /// The destination serves: its time to do so counts as its latency.
    pub fn served(&mut self, destination: &mut Destination) {
        self.attempts.finish();
        let now = self.worker.now();
        let first_byte = now.since(destination.assignment.started());
        report(
            &self.route,
            destination.assignment.record(now, Outcome::Answered { status: 200, first_byte }),
        );
    }

    /// How long a destination may take to answer (`timeouts: {response}` of the pool).
    pub fn response_timeout(&self) -> Duration {
        self.route.pool.table.borrow().config.timeouts.response
    }

    /// Runs bytes both ways until both ends are done, one breaks, or nothing moves for as long as the listener
    /// and the pool allow. What both have in their buffers goes first.
    pub async fn relay(self, connection: Connection, destination: Destination) {
        self.relay_for(connection, destination, Duration::ZERO).await;
    }

    /// The same for connections that may be silent for longer: for `idle` at least.
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
            self.carry(ends, &destination.assignment, early, unsent, idle).await;
        }
        if client.refused {
            self.unavailable(Reason::BadProxyHeader);
        }
    }

    /// Runs bytes between these ends, the client's first.
    pub(crate) async fn carry(
        &mut self,
        ends: [&mut dyn TunnelEnd; 2],
        assignment: &Assignment,
        early: Vec<u8>,
        unsent: Vec<u8>,
        idle: Duration,
    ) {
        self.destination = Some(assignment.id());
        let pool_idle = self.route.pool.table.borrow().config.timeouts.idle;
        let idle = idle.max(self.view.table.config.timeouts.idle).max(pool_idle);
        self.copied = tunnel(&self.worker, &self.timer, ends, early, unsent, idle).await;
    }
}

impl Drop for UpstreamSession {
    fn drop(&mut self) {
        let total = self.worker.now().since(self.started);
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
                listener: self.view.table.config.name.clone(),
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

    /// What was read of it and not taken yet. What an adapter leaves there goes to the client first.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.early
    }

    /// Reads more into the buffer: at most 16 KiB. 0 is its end.
    ///
    /// # Errors
    /// The connection's.
    pub async fn read(&mut self) -> io::Result<usize> {
        let at = self.early.len();
        self.early.resize(at + READ, 0);
        let Self { stream, early, .. } = self;
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut early[at..])).await;
        self.early.truncate(at + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection's.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}

/// What routing may ask of a connection: the name in its hello.
struct Asked<'a>(Option<&'a str>);

impl RouteInput for Asked<'_> {
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
