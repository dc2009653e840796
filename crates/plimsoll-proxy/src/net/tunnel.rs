//! Tunnels: bytes copied in both directions between two ends.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::context::WorkerContext;
use crate::base::timer::{RESOLUTION, Timer};
use crate::base::turn::{TURN_BYTES, yield_turn};
use crate::base::write_buffer::WriteBuffer;
use crate::net::stream::Stream;

/// Maximum number of reads and writes of one direction before other connections run.
const MAX_ITERATIONS: usize = 16;

/// Bytes that a tunnel copied.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BytesCopied {
    pub(crate) to_destination: u64,
    pub(crate) to_client: u64,
}

/// One end of a tunnel.
pub(crate) trait TunnelEnd {
    /// Reads at least one byte into `buffer`; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of the bytes.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Shuts the write side down.
    fn shutdown_write(&mut self);

    /// Makes the coming close a reset, not an orderly end.
    fn reset(&mut self);

    /// Reports whether the end was reset while it was not read.
    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool;
}

impl TunnelEnd for Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read(cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, bytes)
    }

    fn shutdown_write(&mut self) {
        self.shutdown_write();
    }

    fn reset(&mut self) {
        self.reset_on_close();
    }

    /// Returns `false`: the next write finds a reset, and a query would cost a system call.
    fn is_reset(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }
}

/// One direction of a tunnel.
#[derive(Debug)]
struct Flow {
    pending: WriteBuffer,
    ended: bool,
    end_sent: bool,
    copied: u64,
}

/// Result of one poll of a flow.
enum Step {
    /// Nothing more can be copied now; `true` if something was copied.
    Pending(bool),
    /// A stream failed.
    Broken,
}

impl Flow {
    fn new(kept: Vec<u8>) -> Self {
        Self { pending: kept.into(), ended: false, end_sent: false, copied: 0 }
    }

    /// Copies bytes until a socket is not ready. The source's end is passed on once all bytes are written.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut dyn TunnelEnd,
        to: &mut dyn TunnelEnd,
    ) -> Step {
        let mut copied = false;
        let mut budget = TURN_BYTES;
        for _ in 0..MAX_ITERATIONS {
            if !self.pending.is_empty() {
                match to.poll_write(cx, self.pending.rest()) {
                    Poll::Pending => return Step::Pending(copied),
                    Poll::Ready(Ok(n @ 1..)) => {
                        self.pending.advance(n);
                        self.copied += n as u64;
                    }
                    Poll::Ready(_) => return Step::Broken,
                }
                copied = true;
                continue;
            }
            if self.ended {
                if !std::mem::replace(&mut self.end_sent, true) {
                    to.shutdown_write();
                }
                return Step::Pending(copied);
            }
            match from.poll_read(cx, &mut scratch[..self.pending.read_size()]) {
                Poll::Pending => return Step::Pending(copied),
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(n)) => {
                    let polled = to.poll_write(cx, &scratch[..n]);
                    let Ok(written) = self.pending.on_write(polled, [&scratch[..n], b"", b""]) else {
                        return Step::Broken;
                    };
                    self.copied += written as u64;
                    budget = budget.saturating_sub(n);
                }
                Poll::Ready(Err(_)) => return Step::Broken,
            }
            copied = true;
            if budget == 0 {
                break;
            }
        }
        yield_turn(cx);
        Step::Pending(copied)
    }

    fn is_over(&self) -> bool {
        self.ended && self.end_sent
    }
}

/// Copies bytes in both directions between the client and the destination until both have ended, one fails, or nothing
/// is copied for `idle`.
///
/// `early` was received from the client before the tunnel, `unsent` from the destination.
pub(crate) async fn tunnel(
    worker: &Rc<WorkerContext>,
    timer: &Rc<Timer>,
    [client, upstream]: [&mut dyn TunnelEnd; 2],
    early: Vec<u8>,
    unsent: Vec<u8>,
    idle: Duration,
) -> BytesCopied {
    let (mut up, mut down) = (Flow::new(early), Flow::new(unsent));
    worker.timers.set(timer, worker.now() + idle);
    std::future::poll_fn(|cx| {
        let mut scratch = worker.scratch.borrow_mut();
        let steps =
            [up.poll(cx, &mut scratch, client, upstream), down.poll(cx, &mut scratch, upstream, client)];
        let mut copied = false;
        let mut broken = client.is_reset(cx) || upstream.is_reset(cx);
        for step in steps {
            match step {
                Step::Pending(some) => copied |= some,
                Step::Broken => broken = true,
            }
        }
        if up.is_over() && down.is_over() {
            return Poll::Ready(());
        }
        if broken {
            client.reset();
            upstream.reset();
            return Poll::Ready(());
        }
        if copied {
            worker.timers.set(timer, worker.timers.about_now() + idle + RESOLUTION);
        }
        timer.poll(cx)
    })
    .await;
    BytesCopied { to_destination: up.copied, to_client: down.copied }
}
