//! Errors of health monitoring.

use std::error::Error;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::LoadBalancingError;

/// Why health monitoring failed, as a whole or in part. A failing destination is a result, not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum HealthMonitoringError {
    /// The list of destinations is invalid.
    InvalidDestinations {
        /// The problem of the list.
        #[serde(serialize_with = "serialize_text")]
        source: LoadBalancingError,
    },
    /// A value of the configuration is invalid.
    InvalidConfig {
        /// Name of the key.
        key: &'static str,
        /// Values that were expected.
        expected: &'static str,
    },
    /// No check could be made: the process or machine lacked file descriptors or memory.
    ChecksNotMade {
        /// Number of destinations.
        destinations: usize,
    },
    /// Some destinations were not checked within the time limit of a check.
    TimedOut {
        /// Number of destinations not checked.
        unchecked: usize,
    },
    /// Some alerts were not raised because too many were active.
    AlertsLost {
        /// Number of alerts not raised.
        lost: u64,
    },
    /// Some destinations recovered and failed again within five minutes.
    RecoveryFailed {
        /// Ids of the destinations.
        destinations: Vec<String>,
    },
    /// The monitoring thread cannot be started or has ended.
    Stopped,
}

fn serialize_text<S: Serializer>(error: &LoadBalancingError, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(error)
}

impl fmt::Display for HealthMonitoringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidDestinations { source } => source.fmt(f),
            Self::InvalidConfig { key, expected } => write!(f, "`{key}`: expected {expected}"),
            Self::ChecksNotMade { destinations } => write!(
                f,
                "none of {destinations} destinations could be checked: the process lacks file descriptors or memory"
            ),
            Self::TimedOut { unchecked } => {
                write!(f, "{unchecked} destinations were not checked within the time limit")
            }
            Self::AlertsLost { lost } => write!(f, "{lost} alerts were not raised: too many are active"),
            Self::RecoveryFailed { destinations } => {
                write!(f, "recovered and failed again: {}", destinations.join(", "))
            }
            Self::Stopped => f.write_str("the monitoring thread cannot be started or has ended"),
        }
    }
}

impl Error for HealthMonitoringError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::InvalidDestinations { source } => Some(source),
            _ => None,
        }
    }
}

impl From<LoadBalancingError> for HealthMonitoringError {
    fn from(source: LoadBalancingError) -> Self {
        Self::InvalidDestinations { source }
    }
}
