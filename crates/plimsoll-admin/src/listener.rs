//! Which connections the admin plane takes: from this machine, so many, none that is silent for ever.

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

/// Connections at once: scrapers and a dashboard in some browsers, with room. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// A connection on which no byte moves for so long is closed; scrapers ask more often.
const SILENCE: Duration = Duration::from_secs(60);
/// Rest after a failed accept.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Where the admin plane listens.
#[derive(Clone, Debug)]
pub struct Door {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    places: Arc<Semaphore>,
}

/// Why the admin plane cannot listen.
#[derive(Debug)]
pub enum BindError {
    /// The address can be reached from other machines, and nobody is asked who they are yet.
    NotLoopback(SocketAddr),
    /// The system said no, most often because the address is in use.
    System(SocketAddr, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback(address) => write!(
                f,
                "admin: {address} can be reached from other machines, and the admin plane has no access \
                 control yet: use 127.0.0.1 or [::1]"
            ),
            Self::System(address, error) => write!(f, "admin: cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for BindError {}

/// Listens on `address`, which must be a loopback one. Needs a tokio runtime.
///
/// # Errors
/// [`BindError`].
pub fn bind(address: SocketAddr) -> Result<Door, BindError> {
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
    Ok(Door { listener: Arc::new(listener), address, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) })
}

impl Door {
    /// Where it really listens, port 0 resolved.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl axum::serve::Listener for Door {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let silence = Box::pin(sleep(SILENCE));
                    return (Guest { stream, silence, _place: place }, peer);
                }
                Err(error) => {
                    tracing::debug!(%error, "the admin plane cannot accept; trying again");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// One connection, with its place.
#[derive(Debug)]
pub struct Guest {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// Bytes moved, or have not for too long.
    fn heard<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.silence.as_mut().set(sleep(SILENCE));
            return polled;
        }
        ready!(self.silence.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.heard(cx, polled)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.heard(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
