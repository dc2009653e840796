//! Failures of health checks: at which layer, of which kind, with which detail.

use std::fmt;

/// Maximum length of a detail, in bytes.
pub(super) const MAX_DETAIL: usize = 200;

/// Layer at which a health check failed, as HAProxy numbers them (`L4CON`, `L6RSP`, `L7STS` …).
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CheckLayer {
    /// Layer 4: connecting.
    Connect,
    /// Layer 6: the TLS handshake.
    Tls,
    /// Layer 7: the response in the destination's protocol.
    Protocol,
}

impl CheckLayer {
    /// Returns the layer's number: 4, 6 or 7.
    pub const fn number(self) -> u8 {
        match self {
            Self::Connect => 4,
            Self::Tls => 6,
            Self::Protocol => 7,
        }
    }

    /// Returns the layer's number as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "4",
            Self::Tls => "6",
            Self::Protocol => "7",
        }
    }
}

/// Kind of a failed health check.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CheckFailureKind {
    /// The destination refused the connection.
    ConnectionRefused,
    /// No route leads to the destination.
    Unreachable,
    /// The connection failed for another reason.
    ConnectFailed,
    /// The time limit passed.
    Timeout,
    /// The TLS handshake failed.
    TlsHandshake,
    /// The destination closed the connection before its response was complete.
    Closed,
    /// The response has an unexpected status.
    BadStatus,
    /// The response cannot be parsed or is in another protocol.
    BadResponse,
    /// The response lacks the expected content.
    BodyMismatch,
    /// The destination responded that it does not serve.
    Rejected,
    /// A check of the embedding program failed.
    CheckFailed,
}

impl CheckFailureKind {
    /// Returns the name in the API, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection_refused",
            Self::Unreachable => "unreachable",
            Self::ConnectFailed => "connect_failed",
            Self::Timeout => "timeout",
            Self::TlsHandshake => "tls_handshake",
            Self::Closed => "closed",
            Self::BadStatus => "bad_status",
            Self::BadResponse => "bad_response",
            Self::BodyMismatch => "body_mismatch",
            Self::Rejected => "rejected",
            Self::CheckFailed => "check_failed",
        }
    }
}

/// Cause of a failed health check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckFailure {
    /// Layer at which the check failed.
    pub layer: CheckLayer,
    /// Kind of the failure.
    pub kind: CheckFailureKind,
    /// Status code of an HTTP response with an unexpected status.
    pub status: Option<u16>,
    /// Human-readable cause, such as `cannot connect: connection refused`.
    pub detail: String,
}

impl CheckFailure {
    /// Creates a failure; `detail` says what was found.
    pub fn new(layer: CheckLayer, kind: CheckFailureKind, detail: impl Into<String>) -> Self {
        Self { layer, kind, status: None, detail: detail.into() }
    }

    /// Creates a failure of an HTTP response with an unexpected `status` (layer 7, `bad_status`).
    pub fn http_status(status: u16) -> Self {
        let failure = Self::protocol(CheckFailureKind::BadStatus, format!("responded {status}"));
        Self { status: Some(status), ..failure }
    }

    /// Creates a failure of the protocol's response (layer 7).
    pub fn protocol(kind: CheckFailureKind, detail: impl Into<String>) -> Self {
        Self::new(CheckLayer::Protocol, kind, detail)
    }

    /// Makes the detail fit for a log line: short and without control characters.
    #[must_use]
    pub(super) fn in_one_line(mut self) -> Self {
        if self.detail.len() > MAX_DETAIL || self.detail.contains(char::is_control) {
            let end = self.detail.floor_char_boundary(MAX_DETAIL);
            self.detail = self.detail[..end].replace(char::is_control, " ");
        }
        self
    }
}

/// A failure of a check of the embedding program (layer 7, `check_failed`).
impl From<String> for CheckFailure {
    fn from(detail: String) -> Self {
        Self::protocol(CheckFailureKind::CheckFailed, detail)
    }
}

/// A failure of a check of the embedding program (layer 7, `check_failed`).
impl From<&str> for CheckFailure {
    fn from(detail: &str) -> Self {
        detail.to_owned().into()
    }
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for CheckFailure {}
