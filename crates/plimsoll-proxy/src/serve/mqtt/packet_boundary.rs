//! When a connection of MQTT may be ended without cutting a packet in two, and how.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::net::stream::Stream;
use crate::net::tunnel::Mouth;
use crate::serve::mqtt::rebalancer::Resident;

/// Where packets begin and end in the bytes of one direction (MQTT 5.0 section 2.1).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Framing {
    /// A packet begins.
    Kind,
    /// Its length: so far, and the place of the next seven bits.
    Length(u32, u32),
    /// So many bytes of it are still to come.
    Body(u32),
}

impl Framing {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            match *self {
                Self::Kind => (*self, bytes) = (Self::Length(0, 0), rest),
                Self::Length(so_far, shift) => {
                    let length = so_far | u32::from(first & 0x7f) << shift.min(21);
                    bytes = rest;
                    *self = match (first & 0x80 != 0, length) {
                        (true, _) => Self::Length(length, shift + 7),
                        (false, 0) => Self::Kind,
                        (false, length) => Self::Body(length),
                    };
                }
                Self::Body(left) => {
                    let n = bytes.len().min(left as usize);
                    bytes = &bytes[n..];
                    *self = if n == left as usize { Self::Kind } else { Self::Body(left - n as u32) };
                }
            }
        }
    }
}

/// One direction: what was read of one end, and what the other end took of it.
#[derive(Debug)]
struct Line {
    read: Cell<u64>,
    written: Cell<u64>,
    framing: Cell<Framing>,
}

impl Default for Line {
    fn default() -> Self {
        Self { read: Cell::new(0), written: Cell::new(0), framing: Cell::new(Framing::Kind) }
    }
}

impl Line {
    fn wrote(&self, bytes: &[u8]) {
        let mut framing = self.framing.get();
        framing.pass(bytes);
        self.framing.set(framing);
        self.written.set(self.written.get() + bytes.len() as u64);
    }

    /// Whole packets have passed, and nothing waits.
    fn is_whole(&self) -> bool {
        self.framing.get() == Framing::Kind && self.read.get() == self.written.get()
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

impl Mouth for ClientEnd<'_> {
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

    fn shut_write(&mut self) {
        self.stream.shut_write();
    }

    /// Without a DISCONNECT to a client that is to come again, though version 5 has one (section 3.14): clients
    /// of libmosquitto (2.0.11) end for good when they are told, and connect anew when they are not. Brokers of
    /// that make say nothing either when they stop.
    fn break_off(&mut self) {
        match self.recalled {
            true => self.stream.shut_write(),
            false => self.stream.reset_on_close(),
        }
    }

    /// It is not broken, but it is to end.
    fn is_broken_off(&mut self, cx: &mut Context<'_>) -> bool {
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

impl Mouth for DestinationEnd<'_> {
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

    fn shut_write(&mut self) {
        self.stream.shut_write();
    }

    /// No DISCONNECT: the client did not send one, so its will is the destination's to carry out.
    fn break_off(&mut self) {
        self.stream.shut_write();
    }

    fn is_broken_off(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_followed_whatever_the_cut() {
        let long = [&[0x30, 0xc8, 0x01][..], &[7; 200]].concat();
        let bytes = [&[0xc0, 0][..], &long, &[0x40, 2, 0, 1]].concat();
        let ends = [2, 2 + long.len(), bytes.len()];
        for cut in 1..=bytes.len() {
            let mut framing = Framing::Kind;
            framing.pass(&bytes[..cut]);
            assert_eq!(framing == Framing::Kind, ends.contains(&cut), "{cut}");
            framing.pass(&bytes[cut..]);
            assert_eq!(framing, Framing::Kind, "{cut}");
        }
    }
}
