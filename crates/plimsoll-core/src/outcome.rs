//! How an attempt at a destination ended.

use std::time::Duration;

/// How an attempt at a destination failed. It names what happened, not which side caused it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: refused, unreachable, or timed out while connecting. Nothing was sent.
    Connect,
    /// The connection broke after something was sent and before any byte of the response.
    Reset,
    /// The connection was closed cleanly before any byte of the response.
    EmptyResponse,
    /// No response, or no further byte of it, arrived in time.
    Timeout,
    /// The response was not valid: bad framing, or over a limit.
    Garbage,
    /// The response ended before it was complete.
    Truncated,
    /// No attempt was made: the balancer lacked a descriptor, a port or memory for a connection. This proves nothing
    /// about the destination.
    NoResources,
}

impl Failure {
    /// All failures, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Connect,
        Self::Reset,
        Self::EmptyResponse,
        Self::Timeout,
        Self::Garbage,
        Self::Truncated,
        Self::NoResources,
    ];

    /// Name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect_failed",
            Self::Reset => "reset",
            Self::EmptyResponse => "empty_response",
            Self::Timeout => "timeout",
            Self::Garbage => "bad_response",
            Self::Truncated => "truncated",
            Self::NoResources => "no_resources",
        }
    }
}

/// How a message ended at its destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination responded. An established TCP connection counts as status 200.
    Answered {
        /// HTTP status, 100 to 599.
        status: u16,
        /// Time from the send to the first byte of the response.
        first_byte: Duration,
    },
    /// The attempt failed.
    Failed(Failure),
}

impl Outcome {
    /// Returns whether the outcome counts against the destination. Every failure does except the balancer's own
    /// lack of resources, and every 5xx except 501 and 505, which are about the request (the line that HAProxy's
    /// `observe layer7` draws).
    pub const fn blames_destination(self) -> bool {
        match self {
            Self::Answered { status, .. } => status >= 500 && status != 501 && status != 505,
            Self::Failed(failure) => !matches!(failure, Failure::NoResources),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_503_blames_the_destination_and_a_501_the_request() {
        let answered = |status| Outcome::Answered { status, first_byte: Duration::ZERO };
        assert!(answered(503).blames_destination());
        assert!(!answered(501).blames_destination());
        assert!(!answered(429).blames_destination());
    }
}
