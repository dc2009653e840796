//! Byte streams of connections: a socket, or TLS over one.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

pub(crate) use crate::net::socket_stream::{Peer, SocketStream, is_resource_exhausted, watch_reading};
use crate::net::tls::tls_stream::TlsStream;

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Socket(SocketStream),
    Tls(Box<TlsStream>),
}

impl From<SocketStream> for Stream {
    fn from(socket: SocketStream) -> Self {
        Self::Socket(socket)
    }
}

impl Stream {
    /// Returns the protocol that was negotiated by ALPN.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Socket(_) => None,
            Self::Tls(stream) => stream.alpn(),
        }
    }

    /// Reads at least one byte into `buffer`; 0 is the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(stream) => stream.poll_read(cx, buffer),
            Self::Tls(stream) => stream.poll_read(cx, buffer),
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
        match self {
            Self::Socket(stream) => stream.poll_write_parts(cx, parts),
            Self::Tls(stream) => stream.poll_write_parts(cx, parts),
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
            Self::Socket(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Reports whether a pooled connection is open and has no unread bytes. Costs a system call only after an event.
    pub(crate) fn is_idle(&mut self) -> bool {
        match self {
            Self::Socket(stream) => stream.is_idle(),
            Self::Tls(stream) => stream.is_idle(),
        }
    }

    /// Reports whether the peer has reset the connection, not just finished sending.
    pub(crate) fn is_broken(&self) -> bool {
        self.socket().is_broken()
    }

    /// Shuts the write side down; with TLS after a close_notify alert.
    pub(crate) fn shutdown_write(&mut self) {
        match self {
            Self::Socket(stream) => stream.shutdown_write(),
            Self::Tls(stream) => stream.shutdown_write(),
        }
    }

    /// Makes the coming close a reset, so that a truncated response is not taken for a complete one.
    pub(crate) fn reset_on_close(&mut self) {
        match self {
            Self::Socket(stream) => stream.reset_on_close(),
            Self::Tls(stream) => stream.reset_on_close(),
        }
    }

    /// Returns the local address.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.socket().local_address()
    }

    fn socket(&self) -> &SocketStream {
        match self {
            Self::Socket(stream) => stream,
            Self::Tls(stream) => stream.inner(),
        }
    }
}
