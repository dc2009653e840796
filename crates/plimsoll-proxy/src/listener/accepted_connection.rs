//! Accepted connections, as protocol adapters use them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::server_config::ClientTlsInfo;

/// Maximum number of bytes per read of [`Connection::read`].
const READ: usize = 16 * 1024;

/// An accepted client connection.
#[derive(Debug)]
pub struct Connection {
    pub(crate) guard: ConnectionGuard,
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// Properties of its TLS connection, if it uses TLS.
    pub(crate) tls_info: Option<Box<ClientTlsInfo>>,
    /// Client for the PROXY header, if a pool sends one.
    pub(crate) origin: Option<Rc<Origin>>,
    /// Whether a PROXY header of this client is rejected: it is not a trusted proxy of a listener that accepts headers.
    pub(crate) rejects_proxy_header: bool,
    /// Bytes that were read and belong to the protocol that follows.
    pub(crate) early: Vec<u8>,
}

/// Fault in what a client sent, for counters and the access log.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Violates the protocol.
    Malformed,
    /// Exceeds a limit of the listener.
    TooLarge,
    /// Exceeded a time limit.
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

    /// Returns the client's address, as reported by trusted proxies; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self.peer {
            Peer::Socket(address) => Some(address),
            Peer::Unix => None,
        }
    }

    /// Returns the requested server name (SNI), in lower case.
    pub fn server_name(&self) -> Option<&str> {
        self.tls_info.as_deref()?.sni.as_deref()
    }

    /// Returns the time limit of the first message (`timeouts: {header}` of the listener).
    pub fn timeout(&self) -> Duration {
        self.guard.listener.routes().table.config.timeouts.header
    }

    /// Returns the size limit of the first message (`limits: {header_bytes}` of the listener).
    pub fn max_bytes(&self) -> usize {
        self.guard.listener.routes().table.config.limits.header_bytes
    }

    /// Starts a time limit, with a resolution of about 16 ms.
    pub fn limit(&self, time: Duration) -> TimeLimit {
        TimeLimit(self.worker().timer(self.worker().now() + time))
    }

    /// Returns the bytes that were read and not consumed. What an adapter leaves is sent to the destination first.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.early
    }

    /// Reads up to 16 KiB into the buffer; 0 is the end of the client's data.
    ///
    /// # Errors
    /// The connection failed.
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
    /// The connection failed.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Counts that the connection is rejected for a fault of the client.
    pub fn refuse(&self, fault: Fault) {
        self.count(fault.reason());
    }

    pub(crate) fn count(&self, reason: Reason) {
        self.guard.listener.routes().table.shared.counters.of(self.worker().number).refuse(reason);
    }

    /// Shuts the write side down.
    pub fn end(&mut self) {
        self.stream.shutdown_write();
    }

    /// Resets the connection, so that the client does not take it for an orderly end.
    pub fn reset(mut self) {
        self.stream.reset_on_close();
    }
}

/// Time limit for futures.
#[derive(Debug)]
pub struct TimeLimit(pub(crate) TimerGuard);

impl TimeLimit {
    /// Runs `work`; `None` if the time limit passes first.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.within(work).await
    }
}
