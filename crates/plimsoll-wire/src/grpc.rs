//! What gRPC says in its own words: deadlines, and statuses that are no HTTP statuses.
//!
//! Source: the gRPC project's `PROTOCOL-HTTP2.md` and `http-grpc-status-mapping.md`.

use std::time::Duration;

/// Does a body of this type carry calls?
pub fn is_grpc_content_type(content_type: &[u8]) -> bool {
    content_type.starts_with(b"application/grpc")
        && content_type.get(16).is_none_or(|&next| matches!(next, b'+' | b';'))
}

/// A `grpc-timeout`: one to eight digits and a unit.
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

/// Statuses by their number (the gRPC project's `statuscodes.md`).
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

/// The number in a `grpc-status`, if there is such a status.
pub fn parse_status(value: &[u8]) -> Option<u8> {
    let number = match value {
        [ones @ b'0'..=b'9'] => ones - b'0',
        [b'1', ones @ b'0'..=b'9'] => 10 + ones - b'0',
        _ => return None,
    };
    (usize::from(number) < STATUSES.len()).then_some(number)
}

/// The word of a `grpc-status`.
pub fn status_name(value: &[u8]) -> Option<&'static str> {
    parse_status(value).map(|number| STATUSES[usize::from(number)])
}

/// What a call's status says about its destination, as the HTTP status that says the same: 503 for
/// UNAVAILABLE, 500 for INTERNAL, UNKNOWN and DATA_LOSS, 429 for RESOURCE_EXHAUSTED (it has too much to do, which
/// is not held against it but counts as slow), 200 for all that speak about the call. DEADLINE_EXCEEDED took as
/// long as it took: what was measured says so.
pub fn to_http_status(status: &[u8]) -> u16 {
    match status {
        b"14" => 503,
        b"8" => 429,
        b"2" | b"13" | b"15" => 500,
        _ => 200,
    }
}

/// The status a client of gRPC gets for an HTTP status of ours.
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
    fn calls_are_known_by_their_type() {
        for good in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
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
    fn timeouts_have_a_unit() {
        assert_eq!(parse_timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(parse_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "1", "1s", "-1S", "123456789S", "1 S"] {
            assert_eq!(parse_timeout(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
