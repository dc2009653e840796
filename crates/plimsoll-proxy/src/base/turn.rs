//! Turns of tasks: how many bytes a connection moves before others are served.

use std::pin::pin;
use std::task::Context;

use crate::base::buffers::SCRATCH;

/// Maximum number of bytes that one direction of a connection reads in one turn.
///
/// With 16 reads of this size, 32 large downloads delayed a small request on the same worker by hundreds of
/// milliseconds. With one read the throughput and the CPU time per byte are the same.
pub(crate) const TURN_BYTES: usize = SCRATCH;

/// Ends the turn of a task that could continue: it is polled again after all others that are ready, and after the
/// worker has looked for new I/O.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    let _pending_once = pin!(tokio::task::yield_now()).poll(cx);
}
