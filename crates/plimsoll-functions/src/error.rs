//! Errors of load balancing.

use std::fmt;

use plimsoll_core::NoDestination;

/// Why a message was not assigned.
///
/// Errors of the input name what was expected and found. [`NoneServing`](Self::NoneServing) and
/// [`AllTried`](Self::AllTried) depend on the state of the destinations and may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadBalancingError {
    /// The list of destinations is empty.
    NoDestinations,
    /// The list of destinations is too long.
    TooManyDestinations {
        /// Number of destinations given.
        given: usize,
        /// Maximum number of destinations.
        max: usize,
    },
    /// Two destinations have the same id.
    DuplicateId {
        /// The repeated id.
        id: String,
    },
    /// An address is neither `IP:PORT` nor `unix:/PATH`.
    InvalidAddress {
        /// Id of the destination.
        id: String,
        /// The address as given.
        address: String,
    },
    /// A configuration key enables a feature that is not implemented yet.
    NotImplemented {
        /// Name of the key.
        key: &'static str,
    },
    /// The algorithm needs something that the functions cannot express: `custom` needs the formula of a pool.
    UnsupportedAlgorithm {
        /// Name of the algorithm.
        name: &'static str,
    },
    /// No set of destinations has this one.
    UnknownDestination {
        /// Id or address as given.
        id: String,
    },
    /// A reported response time is not between 0 and a day.
    InvalidResponseTime {
        /// Id or address of the destination.
        id: String,
    },
    /// No destination may serve: all have weight 0 or are down.
    NoneServing,
    /// The message was tried at every destination that may serve, or ten times.
    AllTried,
    /// The message failed and `failover` is off.
    FailoverOff,
}

impl fmt::Display for LoadBalancingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDestinations => NoDestination::Empty.fmt(f),
            Self::TooManyDestinations { given, max } => {
                write!(f, "expected at most {max} destinations, found {given}")
            }
            Self::DuplicateId { id } => write!(f, "two destinations have the id `{id}`"),
            Self::InvalidAddress { id, address } => {
                write!(f, "destination `{id}`: expected address IP:PORT or unix:/PATH, found `{address}`")
            }
            Self::NotImplemented { key } => write!(f, "`{key}` is not implemented yet; set it to false"),
            Self::UnsupportedAlgorithm { name } => write!(
                f,
                "algorithm `{name}` needs an expression, which only the configuration of a pool has; use another one"
            ),
            Self::UnknownDestination { id } => {
                write!(f, "no balanced set of destinations has `{id}`; expected an id or address of one")
            }
            Self::InvalidResponseTime { id } => {
                write!(f, "destination `{id}`: expected a response time from 0 to 86400000 ms")
            }
            Self::NoneServing => NoDestination::NoneServing.fmt(f),
            Self::AllTried => NoDestination::AllTried.fmt(f),
            Self::FailoverOff => f.write_str("the message failed and failover is off"),
        }
    }
}

impl std::error::Error for LoadBalancingError {}

impl From<NoDestination> for LoadBalancingError {
    fn from(reason: NoDestination) -> Self {
        match reason {
            NoDestination::Empty => Self::NoDestinations,
            NoDestination::AllTried => Self::AllTried,
            // Destinations of the library have no limits, so `Full` does not occur.
            _ => Self::NoneServing,
        }
    }
}
