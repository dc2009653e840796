//! Socket options of listening sockets.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};

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
