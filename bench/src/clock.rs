//! Clock of the harness; no other file reads one.
#![expect(clippy::disallowed_methods, reason = "measuring needs a clock; every other file asks here")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the monotonic time, for latencies and deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the wall-clock time to the second in UTC, for the head of a report.
pub(crate) fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Returns a random seed for a run without `--seed`; the report prints it.
pub(crate) fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |elapsed| elapsed.as_nanos() as u64)
}

/// Parses seconds from the command line.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("expected a number, found '{text}' of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
