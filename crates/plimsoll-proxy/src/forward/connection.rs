//! How one connection finds its destination and is carried there: routed, counted, retried, logged.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use plimsoll_core::limiter::RetryPermit;
use plimsoll_core::retry::{self, Decision, FailedAttempt};
use plimsoll_core::route::RouteInput;
use plimsoll_core::{
    Assignment, AttemptedSet, DestinationId, Failure, NoDestination, Outcome, PickRequest, Tick,
};

use crate::base::clock::Clock;
use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::counters::{Before, Overflow};
use crate::base::reason::Reason;
use crate::forward::hash_key;
use crate::forward::request::{connect, tell};
use crate::listener::accepted_connection::Connection;
use crate::listener::accepted_connection::TimeLimit;
use crate::listener::worker_listener::ListenerRoutes;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::ConnectionLine;
use crate::net::proxy_protocol::{Origin, Wary};
use crate::net::stream::{Peer, Stream};
use crate::net::tunnel::{Mouth, Moved, tunnel};
use crate::upstream::pool::Chosen;
use crate::upstream::queue::{self, Unplaced};
use plimsoll_wire::http1::target::Method;

/// Bytes read at once of a destination before its bytes are passed on as they are.
const READ: usize = 16 * 1024;

/// One connection on its way to a destination. When it is dropped, it has ended: that is counted and logged.
pub struct Passage {
    worker: Rc<WorkerContext>,
    view: Rc<ListenerRoutes>,
    rule: WorkerRoute,
    timer: TimerGuard,
    protocol: &'static str,
    peer: Peer,
    /// What its pool's algorithm hashes by, if it does.
    key: Option<u64>,
    origin: Option<Rc<Origin>>,
    started: Tick,
    /// The time of its log line, if there is to be one.
    time: Option<SystemTime>,
    tried: AttemptedSet,
    tries: u8,
    before: Option<Before>,
    destination: Option<DestinationId>,
    reason: Option<Reason>,
    moved: Moved,
    /// It has waited for a place for so long.
    queued: Option<Duration>,
    /// It is being tried again.
    retrying: Option<RetryPermit>,
}

impl Connection {
    /// Finds the route for this connection, by the name in its handshake, and begins its way to a destination.
    /// `None`: there is no route, which is counted. The access log calls it `protocol`.
    pub fn route(&self, protocol: &'static str) -> Option<Passage> {
        Passage::begin(self, protocol, self.server_name())
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
pub enum Failing {
    /// It ended the connection, or said that it cannot serve now.
    Refused,
    /// It did not say anything in time.
    Silent,
}

/// Why no destination serves a connection.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct NotServed(Reason);

impl fmt::Debug for NotServed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotServed").field(&self.0.word()).finish()
    }
}

impl fmt::Display for NotServed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.word())
    }
}

impl std::error::Error for NotServed {}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage")
            .field("peer", &self.peer)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

impl Passage {
    /// The way of a connection that asks for `server_name`, and is called `protocol` in the log.
    pub(crate) fn begin(
        connection: &Connection,
        protocol: &'static str,
        server_name: Option<&str>,
    ) -> Option<Self> {
        let worker = connection.worker().clone();
        let view = connection.guard.listener.routes();
        let Some(rule) = view.table.route(&Asked(server_name)).map(|rule| view.routes[rule].clone()) else {
            connection.count(Reason::NoRoute);
            return None;
        };
        rule.table.tallies.of(worker.number).started.add(1);
        let pool = rule.pool.table.borrow().clone();
        pool.budget.earn(worker.number);
        let started = worker.now();
        let time = worker.log.is_some().then(Clock::wall);
        let timer = worker.timer(started + pool.config.timeouts.connect);
        Some(Self {
            worker,
            view,
            rule,
            timer,
            protocol,
            peer: connection.peer,
            key: pool.config.hash_key().and_then(|_| hash_key::source(connection.peer)),
            origin: connection.origin.clone(),
            started,
            time,
            tried: AttemptedSet::default(),
            tries: 0,
            before: None,
            destination: None,
            reason: None,
            moved: Moved::default(),
            queued: None,
            retrying: None,
        })
    }

    /// A destination that can be connected to and was not tried yet. Connections with the same `home` go to
    /// the same one for as long as it serves; without, the pool's algorithm chooses.
    ///
    /// # Errors
    /// None may serve, or none could be connected to.
    pub async fn next(&mut self, home: Option<u64>) -> Result<Destination, NotServed> {
        let pool = self.rule.pool.table.borrow().clone();
        let timeouts = pool.config.timeouts;
        let mut now = self.worker.now();
        loop {
            let (worker, key) = (self.worker.number, self.key);
            let (tried, table) = (self.tried, self.rule.table.clone());
            let want = PickRequest {
                worker,
                tried: Some(&tried),
                repeatable: true,
                affinity_key: home,
                key,
                subset: table.subset.as_deref(),
                dequeued: false,
            };
            let mut chosen = self.rule.pool.balance_load(&want, now, &mut self.worker.rng.borrow_mut());
            if matches!(chosen, Err(NoDestination::Full)) {
                chosen = self.wait(&want).await?;
                now = self.worker.now();
            }
            pool.tallies.of(self.worker.number).decided(chosen.as_ref().err().copied(), self.before);
            let Ok(Chosen { assignment, address }) = chosen else {
                let none = if self.tries == 0 { Reason::NoHealthyDestination } else { Reason::ConnectFailed };
                return Err(self.not_served(none));
            };
            self.tried.add(assignment.id());
            self.tries += 1;
            let deadline = (now + timeouts.connect).min(self.deadline());
            let origin = self.origin.as_deref();
            let connected = connect(
                &self.worker,
                &self.timer,
                &self.rule.pool,
                (assignment.id(), &address),
                origin,
                deadline,
            )
            .await;
            now = self.worker.now();
            match connected {
                Ok(stream) => return Ok(Destination { stream, assignment, early: Vec::new() }),
                Err(failure) => self.learn(assignment, failure, false)?,
            }
        }
    }

    /// A destination once there is room. (That its client left is seen when it has a destination: to look for it
    /// is to read, and what is read belongs there.)
    async fn wait(&mut self, want: &PickRequest<'_>) -> Result<Result<Chosen, NoDestination>, NotServed> {
        let bounds = (&*self.timer, self.deadline());
        let began = self.worker.now();
        let found = queue::wait(&self.worker, &self.rule.pool, want, bounds, |_| false).await;
        *self.queued.get_or_insert_default() += self.worker.now().since(began);
        let why = match found {
            Ok(chosen) => return Ok(Ok(chosen)),
            Err(Unplaced::Nobody(why)) => return Ok(Err(why)),
            Err(Unplaced::Overflow) => Reason::Overflow,
            Err(Unplaced::TimedOut | Unplaced::Gone) => Reason::QueueTimeout,
        };
        let tallies = self.rule.pool.table.borrow().tallies.clone();
        tallies.of(self.worker.number).decided(Some(NoDestination::Full), self.before);
        Err(self.not_served(why))
    }

    /// When the time of all tries together is up.
    fn deadline(&self) -> Tick {
        let total = self.rule.pool.table.borrow().config.timeouts.total;
        total.map_or(Tick::NEVER, |total| self.started + total)
    }

    /// Takes note that a destination failed, and whether another may be tried.
    fn learn(&mut self, mut assignment: Assignment, failure: Failure, sent: bool) -> Result<(), NotServed> {
        tell(&self.rule, assignment.record(self.worker.now(), Outcome::Failed(failure)));
        let pool = self.rule.pool.table.borrow().clone();
        let now = self.worker.now();
        let attempt = FailedAttempt { sent, ..find_failed(failure, self.tries) };
        if self.retrying.is_none() {
            self.retrying = pool.limiter.acquire_retry();
        }
        if self.retrying.is_none() {
            pool.tallies.of(self.worker.number).overflowed(Overflow::Retries);
        }
        if now >= self.deadline()
            || self.retrying.is_none()
            || matches!(retry::decide(&pool.config.retry, &attempt, &pool.budget, now), Decision::Stop(_))
        {
            return Err(self.not_served(match failure {
                Failure::NoResources => Reason::NoResources,
                Failure::Timeout => Reason::ResponseTimeout,
                Failure::Connect => Reason::ConnectFailed,
                _ => Reason::EmptyResponse,
            }));
        }
        self.before = Some(Before::Failed(failure));
        Ok(())
    }

    fn not_served(&mut self, reason: Reason) -> NotServed {
        self.ended(reason);
        NotServed(reason)
    }

    /// Counts why we ended it, and leaves that for the log line.
    pub(crate) fn ended(&mut self, reason: Reason) {
        self.view.table.shared.tallies.of(self.worker.number).refuse(reason);
        self.reason = Some(reason);
    }

    /// The destination connected and then did not serve: it ended, or it said that it cannot. Nothing of the
    /// client's is lost if another is tried with the same bytes.
    ///
    /// # Errors
    /// No other may be tried.
    pub fn failed(&mut self, destination: Destination, how: Failing) -> Result<(), NotServed> {
        let failure = match how {
            Failing::Refused => Failure::EmptyResponse,
            Failing::Silent => Failure::Timeout,
        };
        self.learn(destination.assignment, failure, true)
    }

    /// Bounds what follows in time, as [`Connection::limit`] does.
    pub fn limit(&self, time: Duration) -> TimeLimit {
        TimeLimit(self.worker.timer(self.worker.now() + time))
    }

    pub(crate) fn rule(&self) -> &WorkerRoute {
        &self.rule
    }

    /// The destination serves: its time to do so counts as its latency.
    pub fn served(&mut self, destination: &mut Destination) {
        self.retrying = None;
        let now = self.worker.now();
        let first_byte = now.since(destination.assignment.started());
        let told = destination.assignment.record(now, Outcome::Answered { status: 200, first_byte });
        tell(&self.rule, told);
    }

    /// How long a destination may take to answer (`timeouts: {response}` of the pool).
    pub fn patience(&self) -> Duration {
        self.rule.pool.table.borrow().config.timeouts.response
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
        let mut client = Wary::new(&mut connection.stream, connection.wary, &early);
        if !client.refused {
            let unsent = std::mem::take(&mut destination.early);
            let ends: [&mut dyn Mouth; 2] = [&mut client, &mut destination.stream];
            self.carry(ends, &destination.assignment, early, unsent, idle).await;
        }
        if client.refused {
            self.not_served(Reason::BadProxyHeader);
        }
    }

    /// Runs bytes between these ends, the client's first.
    pub(crate) async fn carry(
        &mut self,
        ends: [&mut dyn Mouth; 2],
        assignment: &Assignment,
        early: Vec<u8>,
        unsent: Vec<u8>,
        idle: Duration,
    ) {
        self.destination = Some(assignment.id());
        let pool_idle = self.rule.pool.table.borrow().config.timeouts.idle;
        let idle = idle.max(self.view.table.config.timeouts.idle).max(pool_idle);
        self.moved = tunnel(&self.worker, &self.timer, ends, early, unsent, idle).await;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let total = self.worker.now().since(self.started);
        let counts = self.rule.table.tallies.of(self.worker.number);
        counts.ended.add(1);
        counts.request_bytes.add(self.moved.to_destination);
        counts.response_bytes.add(self.moved.to_client);
        counts.request(Method::Other, if self.reason.is_none() { 200 } else { 0 }, total);
        if let (Some(log), Some(time)) = (&self.worker.log, self.time) {
            log.send(ConnectionLine {
                protocol: self.protocol,
                time,
                peer: self.peer,
                listener: self.view.table.config.name.clone(),
                pool: self.rule.table.pool.config.name.clone(),
                destination: self.destination.and_then(|id| self.rule.pool.name_of(id)),
                reason: self.reason,
                moved: self.moved,
                queued: self.queued,
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

/// A try that failed before anything was sent.
pub(crate) fn find_failed(failure: Failure, tries: u8) -> FailedAttempt {
    FailedAttempt {
        failure,
        attempts: tries,
        idempotent: true,
        sent: false,
        reused_connection: false,
        fresh_repeat_used: false,
        body_replayable: true,
        response_started: false,
    }
}
