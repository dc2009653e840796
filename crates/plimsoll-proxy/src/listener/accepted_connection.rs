//! What an adapter can do with a client's connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::listener::tls_accept::ClientTlsInfo;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Peer, Stream};

/// Bytes read at once while a protocol is still finding out what a client wants.
const READ: usize = 16 * 1024;

/// A client's connection that was let in.
#[derive(Debug)]
pub struct Connection {
    pub(crate) guard: ConnectionGuard,
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// What its handshake of TLS told, if there was one.
    pub(crate) tls_info: Option<Box<ClientTlsInfo>>,
    /// Whose connection it is, where a destination is to be told.
    pub(crate) origin: Option<Rc<Origin>>,
    /// Its client is not one of those who may send a PROXY header here, and others may.
    pub(crate) rejects_proxy_header: bool,
    /// Bytes that were read of it and belong to what comes next.
    pub(crate) early: Vec<u8>,
}

/// What is wrong with what a client sent; counted, and said in the access log.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not what the protocol says.
    Malformed,
    /// It is more than the listener takes.
    TooLarge,
    /// It did not come in time.
    TooSlow,
}

impl Fault {
    pub(crate) const fn reason(self) -> Reason {
        match self {
            Self::Malformed => Reason::BadRequest,
            Self::TooLarge => Reason::HeadersTooLarge,
            Self::TooSlow => Reason::HeaderTimeout,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason().as_str())
    }
}

impl Connection {
    pub(crate) fn worker(&self) -> &Rc<WorkerContext> {
        &self.guard.worker
    }

    /// Runs `task` on this worker's thread until it ends.
    pub fn spawn(task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// Who is at the other end, as far as trusted proxies tell; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.peer {
            Peer::Socket(address) => Some(address),
            Peer::Unix => None,
        }
    }

    /// The name it asked for in its handshake of TLS, lower case.
    pub fn server_name(&self) -> Option<&str> {
        self.tls_info.as_deref()?.sni.as_deref()
    }

    /// How long a client may take to say what it wants (`timeouts: {header}` of the listener).
    pub fn timeout(&self) -> Duration {
        self.guard.listener.routes().table.config.timeouts.header
    }

    /// How many bytes that may have (`limits: {header_bytes}` of the listener).
    pub fn max_bytes(&self) -> usize {
        self.guard.listener.routes().table.config.limits.header_bytes
    }

    /// Bounds what follows in time; the limit is kept to about 16 ms.
    pub fn limit(&self, time: Duration) -> TimeLimit {
        TimeLimit(self.worker().timer(self.worker().now() + time))
    }

    /// What was read and not taken yet. What an adapter leaves there goes to the destination first.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.early
    }

    /// Reads more into the buffer: at most 16 KiB. 0 is the client's end.
    ///
    /// # Errors
    /// The connection's.
    pub async fn read(&mut self) -> io::Result<usize> {
        let Self { guard, stream, early, .. } = self;
        std::future::poll_fn(|cx| {
            let mut scratch = guard.worker.scratch.borrow_mut();
            let read = stream.poll_read(cx, &mut scratch[..READ]);
            read.map_ok(|n| {
                early.extend_from_slice(&scratch[..n]);
                n
            })
        })
        .await
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection's.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Counts that the client is refused for what it sent.
    pub fn refuse(&self, fault: Fault) {
        self.count(fault.reason());
    }

    pub(crate) fn count(&self, reason: Reason) {
        self.guard.listener.routes().table.shared.counters.of(self.worker().number).refuse(reason);
    }

    /// Says "no more from me".
    pub fn end(&mut self) {
        self.stream.shutdown_write();
    }

    /// Ends the connection so that the client cannot take it for a proper end.
    pub fn reset(mut self) {
        self.stream.reset_on_close();
    }
}

/// A bound in time for whatever is awaited within it.
#[derive(Debug)]
pub struct TimeLimit(pub(crate) TimerGuard);

impl TimeLimit {
    /// What `work` comes to; `None` when the time is up first.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.within(work).await
    }
}
