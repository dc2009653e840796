//! Where a test's socket is, TCP or Unix, in one type.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use plimsoll_config::model::{DestinationAddress, ListenAddress};
use socket2::{Domain, SockAddr, Socket, Type};

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
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

    /// A bound socket that does not listen. As long as it lives, the port is given to nobody else.
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

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// Thousands of connections need thousands of descriptors: as many as this process may have.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _as_far_as_it_goes =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A short path nobody else uses, for a socket or a file, which goes with it.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        Self(std::env::temp_dir().join(format!("plimsoll-{process}-{number}-{name}")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path; whatever is put there stays.
    pub(crate) fn keep(self) -> PathBuf {
        let path = self.0.clone();
        std::mem::forget(self);
        path
    }

    pub(crate) fn place(&self) -> Place {
        Place::Unix(self.0.clone())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _was_not_there = std::fs::remove_file(&self.0);
    }
}
