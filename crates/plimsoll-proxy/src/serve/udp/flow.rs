//! The state of one client's flow: its destination, and the bytes of both directions.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::SystemTime;

use plimsoll_core::{Address, Assignment, DestinationId, Failure, Outcome, Tick};
use rustix::event::epoll;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Socket, Type};

use crate::base::clock::Clock;
use crate::forward::attempts::report;
use crate::listener::worker_listener::ConnectionGuard;
use crate::listener::worker_listener::WorkerRoute;
use crate::log::access_log::ConnectionLine;
use crate::net::stream::{Peer, is_resource_exhausted};
use crate::net::tunnel::BytesCopied;
use crate::serve::udp::batch::{Batch, RecvMeta, SegmentBatch};
use crate::serve::udp::fd_budget::FdBudget;
use crate::serve::udp::flow_table::FlowKey;
use crate::serve::udp::gso::{self, GsoSupport};
use plimsoll_wire::http1::target::Method;

/// A flow. It counts as a connection of its listener until it is dropped.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Distinguishes it from a later flow in the same slot.
    pub(crate) number: u64,
    /// Path to the destination; `None` after the destination was lost, until the client's next datagram.
    pub(crate) path: Option<UpstreamPath>,
    /// Lost destination, which the next pick excludes.
    pub(crate) avoid: Option<DestinationId>,
    /// Time of the client's latest datagram.
    pub(crate) last: Tick,
    pub(crate) copied: BytesCopied,
    /// A reply has arrived.
    has_reply: bool,
    opened: Tick,
    /// Time for the log line, where the access log is on.
    time: Option<SystemTime>,
    guard: ConnectionGuard,
}

/// A flow's path to its destination.
#[derive(Debug)]
pub(crate) struct UpstreamPath {
    /// Connected, so the kernel accepts datagrams of that destination only, and reports when it refuses.
    pub(crate) socket: Socket,
    /// Held for the life of the flow, or until the reply if each datagram gets its own destination.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) destination: DestinationId,
    pub(crate) address: Address,
    /// Generation of the snapshot checked last.
    pub(crate) generation: u64,
    /// GSO towards the destination.
    pub(crate) gso: GsoSupport,
    /// Replies arrive several at a time, so they are received in batches.
    pub(crate) batched: bool,
    /// Round in which the socket was read last.
    pub(crate) last_read: u64,
    replied_once: bool,
}

/// Class of a failed system call on a socket.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketFault {
    /// The call would block.
    WouldBlock,
    /// The destination, or the route to it, refused.
    Refused,
    /// A resource of this process or machine is exhausted.
    NoResources,
    /// This datagram cannot be sent; others can.
    BadDatagram,
    /// The datagrams cannot be sent as segments; one by one they may.
    SegmentsRefused,
}

impl SocketFault {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{
            AddrNotAvailable, ConnectionRefused, HostUnreachable, Interrupted, NetworkDown,
            NetworkUnreachable, WouldBlock,
        };
        match error.kind() {
            WouldBlock | Interrupted => Self::WouldBlock,
            ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable => Self::Refused,
            AddrNotAvailable => Self::NoResources,
            _ if is_resource_exhausted(error) => Self::NoResources,
            _ => Self::BadDatagram,
        }
    }
}

impl UpstreamPath {
    /// Opens a path to `address` and registers it with `epoll` under the slot of its flow.
    ///
    /// # Errors
    /// The failure, and the assignment back.
    pub(crate) fn open(
        assignment: Assignment,
        address: Address,
        generation: u64,
        epoll: &OwnedFd,
        slot: u32,
        limits: FlowLimits,
    ) -> Result<Self, (Failure, Assignment)> {
        match connect(&address, epoll, slot, limits) {
            Ok(socket) => {
                let destination = assignment.id();
                Ok(Self {
                    gso: GsoSupport::default(),
                    socket,
                    assignment: Some(assignment),
                    destination,
                    address,
                    generation,
                    batched: false,
                    last_read: 0,
                    replied_once: false,
                })
            }
            Err(error) => match SocketFault::of(&error) {
                // `EAGAIN` also means that no port is free.
                SocketFault::NoResources | SocketFault::WouldBlock => Err((Failure::NoResources, assignment)),
                SocketFault::Refused | SocketFault::BadDatagram | SocketFault::SegmentsRefused => {
                    Err((Failure::Connect, assignment))
                }
            },
        }
    }

    /// Sends one datagram, or a segment batch where possible.
    ///
    /// # Errors
    /// The class of the error; nothing was sent.
    pub(crate) fn send(&mut self, segments: &SegmentBatch<'_>) -> Result<(), SocketFault> {
        if let Some(datagram) = segments.as_single() {
            let sent = rustix::net::send(&self.socket, datagram, SendFlags::NOSIGNAL);
            return sent.map(drop).map_err(|error| SocketFault::of(&error.into()));
        }
        if !self.gso.allows(segments) {
            return Err(SocketFault::SegmentsRefused);
        }
        gso::send(&self.socket, segments, None, None).map_err(|error| {
            match self.gso.on_send_error(segments, &error) {
                true => SocketFault::SegmentsRefused,
                false => SocketFault::of(&error),
            }
        })
    }

    /// Receives replies into the buffers from `from` to before `until`, and returns how many messages.
    ///
    /// # Errors
    /// The class of the error; nothing was received.
    pub(crate) fn receive(
        &mut self,
        batch: &mut Batch,
        from: usize,
        until: usize,
        round: u64,
    ) -> Result<usize, SocketFault> {
        // A socket that has more in the next round is read in batches from now on. A batch call costs more
        // than a single one, and most flows have one reply at a time.
        let consecutive = std::mem::replace(&mut self.last_read, round) + 1 == round;
        if consecutive && !std::mem::replace(&mut self.batched, true) {
            gso::enable_gro(&self.socket);
        }
        if self.batched {
            return gso::receive(&self.socket, batch, from, until).map_err(|error| SocketFault::of(&error));
        }
        let received = rustix::net::recv(&self.socket, batch.buffer(from), RecvFlags::empty());
        let (_, len) = received.map_err(|error| SocketFault::of(&error.into()))?;
        batch.set_meta(from, RecvMeta { len, stride: len, ..RecvMeta::EMPTY });
        Ok(1)
    }

    /// Records a reply of the destination.
    pub(crate) fn replied(&mut self, route: &WorkerRoute, keeps_assignment: bool, now: Tick) {
        if keeps_assignment && std::mem::replace(&mut self.replied_once, true) {
            return;
        }
        let Some(mut assignment) = self.assignment.take() else { return };
        let first_byte = now.since(assignment.started());
        report(route, assignment.record(now, Outcome::Answered { status: 200, first_byte }));
        if keeps_assignment {
            self.assignment = Some(assignment);
        }
    }

    /// Records that the destination refused.
    pub(crate) fn failed(self, route: &WorkerRoute, now: Tick) -> DestinationId {
        report(
            route,
            self.assignment.and_then(|assignment| assignment.finish(now, Outcome::Failed(Failure::Connect))),
        );
        self.destination
    }

    pub(crate) fn is_trial(&self) -> bool {
        self.assignment.as_ref().is_some_and(Assignment::is_trial)
    }
}

/// What the sockets of flows must not use.
#[derive(Copy, Clone, Debug)]
pub(crate) struct FlowLimits {
    pub(crate) budget: FdBudget,
    /// Address of the listener. A flow to it would come back as a new client, without end.
    pub(crate) own: Option<SocketAddr>,
}

impl FlowLimits {
    /// Returns whether a socket that is connected to `address` reaches the listener itself.
    fn is_loop(&self, socket: &Socket, address: SocketAddr) -> bool {
        let Some(own) = self.own.filter(|own| own.port() == address.port()) else { return false };
        // On the same machine both ends have the same address, or a loopback one.
        let is_local = || {
            let local = socket.local_addr().ok().and_then(|local| local.as_socket());
            address.ip().is_loopback() || local.is_some_and(|local| local.ip() == address.ip())
        };
        own.ip() == address.ip() || own.ip().is_unspecified() && is_local()
    }
}

fn connect(address: &Address, epoll: &OwnedFd, slot: u32, limits: FlowLimits) -> io::Result<Socket> {
    let Address::Socket(address) = address else { return Err(io::ErrorKind::Unsupported.into()) };
    let socket = Socket::new(Domain::for_address(*address), Type::DGRAM.nonblocking().cloexec(), None)?;
    if socket.as_raw_fd() > limits.budget.max_fd {
        return Err(rustix::io::Errno::MFILE.into());
    }
    socket.connect(&SocketAddr::into(*address))?;
    if limits.is_loop(&socket, *address) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    // Level-triggered: a socket with more replies is reported again, which is cheaper than reading every
    // socket until it would block.
    epoll::add(epoll, &socket, epoll::EventData::new_u64(slot.into()), epoll::EventFlags::IN)?;
    Ok(socket)
}

impl Flow {
    pub(crate) fn new(number: u64, guard: ConnectionGuard, route: &WorkerRoute, now: Tick) -> Self {
        route.table.counters.of(guard.worker.number).started.add(1);
        let time = guard.worker.log.as_ref().map(|_| Clock::wall());
        Self {
            number,
            path: None,
            avoid: None,
            last: now,
            copied: BytesCopied::default(),
            has_reply: false,
            opened: now,
            time,
            guard,
        }
    }

    /// Records a reply of the destination.
    pub(crate) fn replied(&mut self, route: &WorkerRoute, keeps_assignment: bool, now: Tick) {
        self.has_reply = true;
        if let Some(path) = &mut self.path {
            path.replied(route, keeps_assignment, now);
        }
    }

    /// Counts and logs the end of the flow.
    pub(crate) fn end(self, key: &FlowKey, route: &WorkerRoute, now: Tick) {
        let worker = &self.guard.worker;
        let counts = route.table.counters.of(worker.number);
        let total = now.since(self.opened);
        counts.ended.add(1);
        counts.request(Method::Other, if self.has_reply { 200 } else { 0 }, total);
        let (Some(log), Some(time)) = (&worker.log, self.time) else { return };
        log.send(ConnectionLine {
            queued: None,
            protocol: "UDP",
            time,
            peer: Peer::Socket(key.client),
            listener: self.guard.listener.routes().table.config.name.clone(),
            pool: route.table.pool.config.name.clone(),
            destination: self.path.as_ref().and_then(|path| route.pool.name_of(path.destination)),
            reason: None,
            copied: self.copied,
            total,
        });
    }
}
