//! Tracking of packets, so that an MQTT connection is never closed within one, and rebalanced only while nothing waits for
//! a response.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use plimsoll_wire::mqtt::{Outstanding, Packet, PacketReader};

use crate::net::stream::Stream;
use crate::net::tunnel::TunnelEnd;
use crate::serve::mqtt::rebalancer::{Disconnect, RebalancedConnection};

/// Byte counts of one direction, and the packets of the bytes written.
#[derive(Debug, Default)]
struct Direction {
    read: Cell<u64>,
    written: Cell<u64>,
    packets: Cell<PacketReader>,
}

impl Direction {
    fn wrote(&self, bytes: &[u8], ended: impl FnMut(Packet)) {
        let mut packets = self.packets.get();
        packets.advance(bytes, ended);
        self.packets.set(packets);
        self.written.set(self.written.get() + bytes.len() as u64);
    }

    /// Reports whether only complete packets were written and no bytes are buffered.
    fn is_at_boundary_and_drained(&self) -> bool {
        self.packets.get().is_at_boundary() && self.read.get() == self.written.get()
    }
}

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(crate) struct Directions {
    up: Direction,
    down: Direction,
    outstanding: RefCell<Outstanding>,
}

impl Directions {
    /// Creates the counters of a connection with these numbers of bytes read before the relay.
    pub(crate) fn new(from_client: usize, from_destination: usize) -> Rc<Self> {
        let directions = Self::default();
        directions.up.read.set(from_client as u64);
        directions.down.read.set(from_destination as u64);
        Rc::new(directions)
    }

    /// Reports whether the connection may be closed now.
    fn permit(&self, disconnect: Disconnect) -> bool {
        let is_between_packets =
            || self.up.is_at_boundary_and_drained() && self.down.is_at_boundary_and_drained();
        match disconnect {
            Disconnect::No => false,
            Disconnect::WhenQuiet => is_between_packets() && self.outstanding.borrow().is_empty(),
            Disconnect::BetweenPackets => is_between_packets(),
        }
    }
}

/// The client's end of the tunnel.
pub(crate) struct ClientEnd<'s> {
    pub(crate) stream: &'s mut Stream,
    pub(crate) directions: Rc<Directions>,
    pub(crate) registered: Rc<RebalancedConnection>,
    /// The connection is closed by the rebalancer, between two packets.
    pub(crate) disconnecting: bool,
}

impl TunnelEnd for ClientEnd<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_read(cx, buffer))?;
        self.directions.up.read.set(self.directions.up.read.get() + n as u64);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_write(cx, bytes))?;
        let mut outstanding = self.directions.outstanding.borrow_mut();
        self.directions.down.wrote(&bytes[..n], |packet| outstanding.on_server_packet(packet));
        Poll::Ready(Ok(n))
    }

    fn shutdown_write(&mut self) {
        self.stream.shutdown_write();
    }

    /// Closes without a DISCONNECT, though MQTT 5 has one for servers (section 3.14). Clients of libmosquitto
    /// 2.0.11 do not reconnect after a DISCONNECT, and do after a plain close. That broker sends none either
    /// when it stops.
    fn reset(&mut self) {
        match self.disconnecting {
            true => self.stream.shutdown_write(),
            false => self.stream.reset_on_close(),
        }
    }

    /// Reports whether the rebalancer closes the connection and its packets permit it.
    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.disconnecting = self.directions.permit(self.registered.poll_disconnect(cx));
        self.disconnecting
    }
}

/// The destination's end of the tunnel.
pub(crate) struct DestinationEnd<'s> {
    pub(crate) stream: &'s mut Stream,
    pub(crate) directions: Rc<Directions>,
}

impl TunnelEnd for DestinationEnd<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_read(cx, buffer))?;
        self.directions.down.read.set(self.directions.down.read.get() + n as u64);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.stream.poll_write(cx, bytes))?;
        let mut outstanding = self.directions.outstanding.borrow_mut();
        self.directions.up.wrote(&bytes[..n], |packet| outstanding.on_client_packet(packet));
        Poll::Ready(Ok(n))
    }

    fn shutdown_write(&mut self) {
        self.stream.shutdown_write();
    }

    /// Closes without a DISCONNECT: the client sent none, so the destination has to publish its will.
    fn reset(&mut self) {
        self.stream.shutdown_write();
    }

    fn is_reset(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }
}
