//! How one try of a request runs on one connection: both directions at once, nothing kept that need not be.
//!
//! The whole exchange is one poll function. Each direction moves what it can until a socket says "later";
//! neither waits for the other, so an early answer, a slow upload and an echo all work. Bytes live in the
//! worker's scratch buffer; only what a socket would not take is copied.

use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_core::retry::{self, Decision};
use plimsoll_core::{Failure, Outcome, Suspect, Tick, Ticket};

use super::answer::Refusal;
use super::body::{BodyReader, Framing, write_chunk_head, write_last_chunk};
use super::response::{self, Delivery, Hop, Persistence, ResponseHead};
use super::serve::{Client, Job};
use crate::stream::Stream;
use crate::worker::Worker;

/// Turns of one direction before other connections get theirs.
const TURNS: usize = 16;
/// Informational answers before the final one; more is a flood.
const MAX_INFORMATIONAL: u8 = 16;
/// A head of an answer may be so long; nginx and HAProxy give it a buffer of 4 to 16 KiB.
const MAX_HEAD: usize = 64 * 1024;
/// Body bytes copied behind their head into one buffer; more leave by a gathering write instead.
const COPY_BELOW: usize = 16 * 1024;

/// How a try ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was delivered to its end.
    Delivered,
    /// The destination switched protocols; what follows is a tunnel.
    Upgraded,
    /// The destination failed.
    Failed(Failure),
    /// It answered with a status that another destination may do better than; nothing was passed on.
    Rejected,
    /// The client's fault; an answer may still be possible if none has begun.
    Refused(Refusal),
    /// The client went away.
    ClientGone,
    /// The client stopped reading.
    ClientStalled,
    /// The message's total time is over.
    TotalTimeout,
}

/// One try.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) upstream: Stream,
    pub(crate) ticket: Ticket,
    /// A word for the slow loop, if the outcome deserves one.
    pub(crate) suspect: Option<Suspect>,
    /// Bytes of the job's wire image that were sent.
    sent: usize,
    upload: Pending,
    /// The destination reads no more; it may have answered all the same.
    upload_broken: bool,
    /// An incomplete head of the answer.
    partial: Vec<u8>,
    informational: u8,
    answer: Option<Answer>,
    download: Pending,
    watched: bool,
    now: Option<Tick>,
    progress: bool,
}

/// The final answer, from its head on.
#[derive(Debug)]
pub(crate) struct Answer {
    body: BodyReader,
    delivery: Delivery,
    /// The upstream connection can serve again once the body ended.
    reusable: bool,
    /// The client was told that the connection ends.
    pub(crate) closes: bool,
    finished: bool,
}

/// Bytes a socket would not take yet.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    at: usize,
}

impl Pending {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn advance(&mut self, by: usize) {
        self.at += by;
        if self.is_empty() {
            self.bytes.clear();
            self.at = 0;
            // A burst's buffer is not kept for the next message.
            self.bytes.shrink_to(COPY_BELOW);
        }
    }

    /// Keeps what `written` bytes left of `parts`.
    fn keep(&mut self, parts: [&[u8]; 3], mut written: usize) {
        for part in parts {
            let skip = written.min(part.len());
            written -= skip;
            self.bytes.extend_from_slice(&part[skip..]);
        }
    }
}

impl Exchange {
    /// A try on `upstream`; `now` is the moment its destination was chosen.
    pub(crate) fn new(upstream: Stream, ticket: Ticket, now: Tick) -> Self {
        Self {
            upstream,
            ticket,
            suspect: None,
            sent: 0,
            upload: Pending::default(),
            upload_broken: false,
            partial: Vec::new(),
            informational: 0,
            answer: None,
            download: Pending::default(),
            watched: false,
            now: Some(now),
            progress: true,
        }
    }

    /// Anything of the request may have left on this connection.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent > 0
    }

    /// The final answer, if its head arrived.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// The client got bytes of an answer (an informational one counts).
    pub(crate) fn answer_started(&self) -> bool {
        self.answer.is_some() || self.informational > 0
    }

    /// Bytes for the client that a switch of protocols left unsent.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.download.rest()
    }

    /// After [`End::Delivered`]: may the upstream connection serve again?
    pub(crate) fn reusable(&self, job: &Job) -> bool {
        self.answer.as_ref().is_some_and(|a| a.reusable)
            && !self.upload_broken
            && self.sent == job.wire.len()
            && self.upload.is_empty()
            && job.body.is_done()
    }

    /// When it ended: read once per turn, not once per question.
    pub(crate) fn ended_at(&self, worker: &Worker) -> Tick {
        self.now.unwrap_or_else(|| worker.now())
    }

    /// Runs to the end.
    pub(crate) async fn run(&mut self, client: &mut Client, job: &mut Job) -> End {
        let worker = client.guest.worker.clone();
        std::future::poll_fn(|cx| match self.poll(cx, &worker, client, job) {
            Err(end) => Poll::Ready(end),
            Ok(()) => Poll::Pending,
        })
        .await
    }

    /// Moves what can be moved. `Ok` means "later", `Err` tells how it ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Rc<Worker>,
        client: &mut Client,
        job: &mut Job,
    ) -> Result<(), End> {
        self.poll_upload(cx, worker, client, job)?;
        self.poll_download(cx, worker, client, job)?;
        if !self.watched && job.body.is_done() && client.stream.poll_read_ready(cx).is_ready() {
            self.watched = true;
            if client.stream.is_broken() {
                return Err(End::ClientGone);
            }
        }
        if std::mem::take(&mut self.progress) {
            let deadline = self.deadline(worker, job);
            worker.timers.set(&client.alarm, deadline);
        }
        self.now = None;
        if client.alarm.poll(cx).is_ready() {
            return Err(self.timed_out(worker, job));
        }
        Ok(())
    }

    fn now(&mut self, worker: &Worker) -> Tick {
        *self.now.get_or_insert_with(|| worker.now())
    }

    /// Until when the next byte must have moved, given who is to move it.
    fn deadline(&mut self, worker: &Worker, job: &Job) -> Tick {
        let (ours, theirs) = (&job.pool_timeouts, &job.client_timeouts);
        let wait: Duration = match () {
            () if !self.download.is_empty() => theirs.idle,
            // Once an answer has begun either side may be the one to go on.
            () if self.waits_for_client_body(job) && self.answer.is_some() => theirs.body.max(ours.response),
            () if self.waits_for_client_body(job) => theirs.body,
            () => ours.response,
        };
        (self.now(worker) + wait).min(job.total_deadline)
    }

    fn waits_for_client_body(&self, job: &Job) -> bool {
        !job.body.is_done() && self.sent == job.wire.len() && self.upload.is_empty() && !self.upload_broken
    }

    fn timed_out(&mut self, worker: &Worker, job: &Job) -> End {
        match () {
            () if self.now(worker) >= job.total_deadline => {
                if self.answer.is_none() && self.download.is_empty() && !self.waits_for_client_body(job) {
                    self.suspect = self.ticket.learn(Outcome::Failed(Failure::Timeout));
                }
                End::TotalTimeout
            }
            () if !self.download.is_empty() => End::ClientStalled,
            () if self.waits_for_client_body(job) => End::Refused(Refusal::BODY_TIMEOUT),
            () => End::Failed(Failure::Timeout),
        }
    }

    /// Client to destination.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Client,
        job: &mut Job,
    ) -> Result<(), End> {
        for _ in 0..TURNS {
            if self.upload_broken {
                return Ok(());
            }
            let unsent = match &job.wire[self.sent..] {
                [] => self.upload.rest(),
                wire => wire,
            };
            if unsent.is_empty() {
                if job.body.is_done() || !self.read_body(cx, worker, client, job)? {
                    return Ok(());
                }
                continue;
            }
            match self.upstream.poll_write(cx, unsent) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => {
                    self.progress = true;
                    match self.sent < job.wire.len() {
                        true => self.sent += n,
                        false => self.upload.advance(n),
                    }
                }
                Poll::Ready(_) => self.upload_broken = true,
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads more of the request body and sends it on; `false` when the client has none yet.
    fn read_body(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Client,
        job: &mut Job,
    ) -> Result<bool, End> {
        let mut scratch = worker.scratch.borrow_mut();
        let n = match client.stream.poll_read(cx, &mut scratch) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(n @ 1..)) => n,
            Poll::Ready(_) => return Err(End::ClientGone),
        };
        self.progress = true;
        job.streamed = true;
        let data = job.take_body(client, &mut scratch[..n]).map_err(End::Refused)?;
        if job.chunked {
            job.write_chunk(&mut self.upload.bytes, &scratch[data]);
            return Ok(true);
        }
        let written = match self.upstream.poll_write(cx, &scratch[data.clone()]) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) => {
                self.upload_broken = true;
                return Ok(false);
            }
            Poll::Pending => 0,
        };
        self.upload.keep([&scratch[data], b"", b""], written);
        Ok(true)
    }

    /// Destination to client.
    fn poll_download(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Client,
        job: &mut Job,
    ) -> Result<(), End> {
        for _ in 0..TURNS {
            if !self.download.is_empty() {
                match client.stream.poll_write(cx, self.download.rest()) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(n @ 1..)) => self.download.advance(n),
                    Poll::Ready(_) => return Err(End::ClientGone),
                }
                self.progress = true;
                continue;
            }
            if self.answer.as_ref().is_some_and(|a| a.finished) {
                return Err(End::Delivered);
            }
            let mut scratch = worker.scratch.borrow_mut();
            let have = self.partial.len();
            scratch[..have].copy_from_slice(&self.partial);
            let end = match self.upstream.poll_read(cx, &mut scratch[have..]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(n @ 1..)) => have + n,
                Poll::Ready(ended) => {
                    self.upstream_ended(ended.is_ok())?;
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
    fn upstream_ended(&mut self, cleanly: bool) -> Result<(), End> {
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
        if answer.delivery == Delivery::Chunked {
            write_last_chunk(&mut self.download.bytes, b"");
        }
        Ok(())
    }

    /// Bytes of an answer: heads first, then body.
    fn take_bytes(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        client: &mut Client,
        job: &mut Job,
        bytes: &mut [u8],
    ) -> Result<(), End> {
        let mut out = worker.out.borrow_mut();
        out.clear();
        let mut at = 0;
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
                self.download.bytes.extend_from_slice(&out);
                self.download.bytes.extend_from_slice(&bytes[at..]);
                return Err(End::Upgraded);
            }
        }
        self.partial = Vec::new();
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let decoded = answer.body.decode(&mut bytes[at..]).map_err(|_| End::Failed(Failure::Truncated))?;
        let data = decoded.data.start + at..decoded.data.end + at;
        if answer.body.is_done() {
            answer.finished = true;
            // Bytes behind an answer belong to nobody; the connection they came on is not used again.
            answer.reusable &= at + decoded.consumed == bytes.len();
        }
        self.deliver_body(cx, client, job, &mut out, bytes, data)
    }

    fn deliver_body(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        job: &mut Job,
        out: &mut Vec<u8>,
        bytes: &[u8],
        data: Range<usize>,
    ) -> Result<(), End> {
        let Some(answer) = &self.answer else { return Ok(()) };
        let chunked = answer.delivery == Delivery::Chunked;
        if chunked && !data.is_empty() {
            write_chunk_head(out, data.len());
        }
        let last = |to: &mut Vec<u8>| {
            if chunked && answer.finished {
                write_last_chunk(to, answer.body.trailers());
            }
        };
        if data.len() < COPY_BELOW {
            out.extend_from_slice(&bytes[data.clone()]);
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
        self.deliver(cx, client, job, [out, &bytes[data], &tail])
    }

    /// Sends to the client, keeping what its socket does not take.
    fn deliver(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        job: &mut Job,
        parts: [&[u8]; 3],
    ) -> Result<(), End> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        job.response_bytes += total as u64;
        if total == 0 {
            return Ok(());
        }
        let polled = match parts {
            [only, [], []] => client.stream.poll_write(cx, only),
            parts => client.stream.poll_write_parts(cx, parts),
        };
        match polled {
            Poll::Ready(Ok(written)) if written == total => {}
            Poll::Ready(Ok(written)) => self.download.keep(parts, written),
            Poll::Pending => self.download.keep(parts, 0),
            Poll::Ready(Err(_)) => return Err(End::ClientGone),
        }
        Ok(())
    }

    /// Reads one head from the front of `bytes` and writes it for the client. Answers its length, or 0 when
    /// it is incomplete.
    fn take_head(
        &mut self,
        worker: &Worker,
        client: &Client,
        job: &mut Job,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, End> {
        let mut slots = [const { std::mem::MaybeUninit::uninit() }; super::MAX_HEADERS];
        let garbage = End::Failed(Failure::Garbage);
        let (head, headers) = match response::parse(bytes, &mut slots, job.method) {
            Ok(Some(parsed)) if parsed.0.len <= MAX_HEAD => parsed,
            Ok(None) if bytes.len() < MAX_HEAD => return Ok(0),
            _ => return Err(garbage),
        };
        if head.status >= 400 && self.is_rejected(worker, job, head.status) {
            let first_byte = self.now(worker).since(self.ticket.started());
            self.suspect = self.ticket.learn(Outcome::Answered { status: head.status, first_byte });
            return Err(End::Rejected);
        }
        let rule = &job.view.rules[job.rule].table;
        let via = job.view.table.config.via;
        let (delivery, persistence) = match head.status {
            101 if job.upgrade && head.upgrade.is_some() => {
                job.upgraded = true;
                (Delivery::Plain, Persistence::Upgrade)
            }
            101 => return Err(garbage),
            100..=199 => {
                self.informational += 1;
                if self.informational > MAX_INFORMATIONAL {
                    return Err(garbage);
                }
                if job.http10 || (head.status == 100 && !job.expects_continue) {
                    return Ok(head.len);
                }
                (Delivery::Plain, Persistence::Silent)
            }
            _ => self.final_head(worker, client, job, &head),
        };
        if head.status >= 200 || head.status == 101 {
            let first_byte = self.now(worker).since(self.ticket.started());
            self.suspect = self.ticket.learn(Outcome::Answered { status: head.status, first_byte });
            job.status = head.status;
            if let Some(log) = &mut job.log {
                log.first_byte = Some(first_byte);
            }
        }
        let hop = Hop { delivery, persistence, edits: &rule.response_edits, via };
        response::write_head(out, bytes, &head, headers, hop);
        Ok(head.len)
    }

    /// Is this answer better thrown away, because `retry.when` lists its status and somebody else is left?
    fn is_rejected(&mut self, worker: &Worker, job: &Job, status: u16) -> bool {
        let pool = &job.view.rules[job.rule].table.pool;
        let spec = &pool.config.retry;
        if !job.others_left || self.informational > 0 || !spec.when.statuses.contains(&status) {
            return false;
        }
        let (idempotent, replayable) = (job.method.idempotent(), !job.streamed);
        let now = self.now(worker);
        retry::decide_status(spec, status, job.tries, idempotent, replayable, &pool.budget, now)
            == Decision::Again
    }

    fn final_head(
        &mut self,
        worker: &Worker,
        client: &Client,
        job: &Job,
        head: &ResponseHead<'_>,
    ) -> (Delivery, Persistence) {
        let delivery = response::delivery(head.framing, job.http10);
        let body_read = job.body.is_done();
        let ends = worker.draining.get() || client.guest.door.is_closing();
        let closes = !job.keep_alive || !body_read || ends || delivery == Delivery::UntilClose;
        self.answer = Some(Answer {
            body: BodyReader::new(head.framing),
            delivery,
            reusable: head.keep_alive,
            closes,
            finished: matches!(head.framing, Framing::Empty | Framing::Length(0)),
        });
        let persistence = match (closes, job.http10) {
            (true, _) => Persistence::Close,
            (false, true) => Persistence::KeepAlive,
            (false, false) => Persistence::Silent,
        };
        (delivery, persistence)
    }
}
