//! Reasons for a local reply or the end of a connection, as counters and log lines name them.

use plimsoll_core::Failure;

/// The words for why the proxy answered itself or ended a connection; labels of counters and the `reason`
/// of log lines.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    BadRequest,
    UriTooLong,
    HeadersTooLarge,
    VersionNotSupported,
    MethodNotAllowed,
    ExpectationFailed,
    UnknownCoding,
    UnknownProtocol,
    ProtocolNotSupported,
    BodyTooLarge,
    HeaderTimeout,
    BodyTimeout,
    NoRoute,
    NoHealthyDestination,
    ConnectFailed,
    NoResources,
    Overflow,
    MemoryLimit,
    QueueTimeout,
    Reset,
    EmptyResponse,
    BadResponse,
    Truncated,
    ResponseTimeout,
    TotalTimeout,
    ConnectionLimit,
    BadProxyHeader,
    HandshakeFailed,
    HandshakeTimeout,
    HandshakeLimit,
    Flood,
    Misdirected,
    ClientClosed,
    ClientTimeout,
    Rebalanced,
    Shutdown,
}

impl Reason {
    pub(crate) const ALL: [Self; 36] = [
        Self::BadRequest,
        Self::UriTooLong,
        Self::HeadersTooLarge,
        Self::VersionNotSupported,
        Self::MethodNotAllowed,
        Self::ExpectationFailed,
        Self::UnknownCoding,
        Self::UnknownProtocol,
        Self::ProtocolNotSupported,
        Self::BodyTooLarge,
        Self::HeaderTimeout,
        Self::BodyTimeout,
        Self::NoRoute,
        Self::NoHealthyDestination,
        Self::ConnectFailed,
        Self::NoResources,
        Self::Overflow,
        Self::MemoryLimit,
        Self::QueueTimeout,
        Self::Reset,
        Self::EmptyResponse,
        Self::BadResponse,
        Self::Truncated,
        Self::ResponseTimeout,
        Self::TotalTimeout,
        Self::ConnectionLimit,
        Self::BadProxyHeader,
        Self::HandshakeFailed,
        Self::HandshakeTimeout,
        Self::HandshakeLimit,
        Self::Flood,
        Self::Misdirected,
        Self::ClientClosed,
        Self::ClientTimeout,
        Self::Rebalanced,
        Self::Shutdown,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::VersionNotSupported => "version_not_supported",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ExpectationFailed => "expectation_failed",
            Self::UnknownCoding => "unknown_coding",
            Self::UnknownProtocol => "unknown_protocol",
            Self::ProtocolNotSupported => "protocol_not_supported",
            Self::BodyTooLarge => "body_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::NoRoute => "no_route",
            Self::NoHealthyDestination => "no_healthy_destination",
            Self::ConnectFailed => "connect_failed",
            Self::NoResources => "no_resources",
            Self::Overflow => "overflow",
            Self::MemoryLimit => "memory_limit",
            Self::QueueTimeout => "queue_timeout",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeLimit => "handshake_limit",
            Self::Flood => "flood",
            Self::Misdirected => "misdirected",
            Self::Reset => "reset",
            Self::EmptyResponse => "empty_response",
            Self::BadResponse => "bad_response",
            Self::Truncated => "truncated",
            Self::ResponseTimeout => "timeout",
            Self::TotalTimeout => "total_timeout",
            Self::ConnectionLimit => "connection_limit",
            Self::ClientClosed => "client_closed",
            Self::ClientTimeout => "client_timeout",
            Self::Rebalanced => "rebalanced",
            Self::Shutdown => "shutdown",
        }
    }
}

impl From<Failure> for Reason {
    /// Returns the reason that stands for a failed attempt, for every protocol.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect => Self::ConnectFailed,
            Failure::NoResources => Self::NoResources,
            Failure::Reset => Self::Reset,
            Failure::EmptyResponse => Self::EmptyResponse,
            Failure::Timeout => Self::ResponseTimeout,
            Failure::Garbage => Self::BadResponse,
            Failure::Truncated => Self::Truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_own_index() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{}", reason.as_str());
        }
    }
}
