//! Connections that count toward the limits of a destination and of its pool.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::DestinationStats;
use crate::limiter::PoolLimiter;

impl PoolLimiter {
    /// Counts one more connection to the destination of `stats`, unless its limit or the pool's is reached.
    pub fn acquire_connection(self: &Arc<Self>, stats: &Arc<DestinationStats>) -> Option<ConnectionPermit> {
        stats.connections().try_acquire()?;
        if self.connections.try_acquire().is_none() {
            stats.connections().release();
            return None;
        }
        Some(ConnectionPermit { limiter: self.clone(), stats: stats.clone() })
    }

    /// Registers a task that waits to open a connection to the destination of `stats`, until the result is dropped.
    /// All workers are woken now and whenever a connection is closed: they may hold idle ones to close.
    pub fn want_connection(self: &Arc<Self>, stats: &Arc<DestinationStats>) -> ConnectionWait {
        self.add_connection_waiter();
        stats.connection_waiters.fetch_add(1, SeqCst);
        self.wake_all();
        ConnectionWait { limiter: self.clone(), stats: stats.clone() }
    }
}

/// One connection within the limits: released when this is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<PoolLimiter>,
    stats: Arc<DestinationStats>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limiter.connections.release();
        self.stats.connections().release();
        if self.limiter.has_connection_waiters() {
            self.limiter.wake_all();
        }
    }
}

/// Registration of a task that waits for a [`ConnectionPermit`].
#[derive(Debug)]
pub struct ConnectionWait {
    limiter: Arc<PoolLimiter>,
    stats: Arc<DestinationStats>,
}

impl Drop for ConnectionWait {
    fn drop(&mut self) {
        self.stats.connection_waiters.fetch_sub(1, SeqCst);
        self.limiter.remove_connection_waiter();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{DestinationLimits, PoolLimits};

    #[test]
    fn a_connection_counts_for_its_destination_and_for_the_pool() {
        let limiter = Arc::new(PoolLimiter::new(1));
        limiter.set_limits(&PoolLimits { connections: 2, ..PoolLimits::default() });
        let [a, b] = [0, 1].map(|_| Arc::new(DestinationStats::new(1)));
        a.set_limits(DestinationLimits { requests: 0, connections: 1 });
        let first = limiter.acquire_connection(&a).expect("below the limits");
        assert!(limiter.acquire_connection(&a).is_none(), "the destination is full");
        let second = limiter.acquire_connection(&b).expect("below the limits");
        assert!(limiter.acquire_connection(&b).is_none(), "the pool is full");
        assert_eq!(
            (limiter.connections.current(), a.connections().current(), b.connections().current()),
            (2, 1, 1)
        );
        let wait = limiter.want_connection(&b);
        assert!(
            limiter.has_connection_waiters() && b.has_connection_waiters() && !a.has_connection_waiters()
        );
        drop(first);
        assert!(limiter.acquire_connection(&b).is_some());
        drop((wait, second));
        assert!(!limiter.has_connection_waiters() && !b.has_connection_waiters());
        assert_eq!(limiter.connections.current(), 0);
    }
}
