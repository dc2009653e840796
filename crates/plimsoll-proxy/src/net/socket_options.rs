//! Options of sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use plimsoll_config::model::TcpOptions;
use socket2::{SockRef, TcpKeepalive};

/// Interval between two keep-alive probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Sets the options that end connections of vanished peers; connections that a listening socket accepts inherit them.
///
/// # Errors
/// The system rejects an option.
pub(crate) fn set_tcp_options(socket: &SockRef<'_>, options: TcpOptions) -> io::Result<()> {
    if let Some(idle) = options.keepalive {
        // The kernel takes whole seconds.
        let idle = Duration::from_secs(idle.as_millis().div_ceil(1000) as u64);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(PROBE_INTERVAL))?;
    }
    match options.user_timeout {
        Some(timeout) => socket.set_tcp_user_timeout(Some(timeout)),
        None => Ok(()),
    }
}

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
