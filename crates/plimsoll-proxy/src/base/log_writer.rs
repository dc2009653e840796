//! Log writers: a bounded queue and a thread for each log, so that a slow disk never delays requests.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use plimsoll_config::model::AccessLog;

/// State shared with a log's writer.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    /// Number of records dropped because the queue was full or a write failed.
    pub(crate) dropped: AtomicU64,
    /// Request to reopen the file, for log rotation.
    pub(crate) reopen: AtomicBool,
}

/// Sender side of a log's queue.
#[derive(Debug)]
pub(crate) struct LogQueue<T> {
    queue: SyncSender<T>,
    state: Arc<LogState>,
}

impl<T> Clone for LogQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), state: self.state.clone() }
    }
}

impl<T> LogQueue<T> {
    /// Queues a record, or counts it as dropped if the queue is full.
    pub(crate) fn push(&self, record: T) {
        if self.queue.try_send(record).is_err() {
            self.state.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Name, queue size and format of a log.
pub(crate) struct Log<T> {
    /// Name of the log and of its thread.
    pub(crate) name: &'static str,
    /// Maximum number of queued records; further ones are dropped and counted.
    pub(crate) queue: usize,
    /// Formats a record, without the line end.
    pub(crate) text: fn(&T) -> String,
}

/// Starts the writer thread. It writes everything that is queued and ends once all senders are dropped.
///
/// # Errors
/// The file cannot be opened, or the thread cannot be started.
pub(crate) fn start<T: Send + 'static>(
    log: Log<T>,
    target: &AccessLog,
    state: Arc<LogState>,
) -> io::Result<(LogQueue<T>, JoinHandle<()>)> {
    let (queue, records) = sync_channel(log.queue);
    let mut sink = Sink::open(target)?;
    let shared = state.clone();
    let thread = std::thread::Builder::new()
        .name(log.name.into())
        .spawn(move || write(&log, &records, &mut sink, &shared))?;
    Ok((LogQueue { queue, state }, thread))
}

/// A line of the access log, formatted on the writer's thread.
pub(crate) trait LogRecord: std::fmt::Debug + Send {
    /// Returns the line, without its end.
    fn text(&self) -> String;
}

/// A worker's sender of access log records.
#[derive(Clone, Debug)]
pub(crate) struct LogSender(LogQueue<Box<dyn LogRecord>>);

impl LogSender {
    pub(crate) fn new(queue: LogQueue<Box<dyn LogRecord>>) -> Self {
        Self(queue)
    }

    /// Queues a record, or counts it as dropped if the queue is full.
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

    /// Opens or creates a file for its owner and group only: lines have addresses and URLs of clients.
    fn open_file(path: &Path) -> io::Result<BufWriter<File>> {
        let mut options = OpenOptions::new();
        // A pipe without a reader would block the open until there is one, unless it is opened for reading, too.
        match std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            true => options.read(true).write(true),
            false => options.create(true).append(true).mode(0o640),
        };
        options.open(path).map(BufWriter::new)
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
            tracing::error!(%error, log = log.name, "cannot reopen the log; writing to the old file");
        }
        let written = match queue.recv_timeout(Duration::from_millis(200)) {
            Ok(record) => sink.write(&format!("{}\n", escape((log.text)(&record)))),
            Err(RecvTimeoutError::Timeout) => sink.flush(),
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if written.is_err() {
            state.dropped.fetch_add(1, Relaxed);
        }
    }
    let _writer_ends_anyway = sink.flush();
}

/// Escapes the characters of a JSON text that a terminal or a viewer would interpret: control characters (C1, DEL), line
/// separators, and characters that change the direction of text. `serde_json` escapes only U+0000 to U+001F.
fn escape(json: String) -> String {
    if !json.chars().any(is_interpreted) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for c in json.chars() {
        match is_interpreted(c) {
            // They are all in the basic plane, and occur only inside of strings.
            true => escaped += &format!("\\u{:04x}", u32::from(c)),
            false => escaped.push(c),
        }
    }
    escaped
}

fn is_interpreted(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Formats a time by RFC 3339, in UTC with milliseconds.
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
    fn characters_that_a_viewer_interprets_are_escaped() {
        let text = "a\u{85}b\u{9b}31mc\u{2028}d\u{202e}e\u{7f}f\u{2066}g\u{200f}h é 漢 \u{1f600}\n\u{1b}";
        let line = escape(serde_json::json!({ "target": text }).to_string());
        assert_eq!(
            line,
            r#"{"target":"a\u0085b\u009b31mc\u2028d\u202ee\u007ff\u2066g\u200fh é 漢 😀\n\u001b"}"#
        );
        let read: serde_json::Value = serde_json::from_str(&line).expect("still JSON");
        assert_eq!(read["target"], text);
        assert!(!line.chars().any(|c| c.is_control() || is_interpreted(c)), "{line}");
    }

    #[test]
    fn log_files_are_not_readable_by_others_and_pipes_do_not_block() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("access.log");
        drop(Sink::open_file(&file).expect("a file"));
        let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        assert!(Sink::open_file(&pipe).is_ok());
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        let at = |s: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(at(1_795_359_599_999), "2026-11-22T14:59:59.999Z");
    }
}
