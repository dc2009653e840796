//! Upstream side of an attempt: an HTTP/1 connection or an HTTP/2 stream.

use std::io;
use std::task::{Context, Poll};

use crate::http::local_reply::LocalReply;
use crate::net::stream::Stream;
use crate::net::tunnel::TunnelEnd;
use crate::upstream::h2_client_stream::H2Stream;

/// Connection or stream of an attempt. Heads have the form of HTTP/1 on both.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// Connection that the attempt uses alone.
    Http1(Stream),
    /// Stream that frames bodies itself, so they cross it without chunks.
    Http2(Box<H2Stream>),
}

impl Upstream {
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(stream) => stream.poll_write(cx, bytes),
            Self::Http2(stream) => stream.poll_write(cx, bytes),
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(stream) => stream.poll_read(cx, buffer),
            Self::Http2(stream) => stream.poll_read(cx, buffer),
        }
    }

    /// Reports whether the protocol frames bodies itself.
    pub(crate) fn frames_bodies(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Reports whether more of the response is known to follow.
    pub(crate) fn has_more(&self) -> bool {
        matches!(self, Self::Http2(stream) if stream.has_more())
    }

    /// Returns the trailer lines of a response that has ended, if they are not part of its last chunk.
    pub(crate) fn trailer_lines(&self) -> Vec<u8> {
        match self {
            Self::Http1(_) => Vec::new(),
            Self::Http2(stream) => stream.trailer_lines(),
        }
    }

    /// Returns the local reply if the request was not sent for a reason other than the destination.
    pub(crate) fn local_reply(&self) -> Option<LocalReply> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => stream.local_reply(),
        }
    }

    /// Reports whether the destination has certainly not processed the request.
    pub(crate) fn never_processed(&self) -> bool {
        matches!(self, Self::Http2(stream) if stream.never_processed())
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
            Self::Http2(stream) => stream.shutdown_write(),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Http1(stream) => stream.reset_on_close(),
            Self::Http2(stream) => stream.reset(),
        }
    }

    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Http1(stream) => TunnelEnd::is_reset(stream, cx),
            Self::Http2(stream) => stream.is_reset(cx),
        }
    }
}
