//! Reason that a snapshot has no destination for a message.

use std::fmt;

/// Why no destination takes the message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NoDestination {
    /// The pool has no destinations at all.
    Empty,
    /// It has some, and none may serve.
    NoneServing,
    /// This message has tried all that may serve.
    AllTried,
    /// Those that may serve have as much as they may have at once, or others wait for them already.
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
