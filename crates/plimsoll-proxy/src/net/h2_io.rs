//! Adapters of streams to the I/O traits that `h2` uses.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::flood_detector::FloodDetector;
use crate::net::stream::Stream;

/// A stream, with bytes that were read before its protocol was known.
#[derive(Debug)]
pub(crate) struct H2Io {
    io: StreamIo,
    early: Vec<u8>,
    early_at: usize,
    flood: Rc<FloodDetector>,
}

impl H2Io {
    pub(crate) fn new(stream: Stream, early: Vec<u8>, flood: Rc<FloodDetector>) -> Self {
        Self { io: StreamIo(stream), early, early_at: 0, flood }
    }
}

impl AsyncRead for H2Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early_at < self.early.len() {
            let rest = &self.early[self.early_at..];
            let n = rest.len().min(buffer.remaining());
            self.flood.read(&rest[..n])?;
            buffer.put_slice(&rest[..n]);
            self.early_at += n;
            if self.early_at == self.early.len() {
                (self.early, self.early_at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        let left = self.flood.left();
        if left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let space = buffer.initialize_unfilled();
        let max = space.len().min(left);
        let n = ready!(self.io.0.poll_read(cx, &mut space[..max]))?;
        self.flood.read(&space[..n])?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the connection is closed when it is dropped. `h2` shuts a connection down at once after a protocol
    /// violation, and its client would reconnect immediately.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Implements the I/O traits of tokio for a stream.
#[derive(Debug)]
pub(crate) struct StreamIo(pub(crate) Stream);

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = ready!(self.0.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let part = |at: usize| slices.get(at).map_or(&b""[..], |slice| slice);
        self.0.poll_write_parts(cx, [part(0), part(1), part(2)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
