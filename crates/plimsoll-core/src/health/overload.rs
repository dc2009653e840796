//! Overload: limits of reported load, and of the destinations that are set aside for it.

use std::time::Duration;

/// Conditions under which a destination counts as overloaded.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct OverloadSpec {
    /// Load score from which a destination is overloaded.
    pub threshold: f64,
    /// Load score below which an overloaded destination serves again.
    pub recover: f64,
    /// Maximum share of the pool that is overloaded at once; one destination is always permitted.
    pub max_overloaded: f64,
}

/// Use of the load that destinations report.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct LoadSpec {
    /// Maximum age of a report; older ones are ignored.
    pub max_age: Duration,
    /// Conditions of an overload; `None` = no destination is set aside for load.
    pub overload: Option<OverloadSpec>,
}

impl LoadSpec {
    /// Default maximum age: heartbeats are expected every 15 s.
    pub const MAX_AGE: Duration = Duration::from_secs(15);
}

impl Default for LoadSpec {
    fn default() -> Self {
        Self { max_age: Self::MAX_AGE, overload: None }
    }
}

impl OverloadSpec {
    /// Returns how many of `members` destinations may be set aside at once.
    pub(crate) fn max_overloaded(&self, members: usize) -> usize {
        // The epsilon makes 0.29 of 100 be 29.
        ((members as f64 * self.max_overloaded + 1e-9) as usize).max(1)
    }
}
