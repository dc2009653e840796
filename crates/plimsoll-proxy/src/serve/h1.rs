//! The life of one client connection: rest, a burst of requests, rest again.
//!
//! A resting connection is a socket, an timer and a small task. What a request needs is boxed when bytes
//! arrive and given back as soon as none are left.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::base::buffers::SCRATCH;
use crate::base::clock::Clock;
use crate::base::connection_lifetime::ConnectionLifetime;
use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::base::timer::Timer;
use crate::forward::downstream::AfterResponse;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{Exchange, ExchangeEnd};
use crate::forward::request;
use crate::forward::request_context::{self, ClientInfo, RequestContext};
use crate::http::local_reply::{self, Form, Refusal};
use crate::listener::accepted_connection::Connection;
use crate::listener::tls_accept::ClientTlsInfo;
use crate::listener::worker_listener::ConnectionGuard;
use crate::listener::worker_listener::ListenerRoutes;
use crate::log::access_log::RejectedLine;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Peer, Stream};
use crate::net::tunnel::{TunnelEnd, tunnel};
use crate::serve::h2;
use plimsoll_wire::http1::response::{self, ResponseHead, ResponseRewrite};
use plimsoll_wire::http1::target::Method;
use plimsoll_wire::http2;

/// Bytes read at once while a head is awaited: a pipeline is taken in pieces.
const READ_HEAD: usize = 64 * 1024;
/// After a last answer the rest of what the client sends is read and thrown away for so long …
const LINGER: Duration = Duration::from_secs(2);
/// … and up to so many bytes, so that a reset does not destroy the answer on its way.
const LINGER_BYTES: usize = 1024 * 1024;

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) guard: ConnectionGuard,
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// What its handshake of TLS told, if there was one.
    tls_info: Option<Box<ClientTlsInfo>>,
    origin: Option<Rc<Origin>>,
    pub(crate) timer: TimerGuard,
    /// Bytes that arrived and belong to what comes next.
    pub(crate) inbox: Vec<u8>,
    lifetime: ConnectionLifetime,
    /// It has sent a whole request before.
    greeted: bool,
    /// It was asked whether it is still there.
    watched: bool,
    /// It speaks HTTP/2, as its first bytes in the inbox say.
    speaks_http2: bool,
}

impl Client {
    /// It has said more than was asked of it.
    pub(crate) fn has_more(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        !self.inbox.is_empty() || self.stream.poll_read_ready(&mut nobody).is_ready()
    }
}

/// Why the wait for a request ended without one.
#[derive(Debug)]
enum NoRequest {
    /// Silence: rest again.
    Silent,
    /// The client closed, or its connection may end.
    Closed,
    /// A request that is none, or came too late.
    Refused(Refusal, Form),
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve(connection: Connection) {
    let Connection { guard, stream, peer, tls_info, origin, early, .. } = connection;
    let worker = guard.worker.clone();
    let (timer, lifetime) = {
        let (now, view) = (worker.now(), guard.listener.routes());
        let config = &view.table.config;
        let lifetime = ConnectionLifetime::start(config, now, &mut worker.rng.borrow_mut());
        (worker.timer(now + config.timeouts.header), lifetime)
    };
    let mut client = Client {
        guard,
        stream,
        peer,
        tls_info,
        origin,
        timer,
        inbox: early,
        lifetime,
        greeted: false,
        watched: false,
        speaks_http2: false,
    };
    while rest(&mut client, &worker).await && busy(&mut client).await {
        if !client.greeted {
            // A wake-up without a byte prolongs nothing.
            continue;
        }
        let idle = client.guard.listener.routes().table.config.timeouts.idle;
        worker.timers.set(&client.timer, worker.timers.about_now() + idle);
    }
    if client.speaks_http2 {
        let Client { guard, stream, peer, tls_info, origin, inbox: early, .. } = client;
        let connection =
            Connection { guard, stream, peer, tls_info, origin, rejects_proxy_header: false, early };
        Box::pin(h2::serve(connection)).await;
    }
}

/// A burst in a box of its own, so that a resting connection does not carry its size.
fn busy(client: &mut Client) -> Pin<Box<impl Future<Output = bool>>> {
    Box::pin(burst(client))
}

/// Waits for a byte with nothing but the socket; `false` when the connection is to end.
async fn rest(client: &mut Client, worker: &WorkerContext) -> bool {
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
    if !readable && !client.greeted && !worker.draining.get() {
        client.guard.listener.routes().table.shared.counters.of(worker.number).refuse(Reason::HeaderTimeout);
    }
    readable
}

/// Serves requests until the connection falls silent (`true`) or ends (`false`).
async fn burst(client: &mut Client) -> bool {
    let worker = client.guard.worker.clone();
    loop {
        let mut request = match next_request(client, &worker).await {
            Ok(request) => request,
            Err(NoRequest::Silent) => return true,
            Err(NoRequest::Closed) => return false,
            Err(NoRequest::Refused(refusal, form)) => {
                refuse_unread(client, &worker, refusal, form).await;
                return false;
            }
        };
        match request::forward(client, &mut request).await {
            AfterResponse::KeepAlive => {}
            AfterResponse::Close => return false,
            AfterResponse::Linger => {
                linger(client, &worker).await;
                return false;
            }
        }
        worker.buffers.give_back(std::mem::take(&mut request.encoded));
    }
}

/// Reads up to the end of a request head and makes a request of it.
async fn next_request(
    client: &mut Client,
    worker: &Rc<WorkerContext>,
) -> Result<Box<RequestContext>, NoRequest> {
    let view = client.guard.listener.routes();
    let mut fresh = !client.inbox.is_empty();
    let mut begun = false;
    // A head that comes in drops is looked at when a line has ended, or when it has doubled.
    let mut look_at = 0;
    std::future::poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            let have = client.inbox.len();
            let mut end = have;
            if !std::mem::take(&mut fresh) {
                let room = have..(have + READ_HEAD).min(SCRATCH);
                match client.stream.poll_read(cx, &mut scratch[room]) {
                    Poll::Ready(Ok(n @ 1..)) => end += n,
                    Poll::Ready(_) => return Poll::Ready(Err(NoRequest::Closed)),
                    Poll::Pending if !begun => return Poll::Ready(Err(NoRequest::Silent)),
                    Poll::Pending if client.timer.poll(cx).is_ready() => {
                        return Poll::Ready(Err(NoRequest::Refused(Refusal::HEADER_TIMEOUT, Form::Text)));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            if end < look_at && !scratch[have..end].contains(&b'\n') {
                client.inbox.extend_from_slice(&scratch[have..end]);
                continue;
            }
            look_at = end * 2;
            scratch[..have].copy_from_slice(&client.inbox);
            if !client.greeted && client.tls_info.is_none() && http2::may_begin(&scratch[..end]) {
                client.inbox.extend_from_slice(&scratch[have..end]);
                client.speaks_http2 = end >= http2::PREFACE.len();
                if client.speaks_http2 {
                    return Poll::Ready(Err(NoRequest::Closed));
                }
                begun = true;
                continue;
            }
            match take_request(client, worker, &view, &mut scratch[..end]) {
                Ok(Some(request)) => {
                    client.greeted = true;
                    return Poll::Ready(Ok(request));
                }
                Ok(None) => {
                    client.inbox.extend_from_slice(&scratch[have..end]);
                    // The first head's time began with the connection.
                    if !std::mem::replace(&mut begun, true) && client.greeted {
                        worker.timers.set(&client.timer, worker.now() + view.table.config.timeouts.header);
                    }
                }
                Err((refusal, form)) => {
                    client.inbox.clear();
                    return Poll::Ready(Err(NoRequest::Refused(refusal, form)));
                }
            }
        }
    })
    .await
}

/// Makes a request of the request at the front of `bytes`, with what came of its body; `None` when its head is
/// incomplete.
fn take_request(
    client: &mut Client,
    worker: &Rc<WorkerContext>,
    view: &Rc<ListenerRoutes>,
    bytes: &mut [u8],
) -> Result<Option<Box<RequestContext>>, (Refusal, Form)> {
    let client_info = ClientInfo {
        peer: client.peer,
        tls_info: client.tls_info.as_deref(),
        origin: client.origin.as_ref(),
    };
    let Some(mut request) = request_context::parse_and_route(client_info, worker, view, bytes)? else {
        return Ok(None);
    };
    client.inbox.clear();
    client.lifetime.count_request();
    client.watched = false;
    let rest = &mut bytes[request.request_bytes as usize..];
    let data = request.take_body(&mut client.inbox, rest).map_err(|refusal| (refusal, request.form()))?;
    let mut out = std::mem::take(&mut request.encoded);
    match request.chunked {
        true => request.write_chunk(&mut out, &rest[data]),
        false => out.extend_from_slice(&rest[data]),
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
        room: &mut [u8],
    ) -> Poll<Result<Range<usize>, ExchangeEnd>> {
        let n = match self.stream.poll_read(cx, room) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(n @ 1..)) => n,
            Poll::Ready(_) => return Poll::Ready(Err(ExchangeEnd::ClientGone)),
        };
        Poll::Ready(request.take_body(&mut self.inbox, &mut room[..n]).map_err(ExchangeEnd::Refused))
    }

    fn pass_head(
        &mut self,
        out: &mut Vec<u8>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
        headers: &[httparse::Header<'_>],
        hop: ResponseRewrite<'_>,
        _ends: bool,
    ) -> Result<(), ExchangeEnd> {
        response::write_head(out, bytes, head, headers, hop);
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

    fn finish(&mut self, _trailers: &[u8]) -> Result<(), ExchangeEnd> {
        Ok(())
    }

    fn retires(&self, request: &RequestContext) -> bool {
        self.lifetime.should_close(request.started)
    }

    fn is_gone(&mut self, cx: &mut Context<'_>, request_complete: bool) -> bool {
        if self.watched || !request_complete || self.stream.poll_read_ready(cx).is_pending() {
            return false;
        }
        // CheckContext once: what else it says is the next request, or the end of its side.
        self.watched = true;
        self.stream.is_broken()
    }

    fn reset(&mut self) {
        self.stream.reset_on_close();
    }

    fn after(&self, closes: bool, request: &RequestContext) -> AfterResponse {
        match closes {
            false => AfterResponse::KeepAlive,
            true if request.body.is_done() && !self.has_more() => AfterResponse::Close,
            true => AfterResponse::Linger,
        }
    }

    async fn refuse(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        refusal: Refusal,
    ) -> AfterResponse {
        let whole = request.body.is_done();
        let ends = worker.draining.get() || self.guard.listener.is_closing() || self.retires(request);
        let keep = refusal.keeps_connection() && request.keep_alive && !request.http10 && whole && !ends;
        let mut out = Vec::with_capacity(512);
        local_reply::write(&mut out, refusal, &request.form(), request.method == Method::Head, keep);
        request.response_bytes += out.len() as u64;
        match (write_all(self, worker, &out).await, keep) {
            (false, _) => AfterResponse::Close,
            (true, true) => AfterResponse::KeepAlive,
            (true, false) if whole && !self.has_more() => AfterResponse::Close,
            (true, false) => AfterResponse::Linger,
        }
    }

    async fn tunnel(&mut self, request: &mut RequestContext, worker: &Rc<WorkerContext>, exchange: Exchange) {
        let early = std::mem::take(&mut self.inbox);
        let unsent = exchange.unsent().to_vec();
        let Exchange { mut upstream, assignment, .. } = exchange;
        let idle = request.client_timeouts.idle.max(request.pool_timeouts.idle);
        let ends: [&mut dyn TunnelEnd; 2] = [&mut self.stream, &mut upstream];
        let copied = tunnel(worker, &self.timer, ends, early, unsent, idle).await;
        request.request_bytes += copied.to_destination;
        request.response_bytes += copied.to_client;
        drop(assignment);
    }
}

/// Answers something that did not become a request, and ends the connection.
async fn refuse_unread(client: &mut Client, worker: &Rc<WorkerContext>, refusal: Refusal, form: Form) {
    client.guard.listener.routes().table.shared.counters.of(worker.number).refuse(refusal.reason);
    if let Some(log) = &worker.log {
        log.send(RejectedLine {
            time: Clock::wall(),
            peer: client.peer,
            listener: client.guard.listener.routes().table.config.name.clone(),
            reply: refusal,
        });
    }
    let mut out = Vec::with_capacity(256);
    local_reply::write(&mut out, refusal, &form, false, false);
    if write_all(client, worker, &out).await {
        linger(client, worker).await;
    }
}

/// Writes to the client until everything is out; `false` when it stopped taking.
pub(crate) async fn write_all(client: &mut Client, worker: &WorkerContext, bytes: &[u8]) -> bool {
    let patience = client.guard.listener.routes().table.config.timeouts.idle;
    worker.timers.set(&client.timer, worker.now() + patience);
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

/// Says "no more from me" and reads away what is still coming, so that the last answer arrives.
async fn linger(client: &mut Client, worker: &Rc<WorkerContext>) {
    client.stream.shutdown_write();
    worker.timers.set(&client.timer, worker.now() + LINGER);
    let mut left = LINGER_BYTES;
    std::future::poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            match client.stream.poll_read(cx, &mut scratch[..64 * 1024]) {
                Poll::Ready(Ok(n)) if n > 0 && n < left => left -= n,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return client.timer.poll(cx),
            }
        }
    })
    .await;
}
