//! Whether one destination may serve now, and if not, why.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::limit::DestinationLimits;
use crate::time::Tick;

/// The name of a pool or destination: shared, compared by its text.
pub type Name = Arc<str>;

/// A destination's number in its pool: never used again for another one while the process lives, so that
/// a late result can never be credited to a stranger.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub u32);

/// Where a destination listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP (or UDP) endpoint.
    Socket(SocketAddr),
    /// A Unix stream socket.
    Unix(Arc<Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The base weight an operator gave: 0 to 65,535; 0 takes no new work.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The weight of a destination that names none.
    pub const ONE: Self = Self(1);

    /// A weight; every value is good.
    pub const fn new(weight: u16) -> Self {
        Self(weight)
    }

    /// The plain number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The same in 256ths, the unit of effective weights.
    pub const fn in_256ths(self) -> u32 {
        self.0 as u32 * 256
    }
}

/// One address that can serve, as the configuration (later: discovery) describes it. Its identity is its
/// name: a changed weight or address resets nothing that was learned about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Unique in its pool.
    pub name: Name,
    /// Where it listens.
    pub address: Address,
    /// Base weight.
    pub weight: Weight,
    /// 0 is the first tier; higher numbers are backup tiers.
    pub priority: u8,
    /// Where it stands, for zone-aware policies.
    pub zone: Option<Name>,
    /// Free labels, in the order given.
    pub labels: Arc<[(Name, Name)]>,
    /// What it may have at once.
    pub limits: DestinationLimits,
}

impl Destination {
    /// A destination of weight 1 in the first tier.
    pub fn new(name: &str, address: Address) -> Self {
        Self {
            name: name.into(),
            address,
            weight: Weight::ONE,
            priority: 0,
            zone: None,
            labels: Arc::default(),
            limits: DestinationLimits::default(),
        }
    }
}

/// What the operator wants of a destination.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum AdminState {
    /// Serve.
    #[default]
    Ready,
    /// Finish what runs, take nothing new.
    Drain,
    /// Out, and not even checked.
    Maintenance,
}

/// What active checks saw.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet: serves.
    #[default]
    Unknown,
    /// Passing.
    Up,
    /// Failing.
    Down,
}

/// What real traffic showed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Ejection {
    /// Nothing against it.
    #[default]
    None,
    /// Set aside until then.
    Until(Tick),
    /// Its time is over: exactly one message may try it.
    Probation,
}

impl AdminState {
    /// The word used in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl Health {
    /// The word used in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Ejection {
    /// The word used in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "clear",
            Self::Until(_) => "ejected",
            Self::Probation => "on_trial",
        }
    }
}

/// The witnesses of a destination, never mixed, and what its pool knows of it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// What the operator wants.
    pub admin: AdminState,
    /// What checks saw.
    pub health: Health,
    /// What traffic showed.
    pub ejection: Ejection,
    /// The only destination of its pool: never taken out for failing.
    pub lone: bool,
    /// It says that it has too much to do.
    pub overloaded: bool,
    /// It has served again for a short time only.
    pub warming: bool,
}

/// May a destination serve now, and if not, why.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Takes its share.
    Serving,
    /// Takes a growing share.
    Warming,
    /// Finishes what runs, takes nothing new.
    Draining,
    /// Failed real traffic; back at `until` for a trial.
    Ejected {
        /// When its trial begins.
        until: Tick,
    },
    /// Set aside for a while because it says that it has too much to do; nothing is wrong with it.
    Overloaded,
    /// Failed its checks.
    Down,
    /// Taken out by the operator.
    Maintenance,
}

impl Standing {
    /// Every word a standing can be told in, in the order metrics list them.
    pub const WORDS: [&str; 7] =
        ["serving", "warming", "draining", "ejected", "overloaded", "down", "maintenance"];

    /// Takes new messages.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Serving | Self::Warming)
    }

    /// The word used in API, logs and metrics.
    pub const fn word(self) -> &'static str {
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

/// The one eligibility rule. The operator's word comes first, then checks, then traffic, then its own; a pool's only
/// destination obeys the operator alone, because failing over to nothing helps nobody.
pub const fn standing(seen: Witnesses) -> Standing {
    match (seen.admin, seen.lone, seen.health, seen.ejection) {
        (AdminState::Maintenance, ..) => Standing::Maintenance,
        (AdminState::Drain, ..) => Standing::Draining,
        (_, true, ..) => Standing::Serving,
        (_, _, Health::Down, _) => Standing::Down,
        (_, _, _, Ejection::Until(until)) => Standing::Ejected { until },
        (_, _, _, Ejection::Probation) => Standing::Ejected { until: Tick::ZERO },
        _ if seen.overloaded => Standing::Overloaded,
        _ if seen.warming => Standing::Warming,
        _ => Standing::Serving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_outranks_checks_and_checks_outrank_traffic() {
        let bad =
            Witnesses { health: Health::Down, ejection: Ejection::Until(Tick::NEVER), ..Default::default() };
        assert_eq!(standing(bad), Standing::Down);
        assert_eq!(standing(Witnesses { admin: AdminState::Drain, ..bad }), Standing::Draining);
        assert_eq!(standing(Witnesses { admin: AdminState::Maintenance, ..bad }), Standing::Maintenance);
        assert_eq!(standing(Witnesses { lone: true, overloaded: true, ..bad }), Standing::Serving);
        assert_eq!(standing(Witnesses { overloaded: true, ..bad }), Standing::Down);
        let full = Witnesses { overloaded: true, warming: true, ..Default::default() };
        assert_eq!(standing(full), Standing::Overloaded);
        assert_eq!(standing(Witnesses::default()), Standing::Serving);
    }
}
