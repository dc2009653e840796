//! Connection limits of a pool and its destinations.
//!
//! Idle connections count, and may belong to other workers. A request that finds the limit reached registers as a
//! waiter. Then each worker closes its coldest idle connection where the limit is reached, and does not keep a
//! connection that was just used.

use std::io;
use std::sync::Arc;

use plimsoll_core::stats::ConnectionPermit;
use plimsoll_core::{Address, DestinationId, DestinationStats};

use crate::base::counters::Overflow;
use crate::base::fd_reserve;
use crate::net::socket_options::set_tcp_options;
use crate::net::socket_stream::SocketStream;
use crate::upstream::pool::WorkerPool;

impl WorkerPool {
    /// Opens a connection, within the limit of connections if there is one.
    ///
    /// # Errors
    /// The connection cannot be opened, or the limit was reached for half the connect timeout
    /// ([`io::ErrorKind::QuotaExceeded`]), which is not the destination's fault.
    pub(crate) async fn connect_limited(
        &self,
        id: DestinationId,
        address: &Address,
    ) -> io::Result<SocketStream> {
        let (limited, options) = {
            let table = self.table.borrow();
            (table.config.limits_connections(), table.config.tcp)
        };
        let permit = if limited { Some(self.acquire_permit(id).await?) } else { None };
        let socket = SocketStream::connect(address).await?;
        if let Some(socket) = socket.socket() {
            fd_reserve::check(&*socket)?;
            if matches!(address, Address::Socket(_)) {
                set_tcp_options(&socket, options)?;
            }
        }
        Ok(socket.limited(permit))
    }

    async fn acquire_permit(&self, id: DestinationId) -> io::Result<ConnectionPermit> {
        let stats = self.stats(id).ok_or(io::ErrorKind::NotFound)?;
        let limiter = self.table.borrow().limiter.clone();
        if let Some(permit) = limiter.acquire_connection(&stats) {
            return Ok(permit);
        }
        let timeout = self.table.borrow().config.timeouts.connect / 2;
        let _waiting = limiter.want_connection(&stats);
        let acquired = async {
            loop {
                self.evict_idle();
                let freed = self.connection_freed.notified();
                if let Some(permit) = limiter.acquire_connection(&stats) {
                    return permit;
                }
                freed.await;
            }
        };
        tokio::time::timeout(timeout, acquired).await.map_err(|_| {
            self.table.borrow().counters.of(self.worker).overflowed(Overflow::Connections);
            io::ErrorKind::QuotaExceeded.into()
        })
    }

    /// Closes idle connections for waiters: one of each destination at its limit, or the coldest of all if the pool is
    /// at its limit.
    fn evict_idle(&self) {
        let limiter = self.table.borrow().limiter.clone();
        for (id, stats) in self.destination_stats() {
            if stats.has_connection_waiters() && stats.connections().is_full() {
                self.close_coldest(Some(id));
            }
        }
        if limiter.connections.is_full() {
            self.close_coldest(None);
        }
    }

    /// Closes idle connections for waiters of all workers, and wakes the waiters of this worker.
    pub(crate) fn evict_idle_for_waiters(&self) {
        if self.table.borrow().limiter.has_connection_waiters() {
            self.evict_idle();
            self.connection_freed.notify_waiters();
        }
    }

    /// Reports whether a connection that was just used should be closed because a waiter needs its permit.
    pub(crate) fn should_close_for_waiters(&self, id: DestinationId) -> bool {
        let table = self.table.borrow();
        table.limiter.has_connection_waiters()
            && (table.limiter.connections.is_full()
                || self
                    .stats(id)
                    .is_some_and(|stats| stats.has_connection_waiters() && stats.connections().is_full()))
    }

    fn stats(&self, id: DestinationId) -> Option<Arc<DestinationStats>> {
        self.destination_stats().find(|(known, _)| *known == id).map(|(_, stats)| stats)
    }
}
