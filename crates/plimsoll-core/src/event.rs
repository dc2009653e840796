//! What the slow loop tells the world: one value per thing that happened, with its reason.

use std::time::Duration;

use crate::destination::{Name, Standing};
use crate::live::Failure;

/// Something happened in a pool.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A destination stands differently now.
    StandingChanged {
        /// Its pool.
        pool: Name,
        /// Its name.
        destination: Name,
        /// How it stood.
        from: Standing,
        /// How it stands.
        to: Standing,
        /// Why.
        reason: Reason,
    },
    /// A destination deserved ejection, and the pool's guard (`max_ejected`) kept it.
    EjectionSpared {
        /// Its pool.
        pool: Name,
        /// Its name.
        destination: Name,
        /// Bad outcomes in a row.
        streak: u32,
    },
}

/// Why a destination stands as it does.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// It joined the pool.
    Joined,
    /// It left the pool.
    Left,
    /// The operator said so.
    Operator,
    /// So many checks failed in a row; the last for this reason.
    ChecksFailed {
        /// In a row.
        count: u32,
        /// What the last one saw.
        detail: String,
    },
    /// So many checks passed in a row.
    ChecksPassed {
        /// In a row.
        count: u32,
    },
    /// So many bad outcomes in a row.
    TrafficFailed {
        /// In a row.
        streak: u32,
        /// The last failure; `None` for an answer of 5xx.
        last: Option<Failure>,
        /// Set aside for so long.
        span: Duration,
    },
    /// Its time is over: one message may try it.
    TrialOpened,
    /// Its trial went well.
    TrialPassed,
    /// Checks show that connecting works again, and failing to connect was all there was against it.
    Reachable,
}
