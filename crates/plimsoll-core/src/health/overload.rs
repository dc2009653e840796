//! When a destination has said that it has too much to do, and how many may be set aside for that.

use std::time::Duration;

/// When a destination counts as overloaded.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct OverloadSpec {
    /// From this load score on.
    pub threshold: f64,
    /// And until it is below this one.
    pub recover: f64,
    /// At most so large a share of the pool at once, and one in any case.
    pub max_overloaded: f64,
}

/// What a pool makes of what destinations say of their load.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct LoadSpec {
    /// What was said longer ago counts for nothing.
    pub max_age: Duration,
    /// Who has too much to do is set aside; `None` = nobody is.
    pub overload: Option<OverloadSpec>,
}

impl LoadSpec {
    /// Heartbeats come every 15 s at least.
    pub const MAX_AGE: Duration = Duration::from_secs(15);
}

impl Default for LoadSpec {
    fn default() -> Self {
        Self { max_age: Self::MAX_AGE, overload: None }
    }
}

impl OverloadSpec {
    /// Of `members` destinations so many may be set aside at once.
    pub(crate) fn most(&self, members: usize) -> usize {
        // A hair more, so that 0.29 of 100 is 29.
        ((members as f64 * self.max_overloaded + 1e-9) as usize).max(1)
    }
}
