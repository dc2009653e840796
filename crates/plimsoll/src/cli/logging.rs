//! The program's own log: level, format and the thread that writes it to standard error.
//!
//! Lines pass through a bounded queue, so that a stalled terminal or pipe never delays health checks or
//! traffic. Lines that do not fit are dropped; their number is reported with the next line that does.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_filter;

/// Maximum number of queued lines.
const QUEUE_LENGTH: usize = 4096;
/// Time limit for writing the queued lines at exit.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Flushes the queue when dropped.
#[derive(Debug)]
pub(crate) struct LogGuard {
    queue: SyncSender<LogItem>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let (flushed, wait) = sync_channel(1);
        if self.queue.try_send(LogItem::Flush(flushed)).is_ok() {
            let _best_effort = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Starts logging to standard error.
///
/// PLIMSOLL_LOG overrides `level` (see [`log_filter`]). PLIMSOLL_LOG_FORMAT sets the format; without it text is
/// written to a terminal and JSON elsewhere.
pub(crate) fn start(level: &str) -> LogGuard {
    let terminal = io::stderr().is_terminal();
    let format = std::env::var("PLIMSOLL_LOG_FORMAT").unwrap_or_default();
    let (json, unknown_format) = match &*format {
        "json" => (true, None),
        "text" => (false, None),
        "" => (!terminal, None),
        unknown => (!terminal, Some(unknown)),
    };
    let (queue, items) = sync_channel(QUEUE_LENGTH);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = QueueWriter { queue: queue.clone(), dropped: dropped.clone() };
    // Without the thread nothing is logged; the program works all the same.
    let _thread =
        std::thread::Builder::new().name("log".into()).spawn(move || write_items(&items, &dropped, json));
    let given = std::env::var("PLIMSOLL_LOG").unwrap_or_default();
    let (filter, invalid) = match log_filter::parse(&given, level) {
        Ok(filter) => (filter, None),
        Err(problem) => (log_filter::of_level(level), Some(problem)),
    };
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = tracing_subscriber::fmt::layer().with_target(false).with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match json {
        true => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
        false => registry.with(layer.with_ansi(colours)).try_init(),
    };
    debug_assert!(started.is_ok(), "logging is started once");
    if let Some(problem) = invalid {
        tracing::warn!(event = "log_filter_invalid", "PLIMSOLL_LOG: {problem}; using {level}");
    }
    if let Some(format) = unknown_format {
        let used = if json { "json" } else { "text" };
        tracing::warn!(
            event = "log_format_invalid",
            "PLIMSOLL_LOG_FORMAT: expected text or json, found `{format}`; using {used}"
        );
    }
    LogGuard { queue }
}

enum LogItem {
    Line(Vec<u8>),
    /// Confirms that all items before it are written.
    Flush(SyncSender<()>),
}

fn write_items(items: &Receiver<LogItem>, dropped: &AtomicU64, json: bool) {
    while let Ok(item) = items.recv() {
        let mut out = io::stderr().lock();
        // Errors of standard error cannot be reported anywhere.
        let _unwritable = match (dropped.swap(0, Relaxed), json) {
            (0, _) => Ok(()),
            (lost, true) => {
                writeln!(out, "{{\"level\":\"WARN\",\"message\":\"dropped {lost} log lines\"}}")
            }
            (lost, false) => writeln!(out, "plimsoll: dropped {lost} log lines"),
        };
        match item {
            LogItem::Line(text) => {
                let _unwritable = out.write_all(&text);
            }
            LogItem::Flush(flushed) => {
                let _not_awaited = flushed.send(());
            }
        }
    }
}

/// Writes each line to the queue.
#[derive(Clone, Debug)]
struct QueueWriter {
    queue: SyncSender<LogItem>,
    dropped: Arc<AtomicU64>,
}

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(LogItem::Line(line.to_owned())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for QueueWriter {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
