//! The response direction of an exchange: from the destination to the client.

use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_core::retry::{self, Decision, ResponseStatus};
use plimsoll_core::{Failure, Outcome, Tick};
use plimsoll_wire::grpc;

use crate::base::buffers::SCRATCH;
use crate::base::context::WorkerContext;
use crate::base::turn::{TURN_BYTES, yield_turn};
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{Exchange, MAX_ITERATIONS, grpc_call, load_report};
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request_context::RequestContext;
use plimsoll_wire::http1::MAX_HEADERS;
use plimsoll_wire::http1::body::{BodyReader, Framing, write_chunk_head, write_last_chunk};
use plimsoll_wire::http1::request::offers_upgrade;
use plimsoll_wire::http1::response::{self, Delivery, Persistence, ResponseHead, ResponseRewrite};

/// Maximum number of informational responses to one request within a second.
const MAX_INFORMATIONAL: u32 = 256;
/// Maximum length of a response head. nginx and HAProxy use buffers of 4 to 16 KiB.
const MAX_HEAD: usize = 64 * 1024;
/// Body bytes below this number are copied behind their head; more are sent by a vectored write.
const COPY_BELOW: usize = 16 * 1024;

/// The final response, from its head on.
#[derive(Debug)]
pub(crate) struct Response {
    body: BodyReader,
    delivery: Delivery,
    /// The upstream connection can be reused after the body.
    pub(crate) reusable: bool,
    /// The head announced a body that this kind of response never has (HEAD, 204, 304).
    pub(crate) body_withheld: bool,
    /// The head sent to the client announced that the connection closes.
    pub(crate) closes: bool,
    finished: bool,
}

fn has_no_body(head: &ResponseHead<'_>) -> bool {
    matches!(head.framing, Framing::Empty | Framing::Length(0))
}

impl Exchange {
    /// Copies response bytes to the client until a socket would block.
    pub(crate) fn poll_download<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<(), ExchangeEnd> {
        let mut budget = TURN_BYTES;
        for _ in 0..MAX_ITERATIONS {
            if !self.download.is_empty() {
                match client.poll_write_parts(cx, [self.download.rest(), b"", b""], self.nothing_follows()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(n @ 1..)) => self.download.advance(n),
                    Poll::Ready(_) => return Err(ExchangeEnd::ClientGone),
                }
                self.made_progress = true;
                continue;
            }
            if let Some(response) = self.response.as_ref().filter(|response| response.finished) {
                if D::FRAMES_BODIES {
                    client.finish(response.body.trailers(), request.response_edits())?;
                }
                return Err(ExchangeEnd::Delivered);
            }
            let mut scratch = worker.scratch.borrow_mut();
            let have = self.partial.len();
            scratch[..have].copy_from_slice(&self.partial);
            let free = have..(have + self.download.read_size()).min(SCRATCH);
            let end = match self.upstream.poll_read(cx, &mut scratch[free]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => have + n,
                Poll::Ready(ended) => {
                    self.upstream_ended(worker, request, ended.is_ok())?;
                    continue;
                }
            };
            self.made_progress = true;
            self.on_response_bytes(cx, worker, client, request, &mut scratch[..end])?;
            budget = budget.saturating_sub(end - have);
            if budget == 0 {
                break;
            }
        }
        yield_turn(cx);
        Ok(())
    }

    /// Handles the end of the upstream stream. Only a response that ends with its connection is complete
    /// then.
    fn upstream_ended(
        &mut self,
        worker: &WorkerContext,
        request: &mut RequestContext,
        cleanly: bool,
    ) -> Result<(), ExchangeEnd> {
        let now = self.ended_at(worker);
        if let Some(reply) = self.upstream.local_reply() {
            return Err(ExchangeEnd::LocalReply(reply));
        }
        let Some(response) = &mut self.response else {
            return Err(ExchangeEnd::Failed(
                match (self.partial.is_empty() && self.informational == 0, cleanly) {
                    (true, false) => Failure::Reset,
                    (true, true) => Failure::EmptyResponse,
                    (false, _) => Failure::Garbage,
                },
            ));
        };
        if !cleanly || !response.body.ends_with_connection() {
            return Err(ExchangeEnd::Failed(Failure::Truncated));
        }
        response.finished = true;
        let mut trailers = self.upstream.trailer_lines();
        if request.is_grpc
            && let Some(status) = grpc_call::trailer_status(&trailers).map(grpc::to_http_status)
        {
            let first_byte = Duration::ZERO;
            self.signal =
                self.assignment.record(now, Outcome::Answered { status, first_byte }).or(self.signal);
        }
        if load_report::is_enabled(request) {
            self.record_load(worker, request, now, load_report::from_trailers(&trailers));
            load_report::strip(&mut trailers);
        }
        let Some(response) = &mut self.response else { return Ok(()) };
        let out = self.download.buffer();
        if request.grpc_web.is_some() {
            grpc_call::write_trailer_frame(out, response.delivery, request, &mut trailers);
        }
        response.body = BodyReader::ended(trailers);
        if response.delivery == Delivery::Chunked {
            write_last_chunk(out, response.body.trailers(), request.response_edits());
        }
        Ok(())
    }

    /// Handles bytes from the destination: heads first, then the body.
    fn on_response_bytes<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
        bytes: &mut [u8],
    ) -> Result<(), ExchangeEnd> {
        let mut out = worker.out.borrow_mut();
        out.clear();
        let mut at = 0;
        let nothing_passed_on = self.response.is_none();
        while self.response.is_none() {
            match self.forward_head(worker, client, request, &bytes[at..], &mut out)? {
                0 => {
                    self.partial.clear();
                    self.partial.extend_from_slice(&bytes[at..]);
                    return self.deliver(cx, client, request, [&out, b"", b""]);
                }
                len => at += len,
            }
            if request.upgraded {
                self.download.buffer().extend_from_slice(&out);
                self.download.buffer().extend_from_slice(&bytes[at..]);
                return Err(ExchangeEnd::Upgraded);
            }
        }
        self.partial = Vec::new();
        let Some(response) = &mut self.response else { return Ok(()) };
        let Ok(decoded) = response.body.decode(&mut bytes[at..]) else {
            if nothing_passed_on {
                self.response = None;
                return Err(ExchangeEnd::Failed(Failure::Garbage));
            }
            return Err(ExchangeEnd::Failed(Failure::Truncated));
        };
        let data = decoded.data.start + at..decoded.data.end + at;
        if response.body.is_done() && D::FRAMES_BODIES && self.upstream.has_more() {
            // Trailers may follow; HTTP/2 checks the length itself.
            response.body = BodyReader::new(Framing::UntilClose);
        } else if response.body.is_done() {
            response.finished = true;
            // Bytes behind a response belong to no request; the connection is not reused.
            response.reusable &= at + decoded.consumed == bytes.len();
            self.trailers_ended(worker, request);
        }
        let text = request
            .grpc_web_translator()
            .and_then(|translator| translator.encode_response(&bytes[data.clone()]));
        self.deliver_body(cx, client, request, &mut out, text.as_deref().unwrap_or(&bytes[data]))
    }

    /// Reads the load report in the trailers behind the last chunk.
    fn trailers_ended(&mut self, worker: &WorkerContext, request: &RequestContext) {
        let Some(response) = self.response.as_mut().filter(|response| !response.body.trailers().is_empty())
        else {
            return;
        };
        if load_report::is_enabled(request) {
            let mut trailers = response.body.trailers().to_vec();
            load_report::strip(&mut trailers);
            let body = std::mem::replace(&mut response.body, BodyReader::ended(trailers));
            let now = self.now(worker);
            self.record_load(worker, request, now, load_report::from_trailers(body.trailers()));
        }
    }

    fn deliver_body<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        request: &mut RequestContext,
        out: &mut Vec<u8>,
        data: &[u8],
    ) -> Result<(), ExchangeEnd> {
        let Some(response) = &self.response else { return Ok(()) };
        let chunked = response.delivery == Delivery::Chunked;
        if chunked && !data.is_empty() {
            write_chunk_head(out, data.len());
        }
        let last = |to: &mut Vec<u8>| {
            if chunked && response.finished {
                write_last_chunk(to, response.body.trailers(), request.response_edits());
            }
        };
        if data.len() < COPY_BELOW {
            out.extend_from_slice(data);
            if chunked && !data.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
            last(out);
            return self.deliver(cx, client, request, [out, b"", b""]);
        }
        let mut tail = Vec::new();
        if chunked {
            tail.extend_from_slice(b"\r\n");
            last(&mut tail);
        }
        self.deliver(cx, client, request, [out, data, &tail])
    }

    /// Sends to the client, and buffers the bytes that its socket does not accept.
    fn deliver<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        request: &mut RequestContext,
        parts: [&[u8]; 3],
    ) -> Result<(), ExchangeEnd> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        request.response_bytes += total as u64;
        if total == 0 {
            return Ok(());
        }
        let polled = client.poll_write_parts(cx, parts, self.nothing_follows());
        self.download.on_write(polled, parts).map(drop).map_err(|_| ExchangeEnd::ClientGone)
    }

    /// Reports whether the response ends with the bytes sent now.
    fn nothing_follows(&self) -> bool {
        self.response
            .as_ref()
            .is_some_and(|response| response.finished && response.body.trailers().is_empty())
    }

    /// Parses one head from the front of `bytes` and sends it to the client. Returns its length, or 0 if it
    /// is incomplete.
    fn forward_head<D: Downstream>(
        &mut self,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, ExchangeEnd> {
        let mut slots = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
        let garbage = ExchangeEnd::Failed(Failure::Garbage);
        let (mut head, headers) = match response::parse(bytes, &mut slots, request.method) {
            Ok(Some(parsed)) if parsed.0.len <= MAX_HEAD => parsed,
            Ok(None) if bytes.len() < MAX_HEAD => return Ok(0),
            _ => return Err(garbage),
        };
        let call = grpc_call::header_status(request, headers);
        // A status above 599 is a server error, too (RFC 9110 section 15).
        let status = head.status.min(599);
        let status = call.map_or(status, |code| status.max(grpc::to_http_status(code)));
        let failed = match call {
            Some(call) if head.status == 200 && has_no_body(&head) => {
                grpc::parse_status(call).map(ResponseStatus::Grpc)
            }
            _ => (head.status >= 400).then_some(ResponseStatus::Http(head.status)),
        };
        let now = self.now(worker);
        let reads_load = load_report::is_enabled(request);
        if reads_load && (head.status >= 200 || head.status == 101) {
            self.record_load(worker, request, now, load_report::from_head(headers));
        }
        let first_byte = self.assignment.waited(now);
        let outcome = Outcome::Answered { status, first_byte };
        if self.is_superseded(request, outcome)
            || failed.is_some_and(|status| self.should_retry_response(worker, request, status))
        {
            self.signal = request.attempts.record_response(&mut self.assignment, outcome, false, now);
            return Err(ExchangeEnd::Rejected);
        }
        request.dedicated |= head.authenticates_connection;
        let content_type = grpc_call::grpc_web_content_type(request, &mut head, headers, call.is_some());
        let routes = request.routes.clone();
        let route = &routes.routes[request.route].table;
        let via = routes.table.config.via;
        let (delivery, persistence) = match head.status {
            101 if request.upgrade && head.upgrade.is_some_and(offers_upgrade) => {
                (Delivery::Plain, Persistence::Upgrade)
            }
            101 => return Err(garbage),
            100..=199 => {
                if !self.count_informational(now) {
                    return Err(garbage);
                }
                if request.http10 || (head.status == 100 && !request.expects_continue) {
                    return Ok(head.len);
                }
                (Delivery::Plain, Persistence::Implicit)
            }
            _ => self.start_response(worker, client, request, &head),
        };
        if head.status >= 200 || head.status == 101 {
            self.signal = request.attempts.record_response(&mut self.assignment, outcome, true, now);
            if !outcome.blames_destination() {
                request.attempts.settle(&routes.routes[request.route], true, now);
            }
            request.status = head.status;
            if let Some(log) = &mut request.log {
                log.first_byte = Some(now.since(self.assignment.started()));
            }
        }
        let (edits, content_type) = (&route.response_edits, content_type.as_deref());
        let rewrite =
            ResponseRewrite { delivery, persistence, edits, via, content_type, hides_load: reads_load };
        let end_stream = self.response.as_ref().is_some_and(|response| response.finished);
        client.send_head(out, bytes, &head, headers, rewrite, end_stream)?;
        request.upgraded = head.status == 101;
        Ok(head.len)
    }

    /// Counts an informational response; `false` if there are too many at once. Their total number is not limited,
    /// because servers keep long requests alive with them.
    fn count_informational(&mut self, now: Tick) -> bool {
        if now.since(self.informational_since) >= Duration::from_secs(1) {
            (self.informational_since, self.informational) = (now, 0);
        }
        self.informational += 1;
        self.informational <= MAX_INFORMATIONAL
    }

    /// Reports whether this response is a failure of its destination while another attempt may still succeed.
    fn is_superseded(&self, request: &RequestContext, outcome: Outcome) -> bool {
        request.is_hedged && self.informational == 0 && outcome.blames_destination()
    }

    /// Reports whether this response is discarded for a retry: `retry.when` lists it and an untried
    /// destination is left.
    fn should_retry_response(
        &mut self,
        worker: &WorkerContext,
        request: &mut RequestContext,
        response: ResponseStatus,
    ) -> bool {
        let pool = request.routes.routes[request.route].table.pool.clone();
        let spec = &pool.config.retry;
        if !request.untried_left || self.informational > 0 || !spec.when.lists_response(response) {
            return false;
        }
        let (idempotent, replayable) = (request.method.is_idempotent(), !request.streamed);
        if !request.attempts.acquire_retry_permit(&pool, worker.number) {
            return false;
        }
        let now = self.now(worker);
        retry::decide_on_response(
            spec,
            response,
            request.attempts.count(),
            idempotent,
            replayable,
            &pool.budget,
            now,
        ) == Decision::Retry
    }

    fn start_response<D: Downstream>(
        &mut self,
        worker: &WorkerContext,
        client: &mut D,
        request: &RequestContext,
        head: &ResponseHead<'_>,
    ) -> (Delivery, Persistence) {
        let delivery = match D::FRAMES_BODIES {
            true => Delivery::Plain,
            false => response::delivery(head.framing, request.http10),
        };
        let body_read = request.body.is_done();
        let closing =
            worker.draining.get() || client.guard().listener.is_closing() || client.should_close(request);
        let closes = !request.keep_alive || !body_read || closing || delivery == Delivery::UntilClose;
        let framing = match head.framing {
            Framing::Chunked if self.upstream.frames_bodies() => Framing::UntilClose,
            // Trailers follow the last byte, and HTTP/2 checks the length itself.
            Framing::Length(1..)
                if self.upstream.frames_bodies() && (request.is_grpc || load_report::is_enabled(request)) =>
            {
                Framing::UntilClose
            }
            framing => framing,
        };
        self.response = Some(Response {
            body: BodyReader::new(framing),
            delivery,
            reusable: head.keep_alive,
            body_withheld: head.body_omitted,
            closes,
            finished: has_no_body(head),
        });
        let persistence = match (closes, request.http10) {
            (true, _) => Persistence::Close,
            (false, true) => Persistence::KeepAlive,
            (false, false) => Persistence::Implicit,
        };
        (delivery, persistence)
    }
}
