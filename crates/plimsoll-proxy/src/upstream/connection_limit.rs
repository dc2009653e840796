//! Where a new connection finds room among those a pool and its destinations may have.
//!
//! Idle connections count, and may lie at other workers. Whoever finds no room says so; then the workers that have an
//! idle one where it is full close the coldest, and one that has just served is not kept.

use std::io;
use std::sync::Arc;

use plimsoll_core::stats::ConnectionPermit;
use plimsoll_core::{Address, DestinationId, DestinationStats};

use crate::base::counters::Overflow;
use crate::net::stream::Stream;
use crate::upstream::pool::WorkerPool;

impl WorkerPool {
    /// Opens a connection, once there is room for one more where its number is limited.
    ///
    /// # Errors
    /// The connection's, and [`io::ErrorKind::QuotaExceeded`] when there is no room for half the time it may take to
    /// connect: nobody else's fault.
    pub(crate) async fn connect_limited(&self, id: DestinationId, address: &Address) -> io::Result<Stream> {
        let limited = self.table.borrow().config.limits_connections();
        let permit = if limited { Some(self.acquire_permit(id).await?) } else { None };
        Stream::connect(address).await.map(|stream| stream.limited(permit))
    }

    async fn acquire_permit(&self, id: DestinationId) -> io::Result<ConnectionPermit> {
        let stats = self.stats(id).ok_or(io::ErrorKind::NotFound)?;
        let limiter = self.table.borrow().limiter.clone();
        if let Some(permit) = limiter.acquire_connection(&stats) {
            return Ok(permit);
        }
        let timeout = self.table.borrow().config.timeouts.connect / 2;
        let _waiting = limiter.want_connection(&stats);
        let found = async {
            loop {
                self.evict_idle();
                let freed = self.connection_freed.notified();
                if let Some(permit) = limiter.acquire_connection(&stats) {
                    return permit;
                }
                freed.await;
            }
        };
        tokio::time::timeout(timeout, found).await.map_err(|_| {
            self.table.borrow().counters.of(self.worker).overflowed(Overflow::Connections);
            io::ErrorKind::QuotaExceeded.into()
        })
    }

    /// Closes idle connections that take up room somebody wants: one of each destination that is full, or the coldest
    /// of all where the pool is.
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

    /// Makes room where somebody wants it, and lets those who wait here look again.
    pub(crate) fn evict_idle_for_waiters(&self) {
        if self.table.borrow().limiter.has_connection_waiters() {
            self.evict_idle();
            self.connection_freed.notify_waiters();
        }
    }

    /// Is a connection that has just served better closed, because somebody wants its room?
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
