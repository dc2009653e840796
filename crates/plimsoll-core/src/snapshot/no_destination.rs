//! Reason for which a snapshot has no destination for a message.

use std::fmt;

/// Reason for which no destination was picked.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NoDestination {
    /// The pool has no destinations.
    Empty,
    /// No destination of the pool may serve.
    NoneServing,
    /// The message has tried all destinations that may serve.
    AllTried,
    /// All destinations that may serve are at their limits, or other messages are queued for them.
    Full,
}

impl fmt::Display for NoDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the pool has no destinations",
            Self::NoneServing => "no destination of the pool may serve",
            Self::AllTried => "every destination that may serve was tried",
            Self::Full => "every destination that may serve is at its limit",
        })
    }
}

impl std::error::Error for NoDestination {}
