//! Addresses of the tests' sockets, TCP or Unix, in one type.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use plimsoll_config::model::{DestinationAddress, ListenAddress};
use socket2::{Domain, SockAddr, Socket, Type};

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Endpoint {
    fn address(&self) -> SockAddr {
        match self {
            Self::Tcp(address) => (*address).into(),
            Self::Unix(path) => SockAddr::unix(path).expect("a short path"),
        }
    }

    fn socket(&self) -> io::Result<Socket> {
        let domain = match self {
            Self::Tcp(address) => Domain::for_address(*address),
            Self::Unix(_) => Domain::UNIX,
        };
        Socket::new(domain, Type::STREAM, None)
    }

    pub(crate) fn connect(&self) -> io::Result<Socket> {
        let socket = self.socket()?;
        if matches!(self, Self::Tcp(_)) {
            socket.set_tcp_nodelay(true)?;
        }
        socket.connect(&self.address())?;
        Ok(socket)
    }

    /// Binds a socket without listening. While it lives, the system gives the port to no other socket.
    pub(crate) fn reserve(&self) -> io::Result<Socket> {
        let socket = self.socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&self.address())?;
        Ok(socket)
    }

    pub(crate) fn listen(&self) -> io::Result<Socket> {
        let socket = self.reserve()?;
        socket.listen(1024)?;
        Ok(socket)
    }

    pub(crate) fn as_destination(&self) -> DestinationAddress {
        match self {
            Self::Tcp(address) => DestinationAddress::Socket(*address),
            Self::Unix(path) => DestinationAddress::Unix(path.clone()),
        }
    }

    pub(crate) fn as_listener(&self) -> ListenAddress {
        match self {
            Self::Tcp(address) => ListenAddress::Socket(*address),
            Self::Unix(path) => ListenAddress::Unix(path.clone()),
        }
    }

    pub(crate) fn of(listening: &ListenAddress) -> Self {
        match listening {
            ListenAddress::Socket(address) | ListenAddress::Udp(address) => Self::Tcp(*address),
            ListenAddress::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// Raises the limit of file descriptors to the maximum: thousands of connections need thousands of them.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _as_far_as_it_goes =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A short, unique path for a socket or a file, which is removed on drop.
#[derive(Debug)]
pub(crate) struct TempPath(PathBuf);

impl TempPath {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        Self(std::env::temp_dir().join(format!("plimsoll-{process}-{number}-{name}")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path without removing its file on drop.
    pub(crate) fn keep(self) -> PathBuf {
        let path = self.0.clone();
        std::mem::forget(self);
        path
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.0.clone())
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _was_not_there = std::fs::remove_file(&self.0);
    }
}
