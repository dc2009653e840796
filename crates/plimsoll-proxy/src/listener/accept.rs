//! Listening sockets: how they are bound, and how connections are accepted from them.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_config::model::ListenAddress;
use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::base::context::WorkerContext;
use crate::base::fd_reserve;
use crate::listener::adapter::{Datagrams, SocketHandler};
use crate::listener::admission::accept_connection;
use crate::listener::worker_listener::WorkerListener;
use crate::net::socket_options;
use crate::net::stream::{self, Peer, SocketStream, Stream};

/// Backlog of a listening socket; the kernel caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// Receive buffer of a datagram socket, in bytes; the kernel caps it (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 << 20;
/// Flags of accepted sockets.
const ACCEPTED: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
/// Pause after a failed accept: long enough for file descriptors to become free, too short to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound, listening socket with a unique number.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) number: u64,
    pub(crate) inner: socket2::Socket,
}

/// Binds one socket for each of `workers` workers on `address`, all or none.
///
/// The sockets share a port by `SO_REUSEPORT`, so the kernel spreads connections without a lock. That option would also
/// let a second process bind the port. So the first socket is bound without it, which fails if the port is in use, and
/// gets the option afterwards while it holds the port.
///
/// `taken_over` means that a listener of this process holds the address and is about to close it.
///
/// # Errors
/// The address cannot be bound, most often because it is in use or not local.
pub(crate) fn bind(
    address: &ListenAddress,
    workers: usize,
    taken_over: bool,
) -> io::Result<(ListenAddress, Vec<socket2::Socket>)> {
    match address {
        ListenAddress::Udp(address) => {
            let first = bind_udp(*address, taken_over)?;
            let actual = first.local_addr()?.as_socket().unwrap_or(*address);
            first.set_reuse_port(true)?;
            let others = (1..workers).map(|_| bind_udp(actual, true));
            let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<Vec<_>>>()?;
            Ok((ListenAddress::Udp(actual), sockets))
        }
        ListenAddress::Socket(address) => {
            let first = bind_tcp(*address, taken_over)?;
            let actual = first.local_addr()?.as_socket().unwrap_or(*address);
            first.set_reuse_port(true)?;
            let others = (1..workers).map(|_| bind_tcp(actual, true));
            let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<Vec<_>>>()?;
            for socket in &sockets {
                socket.listen(BACKLOG)?;
            }
            Ok((ListenAddress::Socket(actual), sockets))
        }
        ListenAddress::Unix(path) => {
            let socket = if taken_over { replace_unix(path)? } else { bind_unix(path)? };
            let copies = (1..workers).map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
            Ok((address.clone(), std::iter::once(socket).chain(copies).collect()))
        }
    }
}

fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
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

fn bind_unix(path: &Path) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let address = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse || !is_abandoned(path, &address) {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Binds a temporary file and renames it over the old socket's file, so that there is always one.
fn replace_unix(path: &Path) -> io::Result<socket2::Socket> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let socket = bind_unix(temporary)?;
    fs::rename(temporary, path)?;
    Ok(socket)
}

/// Reports whether a socket file has no listener any more, as after a killed process.
fn is_abandoned(path: &Path, address: &SockAddr) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket
        && socket2::Socket::new(Domain::UNIX, Type::STREAM, None)
            .and_then(|probe| probe.connect(address))
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

enum Acceptor {
    Tcp(AsyncFd<socket2::Socket>),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    fn new(socket: socket2::Socket) -> io::Result<Self> {
        if socket.domain()? == Domain::UNIX {
            tokio::net::UnixListener::from_std(socket.into()).map(Self::Unix)
        } else {
            stream::watch_reading(socket).map(Self::Tcp)
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.async_io(Interest::READABLE, accept_tcp).await?;
                Ok((SocketStream::accepted(stream)?.into(), peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                fd_reserve::check(&stream)?;
                Ok((SocketStream::Unix(stream).into(), Peer::Unix))
            }
        }
    }

    /// Accepts the connections that are in the kernel's queue now.
    fn pending(&self) -> impl Iterator<Item = (Stream, Peer)> {
        let next = move || match self {
            Self::Tcp(listener) => {
                let (stream, peer) = accept_tcp(listener.get_ref()).ok()?;
                Some((SocketStream::accepted(stream).ok()?.into(), peer))
            }
            Self::Unix(listener) => {
                let stream = rustix::net::accept_with(listener, ACCEPTED).ok()?;
                let stream = tokio::net::UnixStream::from_std(stream.into()).ok()?;
                Some((SocketStream::Unix(stream).into(), Peer::Unix))
            }
        };
        std::iter::from_fn(next).take(BACKLOG as usize)
    }
}

/// Accepts a connection in one system call, with its flags and its address.
fn accept_tcp(listener: &socket2::Socket) -> io::Result<(std::net::TcpStream, Peer)> {
    let (stream, peer) = rustix::net::acceptfrom_with(listener, ACCEPTED)?;
    fd_reserve::check(&stream)?;
    let peer = peer.and_then(|address| SocketAddr::try_from(address).ok());
    Ok((stream.into(), peer.map_or(Peer::Unix, Peer::Socket)))
}

/// Task that accepts on a socket.
#[derive(Debug)]
pub(crate) struct AcceptTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl AcceptTask {
    /// Accepts the queued connections and closes the socket. The returned task ends with that.
    pub(crate) fn close(self) -> JoinHandle<()> {
        let _ended_already = self.stop.send(());
        self.task
    }
}

/// A listener on one worker, with the handler of its sockets.
#[derive(Debug)]
pub(crate) struct AcceptingListener {
    pub(crate) listener: Rc<WorkerListener>,
    handler: RefCell<SocketHandler>,
}

impl AcceptingListener {
    pub(crate) fn new(listener: Rc<WorkerListener>, handler: SocketHandler) -> Rc<Self> {
        Rc::new(Self { listener, handler: RefCell::new(handler) })
    }

    /// Sets the handler of a newer configuration, for connections that are accepted from now on.
    pub(crate) fn set_handler(&self, handler: SocketHandler) {
        self.handler.replace(handler);
    }

    fn handler(&self) -> SocketHandler {
        self.handler.borrow().clone()
    }
}

/// Starts to accept on another socket of a listener.
pub(crate) fn accept_on(
    worker: &Rc<WorkerContext>,
    accepting: &Rc<AcceptingListener>,
    socket: Socket,
) -> (u64, AcceptTask) {
    let (worker, accepting) = (worker.clone(), accepting.clone());
    let number = socket.number;
    let (stop, stopped) = oneshot::channel();
    if socket.inner.r#type().is_ok_and(|kind| kind == Type::DGRAM) {
        let listener = accepting.listener.clone();
        let datagrams = Datagrams { worker, listener, socket: socket.inner, stopped };
        let task = match accepting.handler() {
            SocketHandler::Datagrams(handler) => tokio::task::spawn_local(handler.serve_datagrams(datagrams)),
            SocketHandler::Streams(_) => tokio::task::spawn_local(async { drop(datagrams) }),
        };
        return (number, AcceptTask { stop, task });
    }
    let task = tokio::task::spawn_local(async move {
        match Acceptor::new(socket.inner) {
            Ok(acceptor) => {
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = accept(&worker, &accepting, &acceptor) => {}
                }
                // Clients see these connections as established: closing the socket now would reset them.
                acceptor.pending().for_each(|(stream, peer)| hand_over(&worker, &accepting, stream, peer));
            }
            Err(error) => tracing::error!(%error, "cannot use a listening socket"),
        }
    });
    (number, AcceptTask { stop, task })
}

/// Passes a connection to the listener's protocol.
fn hand_over(worker: &Rc<WorkerContext>, accepting: &AcceptingListener, stream: Stream, peer: Peer) {
    if let SocketHandler::Streams(adapter) = accepting.handler() {
        accept_connection(worker, &accepting.listener, &adapter, stream, peer);
    }
}

async fn accept(worker: &Rc<WorkerContext>, accepting: &AcceptingListener, acceptor: &Acceptor) {
    let mut is_logged = false;
    loop {
        match acceptor.accept().await {
            Ok((stream, peer)) => {
                is_logged = false;
                hand_over(worker, accepting, stream, peer);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                let routes = accepting.listener.routes();
                routes.table.shared.counters.of(worker.number).accept_errors.add(1);
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(listener = %routes.table.config.name, %error, "cannot accept connections; retrying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Reports whether an error concerns only one connection, which ended before it was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_that_no_other_process_can_bind() {
        let any = ListenAddress::Socket(([127, 0, 0, 1], 0).into());
        let (actual, sockets) = bind(&any, 4, false).unwrap();
        let ListenAddress::Socket(address) = actual else { panic!("{actual:?}") };
        assert_eq!(sockets.len(), 4);
        for workers in [1, 2] {
            let again = bind(&ListenAddress::Socket(address), workers, false);
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
        let (actual, sockets) = bind(&any, 4, false).unwrap();
        let ListenAddress::Udp(address) = actual else { panic!("{actual:?}") };
        for workers in [1, 2] {
            let again = bind(&ListenAddress::Udp(address), workers, false);
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
