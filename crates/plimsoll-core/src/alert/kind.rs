//! What an alert may be about, and how grave that is.

/// How much an alert matters.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it today: messages are still served.
    Warning,
    /// Somebody should look at it now: messages are lost.
    Critical,
}

impl Severity {
    /// The word used in API, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What an alert is about.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Checks took a destination out.
    DestinationDown,
    /// Traffic set a destination aside.
    DestinationEjected,
    /// A destination failed the trial that was to bring it back.
    RecoveryFailed,
    /// A destination goes out again and again.
    DestinationFlapping,
    /// Not all that should serve do.
    PoolDegraded,
    /// None serves.
    PoolDown,
    /// Destinations that fail are kept, for want of others.
    PoolPanic,
}

impl Kind {
    /// All of them, in the order they are declared.
    pub const ALL: [Self; 7] = [
        Self::DestinationDown,
        Self::DestinationEjected,
        Self::RecoveryFailed,
        Self::DestinationFlapping,
        Self::PoolDegraded,
        Self::PoolDown,
        Self::PoolPanic,
    ];

    /// Those about one destination.
    pub(super) const OF_DESTINATIONS: [Self; 4] =
        [Self::DestinationDown, Self::DestinationEjected, Self::RecoveryFailed, Self::DestinationFlapping];

    /// The word used in API, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DestinationDown => "destination_down",
            Self::DestinationEjected => "destination_ejected",
            Self::RecoveryFailed => "recovery_failed",
            Self::DestinationFlapping => "destination_flapping",
            Self::PoolDegraded => "pool_degraded",
            Self::PoolDown => "pool_down",
            Self::PoolPanic => "pool_panic",
        }
    }

    /// How grave it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::DestinationEjected => Severity::Info,
            Self::DestinationDown | Self::RecoveryFailed | Self::DestinationFlapping | Self::PoolDegraded => {
                Severity::Warning
            }
            Self::PoolDown | Self::PoolPanic => Severity::Critical,
        }
    }
}
