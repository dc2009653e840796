//! HTTP/2 connections of checks.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::Response;
use plimsoll_core::health::{CheckFailure, CheckFailureKind};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::health::probe::{MAX_HEAD, MAX_INFORMATIONAL, MAX_RECEIVED, too_many_informational};
use crate::net::h2_io::StreamIo;
use crate::net::stream::Stream;

/// Runs `check` on an HTTP/2 connection over `stream`, and closes the connection.
pub(super) async fn with_connection<T>(
    stream: Stream,
    check: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<T, CheckFailure>,
) -> Result<T, CheckFailure> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD as u32);
    let (requests, mut connection) = builder
        .handshake(BoundedIo { io: StreamIo(stream), left: MAX_RECEIVED })
        .await
        .map_err(no_response)?;
    let mut check = pin!(check(requests));
    let result = tokio::select! {
        result = &mut check => result,
        _seen_where_the_response_is_read = &mut connection => {
            // Frames received before the end are still to be read. Dropping the connection wakes all its streams.
            drop(connection);
            return check.await;
        }
    };
    // No request is left, so the connection sends GOAWAY, as far as the socket takes it at once.
    let _closed_already = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx))).await;
    result
}

/// Waits for the final response, through a bounded number of informational ones.
pub(super) async fn final_response(
    mut response: ResponseFuture,
) -> Result<Response<RecvStream>, CheckFailure> {
    let mut informational = 0;
    std::future::poll_fn(|cx| {
        while let Poll::Ready(Some(passed)) = response.poll_informational(cx) {
            passed.map_err(no_response)?;
            informational += 1;
            if informational > MAX_INFORMATIONAL {
                return Poll::Ready(Err(too_many_informational()));
            }
        }
        Pin::new(&mut response).poll(cx).map_err(no_response)
    })
    .await
}

/// A connection from which a bounded number of bytes is read, whatever frames they are.
struct BoundedIo {
    io: StreamIo,
    left: usize,
}

impl AsyncRead for BoundedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            let detail = format!("the response is larger than {MAX_RECEIVED} bytes");
            return Poll::Ready(Err(io::Error::other(detail)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.left = self.left.saturating_sub(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Converts an error of `h2` before the response was complete.
pub(super) fn no_response(error: h2::Error) -> CheckFailure {
    let kind = if error.is_io() { CheckFailureKind::Closed } else { CheckFailureKind::BadResponse };
    CheckFailure::protocol(kind, format!("no HTTP/2 response: {error}"))
}
