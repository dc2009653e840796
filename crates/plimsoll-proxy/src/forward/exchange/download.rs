//! The other direction: the answer, from the destination to the client.

use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_core::retry::{self, Decision, ResponseStatus};
use plimsoll_core::{Failure, Outcome};
use plimsoll_wire::grpc;

use crate::base::buffers::SCRATCH;
use crate::base::context::WorkerContext;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{End, Exchange, TURNS, grpc_call, load_report};
use crate::forward::request_context::Job;
use plimsoll_wire::http1::MAX_HEADERS;
use plimsoll_wire::http1::body::{BodyReader, Framing, write_chunk_head, write_last_chunk};
use plimsoll_wire::http1::response::{self, Delivery, Persistence, ResponseHead, ResponseRewrite};

/// Informational answers before the final one; more is a flood.
const MAX_INFORMATIONAL: u8 = 16;
/// A head of an answer may be so long; nginx and HAProxy give it a buffer of 4 to 16 KiB.
const MAX_HEAD: usize = 64 * 1024;
/// Body bytes copied behind their head into one buffer; more leave by a gathering write instead.
const COPY_BELOW: usize = 16 * 1024;

/// The final answer, from its head on.
#[derive(Debug)]
pub(crate) struct Answer {
    body: BodyReader,
    delivery: Delivery,
    /// The upstream connection can serve again once the body ended.
    pub(crate) reusable: bool,
    /// It told of a body that this kind of answer never has (HEAD, 204, 304).
    pub(crate) body_withheld: bool,
    /// The client was told that the connection ends.
    pub(crate) closes: bool,
    finished: bool,
}

fn has_no_body(head: &ResponseHead<'_>) -> bool {
    matches!(head.framing, Framing::Empty | Framing::Length(0))
}

impl Exchange {
    /// Destination to client.
    pub(crate) fn poll_download<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        job: &mut Job,
    ) -> Result<(), End> {
        for _ in 0..TURNS {
            if !self.download.is_empty() {
                match client.poll_write_parts(cx, [self.download.rest(), b"", b""], self.nothing_follows()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(n @ 1..)) => self.download.advance(n),
                    Poll::Ready(_) => return Err(End::ClientGone),
                }
                self.progress = true;
                continue;
            }
            if let Some(answer) = self.answer.as_ref().filter(|answer| answer.finished) {
                client.finish(answer.body.trailers())?;
                return Err(End::Delivered);
            }
            let mut scratch = worker.scratch.borrow_mut();
            let have = self.partial.len();
            scratch[..have].copy_from_slice(&self.partial);
            let room = have..(have + self.download.read_size()).min(SCRATCH);
            let end = match self.upstream.poll_read(cx, &mut scratch[room]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => have + n,
                Poll::Ready(ended) => {
                    self.upstream_ended(worker, job, ended.is_ok())?;
                    continue;
                }
            };
            self.progress = true;
            self.take_bytes(cx, worker, client, job, &mut scratch[..end])?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The destination closed. Only an answer that ends with its connection is whole then.
    fn upstream_ended(&mut self, worker: &WorkerContext, job: &mut Job, cleanly: bool) -> Result<(), End> {
        let now = self.ended_at(worker);
        if let Some(refusal) = self.upstream.refusal() {
            return Err(End::Refused(refusal));
        }
        let Some(answer) = &mut self.answer else {
            return Err(End::Failed(match (self.partial.is_empty() && self.informational == 0, cleanly) {
                (true, false) => Failure::Reset,
                (true, true) => Failure::EmptyResponse,
                (false, _) => Failure::Garbage,
            }));
        };
        if !cleanly || !answer.body.ends_with_connection() {
            return Err(End::Failed(Failure::Truncated));
        }
        answer.finished = true;
        let mut trailers = self.upstream.trailer_lines();
        if job.is_call
            && let Some(status) = grpc_call::status_among(&trailers).map(grpc::to_http_status)
        {
            let first_byte = Duration::ZERO;
            self.signal =
                self.assignment.record(now, Outcome::Answered { status, first_byte }).or(self.signal);
        }
        if load_report::asked_for(job) {
            self.learn_load(worker, job, now, load_report::in_lines(&trailers));
            load_report::hide(&mut trailers);
        }
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let out = self.download.buffer();
        if job.web.is_some() {
            grpc_call::write_web_end(out, answer.delivery, job, &mut trailers);
        }
        answer.body = BodyReader::ended(trailers);
        if answer.delivery == Delivery::Chunked {
            write_last_chunk(out, answer.body.trailers(), job.response_edits());
        }
        Ok(())
    }

    /// Bytes of an answer: heads first, then body.
    fn take_bytes<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        job: &mut Job,
        bytes: &mut [u8],
    ) -> Result<(), End> {
        let mut out = worker.out.borrow_mut();
        out.clear();
        let mut at = 0;
        let nothing_passed_on = self.answer.is_none();
        while self.answer.is_none() {
            match self.take_head(worker, client, job, &bytes[at..], &mut out)? {
                0 => {
                    self.partial.clear();
                    self.partial.extend_from_slice(&bytes[at..]);
                    return self.deliver(cx, client, job, [&out, b"", b""]);
                }
                len => at += len,
            }
            if job.upgraded {
                self.download.buffer().extend_from_slice(&out);
                self.download.buffer().extend_from_slice(&bytes[at..]);
                return Err(End::Upgraded);
            }
        }
        self.partial = Vec::new();
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let Ok(decoded) = answer.body.decode(&mut bytes[at..]) else {
            if nothing_passed_on {
                self.answer = None;
                return Err(End::Failed(Failure::Garbage));
            }
            return Err(End::Failed(Failure::Truncated));
        };
        let data = decoded.data.start + at..decoded.data.end + at;
        if answer.body.is_done() && D::FRAMES_BODIES && self.upstream.goes_on() {
            // Trailers may follow; HTTP/2 itself sees to the length.
            answer.body = BodyReader::new(Framing::UntilClose);
        } else if answer.body.is_done() {
            answer.finished = true;
            // Bytes behind an answer belong to nobody; the connection they came on is not used again.
            answer.reusable &= at + decoded.consumed == bytes.len();
            self.trailers_ended(worker, job);
        }
        let text = job.translated().and_then(|web| web.encode_response(&bytes[data.clone()]));
        self.deliver_body(cx, client, job, &mut out, text.as_deref().unwrap_or(&bytes[data]))
    }

    /// The answer has ended, with the trailers that came behind its last chunk, if any did.
    fn trailers_ended(&mut self, worker: &WorkerContext, job: &Job) {
        let Some(answer) = self.answer.as_mut().filter(|answer| !answer.body.trailers().is_empty()) else {
            return;
        };
        if load_report::asked_for(job) {
            let mut trailers = answer.body.trailers().to_vec();
            load_report::hide(&mut trailers);
            let told = std::mem::replace(&mut answer.body, BodyReader::ended(trailers));
            let now = self.now(worker);
            self.learn_load(worker, job, now, load_report::in_lines(told.trailers()));
        }
    }

    fn deliver_body<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        job: &mut Job,
        out: &mut Vec<u8>,
        data: &[u8],
    ) -> Result<(), End> {
        let Some(answer) = &self.answer else { return Ok(()) };
        let chunked = answer.delivery == Delivery::Chunked;
        if chunked && !data.is_empty() {
            write_chunk_head(out, data.len());
        }
        let last = |to: &mut Vec<u8>| {
            if chunked && answer.finished {
                write_last_chunk(to, answer.body.trailers(), job.response_edits());
            }
        };
        if data.len() < COPY_BELOW {
            out.extend_from_slice(data);
            if chunked && !data.is_empty() {
                out.extend_from_slice(b"\r\n");
            }
            last(out);
            return self.deliver(cx, client, job, [out, b"", b""]);
        }
        let mut tail = Vec::new();
        if chunked {
            tail.extend_from_slice(b"\r\n");
            last(&mut tail);
        }
        self.deliver(cx, client, job, [out, data, &tail])
    }

    /// Sends to the client, keeping what its socket does not take.
    fn deliver<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut D,
        job: &mut Job,
        parts: [&[u8]; 3],
    ) -> Result<(), End> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        job.response_bytes += total as u64;
        if total == 0 {
            return Ok(());
        }
        let polled = client.poll_write_parts(cx, parts, self.nothing_follows());
        self.download.wrote(polled, parts).map(drop).map_err(|_| End::ClientGone)
    }

    /// The answer ends with what is sent now.
    fn nothing_follows(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.finished && answer.body.trailers().is_empty())
    }

    /// Reads one head from the front of `bytes` and writes it for the client. Answers its length, or 0 when
    /// it is incomplete.
    fn take_head<D: Downstream>(
        &mut self,
        worker: &WorkerContext,
        client: &mut D,
        job: &mut Job,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, End> {
        let mut slots = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
        let garbage = End::Failed(Failure::Garbage);
        let (mut head, headers) = match response::parse(bytes, &mut slots, job.method) {
            Ok(Some(parsed)) if parsed.0.len <= MAX_HEAD => parsed,
            Ok(None) if bytes.len() < MAX_HEAD => return Ok(0),
            _ => return Err(garbage),
        };
        let call = grpc_call::status_in(job, headers);
        let status = call.map_or(head.status, |told| head.status.max(grpc::to_http_status(told)));
        let told = match call {
            Some(call) if head.status == 200 && has_no_body(&head) => {
                grpc::parse_status(call).map(ResponseStatus::Grpc)
            }
            _ => (head.status >= 400).then_some(ResponseStatus::Http(head.status)),
        };
        let now = self.now(worker);
        let reads_load = load_report::asked_for(job);
        if reads_load && (head.status >= 200 || head.status == 101) {
            self.learn_load(worker, job, now, load_report::in_head(headers));
        }
        let first_byte = now.since(self.assignment.started());
        let outcome = Outcome::Answered { status, first_byte };
        if self.is_outrun(job, outcome) || told.is_some_and(|told| self.is_rejected(worker, job, told)) {
            self.signal = self.assignment.record(now, outcome);
            return Err(End::Rejected);
        }
        let content_type = grpc_call::answer_type(job, &mut head, headers, call.is_some());
        let view = job.view.clone();
        let rule = &view.routes[job.rule].table;
        let via = job.view.table.config.via;
        let (delivery, persistence) = match head.status {
            101 if job.upgrade && head.upgrade.is_some() => (Delivery::Plain, Persistence::Upgrade),
            101 => return Err(garbage),
            100..=199 => {
                self.informational += 1;
                if self.informational > MAX_INFORMATIONAL {
                    return Err(garbage);
                }
                if job.http10 || (head.status == 100 && !job.expects_continue) {
                    return Ok(head.len);
                }
                (Delivery::Plain, Persistence::Implicit)
            }
            _ => self.final_head(worker, client, job, &head),
        };
        if head.status >= 200 || head.status == 101 {
            self.signal = self.assignment.record(now, outcome);
            job.status = head.status;
            if let Some(log) = &mut job.log {
                log.first_byte = Some(first_byte);
            }
        }
        let (edits, content_type) = (&rule.response_edits, content_type.as_deref());
        let hop = ResponseRewrite { delivery, persistence, edits, via, content_type, hides_load: reads_load };
        let ends = self.answer.as_ref().is_some_and(|answer| answer.finished);
        client.pass_head(out, bytes, &head, headers, hop, ends)?;
        job.upgraded = head.status == 101;
        Ok(head.len)
    }

    /// Does this answer speak against its destination, while another was asked that may do better?
    fn is_outrun(&self, job: &Job, outcome: Outcome) -> bool {
        job.has_rivals && self.informational == 0 && outcome.blames_destination()
    }

    /// Is this answer better thrown away, because `retry.when` lists it and somebody else is left?
    fn is_rejected(&mut self, worker: &WorkerContext, job: &mut Job, response: ResponseStatus) -> bool {
        let pool = job.view.routes[job.rule].table.pool.clone();
        let spec = &pool.config.retry;
        if !job.others_left || self.informational > 0 || !spec.when.lists_response(response) {
            return false;
        }
        let (idempotent, replayable) = (job.method.is_idempotent(), !job.streamed);
        if !job.may_try_again(&pool, worker.number) {
            return false;
        }
        let now = self.now(worker);
        retry::decide_on_response(spec, response, job.tries, idempotent, replayable, &pool.budget, now)
            == Decision::Retry
    }

    fn final_head<D: Downstream>(
        &mut self,
        worker: &WorkerContext,
        client: &mut D,
        job: &Job,
        head: &ResponseHead<'_>,
    ) -> (Delivery, Persistence) {
        let delivery = match D::FRAMES_BODIES {
            true => Delivery::Plain,
            false => response::delivery(head.framing, job.http10),
        };
        let body_read = job.body.is_done();
        let ends = worker.draining.get() || client.guard().listener.is_closing() || client.retires(job);
        let closes = !job.keep_alive || !body_read || ends || delivery == Delivery::UntilClose;
        let framing = match head.framing {
            Framing::Chunked if self.upstream.frames_bodies() => Framing::UntilClose,
            // Its trailers come behind the last byte, and HTTP/2 itself sees to the length.
            Framing::Length(1..)
                if self.upstream.frames_bodies() && (job.is_call || load_report::asked_for(job)) =>
            {
                Framing::UntilClose
            }
            framing => framing,
        };
        self.answer = Some(Answer {
            body: BodyReader::new(framing),
            delivery,
            reusable: head.keep_alive,
            body_withheld: head.body_omitted,
            closes,
            finished: has_no_body(head),
        });
        let persistence = match (closes, job.http10) {
            (true, _) => Persistence::Close,
            (false, true) => Persistence::KeepAlive,
            (false, false) => Persistence::Implicit,
        };
        (delivery, persistence)
    }
}
