//! One attempt of a request on one connection, in both directions at once.
//!
//! The exchange is one poll function. Each direction copies bytes until a socket would block, and neither
//! waits for the other, so early responses, slow uploads and echoes work. Bytes pass through the worker's
//! scratch buffer; only those that a socket does not accept are copied.

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
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request_context::RequestContext;
use crate::http::local_reply::LocalReply;
use crate::upstream::h2_client_stream::H2Stream;
use crate::upstream::h2_connections::NewUpstream;
use crate::upstream::upstream_stream::Upstream;

/// Iterations of one direction before other connections are served.
const MAX_ITERATIONS: usize = 16;

/// Frames the request for the protocol of its connection, and returns the destination's side of the exchange.
pub(crate) fn upstream_for(opened: NewUpstream, request: &mut RequestContext) -> Upstream {
    match opened {
        NewUpstream::Http1(stream) => {
            request.set_framing(true);
            Upstream::Http1(stream)
        }
        NewUpstream::Http2(connection) => {
            request.set_framing(false);
            let end_stream = request.body.is_done() && request.encoded.len() == request.head_len;
            Upstream::Http2(Box::new(H2Stream::new(&connection, request.head_len, end_stream)))
        }
    }
}

/// One attempt: a request and its response on one upstream connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) upstream: Upstream,
    pub(crate) assignment: Assignment,
    /// Failure signal for the driver of the pool, if the outcome requires one.
    pub(crate) signal: Option<FailureSignal>,
    /// Bytes of the encoded request that were sent.
    sent: usize,
    upload: WriteBuffer,
    /// The destination stopped reading; it may respond all the same.
    upload_broken: bool,
    /// An incomplete response head.
    partial: Vec<u8>,
    /// Number of informational responses in the current second; 0 before the first one.
    informational: u32,
    informational_since: Tick,
    response: Option<Response>,
    download: WriteBuffer,
    now: Option<Tick>,
    made_progress: bool,
}

impl Exchange {
    /// Creates an exchange on `upstream`; `now` is the time of the pick.
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
            informational_since: Tick::ZERO,
            response: None,
            download: WriteBuffer::default(),
            now: Some(now),
            made_progress: true,
        }
    }

    /// Reports whether the destination may have processed a part of the request.
    pub(crate) fn has_sent(&self) -> bool {
        self.sent > 0 && !self.upstream.never_processed()
    }

    /// Returns the final response, once its head arrived.
    pub(crate) fn response(&self) -> Option<&Response> {
        self.response.as_ref()
    }

    /// Reports whether the client received bytes of a response, an informational one included.
    pub(crate) fn response_started(&self) -> bool {
        self.response.is_some() || self.informational > 0
    }

    /// Returns the bytes for the client that were not sent before the protocol switch.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.download.rest()
    }

    /// Reports whether the upstream connection can be reused after [`ExchangeEnd::Delivered`].
    pub(crate) fn reusable(&self, request: &RequestContext) -> bool {
        self.response.as_ref().is_some_and(|response| response.reusable)
            && !self.upload_broken
            && self.sent == request.encoded.len()
            && self.upload.is_empty()
            && request.body.is_done()
    }

    /// Returns the time of the current poll. The clock is read once per poll.
    pub(crate) fn ended_at(&self, worker: &WorkerContext) -> Tick {
        self.now.unwrap_or_else(|| worker.now())
    }

    /// Runs the exchange to its end.
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

    /// Copies bytes in both directions and checks the deadlines. `Err` is the end of the exchange.
    fn poll<D: Downstream>(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Rc<WorkerContext>,
        client: &mut D,
        request: &mut RequestContext,
    ) -> Result<(), ExchangeEnd> {
        self.poll_io(cx, worker, client, request)?;
        if client.is_disconnected(cx, request.body.is_done()) {
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

    /// Copies bytes in both directions until the sockets would block.
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

    /// Returns the deadline of the next byte if it has changed, and ends the current poll.
    pub(crate) fn next_deadline(
        &mut self,
        worker: &WorkerContext,
        request: &mut RequestContext,
    ) -> Option<Tick> {
        let deadline = std::mem::take(&mut self.made_progress).then(|| self.deadline(worker, request));
        self.now = None;
        deadline
    }

    fn now(&mut self, worker: &WorkerContext) -> Tick {
        *self.now.get_or_insert_with(|| worker.now())
    }

    /// Returns the deadline of the next byte, by the side that has to send it.
    fn deadline(&mut self, worker: &WorkerContext, request: &mut RequestContext) -> Tick {
        let now = self.now(worker);
        let mut slowest = Tick::NEVER;
        if !request.body.is_done() {
            // After the response has started, the client may wait for more of it.
            match self.response.is_none() && self.download.is_empty() && self.awaits_client_body(request) {
                true => slowest = request.min_rate.wait(now, request.request_bytes),
                false => request.min_rate.pause(now),
            }
        }
        let (pool, client) = (&request.pool_timeouts, &request.client_timeouts);
        let wait: Duration = match () {
            () if !self.download.is_empty() => client.idle,
            // After the response has started, either side may continue.
            () if self.awaits_client_body(request) && self.response.is_some() => {
                client.body.max(pool.response)
            }
            () if self.awaits_client_body(request) => client.body,
            () => pool.response,
        };
        (now + wait).min(slowest).min(request.total_deadline)
    }

    /// Reports whether the destination is to blame for the end of the time for all attempts: it had the whole request for
    /// at least half of that time, and the time is not the client's own deadline.
    fn exceeds_its_share(&self, now: Tick, request: &RequestContext) -> bool {
        let half = request.pool_timeouts.total.map_or(Duration::MAX, |total| total / 2);
        !request.is_client_deadline && self.assignment.waited(now) >= half
    }

    fn awaits_client_body(&self, request: &RequestContext) -> bool {
        !request.body.is_done()
            && self.sent == request.encoded.len()
            && self.upload.is_empty()
            && !self.upload_broken
    }

    /// Returns how the exchange ends after a timeout, by the side at fault.
    pub(crate) fn timed_out(&mut self, worker: &WorkerContext, request: &RequestContext) -> ExchangeEnd {
        match () {
            () if self.now(worker) >= request.total_deadline => {
                let now = self.now(worker);
                if self.response.is_none() && self.download.is_empty() && self.exceeds_its_share(now, request)
                {
                    self.signal = self.assignment.record(now, Outcome::Failed(Failure::Timeout));
                }
                ExchangeEnd::TotalTimeout
            }
            () if !self.download.is_empty() => ExchangeEnd::ClientStalled,
            () if self.awaits_client_body(request) => ExchangeEnd::LocalReply(LocalReply::BODY_TIMEOUT),
            () => ExchangeEnd::Failed(Failure::Timeout),
        }
    }
}
