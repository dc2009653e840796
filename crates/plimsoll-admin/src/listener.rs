//! The admin API's listener: loopback only, with a connection limit and an idle timeout.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Maximum number of connections: ample for scrapers and dashboards. More wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 256;
/// Idle timeout of a connection; scrape intervals are shorter.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a failed accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// A bound address of the admin API, made by [`bind`].
#[derive(Clone, Debug)]
pub struct AdminListener {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    permits: Arc<Semaphore>,
}

/// Why the admin API cannot listen.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The address is not a loopback one; there is no access control yet.
    NotLoopback(SocketAddr),
    /// An error of the system, most often because the address is in use.
    System(SocketAddr, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback(address) => write!(
                f,
                "admin: {address} can be reached from other machines, but the admin API has no access control \
                 yet; use 127.0.0.1 or [::1]"
            ),
            Self::System(address, error) => write!(f, "admin: cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(_, error) => Some(error),
            Self::NotLoopback(_) => None,
        }
    }
}

/// Binds the admin API to `address`, which must be a loopback address. Needs a tokio runtime.
///
/// # Errors
/// [`BindError`] if the address is not a loopback one or cannot be bound.
pub fn bind(address: SocketAddr) -> Result<AdminListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok((listener.local_addr()?, listener))
    };
    let (address, listener) = open().map_err(|error| BindError::System(address, error))?;
    Ok(AdminListener {
        listener: Arc::new(listener),
        address,
        permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    })
}

impl AdminListener {
    /// Returns the bound address, with port 0 resolved.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl axum::serve::Listener for AdminListener {
    type Io = AdminConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (AdminConnection, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = self.permits.clone().acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let idle = Box::pin(sleep(IDLE_TIMEOUT));
                    return (AdminConnection { stream, idle, _permit: permit }, peer);
                }
                Err(error) => {
                    tracing::debug!(%error, "the admin API cannot accept a connection; retrying");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection to the admin API; it is closed when idle too long.
#[derive(Debug)]
pub struct AdminConnection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl AdminConnection {
    /// Restarts the idle timeout after progress, or fails once it has elapsed.
    fn check_idle<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.idle.as_mut().set(sleep(IDLE_TIMEOUT));
            return polled;
        }
        ready!(self.idle.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for AdminConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.check_idle(cx, polled)
    }
}

impl AsyncWrite for AdminConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check_idle(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
