//! Protocols, health checks and policies that the embedding program adds.

use plimsoll_core::balance::PolicyRegistry;

/// What the embedding program can beside what every one can: words its configurations may use.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    /// What listeners speak: the words of the program's own adapters.
    pub protocols: Vec<&'static str>,
    /// What checks ask by: the words of the program's own.
    pub checks: Vec<&'static str>,
    /// Which destination takes a message: policies of the program's own.
    pub policies: PolicyRegistry,
}
