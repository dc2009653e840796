//! One byte stream, TCP or Unix, with the few operations the engines use.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use plimsoll_core::Address;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream. Reads and writes go through tokio's `poll_*`, which take a short read or write as
/// "drained" and so never pay for the system call that would only say so.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
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

    /// Reads at least one byte into `buffer`, or tells of the end with 0.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, &mut buffer),
            Self::Unix(s) => Pin::new(s).poll_read(cx, &mut buffer),
        };
        polled.map_ok(|()| buffer.filled().len())
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    /// Writes the parts as one message; the answer counts bytes over all of them.
    pub(crate) fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
    ) -> Poll<io::Result<usize>> {
        let parts = parts.map(IoSlice::new);
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, &parts),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, &parts),
        }
    }

    /// Ready when there is something to read: bytes, the end, or an error.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
        }
    }

    /// Takes back tokio's guess that a new connection is readable: at that moment it rarely is, and the
    /// guess costs a failed receive. Nothing is lost, for registering the socket has queued an event if
    /// bytes were there. Only right after accepting, before the event loop turns.
    pub(crate) fn await_first_bytes(&self) {
        let nothing_yet = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _always_would_block = match self {
            Self::Tcp(s) => s.try_io(Interest::READABLE, nothing_yet),
            Self::Unix(s) => s.try_io(Interest::READABLE, nothing_yet),
        };
    }

    /// Is this pooled connection still silent and open? Costs a system call only when something happened.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        let read = match self {
            Self::Tcp(s) => s.try_read(&mut byte),
            Self::Unix(s) => s.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Has the peer torn the connection down (not merely finished sending)?
    pub(crate) fn is_broken(&self) -> bool {
        let socket = socket2::SockRef::from(self);
        match socket.peek(&mut [std::mem::MaybeUninit::uninit(); 1]) {
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Says "no more from me".
    pub(crate) fn shut_write(&self) {
        let _gone_already = socket2::SockRef::from(self).shutdown(std::net::Shutdown::Write);
    }

    /// Makes the coming close a reset, so that a broken-off answer cannot pass for a whole one.
    pub(crate) fn reset_on_close(&self) {
        let _best_effort = socket2::SockRef::from(self).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}
