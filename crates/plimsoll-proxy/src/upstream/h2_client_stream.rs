//! One request at a destination that speaks HTTP/2, as the byte stream an exchange knows: the head and the body
//! go in as HTTP/1 would have them, without chunks, and so the answer comes out.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use crate::http::h2_frames;
use crate::http::h2_head;
use crate::http::local_reply::LocalReply;
use crate::upstream::h2_connections::{H2Connection, StreamPermit};

/// A request on a link.
#[derive(Debug)]
pub(crate) struct H2Stream {
    place: StreamPermit,
    /// Bytes of the head at the front of what is written.
    head_len: usize,
    /// No body follows the head.
    ends: bool,
    method_is_head: bool,
    body: Option<SendStream<Bytes>>,
    sent_all: bool,
    answer: Answer,
    /// Of the answer, read and not taken yet.
    rest: Bytes,
    trailers: Option<HeaderMap>,
    never_ran: bool,
    /// It asks for a tunnel of WebSocket; the client's key is to be answered with this.
    accept: Option<String>,
    /// Why it was not asked, where that is not the destination's fault.
    reply: Option<LocalReply>,
}

#[derive(Debug)]
enum Answer {
    /// The request is not out.
    NotAsked,
    Awaited(ResponseFuture),
    Body(RecvStream),
    Over,
    /// It will not come.
    Lost,
}

impl H2Stream {
    /// A request whose head has `head_len` bytes; `ends` says that no body follows it.
    pub(crate) fn new(link: &Rc<H2Connection>, head_len: usize, ends: bool) -> Self {
        Self {
            place: StreamPermit::take(link),
            head_len,
            ends,
            method_is_head: false,
            body: None,
            sent_all: false,
            answer: Answer::NotAsked,
            rest: Bytes::new(),
            trailers: None,
            never_ran: true,
            accept: None,
            reply: None,
        }
    }

    /// Why it was not asked, where that is not for the destination to answer for.
    pub(crate) fn local_reply(&self) -> Option<LocalReply> {
        self.reply
    }

    /// The destination said, or nobody asked it, so that it has seen nothing of this request.
    pub(crate) fn never_ran(&self) -> bool {
        self.never_ran
    }

    /// Trailer lines of the answer, once it has ended.
    pub(crate) fn trailer_lines(&self) -> Vec<u8> {
        self.trailers.as_ref().map(h2_head::trailer_lines).unwrap_or_default()
    }

    /// Takes the head first, whole, and then the body.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(body) = &mut self.body {
            return h2_frames::poll_send(body, cx, [bytes, b"", b""], false);
        }
        let asked = ready!(self.poll_ask(cx, bytes));
        if asked.is_err() {
            self.answer = Answer::Lost;
        }
        Poll::Ready(asked.map(|()| self.head_len))
    }

    fn poll_ask(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let broken = |_| io::Error::from(io::ErrorKind::ConnectionReset);
        let link = self.place.link().clone();
        ready!(self.place.requests().poll_ready(cx)).map_err(broken)?;
        let Some((request, accept)) = h2_head::read_request(&bytes[..self.head_len], link.is_secure()) else {
            self.reply = Some(LocalReply::NOT_EXPRESSIBLE_IN_HTTP2);
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        if accept.is_some() && !self.place.requests().is_extended_connect_protocol_enabled() {
            ready!(link.poll_settings(cx));
            if !self.place.requests().is_extended_connect_protocol_enabled() {
                self.reply = (!link.is_closed()).then_some(LocalReply::NO_WEBSOCKET);
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
        }
        self.method_is_head = request.method() == http::Method::HEAD;
        let ends = self.ends && accept.is_none();
        let (answer, body) = self.place.requests().send_request(request, ends).map_err(broken)?;
        (self.answer, self.body) = (Answer::Awaited(answer), Some(body));
        // What goes into a tunnel ends when the tunnel says so.
        (self.sent_all, self.never_ran) = (ends || accept.is_some(), false);
        self.accept = accept;
        Poll::Ready(Ok(()))
    }

    /// The destination has not ended its answer yet, or with trailers.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(&self.answer, Answer::Body(body) if !body.is_end_stream())
    }

    /// The body is out to its end, but for these trailer lines.
    pub(crate) fn finish(&mut self, trailers: &[u8]) {
        if std::mem::replace(&mut self.sent_all, true) {
            return;
        }
        if let Some(body) = &mut self.body {
            let _seen_where_the_answer_is_read = match trailers {
                [] => body.send_data(Bytes::new(), true),
                lines => body.send_trailers(h2_head::trailers(lines)),
            };
        }
    }

    /// Reads heads of the answer as HTTP/1 has them, then the body as it is; 0 is its end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.rest.is_empty() {
            match &mut self.answer {
                Answer::NotAsked => return Poll::Pending,
                Answer::Over => return Poll::Ready(Ok(0)),
                Answer::Lost => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Answer::Awaited(answer) => {
                    if let Poll::Ready(Some(Ok(early))) = answer.poll_informational(cx) {
                        self.rest = h2_head::write_response(&early, true, true);
                        continue;
                    }
                    let polled = ready!(Pin::new(answer).poll(cx));
                    let (parts, body) = polled.map_err(|error| self.failed(&error))?.into_parts();
                    let ends = body.is_end_stream();
                    let parts = http::Response::from_parts(parts, ());
                    self.rest = match self.accept.take() {
                        Some(accept) if parts.status().is_success() => {
                            h2_head::write_upgrade_response(&parts, &accept)
                        }
                        refused => {
                            if refused.is_some() {
                                self.shutdown_write();
                            }
                            h2_head::write_response(&parts, ends, self.method_is_head)
                        }
                    };
                    self.answer = Answer::Body(body);
                }
                Answer::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) => {
                        // Nobody reads on before this has found its place.
                        let _ended_already = body.flow_control().release_capacity(data.len());
                        self.rest = data;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
                    None => {
                        let trailers = ready!(body.poll_trailers(cx));
                        self.trailers = trailers.map_err(|error| self.failed(&error))?;
                        self.answer = Answer::Over;
                    }
                },
            }
        }
        let n = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..n]);
        Poll::Ready(Ok(n))
    }

    /// Says "no more from me" into a tunnel.
    pub(crate) fn shutdown_write(&mut self) {
        if let Some(body) = &mut self.body {
            let _seen_where_it_is_read = body.send_data(Bytes::new(), true);
        }
    }

    /// Breaks a tunnel: a reset of TCP is `CANCEL` (RFC 8441 section 5).
    pub(crate) fn reset(&mut self) {
        if let Some(body) = &mut self.body {
            body.send_reset(Reason::CANCEL);
        }
    }

    /// The destination broke the tunnel.
    pub(crate) fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.body.as_mut().is_some_and(|body| body.poll_reset(cx).is_ready())
    }

    /// Streams that a destination refuses, or leaves behind with a goodbye, have not run (RFC 9113 section 8.7).
    fn failed(&mut self, error: &h2::Error) -> io::Error {
        let said_goodbye = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        self.never_ran =
            error.is_remote() && (said_goodbye || error.reason() == Some(Reason::REFUSED_STREAM));
        io::ErrorKind::ConnectionReset.into()
    }
}
