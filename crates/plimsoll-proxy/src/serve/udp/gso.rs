//! Receiving and sending of many datagrams with one system call, by GRO and GSO.
//!
//! - Received: many messages at once (`recvmmsg`), each a datagram or a segment batch (`UDP_GRO`).
//! - Sent: a segment batch to one address at once (`UDP_SEGMENT`).
//!
//! Different addresses take a call each. The safe `sendmmsg` of nix 0.31 reports how many were sent only by
//! reading back addresses that were never written, and the call itself is a small part of the kernel's cost
//! of a datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, getsockopt, recvmmsg, setsockopt,
    sockopt,
};
use socket2::{MsgHdr, SockAddr, Socket};

use crate::serve::udp::batch::{BATCH, Batch, RecvMeta, SegmentBatch};

/// Segment batches sent one by one after a refusal, before GSO is tried again: routes change, and one client
/// behind a narrow route must not slow down the others.
const GSO_RETRY_AFTER: u32 = 64;

/// Enables GRO: datagrams of one sender that arrive close together are received as one message. Without it,
/// as before Linux 5.0, each is received alone.
pub(crate) fn enable_gro(socket: &Socket) -> bool {
    setsockopt(socket, sockopt::UdpGroSegment, &true).is_ok()
}

/// Receives messages into the buffers from `from` to before `until`. Fewer messages than buffers mean that
/// none is left.
pub(crate) fn receive(socket: &Socket, batch: &mut Batch, from: usize, until: usize) -> io::Result<usize> {
    let (mut buffers, metas) = batch.buffers(from);
    let mut slices: [_; BATCH] =
        std::array::from_fn(|_| [io::IoSliceMut::new(buffers.next().unwrap_or_default())]);
    let max = until.saturating_sub(from).min(BATCH);
    // Allocated for each call: the kernel shrinks the lengths of the control buffers, and nothing resets
    // them. A later segment size would not fit, and a segment batch would be taken for one datagram.
    let control_buffer = nix::cmsg_space!(nix::libc::in6_pktinfo, i32);
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(max, Some(control_buffer));
    let slices = slices[..max].iter_mut();
    let received = recvmmsg(socket.as_raw_fd(), &mut headers, slices, MsgFlags::MSG_DONTWAIT, None)?;
    let mut count = 0;
    for (meta, message) in metas.iter_mut().zip(received) {
        *meta = meta_of(&message);
        count += 1;
    }
    Ok(count)
}

fn meta_of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> RecvMeta {
    let client = message.address.as_ref().and_then(socket_address).unwrap_or(RecvMeta::EMPTY.client);
    let mut meta = RecvMeta { len: message.bytes, stride: message.bytes, client, local: None };
    for control_message in message.cmsgs().into_iter().flatten() {
        match control_message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // For a broadcast or multicast, the address to reply from.
                meta.local = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                meta.local = (!address.is_multicast()).then_some(address.into());
            }
            ControlMessageOwned::UdpGroSegments(stride) => {
                meta.stride = usize::try_from(stride).ok().filter(|&n| n > 0).unwrap_or(meta.len);
            }
            _ => {}
        }
    }
    meta
}

/// Converts a client's address.
fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| std::net::SocketAddrV6::from(*v6).into()))
}

/// Sends to the address given, or to the connected one, from a given local address.
pub(crate) fn send(
    socket: &Socket,
    segments: &SegmentBatch<'_>,
    to: Option<&SocketAddr>,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let mut control = Control::new();
    if let Some(local) = from {
        control.set_source(local);
    }
    if segments.as_single().is_none() {
        control.set_segment_size(u16::try_from(segments.stride).map_err(|_| io::ErrorKind::InvalidInput)?);
    }
    let (slices, count) = segments.slices();
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

/// GSO support of a socket, as learned from the kernel and from refused sends.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct GsoSupport {
    /// Segment length from which on sends were refused; 0 without support by the kernel.
    refused_from: usize,
    /// Segment batches of that length to send one by one before the next trial.
    skips_left: u32,
}

impl GsoSupport {
    /// Probes the kernel: before Linux 4.18, a segment batch would be sent as one long datagram.
    pub(crate) fn probe(socket: &Socket) -> Self {
        let can = getsockopt(socket, sockopt::UdpGsoSegment).is_ok();
        Self { refused_from: if can { usize::MAX } else { 0 }, skips_left: if can { 0 } else { u32::MAX } }
    }

    pub(crate) fn allows(&mut self, segments: &SegmentBatch<'_>) -> bool {
        if self.refused_from == 0 || !segments.fits_gso() {
            return false;
        }
        if segments.stride < self.refused_from {
            return true;
        }
        self.skips_left = self.skips_left.saturating_sub(1);
        self.skips_left == 0
    }

    /// Reports whether a send failed because of its segmentation. Each segment must fit the route (`EINVAL`,
    /// `EMSGSIZE`), while a single datagram may be fragmented; some interfaces cannot split segments (`EIO`).
    pub(crate) fn on_send_error(&mut self, segments: &SegmentBatch<'_>, error: &io::Error) -> bool {
        use rustix::io::Errno;
        let gso_errors = [Errno::INVAL, Errno::MSGSIZE, Errno::IO, Errno::OPNOTSUPP, Errno::NOPROTOOPT];
        let segmented = segments.as_single().is_none();
        if !segmented || !gso_errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
            return false;
        }
        (self.refused_from, self.skips_left) = (segments.stride, GSO_RETRY_AFTER);
        true
    }
}

/// Length of a control message's header: its length, level and type (`cmsghdr` of Linux).
const CMSG_HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();

/// Control messages of a send.
struct Control {
    bytes: [u8; 2 * CMSG_HEADER + 32],
    len: usize,
}

impl Control {
    fn new() -> Self {
        Self { bytes: [0; 2 * CMSG_HEADER + 32], len: 0 }
    }

    /// Sets the source address by `in_pktinfo` or `in6_pktinfo`.
    fn set_source(&mut self, local: IpAddr) {
        use nix::libc::{IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO};
        match local {
            IpAddr::V4(local) => {
                // Interface index, source address, and an address that is ignored.
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

    /// Sets the segment length.
    fn set_segment_size(&mut self, stride: u16) {
        self.push(nix::libc::SOL_UDP, nix::libc::UDP_SEGMENT, &stride.to_ne_bytes());
    }

    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let length = CMSG_HEADER + value.len();
        let message = &mut self.bytes[self.len..][..length];
        let (size, word) = (size_of::<usize>(), size_of::<i32>());
        message[..size].copy_from_slice(&length.to_ne_bytes());
        message[size..size + word].copy_from_slice(&level.to_ne_bytes());
        message[size + word..CMSG_HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[CMSG_HEADER..].copy_from_slice(value);
        self.len += length.next_multiple_of(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_segments_are_retried_after_a_while_and_shorter_ones_at_once() {
        use rustix::io::Errno;
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
        let mut gso = GsoSupport { refused_from: usize::MAX, ..GsoSupport::probe(&socket) };
        let (long, short) = ([&[0; 2000][..], &[0; 2000]], [&[0; 1200][..], &[0; 1200]]);
        let long = SegmentBatch::of(&long);
        let short = SegmentBatch::of(&short);
        assert!(gso.allows(&long) && gso.allows(&short));
        assert!(!gso.on_send_error(&long, &Errno::CONNREFUSED.into()), "the error concerns the destination");
        assert!(
            !gso.on_send_error(&SegmentBatch::single(&&[0; 9][..]), &Errno::MSGSIZE.into()),
            "the error concerns a single datagram"
        );
        assert!(gso.allows(&long));
        assert!(gso.on_send_error(&long, &Errno::MSGSIZE.into()));
        for _ in 1..GSO_RETRY_AFTER {
            assert!(!gso.allows(&long) && gso.allows(&short));
        }
        assert!(gso.allows(&long), "GSO is tried again");
        assert!(!GsoSupport::default().allows(&short), "GSO is not used without support by the kernel");
    }
}
