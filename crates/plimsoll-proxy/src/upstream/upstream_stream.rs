//! The destination's side of a try: a connection of HTTP/1, or one request on a link of HTTP/2.

use std::io;
use std::task::{Context, Poll};

use crate::http::local_reply::LocalReply;
use crate::net::stream::Stream;
use crate::net::tunnel::TunnelEnd;
use crate::upstream::h2_client_stream::H2Stream;

/// What a try runs on. Heads cross it as HTTP/1 has them, whichever it is.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// It is the try's alone as long as that lasts.
    Http1(Stream),
    /// It frames bodies itself: they cross it without chunks.
    Http2(Box<H2Stream>),
}

impl Upstream {
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(stream) => stream.poll_write(cx, bytes),
            Self::Http2(call) => call.poll_write(cx, bytes),
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(stream) => stream.poll_read(cx, buffer),
            Self::Http2(call) => call.poll_read(cx, buffer),
        }
    }

    /// The request is out to its end, but for these trailer lines where bodies are not in chunks.
    pub(crate) fn finish(&mut self, trailers: &[u8]) {
        if let Self::Http2(call) = self {
            call.finish(trailers);
        }
    }

    pub(crate) fn frames_bodies(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// The answer has not ended with the bytes read last, as far as is known.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Self::Http2(call) if call.goes_on())
    }

    /// Trailer lines of an answer that has ended, where they do not come with its last chunk.
    pub(crate) fn trailer_lines(&self) -> Vec<u8> {
        match self {
            Self::Http1(_) => Vec::new(),
            Self::Http2(call) => call.trailer_lines(),
        }
    }

    /// Why the request was not sent, where that is not for the destination to answer for.
    pub(crate) fn local_reply(&self) -> Option<LocalReply> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(call) => call.local_reply(),
        }
    }

    /// The destination has seen nothing of the request, whatever was sent.
    pub(crate) fn never_ran(&self) -> bool {
        matches!(self, Self::Http2(call) if call.never_ran())
    }
}

impl TunnelEnd for Upstream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read(cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, bytes)
    }

    fn shutdown_write(&mut self) {
        match self {
            Self::Http1(stream) => stream.shutdown_write(),
            Self::Http2(call) => call.shutdown_write(),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Http1(stream) => stream.reset_on_close(),
            Self::Http2(call) => call.reset(),
        }
    }

    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Http1(stream) => TunnelEnd::is_reset(stream, cx),
            Self::Http2(call) => call.is_reset(cx),
        }
    }
}
