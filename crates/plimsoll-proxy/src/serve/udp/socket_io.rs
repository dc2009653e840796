//! How datagrams pass a listener's socket: each with the address of ours it came to.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustix::net::SendFlags;
use tokio::io::unix::AsyncFd;

use crate::net::stream::watch_reading;
use crate::serve::udp::batch::{BATCH, Batch, Head, Load, Run};
use crate::serve::udp::gso::{self, Trains};

/// A listener's socket at one worker.
pub(crate) struct Gate {
    pub(crate) socket: Rc<AsyncFd<socket2::Socket>>,
    bound: SocketAddr,
    /// What the kernel can.
    pub(crate) can: Trains,
    /// Towards clients.
    trains: Cell<Trains>,
}

impl Gate {
    /// # Errors
    /// The system's.
    pub(crate) fn new(socket: socket2::Socket) -> io::Result<Self> {
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let can = Trains::of(&socket);
        gso::ask_for_trains(&socket);
        Ok(Self { socket: Rc::new(watch_reading(socket)?), bound, can, trains: Cell::new(can) })
    }

    /// Takes in what has arrived, up to a batch of it; fewer pieces mean that nothing is left.
    pub(crate) fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        gso::receive(self.socket.get_ref(), batch, 0, BATCH)
    }

    /// Did a datagram come from where it came to? Only a forged one does, and its reply would come back here,
    /// and so on without end.
    pub(crate) fn is_own(&self, head: &Head) -> bool {
        let local = head.local.unwrap_or(self.bound.ip());
        head.client.port() == self.bound.port() && head.client.ip() == local
    }

    /// Sends the first `count` pieces of the batch to their clients, and says how many datagrams have left and
    /// how many bytes that was. One that cannot be sent does not hold up the others; when the socket takes no
    /// more, the rest is dropped.
    pub(crate) fn send(&self, batch: &Batch, count: usize) -> (u64, u64) {
        let (mut datagrams, mut bytes) = (0, 0);
        for run in batch.runs(count) {
            let sent = self.send_run(&run, &mut datagrams, &mut bytes);
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        (datagrams, bytes)
    }

    /// Sends a train at once, or one by one where that cannot be.
    fn send_run(&self, run: &Run<'_>, datagrams: &mut u64, bytes: &mut u64) -> io::Result<()> {
        let mut count = |load: &Load<'_>, n: usize| {
            *datagrams += n as u64;
            *bytes += load.len as u64;
        };
        let load = run.load();
        let mut trains = self.trains.get();
        if load.alone().is_none() && trains.may_leave(&load) {
            let sent = gso::send(self.socket.get_ref(), &load, Some(&run.head.client), run.head.local);
            let refused = sent.as_ref().is_err_and(|error| trains.refused(&load, error));
            self.trains.set(trains);
            if !refused {
                return sent.map(|()| count(&load, run.head.datagrams()));
            }
        } else {
            self.trains.set(trains);
        }
        for (head, datagram) in run.apart() {
            match self.send_one(head, datagram) {
                Ok(()) => count(&Load::one(&datagram), 1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn send_one(&self, head: Head, datagram: &[u8]) -> io::Result<()> {
        let socket = self.socket.get_ref();
        match head.local {
            None => Ok(rustix::net::sendto(socket, datagram, SendFlags::NOSIGNAL, &head.client).map(drop)?),
            local => gso::send(socket, &Load::one(&datagram), Some(&head.client), local),
        }
    }
}
