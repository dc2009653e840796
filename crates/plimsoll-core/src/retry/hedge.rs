//! Hedging: when a message without a response is sent to a second destination as well.

use std::time::Duration;

/// Delay before a hedged attempt.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum HedgeAfter {
    /// Quantile (0.5 to 0.999) of the pool's recent latencies.
    Quantile(f64),
    /// Fixed delay before the hedged attempt.
    Fixed(Duration),
}

/// Hedging rules of a pool (Dean and Barroso, The Tail at Scale, 2013). Only idempotent requests are hedged, and each
/// hedged attempt is charged to the retry budget.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct HedgeSpec {
    /// Delay before each hedged attempt.
    pub after: HedgeAfter,
    /// Maximum number of hedged attempts per message, at least 1.
    pub max: u8,
}

impl HedgeSpec {
    /// Returns the delay, given the measured quantile of the latencies. Without enough measurements there is none.
    pub fn delay(&self, quantile: Option<Duration>) -> Option<Duration> {
        match self.after {
            HedgeAfter::Fixed(delay) => Some(delay),
            HedgeAfter::Quantile(_) => quantile,
        }
    }

    /// Returns the quantile to measure latencies for.
    pub const fn quantile(&self) -> Option<f64> {
        match self.after {
            HedgeAfter::Quantile(quantile) => Some(quantile),
            HedgeAfter::Fixed(_) => None,
        }
    }
}
