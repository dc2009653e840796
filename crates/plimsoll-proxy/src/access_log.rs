//! Where access-log lines go: through a bounded queue to a writer of their own, never in a request's way.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use plimsoll_config::model::AccessLog;
use plimsoll_core::{DestinationId, Name, Tick};
use serde_json::json;

use crate::clock::Clock;
use crate::http1::answer::{Reason, Refusal};
use crate::http1::job::Job;
use crate::http1::request::RequestHead;
use crate::stream::Peer;
use crate::tunnel::Moved;
use crate::worker::Rule;

/// Lines that may wait for the disk; what comes on top is dropped and counted.
const QUEUE: usize = 65_536;
/// Longest kept text of a field a client chose.
const MAX_TEXT: usize = 2048;

/// What the log shares with the rest: its switch to reopen and its count of losses.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    pub(crate) dropped: AtomicU64,
    pub(crate) reopen: AtomicBool,
}

/// A worker's end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct LogSender {
    lines: SyncSender<Line>,
    state: Arc<LogState>,
}

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
        self.push(Line::Request(Box::new(RequestLine {
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
        self.push(Line::Refused { time: Clock::wall(), peer, listener: listener.clone(), refusal });
    }

    /// A line for a TCP connection or a flow that has ended.
    pub(crate) fn send_connection(&self, line: ConnectionLine) {
        self.push(Line::Connection(Box::new(line)));
    }

    fn push(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.state.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Starts the writer; it ends when every sender is gone, with everything written.
///
/// # Errors
/// The file cannot be opened or the thread not started.
pub(crate) fn start(
    target: &AccessLog,
    state: Arc<LogState>,
) -> io::Result<(LogSender, std::thread::JoinHandle<()>)> {
    let (lines, queue) = sync_channel(QUEUE);
    let mut sink = Sink::open(target)?;
    let shared = state.clone();
    let thread = std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || write(&queue, &mut sink, &shared))?;
    Ok((LogSender { lines, state }, thread))
}

enum Sink {
    Stdout,
    File { path: std::path::PathBuf, file: BufWriter<File> },
}

impl Sink {
    fn open(target: &AccessLog) -> io::Result<Self> {
        Ok(match target {
            AccessLog::Stdout => Self::Stdout,
            AccessLog::File(path) => Self::File { path: path.clone(), file: Self::open_file(path)? },
        })
    }

    fn open_file(path: &std::path::Path) -> io::Result<BufWriter<File>> {
        OpenOptions::new().create(true).append(true).open(path).map(BufWriter::new)
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Self::File { file, .. } => file.write_all(line.as_bytes()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().flush(),
            Self::File { file, .. } => file.flush(),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            file.flush()?;
            *file = Self::open_file(path)?;
        }
        Ok(())
    }
}

fn write(queue: &Receiver<Line>, sink: &mut Sink, state: &LogState) {
    loop {
        if state.reopen.swap(false, Relaxed)
            && let Err(error) = sink.reopen()
        {
            tracing::error!(%error, "the access log cannot be reopened; the old file is kept");
        }
        let written = match queue.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => sink.write(&text(&line)),
            Err(RecvTimeoutError::Timeout) => sink.flush(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if written.is_err() {
            state.dropped.fetch_add(1, Relaxed);
        }
    }
    let _nothing_left_to_tell = sink.flush();
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
    format!("{value}\n")
}

fn client(peer: Peer) -> String {
    match peer {
        Peer::Socket(address) => address.to_string(),
        Peer::Unix => "unix:".into(),
    }
}

/// RFC 3339 in UTC, milliseconds.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339() {
        let at = |s: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(at(1_795_359_599_999), "2026-11-22T14:59:59.999Z");
    }
}
