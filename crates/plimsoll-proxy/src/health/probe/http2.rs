//! HTTP/2 connections of checks.

use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use plimsoll_core::health::{CheckFailure, CheckFailureKind};

use crate::health::probe::MAX_HEAD;
use crate::net::h2_io::StreamIo;
use crate::net::stream::Stream;

/// Runs `check` on an HTTP/2 connection over `stream`, and closes the connection.
pub(super) async fn with_connection<T>(
    stream: Stream,
    check: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<T, CheckFailure>,
) -> Result<T, CheckFailure> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD as u32);
    let (requests, mut connection) = builder.handshake(StreamIo(stream)).await.map_err(no_response)?;
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

/// Converts an error of `h2` before the response was complete.
pub(super) fn no_response(error: h2::Error) -> CheckFailure {
    let kind = if error.is_io() { CheckFailureKind::Closed } else { CheckFailureKind::BadResponse };
    CheckFailure::protocol(kind, format!("no HTTP/2 response: {error}"))
}
