//! Where the program's own log lines go, and how they look.
//!
//! Lines wait in a bounded queue for a writer of their own: a stalled terminal or pipe never holds up
//! health checks or traffic. What finds no room is dropped, and said so as soon as there is room again.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const QUEUE: usize = 4096;
/// At the end of the program the last lines get so long to be written.
const FAREWELL: Duration = Duration::from_millis(500);

/// Writes the last lines when it goes.
#[derive(Debug)]
pub(crate) struct LogGuard {
    lines: SyncSender<Line>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let (written, wait) = sync_channel(1);
        if self.lines.try_send(Line::Last(written)).is_ok() {
            let _as_far_as_it_goes = wait.recv_timeout(FAREWELL);
        }
    }
}

/// Starts logging to standard error: `level` unless PLIMSOLL_LOG says otherwise, for people on a terminal,
/// as JSON lines elsewhere, or as PLIMSOLL_LOG_FORMAT says.
pub(crate) fn start(level: &str) -> LogGuard {
    let terminal = io::stderr().is_terminal();
    let json = match std::env::var("PLIMSOLL_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok("text") => false,
        _ => !terminal,
    };
    let (lines, queue) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = Queue { lines: lines.clone(), dropped: dropped.clone() };
    let _without_it_lines_wait_in_vain =
        std::thread::Builder::new().name("log".into()).spawn(move || write(&queue, &dropped, json));
    let wanted = std::env::var("PLIMSOLL_LOG").ok().filter(|wanted| !wanted.is_empty());
    let filter = wanted.as_deref().map(EnvFilter::try_new);
    let misread = matches!(filter, Some(Err(_)));
    let filter = filter.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(writer);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(colours).try_init()
    };
    debug_assert!(started.is_ok(), "logging is started once");
    if misread {
        tracing::warn!("PLIMSOLL_LOG is not a level (error, warn, info, debug, trace): using {level}");
    }
    LogGuard { lines }
}

enum Line {
    Text(Vec<u8>),
    /// Nothing that matters comes after; answer when it is out.
    Last(SyncSender<()>),
}

fn write(queue: &Receiver<Line>, dropped: &AtomicU64, json: bool) {
    while let Ok(line) = queue.recv() {
        let mut out = io::stderr().lock();
        let lost = dropped.swap(0, Relaxed);
        let _nowhere_to_complain = match (lost, json) {
            (0, _) => Ok(()),
            (lost, true) => {
                writeln!(out, "{{\"level\":\"WARN\",\"message\":\"{lost} log lines were dropped\"}}")
            }
            (lost, false) => writeln!(out, "plimsoll: {lost} log lines were dropped"),
        };
        match line {
            Line::Text(text) => {
                let _nowhere_to_complain = out.write_all(&text);
            }
            Line::Last(answer) => {
                let _not_waited_for = answer.send(());
            }
        }
    }
}

/// The way into the queue; one line a write.
#[derive(Clone, Debug)]
struct Queue {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(line.to_owned())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Queue {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
