//! What time it is: the one file of the harness that reads a clock.
#![expect(clippy::disallowed_methods, reason = "measuring needs a clock; every other file asks here")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic reading, for latencies and deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The wall clock to the second, in UTC, for the head of a report.
pub(crate) fn date() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// A seed nobody chose, for a run that was given none. The report prints it.
pub(crate) fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |elapsed| elapsed.as_nanos() as u64)
}

/// A length of time from the command line, in seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
