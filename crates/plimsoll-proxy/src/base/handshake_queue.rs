//! Whose handshake is next: one for each round of a worker, so that a flood of them starves no request.
//!
//! The dear step of a handshake takes as long as ten requests. All that is ready runs between two of them.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A worker's turnstile. Who comes first goes first; who leaves the queue holds up nobody.
#[derive(Debug)]
pub(crate) struct Turnstile(Arc<Semaphore>);

impl Default for Turnstile {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turnstile {
    /// Waits for a round in which nobody has gone through yet.
    pub(crate) async fn pass(&self) {
        let turn = self.0.clone().acquire_owned().await;
        tokio::task::spawn_local(async move {
            // Not before the worker has looked for what else is ready.
            tokio::task::yield_now().await;
            drop(turn);
        });
    }
}
