//! How one try of a request runs on one connection: both directions at once, nothing kept that need not be.
//!
//! The whole exchange is one poll function. Each direction moves what it can until a socket says "later";
//! neither waits for the other, so an early response, a slow upload and an echo all work. Bytes live in the
//! worker's scratch buffer; only what a socket would not take is copied.

pub(crate) mod grpc_call;
pub(crate) mod load_report;

mod download;
mod upload;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_core::{Assignment, Failure, FailureSignal, Outcome, Tick};

use crate::base::context::WorkerContext;
use crate::base::write_buffer::WriteBuffer;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::download::Response;
use crate::forward::request_context::RequestContext;
use crate::http::local_reply::Refusal;
use crate::upstream::h2_client_stream::H2Stream;
use crate::upstream::h2_connections::NewUpstream;
use crate::upstream::upstream_stream::Upstream;

/// Turns of one direction before other connections get theirs.
const MAX_ITERATIONS: usize = 16;

/// Frames the request for the protocol of its connection, and returns the destination's side of the exchange.
pub(crate) fn upstream_for(opened: NewUpstream, request: &mut RequestContext) -> Upstream {
    match opened {
        NewUpstream::Http1(stream) => {
            request.frame(true);
            Upstream::Http1(stream)
        }
        NewUpstream::Http2(link) => {
            request.frame(false);
            let ends = request.body.is_done() && request.encoded.len() == request.head_len;
            Upstream::Http2(Box::new(H2Stream::new(&link, request.head_len, ends)))
        }
    }
}

/// How a try ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExchangeEnd {
    /// The response was delivered to its end.
    Delivered,
    /// The destination switched protocols; what follows is a tunnel.
    Upgraded,
    /// The destination failed.
    Failed(Failure),
    /// It answered with a status that another destination may do better than; nothing was passed on.
    Rejected,
    /// The client's fault; an response may still be possible if none has begun.
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
    pub(crate) upstream: Upstream,
    pub(crate) assignment: Assignment,
    /// A word for the slow loop, if the outcome deserves one.
    pub(crate) signal: Option<FailureSignal>,
    /// Bytes of the request's wire image that were sent.
    sent: usize,
    upload: WriteBuffer,
    /// The destination reads no more; it may have answered all the same.
    upload_broken: bool,
    /// An incomplete head of the response.
    partial: Vec<u8>,
    informational: u8,
    response: Option<Response>,
    download: WriteBuffer,
    now: Option<Tick>,
    made_progress: bool,
}

impl Exchange {
    /// A try on `upstream`; `now` is the moment its destination was chosen.
    pub(crate) fn new(upstream: Upstream, assignment: Assignment, now: Tick) -> Self {
        Self {
            upstream,
            assignment,
            signal: None,
            sent: 0,
            upload: WriteBuffer::default(),
            upload_broken: false,
            partial: Vec::new(),
            informational: 0,
            response: None,
            download: WriteBuffer::default(),
            now: Some(now),
            made_progress: true,
        }
    }

    /// Anything of the request may have left on this connection.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent > 0 && !self.upstream.never_ran()
    }

    /// The final response, if its head arrived.
    pub(crate) fn response(&self) -> Option<&Response> {
        self.response.as_ref()
    }

    /// The client got bytes of an response (an informational one counts).
    pub(crate) fn response_started(&self) -> bool {
        self.response.is_some() || self.informational > 0
    }

    /// Bytes for the client that a switch of protocols left unsent.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.download.rest()
    }

    /// After [`ExchangeEnd::Delivered`]: may the upstream connection serve again?
    pub(crate) fn reusable(&self, request: &RequestContext) -> bool {
        self.response.as_ref().is_some_and(|a| a.reusable)
            && !self.upload_broken
            && self.sent == request.encoded.len()
            && self.upload.is_empty()
            && request.body.is_done()
    }

    /// When it ended: read once per turn, not once per question.
    pub(crate) fn ended_at(&self, worker: &WorkerContext) -> Tick {
        self.now.unwrap_or_else(|| worker.now())
    }

    /// Runs to the end.
    pub(crate) async fn run<D: Downstream>(
        &mut self,
        client: &mut D,
        request: &mut RequestContext,
    ) -> ExchangeEnd {
        let worker = client.guard().worker.clone();
        std::future::poll_fn(|cx| match self.poll(cx, &worker, client, request) {
            Err(end) => Poll::Ready(end),
            Ok(()) => Poll::Pending,
        })
        .await
    }

    /// Moves what can be moved. `Ok` means "later", `Err` tells how it ended.
    fn poll<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Rc<WorkerContext>,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<(), ExchangeEnd> {
        self.poll_io(cx, worker, client, request)?;
        if client.is_gone(cx, request.body.is_done()) {
            return Err(ExchangeEnd::ClientGone);
        }
        if let Some(deadline) = self.next_deadline(worker, request) {
            worker.timers.set(client.timer(), deadline);
        }
        if client.timer().poll(cx).is_ready() {
            return Err(self.timed_out(worker, request));
        }
        Ok(())
    }

    /// Moves what can be moved, in both directions.
    pub(crate) fn poll_io<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<(), ExchangeEnd> {
        self.poll_upload(cx, worker, client, request)?;
        self.poll_download(cx, worker, client, request)
    }

    /// Until when the next byte must have moved, if that is new. Called when a turn is over.
    pub(crate) fn next_deadline(&mut self, worker: &WorkerContext, request: &RequestContext) -> Option<Tick> {
        let deadline = std::mem::take(&mut self.made_progress).then(|| self.deadline(worker, request));
        self.now = None;
        deadline
    }

    fn now(&mut self, worker: &WorkerContext) -> Tick {
        *self.now.get_or_insert_with(|| worker.now())
    }

    /// Until when the next byte must have moved, given who is to move it.
    fn deadline(&mut self, worker: &WorkerContext, request: &RequestContext) -> Tick {
        let (ours, theirs) = (&request.pool_timeouts, &request.client_timeouts);
        let wait: Duration = match () {
            () if !self.download.is_empty() => theirs.idle,
            // Once an response has begun either side may be the one to go on.
            () if self.waits_for_client_body(request) && self.response.is_some() => {
                theirs.body.max(ours.response)
            }
            () if self.waits_for_client_body(request) => theirs.body,
            () => ours.response,
        };
        (self.now(worker) + wait).min(request.total_deadline)
    }

    fn waits_for_client_body(&self, request: &RequestContext) -> bool {
        !request.body.is_done()
            && self.sent == request.encoded.len()
            && self.upload.is_empty()
            && !self.upload_broken
    }

    /// Its timer has fired: whose fault that is.
    pub(crate) fn timed_out(&mut self, worker: &WorkerContext, request: &RequestContext) -> ExchangeEnd {
        match () {
            () if self.now(worker) >= request.total_deadline => {
                let now = self.now(worker);
                if self.response.is_none() && self.download.is_empty() && !self.waits_for_client_body(request)
                {
                    self.signal = self.assignment.record(now, Outcome::Failed(Failure::Timeout));
                }
                ExchangeEnd::TotalTimeout
            }
            () if !self.download.is_empty() => ExchangeEnd::ClientStalled,
            () if self.waits_for_client_body(request) => ExchangeEnd::Refused(Refusal::BODY_TIMEOUT),
            () => ExchangeEnd::Failed(Failure::Timeout),
        }
    }
}
