//! How `h2` reads and writes a stream of ours.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::flood_detector::FloodDetector;
use crate::net::stream::Stream;

/// A stream, and bytes of it that were read before anybody knew whose they were.
#[derive(Debug)]
pub(crate) struct H2Io {
    bare: StreamIo,
    early: Vec<u8>,
    early_at: usize,
    flood: Rc<FloodDetector>,
}

impl H2Io {
    pub(crate) fn new(stream: Stream, early: Vec<u8>, flood: Rc<FloodDetector>) -> Self {
        Self { bare: StreamIo(stream), early, early_at: 0, flood }
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
        let room = buffer.initialize_unfilled();
        let most = room.len().min(left);
        let n = ready!(self.bare.0.poll_read(cx, &mut room[..most]))?;
        self.flood.read(&room[..n])?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bare).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bare).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: the connection is closed when it is dropped. `h2` shuts down at once what broke the protocol, and
    /// its client would be back in the same moment.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A stream as tokio's traits have it, and nothing else.
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
