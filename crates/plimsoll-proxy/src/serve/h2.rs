//! HTTP/2 connections of clients: settings, streams, shutdown.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection as Frames};
use plimsoll_config::model::Limits;
use plimsoll_core::Tick;
use tracing::Instrument;

use crate::base::connection_lifetime::ConnectionLifetime;
use crate::base::reason::Reason;
use crate::base::timer::RESOLUTION;
use crate::listener::accepted_connection;
use crate::net::flood_detector::FloodDetector;
use crate::net::h2_io::H2Io;
use crate::serve::h2_connection::{H2ServerConnection, StreamGuard};
use crate::serve::h2_server_stream;

/// Flow-control window of a stream, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Response bytes buffered for framing, per stream.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams that a client may reset before they are accepted; more is an attack (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 32;
/// Streams that may be reset locally because of invalid frames (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 128;
/// Delay before a connection with a protocol violation is closed. It limits a client that reconnects at once
/// to ten connections a second.
const ABUSE_CLOSE_DELAY: Duration = Duration::from_millis(100);
/// Time after GOAWAY until the connection is closed, whatever the client does.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves a connection from its preface to its last stream.
pub(crate) async fn serve(connection: accepted_connection::Connection) {
    let accepted_connection::Connection { guard, stream, peer, tls_info, origin, early, .. } = connection;
    let worker = guard.worker.clone();
    let routes = guard.listener.routes();
    let (now, config) = (worker.now(), &routes.table.config);
    let timer = worker.timers.timer(now + config.timeouts.header);
    let lifetime = ConnectionLifetime::start(config, now, &mut worker.rng.borrow_mut());
    let counters = routes.table.shared.counters.of(worker.number);
    let flood = Rc::new(FloodDetector::default());
    flood.begin_read();
    let io = H2Io::new(stream, early, flood.clone());
    let handshake = settings(&config.limits).handshake(io);
    let mut frames = match timer.within(handshake).await {
        Some(Ok(frames)) => frames,
        Some(Err(_)) => return counters.refuse(Reason::BadRequest),
        None => return counters.refuse(Reason::HeaderTimeout),
    };
    timer.set_idle(true);
    let (deadline, active) = (Cell::new(lifetime.deadline()), Cell::new(0));
    let connection =
        H2ServerConnection { guard, peer, tls_info, origin, timer, lifetime, deadline, active, flood };
    let connection = Rc::new(connection);
    // Lines of the HTTP/2 library have the client's address through this span.
    let span = tracing::debug_span!("client", address = %connection.peer);
    if drive(&mut frames, &connection).instrument(span).await == CloseReason::ProtocolViolation {
        let listener = &connection.guard.listener.routes().table.config.name;
        let client = &connection.peer;
        tracing::debug!(event = "http2_closed", %listener, %client, "the client violated HTTP/2 or flooded the connection");
        // A separate timer: streams that end meanwhile set the connection's.
        let over = worker.timer(worker.now() + ABUSE_CLOSE_DELAY);
        std::future::poll_fn(|cx| over.poll(cx)).await;
    }
}

/// Why a connection was closed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum CloseReason {
    /// The connection ended regularly.
    Normal,
    /// The client flooded the connection or violated HTTP/2.
    ProtocolViolation,
}

fn settings(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .enable_connect_protocol();
    builder
}

/// Reads and writes frames, and starts streams, until the connection ends.
async fn drive(frames: &mut Frames<H2Io, Bytes>, connection: &Rc<H2ServerConnection>) -> CloseReason {
    let H2ServerConnection { guard, timer, lifetime, deadline, active, flood, .. } = &**connection;
    let worker = &guard.worker;
    let mut goaway_sent = false;
    let mut credited_until = worker.timers.about_now();
    std::future::poll_fn(|cx| {
        flood.begin_read();
        let seconds = worker.timers.about_now().since(credited_until).as_secs();
        flood.credit_time(seconds);
        credited_until += Duration::from_secs(seconds);
        loop {
            match frames.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let stream = StreamGuard::open(connection);
                    worker.timers.set(timer, deadline.get());
                    lifetime.count_request();
                    h2_server_stream::start(stream, request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    if flood.is_flooded() {
                        break;
                    }
                    if error.is_library() {
                        let table = &guard.listener.routes().table;
                        table.shared.counters.of(worker.number).refuse(Reason::BadRequest);
                        return Poll::Ready(CloseReason::ProtocolViolation);
                    }
                    return Poll::Ready(CloseReason::Normal);
                }
                Poll::Ready(None) => return Poll::Ready(CloseReason::Normal),
                Poll::Pending => break,
            }
        }
        if flood.is_flooded() {
            guard.listener.routes().table.shared.counters.of(worker.number).refuse(Reason::Flood);
            return Poll::Ready(CloseReason::ProtocolViolation);
        }
        let closing = worker.draining.get() || guard.listener.is_closing();
        let expired = lifetime.should_close(worker.timers.about_now() + RESOLUTION);
        let timer_fired = timer.poll(cx).is_ready();
        match (goaway_sent, timer_fired, active.get()) {
            // The connection was idle for too long, has reached its lifetime, or is draining: active streams
            // are finished.
            (false, true, 0) => {}
            (false, ..) if closing || expired => {}
            (true, true, 0) => return Poll::Ready(CloseReason::Normal),
            // A drain fires the timer of idle connections only; active ones continue.
            (_, true, _) => {
                worker.timers.set(timer, deadline.get());
                return timer.poll(cx).map(|()| CloseReason::Normal);
            }
            _ => return Poll::Pending,
        }
        goaway_sent = true;
        deadline.set(Tick::NEVER);
        frames.graceful_shutdown();
        let timeout = match expired && !closing {
            // The client may still be reading its last response.
            true => guard.listener.routes().table.config.timeouts.idle,
            false => GOAWAY_TIMEOUT,
        };
        let over = if active.get() == 0 { worker.now() + timeout } else { Tick::NEVER };
        worker.timers.set(timer, over);
        // GOAWAY has to be sent now, and the timer polled.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
