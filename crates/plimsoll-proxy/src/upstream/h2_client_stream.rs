//! A request to an HTTP/2 destination, as a byte stream: head and body are written as in HTTP/1 without chunks, and
//! the response is read in the same form.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use plimsoll_wire::http1::HeaderEdits;

use crate::http::h2_frames;
use crate::http::h2_head;
use crate::http::local_reply::LocalReply;
use crate::upstream::h2_connections::{H2Connection, StreamPermit};

/// A request on an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct H2Stream {
    permit: StreamPermit,
    /// Number of head bytes at the start of the written bytes.
    head_len: usize,
    /// Whether the request has no body.
    ends: bool,
    method_is_head: bool,
    body: Option<SendStream<Bytes>>,
    sent_all: bool,
    response: ResponseState,
    /// Response bytes that were received and not read yet.
    unread: Bytes,
    trailers: Option<HeaderMap>,
    never_processed: bool,
    /// `Sec-WebSocket-Accept` value for the client, if the request opens a WebSocket.
    accept: Option<String>,
    /// Local reply if the request was not sent for a reason other than the destination.
    reply: Option<LocalReply>,
}

#[derive(Debug)]
enum ResponseState {
    /// The request is not sent yet.
    NotSent,
    Awaited(ResponseFuture),
    Body(RecvStream),
    Ended,
    /// The stream failed.
    Failed,
}

impl H2Stream {
    /// Creates a request with a head of `head_len` bytes; `ends` means that it has no body.
    pub(crate) fn new(connection: &Rc<H2Connection>, head_len: usize, ends: bool) -> Self {
        Self {
            permit: StreamPermit::take(connection),
            head_len,
            ends,
            method_is_head: false,
            body: None,
            sent_all: false,
            response: ResponseState::NotSent,
            unread: Bytes::new(),
            trailers: None,
            never_processed: true,
            accept: None,
            reply: None,
        }
    }

    /// Returns the local reply if the request was not sent for a reason other than the destination.
    pub(crate) fn local_reply(&self) -> Option<LocalReply> {
        self.reply
    }

    /// Reports whether the destination has certainly not processed the request.
    pub(crate) fn never_processed(&self) -> bool {
        self.never_processed
    }

    /// Returns the trailer lines of a response that has ended.
    pub(crate) fn trailer_lines(&self) -> Vec<u8> {
        self.trailers.as_ref().map(h2_head::trailer_lines).unwrap_or_default()
    }

    /// Writes the complete head first, and then the body.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(body) = &mut self.body {
            return h2_frames::poll_send(body, cx, [bytes, b"", b""], false);
        }
        let sent = ready!(self.poll_send_head(cx, bytes));
        if sent.is_err() {
            self.response = ResponseState::Failed;
        }
        Poll::Ready(sent.map(|()| self.head_len))
    }

    fn poll_send_head(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let broken = |_| io::Error::from(io::ErrorKind::ConnectionReset);
        let connection = self.permit.connection().clone();
        ready!(self.permit.requests().poll_ready(cx)).map_err(broken)?;
        let Some((request, accept)) = h2_head::read_request(&bytes[..self.head_len], connection.is_secure())
        else {
            self.reply = Some(LocalReply::NOT_EXPRESSIBLE_IN_HTTP2);
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        if accept.is_some() && !self.permit.requests().is_extended_connect_protocol_enabled() {
            ready!(connection.poll_settings(cx));
            if !self.permit.requests().is_extended_connect_protocol_enabled() {
                self.reply = (!connection.is_closed()).then_some(LocalReply::NO_WEBSOCKET);
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
        }
        self.method_is_head = request.method() == http::Method::HEAD;
        let ends = self.ends && accept.is_none();
        let (response, body) = self.permit.requests().send_request(request, ends).map_err(broken)?;
        (self.response, self.body) = (ResponseState::Awaited(response), Some(body));
        // The bytes sent into a tunnel end with the tunnel.
        (self.sent_all, self.never_processed) = (ends || accept.is_some(), false);
        self.accept = accept;
        Poll::Ready(Ok(()))
    }

    /// Reports whether more of the response may follow: data or trailers.
    pub(crate) fn has_more(&self) -> bool {
        matches!(&self.response, ResponseState::Body(body) if !body.is_end_stream())
    }

    /// Ends the body, with these trailer lines except those that `edits` drop.
    pub(crate) fn finish(&mut self, trailers: &[u8], edits: &HeaderEdits) {
        if std::mem::replace(&mut self.sent_all, true) {
            return;
        }
        if let Some(body) = &mut self.body {
            let _seen_where_the_response_is_read = match trailers {
                [] => body.send_data(Bytes::new(), true),
                lines => body.send_trailers(h2_head::trailers(lines, edits)),
            };
        }
    }

    /// Reads response heads as in HTTP/1, then the plain body; 0 is its end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.unread.is_empty() {
            match &mut self.response {
                ResponseState::NotSent => return Poll::Pending,
                ResponseState::Ended => return Poll::Ready(Ok(0)),
                ResponseState::Failed => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                ResponseState::Awaited(response) => {
                    if let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
                        self.unread = h2_head::write_response(&early, true, true);
                        continue;
                    }
                    let polled = ready!(Pin::new(response).poll(cx));
                    let (parts, body) = polled.map_err(|error| self.failed(&error))?.into_parts();
                    let ends = body.is_end_stream();
                    let parts = http::Response::from_parts(parts, ());
                    self.unread = match self.accept.take() {
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
                    self.response = ResponseState::Body(body);
                }
                ResponseState::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) => {
                        // The next data is read only after this data was taken.
                        let _ended_already = body.flow_control().release_capacity(data.len());
                        self.unread = data;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
                    None => {
                        let trailers = ready!(body.poll_trailers(cx));
                        self.trailers = trailers.map_err(|error| self.failed(&error))?;
                        self.response = ResponseState::Ended;
                    }
                },
            }
        }
        let n = self.unread.len().min(buffer.len());
        self.unread.copy_to_slice(&mut buffer[..n]);
        Poll::Ready(Ok(n))
    }

    /// Ends the bytes sent into a tunnel.
    pub(crate) fn shutdown_write(&mut self) {
        if let Some(body) = &mut self.body {
            let _seen_where_it_is_read = body.send_data(Bytes::new(), true);
        }
    }

    /// Resets a tunnel: a TCP reset is `CANCEL` (RFC 8441 section 5).
    pub(crate) fn reset(&mut self) {
        if let Some(body) = &mut self.body {
            body.send_reset(Reason::CANCEL);
        }
    }

    /// Reports whether the destination reset the tunnel.
    pub(crate) fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.body.as_mut().is_some_and(|body| body.poll_reset(cx).is_ready())
    }

    /// Streams that a destination refuses, or that are above the last stream of its GOAWAY, were not processed
    /// (RFC 9113 section 8.7).
    fn failed(&mut self, error: &h2::Error) -> io::Error {
        let went_away = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        self.never_processed =
            error.is_remote() && (went_away || error.reason() == Some(Reason::REFUSED_STREAM));
        io::ErrorKind::ConnectionReset.into()
    }
}
