//! Why a call of the library cannot be answered.

use std::fmt;

use plimsoll_core::NoDestination;

/// Why a call cannot be answered. Errors about the input name what is wrong with it; errors about the moment
/// ([`NoneServing`](Self::NoneServing), [`AllTried`](Self::AllTried)) may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadBalancingError {
    /// The list of destinations is empty.
    NoDestinations,
    /// The list is longer than [`MOST_DESTINATIONS`](crate::MOST_DESTINATIONS).
    TooManyDestinations {
        /// How many there are.
        given: usize,
    },
    /// Two destinations have the same id.
    DuplicateId {
        /// That id.
        id: String,
    },
    /// An address is neither `IP:PORT` nor `unix:/PATH`.
    BadAddress {
        /// Whose.
        id: String,
        /// As given.
        address: String,
    },
    /// A key of the configuration asks for something this version does not do yet.
    NotYet {
        /// The key, as in the configuration.
        key: &'static str,
    },
    /// There are destinations, and none may take a message (all have weight 0).
    NoneServing,
    /// The message has been tried at every destination that may take it, or ten times.
    AllTried,
    /// The message failed, and `failover` is off: that failure is the answer.
    FailoverOff,
}

impl fmt::Display for LoadBalancingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDestinations => NoDestination::Empty.fmt(f),
            Self::TooManyDestinations { given } => {
                write!(f, "{given} destinations are more than the {} of one pool", crate::MOST_DESTINATIONS)
            }
            Self::DuplicateId { id } => write!(f, "two destinations have the id `{id}`"),
            Self::BadAddress { id, address } => {
                write!(f, "address `{address}` of destination `{id}` is neither IP:PORT nor unix:/PATH")
            }
            Self::NotYet { key } => write!(f, "`{key}` is not available yet; set it to false"),
            Self::NoneServing => NoDestination::NoneServing.fmt(f),
            Self::AllTried => NoDestination::AllTried.fmt(f),
            Self::FailoverOff => f.write_str("the message failed and failover is off"),
        }
    }
}

impl std::error::Error for LoadBalancingError {}

impl From<NoDestination> for LoadBalancingError {
    fn from(why: NoDestination) -> Self {
        match why {
            NoDestination::Empty => Self::NoDestinations,
            // Destinations of the library have no limits.
            NoDestination::NoneServing | NoDestination::Full => Self::NoneServing,
            NoDestination::AllTried => Self::AllTried,
        }
    }
}
