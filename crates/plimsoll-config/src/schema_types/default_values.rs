//! Default values as a configuration file writes them.

use std::fmt::Debug;
use std::time::Duration;

use plimsoll_core::retry::{HedgeAfter, RetrySpec};

use crate::model::MemoryLimit;
use crate::units::{ByteRate, ConfigDuration, Size};

/// Returns a duration with its unit, such as `30s`.
pub(super) fn duration(value: Duration) -> String {
    ConfigDuration(value).to_string()
}

/// Returns a duration with its unit, or `none`.
pub(super) fn duration_or_none(value: Option<Duration>) -> String {
    value.map_or_else(|| "none".to_owned(), duration)
}

/// Returns a share in percent, such as `50%`.
pub(super) fn percent(value: f64) -> String {
    format!("{}%", value * 100.0)
}

/// Returns a number of bytes with its unit, such as `64KiB`.
pub(super) fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// Returns a share in percent, or a number of bytes with its unit.
pub(super) fn memory_limit(limit: MemoryLimit) -> String {
    match limit {
        MemoryLimit::Share(share) => percent(share),
        MemoryLimit::Bytes(bytes) => size(bytes),
    }
}

/// Returns a rate in bytes per second, such as `240B/s`.
pub(super) fn byte_rate(bytes: u64) -> String {
    ByteRate(bytes).to_string()
}

/// Returns the keyword of an enum variant, which is its name in lower case.
pub(super) fn keyword(variant: impl Debug) -> String {
    format!("{variant:?}").to_lowercase()
}

/// Returns a value, or `none`.
pub(super) fn or_none<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// Returns a range of HTTP statuses, such as `200-399`.
pub(super) fn status_range((low, high): (u16, u16)) -> String {
    format!("{low}-{high}")
}

/// Returns the delay before a hedged attempt, such as `p95` or `30ms`.
pub(super) fn hedge_delay(after: HedgeAfter) -> String {
    match after {
        HedgeAfter::Quantile(share) => format!("p{}", share * 100.0),
        HedgeAfter::Fixed(delay) => duration(delay),
    }
}

/// Returns the names of the retry conditions that are on.
pub(super) fn retry_conditions(retry: &RetrySpec) -> Vec<&'static str> {
    let when = &retry.when;
    [
        ("connect_failure", when.connect_failure),
        ("reset", when.reset),
        ("empty_response", when.empty_response),
        ("timeout", when.timeout),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect()
}
