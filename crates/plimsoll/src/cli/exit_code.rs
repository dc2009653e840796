//! Exit codes of all commands.

/// Success: stopped cleanly, valid, healthy or applied.
pub(crate) const OK: u8 = 0;
/// Failure: not started, invalid or rejected.
pub(crate) const FAILED: u8 = 1;
/// Usage error, or a file of the command line that cannot be read.
pub(crate) const USAGE: u8 = 2;
/// Degraded: a pool has destinations that do not serve.
pub(crate) const DEGRADED: u8 = 3;
/// Down: a pool has no destination that serves, or the admin API is unreachable.
pub(crate) const DOWN: u8 = 4;
