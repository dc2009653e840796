//! Connections of the admin API. Clients that send nothing, or slowly, never keep others out.
//!
//! At the limit of connections, the one that has waited longest for its client is closed in favour of a new one.
//! Only a connection with a request that is being handled is spared.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// Maximum number of connections: ample for scrapers and dashboards.
const MAX_CONNECTIONS: u64 = 256;
/// Connections use at most one of this many file descriptors; the data plane leaves an eighth to them and to checks.
const DESCRIPTOR_PART: u64 = 32;
/// Time limit of a request head, and of the wait for the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit without progress while a response is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, and while all connections are busy.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// The open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    open: Vec<Arc<OpenConnection>>,
    max: usize,
    /// Number of activities of all connections so far.
    clock: Arc<AtomicU64>,
}

/// An open connection, as its requests and the eviction see it.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    /// Whether a request is being handled: it was received as a whole, and its response is not ready.
    busy: AtomicBool,
    /// Number of the latest activity; the lowest has waited longest.
    last_active: AtomicU64,
    clock: Arc<AtomicU64>,
    evicted: Notify,
}

impl OpenConnection {
    /// Marks the connection as busy until the guard is dropped.
    pub(crate) fn handle_request(self: &Arc<Self>) -> BusyGuard {
        self.busy.store(true, Relaxed);
        BusyGuard(self.clone())
    }

    fn touch(&self) {
        self.last_active.store(self.clock.fetch_add(1, Relaxed), Relaxed);
    }
}

/// Keeps a connection from being evicted.
#[derive(Debug)]
pub(crate) struct BusyGuard(Arc<OpenConnection>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.store(false, Relaxed);
    }
}

impl Connections {
    pub(crate) fn new() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::with_max((files / DESCRIPTOR_PART).clamp(8, MAX_CONNECTIONS) as usize)
    }

    fn with_max(max: usize) -> Self {
        Self { open: Vec::new(), max, clock: Arc::default() }
    }

    /// Serves an accepted connection in a task of its own.
    pub(crate) async fn serve(&mut self, stream: TcpStream, router: &Router) {
        let connection = self.open().await;
        let service = TowerToHyperService::new(router.clone());
        let requests = connection.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(requests.clone());
            service.call(request)
        });
        let io = TokioIo::new(TimedWrites { stream, stalled: None });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let served = builder.serve_connection(io, service);
        tokio::spawn(async move {
            tokio::select! {
                // Errors are about one client: it left, was too slow, or sent no HTTP.
                _client_error = served => {}
                () = connection.evicted.notified() => {}
            }
        });
    }

    /// Reports a failed accept. If descriptors are short, a connection is closed.
    pub(crate) async fn accept_failed(&mut self, error: &io::Error) {
        tracing::debug!(%error, "the admin API cannot accept a connection; retrying");
        self.evict();
        sleep(RETRY_DELAY).await;
    }

    /// Registers a connection, once there is a place for it.
    async fn open(&mut self) -> Arc<OpenConnection> {
        loop {
            // The tasks of closed connections have dropped their references.
            self.open.retain(|connection| Arc::strong_count(connection) > 1);
            if self.open.len() < self.max || self.evict() {
                break;
            }
            sleep(RETRY_DELAY).await;
        }
        let (busy, evicted) = (AtomicBool::new(false), Notify::new());
        let connection =
            OpenConnection { busy, last_active: AtomicU64::new(0), clock: self.clock.clone(), evicted };
        connection.touch();
        let connection = Arc::new(connection);
        self.open.push(connection.clone());
        connection
    }

    /// Closes the connection that has waited longest for its client. Returns `false` if all are busy.
    fn evict(&mut self) -> bool {
        let waiting = self.open.iter().enumerate().filter(|(_, connection)| !connection.busy.load(Relaxed));
        let oldest = waiting.min_by_key(|(_, connection)| connection.last_active.load(Relaxed));
        let Some(index) = oldest.map(|(index, _)| index) else { return false };
        self.open.swap_remove(index).evicted.notify_one();
        true
    }
}

/// A stream that fails when its client does not read a response.
#[derive(Debug)]
struct TimedWrites {
    stream: TcpStream,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl tokio::io::AsyncRead for TimedWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for TimedWrites {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            self.stalled = None;
            return Poll::Ready(written);
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_that_waits_longest_is_evicted_and_busy_ones_are_not() {
        let mut connections = Connections::with_max(3);
        let (a, b, c) = (connections.open().await, connections.open().await, connections.open().await);
        let handling = a.handle_request();
        drop(b.handle_request());
        let d = connections.open().await;
        tokio::time::timeout(Duration::from_secs(5), c.evicted.notified()).await.expect("evicted");
        let _busy = [b.handle_request(), d.handle_request()];
        assert!(!connections.evict(), "all are busy");
        drop(handling);
        assert!(connections.evict());
        tokio::time::timeout(Duration::from_secs(5), a.evicted.notified()).await.expect("evicted");
    }
}
