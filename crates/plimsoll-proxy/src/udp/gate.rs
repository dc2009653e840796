//! How datagrams pass a listener's socket: many with one system call, each with the address of ours it came to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg, setsockopt, sockopt,
};
use rustix::net::SendFlags;
use socket2::{MsgHdr, SockAddr};
use tokio::io::unix::AsyncFd;

use crate::stream::watch_reading;

/// Datagrams one system call takes in, and replies that leave together.
pub(crate) const BATCH: usize = 32;

/// Room for one datagram: the longest there can be (65,527 bytes, over IPv6), and a few lines more, so that
/// the beginnings of 32 buffers do not compete for the same lines of the cache.
const ROOM: usize = 65_536 + 576;

/// Buffers for one batch, used by all doors of a worker in turn. Pages no datagram ever reached cost nothing.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    heads: [Head; BATCH],
}

/// What is known of a datagram beside its bytes.
#[derive(Copy, Clone, Debug)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) client: SocketAddr,
    pub(super) local: Option<IpAddr>,
}

impl Head {
    const NOBODY: Self =
        Self { len: 0, client: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), local: None };
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BATCH * ROOM].into(), heads: [Head::NOBODY; BATCH] }
    }

    /// The `n`-th datagram.
    pub(super) fn datagram(&self, n: usize) -> (Head, &[u8]) {
        let head = self.heads[n];
        (head, &self.bytes[n * ROOM..][..head.len])
    }

    /// Room for the `n`-th datagram.
    pub(super) fn room(&mut self, n: usize) -> &mut [u8] {
        &mut self.bytes[n * ROOM..][..ROOM]
    }

    /// Says what is in the `n`-th room.
    pub(super) fn label(&mut self, n: usize, head: Head) {
        self.heads[n] = head;
    }
}

/// Asks, for a socket that is to be bound to all addresses of the machine, to which of them each datagram
/// comes. Before it is bound: what comes earlier would not say.
///
/// # Errors
/// The system's.
pub(crate) fn ask_for_address(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    match (address.ip().is_unspecified(), address) {
        (false, _) => Ok(()),
        (true, SocketAddr::V4(_)) => Ok(setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?),
        (true, SocketAddr::V6(_)) => Ok(setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?),
    }
}

/// A listener's socket at one worker.
pub(super) struct Gate {
    pub(super) socket: Rc<AsyncFd<socket2::Socket>>,
    bound: SocketAddr,
    incoming: MultiHeaders<SockaddrStorage>,
}

impl Gate {
    /// # Errors
    /// The system's.
    pub(super) fn new(socket: socket2::Socket) -> io::Result<Self> {
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let told = bound.ip().is_unspecified().then(|| nix::cmsg_space!(nix::libc::in6_pktinfo));
        let socket = Rc::new(watch_reading(socket)?);
        Ok(Self { socket, bound, incoming: MultiHeaders::preallocate(BATCH, told) })
    }

    /// Takes in what has arrived, up to a batch of it; fewer means that nothing is left.
    pub(super) fn receive(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let mut rooms = batch.bytes.chunks_exact_mut(ROOM);
        let mut slices: [_; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
        let socket = self.socket.get_ref().as_raw_fd();
        let received = recvmmsg(socket, &mut self.incoming, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        let any = self.bound.ip().is_unspecified();
        let mut count = 0;
        for (head, message) in batch.heads.iter_mut().zip(received) {
            let client = message.address.as_ref().and_then(address_of).unwrap_or(Head::NOBODY.client);
            let local = if any { local_of(&message) } else { None };
            *head = Head { len: message.bytes, client, local };
            count += 1;
        }
        Ok(count)
    }

    /// Did a datagram come from where it came to? Only a forged one does, and its reply would come back here,
    /// and so on without end.
    pub(super) fn is_own(&self, head: &Head) -> bool {
        let local = head.local.unwrap_or(self.bound.ip());
        head.client.port() == self.bound.port() && head.client.ip() == local
    }

    /// Sends the first `count` datagrams of the batch to their clients, and says how many have left and how
    /// many bytes that was. One that cannot be sent does not hold up the others; when the socket takes no
    /// more, the rest is dropped.
    ///
    /// A call for each: the safe `sendmmsg` there is (nix 0.31) tells how many have left only by reading back
    /// addresses that nobody wrote, and the call itself is a small part of what a datagram costs the kernel.
    pub(super) fn send(&self, batch: &Batch, count: usize) -> (u64, u64) {
        let (mut datagrams, mut bytes) = (0, 0);
        for n in 0..count {
            let (head, datagram) = batch.datagram(n);
            match self.send_one(head, datagram) {
                Ok(_) => {
                    datagrams += 1;
                    bytes += head.len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
        (datagrams, bytes)
    }

    fn send_one(&self, head: Head, datagram: &[u8]) -> io::Result<usize> {
        let socket = self.socket.get_ref();
        let Some(local) = head.local else {
            return Ok(rustix::net::sendto(socket, datagram, SendFlags::NOSIGNAL, &head.client)?);
        };
        let (control, length) = leave_from(local);
        let client = SockAddr::from(head.client);
        let datagram = [IoSlice::new(datagram)];
        let message =
            MsgHdr::new().with_addr(&client).with_buffers(&datagram).with_control(&control[..length]);
        socket.sendmsg(&message, 0)
    }
}

/// Of a client's address what a reply needs.
fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| std::net::SocketAddrV6::from(*v6).into()))
}

/// The address of ours a datagram came to; of a broadcast or multicast, the one to answer from.
fn local_of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<IpAddr> {
    message.cmsgs().ok()?.find_map(|told| match told {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into())
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            (!address.is_multicast()).then_some(address.into())
        }
        _ => None,
    })
}

/// Bytes of a control message's head: its length, level and type (`cmsghdr` of Linux).
const HEAD: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// The control message that says from which address a datagram leaves: `in_pktinfo` or `in6_pktinfo`.
fn leave_from(local: IpAddr) -> ([u8; HEAD + 24], usize) {
    use nix::libc::{IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO};
    let mut control = [0; HEAD + 24];
    let (level, kind, length) = match local {
        IpAddr::V4(local) => {
            // The interface's number, the address to leave from, an address that is not looked at.
            control[HEAD + 4..HEAD + 8].copy_from_slice(&local.octets());
            (IPPROTO_IP, IP_PKTINFO, HEAD + 12)
        }
        IpAddr::V6(local) => {
            control[HEAD..HEAD + 16].copy_from_slice(&local.octets());
            (IPPROTO_IPV6, IPV6_PKTINFO, HEAD + 20)
        }
    };
    let (size, word) = (size_of::<usize>(), size_of::<i32>());
    control[..size].copy_from_slice(&length.to_ne_bytes());
    control[size..size + word].copy_from_slice(&level.to_ne_bytes());
    control[size + word..HEAD].copy_from_slice(&kind.to_ne_bytes());
    (control, length.next_multiple_of(size))
}
