//! Accepting of connections from listening sockets.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::SocketFlags;
use socket2::{Domain, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::base::context::WorkerContext;
use crate::base::fd_reserve;
use crate::listener::adapter::{Datagrams, SocketHandler};
use crate::listener::admission::accept_connection;
use crate::listener::bind::BACKLOG;
use crate::listener::worker_listener::WorkerListener;
use crate::net::stream::{self, Peer, SocketStream, Stream};

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
