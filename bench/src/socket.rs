//! Non-blocking sockets, and results of one send or receive.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

/// Backlog above any burst of connections in a scenario; the kernel caps it at somaxconn.
const BACKLOG: i32 = 4096;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Result of one non-blocking receive or send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    Bytes(usize),
    /// Nothing to read or no space to send; the next edge signals when to continue.
    Blocked,
    /// The other side has ended its direction (receive only).
    Ended,
}

/// Creates a non-blocking listener; accepted sockets inherit `TCP_NODELAY`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tcp(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts the next connection, non-blocking, or returns `None`.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match net::accept_with(listener, FLAGS) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Starts a connection to `target`, from `source` if given, so that one target can be reached by more
/// connections than one address has ports. On loopback the handshake is finished when this returns.
pub(crate) fn connect(target: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<OwnedFd> {
    let socket = tcp(target)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = source {
        net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    }
    match net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Moved> {
    match net::recv(socket, buffer, RecvFlags::empty()) {
        Ok((_, 0)) => Ok(Moved::Ended),
        Ok((_, count)) => Ok(Moved::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::Blocked),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<Moved> {
    match net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::Blocked),
        Err(errno) => Err(errno.into()),
    }
}

/// Creates a non-blocking datagram socket at `address`.
pub(crate) fn bind_datagrams(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = udp(address)?;
    net::bind(&socket, &address)?;
    Ok(socket)
}

/// Creates a non-blocking datagram socket connected to `target`.
pub(crate) fn connect_datagrams(target: SocketAddr) -> io::Result<OwnedFd> {
    let socket = udp(target)?;
    net::connect(&socket, &target)?;
    Ok(socket)
}

/// Receives the next datagram and its source, or returns `None`.
pub(crate) fn receive_from(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
    match net::recvfrom(socket, buffer, RecvFlags::empty()) {
        Ok((_, length, from)) => Ok(from.and_then(|f| SocketAddr::try_from(f).ok()).map(|f| (length, f))),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends a datagram; it is lost if there is no buffer space.
pub(crate) fn send_to(socket: impl AsFd, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    match net::sendto(socket, bytes, SendFlags::NOSIGNAL, &to) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Ends the sending direction. A connection that is closed already is not an error here.
pub(crate) fn end(socket: impl AsFd) {
    let _ = net::shutdown(socket, net::Shutdown::Write);
}

/// Returns `count` unused loopback addresses for TCP and UDP, with ports below the ephemeral range, so that
/// no client socket can take one before its server starts.
pub(crate) fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    let mut found = Vec::with_capacity(count);
    for port in first..30_000 {
        if found.len() == count {
            break;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            found.push(address);
        }
    }
    if found.len() < count {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port between 20000 and 30000"));
    }
    Ok(found)
}

fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(net::socket_with(family, SocketType::DGRAM, FLAGS, Some(ipproto::UDP))?)
}

fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(net::socket_with(family, SocketType::STREAM, FLAGS, Some(ipproto::TCP))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_datagram_socket_is_not_free() {
        let free = free_addresses(1).expect("a free port");
        let _taken = bind_datagrams(free[0]).expect("free");
        assert!(!free_addresses(1).expect("another").contains(&free[0]));
    }
}
