//! The life of one HTTP/2 connection of a client: its settings, its streams, its end.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection as Frames};
use plimsoll_config::model::Limits;
use plimsoll_core::Tick;

use crate::base::connection_lifetime::ConnectionLifetime;
use crate::base::reason::Reason;
use crate::base::timer::{RESOLUTION, Timer};
use crate::forward::request_context::ClientInfo;
use crate::listener::accepted_connection;
use crate::listener::tls_accept::ClientTlsInfo;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::flood_detector::FloodDetector;
use crate::net::h2_io::H2Io;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::Peer;
use crate::serve::h2_server_stream;

/// Bytes a client may send on one stream before anybody has taken them.
const STREAM_WINDOW: u32 = 256 * 1024;
/// And on all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait to be framed, for each stream.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams a client may reset before we have looked at them; beyond that it is an attack (CVE-2023-44487).
const RESETS: usize = 32;
/// Streams that we had to reset because of what the client sent (CVE-2025-8671).
const FAULTS: usize = 128;
/// A connection that ended in anger is closed so much later, and nothing is done for it meanwhile: whoever comes
/// back at once, to do it again, comes ten times a second and not ten thousand.
const PENANCE: Duration = Duration::from_millis(100);
/// After a goodbye, so long until the connection is closed whatever the client does.
const GOODBYE: Duration = Duration::from_secs(2);

/// What all streams of a connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) guard: ConnectionGuard,
    peer: Peer,
    tls_info: Option<Box<ClientTlsInfo>>,
    origin: Option<Rc<Origin>>,
    timer: Rc<Timer>,
    lifetime: ConnectionLifetime,
    /// When the lifetime is over; never, once that was said.
    until: Cell<Tick>,
    /// Streams being served.
    active: Cell<usize>,
    pub(crate) flood: Rc<FloodDetector>,
}

impl Connection {
    pub(crate) fn client_info(&self) -> ClientInfo<'_> {
        ClientInfo { peer: self.peer, tls_info: self.tls_info.as_deref(), origin: self.origin.as_ref() }
    }
}

/// A stream's presence on its connection.
#[derive(Debug)]
pub(crate) struct Presence(pub(crate) Rc<Connection>);

impl Presence {
    fn enter(connection: &Rc<Connection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        Self(connection.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Connection { guard, timer, active, until, .. } = &*self.0;
        active.set(active.get() - 1);
        if active.get() == 0 {
            let idle = guard.listener.routes().table.config.timeouts.idle;
            let rests_until = guard.worker.timers.about_now() + idle;
            guard.worker.timers.set(timer, rests_until.min(until.get()));
        }
    }
}

/// Serves one connection from its preface to its last stream.
pub(crate) async fn serve(connection: accepted_connection::Connection) {
    let accepted_connection::Connection { guard, stream, peer, tls_info, origin, early, .. } = connection;
    let worker = guard.worker.clone();
    let view = guard.listener.routes();
    let (now, config) = (worker.now(), &view.table.config);
    let timer = worker.timers.timer(now + config.timeouts.header);
    let lifetime = ConnectionLifetime::start(config, now, &mut worker.rng.borrow_mut());
    let counters = view.table.shared.counters.of(worker.number);
    let flood = Rc::new(FloodDetector::default());
    flood.turn();
    let wire = H2Io::new(stream, early, flood.clone());
    let handshake = settings(&config.limits).handshake(wire);
    let mut frames = match timer.within(handshake).await {
        Some(Ok(frames)) => frames,
        Some(Err(_)) => return counters.refuse(Reason::BadRequest),
        None => return counters.refuse(Reason::HeaderTimeout),
    };
    timer.set_idle(true);
    let (until, active) = (Cell::new(lifetime.deadline()), Cell::new(0));
    let connection = Connection { guard, peer, tls_info, origin, timer, lifetime, until, active, flood };
    let connection = Rc::new(connection);
    if converse(&mut frames, &connection).await == Ended::InAnger {
        // An timer of its own: streams that end meanwhile set the connection's.
        let over = worker.timer(worker.now() + PENANCE);
        std::future::poll_fn(|cx| over.poll(cx)).await;
    }
}

/// How a conversation ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// As connections end.
    InPeace,
    /// By what the client did: a flood, or what is no HTTP/2.
    InAnger,
}

fn settings(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(FAULTS))
        .enable_connect_protocol();
    builder
}

/// Moves frames and starts streams until the connection ends.
async fn converse(frames: &mut Frames<H2Io, Bytes>, connection: &Rc<Connection>) -> Ended {
    let Connection { guard, timer, lifetime, until, active, flood, .. } = &**connection;
    let worker = &guard.worker;
    let mut said_goodbye = false;
    let mut counted = worker.timers.about_now();
    std::future::poll_fn(|cx| {
        flood.turn();
        let seconds = worker.timers.about_now().since(counted).as_secs();
        flood.waited(seconds);
        counted += Duration::from_secs(seconds);
        loop {
            match frames.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let presence = Presence::enter(connection);
                    worker.timers.set(timer, until.get());
                    lifetime.count_request();
                    h2_server_stream::start(presence, request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    if flood.is_flooded() {
                        break;
                    }
                    if error.is_library() {
                        let table = &guard.listener.routes().table;
                        table.shared.counters.of(worker.number).refuse(Reason::BadRequest);
                        return Poll::Ready(Ended::InAnger);
                    }
                    return Poll::Ready(Ended::InPeace);
                }
                Poll::Ready(None) => return Poll::Ready(Ended::InPeace),
                Poll::Pending => break,
            }
        }
        if flood.is_flooded() {
            guard.listener.routes().table.shared.counters.of(worker.number).refuse(Reason::Flood);
            return Poll::Ready(Ended::InAnger);
        }
        let ends = worker.draining.get() || guard.listener.is_closing();
        let retires = lifetime.should_close(worker.timers.about_now() + RESOLUTION);
        let rang = timer.poll(cx).is_ready();
        match (said_goodbye, rang, active.get()) {
            // It was silent too long or served enough, or nobody should come in: what runs is finished.
            (false, true, 0) => {}
            (false, ..) if ends || retires => {}
            (true, true, 0) => return Poll::Ready(Ended::InPeace),
            // A drain rings for everybody who rests; who is busy goes on.
            (_, true, _) => {
                worker.timers.set(timer, until.get());
                return timer.poll(cx).map(|()| Ended::InPeace);
            }
            _ => return Poll::Pending,
        }
        said_goodbye = true;
        until.set(Tick::NEVER);
        frames.graceful_shutdown();
        let patience = match retires && !ends {
            // It did nothing wrong, and may be taking its last answer still.
            true => guard.listener.routes().table.config.timeouts.idle,
            false => GOODBYE,
        };
        let over = if active.get() == 0 { worker.now() + patience } else { Tick::NEVER };
        worker.timers.set(timer, over);
        // The goodbye is to leave now, and the timer to be heard.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
