//! What the access log tells of a request, a connection or a flow.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use plimsoll_config::model::AccessLog;
use plimsoll_core::{DestinationId, Name, Tick};
use serde_json::json;

use crate::base::clock::Clock;
use crate::base::log_writer::{self, Lines, Log, LogState, timestamp};
use crate::forward::request_context::Job;
use crate::http::local_reply::{Reason, Refusal};
use crate::http::request::RequestHead;
use crate::net::stream::Peer;
use crate::net::tunnel::Moved;
use crate::run::worker::Rule;

/// Lines that may wait for the disk; what comes on top is dropped and counted.
const QUEUE: usize = 65_536;
/// Longest kept text of a field a client chose.
const MAX_TEXT: usize = 2048;

/// A worker's end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct LogSender(Lines<Line>);

/// The parts of a line known when the head was read.
#[derive(Clone, Debug)]
pub(crate) struct LogDraft {
    time: SystemTime,
    peer: Peer,
    method: String,
    target: String,
    host: String,
    http10: bool,
    user_agent: Option<String>,
    request_id: Option<String>,
    forwarded_for: Option<String>,
    pub(crate) destination: Option<DestinationId>,
    /// From the choice of the destination to the first byte of its answer.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) reason: Option<Reason>,
    /// It has waited for a place for so long.
    pub(crate) queued: Option<Duration>,
}

#[derive(Debug)]
enum Line {
    Request(Box<RequestLine>),
    Refused { time: SystemTime, peer: Peer, listener: Name, refusal: Refusal },
    Connection(Box<ConnectionLine>),
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
    /// Why nobody served it.
    pub(crate) reason: Option<Reason>,
    pub(crate) moved: Moved,
    /// It has waited for a place for so long.
    pub(crate) queued: Option<Duration>,
    pub(crate) total: Duration,
}

#[derive(Debug)]
struct RequestLine {
    draft: LogDraft,
    listener: Name,
    /// `None` where no route matched.
    route: Option<Name>,
    pool: Option<Name>,
    destination: Option<Name>,
    status: u16,
    request_bytes: u64,
    response_bytes: u64,
    total: Duration,
}

impl LogDraft {
    pub(crate) fn new(peer: Peer, head: &RequestHead<'_>, headers: &[httparse::Header<'_>]) -> Self {
        let clip = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
        let find =
            |name: &str| headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| clip(h.value));
        Self {
            time: Clock::wall(),
            peer,
            method: clip(head.method_word.as_bytes()),
            target: clip(head.target.path_and_query.as_bytes()),
            host: clip(head.host),
            http10: head.http10,
            user_agent: find("user-agent"),
            request_id: find("x-request-id"),
            forwarded_for: find("x-forwarded-for"),
            destination: None,
            first_byte: None,
            reason: None,
            queued: None,
        }
    }
}

impl LogSender {
    pub(crate) fn send(&self, draft: LogDraft, job: &Job, rule: Option<&Rule>, now: Tick) {
        let destination = rule.zip(draft.destination).and_then(|(rule, id)| rule.pool.name_of(id));
        self.0.push(Line::Request(Box::new(RequestLine {
            draft,
            listener: job.view.table.config.name.clone(),
            route: rule.map(|rule| rule.table.name.clone()),
            pool: rule.map(|rule| rule.table.pool.config.name.clone()),
            destination,
            status: job.status,
            request_bytes: job.request_bytes,
            response_bytes: job.response_bytes,
            total: now.since(job.started),
        })));
    }

    /// A line for something that never became a request.
    pub(crate) fn send_refusal(&self, peer: Peer, listener: &Name, refusal: Refusal) {
        self.0.push(Line::Refused { time: Clock::wall(), peer, listener: listener.clone(), refusal });
    }

    /// A line for a TCP connection or a flow that has ended.
    pub(crate) fn send_connection(&self, line: ConnectionLine) {
        self.0.push(Line::Connection(Box::new(line)));
    }
}

/// Starts the writer; it ends when every sender is gone, with everything written.
///
/// # Errors
/// The file cannot be opened or the thread not started.
pub(crate) fn start(target: &AccessLog, state: Arc<LogState>) -> io::Result<(LogSender, JoinHandle<()>)> {
    let (lines, thread) = log_writer::start(Log { name: "access-log", queue: QUEUE, text }, target, state)?;
    Ok((LogSender(lines), thread))
}

/// One line of JSON. `serde_json` escapes quotes and control characters, so no client can forge a line.
fn text(line: &Line) -> String {
    let value = match line {
        Line::Refused { time, peer, listener, refusal } => json!({
            "time": timestamp(*time),
            "client": client(*peer),
            "listener": &**listener,
            "status": refusal.status,
            "reason": refusal.reason.word(),
            "detail": refusal.detail,
        }),
        Line::Connection(line) => json!({
            "time": timestamp(line.time),
            "client": client(line.peer),
            "protocol": line.protocol,
            "listener": &*line.listener,
            "pool": &*line.pool,
            "destination": line.destination.as_deref(),
            "reason": line.reason.map(Reason::word),
            "request_bytes": line.moved.to_destination,
            "response_bytes": line.moved.to_client,
            "queue_ms": line.queued.map(|span| span.as_nanos() as f64 / 1e6),
            "total_ms": line.total.as_nanos() as f64 / 1e6,
        }),
        Line::Request(line) => json!({
            "time": timestamp(line.draft.time),
            "client": client(line.draft.peer),
            "method": line.draft.method,
            "target": line.draft.target,
            "host": line.draft.host,
            "protocol": if line.draft.http10 { "HTTP/1.0" } else { "HTTP/1.1" },
            "listener": &*line.listener,
            "route": line.route.as_deref(),
            "pool": line.pool.as_deref(),
            "destination": line.destination.as_deref(),
            "status": line.status,
            "reason": line.draft.reason.map(Reason::word),
            "request_bytes": line.request_bytes,
            "response_bytes": line.response_bytes,
            "queue_ms": line.draft.queued.map(|span| span.as_nanos() as f64 / 1e6),
            "ttfb_ms": line.draft.first_byte.map(|span| span.as_nanos() as f64 / 1e6),
            "total_ms": line.total.as_nanos() as f64 / 1e6,
            "user_agent": line.draft.user_agent,
            "request_id": line.draft.request_id,
            "forwarded_for": line.draft.forwarded_for,
        }),
    };
    value.to_string()
}

fn client(peer: Peer) -> String {
    match peer {
        Peer::Socket(address) => address.to_string(),
        Peer::Unix => "unix:".into(),
    }
}
