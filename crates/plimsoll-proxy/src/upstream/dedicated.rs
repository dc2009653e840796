//! Connections to destinations that belong to one client's connection.
//!
//! NTLM and Negotiate authenticate a connection and not a request (RFC 4559 section 6). The next request
//! on it acts in the name of the client that logged in, so no other client may use it.

use plimsoll_core::{Address, DestinationId};

use crate::net::stream::Stream;

/// Maximum number of pools that one client's connection has a connection to.
const MAX_POOLS: usize = 16;

/// Idle connections of one client's connection, at most one for each pool.
#[derive(Debug, Default)]
pub(crate) struct DedicatedConnections(Vec<Dedicated>);

#[derive(Debug)]
struct Dedicated {
    pool: u64,
    id: DestinationId,
    address: Address,
    stream: Stream,
}

impl DedicatedConnections {
    /// Returns the destination that the client's requests to a pool have to stay at. A connection that was closed does
    /// not count.
    pub(crate) fn destination_of(&mut self, pool: u64) -> Option<(DestinationId, Address)> {
        let at = self.0.iter().position(|kept| kept.pool == pool)?;
        if !self.0[at].stream.is_idle() {
            self.0.swap_remove(at);
            return None;
        }
        Some((self.0[at].id, self.0[at].address.clone()))
    }

    /// Returns the connection to a destination of a pool.
    pub(crate) fn take(&mut self, pool: u64, id: DestinationId, address: &Address) -> Option<Stream> {
        let is_wanted = |kept: &Dedicated| kept.pool == pool && kept.id == id && kept.address == *address;
        let mut taken = self.0.swap_remove(self.0.iter().position(is_wanted)?);
        taken.stream.is_idle().then_some(taken.stream)
    }

    /// Keeps a connection for the client's next request to a pool.
    pub(crate) fn keep(&mut self, pool: u64, id: DestinationId, address: Address, stream: Stream) {
        self.0.retain(|kept| kept.pool != pool);
        if self.0.len() == MAX_POOLS {
            self.0.remove(0);
        }
        self.0.push(Dedicated { pool, id, address, stream });
    }
}
