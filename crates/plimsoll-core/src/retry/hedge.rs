//! When a message that has no answer yet is sent to a second destination as well.

use std::time::Duration;

/// How long a message waits alone.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum After {
    /// Until so large a share (0.5 to 0.999) of the pool's recent messages had their answers.
    Share(f64),
    /// So long.
    Span(Duration),
}

/// A pool's rule for hedging: Dean and Barroso, The Tail at Scale, 2013. Only messages that may be repeated are
/// sent twice, and each copy is paid for from the retry budget.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct HedgeSpec {
    /// How long a message waits before each copy.
    pub after: After,
    /// Copies of a message at most, 1 or more.
    pub most: u8,
}

impl HedgeSpec {
    /// How long a message waits, where the pool's answers came within `pace` in that share. A share says nothing
    /// before there are enough answers.
    pub fn wait(&self, pace: Option<Duration>) -> Option<Duration> {
        match self.after {
            After::Span(span) => Some(span),
            After::Share(_) => pace,
        }
    }

    /// The share that answers are to be measured for.
    pub const fn share(&self) -> Option<f64> {
        match self.after {
            After::Share(share) => Some(share),
            After::Span(_) => None,
        }
    }
}
