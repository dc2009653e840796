//! How many datagrams pass a socket with one system call.
//!
//! Taken in, many pieces at once (`recvmmsg`), each a datagram or a train of them (`UDP_GRO`); sent, a train to
//! one address at once (`UDP_SEGMENT`). Different addresses take a call each: the safe `sendmmsg` there is
//! (nix 0.31) tells how many have left only by reading back addresses that nobody wrote, and the call itself is
//! a small part of what a datagram costs the kernel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, getsockopt, recvmmsg, setsockopt,
    sockopt,
};
use socket2::{MsgHdr, SockAddr, Socket};

use crate::serve::udp::batch::{BATCH, Batch, Head, Load};

/// Trains of a length the system did not take are sent one by one so often before it is asked again: routes
/// change, and one client behind a narrow one is not to slow down the others.
const FORBEARANCE: u32 = 64;

/// Asks that datagrams of one sender that came close together are given as one piece. Without it, as with
/// kernels before Linux 5.0, each comes for itself.
pub(crate) fn ask_for_trains(socket: &Socket) -> bool {
    setsockopt(socket, sockopt::UdpGroSegment, &true).is_ok()
}

/// Takes in what has arrived at `socket`, into the rooms from `from` to before `until`; fewer pieces than rooms
/// mean that nothing is left.
pub(crate) fn receive(socket: &Socket, batch: &mut Batch, from: usize, until: usize) -> io::Result<usize> {
    let (mut rooms, heads) = batch.rooms(from);
    let mut slices: [_; BATCH] =
        std::array::from_fn(|_| [io::IoSliceMut::new(rooms.next().unwrap_or_default())]);
    let most = until.saturating_sub(from).min(BATCH);
    // Made anew each time: the kernel writes into them how much it told, nothing puts that back, and where it
    // told less than is told next, a train would be taken for one datagram.
    let told = nix::cmsg_space!(nix::libc::in6_pktinfo, i32);
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(most, Some(told));
    let slices = slices[..most].iter_mut();
    let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices, MsgFlags::MSG_DONTWAIT, None)?;
    let mut count = 0;
    for (head, message) in heads.iter_mut().zip(received) {
        *head = head_of(&message);
        count += 1;
    }
    Ok(count)
}

fn head_of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Head {
    let client = message.address.as_ref().and_then(address_of).unwrap_or(Head::NOBODY.client);
    let mut head = Head { len: message.bytes, stride: message.bytes, client, local: None };
    for told in message.cmsgs().into_iter().flatten() {
        match told {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // Of a broadcast or multicast, the one to answer from.
                head.local = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                head.local = (!address.is_multicast()).then_some(address.into());
            }
            ControlMessageOwned::UdpGroSegments(stride) => {
                head.stride = usize::try_from(stride).ok().filter(|&n| n > 0).unwrap_or(head.len);
            }
            _ => {}
        }
    }
    head
}

/// Of a client's address what a reply needs.
fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| std::net::SocketAddrV6::from(*v6).into()))
}

/// Sends to where the socket is connected or to the address given, from the address of ours that is given.
pub(crate) fn send(
    socket: &Socket,
    load: &Load<'_>,
    to: Option<&SocketAddr>,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let mut control = Control::new();
    if let Some(local) = from {
        control.leave_from(local);
    }
    if load.alone().is_none() {
        control.take_apart(u16::try_from(load.stride).map_err(|_| io::ErrorKind::InvalidInput)?);
    }
    let (slices, count) = load.slices();
    let to = to.map(|to| SockAddr::from(*to));
    let mut message = MsgHdr::new().with_buffers(&slices[..count]);
    if control.len > 0 {
        message = message.with_control(&control.bytes[..control.len]);
    }
    if let Some(to) = &to {
        message = message.with_addr(to);
    }
    socket.sendmsg(&message, nix::libc::MSG_NOSIGNAL).map(drop)
}

/// Whether trains can leave, as far as a socket's user knows.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Trains {
    /// The length of datagrams from which on the system did not take them; 0 without a kernel that can.
    too_long: usize,
    /// How many more trains of that length are not even tried.
    forbear: u32,
}

impl Trains {
    /// As the kernel says: one before Linux 4.18 would send a train as one long datagram.
    pub(crate) fn of(socket: &Socket) -> Self {
        let can = getsockopt(socket, sockopt::UdpGsoSegment).is_ok();
        Self { too_long: if can { usize::MAX } else { 0 }, forbear: if can { 0 } else { u32::MAX } }
    }

    pub(crate) fn may_leave(&mut self, load: &Load<'_>) -> bool {
        if self.too_long == 0 || !load.is_train() {
            return false;
        }
        if load.stride < self.too_long {
            return true;
        }
        self.forbear = self.forbear.saturating_sub(1);
        self.forbear == 0
    }

    /// Was it the train that was refused, and not what is in it? Datagrams must fit the route each (`EINVAL`,
    /// `EMSGSIZE`), which one alone need not; some interfaces cannot take trains apart (`EIO`).
    pub(crate) fn refused(&mut self, load: &Load<'_>, error: &io::Error) -> bool {
        use rustix::io::Errno;
        let of_trains = [Errno::INVAL, Errno::MSGSIZE, Errno::IO, Errno::OPNOTSUPP, Errno::NOPROTOOPT];
        let is_train = load.alone().is_none();
        if !is_train || !of_trains.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
            return false;
        }
        (self.too_long, self.forbear) = (load.stride, FORBEARANCE);
        true
    }
}

/// Bytes of a control message's head: its length, level and type (`cmsghdr` of Linux).
const HEAD: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// What the kernel is told beside the bytes to send.
struct Control {
    bytes: [u8; 2 * HEAD + 32],
    len: usize,
}

impl Control {
    fn new() -> Self {
        Self { bytes: [0; 2 * HEAD + 32], len: 0 }
    }

    /// From which address a datagram leaves: `in_pktinfo` or `in6_pktinfo`.
    fn leave_from(&mut self, local: IpAddr) {
        use nix::libc::{IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO};
        match local {
            IpAddr::V4(local) => {
                // The interface's number, the address to leave from, an address that is not looked at.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&local.octets());
                self.push(IPPROTO_IP, IP_PKTINFO, &info);
            }
            IpAddr::V6(local) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&local.octets());
                self.push(IPPROTO_IPV6, IPV6_PKTINFO, &info);
            }
        }
    }

    /// That the bytes are datagrams of that length.
    fn take_apart(&mut self, stride: u16) {
        self.push(nix::libc::SOL_UDP, nix::libc::UDP_SEGMENT, &stride.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let length = HEAD + value.len();
        let message = &mut self.bytes[self.len..][..length];
        let (size, word) = (size_of::<usize>(), size_of::<i32>());
        message[..size].copy_from_slice(&length.to_ne_bytes());
        message[size..size + word].copy_from_slice(&level.to_ne_bytes());
        message[size + word..HEAD].copy_from_slice(&kind.to_ne_bytes());
        message[HEAD..].copy_from_slice(value);
        self.len += length.next_multiple_of(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_that_was_refused_is_tried_again_after_a_while_and_shorter_ones_at_once() {
        use rustix::io::Errno;
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
        let mut trains = Trains { too_long: usize::MAX, ..Trains::of(&socket) };
        let (long, short) = ([&[0; 2000][..], &[0; 2000]], [&[0; 1200][..], &[0; 1200]]);
        let long = Load::train(&long);
        let short = Load::train(&short);
        assert!(trains.may_leave(&long) && trains.may_leave(&short));
        assert!(!trains.refused(&long, &Errno::CONNREFUSED.into()), "that is about its destination");
        assert!(
            !trains.refused(&Load::one(&&[0; 9][..]), &Errno::MSGSIZE.into()),
            "and that about a datagram"
        );
        assert!(trains.may_leave(&long));
        assert!(trains.refused(&long, &Errno::MSGSIZE.into()));
        for _ in 1..FORBEARANCE {
            assert!(!trains.may_leave(&long) && trains.may_leave(&short));
        }
        assert!(trains.may_leave(&long), "routes change");
        assert!(!Trains::default().may_leave(&short), "nothing is tried that the kernel cannot");
    }
}
