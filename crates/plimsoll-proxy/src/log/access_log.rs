//! The access log: one JSON line per request, connection or UDP flow.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use plimsoll_config::model::AccessLog;
use plimsoll_core::{DestinationId, Name};
use serde_json::json;

use crate::base::clock::Clock;
use crate::base::log_writer::{self, Log, LogRecord, LogSender, LogState, timestamp};
use crate::base::reason::Reason;
use crate::http::local_reply::LocalReply;
use crate::net::stream::Peer;
use crate::net::tunnel::BytesCopied;
use plimsoll_wire::http1::request::RequestHead;

/// Queue size in records; further ones are dropped and counted.
const QUEUE: usize = 65_536;
/// Maximum length of a text that a client sent, in bytes.
const MAX_TEXT: usize = 2048;

/// Fields of a record that are known when the request head was read.
#[derive(Clone, Debug)]
pub(crate) struct LogDraft {
    time: SystemTime,
    peer: Peer,
    method: String,
    target: String,
    host: String,
    protocol: &'static str,
    user_agent: Option<String>,
    request_id: Option<String>,
    forwarded_for: Option<String>,
    pub(crate) destination: Option<DestinationId>,
    /// Time from the assignment to the first byte of the response.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) reason: Option<Reason>,
}

/// A TCP connection, from accept to close, or a flow of datagrams.
#[derive(Debug)]
pub(crate) struct ConnectionLine {
    pub(crate) protocol: &'static str,
    pub(crate) time: SystemTime,
    pub(crate) peer: Peer,
    pub(crate) listener: Name,
    pub(crate) pool: Name,
    pub(crate) destination: Option<Name>,
    /// Reason why no destination served it.
    pub(crate) reason: Option<Reason>,
    pub(crate) copied: BytesCopied,
    /// Time in the queue.
    pub(crate) queued: Option<Duration>,
    pub(crate) total: Duration,
}

/// A request with its response.
#[derive(Debug)]
pub(crate) struct RequestLine {
    pub(crate) draft: LogDraft,
    pub(crate) listener: Name,
    /// Name of the route; `None` where none matched.
    pub(crate) route: Option<Name>,
    pub(crate) pool: Option<Name>,
    pub(crate) destination: Option<Name>,
    pub(crate) status: u16,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Time spent in the pool's queue.
    pub(crate) queued: Option<Duration>,
    pub(crate) total: Duration,
}

/// Bytes that were rejected before they became a request.
#[derive(Debug)]
pub(crate) struct RejectedLine {
    pub(crate) time: SystemTime,
    pub(crate) peer: Peer,
    pub(crate) listener: Name,
    pub(crate) reply: LocalReply,
}

impl LogDraft {
    pub(crate) fn new(
        (peer, is_http2): (Peer, bool),
        head: &RequestHead<'_>,
        headers: &[httparse::Header<'_>],
    ) -> Self {
        let clip = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
        let find =
            |name: &str| headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| clip(h.value));
        Self {
            time: Clock::wall(),
            peer,
            method: clip(head.method_name.as_bytes()),
            target: clip(head.target.path_and_query.as_bytes()),
            host: clip(head.host),
            protocol: match (is_http2, head.is_http10) {
                (true, _) => "HTTP/2",
                (false, true) => "HTTP/1.0",
                (false, false) => "HTTP/1.1",
            },
            user_agent: find("user-agent"),
            request_id: find("x-request-id"),
            forwarded_for: find("x-forwarded-for"),
            destination: None,
            first_byte: None,
            reason: None,
        }
    }
}

/// Starts the writer thread. It ends when all senders are dropped and everything is written.
///
/// # Errors
/// The file cannot be opened, or the thread cannot be started.
pub(crate) fn start(target: &AccessLog, state: Arc<LogState>) -> io::Result<(LogSender, JoinHandle<()>)> {
    let log: Log<Box<dyn LogRecord>> = Log { name: "access-log", queue: QUEUE, text: |record| record.text() };
    let (queue, thread) = log_writer::start(log, target, state)?;
    Ok((LogSender::new(queue), thread))
}

// Each record is one line of JSON. `serde_json` escapes control characters, so no client can forge a line.

impl LogRecord for RejectedLine {
    fn text(&self) -> String {
        json!({
            "time": timestamp(self.time),
            "client": client(self.peer),
            "listener": &*self.listener,
            "status": self.reply.status,
            "reason": self.reply.reason.as_str(),
            "detail": self.reply.detail,
        })
        .to_string()
    }
}

impl LogRecord for ConnectionLine {
    fn text(&self) -> String {
        json!({
            "time": timestamp(self.time),
            "client": client(self.peer),
            "protocol": self.protocol,
            "listener": &*self.listener,
            "pool": &*self.pool,
            "destination": self.destination.as_deref(),
            "reason": self.reason.map(Reason::as_str),
            "request_bytes": self.copied.to_destination,
            "response_bytes": self.copied.to_client,
            "queue_ms": self.queued.map(milliseconds),
            "total_ms": milliseconds(self.total),
        })
        .to_string()
    }
}

impl LogRecord for RequestLine {
    fn text(&self) -> String {
        json!({
            "time": timestamp(self.draft.time),
            "client": client(self.draft.peer),
            "method": self.draft.method,
            "target": self.draft.target,
            "host": self.draft.host,
            "protocol": self.draft.protocol,
            "listener": &*self.listener,
            "route": self.route.as_deref(),
            "pool": self.pool.as_deref(),
            "destination": self.destination.as_deref(),
            "status": self.status,
            "reason": self.draft.reason.map(Reason::as_str),
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "queue_ms": self.queued.map(milliseconds),
            "ttfb_ms": self.draft.first_byte.map(milliseconds),
            "total_ms": milliseconds(self.total),
            "user_agent": self.draft.user_agent,
            "request_id": self.draft.request_id,
            "forwarded_for": self.draft.forwarded_for,
        })
        .to_string()
    }
}

fn milliseconds(span: Duration) -> f64 {
    span.as_nanos() as f64 / 1e6
}

fn client(peer: Peer) -> String {
    match peer {
        Peer::Socket(address) => address.to_string(),
        Peer::Unix => "unix:".into(),
    }
}
