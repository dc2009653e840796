//! Limits of health monitoring.

/// Maximum number of sets of destinations monitored at once. Each costs its checks.
pub const MAX_MONITORED_SETS: usize = 16;
/// Maximum number of destinations of a set. All are checked at once, each check with a file descriptor.
pub const MAX_MONITORED_DESTINATIONS: usize = 1024;
