//! One byte stream, TCP or Unix, with the few operations the engines use.

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

use crate::net::tls::tls_stream::TlsStream;

/// A connected stream. Reads and writes go through tokio's `poll_*`, which take a short read or write as
/// "drained" and so never pay for the system call that would only say so.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Accepted, and watched for reading only: watching for both would wake the worker at once, because a
    /// new connection is always writable. Becomes [`Stream::Tcp`] when its client first reads too slowly.
    Accepted(AsyncFd<std::net::TcpStream>),
    /// TLS on another stream.
    Tls(Box<TlsStream>),
    /// One whose number is limited.
    Limited(Box<Limited>),
    /// The event loop could not watch it any longer: ended, for reading and writing.
    Closed,
}

/// Who is at the other end of an accepted connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Socket(SocketAddr),
    Unix,
}

impl Peer {
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Socket(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl Stream {
    /// An accepted connection, not blocking.
    ///
    /// # Errors
    /// The event loop's, when it cannot watch one more.
    pub(crate) fn accepted(stream: std::net::TcpStream) -> io::Result<Self> {
        watch_reading(stream).map(Self::Accepted)
    }

    /// Watches for writing too: a client reads too slowly.
    fn watch_writing(self) -> io::Result<Self> {
        match self {
            Self::Accepted(fd) => TcpStream::from_std(fd.into_inner()).map(Self::Tcp),
            other => Ok(other),
        }
    }

    /// Connects; `TCP_NODELAY` is on, because messages leave in one write anyway.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Socket(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// The protocol that TLS agreed on, if there is TLS and it did.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(s) => s.alpn(),
            _ => None,
        }
    }

    /// Reads at least one byte into `buffer`, or tells of the end with 0.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => read_into(Pin::new(s), cx, buffer),
            Self::Unix(s) => read_into(Pin::new(s), cx, buffer),
            Self::Accepted(fd) => poll_read_accepted(fd, cx, buffer),
            Self::Tls(s) => s.poll_read(cx, buffer),
            Self::Limited(m) => m.stream.poll_read(cx, buffer),
            Self::Closed => Poll::Ready(Ok(0)),
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_parts(cx, [bytes, b"", b""])
    }

    /// Writes the parts as one message; the answer counts bytes over all of them.
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
            // Whoever waited to read from it waits at a watch that is gone.
            cx.waker().wake_by_ref();
        }
        match (self, parts) {
            (Self::Tcp(s), [only, [], []]) => Pin::new(s).poll_write(cx, only),
            (Self::Unix(s), [only, [], []]) => Pin::new(s).poll_write(cx, only),
            (Self::Tcp(s), parts) => Pin::new(s).poll_write_vectored(cx, &parts.map(IoSlice::new)),
            (Self::Unix(s), parts) => Pin::new(s).poll_write_vectored(cx, &parts.map(IoSlice::new)),
            (Self::Tls(s), parts) => s.poll_write_parts(cx, parts),
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

    /// Ready when there is something to read: bytes, the end, or an error.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::Accepted(fd) => fd.poll_read_ready(cx).map_ok(|_guard| ()),
            Self::Tls(s) => s.poll_read_ready(cx),
            Self::Limited(m) => m.stream.poll_read_ready(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Is this pooled connection still silent and open? Costs a system call only when something happened.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let read = match self {
            Self::Tcp(s) => s.try_read(&mut byte),
            Self::Unix(s) => s.try_read(&mut byte),
            Self::Tls(s) => return s.is_idle(),
            Self::Limited(m) => return m.stream.is_idle(),
            Self::Accepted(_) | Self::Closed => return false,
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Has the peer torn the connection down (not merely finished sending)?
    pub(crate) fn is_broken(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        match socket.peek(&mut [std::mem::MaybeUninit::uninit(); 1]) {
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Says "no more from me".
    pub(crate) fn shutdown_write(&mut self) {
        if let Self::Tls(s) = self {
            return s.shutdown_write();
        }
        let _gone_already = self.socket().map(|socket| socket.shutdown(std::net::Shutdown::Write));
    }

    /// Makes the coming close a reset, so that a broken-off answer cannot pass for a whole one.
    pub(crate) fn reset_on_close(&mut self) {
        if let Self::Tls(s) = self {
            return s.reset_on_close();
        }
        let _best_effort = self.socket().map(|socket| socket.set_linger(Some(std::time::Duration::ZERO)));
    }

    /// The address of ours that the peer is connected to.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.socket()?.local_addr().ok()?.as_socket()
    }

    fn socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(s) => Some(SockRef::from(s)),
            Self::Unix(s) => Some(SockRef::from(s)),
            Self::Accepted(fd) => Some(SockRef::from(fd.get_ref())),
            Self::Tls(s) => s.inner().socket(),
            Self::Limited(m) => m.stream.socket(),
            Self::Closed => None,
        }
    }
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Limited {
    stream: Stream,
    _permit: ConnectionPermit,
}

impl Stream {
    /// The same, and it counts until it is closed.
    pub(crate) fn limited(self, permit: Option<ConnectionPermit>) -> Self {
        match permit {
            Some(permit) => Self::Limited(Box::new(Limited { stream: self, _permit: permit })),
            None => self,
        }
    }
}

/// Did a system call fail because this process or machine had none left of what it needs?
pub(crate) fn is_resource_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let wants = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    // As many as may be are ours to say.
    error.kind() == io::ErrorKind::QuotaExceeded
        || error.raw_os_error().is_some_and(|code| wants.iter().any(|errno| errno.raw_os_error() == code))
}

/// Watches a socket for reading only.
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

/// As tokio's own streams read: a short read means drained, and waits for the next event.
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
