//! Kinds of alerts and their severity.

/// Severity of an alert.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// For information only.
    Info,
    /// To be checked within a day: messages are still served.
    Warning,
    /// To be checked now: messages are lost.
    Critical,
}

impl Severity {
    /// Name in API, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Kind of an alert.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AlertKind {
    /// A destination failed its health checks.
    DestinationDown,
    /// Outlier detection ejected a destination.
    DestinationEjected,
    /// A destination failed its trial.
    RecoveryFailed,
    /// A destination fails and recovers repeatedly.
    DestinationFlapping,
    /// Some destinations that should serve do not.
    PoolDegraded,
    /// No destination serves.
    PoolDown,
    /// Failing destinations are not ejected, because too few others would be left.
    PoolPanic,
    /// Destinations of a backup tier get messages.
    BackupInUse,
}

impl AlertKind {
    /// All kinds, in the order of declaration.
    pub const ALL: [Self; 8] = [
        Self::DestinationDown,
        Self::DestinationEjected,
        Self::RecoveryFailed,
        Self::DestinationFlapping,
        Self::PoolDegraded,
        Self::PoolDown,
        Self::PoolPanic,
        Self::BackupInUse,
    ];

    /// Kinds of alerts about one destination.
    pub(super) const OF_DESTINATIONS: [Self; 4] =
        [Self::DestinationDown, Self::DestinationEjected, Self::RecoveryFailed, Self::DestinationFlapping];

    /// Name in API, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DestinationDown => "destination_down",
            Self::DestinationEjected => "destination_ejected",
            Self::RecoveryFailed => "recovery_failed",
            Self::DestinationFlapping => "destination_flapping",
            Self::PoolDegraded => "pool_degraded",
            Self::PoolDown => "pool_down",
            Self::PoolPanic => "pool_panic",
            Self::BackupInUse => "backup_in_use",
        }
    }

    /// Returns the severity of the kind.
    pub const fn severity(self) -> Severity {
        match self {
            Self::DestinationEjected => Severity::Info,
            Self::DestinationDown
            | Self::RecoveryFailed
            | Self::DestinationFlapping
            | Self::PoolDegraded
            | Self::BackupInUse => Severity::Warning,
            Self::PoolDown | Self::PoolPanic => Severity::Critical,
        }
    }
}
