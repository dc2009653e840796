//! Where the lines of a log go: through a bounded queue to a writer of their own, never in a message's way.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use plimsoll_config::model::AccessLog;

/// What a log shares with the rest: its switch to reopen and its count of losses.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    pub(crate) dropped: AtomicU64,
    pub(crate) reopen: AtomicBool,
}

/// A worker's end of the queue.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    queue: SyncSender<T>,
    state: Arc<LogState>,
}

impl<T> Clone for Lines<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), state: self.state.clone() }
    }
}

impl<T> Lines<T> {
    /// Takes the line, or counts it as dropped where there is no room.
    pub(crate) fn push(&self, line: T) {
        if self.queue.try_send(line).is_err() {
            self.state.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// A log: what it is called, what may wait, and how a line is written.
pub(crate) struct Log<T> {
    pub(crate) name: &'static str,
    /// Lines that may wait for the disk; what comes on top is dropped and counted.
    pub(crate) queue: usize,
    /// Without its end of line.
    pub(crate) text: fn(&T) -> String,
}

/// Starts the writer; it ends when every sender is gone, with everything written.
///
/// # Errors
/// The file cannot be opened or the thread not started.
pub(crate) fn start<T: Send + 'static>(
    log: Log<T>,
    target: &AccessLog,
    state: Arc<LogState>,
) -> io::Result<(Lines<T>, JoinHandle<()>)> {
    let (queue, lines) = sync_channel(log.queue);
    let mut sink = Sink::open(target)?;
    let shared = state.clone();
    let thread = std::thread::Builder::new()
        .name(log.name.into())
        .spawn(move || write(&log, &lines, &mut sink, &shared))?;
    Ok((Lines { queue, state }, thread))
}

/// A line of the access log, formatted on the writer's thread.
pub(crate) trait LogRecord: std::fmt::Debug + Send {
    /// Returns the line, without its end.
    fn text(&self) -> String;
}

/// A worker's sender of access log records.
#[derive(Clone, Debug)]
pub(crate) struct LogSender(Lines<Box<dyn LogRecord>>);

impl LogSender {
    pub(crate) fn new(queue: Lines<Box<dyn LogRecord>>) -> Self {
        Self(queue)
    }

    /// Queues the record, or counts it as dropped where the queue is full.
    pub(crate) fn send(&self, record: impl LogRecord + 'static) {
        self.0.push(Box::new(record));
    }
}

enum Sink {
    Stdout,
    File { path: PathBuf, file: BufWriter<File> },
}

impl Sink {
    fn open(target: &AccessLog) -> io::Result<Self> {
        Ok(match target {
            AccessLog::Stdout => Self::Stdout,
            AccessLog::File(path) => Self::File { path: path.clone(), file: Self::open_file(path)? },
        })
    }

    fn open_file(path: &Path) -> io::Result<BufWriter<File>> {
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

fn write<T>(log: &Log<T>, queue: &Receiver<T>, sink: &mut Sink, state: &LogState) {
    loop {
        if state.reopen.swap(false, Relaxed)
            && let Err(error) = sink.reopen()
        {
            tracing::error!(%error, log = log.name, "the log cannot be reopened; the old file is kept");
        }
        let written = match queue.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => sink.write(&format!("{}\n", (log.text)(&line))),
            Err(RecvTimeoutError::Timeout) => sink.flush(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if written.is_err() {
            state.dropped.fetch_add(1, Relaxed);
        }
    }
    let _nothing_left_to_tell = sink.flush();
}

/// RFC 3339 in UTC, milliseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
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
