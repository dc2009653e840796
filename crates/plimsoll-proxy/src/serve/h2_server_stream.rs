//! Streams of HTTP/2 clients: a request becomes a [`RequestContext`], a response becomes frames.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use plimsoll_core::Rng;
use plimsoll_wire::grpc_web::{ContentType, Translator};
use plimsoll_wire::{grpc, websocket};

use crate::base::clock::Clock;
use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::base::timer::Timer;
use crate::forward::downstream::AfterResponse;
use crate::forward::downstream::Downstream;
use crate::forward::exchange_end::ExchangeEnd;
use crate::forward::request;
use crate::forward::request_context::{self, RequestContext};
use crate::http::h2_frames;
use crate::http::h2_head;
use crate::http::local_reply::{self, LocalReply, ReplyFormat};
use crate::listener::worker_listener::ConnectionGuard;
use crate::log::access_log::RejectedLine;
use crate::net;
use crate::net::tunnel::{TunnelEnd, tunnel};
use crate::serve::h2_connection::StreamGuard;
use crate::upstream::dedicated::DedicatedConnections;
use crate::upstream::upstream_stream::Upstream;
use plimsoll_core::{Address, DestinationId};
use plimsoll_wire::http1::HeaderEdits;
use plimsoll_wire::http1::body::BodyReader;
use plimsoll_wire::http1::response::{ResponseHead, ResponseRewrite};
use plimsoll_wire::http1::target::Method;

/// The client's side of one stream.
struct Stream {
    guard: StreamGuard,
    timer: TimerGuard,
    body: RecvStream,
    /// Bytes of a DATA frame that did not fit into the last read.
    unread: Bytes,
    respond: SendResponse<Bytes>,
    /// Sender of the response body, once the head was sent.
    response: Option<SendStream<Bytes>>,
    /// The response was sent to its end.
    response_ended: bool,
    /// Content type of local replies, if the request is a gRPC or gRPC-Web call.
    grpc_content_type: Option<HeaderValue>,
    /// `Sec-WebSocket-Accept` value that the destination has to send, if the request opens a WebSocket
    /// tunnel.
    websocket_accept: Option<String>,
}

/// Generates a random WebSocket key for the HTTP/1 side of a tunnel.
fn websocket_key(rng: &mut Rng) -> String {
    let [low, high] = [rng.next_u64(), rng.next_u64()].map(u128::from);
    websocket::encode_key((high << 64 | low).to_le_bytes())
}

/// Starts a stream. A request that may have no body waits for its first data, or the end of the stream: its head says
/// to an HTTP/1 destination whether a body follows.
pub(crate) fn start(guard: StreamGuard, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let worker = guard.0.guard.worker.clone();
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut stream = Box::new(Stream {
        timer: worker.timer(plimsoll_core::Tick::NEVER),
        unread: Bytes::new(),
        respond,
        response: None,
        response_ended: false,
        grpc_content_type: grpc_content_type(content_type, head.headers.get(ACCEPT)),
        websocket_accept: None,
        body,
        guard,
    });
    let rarely_has_body = matches!(
        head.method,
        http::Method::GET | http::Method::HEAD | http::Method::DELETE | http::Method::OPTIONS
    );
    if rarely_has_body && !stream.body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) {
        tokio::task::spawn_local(async move {
            let wait = stream.guard.0.guard.listener.routes().table.config.timeouts.body;
            worker.timers.set(&stream.timer, worker.now() + wait);
            match std::future::poll_fn(|cx| stream.poll_first_data(cx)).await {
                Ok(()) => route(stream, &worker, &head),
                Err(None) => {}
                Err(Some(reply)) => reject(&mut stream, &worker, reply, &ReplyFormat::Text),
            }
        });
        return;
    }
    route(stream, &worker, &head);
}

/// Parses the head of a stream, and spawns the task that serves it. That task does not hold the head.
fn route(mut stream: Box<Stream>, worker: &Rc<WorkerContext>, head: &http::request::Parts) {
    match parse_request(&mut stream, worker, head) {
        Ok(request) if request.dedicated => {
            let table = &stream.guard.0.guard.listener.routes().table;
            table.shared.counters.of(worker.number).refuse(Reason::ProtocolNotSupported);
            stream.require_http1();
        }
        Ok(request) => drop(tokio::task::spawn_local(run(worker.clone(), stream, request))),
        Err((reply, format)) => reject(&mut stream, worker, reply, &format),
    }
}

/// Sends a local reply to a request that has no route yet.
fn reject(stream: &mut Stream, worker: &Rc<WorkerContext>, reply: LocalReply, format: &ReplyFormat) {
    let table = &stream.guard.0.guard.listener.routes().table;
    table.shared.counters.of(worker.number).refuse(reply.reason);
    if let Some(log) = &worker.log {
        log.send(RejectedLine {
            time: Clock::wall(),
            peer: stream.guard.0.client_info().peer,
            listener: table.config.name.clone(),
            reply,
        });
    }
    stream.send_local_reply(reply, *format == ReplyFormat::Json, false);
}

async fn run(worker: Rc<WorkerContext>, mut stream: Box<Stream>, mut request: Box<RequestContext>) {
    request::forward(&mut *stream, &mut request).await;
    worker.buffers.give_back(std::mem::take(&mut request.encoded));
}

/// Parses and routes the request. The head is written as HTTP/1 text, so that one parser decides what is
/// valid.
fn parse_request(
    stream: &mut Stream,
    worker: &Rc<WorkerContext>,
    head: &http::request::Parts,
) -> Result<Box<RequestContext>, (LocalReply, ReplyFormat)> {
    let switches = h2_head::requests_websocket(head).map_err(|reply| (reply, ReplyFormat::Text))?;
    let key = switches.then(|| websocket_key(&mut worker.rng.borrow_mut()));
    stream.websocket_accept = key.as_ref().map(|key| websocket::accept_value(key.as_bytes()));
    let connection = &stream.guard.0;
    let routes = connection.guard.listener.routes();
    let mut text = worker.buffers.take();
    // A trusted proxy that terminates TLS may pass on the scheme of its client.
    let scheme = match (connection.tls_info.is_some(), routes.table.trusts(connection.peer.ip())) {
        (_, true) => None,
        (true, false) => Some("https"),
        (false, false) => Some("http"),
    };
    let end_stream = stream.body.is_end_stream() && stream.unread.is_empty();
    let written = h2_head::write_request(&mut text, head, end_stream, key.as_deref(), scheme);
    let parsed = written
        .map_err(|reply| (reply, ReplyFormat::Text))
        .and_then(|()| request_context::parse_and_route(connection.client_info(), worker, &routes, &text));
    connection.flood.credit(text.len());
    worker.buffers.give_back(text);
    let mut request = parsed?.ok_or((LocalReply::BAD_HEADER, ReplyFormat::Text))?;
    request.clear_chunked_framing();
    Ok(request)
}

impl Stream {
    /// Resets the stream so that the client repeats the request over HTTP/1 (RFC 9113 section 7).
    fn require_http1(&mut self) {
        self.respond.send_reset(Code::HTTP_1_1_REQUIRED);
        self.response_ended = true;
    }

    /// Waits for the first bytes of the body, or its end. `Err` is the local reply to a client that sends neither in
    /// time; there is none if the client reset the stream.
    fn poll_first_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Option<LocalReply>>> {
        while self.unread.is_empty() {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.unread = data,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(None)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return self.timer.poll(cx).map(|()| Err(Some(LocalReply::BODY_TIMEOUT))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads body bytes; 0 at the end.
    fn poll_data(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, h2::Error>> {
        while self.unread.is_empty() {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.unread = data?,
                None => return Poll::Ready(Ok(0)),
            }
        }
        let n = self.unread.len().min(buffer.len());
        self.guard.0.flood.credit(n);
        self.unread.copy_to_slice(&mut buffer[..n]);
        // The window is extended when bytes are consumed, so a client cannot send faster than they are
        // forwarded.
        let _already_ended = self.body.flow_control().release_capacity(n);
        Poll::Ready(Ok(n))
    }

    /// Sends a local reply, as far as the window allows.
    fn send_local_reply(&mut self, reply: LocalReply, json: bool, head_only: bool) -> u64 {
        let (response, body) = match self.grpc_content_type.take() {
            Some(grpc_content_type) => (grpc_reply(reply, grpc_content_type), Bytes::new()),
            None => plain_reply(reply, json),
        };
        let end_stream = head_only || body.is_empty();
        let len = body.len() as u64;
        if let Ok(mut response) = self.respond.send_response(response, end_stream)
            && !end_stream
        {
            let _already_reset = response.send_data(body, true);
        }
        self.response_ended = true;
        len
    }
}

fn plain_reply(reply: LocalReply, json: bool) -> (Response<()>, Bytes) {
    let (content_type, body) = local_reply::body(reply, json);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if reply.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static(local_reply::ALLOWED_METHODS));
    }
    if reply.status == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (response, Bytes::from(body))
}

fn grpc_content_type(content_type: &[u8], accept: Option<&HeaderValue>) -> Option<HeaderValue> {
    if grpc::is_grpc_content_type(content_type) {
        return Some(HeaderValue::from_static("application/grpc"));
    }
    let translator =
        Translator::new(&ContentType::parse(content_type)?, accept.map(HeaderValue::as_bytes), false);
    HeaderValue::from_bytes(&translator.response_type).ok()
}

/// Returns a reply with a gRPC status: gRPC clients ignore the body.
fn grpc_reply(reply: LocalReply, grpc_content_type: HeaderValue) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, grpc_content_type);
    headers.insert("grpc-status", HeaderValue::from_static(grpc::from_http_status(reply.status)));
    headers.insert("grpc-message", HeaderValue::from_static(reply.detail));
    response
}

impl Downstream for Stream {
    const FRAMES_BODIES: bool = true;

    fn guard(&self) -> &ConnectionGuard {
        &self.guard.0.guard
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
        let n = ready!(self.poll_data(cx, buffer)).map_err(|_| ExchangeEnd::ClientGone)?;
        if n == 0 {
            let trailers = ready!(self.body.poll_trailers(cx)).map_err(|_| ExchangeEnd::ClientGone)?;
            let lines = trailers.map(|map| h2_head::trailer_lines(&map)).unwrap_or_default();
            request.body = BodyReader::ended(lines);
            return Poll::Ready(request.check_body_end().map(|()| 0..0).map_err(ExchangeEnd::LocalReply));
        }
        Poll::Ready(request.decode_body(&mut Vec::new(), &mut buffer[..n]).map_err(ExchangeEnd::LocalReply))
    }

    fn send_head(
        &mut self,
        _out: &mut Vec<u8>,
        _bytes: &[u8],
        head: &ResponseHead<'_>,
        headers: &[httparse::Header<'_>],
        rewrite: ResponseRewrite<'_>,
        end_stream: bool,
    ) -> Result<(), ExchangeEnd> {
        if head.authenticates_connection {
            self.require_http1();
            return Err(ExchangeEnd::RequiresHttp1);
        }
        let garbage = ExchangeEnd::Failed(plimsoll_core::Failure::Garbage);
        let response = match &self.websocket_accept {
            Some(accept) if head.status == 101 => h2_head::websocket_response(head, headers, rewrite, accept),
            _ => h2_head::response(head, headers, rewrite, end_stream),
        };
        let response = response.ok_or(garbage)?;
        if response.status().is_informational() {
            return self.respond.send_informational(response).map_err(|_| ExchangeEnd::ClientGone);
        }
        let response =
            self.respond.send_response(response, end_stream).map_err(|_| ExchangeEnd::ClientGone)?;
        self.response = Some(response);
        self.response_ended = end_stream;
        Ok(())
    }

    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let sent = ready!(h2_frames::poll_send(response, cx, parts, last))?;
        self.response_ended |= last && sent == total;
        match sent == total {
            true => self.guard.0.flood.credit_write(sent),
            false => self.guard.0.flood.credit_partial_write(sent),
        }
        Poll::Ready(Ok(sent))
    }

    /// Returns none: such connections belong to clients of HTTP/1.
    fn dedicated(&mut self) -> Option<&mut DedicatedConnections> {
        None
    }

    /// Closes the connection. Requests that authenticate a connection were refused before.
    fn dedicate(&mut self, _pool: u64, _id: DestinationId, _address: Address, _stream: net::stream::Stream) {}

    fn finish(&mut self, trailers: &[u8], edits: &HeaderEdits) -> Result<(), ExchangeEnd> {
        let Some(response) = self.response.as_mut().filter(|_| !self.response_ended) else { return Ok(()) };
        self.response_ended = true;
        let sent = match trailers {
            [] => response.send_data(Bytes::new(), true),
            lines => response.send_trailers(h2_head::trailers(lines, edits)),
        };
        sent.map_err(|_| ExchangeEnd::ClientGone)
    }

    /// HTTP/2 announces the end of a connection by GOAWAY instead.
    fn should_close(&self, _request: &RequestContext) -> bool {
        false
    }

    fn is_disconnected(&mut self, cx: &mut Context<'_>, _request_complete: bool) -> bool {
        match &mut self.response {
            None => self.respond.poll_reset(cx).is_ready(),
            Some(response) => !self.response_ended && response.poll_reset(cx).is_ready(),
        }
    }

    fn reset(&mut self) {
        match &mut self.response {
            None => self.respond.send_reset(Code::INTERNAL_ERROR),
            Some(response) => response.send_reset(Code::INTERNAL_ERROR),
        }
    }

    fn after_response(&self, _closes: bool, _request: &RequestContext) -> AfterResponse {
        AfterResponse::KeepAlive
    }

    async fn local_reply(
        &mut self,
        request: &mut RequestContext,
        _worker: &Rc<WorkerContext>,
        reply: LocalReply,
    ) -> AfterResponse {
        let head_only = request.method == Method::Head;
        request.response_bytes += self.send_local_reply(reply, request.accepts_json, head_only);
        AfterResponse::KeepAlive
    }

    async fn tunnel(
        &mut self,
        request: &mut RequestContext,
        worker: &Rc<WorkerContext>,
        mut upstream: Upstream,
        unsent: Vec<u8>,
    ) {
        // The client received 200 where the destination sent 101.
        request.status = 200;
        let idle = request.client_timeouts.idle.max(request.pool_timeouts.idle);
        let timer = self.timer.clone();
        let copied = tunnel(worker, &timer, [self, &mut upstream], Vec::new(), unsent, idle).await;
        request.request_bytes += copied.to_destination;
        request.response_bytes += copied.to_client;
    }
}

impl TunnelEnd for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_data(cx, buffer).map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_parts(cx, [bytes, b"", b""], false)
    }

    fn shutdown_write(&mut self) {
        let _reported_by_the_next_read = self.finish(b"", &HeaderEdits::default());
    }

    /// Sends `CANCEL`, which stands for a TCP reset (RFC 8441 section 5).
    fn reset(&mut self) {
        if let Some(response) = &mut self.response {
            response.send_reset(Code::CANCEL);
        }
    }

    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.response.as_mut().is_some_and(|response| response.poll_reset(cx).is_ready())
    }
}
