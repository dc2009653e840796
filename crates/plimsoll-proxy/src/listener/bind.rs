//! Binding of listening sockets.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plimsoll_config::model::{ListenAddress, Listener, TcpOptions, UnixFile};
use socket2::{Domain, SockAddr, SockRef, Type};

use crate::net::socket_options;

/// Backlog of a listening socket; the kernel caps it (`net.core.somaxconn`).
pub(super) const BACKLOG: i32 = 4096;
/// Receive buffer of a datagram socket, in bytes; the kernel caps it (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 << 20;

/// Settings of a listener's sockets beside their addresses. When they change, the sockets are bound anew.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketSettings {
    tcp: TcpOptions,
    unix: UnixFile,
}

impl SocketSettings {
    /// Returns the settings of a listener.
    pub(crate) fn of(listener: &Listener) -> Self {
        Self { tcp: listener.tcp, unix: listener.unix }
    }
}

/// Sockets of one address, one for each worker.
#[derive(Debug)]
pub(crate) struct BoundSockets {
    /// Address, with the port that the system chose for port 0.
    pub(crate) actual: ListenAddress,
    pub(crate) sockets: Vec<socket2::Socket>,
    /// File of a Unix socket.
    pub(crate) file: Option<SocketFile>,
}

/// File of a listening Unix socket. It is removed when dropped, unless another socket has taken its path.
#[derive(Debug)]
pub(crate) struct SocketFile {
    /// Path that clients connect to.
    path: PathBuf,
    /// Path of the file until [`Self::install`], if another socket of this process has the other one.
    temporary: Option<PathBuf>,
    /// Device and number of the file.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.path)
    }

    /// Moves the file over that of the socket it replaces, so that there is always one.
    pub(crate) fn install(&mut self) {
        let Some(temporary) = self.temporary.take() else { return };
        if let Err(error) = fs::rename(&temporary, &self.path) {
            tracing::error!(path = %self.path.display(), %error, "cannot replace the file of a Unix socket");
            self.temporary = Some(temporary);
        }
    }

    /// Removes the file, unless another socket has taken its path.
    pub(crate) fn remove(&self) {
        if identity(self.at()).is_ok_and(|found| found == self.identity) {
            let _removed_meanwhile = fs::remove_file(self.at());
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Binds one socket for each of `workers` workers on `address`, all or none.
///
/// The sockets share a port by `SO_REUSEPORT`, so the kernel spreads connections without a lock. That option would also
/// let a second process bind the port. So the first socket is bound without it, which fails if the port is in use, and
/// gets the option afterwards while it holds the port.
///
/// `shared` means that sockets of this process hold the address or one that overlaps with it. The kernel gives each
/// connection to the most specific address, and IPv4 to an IPv4 address before `[::]`.
///
/// # Errors
/// The address cannot be bound, most often because it is in use or not local.
pub(crate) fn bind(
    address: &ListenAddress,
    settings: SocketSettings,
    workers: usize,
    shared: bool,
) -> io::Result<BoundSockets> {
    let mut file = None;
    let (actual, sockets) = match address {
        ListenAddress::Udp(address) => {
            let first = bind_udp(*address, shared)?;
            let actual = first.local_addr()?.as_socket().unwrap_or(*address);
            first.set_reuse_port(true)?;
            let others = (1..workers).map(|_| bind_udp(actual, true));
            let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<Vec<_>>>()?;
            (ListenAddress::Udp(actual), sockets)
        }
        ListenAddress::Socket(address) => {
            let first = bind_tcp(*address, shared, settings.tcp)?;
            let actual = first.local_addr()?.as_socket().unwrap_or(*address);
            first.set_reuse_port(true)?;
            let others = (1..workers).map(|_| bind_tcp(actual, true, settings.tcp));
            let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<Vec<_>>>()?;
            for socket in &sockets {
                socket.listen(BACKLOG)?;
            }
            (ListenAddress::Socket(actual), sockets)
        }
        ListenAddress::Unix(path) => {
            let (socket, bound) = bind_unix(path, settings.unix, shared)?;
            file = Some(bound);
            let copies = (1..workers).map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
            (address.clone(), std::iter::once(socket).chain(copies).collect())
        }
    };
    Ok(BoundSockets { actual, sockets, file })
}

fn bind_tcp(address: SocketAddr, shared: bool, options: TcpOptions) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit these, which saves system calls for each.
    socket.set_tcp_nodelay(true)?;
    socket_options::set_tcp_options(&SockRef::from(&socket), options)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Binds a UDP socket, without `SO_REUSEADDR`: it would let any process share the port.
fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket_options::request_local_addresses(&socket, address)?;
    let _as_large_as_the_kernel_permits = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Binds a Unix socket; a `shared` one at a temporary path until the other socket may be replaced.
fn bind_unix(path: &Path, settings: UnixFile, shared: bool) -> io::Result<(socket2::Socket, SocketFile)> {
    let temporary = shared.then(|| {
        let mut path = path.as_os_str().to_owned();
        path.push(".new");
        PathBuf::from(path)
    });
    let at = temporary.as_deref().unwrap_or(path);
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let address = SockAddr::unix(at)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse || !is_abandoned(at, &address) {
            return Err(error);
        }
        fs::remove_file(at)?;
        socket.bind(&address)?;
    }
    let identity = identity(at)?;
    let file = SocketFile { path: path.to_owned(), temporary, identity };
    // Before it listens, no client can connect with the permissions that the umask leaves.
    if let Some(mode) = settings.mode {
        fs::set_permissions(file.at(), fs::Permissions::from_mode(mode))?;
    }
    if settings.user.is_some() || settings.group.is_some() {
        std::os::unix::fs::lchown(file.at(), settings.user, settings.group)?;
    }
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

/// Reports whether a socket file has no listener any more, as after a killed process.
fn is_abandoned(path: &Path, address: &SockAddr) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket
        && socket2::Socket::new(Domain::UNIX, Type::STREAM, None)
            .and_then(|probe| probe.connect(address))
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(address: &ListenAddress, workers: usize) -> io::Result<(ListenAddress, Vec<socket2::Socket>)> {
        let settings = SocketSettings { tcp: plimsoll_config::defaults::TCP, unix: UnixFile::default() };
        bind(address, settings, workers, false).map(|bound| (bound.actual, bound.sockets))
    }

    #[test]
    fn accepted_connections_inherit_the_tcp_options() {
        let any = ListenAddress::Socket(([127, 0, 0, 1], 0).into());
        let (actual, sockets) = bound(&any, 1).unwrap();
        let ListenAddress::Socket(address) = actual else { panic!("{actual:?}") };
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = sockets[0].accept().unwrap();
        assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap().as_secs(), 60);
        assert_eq!(accepted.tcp_user_timeout().unwrap().unwrap().as_secs(), 30);
    }

    #[test]
    fn workers_share_a_port_that_no_other_process_can_bind() {
        let any = ListenAddress::Socket(([127, 0, 0, 1], 0).into());
        let (actual, sockets) = bound(&any, 4).unwrap();
        let ListenAddress::Socket(address) = actual else { panic!("{actual:?}") };
        assert_eq!(sockets.len(), 4);
        for workers in [1, 2] {
            let again = bound(&ListenAddress::Socket(address), workers);
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        // The kernel spreads connections by a hash of both addresses: each of four sockets gets some of 400.
        let clients: Vec<_> = (0..400).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let mut taken = 0;
        for socket in &sockets {
            let mine = std::iter::from_fn(|| socket.accept().ok()).count();
            assert!(mine > 20, "{mine} of {}", clients.len());
            taken += mine;
        }
        assert_eq!(taken, clients.len());
    }

    #[test]
    fn workers_share_a_udp_port_that_no_other_process_can_bind() {
        let any = ListenAddress::Udp(([127, 0, 0, 1], 0).into());
        let (actual, sockets) = bound(&any, 4).unwrap();
        let ListenAddress::Udp(address) = actual else { panic!("{actual:?}") };
        for workers in [1, 2] {
            let again = bound(&ListenAddress::Udp(address), workers);
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        let clients: Vec<_> = (0..400).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for client in clients.iter().chain(&clients) {
            client.send_to(b"x", address).unwrap();
        }
        let mut workers_of = std::collections::HashMap::new();
        for (place, socket) in sockets.iter().enumerate() {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
            let mut mine = 0;
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                mine += 1;
                let worker = workers_of.entry(from.as_socket()).or_insert(place);
                assert_eq!(*worker, place, "a client's datagrams arrive at one worker");
            }
            assert!(mine > 40, "{mine} of 800");
        }
        assert_eq!(workers_of.len(), clients.len());
    }
}
