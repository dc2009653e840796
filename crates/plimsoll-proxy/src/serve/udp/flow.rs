//! What is kept about one client while it talks: its destination, and what passed both ways.

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
use crate::serve::udp::batch::{Batch, Head, Load};
use crate::serve::udp::fd_budget::Room;
use crate::serve::udp::flows::Key;
use crate::serve::udp::gso::{self, Trains};
use plimsoll_wire::http1::target::Method;

/// One flow. It holds its place among the listener's guests until it is dropped.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Tells it from a later one in the same slot.
    pub(crate) number: u64,
    /// Towards a destination; `None` when that was lost, until the client's next datagram.
    pub(crate) path: Option<Path>,
    /// The destination that was lost: the next is to be another, if there is one.
    pub(crate) avoid: Option<DestinationId>,
    /// When the client sent last.
    pub(crate) last: Tick,
    pub(crate) copied: BytesCopied,
    /// A destination has replied.
    answered: bool,
    opened: Tick,
    /// For the log line; not asked for without a log.
    time: Option<SystemTime>,
    guard: ConnectionGuard,
}

/// A flow's way to its destination.
#[derive(Debug)]
pub(crate) struct Path {
    /// Connected, so the kernel lets in what that destination sends and nothing else, and tells when it
    /// refuses.
    pub(crate) socket: Socket,
    /// Held for the life of the flow, or until the reply where a destination is chosen for each datagram.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) destination: DestinationId,
    pub(crate) address: Address,
    /// The snapshot that was looked at last.
    pub(crate) generation: u64,
    /// Towards the destination; none until it is said what the kernel can.
    pub(crate) trains: Trains,
    /// Replies come several at a time, so they are taken in that way.
    pub(crate) gushes: bool,
    /// The round its socket was read in last.
    pub(crate) read: u64,
    heard: bool,
}

/// What to make of a failed system call on a path.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is there; another time there may be.
    NotNow,
    /// The destination, or the way to it, refused.
    Refused,
    /// We lack something.
    Means,
    /// This datagram cannot be sent; others can.
    Datagram,
    /// Datagrams cannot be sent together; each for itself they may.
    Train,
}

impl Fault {
    pub(crate) fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{
            AddrNotAvailable, ConnectionRefused, HostUnreachable, Interrupted, NetworkDown,
            NetworkUnreachable, WouldBlock,
        };
        match error.kind() {
            WouldBlock | Interrupted => Self::NotNow,
            ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable => Self::Refused,
            AddrNotAvailable => Self::Means,
            _ if is_resource_exhausted(error) => Self::Means,
            _ => Self::Datagram,
        }
    }
}

impl Path {
    /// A way to `address`, watched by `epoll` under the number of the flow's slot.
    ///
    /// # Errors
    /// Whose fault it is that there is none.
    pub(crate) fn open(
        assignment: Assignment,
        address: Address,
        generation: u64,
        epoll: &OwnedFd,
        slot: u32,
        room: Room,
    ) -> Result<Self, (Failure, Assignment)> {
        match connect(&address, epoll, slot, room) {
            Ok(socket) => {
                let destination = assignment.id();
                Ok(Self {
                    trains: Trains::default(),
                    socket,
                    assignment: Some(assignment),
                    destination,
                    address,
                    generation,
                    gushes: false,
                    read: 0,
                    heard: false,
                })
            }
            Err(error) => match Fault::of(&error) {
                // No free port is "would block" too (`EAGAIN`).
                Fault::Means | Fault::NotNow => Err((Failure::NoResources, assignment)),
                Fault::Refused | Fault::Datagram | Fault::Train => Err((Failure::Connect, assignment)),
            },
        }
    }

    /// Sends one datagram, or a train where that can be.
    ///
    /// # Errors
    /// What to make of it that none of it has left.
    pub(crate) fn send(&mut self, load: &Load<'_>) -> Result<(), Fault> {
        if let Some(datagram) = load.alone() {
            let sent = rustix::net::send(&self.socket, datagram, SendFlags::NOSIGNAL);
            return sent.map(drop).map_err(|error| Fault::of(&error.into()));
        }
        if !self.trains.may_leave(load) {
            return Err(Fault::Train);
        }
        gso::send(&self.socket, load, None, None).map_err(|error| match self.trains.refused(load, &error) {
            true => Fault::Train,
            false => Fault::of(&error),
        })
    }

    /// Takes in replies, each piece of them into a room of its own, up to `until`.
    ///
    /// # Errors
    /// What to make of it that there are none.
    pub(crate) fn receive(
        &mut self,
        batch: &mut Batch,
        from: usize,
        until: usize,
        round: u64,
    ) -> Result<usize, Fault> {
        // Whoever was read just before and has more is read by many from now on. Not before: a call for many
        // costs more than one for one, and most flows have one reply at a time.
        let again = std::mem::replace(&mut self.read, round) + 1 == round;
        if again && !std::mem::replace(&mut self.gushes, true) {
            gso::ask_for_trains(&self.socket);
        }
        if self.gushes {
            return gso::receive(&self.socket, batch, from, until).map_err(|error| Fault::of(&error));
        }
        let received = rustix::net::recv(&self.socket, batch.room(from), RecvFlags::empty());
        let (_, len) = received.map_err(|error| Fault::of(&error.into()))?;
        batch.label(from, Head { len, stride: len, ..Head::NOBODY });
        Ok(1)
    }

    /// The destination has replied.
    pub(crate) fn replied(&mut self, rule: &WorkerRoute, keeps_assignment: bool, now: Tick) {
        if keeps_assignment && std::mem::replace(&mut self.heard, true) {
            return;
        }
        let Some(mut assignment) = self.assignment.take() else { return };
        let first_byte = now.since(assignment.started());
        report(rule, assignment.record(now, Outcome::Answered { status: 200, first_byte }));
        if keeps_assignment {
            self.assignment = Some(assignment);
        }
    }

    /// The destination refused.
    pub(crate) fn failed(self, rule: &WorkerRoute, now: Tick) -> DestinationId {
        report(
            rule,
            self.assignment.and_then(|assignment| assignment.finish(now, Outcome::Failed(Failure::Connect))),
        );
        self.destination
    }

    pub(crate) fn is_trial(&self) -> bool {
        self.assignment.as_ref().is_some_and(Assignment::is_trial)
    }
}

fn connect(address: &Address, epoll: &OwnedFd, slot: u32, room: Room) -> io::Result<Socket> {
    let Address::Socket(address) = address else { return Err(io::ErrorKind::Unsupported.into()) };
    let socket = Socket::new(Domain::for_address(*address), Type::DGRAM.nonblocking().cloexec(), None)?;
    if socket.as_raw_fd() > room.descriptor {
        return Err(rustix::io::Errno::MFILE.into());
    }
    socket.connect(&SocketAddr::into(*address))?;
    // Level-triggered: whoever has more than one reply waiting is told of again, which is cheaper than
    // asking every socket until it says that it is empty.
    epoll::add(epoll, &socket, epoll::EventData::new_u64(slot.into()), epoll::EventFlags::IN)?;
    Ok(socket)
}

impl Flow {
    pub(crate) fn new(number: u64, guard: ConnectionGuard, rule: &WorkerRoute, now: Tick) -> Self {
        rule.table.counters.of(guard.worker.number).started.add(1);
        let time = guard.worker.log.as_ref().map(|_| Clock::wall());
        Self {
            number,
            path: None,
            avoid: None,
            last: now,
            copied: BytesCopied::default(),
            answered: false,
            opened: now,
            time,
            guard,
        }
    }

    /// A reply has come from the destination.
    pub(crate) fn replied(&mut self, rule: &WorkerRoute, keeps_assignment: bool, now: Tick) {
        self.answered = true;
        if let Some(path) = &mut self.path {
            path.replied(rule, keeps_assignment, now);
        }
    }

    /// Counts and logs a flow that is over.
    pub(crate) fn end(self, key: &Key, rule: &WorkerRoute, now: Tick) {
        let worker = &self.guard.worker;
        let counts = rule.table.counters.of(worker.number);
        let total = now.since(self.opened);
        counts.ended.add(1);
        counts.request(Method::Other, if self.answered { 200 } else { 0 }, total);
        let (Some(log), Some(time)) = (&worker.log, self.time) else { return };
        log.send(ConnectionLine {
            queued: None,
            protocol: "UDP",
            time,
            peer: Peer::Socket(key.client),
            listener: self.guard.listener.routes().table.config.name.clone(),
            pool: rule.table.pool.config.name.clone(),
            destination: self.path.as_ref().and_then(|path| rule.pool.name_of(path.destination)),
            reason: None,
            copied: self.copied,
            total,
        });
    }
}
