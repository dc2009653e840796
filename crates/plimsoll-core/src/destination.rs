//! The status of a destination: whether it may serve now, and if not, why.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::limit::DestinationLimits;
use crate::time::Tick;

/// Name of a pool or destination: shared, compared by its text.
pub type Name = Arc<str>;

/// Number of a destination in its pool. It is never reused while the process runs, so that a late result cannot be
/// credited to another destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub u32);

/// Address of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP (or UDP) endpoint.
    Socket(SocketAddr),
    /// A Unix stream socket.
    Unix(Arc<Path>),
    /// A host name that has no known address. Its destination is down.
    Unresolved {
        /// Host name and port.
        name: Name,
        /// Cause of the failed lookup.
        cause: Name,
    },
}

impl Address {
    /// Returns whether the address is a host name that has no known address.
    pub const fn is_unresolved(&self) -> bool {
        matches!(self, Self::Unresolved { .. })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Unresolved { name, .. } => f.write_str(name),
        }
    }
}

/// Base weight, as configured: 0 to 65,535; 0 takes no new work.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// Default weight of a destination.
    pub const ONE: Self = Self(1);

    /// Creates a weight; every value is valid.
    pub const fn new(weight: u16) -> Self {
        Self(weight)
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns the weight in 256ths, the unit of effective weights.
    pub const fn in_256ths(self) -> u32 {
        self.0 as u32 * 256
    }
}

/// One address that can serve, as configured. Its name is its identity: a changed weight or address resets nothing
/// that was learned about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Name, unique in the pool.
    pub name: Name,
    /// Address to connect to.
    pub address: Address,
    /// Configured host name, if the address comes from a lookup.
    pub host: Option<Name>,
    /// Configured base weight.
    pub weight: Weight,
    /// Priority: 0 is the first tier, higher numbers are backup tiers.
    pub priority: u8,
    /// Zone, for zone-aware balancing.
    pub zone: Option<Name>,
    /// Labels, in the configured order.
    pub labels: Arc<[(Name, Name)]>,
    /// Limits of requests and connections.
    pub limits: DestinationLimits,
}

impl Destination {
    /// Creates a destination of weight 1 in the first tier.
    pub fn new(name: &str, address: Address) -> Self {
        Self {
            name: name.into(),
            address,
            host: None,
            weight: Weight::ONE,
            priority: 0,
            zone: None,
            labels: Arc::default(),
            limits: DestinationLimits::default(),
        }
    }
}

/// State that the operator requested.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminState {
    /// The destination serves.
    #[default]
    Ready,
    /// Running messages finish, no new ones are accepted.
    Drain,
    /// Taken out of service, without health checks.
    Maintenance,
}

/// Result of active health checks.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Not checked yet: the destination serves.
    #[default]
    Unknown,
    /// Checks of the destination pass.
    Up,
    /// Checks of the destination fail.
    Down,
}

/// Result of outlier detection on real traffic.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ejection {
    /// The destination is not ejected.
    #[default]
    None,
    /// Ejected until this time.
    Until(Tick),
    /// The ejection time is over: exactly one message, the trial, may be sent.
    Probation,
}

impl AdminState {
    /// Name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl Health {
    /// Name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Ejection {
    /// Name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "clear",
            Self::Until(_) => "ejected",
            Self::Probation => "on_trial",
        }
    }
}

/// Inputs of a destination's status: the three signals (operator, health checks, traffic), never mixed, and what its
/// pool knows.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthInputs {
    /// Signal of the operator.
    pub admin: AdminState,
    /// Signal of the health checks.
    pub health: Health,
    /// Signal of the traffic.
    pub ejection: Ejection,
    /// The destination is the only one of its pool: never taken out for failing.
    pub only_member: bool,
    /// The host name of the destination has no known address.
    pub unresolved: bool,
    /// The destination reports a load above the threshold.
    pub overloaded: bool,
    /// The slow start is not over yet.
    pub warming: bool,
}

/// Status of a destination: whether it may serve now, and if not, why.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Receives its full share.
    Serving,
    /// Receives a growing share (slow start).
    Warming,
    /// Finishes running messages, receives no new ones.
    Draining,
    /// Failed real traffic; gets a trial at `until`.
    Ejected {
        /// Time of the trial.
        until: Tick,
    },
    /// Receives no new messages while it reports a load above the threshold; it has not failed.
    Overloaded,
    /// Failed its health checks.
    Down,
    /// Taken out by the operator.
    Maintenance,
}

impl Status {
    /// Names of all statuses, in the order of the metrics.
    pub const NAMES: [&str; 7] =
        ["serving", "warming", "draining", "ejected", "overloaded", "down", "maintenance"];

    /// Returns whether the destination receives new messages.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Serving | Self::Warming)
    }

    /// Name in API, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Warming => "warming",
            Self::Draining => "draining",
            Self::Ejected { .. } => "ejected",
            Self::Overloaded => "overloaded",
            Self::Down => "down",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Returns the status of a destination: the one eligibility rule. The operator comes first, then health checks, then
/// traffic, then reported load. A pool's only destination follows the operator alone: there is no failover target.
/// Without an address no destination serves.
pub const fn status(inputs: HealthInputs) -> Status {
    match (inputs.admin, inputs.only_member, inputs.health, inputs.ejection) {
        (AdminState::Maintenance, ..) => Status::Maintenance,
        (AdminState::Drain, ..) => Status::Draining,
        _ if inputs.unresolved => Status::Down,
        (_, true, ..) => Status::Serving,
        (_, _, Health::Down, _) => Status::Down,
        (_, _, _, Ejection::Until(until)) => Status::Ejected { until },
        (_, _, _, Ejection::Probation) => Status::Ejected { until: Tick::ZERO },
        _ if inputs.overloaded => Status::Overloaded,
        _ if inputs.warming => Status::Warming,
        _ => Status::Serving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_outranks_checks_and_checks_outrank_traffic() {
        let bad = HealthInputs {
            health: Health::Down,
            ejection: Ejection::Until(Tick::NEVER),
            ..Default::default()
        };
        assert_eq!(status(bad), Status::Down);
        assert_eq!(status(HealthInputs { admin: AdminState::Drain, ..bad }), Status::Draining);
        assert_eq!(status(HealthInputs { admin: AdminState::Maintenance, ..bad }), Status::Maintenance);
        assert_eq!(status(HealthInputs { only_member: true, overloaded: true, ..bad }), Status::Serving);
        let unresolved = HealthInputs { only_member: true, unresolved: true, ..Default::default() };
        assert_eq!(status(unresolved), Status::Down);
        assert_eq!(status(HealthInputs { overloaded: true, ..bad }), Status::Down);
        let full = HealthInputs { overloaded: true, warming: true, ..Default::default() };
        assert_eq!(status(full), Status::Overloaded);
        assert_eq!(status(HealthInputs::default()), Status::Serving);
    }
}
