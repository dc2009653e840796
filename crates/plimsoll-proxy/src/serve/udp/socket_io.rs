//! Reading and writing of a listener's datagram socket.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rustix::net::SendFlags;
use tokio::io::unix::AsyncFd;

use crate::net::stream::watch_reading;
use crate::serve::udp::batch::{BATCH, Batch, DatagramRun, RecvMeta, SegmentBatch};
use crate::serve::udp::gso::{self, GsoSupport};

/// A listener's socket on one worker.
pub(crate) struct UdpSocketIo {
    pub(crate) socket: Rc<AsyncFd<socket2::Socket>>,
    bound: SocketAddr,
    /// GSO support of the kernel.
    pub(crate) kernel_gso: GsoSupport,
    /// GSO support towards clients.
    gso: Cell<GsoSupport>,
}

impl UdpSocketIo {
    /// Registers the socket with the worker.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub(crate) fn new(socket: socket2::Socket) -> io::Result<Self> {
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let kernel_gso = GsoSupport::probe(&socket);
        gso::enable_gro(&socket);
        Ok(Self { socket: Rc::new(watch_reading(socket)?), bound, kernel_gso, gso: Cell::new(kernel_gso) })
    }

    /// Receives up to one batch. Fewer messages mean that none is left.
    pub(crate) fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        gso::receive(self.socket.get_ref(), batch, 0, BATCH)
    }

    /// Reports whether source and destination of a datagram are the same. It is forged, and its reply would
    /// return here without end.
    pub(crate) fn is_from_itself(&self, meta: &RecvMeta) -> bool {
        let local = meta.local.unwrap_or(self.bound.ip());
        meta.client.port() == self.bound.port() && meta.client.ip() == local
    }

    /// Sends the first `count` messages to their clients, and returns the numbers of datagrams and bytes
    /// sent. A datagram that cannot be sent does not hold up the others; when the socket would block, the
    /// rest is dropped.
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

    /// Sends a run as segments, or one by one where that is not possible.
    fn send_run(&self, run: &DatagramRun<'_>, datagrams: &mut u64, bytes: &mut u64) -> io::Result<()> {
        let mut count = |segments: &SegmentBatch<'_>, n: usize| {
            *datagrams += n as u64;
            *bytes += segments.len as u64;
        };
        let segments = run.segments();
        let mut gso = self.gso.get();
        if segments.as_single().is_none() && gso.allows(&segments) {
            let sent = gso::send(self.socket.get_ref(), &segments, Some(&run.meta.client), run.meta.local);
            let refused = sent.as_ref().is_err_and(|error| gso.on_send_error(&segments, error));
            self.gso.set(gso);
            if !refused {
                return sent.map(|()| count(&segments, run.meta.datagrams()));
            }
        } else {
            self.gso.set(gso);
        }
        for (meta, datagram) in run.split() {
            match self.send_one(meta, datagram) {
                Ok(()) => count(&SegmentBatch::single(&datagram), 1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn send_one(&self, meta: RecvMeta, datagram: &[u8]) -> io::Result<()> {
        let socket = self.socket.get_ref();
        match meta.local {
            None => Ok(rustix::net::sendto(socket, datagram, SendFlags::NOSIGNAL, &meta.client).map(drop)?),
            local => gso::send(socket, &SegmentBatch::single(&datagram), Some(&meta.client), local),
        }
    }
}
