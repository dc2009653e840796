//! The end of an HTTP/1 connection with a client that still sends.

use std::cell::Cell;
use std::task::Poll;
use std::time::Duration;

use crate::base::context::{TimerGuard, WorkerContext};
use crate::base::timer::RESOLUTION;
use crate::base::turn::yield_turn;
use crate::net::stream::Stream;

/// Time after the last response during which the client's bytes are read and discarded. Closing with unread
/// bytes would reset the connection, and the client could lose the response (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(30);
/// Time for which a client is read after the last response while the proxy is shutting down.
const LINGER_DRAINING: Duration = Duration::from_secs(2);
/// Time without a byte after which a client has stopped sending.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// Maximum number of connections of a worker that are read to their end; further ones are closed at once.
const MAX_LINGERING: usize = 1024;

/// Counts a connection that lingers, until dropped.
struct Lingering<'w>(&'w Cell<usize>);

impl<'w> Lingering<'w> {
    /// Counts one more; `None` at the maximum.
    fn begin(worker: &'w WorkerContext) -> Option<Self> {
        let count = worker.lingering.get();
        (count < MAX_LINGERING).then(|| worker.lingering.set(count + 1))?;
        Some(Self(&worker.lingering))
    }
}

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Shuts down the sending side, and discards the client's bytes so that the last response arrives.
pub(super) async fn linger(stream: &mut Stream, timer: &TimerGuard, worker: &WorkerContext) {
    let Some(_counted) = Lingering::begin(worker) else { return };
    stream.shutdown_write();
    let until = worker.now() + if worker.draining.get() { LINGER_DRAINING } else { LINGER };
    worker.timers.set(timer, until.min(worker.now() + LINGER_SILENCE));
    std::future::poll_fn(|cx| {
        let mut scratch = worker.scratch.borrow_mut();
        match stream.poll_read(cx, &mut scratch[..]) {
            Poll::Ready(Ok(1..)) if worker.timers.about_now() < until => {
                let silent_at = worker.timers.about_now() + LINGER_SILENCE + RESOLUTION;
                worker.timers.set(timer, until.min(silent_at));
                yield_turn(cx);
                Poll::Pending
            }
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => timer.poll(cx),
        }
    })
    .await;
}
