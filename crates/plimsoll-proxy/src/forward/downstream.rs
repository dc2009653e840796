//! What carrying a message asks of the client's side, whichever protocol it speaks.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::base::context::WorkerContext;
use crate::base::timer::Timer;
use crate::forward::exchange::{Exchange, ExchangeEnd};
use crate::forward::request_context::RequestContext;
use crate::http::local_reply::Refusal;
use crate::listener::worker_listener::ConnectionGuard;
use plimsoll_wire::http1::response::{ResponseHead, ResponseRewrite};

/// What follows on the client's connection after a response.
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
    /// The protocol frames bodies itself: they go out as they are, without chunks.
    const FRAMES_BODIES: bool;

    /// The presence that this message is part of.
    fn guard(&self) -> &ConnectionGuard;

    /// What rings when the message has waited too long.
    fn timer(&self) -> &Rc<Timer>;

    /// Reads more of the request's body into `room`. Answers where it lies; when it has ended,
    /// `request.body` is done.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestContext,
        room: &mut [u8],
    ) -> Poll<Result<Range<usize>, ExchangeEnd>>;

    /// Passes a head of an answer on, or writes it to `out`, which leaves with what follows. `ends` says that
    /// no body follows.
    fn pass_head(
        &mut self,
        out: &mut Vec<u8>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        headers: &[httparse::Header<'_>],
        hop: ResponseRewrite<'_>,
        ends: bool,
    ) -> Result<(), ExchangeEnd>;

    /// Writes the parts as one piece; the answer counts bytes over all of them. `last` says that nothing
    /// follows, not even trailers.
    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
        last: bool,
    ) -> Poll<io::Result<usize>>;

    /// The answer is out to its end, but for these trailer lines where bodies are not in chunks.
    fn finish(&mut self, trailers: &[u8]) -> Result<(), ExchangeEnd>;

    /// Its connection has served enough: this answer says that it ends, where answers say so.
    fn retires(&self, request: &RequestContext) -> bool;

    /// The client left while it was waiting.
    fn is_gone(&mut self, cx: &mut Context<'_>, request_complete: bool) -> bool;

    /// The answer cannot be finished: the client must see that.
    fn reset(&mut self);

    /// What becomes of the connection after an answer, `closes` as its head told.
    fn after(&self, closes: bool, request: &RequestContext) -> AfterResponse;

    /// Answers the client ourselves.
    async fn refuse(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        refusal: Refusal,
    ) -> AfterResponse;

    /// The destination switched protocols: bytes run both ways from here on.
    async fn tunnel(&mut self, request: &mut RequestContext, worker: &Rc<WorkerContext>, exchange: Exchange);
}
