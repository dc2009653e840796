//! Why monitoring cannot tell, or not all.

use std::fmt;

use serde::Serialize;

use crate::error::LoadBalancingError;

/// What went wrong with monitoring itself: the seed's four kinds of errors, and input that cannot be monitored.
/// That a destination fails is no error: it is what monitoring is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum HealthMonitoringError {
    /// The list of destinations cannot be monitored.
    BadDestinations {
        /// Why.
        why: String,
    },
    /// A key of the configuration makes no sense.
    BadConfig {
        /// Which, as in the configuration.
        key: &'static str,
        /// What it may be.
        wants: &'static str,
    },
    /// Health check failures: no check could be made, because this process or machine lacks what one takes
    /// (descriptors, memory).
    ChecksNotMade {
        /// How many destinations there are.
        destinations: usize,
    },
    /// Timeout errors: some destinations were not checked in the time that their checks have.
    TimedOut {
        /// How many.
        unchecked: usize,
    },
    /// Alert generation failures: so many stand that others were not raised.
    AlertsLost {
        /// How many were not.
        lost: u64,
    },
    /// Recovery failures: destinations came back and went out again, within five minutes.
    RecoveryFailed {
        /// Whose did.
        destinations: Vec<String>,
    },
    /// The thread that monitors could not be started, or has ended.
    Stopped,
}

impl fmt::Display for HealthMonitoringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadDestinations { why } => f.write_str(why),
            Self::BadConfig { key, wants } => write!(f, "`{key}` is not {wants}"),
            Self::ChecksNotMade { destinations } => write!(
                f,
                "none of {destinations} destinations could be checked: this process lacks descriptors or memory"
            ),
            Self::TimedOut { unchecked } => {
                write!(f, "{unchecked} destinations were not checked in the time their checks have")
            }
            Self::AlertsLost { lost } => write!(f, "{lost} alerts were not raised: too many stand"),
            Self::RecoveryFailed { destinations } => {
                write!(f, "came back and went out again: {}", destinations.join(", "))
            }
            Self::Stopped => f.write_str("the thread that monitors has ended or could not be started"),
        }
    }
}

impl std::error::Error for HealthMonitoringError {}

impl From<LoadBalancingError> for HealthMonitoringError {
    fn from(error: LoadBalancingError) -> Self {
        Self::BadDestinations { why: error.to_string() }
    }
}
