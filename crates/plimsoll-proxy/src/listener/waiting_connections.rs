//! Connections that wait for their client, over all workers. At a limit the one that has waited longest is closed, so
//! that silent clients do not shut out others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Waiting connections in the order in which their wait began.
#[derive(Debug, Default)]
pub(crate) struct WaitingConnections(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

impl WaitingConnections {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `wait`, during which the connection may be evicted; `None` if it was.
    pub(crate) async fn evictable<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let entry = self.enter();
        tokio::select! {
            biased;
            () = entry.evicted.notified() => None,
            done = wait => Some(done),
        }
    }

    fn enter(&self) -> Entry<'_> {
        let evicted = Arc::new(Notify::new());
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, evicted.clone());
        Entry { connections: self, number, evicted }
    }

    /// Evicts the connection that has waited longest. Returns `false` if none waits.
    pub(crate) fn evict_oldest(&self) -> bool {
        let oldest = self.lock().by_age.pop_first();
        oldest.is_some_and(|(_, evicted)| {
            evicted.notify_one();
            true
        })
    }
}

/// A waiting connection, counted until dropped.
struct Entry<'c> {
    connections: &'c WaitingConnections,
    number: u64,
    evicted: Arc<Notify>,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.connections.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_connection_that_waited_longest_is_evicted() {
        let connections = WaitingConnections::default();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(!connections.evict_oldest());
        let mut first = pin!(connections.evictable(pending::<()>()));
        let mut second = pin!(connections.evictable(pending::<()>()));
        assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
        assert!(connections.evict_oldest());
        assert_eq!(first.as_mut().poll(&mut cx), Poll::Ready(None));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert_eq!(pin!(connections.evictable(ready(1))).poll(&mut cx), Poll::Ready(Some(1)));
        assert!(connections.evict_oldest() && !connections.evict_oldest(), "one is left");
    }
}
