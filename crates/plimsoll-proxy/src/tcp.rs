//! How bytes run both ways between two streams, and how a TCP connection finds its destination.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::adapter::{Adapter, Connection, Passage};
use crate::http1::answer::Reason;
use crate::pending::Pending;
use crate::stream::Stream;
use crate::timer::{Alarm, RESOLUTION};
use crate::tls::hello::{self, Hello};
use crate::worker::Worker;

/// Reads of one direction before other connections get their turn.
const TURNS: usize = 16;

/// Bytes a tunnel moved.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) to_destination: u64,
    pub(crate) to_client: u64,
}

/// TCP: a destination that can be connected to, then a tunnel.
#[derive(Debug)]
pub(crate) struct Tcp;

impl Adapter for Tcp {
    fn word(&self) -> &'static str {
        "tcp"
    }

    fn serve(&self, connection: Connection) {
        Connection::spawn(serve(connection));
    }
}

async fn serve(mut connection: Connection) {
    let view = connection.guest.door.view();
    let mut asked = None;
    if connection.introduction.is_none() && view.table.asks_for_sni() {
        let limit = connection.limit(view.table.config.timeouts.handshake);
        match limit.within(read_hello(&mut connection)).await {
            Some(Some(name)) => asked = name,
            Some(None) => return,
            None => return connection.count(Reason::HandshakeTimeout),
        }
    }
    let begun = match &asked {
        Some(name) => Passage::begin_as(&connection, Some(name)),
        None => connection.route(),
    };
    let Some(mut passage) = begun else { return connection.reset() };
    match passage.next().await {
        Ok(mut destination) => {
            passage.served(&mut destination);
            passage.relay(connection, destination).await;
        }
        // A reset tells the client that nobody served it; an end of data would look like an empty answer.
        Err(_counted) => connection.reset(),
    }
}

/// Reads the hello of TLS and leaves it, with all that came along, in the buffer. Answers the name it asks
/// for; who speaks something else asks for none. `None`: the client left.
async fn read_hello(connection: &mut Connection) -> Option<Option<String>> {
    loop {
        match hello::read(connection.buffer()) {
            Hello::Incomplete => {}
            Hello::Asks(name) => return Some(name),
            Hello::NotTls => return Some(None),
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return None;
        }
    }
}

/// One direction of a tunnel.
#[derive(Debug)]
struct Flow {
    pending: Pending,
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
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], from: &mut Stream, to: &mut Stream) -> Step {
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
                    to.shut_write();
                }
                return Step::Waits(moved);
            }
            match from.poll_read(cx, &mut scratch[..self.pending.read_size()]) {
                Poll::Pending => return Step::Waits(moved),
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(n)) => {
                    let polled = to.poll_write(cx, &scratch[..n]);
                    let Ok(written) = self.pending.wrote(polled, [&scratch[..n], b"", b""]) else {
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

/// Runs bytes both ways until both ends are done, one breaks, or nothing moves for `idle`.
///
/// `early` came from the client before the tunnel stood, `unsent` from the destination.
pub(crate) async fn tunnel(
    worker: &Rc<Worker>,
    alarm: &Rc<Alarm>,
    client: &mut Stream,
    mut upstream: Stream,
    early: Vec<u8>,
    unsent: Vec<u8>,
    idle: Duration,
) -> Moved {
    let (mut up, mut down) = (Flow::new(early), Flow::new(unsent));
    worker.timers.set(alarm, worker.now() + idle);
    std::future::poll_fn(|cx| {
        let mut scratch = worker.scratch.borrow_mut();
        let mut moved = false;
        for direction in [true, false] {
            let step = match direction {
                true => up.poll(cx, &mut scratch, client, &mut upstream),
                false => down.poll(cx, &mut scratch, &mut upstream, client),
            };
            match step {
                Step::Waits(some) => moved |= some,
                Step::Broken => {
                    client.reset_on_close();
                    upstream.reset_on_close();
                    return Poll::Ready(());
                }
            }
        }
        if up.is_over() && down.is_over() {
            return Poll::Ready(());
        }
        if moved {
            worker.timers.set(alarm, worker.timers.about_now() + idle + RESOLUTION);
        }
        alarm.poll(cx)
    })
    .await;
    Moved { to_destination: up.moved, to_client: down.moved }
}
