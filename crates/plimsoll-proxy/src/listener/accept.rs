//! How a listener is opened: its sockets, and how connections are taken from them.

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
use crate::listener::adapter::Datagrams;
use crate::listener::admission::accept_connection;
use crate::listener::worker_listener::WorkerListener;
use crate::net::socket_options;
use crate::net::stream::{self, Peer, Stream};

/// Connections the kernel may hold for us; it caps the number itself (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// Bytes of datagrams the kernel may hold for one worker; it caps the number itself (`net.core.rmem_max`).
const RECEIVE_BUFFER: usize = 4 << 20;
/// How an accepted socket is to be.
const ACCEPTED: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
/// Rest after a failed accept: long enough for descriptors to come free, short enough not to be noticed.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A bound, listening socket. Its number is never used again.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) number: u64,
    pub(crate) inner: socket2::Socket,
}

/// Binds one socket for each of `workers` workers on `address`; all or none.
///
/// Several sockets share a port by `SO_REUSEPORT`, so the kernel spreads connections without a lock. That
/// option also lets a second process in by accident; so the first socket is bound without it, which refuses
/// a busy port, and gets it afterwards, holding the port all the while.
///
/// # Errors
/// The system's, most often that the address is in use or not ours.
///
/// `taken_over` says that the address is held already, by a listener of ours that is about to close it.
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
    // Accepted connections inherit it: one system call less for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// No `SO_REUSEADDR`: over UDP it would let anybody in.
fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket_options::ask_for_address(&socket, address)?;
    let _as_much_as_the_system_gives = socket.set_recv_buffer_size(RECEIVE_BUFFER);
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

/// Binds beside the old socket's file and moves the new one over it: at no moment there is none.
fn replace_unix(path: &Path) -> io::Result<socket2::Socket> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let socket = bind_unix(beside)?;
    fs::rename(beside, path)?;
    Ok(socket)
}

/// A socket file nobody listens on any more, as a killed process leaves it.
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
                Ok((Stream::accepted(stream)?, peer))
            }
            Self::Unix(l) => l.accept().await.map(|(s, _)| (Stream::Unix(s), Peer::Unix)),
        }
    }

    /// Who waits in the kernel's queue now.
    fn waiting(&self) -> impl Iterator<Item = (Stream, Peer)> {
        let next = move || match self {
            Self::Tcp(listener) => {
                let (stream, peer) = accept_tcp(listener.get_ref()).ok()?;
                Some((Stream::accepted(stream).ok()?, peer))
            }
            Self::Unix(listener) => {
                let stream = rustix::net::accept_with(listener, ACCEPTED).ok()?;
                Some((Stream::Unix(tokio::net::UnixStream::from_std(stream.into()).ok()?), Peer::Unix))
            }
        };
        std::iter::from_fn(next).take(BACKLOG as usize)
    }
}

/// One system call: `accept4` with everything asked for at once.
fn accept_tcp(listener: &socket2::Socket) -> io::Result<(std::net::TcpStream, Peer)> {
    let (stream, peer) = rustix::net::acceptfrom_with(listener, ACCEPTED)?;
    let peer = peer.and_then(|address| SocketAddr::try_from(address).ok());
    Ok((stream.into(), peer.map_or(Peer::Unix, Peer::Socket)))
}

/// A socket somebody accepts on.
#[derive(Debug)]
pub(crate) struct AcceptTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl AcceptTask {
    /// Takes in who has knocked already, then closes the socket. Done once this is awaited, or soon without.
    pub(crate) fn close(self) -> JoinHandle<()> {
        let _ended_already = self.stop.send(());
        self.task
    }
}

/// Starts accept_tasks on one more socket of a listener.
pub(crate) fn accept_on(
    worker: &Rc<WorkerContext>,
    listener: &Rc<WorkerListener>,
    socket: Socket,
) -> (u64, AcceptTask) {
    let (worker, listener) = (worker.clone(), listener.clone());
    let number = socket.number;
    let (stop, stopped) = oneshot::channel();
    if socket.inner.r#type().is_ok_and(|kind| kind == Type::DGRAM) {
        let adapter = listener.routes().table.adapter.clone();
        let datagrams = Datagrams { worker, listener, socket: socket.inner, stopped };
        let task = tokio::task::spawn_local(adapter.serve_datagrams(datagrams));
        return (number, AcceptTask { stop, task });
    }
    let task = tokio::task::spawn_local(async move {
        match Acceptor::new(socket.inner) {
            Ok(acceptor) => {
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = accept(&worker, &listener, &acceptor) => {}
                }
                // For their clients these are connections already: closing now would reset them.
                acceptor
                    .waiting()
                    .for_each(|(stream, peer)| accept_connection(&worker, &listener, stream, peer));
            }
            Err(error) => tracing::error!(%error, "a listening socket cannot be used"),
        }
    });
    (number, AcceptTask { stop, task })
}

async fn accept(worker: &Rc<WorkerContext>, listener: &Rc<WorkerListener>, acceptor: &Acceptor) {
    let mut complained = false;
    loop {
        match acceptor.accept().await {
            Ok((stream, peer)) => {
                complained = false;
                accept_connection(worker, listener, stream, peer);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                let routes = listener.routes();
                routes.table.shared.counters.of(worker.number).accept_errors.add(1);
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(listener = %routes.table.config.name, %error, "cannot accept; trying again");
                }
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// The connection went away before it was accepted; the next one is as good as ever.
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
    fn workers_share_a_port_and_nobody_else_gets_it() {
        let any = ListenAddress::Socket(([127, 0, 0, 1], 0).into());
        let (actual, sockets) = bind(&any, 4, false).unwrap();
        let ListenAddress::Socket(address) = actual else { panic!("{actual:?}") };
        assert_eq!(sockets.len(), 4);
        for workers in [1, 2] {
            let again = bind(&ListenAddress::Socket(address), workers, false);
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        // The kernel spreads by a hash of both ends: of 400 connections each of four gets some.
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
    fn workers_share_a_port_for_datagrams_and_nobody_else_gets_it() {
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
        let mut homes = std::collections::HashMap::new();
        for (place, socket) in sockets.iter().enumerate() {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
            let mut mine = 0;
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                mine += 1;
                let home = homes.entry(from.as_socket()).or_insert(place);
                assert_eq!(*home, place, "a client's datagrams come to one worker");
            }
            assert!(mine > 40, "{mine} of 800");
        }
        assert_eq!(homes.len(), clients.len());
    }
}
