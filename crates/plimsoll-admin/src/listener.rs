//! The admin API's listener: loopback only.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

/// A bound address of the admin API, made by [`bind`].
#[derive(Clone, Debug)]
pub struct AdminListener {
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

/// Why the admin API cannot listen.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The address is not a loopback one; there is no access control yet.
    NotLoopback(SocketAddr),
    /// An error of the system, most often because the address is in use.
    System(SocketAddr, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback(address) => write!(
                f,
                "admin: {address} can be reached from other machines, but the admin API has no access control \
                 yet; use 127.0.0.1 or [::1]"
            ),
            Self::System(address, error) => write!(f, "admin: cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(_, error) => Some(error),
            Self::NotLoopback(_) => None,
        }
    }
}

/// Binds the admin API to `address`, which must be a loopback address. Needs a tokio runtime.
///
/// # Errors
/// [`BindError`] if the address is not a loopback one or cannot be bound.
pub fn bind(address: SocketAddr) -> Result<AdminListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok((listener.local_addr()?, listener))
    };
    let (address, listener) = open().map_err(|error| BindError::System(address, error))?;
    Ok(AdminListener { listener: Arc::new(listener), address })
}

impl AdminListener {
    /// Returns the bound address, with port 0 resolved.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts the next connection.
    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}
