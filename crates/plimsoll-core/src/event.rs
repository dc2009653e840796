//! Events of the slow loop: one value per change, with its reason.

use std::fmt;
use std::time::Duration;

use crate::destination::{Name, Status};
use crate::health::check_failure::CheckFailure;
use crate::health::peer_comparison::OutlierKind;
use crate::health::unresponsive::Unresponsive;
use crate::outcome::Failure;
use crate::time::Tick;

/// Event in a pool. Its `Display` is the line for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A destination was added to a running pool.
    MemberAdded {
        /// Name of the pool.
        pool: Name,
        /// Name of the destination.
        destination: Name,
        /// Initial status of the destination.
        status: Status,
    },
    /// A destination was removed from its pool.
    MemberRemoved {
        /// Name of the pool.
        pool: Name,
        /// Name of the destination.
        destination: Name,
        /// Last status of the destination.
        status: Status,
    },
    /// The status of a destination changed. Also emitted when an ejected one comes up for its trial (`to` is `Ejected`
    /// with `until` 0) and when the trial fails.
    StatusChanged {
        /// Name of the pool.
        pool: Name,
        /// Name of the destination.
        destination: Name,
        /// Status before the change.
        from: Status,
        /// Status after the change.
        to: Status,
        /// Reason of the change.
        reason: Reason,
    },
    /// A destination met the conditions of an ejection and was kept, because too few others would be left. Emitted at
    /// most once per `base_ejection`.
    EjectionSkipped {
        /// Name of the pool.
        pool: Name,
        /// Name of the destination.
        destination: Name,
        /// Number of consecutive bad outcomes.
        streak: u32,
    },
}

/// Reason of a destination's status.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Request of the operator.
    Operator,
    /// Consecutive health checks failed.
    ChecksFailed {
        /// Number of consecutive checks.
        count: u32,
        /// Failure of the last check; `None` if it is unknown.
        failure: Option<CheckFailure>,
    },
    /// Consecutive health checks passed.
    ChecksPassed {
        /// Number of consecutive checks.
        count: u32,
    },
    /// Health checks were switched off, and their results no longer count.
    ChecksOff,
    /// Consecutive messages had bad outcomes.
    TrafficFailed {
        /// Number of consecutive checks.
        streak: u32,
        /// Last failure; `None` for a response with status 5xx.
        last: Option<Failure>,
        /// Duration of the ejection.
        span: Duration,
    },
    /// The destination performs worse than its peers, or than its own baseline.
    WorseThanPeers {
        /// Measurement that is worse.
        worse: OutlierKind,
        /// Duration of the ejection.
        span: Duration,
    },
    /// The destination accepts messages and responds to none, while its peers do.
    Unresponsive {
        /// Observation that led to the ejection.
        observation: Unresponsive,
        /// Duration of the ejection.
        span: Duration,
    },
    /// The host name of the destination has no known address.
    Unresolved {
        /// Cause of the failed lookup.
        cause: Name,
    },
    /// No health check has finished yet, and the destination does not serve before.
    NotChecked,
    /// The ejection time is over: one message, the trial, may be sent.
    TrialOpened,
    /// The trial passed.
    TrialPassed,
    /// The trial failed.
    TrialFailed {
        /// Failure; `None` for a response with status 5xx.
        last: Option<Failure>,
        /// Duration of the ejection.
        span: Duration,
    },
    /// A health check connected, and failed connects were the only cause of the ejection.
    Reachable,
    /// Outlier detection was switched off, and its ejections no longer count.
    DetectionOff,
    /// The reported load is above the threshold.
    Overloaded {
        /// Reported load score.
        percent: u8,
    },
    /// The reported load is below the recovery threshold again.
    LoadRecovered {
        /// Reported load score; `None` when the reports are too old or no longer used.
        percent: Option<u8>,
    },
    /// Too few other destinations are left.
    PanicThreshold,
    /// The destination is the pool's only one now, which is never taken out for failing.
    OnlyMember,
    /// The address changed, so earlier failures no longer count.
    AddressChanged,
    /// The slow start is over.
    WarmedUp,
    /// Consecutive health checks passed again: one message is sent to validate the recovery.
    RecoveryPlanned {
        /// Number of consecutive checks.
        count: u32,
    },
}

impl Reason {
    /// Names of the reasons for which outlier detection ejects.
    pub const EJECTIONS: [&'static str; 8] = [
        "traffic_failed",
        "success_rate",
        "failure_share",
        "slow",
        "slower_than_usual",
        "fails_more_than_usual",
        "unresponsive",
        "trial_failed",
    ];

    /// Returns whether the reason is an ejection by outlier detection.
    pub const fn ejects(&self) -> bool {
        matches!(
            self,
            Self::TrafficFailed { .. }
                | Self::WorseThanPeers { .. }
                | Self::Unresponsive { .. }
                | Self::TrialFailed { .. }
        )
    }

    /// Returns whether the reason proves that the destination serves again.
    pub const fn recovers(&self) -> bool {
        matches!(self, Self::ChecksPassed { .. } | Self::TrialPassed | Self::Reachable)
    }

    /// Name in API and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::ChecksFailed { .. } => "checks_failed",
            Self::ChecksPassed { .. } => "checks_passed",
            Self::ChecksOff => "checks_off",
            Self::TrafficFailed { .. } => "traffic_failed",
            Self::WorseThanPeers { worse, .. } => worse.as_str(),
            Self::Unresponsive { .. } => "unresponsive",
            Self::Unresolved { .. } => "unresolved",
            Self::NotChecked => "not_checked",
            Self::TrialOpened => "trial_opened",
            Self::TrialPassed => "trial_passed",
            Self::TrialFailed { .. } => "trial_failed",
            Self::Reachable => "reachable",
            Self::DetectionOff => "detection_off",
            Self::Overloaded { .. } => "overloaded",
            Self::LoadRecovered { .. } => "load_recovered",
            Self::PanicThreshold => "panic_threshold",
            Self::OnlyMember => "only_member",
            Self::AddressChanged => "address_changed",
            Self::WarmedUp => "warmed_up",
            Self::RecoveryPlanned { .. } => "recovery_planned",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("requested by the operator"),
            Self::ChecksFailed { count, failure } => {
                let detail = failure.as_ref().map_or("unknown cause", |failure| &failure.detail);
                match count {
                    0 | 1 => write!(f, "a check failed: {detail}"),
                    count => write!(f, "{count} checks failed in a row, last: {detail}"),
                }
            }
            Self::ChecksPassed { count: 0 | 1 } => f.write_str("a check passed"),
            Self::ChecksPassed { count } => write!(f, "{count} checks passed in a row"),
            Self::ChecksOff => f.write_str("checks were switched off"),
            Self::TrafficFailed { streak, last, span } => write!(
                f,
                "{streak} messages failed in a row, last: {}; trial in {}",
                describe(*last),
                seconds(*span)
            ),
            Self::WorseThanPeers { worse, span } => {
                write!(f, "{worse}; trial in {}", seconds(*span))
            }
            Self::Unresponsive { observation: Unresponsive { waiting, span: silence }, span } => write!(
                f,
                "{waiting} messages wait, with no response for {} while its peers respond; trial in {}",
                seconds(*silence),
                seconds(*span)
            ),
            Self::Unresolved { cause } => write!(f, "its host name has no known address: {cause}"),
            Self::NotChecked => {
                f.write_str("the pool starts destinations down, and no health check has passed yet")
            }
            Self::TrialOpened => f.write_str("the ejection time is over, one message is sent as a trial"),
            Self::TrialPassed => f.write_str("the trial passed"),
            Self::TrialFailed { last, span } => {
                write!(f, "the trial failed: {}; next trial in {}", describe(*last), seconds(*span))
            }
            Self::Reachable => {
                f.write_str("a health check connected, and failed connects were the only cause")
            }
            Self::DetectionOff => f.write_str("outlier detection was switched off"),
            Self::Overloaded { percent } | Self::LoadRecovered { percent: Some(percent) } => {
                write!(f, "reported load is {percent} %")
            }
            Self::LoadRecovered { percent: None } => {
                f.write_str("load reports are too old or no longer used")
            }
            Self::PanicThreshold => f.write_str("too few other destinations are left"),
            Self::OnlyMember => f.write_str("it is the only destination of the pool"),
            Self::AddressChanged => f.write_str("the address changed"),
            Self::WarmedUp => f.write_str("the slow start is over"),
            Self::RecoveryPlanned { count } => {
                write!(f, "{count} checks passed in a row: one message validates the recovery")
            }
        }
    }
}

/// Describes a failure for the log.
const fn describe(last: Option<Failure>) -> &'static str {
    match last {
        None => "status 5xx",
        Some(Failure::Connect) => "could not connect",
        Some(Failure::Reset) => "connection reset",
        Some(Failure::EmptyResponse) => "closed without a response",
        Some(Failure::Timeout) => "no response in time",
        Some(Failure::Garbage) => "invalid response",
        Some(Failure::Truncated) => "incomplete response",
        Some(Failure::NoResources) => "no descriptor, port or memory for a connection",
    }
}

/// Formats a duration as the configuration writes it, in whole milliseconds.
fn seconds(span: Duration) -> String {
    format!("{:?}", Duration::from_millis(span.as_millis() as u64))
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemberAdded { pool, destination, status } => {
                write!(f, "pool {pool}: destination {destination} added, {}", status.as_str())
            }
            Self::MemberRemoved { pool, destination, status } => {
                write!(f, "pool {pool}: destination {destination} removed, was {}", status.as_str())
            }
            Self::StatusChanged { pool, destination, from, to, reason } => {
                write!(f, "pool {pool}: destination {destination} is ")?;
                match (from, to) {
                    (_, Status::Ejected { until: Tick::ZERO }) => f.write_str("on trial"),
                    (Status::Ejected { .. }, Status::Ejected { .. }) => f.write_str("still ejected"),
                    _ => write!(f, "{} (was {})", to.as_str(), from.as_str()),
                }?;
                write!(f, ": {reason}")
            }
            Self::EjectionSkipped { pool, destination, streak } => write!(
                f,
                "pool {pool}: destination {destination} failed {streak} messages in a row \
                 and is not ejected: too few others would be left"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: Status, to: Status, reason: Reason) -> String {
        Event::StatusChanged { pool: "api".into(), destination: "a".into(), from, to, reason }.to_string()
    }

    #[test]
    fn every_event_is_one_line_with_destination_change_and_reason() {
        let until = Status::Ejected { until: Tick::from_nanos(7) };
        let probation = Status::Ejected { until: Tick::ZERO };
        let span = Duration::from_millis(30_000);
        assert_eq!(
            line(
                Status::Serving,
                Status::Down,
                Reason::ChecksFailed { count: 3, failure: Some("connection refused".into()) }
            ),
            "pool api: destination a is down (was serving): 3 checks failed in a row, last: connection refused"
        );
        assert_eq!(
            line(
                Status::Serving,
                Status::Down,
                Reason::ChecksFailed { count: 1, failure: Some("status 500".into()) }
            ),
            "pool api: destination a is down (was serving): a check failed: status 500"
        );
        let failed = Reason::TrafficFailed { streak: 5, last: Some(Failure::Timeout), span };
        assert_eq!(
            line(Status::Serving, until, failed),
            "pool api: destination a is ejected (was serving): \
             5 messages failed in a row, last: no response in time; trial in 30s"
        );
        assert_eq!(
            line(until, probation, Reason::TrialOpened),
            "pool api: destination a is on trial: the ejection time is over, one message is sent as a trial"
        );
        assert_eq!(
            line(probation, until, Reason::TrialFailed { last: None, span: span * 2 }),
            "pool api: destination a is still ejected: the trial failed: status 5xx; next trial in 60s"
        );
        assert_eq!(
            Event::MemberAdded { pool: "api".into(), destination: "b".into(), status: Status::Serving }
                .to_string(),
            "pool api: destination b added, serving"
        );
        assert_eq!(
            Event::EjectionSkipped { pool: "api".into(), destination: "b".into(), streak: 6 }.to_string(),
            "pool api: destination b failed 6 messages in a row and is not ejected: too few others would be left"
        );
    }
}
