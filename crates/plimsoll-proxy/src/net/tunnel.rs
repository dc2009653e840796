//! How bytes run both ways between two ends, whatever these are.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::base::context::WorkerContext;
use crate::base::timer::{RESOLUTION, Timer};
use crate::base::write_buffer::WriteBuffer;
use crate::net::stream::Stream;

/// Reads of one direction before other connections get their turn.
const TURNS: usize = 16;

/// Bytes a tunnel moved.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BytesCopied {
    pub(crate) to_destination: u64,
    pub(crate) to_client: u64,
}

/// One end of a tunnel.
pub(crate) trait TunnelEnd {
    /// Reads at least one byte into `buffer`, or tells of the end with 0.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of the bytes.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Says "no more from me".
    fn shutdown_write(&mut self);

    /// Makes its close look like what it is: not an end, but a break.
    fn reset(&mut self);

    /// It broke while nobody was reading from it.
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

    /// Found out by the next write: a question would cost a system call.
    fn is_reset(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }
}

/// One direction of a tunnel.
#[derive(Debug)]
struct Flow {
    pending: WriteBuffer,
    ended: bool,
    told: bool,
    moved: u64,
}

/// What one poll of a flow came to.
enum Step {
    /// Nothing more can be moved now; `true` if something was.
    Waits(bool),
    /// A stream broke.
    Broken,
}

impl Flow {
    fn new(kept: Vec<u8>) -> Self {
        Self { pending: kept.into(), ended: false, told: false, moved: 0 }
    }

    /// Moves bytes until a socket says "later". The source's end is passed on as one, once all is out.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: &mut dyn TunnelEnd,
        to: &mut dyn TunnelEnd,
    ) -> Step {
        let mut moved = false;
        for _ in 0..TURNS {
            if !self.pending.is_empty() {
                match to.poll_write(cx, self.pending.rest()) {
                    Poll::Pending => return Step::Waits(moved),
                    Poll::Ready(Ok(n @ 1..)) => {
                        self.pending.advance(n);
                        self.moved += n as u64;
                    }
                    Poll::Ready(_) => return Step::Broken,
                }
                moved = true;
                continue;
            }
            if self.ended {
                if !std::mem::replace(&mut self.told, true) {
                    to.shutdown_write();
                }
                return Step::Waits(moved);
            }
            match from.poll_read(cx, &mut scratch[..self.pending.read_size()]) {
                Poll::Pending => return Step::Waits(moved),
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(n)) => {
                    let polled = to.poll_write(cx, &scratch[..n]);
                    let Ok(written) = self.pending.on_write(polled, [&scratch[..n], b"", b""]) else {
                        return Step::Broken;
                    };
                    self.moved += written as u64;
                }
                Poll::Ready(Err(_)) => return Step::Broken,
            }
            moved = true;
        }
        cx.waker().wake_by_ref();
        Step::Waits(moved)
    }

    fn is_over(&self) -> bool {
        self.ended && self.told
    }
}

/// Runs bytes both ways between the client and the destination until both are done, one breaks, or nothing moves
/// for `idle`.
///
/// `early` came from the client before the tunnel stood, `unsent` from the destination.
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
        let mut moved = false;
        let mut broken = client.is_reset(cx) || upstream.is_reset(cx);
        for step in steps {
            match step {
                Step::Waits(some) => moved |= some,
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
        if moved {
            worker.timers.set(timer, worker.timers.about_now() + idle + RESOLUTION);
        }
        timer.poll(cx)
    })
    .await;
    BytesCopied { to_destination: up.moved, to_client: down.moved }
}
