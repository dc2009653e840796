//! The client's side of a message, independent of the protocol.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::base::context::WorkerContext;
use crate::base::timer::Timer;
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request_context::RequestContext;
use crate::http::local_reply::LocalReply;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::stream::Stream;
use crate::upstream::dedicated::DedicatedConnections;
use crate::upstream::upstream_stream::Upstream;
use plimsoll_core::{Address, DestinationId};
use plimsoll_wire::http1::HeaderEdits;
use plimsoll_wire::http1::response::{ResponseHead, ResponseRewrite};

/// Further use of the client's connection after a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterResponse {
    /// The connection stays open for another request.
    KeepAlive,
    /// The connection is closed.
    Close,
    /// The connection is closed once the client has stopped sending. Closing it with unread bytes would reset it,
    /// and could discard the response before the client has read it.
    Linger,
}

/// The client's side of one message.
pub(crate) trait Downstream {
    /// The protocol has its own body framing, so bodies are sent without chunks.
    const FRAMES_BODIES: bool;

    /// Returns the guard of the connection that the message belongs to.
    fn guard(&self) -> &ConnectionGuard;

    /// Returns the timer of the message.
    fn timer(&self) -> &Rc<Timer>;

    /// Reads more of the request body into `buffer` and returns the range that holds it. At the end of the
    /// body, `request.body` is done.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestContext,
        buffer: &mut [u8],
    ) -> Poll<Result<Range<usize>, ExchangeEnd>>;

    /// Sends a response head, or writes it to `out`, which is sent with the bytes that follow. `end_stream` means that
    /// no body follows.
    fn send_head(
        &mut self,
        out: &mut Vec<u8>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        headers: &[httparse::Header<'_>],
        rewrite: ResponseRewrite<'_>,
        end_stream: bool,
    ) -> Result<(), ExchangeEnd>;

    /// Writes the parts in one call and returns the number of bytes written. `last` means that nothing follows, not
    /// even trailers.
    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
        last: bool,
    ) -> Poll<io::Result<usize>>;

    /// Returns the connections to destinations that belong to this client's connection alone.
    fn dedicated(&mut self) -> Option<&mut DedicatedConnections>;

    /// Keeps an authenticated connection to a destination for the next request of this client's connection.
    fn dedicate(&mut self, pool: u64, id: DestinationId, address: Address, stream: Stream);

    /// Ends the response. `trailers` are the lines still to be sent where bodies are not chunked, without those that
    /// `edits` drop.
    fn finish(&mut self, trailers: &[u8], edits: &HeaderEdits) -> Result<(), ExchangeEnd>;

    /// Reports whether the connection has reached its maximum age or number of requests, so this response
    /// closes it.
    fn should_close(&self, request: &RequestContext) -> bool;

    /// Reports whether the client disconnected while it waited.
    fn is_disconnected(&mut self, cx: &mut Context<'_>, request_complete: bool) -> bool;

    /// Aborts the response so that the client cannot take it for complete.
    fn reset(&mut self);

    /// Returns what follows on the connection after a response; `closes` is what its head announced.
    fn after_response(&self, closes: bool, request: &RequestContext) -> AfterResponse;

    /// Sends a local reply to the client.
    async fn local_reply(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        reply: LocalReply,
    ) -> AfterResponse;

    /// Copies bytes both ways after the destination switched protocols. `unsent` are bytes for the client.
    async fn tunnel(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        upstream: Upstream,
        unsent: Vec<u8>,
    );
}
