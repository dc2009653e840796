//! Protocols, health checks and policies that the embedding program adds.

use plimsoll_core::balance::PolicyRegistry;

/// Protocols, health checks and policies of the embedding program, which its configurations may name.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    /// Names of the program's own protocol adapters.
    pub protocols: Vec<&'static str>,
    /// Names of the program's own health checks.
    pub checks: Vec<&'static str>,
    /// PolicyRegistry of the program's own, beside the built-in ones.
    pub policies: PolicyRegistry,
}
