//! How one stream of an HTTP/2 client becomes a request on its way, and its answer frames.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use plimsoll_core::Rng;
use plimsoll_wire::grpc_web::{ContentType, Translator};
use plimsoll_wire::{grpc, websocket};

use crate::base::clock::Clock;
use crate::base::context::TimerGuard;
use crate::base::context::WorkerContext;
use crate::base::timer::Timer;
use crate::forward::downstream::AfterResponse;
use crate::forward::downstream::Downstream;
use crate::forward::exchange::{Exchange, ExchangeEnd};
use crate::forward::request;
use crate::forward::request_context::{self, RequestContext};
use crate::http::h2_frames;
use crate::http::h2_head;
use crate::http::local_reply::{self, Form, Refusal};
use crate::listener::worker_listener::ConnectionGuard;
use crate::log::access_log::RejectedLine;
use crate::net::tunnel::{TunnelEnd, tunnel};
use crate::serve::h2::Presence;
use plimsoll_wire::http1::body::BodyReader;
use plimsoll_wire::http1::response::{ResponseHead, ResponseRewrite};
use plimsoll_wire::http1::target::Method;

/// The client's side of one stream.
struct Stream {
    presence: Presence,
    timer: TimerGuard,
    body: RecvStream,
    /// Bytes of a frame for which there was no room.
    rest: Bytes,
    respond: SendResponse<Bytes>,
    /// The answer, from its head on.
    answer: Option<SendStream<Bytes>>,
    /// The answer is out to its end.
    ended: bool,
    /// It is a call, and answers of our own are of this type.
    call_type: Option<HeaderValue>,
    /// It asks for a tunnel of WebSocket; the destination is to answer with this.
    accept: Option<String>,
}

/// Generates a random WebSocket key for the HTTP/1 side of a tunnel.
fn websocket_key(rng: &mut Rng) -> String {
    let [low, high] = [rng.next_u64(), rng.next_u64()].map(u128::from);
    websocket::encode_key((high << 64 | low).to_le_bytes())
}

/// Starts a stream. Its head is read here and now, so that the task it runs in does not carry it.
pub(crate) fn start(presence: Presence, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let worker = presence.0.guard.worker.clone();
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let mut stream = Box::new(Stream {
        timer: worker.timer(plimsoll_core::Tick::NEVER),
        rest: Bytes::new(),
        respond,
        answer: None,
        ended: false,
        call_type: call_type(content_type, head.headers.get(ACCEPT)),
        accept: None,
        body,
        presence,
    });
    match prepare(&mut stream, &worker, &head) {
        Ok(request) => drop(tokio::task::spawn_local(run(worker, stream, request))),
        Err((refusal, form)) => {
            let table = &stream.presence.0.guard.listener.routes().table;
            table.shared.counters.of(worker.number).refuse(refusal.reason);
            if let Some(log) = &worker.log {
                log.send(RejectedLine {
                    time: Clock::wall(),
                    peer: stream.presence.0.client_info().peer,
                    listener: table.config.name.clone(),
                    reply: refusal,
                });
            }
            stream.answer_ourselves(refusal, form == Form::Json, false);
        }
    }
}

async fn run(worker: Rc<WorkerContext>, mut stream: Box<Stream>, mut request: Box<RequestContext>) {
    request::forward(&mut *stream, &mut request).await;
    worker.buffers.give_back(std::mem::take(&mut request.encoded));
}

/// Makes a request of the head: by way of HTTP/1, so that one reader decides what is sound.
fn prepare(
    stream: &mut Stream,
    worker: &Rc<WorkerContext>,
    head: &http::request::Parts,
) -> Result<Box<RequestContext>, (Refusal, Form)> {
    let switches = h2_head::asks_for_websocket(head).map_err(|refusal| (refusal, Form::Text))?;
    let key = switches.then(|| websocket_key(&mut worker.rng.borrow_mut()));
    stream.accept = key.as_ref().map(|key| websocket::accept_value(key.as_bytes()));
    let connection = &stream.presence.0;
    let view = connection.guard.listener.routes();
    let mut text = worker.buffers.take();
    let written = h2_head::write_request(&mut text, head, stream.body.is_end_stream(), key.as_deref());
    let prepared = written
        .map_err(|refusal| (refusal, Form::Text))
        .and_then(|()| request_context::parse_and_route(connection.client_info(), worker, &view, &text));
    connection.flood.used(text.len());
    worker.buffers.give_back(text);
    let mut request = prepared?.ok_or((Refusal::BAD_HEADER, Form::Text))?;
    request.unchunk();
    Ok(request)
}

impl Stream {
    /// Reads what came of the body; 0 is its end.
    fn poll_data(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<usize, h2::Error>> {
        while self.rest.is_empty() {
            match ready!(self.body.poll_data(cx)) {
                Some(data) => self.rest = data?,
                None => return Poll::Ready(Ok(0)),
            }
        }
        let n = self.rest.len().min(room.len());
        self.presence.0.flood.used(n);
        self.rest.copy_to_slice(&mut room[..n]);
        // More may come as soon as this has found its place: nobody reads on before it has.
        let _ended_already = self.body.flow_control().release_capacity(n);
        Poll::Ready(Ok(n))
    }

    /// An answer of our own, as far as the client lets us.
    fn answer_ourselves(&mut self, refusal: Refusal, json: bool, head_only: bool) -> u64 {
        let (response, body) = match self.call_type.take() {
            Some(call_type) => (grpc_answer(refusal, call_type), Bytes::new()),
            None => plain_answer(refusal, json),
        };
        let ends = head_only || body.is_empty();
        let len = body.len() as u64;
        if let Ok(mut answer) = self.respond.send_response(response, ends)
            && !ends
        {
            let _gone_already = answer.send_data(body, true);
        }
        self.ended = true;
        len
    }
}

fn plain_answer(refusal: Refusal, json: bool) -> (Response<()>, Bytes) {
    let (content_type, body) = local_reply::body(refusal, json);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if refusal.status == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (response, Bytes::from(body))
}

fn call_type(content_type: &[u8], accept: Option<&HeaderValue>) -> Option<HeaderValue> {
    if grpc::is_grpc_content_type(content_type) {
        return Some(HeaderValue::from_static("application/grpc"));
    }
    let web = Translator::new(&ContentType::parse(content_type)?, accept.map(HeaderValue::as_bytes), false);
    HeaderValue::from_bytes(&web.response_type).ok()
}

/// A client of gRPC looks for its status and no page.
fn grpc_answer(refusal: Refusal, call_type: HeaderValue) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, call_type);
    headers.insert("grpc-status", HeaderValue::from_static(grpc::from_http_status(refusal.status)));
    headers.insert("grpc-message", HeaderValue::from_static(refusal.detail));
    response
}

impl Downstream for Stream {
    const FRAMES_BODIES: bool = true;

    fn guard(&self) -> &ConnectionGuard {
        &self.presence.0.guard
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
        let n = ready!(self.poll_data(cx, room)).map_err(|_| ExchangeEnd::ClientGone)?;
        if n == 0 {
            let trailers = ready!(self.body.poll_trailers(cx)).map_err(|_| ExchangeEnd::ClientGone)?;
            let lines = trailers.map(|map| h2_head::trailer_lines(&map)).unwrap_or_default();
            request.body = BodyReader::ended(lines);
            return Poll::Ready(request.body_is_sound().map(|()| 0..0).map_err(ExchangeEnd::Refused));
        }
        Poll::Ready(request.take_body(&mut Vec::new(), &mut room[..n]).map_err(ExchangeEnd::Refused))
    }

    fn pass_head(
        &mut self,
        _out: &mut Vec<u8>,
        _bytes: &[u8],
        head: &ResponseHead<'_>,
        headers: &[httparse::Header<'_>],
        hop: ResponseRewrite<'_>,
        ends: bool,
    ) -> Result<(), ExchangeEnd> {
        let garbage = ExchangeEnd::Failed(plimsoll_core::Failure::Garbage);
        let response = match &self.accept {
            Some(accept) if head.status == 101 => h2_head::switch(head, headers, hop, accept),
            _ => h2_head::answer(head, headers, hop, ends),
        };
        let response = response.ok_or(garbage)?;
        if response.status().is_informational() {
            return self.respond.send_informational(response).map_err(|_| ExchangeEnd::ClientGone);
        }
        let answer = self.respond.send_response(response, ends).map_err(|_| ExchangeEnd::ClientGone)?;
        self.answer = Some(answer);
        self.ended = ends;
        Ok(())
    }

    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let Some(answer) = &mut self.answer else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let taken = ready!(h2_frames::poll_send(answer, cx, parts, last))?;
        self.ended |= last && taken == total;
        match taken == total {
            true => self.presence.0.flood.answered(taken),
            false => self.presence.0.flood.dribbled(taken),
        }
        Poll::Ready(Ok(taken))
    }

    fn finish(&mut self, trailers: &[u8]) -> Result<(), ExchangeEnd> {
        let Some(answer) = self.answer.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        self.ended = true;
        let sent = match trailers {
            [] => answer.send_data(Bytes::new(), true),
            lines => answer.send_trailers(h2_head::trailers(lines)),
        };
        sent.map_err(|_| ExchangeEnd::ClientGone)
    }

    /// Said by a goodbye to the whole connection.
    fn retires(&self, _job: &RequestContext) -> bool {
        false
    }

    fn is_gone(&mut self, cx: &mut Context<'_>, _request_complete: bool) -> bool {
        match &mut self.answer {
            None => self.respond.poll_reset(cx).is_ready(),
            Some(answer) => !self.ended && answer.poll_reset(cx).is_ready(),
        }
    }

    fn reset(&mut self) {
        match &mut self.answer {
            None => self.respond.send_reset(Code::INTERNAL_ERROR),
            Some(answer) => answer.send_reset(Code::INTERNAL_ERROR),
        }
    }

    fn after(&self, _closes: bool, _job: &RequestContext) -> AfterResponse {
        AfterResponse::KeepAlive
    }

    async fn refuse(
        &mut self,
        request: &mut RequestContext,
        _worker: &Rc<WorkerContext>,
        refusal: Refusal,
    ) -> AfterResponse {
        let head_only = request.method == Method::Head;
        request.response_bytes += self.answer_ourselves(refusal, request.accepts_json, head_only);
        AfterResponse::KeepAlive
    }

    async fn tunnel(&mut self, request: &mut RequestContext, worker: &Rc<WorkerContext>, exchange: Exchange) {
        // What the client was told, where the destination said 101.
        request.status = 200;
        let unsent = exchange.unsent().to_vec();
        let Exchange { mut upstream, assignment, .. } = exchange;
        let idle = request.client_timeouts.idle.max(request.pool_timeouts.idle);
        let timer = self.timer.clone();
        let copied = tunnel(worker, &timer, [self, &mut upstream], Vec::new(), unsent, idle).await;
        request.request_bytes += copied.to_destination;
        request.response_bytes += copied.to_client;
        drop(assignment);
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
        let _seen_where_it_is_read = self.finish(b"");
    }

    /// A reset of TCP is `CANCEL` (RFC 8441 section 5).
    fn reset(&mut self) {
        if let Some(answer) = &mut self.answer {
            answer.send_reset(Code::CANCEL);
        }
    }

    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.answer.as_mut().is_some_and(|answer| answer.poll_reset(cx).is_ready())
    }
}
