//! A queue for TLS handshakes that lets one through in each round of the event loop.
//!
//! The expensive step of a handshake takes as long as ten requests. Between two of them the worker runs
//! everything else that is ready, so a flood of handshakes does not starve requests.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Queue of a worker's handshakes, in order of arrival. A cancelled waiter leaves the queue.
#[derive(Debug)]
pub(crate) struct HandshakeQueue(Arc<Semaphore>);

impl Default for HandshakeQueue {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl HandshakeQueue {
    /// Waits for a round of the event loop in which no other handshake runs.
    pub(crate) async fn wait(&self) {
        let permit = self.0.clone().acquire_owned().await;
        tokio::task::spawn_local(async move {
            // Released only after the event loop has polled everything else that is ready.
            tokio::task::yield_now().await;
            drop(permit);
        });
    }
}
