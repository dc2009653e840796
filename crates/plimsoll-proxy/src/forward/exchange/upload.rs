//! The request direction of an exchange: from the client to the destination.

use std::task::{Context, Poll};

use crate::base::context::WorkerContext;
use crate::base::turn::{TURN_BYTES, yield_turn};
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{Exchange, MAX_ITERATIONS};
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request_context::RequestContext;
use crate::upstream::upstream_stream::Upstream;

impl Exchange {
    /// Copies request bytes to the destination until a socket would block.
    pub(crate) fn poll_upload<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<(), ExchangeEnd> {
        let before = request.request_bytes;
        for _ in 0..MAX_ITERATIONS {
            if self.upload_broken {
                return self.discard_body(cx, worker, client, request);
            }
            if request.request_bytes - before >= TURN_BYTES as u64 {
                break;
            }
            let unsent = match &request.encoded[self.sent..] {
                [] => self.upload.rest(),
                encoded => encoded,
            };
            if unsent.is_empty() {
                if request.body.is_done() {
                    if let Upstream::Http2(stream) = &mut self.upstream {
                        stream.finish(request.body.trailers(), request.request_edits());
                    }
                    let now = self.now(worker);
                    self.assignment.request_sent(now);
                    return Ok(());
                }
                if !self.read_body(cx, worker, client, request)? {
                    return Ok(());
                }
                continue;
            }
            match self.upstream.poll_write(cx, unsent) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => {
                    self.made_progress = true;
                    match self.sent < request.encoded.len() {
                        true => self.sent += n,
                        false => self.upload.advance(n),
                    }
                }
                Poll::Ready(_) => self.upload_broken = true,
            }
        }
        yield_turn(cx);
        Ok(())
    }

    /// Reads and discards the rest of a body that the destination does not read, so that a client that sends all of
    /// its request first gets to read the response.
    #[cold]
    fn discard_body<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<(), ExchangeEnd> {
        if self.response.is_none() || request.body.is_done() {
            return Ok(());
        }
        let mut scratch = worker.scratch.borrow_mut();
        match client.poll_body(cx, request, &mut scratch[..]) {
            Poll::Ready(Err(ExchangeEnd::ClientGone)) => return Err(ExchangeEnd::ClientGone),
            Poll::Ready(Ok(_)) => yield_turn(cx),
            // The response has started, so a fault of the body has no reply.
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Reads more of the request body and sends it. Returns `false` if the client has sent no more yet.
    fn read_body<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<bool, ExchangeEnd> {
        let mut scratch = worker.scratch.borrow_mut();
        let data = match client.poll_body(cx, request, &mut scratch[..self.upload.read_size()]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(data) => data?,
        };
        self.made_progress = true;
        if self.response.is_none() && request.retain_body(&scratch[data.clone()]) {
            return Ok(true);
        }
        request.streamed = true;
        if request.chunked {
            request.write_chunk(self.upload.buffer(), &scratch[data]);
            return Ok(true);
        }
        if data.is_empty() {
            return Ok(true);
        }
        let polled = self.upstream.poll_write(cx, &scratch[data.clone()]);
        self.upload_broken = self.upload.on_write(polled, [&scratch[data], b"", b""]).is_err();
        Ok(!self.upload_broken)
    }
}
