//! HTTP/1 connections of clients: waiting, pipelined requests, waiting again.
//!
//! An idle connection is a socket, a timer and a small task. When it becomes readable, the per-request state
//! is allocated, and freed when the connection is idle again.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::base::buffers::SCRATCH;
use crate::base::clock::Clock;
use crate::base::connection_lifetime::ConnectionLifetime;
use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::min_rate::MinRate;
use crate::base::reason::Reason;
use crate::base::timer::Timer;
use crate::forward::downstream::AfterResponse;
use crate::forward::downstream::Downstream;
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request;
use crate::forward::request_context::{self, ClientInfo, RequestContext};
use crate::http::local_reply::{self, LocalReply, ReplyFormat};
use crate::listener::accepted_connection::Connection;
use crate::listener::worker_listener::ConnectionGuard;
use crate::listener::worker_listener::ListenerRoutes;
use crate::log::access_log::RejectedLine;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Peer, Stream};
use crate::net::tls::server_config::ClientTlsInfo;
use crate::net::tunnel::{TunnelEnd, tunnel};
use crate::serve::h2;
use crate::serve::linger::linger;
use crate::upstream::dedicated::DedicatedConnections;
use crate::upstream::upstream_stream::Upstream;
use plimsoll_core::{Address, DestinationId, Tick};
use plimsoll_wire::http1::HeaderEdits;
use plimsoll_wire::http1::response::{self, ResponseHead, ResponseRewrite};
use plimsoll_wire::http1::target::Method;
use plimsoll_wire::http2;

/// Bytes read at once while a request head is awaited.
const READ_HEAD: usize = 64 * 1024;
/// Bytes read ahead of the next request while the current one is served, to notice the end of the connection.
const READ_AHEAD: usize = 16 * 1024;
/// The client's side of an HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) guard: ConnectionGuard,
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// Result of the TLS handshake, if there was one.
    tls_info: Option<Box<ClientTlsInfo>>,
    origin: Option<Rc<Origin>>,
    pub(crate) timer: TimerGuard,
    /// Bytes that were read and belong to the next request.
    pub(crate) inbox: Vec<u8>,
    /// Connections to destinations that this client has authenticated.
    dedicated: Option<Box<DedicatedConnections>>,
    lifetime: ConnectionLifetime,
    /// Deadline of the current request head.
    head_due: Tick,
    /// A complete request has arrived before.
    had_request: bool,
    /// The end of the stream was found while the current request is served, or nothing more is read until it ends.
    eof_checked: bool,
    /// The first bytes in the inbox are the HTTP/2 preface.
    is_http2: bool,
}

impl Client {
    /// Sets the time at which an incomplete head is late or was sent too slowly.
    fn set_head_deadline(&self, worker: &WorkerContext, rate: &mut MinRate) {
        let slowest = rate.wait(worker.timers.about_now(), self.inbox.len() as u64);
        worker.timers.set(&self.timer, self.head_due.min(slowest));
    }

    /// Reports whether the client sent bytes that were not read.
    pub(crate) fn has_unread(&self) -> bool {
        let mut noop = Context::from_waker(Waker::noop());
        !self.inbox.is_empty() || self.stream.poll_read_ready(&mut noop).is_ready()
    }

    /// Reads what follows the current request, and reports whether the client has left. The end of a connection stands
    /// behind all bytes, so bytes of the next request are read to see it.
    #[cold]
    fn has_left(&mut self, cx: &mut Context<'_>) -> bool {
        let worker = self.guard.worker.clone();
        let mut scratch = worker.scratch.borrow_mut();
        while self.inbox.len() < READ_AHEAD {
            match self.stream.poll_read(cx, &mut scratch[..READ_AHEAD - self.inbox.len()]) {
                Poll::Pending => return false,
                Poll::Ready(Ok(n @ 1..)) => self.inbox.extend_from_slice(&scratch[..n]),
                Poll::Ready(Ok(_)) => {
                    self.eof_checked = true;
                    return !self.guard.listener.routes().table.config.half_close;
                }
                Poll::Ready(Err(_)) => return true,
            }
        }
        self.eof_checked = true;
        self.stream.is_broken()
    }
}

/// Why the wait for a request ended without one.
#[derive(Debug)]
enum NoRequest {
    /// No bytes are left: the connection is idle again.
    Idle,
    /// The client closed the connection, or it continues as HTTP/2.
    Closed,
    /// The request is invalid or late.
    Rejected(LocalReply, ReplyFormat),
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve(connection: Connection) {
    let Connection { guard, stream, peer, tls_info, origin, early, .. } = connection;
    let worker = guard.worker.clone();
    let (timer, lifetime, head_due) = {
        let (now, routes) = (worker.now(), guard.listener.routes());
        let config = &routes.table.config;
        let lifetime = ConnectionLifetime::start(config, now, &mut worker.rng.borrow_mut());
        let head_due = now + config.timeouts.header;
        (worker.timer(head_due), lifetime, head_due)
    };
    let mut client = Client {
        guard,
        stream,
        peer,
        tls_info,
        origin,
        timer,
        inbox: early,
        dedicated: None,
        lifetime,
        head_due,
        had_request: false,
        eof_checked: false,
        is_http2: false,
    };
    while wait_readable(&mut client, &worker).await && serve_boxed(&mut client).await {
        if !client.had_request {
            // A wake-up without bytes does not extend the deadline.
            continue;
        }
        let idle = client.guard.listener.routes().table.config.timeouts.idle;
        worker.timers.set(&client.timer, worker.timers.about_now() + idle);
    }
    if client.is_http2 {
        let Client { guard, stream, peer, tls_info, origin, inbox: early, .. } = client;
        let connection =
            Connection { guard, stream, peer, tls_info, origin, rejects_proxy_header: false, early };
        Box::pin(h2::serve(connection)).await;
    }
}

/// Boxes the pipelined requests, so that an idle connection does not hold their state.
fn serve_boxed(client: &mut Client) -> Pin<Box<impl Future<Output = bool>>> {
    Box::pin(serve_pipelined(client))
}

/// Waits until the socket is readable; `false` when the connection has to close.
async fn wait_readable(client: &mut Client, worker: &WorkerContext) -> bool {
    if !client.inbox.is_empty() {
        return true;
    }
    client.inbox = Vec::new();
    client.timer.set_idle(true);
    let readable = std::future::poll_fn(|cx| {
        if client.stream.poll_read_ready(cx).is_ready() {
            return Poll::Ready(true);
        }
        client.timer.poll(cx).map(|()| false)
    })
    .await;
    client.timer.set_idle(false);
    if !readable && !client.had_request && !worker.draining.get() {
        client.guard.listener.routes().table.shared.counters.of(worker.number).refuse(Reason::HeaderTimeout);
    }
    readable
}

/// Serves requests until the connection is idle (`true`) or ends (`false`).
async fn serve_pipelined(client: &mut Client) -> bool {
    let worker = client.guard.worker.clone();
    loop {
        let mut request = match next_request(client, &worker).await {
            Ok(request) => request,
            Err(NoRequest::Idle) => return true,
            Err(NoRequest::Closed) => return false,
            Err(NoRequest::Rejected(reply, format)) => {
                reject_request(client, &worker, reply, format).await;
                return false;
            }
        };
        match request::forward(client, &mut request).await {
            AfterResponse::KeepAlive => {}
            AfterResponse::Close => return false,
            AfterResponse::Linger => {
                linger(&mut client.stream, &client.timer, &worker).await;
                return false;
            }
        }
        worker.buffers.give_back(std::mem::take(&mut request.encoded));
    }
}

/// Reads until a request head is complete, and returns the routed request.
async fn next_request(
    client: &mut Client,
    worker: &Rc<WorkerContext>,
) -> Result<Box<RequestContext>, NoRequest> {
    let routes = client.guard.listener.routes();
    let mut buffered = !client.inbox.is_empty();
    let mut started = false;
    // A head that arrives in small pieces is parsed when a line has ended or its length has doubled.
    let mut parse_at = 0;
    let mut rate = MinRate::new(routes.table.config.timeouts.min_rate, 0);
    std::future::poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            let have = client.inbox.len();
            let mut end = have;
            if !std::mem::take(&mut buffered) {
                let buffer = have..(have + READ_HEAD).min(SCRATCH);
                match client.stream.poll_read(cx, &mut scratch[buffer]) {
                    Poll::Ready(Ok(n @ 1..)) => end += n,
                    Poll::Ready(_) => return Poll::Ready(Err(NoRequest::Closed)),
                    Poll::Pending if !started => return Poll::Ready(Err(NoRequest::Idle)),
                    Poll::Pending if client.timer.poll(cx).is_ready() => {
                        return Poll::Ready(Err(NoRequest::Rejected(
                            LocalReply::HEADER_TIMEOUT,
                            ReplyFormat::Text,
                        )));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            if end < parse_at && !scratch[have..end].contains(&b'\n') {
                client.inbox.extend_from_slice(&scratch[have..end]);
                client.set_head_deadline(worker, &mut rate);
                continue;
            }
            parse_at = end * 2;
            scratch[..have].copy_from_slice(&client.inbox);
            if !client.had_request && client.tls_info.is_none() && http2::may_begin(&scratch[..end]) {
                client.inbox.extend_from_slice(&scratch[have..end]);
                client.is_http2 = end >= http2::PREFACE.len();
                if client.is_http2 {
                    return Poll::Ready(Err(NoRequest::Closed));
                }
                started = true;
                continue;
            }
            match take_request(client, worker, &routes, &mut scratch[..end]) {
                Ok(Some(request)) => {
                    client.had_request = true;
                    return Poll::Ready(Ok(request));
                }
                Ok(None) => {
                    client.inbox.extend_from_slice(&scratch[have..end]);
                    // The deadline of the first head counts from the accept.
                    if !std::mem::replace(&mut started, true) && client.had_request {
                        client.head_due = worker.now() + routes.table.config.timeouts.header;
                    }
                    client.set_head_deadline(worker, &mut rate);
                }
                Err((reply, format)) => {
                    client.inbox.clear();
                    return Poll::Ready(Err(NoRequest::Rejected(reply, format)));
                }
            }
        }
    })
    .await
}

/// Parses the request at the front of `bytes`, with the body bytes that have arrived; `None` if the head is
/// incomplete.
fn take_request(
    client: &mut Client,
    worker: &Rc<WorkerContext>,
    routes: &Rc<ListenerRoutes>,
    bytes: &mut [u8],
) -> Result<Option<Box<RequestContext>>, (LocalReply, ReplyFormat)> {
    let client_info = ClientInfo {
        peer: client.peer,
        tls_info: client.tls_info.as_deref(),
        origin: client.origin.as_ref(),
        is_http2: false,
    };
    let Some(mut request) = request_context::parse_and_route(client_info, worker, routes, bytes)? else {
        return Ok(None);
    };
    client.inbox.clear();
    client.lifetime.count_request();
    client.eof_checked = false;
    let body = &mut bytes[request.request_bytes as usize..];
    let data =
        request.decode_body(&mut client.inbox, body).map_err(|reply| (reply, request.reply_format()))?;
    let mut out = std::mem::take(&mut request.encoded);
    match request.chunked {
        true => request.write_chunk(&mut out, &body[data]),
        false => out.extend_from_slice(&body[data]),
    }
    request.encoded = out;
    Ok(Some(request))
}

impl Downstream for Client {
    const FRAMES_BODIES: bool = false;

    fn guard(&self) -> &ConnectionGuard {
        &self.guard
    }

    fn timer(&self) -> &Rc<Timer> {
        &self.timer
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut RequestContext,
        buffer: &mut [u8],
    ) -> Poll<Result<Range<usize>, ExchangeEnd>> {
        let n = match self.stream.poll_read(cx, buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(n @ 1..)) => n,
            Poll::Ready(_) => return Poll::Ready(Err(ExchangeEnd::ClientGone)),
        };
        Poll::Ready(request.decode_body(&mut self.inbox, &mut buffer[..n]).map_err(ExchangeEnd::LocalReply))
    }

    fn send_head(
        &mut self,
        out: &mut Vec<u8>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        headers: &[httparse::Header<'_>],
        rewrite: ResponseRewrite<'_>,
        _end_stream: bool,
    ) -> Result<(), ExchangeEnd> {
        response::write_head(out, bytes, head, headers, rewrite);
        Ok(())
    }

    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
        _last: bool,
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write_parts(cx, parts)
    }

    fn dedicated(&mut self) -> Option<&mut DedicatedConnections> {
        self.dedicated.as_deref_mut()
    }

    fn dedicate(&mut self, pool: u64, id: DestinationId, address: Address, stream: Stream) {
        self.dedicated.get_or_insert_default().keep(pool, id, address, stream);
    }

    fn finish(&mut self, _trailers: &[u8], _edits: &HeaderEdits) -> Result<(), ExchangeEnd> {
        Ok(())
    }

    fn should_close(&self, request: &RequestContext) -> bool {
        self.lifetime.should_close(request.started)
    }

    fn is_disconnected(&mut self, cx: &mut Context<'_>, request_complete: bool) -> bool {
        if self.eof_checked || !request_complete || self.stream.poll_read_ready(cx).is_pending() {
            return false;
        }
        self.has_left(cx)
    }

    fn reset(&mut self) {
        self.stream.reset_on_close();
    }

    fn after_response(&self, closes: bool, request: &RequestContext) -> AfterResponse {
        match closes {
            false => AfterResponse::KeepAlive,
            true if request.body.is_done() && !self.has_unread() => AfterResponse::Close,
            true => AfterResponse::Linger,
        }
    }

    async fn local_reply(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        reply: LocalReply,
    ) -> AfterResponse {
        let complete = request.body.is_done();
        let closing = worker.draining.get() || self.guard.listener.is_closing() || self.should_close(request);
        let keep = reply.allows_keep_alive() && request.keep_alive && !request.http10 && complete && !closing;
        let mut out = std::mem::take(&mut request.unsent);
        let unsent = out.len();
        out.reserve(512);
        local_reply::write(&mut out, reply, &request.reply_format(), request.method == Method::Head, keep);
        request.response_bytes += (out.len() - unsent) as u64;
        match (write_all(self, worker, &out).await, keep) {
            (false, _) => AfterResponse::Close,
            (true, true) => AfterResponse::KeepAlive,
            (true, false) if complete && !self.has_unread() => AfterResponse::Close,
            (true, false) => AfterResponse::Linger,
        }
    }

    async fn tunnel(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        mut upstream: Upstream,
        unsent: Vec<u8>,
    ) {
        let early = std::mem::take(&mut self.inbox);
        let idle = request.client_timeouts.idle.max(request.pool_timeouts.idle);
        let ends: [&mut dyn TunnelEnd; 2] = [&mut self.stream, &mut upstream];
        let copied = tunnel(worker, &self.timer, ends, early, unsent, idle).await;
        request.request_bytes += copied.to_destination;
        request.response_bytes += copied.to_client;
    }
}

/// Sends a local reply to bytes that are not a valid request, and ends the connection.
async fn reject_request(
    client: &mut Client,
    worker: &Rc<WorkerContext>,
    reply: LocalReply,
    format: ReplyFormat,
) {
    client.guard.listener.routes().table.shared.counters.of(worker.number).refuse(reply.reason);
    if let Some(log) = &worker.log {
        log.send(RejectedLine {
            time: Clock::wall(),
            peer: client.peer,
            listener: client.guard.listener.routes().table.config.name.clone(),
            reply,
        });
    }
    let mut out = Vec::with_capacity(256);
    local_reply::write(&mut out, reply, &format, false, false);
    if write_all(client, worker, &out).await {
        linger(&mut client.stream, &client.timer, worker).await;
    }
}

/// Writes all bytes to the client; `false` if it stopped reading.
pub(crate) async fn write_all(client: &mut Client, worker: &WorkerContext, bytes: &[u8]) -> bool {
    let timeout = client.guard.listener.routes().table.config.timeouts.idle;
    worker.timers.set(&client.timer, worker.now() + timeout);
    let mut at = 0;
    std::future::poll_fn(|cx| {
        while at < bytes.len() {
            match client.stream.poll_write(cx, &bytes[at..]) {
                Poll::Ready(Ok(n @ 1..)) => at += n,
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return client.timer.poll(cx).map(|()| false),
            }
        }
        Poll::Ready(true)
    })
    .await
}
