//! Socket options of listening sockets.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};

/// Requests the local address of each received datagram, for a socket that is to be bound to the unspecified address.
///
/// Must be called before the socket is bound: earlier datagrams would lack the address.
///
/// # Errors
/// The option cannot be set.
pub(crate) fn request_local_addresses(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    match (address.ip().is_unspecified(), address) {
        (false, _) => Ok(()),
        (true, SocketAddr::V4(_)) => Ok(setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?),
        (true, SocketAddr::V6(_)) => Ok(setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?),
    }
}
