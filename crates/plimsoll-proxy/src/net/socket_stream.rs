//! Connected TCP and Unix sockets as byte streams.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use plimsoll_core::Address;
use plimsoll_core::stats::ConnectionPermit;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
///
/// Reads and writes use tokio's `poll_*`, which treat a short read or write as the end of readiness, and so avoid the
/// system call that would only return `WouldBlock`.
#[derive(Debug)]
pub(crate) enum SocketStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Accepted TCP connection that is registered for reading only: registering it for both would wake the worker at
    /// once, because a new connection is always writable. Becomes [`SocketStream::Tcp`] when its client first reads too slowly.
    Accepted(AsyncFd<std::net::TcpStream>),
    /// Socket that holds a connection permit.
    Limited(Box<Limited>),
    /// Closed for reading and writing.
    Closed,
}

/// Remote end of an accepted connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Socket(SocketAddr),
    Unix,
}

impl Peer {
    /// Returns the IP address; `None` for a Unix socket.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Socket(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl SocketStream {
    /// Wraps an accepted, non-blocking connection.
    ///
    /// # Errors
    /// The event loop cannot register it.
    pub(crate) fn accepted(stream: std::net::TcpStream) -> io::Result<Self> {
        watch_reading(stream).map(Self::Accepted)
    }

    /// Registers the socket for writing, too, because a client reads too slowly.
    fn watch_writing(self) -> io::Result<Self> {
        match self {
            Self::Accepted(fd) => TcpStream::from_std(fd.into_inner()).map(Self::Tcp),
            other => Ok(other),
        }
    }

    /// Connects to `address`. `TCP_NODELAY` is set, because each message is sent in one write.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Socket(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            Address::Unresolved { cause, .. } => Err(io::Error::new(io::ErrorKind::NotFound, &**cause)),
        }
    }

    /// Reads at least one byte into `buffer`; 0 is the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => read_into(Pin::new(s), cx, buffer),
            Self::Unix(s) => read_into(Pin::new(s), cx, buffer),
            Self::Accepted(fd) => poll_read_accepted(fd, cx, buffer),
            Self::Limited(m) => m.stream.poll_read(cx, buffer),
            Self::Closed => Poll::Ready(Ok(0)),
        }
    }

    /// Writes some of the bytes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_parts(cx, [bytes, b"", b""])
    }

    /// Writes the parts as one message, and returns the number of written bytes over all of them.
    pub(crate) fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
    ) -> Poll<io::Result<usize>> {
        if let Self::Accepted(fd) = self {
            match write_now(fd.get_ref(), parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
            let accepted = std::mem::replace(self, Self::Closed);
            *self = accepted.watch_writing()?;
            // A task that waits to read was registered with the replaced descriptor.
            cx.waker().wake_by_ref();
        }
        match (self, parts) {
            (Self::Tcp(s), [only, [], []]) => Pin::new(s).poll_write(cx, only),
            (Self::Unix(s), [only, [], []]) => Pin::new(s).poll_write(cx, only),
            (Self::Tcp(s), parts) => Pin::new(s).poll_write_vectored(cx, &parts.map(IoSlice::new)),
            (Self::Unix(s), parts) => Pin::new(s).poll_write_vectored(cx, &parts.map(IoSlice::new)),
            (Self::Limited(m), parts) => m.stream.poll_write_parts(cx, parts),
            (Self::Accepted(_) | Self::Closed, _) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => bytes = &bytes[n..],
            }
        }
        Ok(())
    }

    /// Becomes ready when there are bytes to read, the end, or an error.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::Accepted(fd) => fd.poll_read_ready(cx).map_ok(|_guard| ()),
            Self::Limited(m) => m.stream.poll_read_ready(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Reports whether a pooled connection is open and has no unread bytes. Costs a system call only after an event.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let read = match self {
            Self::Tcp(s) => s.try_read(&mut byte),
            Self::Unix(s) => s.try_read(&mut byte),
            Self::Limited(m) => return m.stream.is_idle(),
            Self::Accepted(_) | Self::Closed => return false,
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reports whether the peer has reset the connection, not just finished sending.
    pub(crate) fn is_broken(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        match socket.peek(&mut [std::mem::MaybeUninit::uninit(); 1]) {
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Shuts the write side down.
    pub(crate) fn shutdown_write(&mut self) {
        let _closed_already = self.socket().map(|socket| socket.shutdown(std::net::Shutdown::Write));
    }

    /// Makes the coming close a reset, so that a truncated response is not taken for a complete one.
    pub(crate) fn reset_on_close(&mut self) {
        let _best_effort = self.socket().map(|socket| socket.set_linger(Some(std::time::Duration::ZERO)));
    }

    /// Returns the local address.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.socket()?.local_addr().ok()?.as_socket()
    }

    pub(crate) fn socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(s) => Some(SockRef::from(s)),
            Self::Unix(s) => Some(SockRef::from(s)),
            Self::Accepted(fd) => Some(SockRef::from(fd.get_ref())),
            Self::Limited(m) => m.stream.socket(),
            Self::Closed => None,
        }
    }
}

/// A socket that holds a connection permit.
#[derive(Debug)]
pub(crate) struct Limited {
    stream: SocketStream,
    _permit: ConnectionPermit,
}

impl SocketStream {
    /// Attaches a connection permit, which is released on close.
    pub(crate) fn limited(self, permit: Option<ConnectionPermit>) -> Self {
        match permit {
            Some(permit) => Self::Limited(Box::new(Limited { stream: self, _permit: permit })),
            None => self,
        }
    }
}

/// Reports whether a system call failed because this process or machine lacks a resource.
pub(crate) fn is_resource_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    // The limit of connections is a resource of this process, too.
    error.kind() == io::ErrorKind::QuotaExceeded
        || error.raw_os_error().is_some_and(|code| exhausted.iter().any(|errno| errno.raw_os_error() == code))
}

/// Registers a socket with the event loop for reading only.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that lie about their descriptor; std's and socket2's own theirs"
)]
pub(crate) fn watch_reading<S: std::os::fd::AsRawFd>(socket: S) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

fn read_into(
    stream: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    stream.poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
}

/// Reads as tokio's own streams do: a short read ends readiness until the next event.
fn poll_read_accepted(
    fd: &mut AsyncFd<std::net::TcpStream>,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(fd.poll_read_ready_mut(cx))?;
        match guard.get_inner_mut().read(buffer) {
            Ok(n) => {
                if (1..buffer.len()).contains(&n) {
                    guard.clear_ready();
                }
                return Poll::Ready(Ok(n));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

fn write_now(mut stream: &std::net::TcpStream, parts: [&[u8]; 3]) -> io::Result<usize> {
    match parts {
        [only, [], []] => stream.write(only),
        parts => stream.write_vectored(&parts.map(IoSlice::new)),
    }
}
