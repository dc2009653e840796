//! Lookup of host names.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// Lookup of host names, which an embedding program can replace with
/// [`Adapters::with_lookup`](crate::adapter::Adapters::with_lookup).
pub trait NameLookup: fmt::Debug + Send + Sync {
    /// Returns the addresses of `host` with `port`. May block: it is called on a thread of its own.
    ///
    /// # Errors
    /// The lookup failed. Addresses that were found before stay in use.
    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Lookup by the system's resolver: `/etc/hosts`, DNS and whatever else the system is configured to use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemLookup;

impl NameLookup for SystemLookup {
    fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }
}
