//! When a connection of MQTT may be ended without cutting a packet in two, and how.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use plimsoll_wire::mqtt::PacketBoundary;

use crate::net::stream::Stream;
use crate::net::tunnel::TunnelEnd;
use crate::serve::mqtt::rebalancer::Resident;

/// One direction: what was read of one end, and what the other end took of it.
#[derive(Debug, Default)]
struct Line {
    read: Cell<u64>,
    written: Cell<u64>,
    boundary: Cell<PacketBoundary>,
}

impl Line {
    fn wrote(&self, bytes: &[u8]) {
        let mut boundary = self.boundary.get();
        boundary.advance(bytes);
        self.boundary.set(boundary);
        self.written.set(self.written.get() + bytes.len() as u64);
    }

    /// Whole packets have passed, and nothing waits.
    fn is_whole(&self) -> bool {
        self.boundary.get().is_at_boundary() && self.read.get() == self.written.get()
    }
}

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    up: Line,
    down: Line,
}

impl Lines {
    /// Of a connection of which so many bytes were read before it ran both ways.
    pub(crate) fn new(from_client: usize, from_destination: usize) -> Rc<Self> {
        let lines = Self::default();
        lines.up.read.set(from_client as u64);
        lines.down.read.set(from_destination as u64);
        Rc::new(lines)
    }
}

/// The client's end.
pub(crate) struct ClientEnd<'s> {
    pub(crate) stream: &'s mut Stream,
    pub(crate) lines: Rc<Lines>,
    pub(crate) resident: Rc<Resident>,
    /// It was asked to go, between two packets.
    pub(crate) recalled: bool,
}

impl TunnelEnd for ClientEnd<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_read(cx, buffer))?;
        self.lines.up.read.set(self.lines.up.read.get() + n as u64);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_write(cx, bytes))?;
        self.lines.down.wrote(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn shutdown_write(&mut self) {
        self.stream.shutdown_write();
    }

    /// Without a DISCONNECT to a client that is to come again, though version 5 has one (section 3.14): clients
    /// of libmosquitto (2.0.11) end for good when they are told, and connect anew when they are not. Brokers of
    /// that make say nothing either when they stop.
    fn reset(&mut self) {
        match self.recalled {
            true => self.stream.shutdown_write(),
            false => self.stream.reset_on_close(),
        }
    }

    /// It is not broken, but it is to end.
    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        let is_whole = self.lines.up.is_whole() && self.lines.down.is_whole();
        self.recalled = self.resident.poll_recall(cx) && is_whole;
        self.recalled
    }
}

/// The destination's end.
pub(crate) struct DestinationEnd<'s> {
    pub(crate) stream: &'s mut Stream,
    pub(crate) lines: Rc<Lines>,
}

impl TunnelEnd for DestinationEnd<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_read(cx, buffer))?;
        self.lines.down.read.set(self.lines.down.read.get() + n as u64);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_write(cx, bytes))?;
        self.lines.up.wrote(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn shutdown_write(&mut self) {
        self.stream.shutdown_write();
    }

    /// No DISCONNECT: the client did not send one, so its will is the destination's to carry out.
    fn reset(&mut self) {
        self.stream.shutdown_write();
    }

    fn is_reset(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }
}
