//! gRPC: content type, deadlines and statuses.
//!
//! Source: the gRPC project's `PROTOCOL-HTTP2.md` and `http-grpc-status-mapping.md`.

use std::time::Duration;

/// Reports whether a body of this content type carries gRPC messages.
pub fn is_grpc_content_type(content_type: &[u8]) -> bool {
    strip_prefix(content_type, b"application/grpc")
        .is_some_and(|rest| rest.first().is_none_or(|&next| ends_media_type(next)))
}

/// Removes the beginning of a media type, which is compared without case (RFC 9110 section 8.3.1).
pub(crate) fn strip_prefix<'b>(media_type: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = media_type.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Reports whether `next` ends the name of a media type: a suffix or parameters follow.
pub(crate) const fn ends_media_type(next: u8) -> bool {
    matches!(next, b'+' | b';' | b' ' | b'\t')
}

/// Parses a `grpc-timeout`: one to eight digits and a unit.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |n, &digit| n * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Names of the statuses by their number (the gRPC project's `statuscodes.md`).
const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Parses the number of a `grpc-status`; `None` for an unknown one.
pub fn parse_status(value: &[u8]) -> Option<u8> {
    let number = match value {
        [ones @ b'0'..=b'9'] => ones - b'0',
        [b'1', ones @ b'0'..=b'9'] => 10 + ones - b'0',
        _ => return None,
    };
    (usize::from(number) < STATUSES.len()).then_some(number)
}

/// Returns the name of a `grpc-status`; `None` for an unknown one.
pub fn status_name(value: &[u8]) -> Option<&'static str> {
    parse_status(value).map(|number| STATUSES[usize::from(number)])
}

/// Returns the HTTP status that means the same about the destination as a `grpc-status`:
/// - 503 for UNAVAILABLE;
/// - 500 for UNKNOWN, INTERNAL and DATA_LOSS;
/// - 429 for RESOURCE_EXHAUSTED: overload is no failure but counts as slow;
/// - 200 for all others, which are about the call. DEADLINE_EXCEEDED shows in the measured latency.
pub fn to_http_status(status: &[u8]) -> u16 {
    match status {
        b"14" => 503,
        b"8" => 429,
        b"2" | b"13" | b"15" => 500,
        _ => 200,
    }
}

/// Returns the `grpc-status` of a local reply with this HTTP status.
pub const fn from_http_status(status: u16) -> &'static str {
    match status {
        404 | 405 | 501 => "12",
        413 | 429 | 431 => "8",
        408 | 504 => "4",
        502 | 503 => "14",
        _ => "13",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for good in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "Application/gRPC",
            "APPLICATION/GRPC ; x=y",
        ] {
            assert!(is_grpc_content_type(good.as_bytes()), "{good}");
        }
        for other in ["application/grpc-web", "application/json", "application/grp", ""] {
            assert!(!is_grpc_content_type(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn statuses_are_known_by_their_number() {
        assert_eq!(status_name(b"0"), Some("OK"));
        assert_eq!(status_name(b"14"), Some("UNAVAILABLE"));
        assert_eq!(status_name(b"16"), Some("UNAUTHENTICATED"));
        for bad in ["", "17", "014", "-1", "1x", " 5", "100"] {
            assert_eq!(parse_status(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_timeout_needs_digits_and_a_unit() {
        assert_eq!(parse_timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "1", "1s", "-1S", "123456789S", "1 S"] {
            assert_eq!(parse_timeout(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
