//! What the slow loop tells the world: one value per thing that happened, with its reason.

use std::fmt;
use std::time::Duration;

use crate::destination::{Name, Standing};
use crate::health::peers::Worse;
use crate::health::silence::Silent;
use crate::outcome::Failure;
use crate::time::Tick;

/// Something happened in a pool. Its `Display` is the line for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A destination joined a pool that was running already.
    Joined {
        /// Its pool.
        pool: Name,
        /// Its name.
        destination: Name,
        /// How it stands.
        standing: Standing,
    },
    /// A destination left.
    Left {
        /// Its pool.
        pool: Name,
        /// Its name.
        destination: Name,
        /// How it stood.
        standing: Standing,
    },
    /// A destination stands differently now. Also told when an ejected one comes up for its trial
    /// (`to` is `Ejected` with `until` 0) and when it fails that.
    StandingChanged {
        /// Its pool.
        pool: Name,
        /// Its name.
        destination: Name,
        /// How it stood.
        from: Standing,
        /// How it stands.
        to: Standing,
        /// Why.
        reason: Reason,
    },
    /// A destination deserved ejection and was kept, because too few others would have been left. Told at
    /// most once per `base_ejection`.
    EjectionSpared {
        /// Its pool.
        pool: Name,
        /// Its name.
        destination: Name,
        /// Bad outcomes in a row.
        streak: u32,
    },
}

/// Why a destination stands as it does.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The operator said so.
    Operator,
    /// So many checks failed in a row; the last for this reason.
    ChecksFailed {
        /// In a row.
        count: u32,
        /// What the last one saw.
        detail: String,
    },
    /// So many checks passed in a row.
    ChecksPassed {
        /// In a row.
        count: u32,
    },
    /// Checks were switched off, and what they saw no longer counts.
    ChecksOff,
    /// So many bad outcomes in a row.
    TrafficFailed {
        /// In a row.
        streak: u32,
        /// The last failure; `None` for an answer of 5xx.
        last: Option<Failure>,
        /// Set aside for so long.
        span: Duration,
    },
    /// It did worse than its peers, or than it used to.
    WorseThanPeers {
        /// In what.
        worse: Worse,
        /// Set aside for so long.
        span: Duration,
    },
    /// It takes messages and answers none, while its peers do.
    Silent {
        /// How that looked.
        silent: Silent,
        /// Set aside for so long.
        span: Duration,
    },
    /// No check has asked it yet, and until then it does not serve.
    NotChecked,
    /// Its time is over: one message may try it.
    TrialOpened,
    /// Its trial went well.
    TrialPassed,
    /// Its trial went badly.
    TrialFailed {
        /// How; `None` for an answer of 5xx.
        last: Option<Failure>,
        /// Set aside for so long.
        span: Duration,
    },
    /// Checks show that connecting works again, and failing to connect was all there was against it.
    Reachable,
    /// Outlier detection was switched off, and what traffic showed no longer counts.
    DetectionOff,
    /// It says that it has too much to do.
    Overloaded {
        /// Its load score.
        percent: u8,
    },
    /// It has less to do again.
    Relieved {
        /// Its load score; `None`: nothing it said counts any more.
        percent: Option<u8>,
    },
    /// Too few others are left to do without it.
    Needed,
    /// It is the pool's only destination now, which is never taken out for failing.
    Alone,
    /// It has a new address: nothing is known against that.
    Moved,
    /// Its slow start is over.
    WarmedUp,
    /// Checks pass again, so many in a row: one message is to show whether it serves.
    RecoveryPlanned {
        /// In a row.
        count: u32,
    },
}

impl Reason {
    /// Traffic set it aside.
    pub const fn ejects(&self) -> bool {
        matches!(
            self,
            Self::TrafficFailed { .. }
                | Self::WorseThanPeers { .. }
                | Self::Silent { .. }
                | Self::TrialFailed { .. }
        )
    }

    /// It showed that it serves again.
    pub const fn recovers(&self) -> bool {
        matches!(self, Self::ChecksPassed { .. } | Self::TrialPassed | Self::Reachable)
    }

    /// The word used in API and metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::ChecksFailed { .. } => "checks_failed",
            Self::ChecksPassed { .. } => "checks_passed",
            Self::ChecksOff => "checks_off",
            Self::TrafficFailed { .. } => "traffic_failed",
            Self::WorseThanPeers { worse, .. } => worse.word(),
            Self::Silent { .. } => "silent",
            Self::NotChecked => "not_checked",
            Self::TrialOpened => "trial_opened",
            Self::TrialPassed => "trial_passed",
            Self::TrialFailed { .. } => "trial_failed",
            Self::Reachable => "reachable",
            Self::DetectionOff => "detection_off",
            Self::Overloaded { .. } => "overloaded",
            Self::Relieved { .. } => "relieved",
            Self::Needed => "needed",
            Self::Alone => "alone",
            Self::Moved => "moved",
            Self::WarmedUp => "warmed_up",
            Self::RecoveryPlanned { .. } => "recovery_planned",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("the operator said so"),
            Self::ChecksFailed { count: 0 | 1, detail } => write!(f, "a check failed: {detail}"),
            Self::ChecksFailed { count, detail } => {
                write!(f, "{count} checks failed in a row, last: {detail}")
            }
            Self::ChecksPassed { count: 0 | 1 } => f.write_str("a check passed"),
            Self::ChecksPassed { count } => write!(f, "{count} checks passed in a row"),
            Self::ChecksOff => f.write_str("checks were switched off"),
            Self::TrafficFailed { streak, last, span } => write!(
                f,
                "{streak} messages failed in a row, last: {}; trial in {}",
                story(*last),
                seconds(*span)
            ),
            Self::WorseThanPeers { worse, span } => {
                write!(f, "{worse}; trial in {}", seconds(*span))
            }
            Self::Silent { silent: Silent { waiting, span: silence }, span } => write!(
                f,
                "{waiting} messages wait for an answer and it has given none for {}, while its peers do; trial in {}",
                seconds(*silence),
                seconds(*span)
            ),
            Self::NotChecked => f.write_str("it starts down, and no check has passed yet"),
            Self::TrialOpened => f.write_str("its time is over, one message may try it"),
            Self::TrialPassed => f.write_str("its trial went well"),
            Self::TrialFailed { last, span } => {
                write!(f, "its trial failed: {}; next trial in {}", story(*last), seconds(*span))
            }
            Self::Reachable => {
                f.write_str("a check connected, and failed connects were all it had against it")
            }
            Self::DetectionOff => f.write_str("outlier detection was switched off"),
            Self::Overloaded { percent } | Self::Relieved { percent: Some(percent) } => {
                write!(f, "it reports a load of {percent} %")
            }
            Self::Relieved { percent: None } => {
                f.write_str("its reports of load are too old, or no longer heeded")
            }
            Self::Needed => f.write_str("too few others are left to do without it"),
            Self::Alone => f.write_str("it is the pool's only destination now"),
            Self::Moved => f.write_str("it has a new address"),
            Self::WarmedUp => f.write_str("its slow start is over"),
            Self::RecoveryPlanned { count } => {
                write!(f, "{count} checks passed in a row: one message is to show that it serves")
            }
        }
    }
}

/// A failure as people would say it.
const fn story(last: Option<Failure>) -> &'static str {
    match last {
        None => "answered 5xx",
        Some(Failure::Connect) => "could not connect",
        Some(Failure::Reset) => "connection reset",
        Some(Failure::EmptyResponse) => "closed without an answer",
        Some(Failure::Timeout) => "no answer in time",
        Some(Failure::Garbage) => "not a valid answer",
        Some(Failure::Truncated) => "the answer broke off",
        Some(Failure::NoResources) => "no descriptor, port or memory for a connection",
    }
}

/// A span as configuration writes it; milliseconds are as fine as anyone reads.
fn seconds(span: Duration) -> String {
    format!("{:?}", Duration::from_millis(span.as_millis() as u64))
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { pool, destination, standing } => {
                write!(f, "pool {pool}: destination {destination} joined, {}", standing.word())
            }
            Self::Left { pool, destination, standing } => {
                write!(f, "pool {pool}: destination {destination} left, was {}", standing.word())
            }
            Self::StandingChanged { pool, destination, from, to, reason } => {
                write!(f, "pool {pool}: destination {destination} is ")?;
                match (from, to) {
                    (_, Standing::Ejected { until: Tick::ZERO }) => f.write_str("on trial"),
                    (Standing::Ejected { .. }, Standing::Ejected { .. }) => f.write_str("still ejected"),
                    _ => write!(f, "{} (was {})", to.word(), from.word()),
                }?;
                write!(f, ": {reason}")
            }
            Self::EjectionSpared { pool, destination, streak } => write!(
                f,
                "pool {pool}: destination {destination} failed {streak} messages in a row \
                 and is kept: too few others would be left"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: Standing, to: Standing, reason: Reason) -> String {
        Event::StandingChanged { pool: "api".into(), destination: "a".into(), from, to, reason }.to_string()
    }

    #[test]
    fn every_event_is_one_line_that_says_who_what_and_why() {
        let until = Standing::Ejected { until: Tick::from_nanos(7) };
        let probation = Standing::Ejected { until: Tick::ZERO };
        let span = Duration::from_millis(30_000);
        assert_eq!(
            line(
                Standing::Serving,
                Standing::Down,
                Reason::ChecksFailed { count: 3, detail: "connection refused".into() }
            ),
            "pool api: destination a is down (was serving): 3 checks failed in a row, last: connection refused"
        );
        assert_eq!(
            line(
                Standing::Serving,
                Standing::Down,
                Reason::ChecksFailed { count: 1, detail: "status 500".into() }
            ),
            "pool api: destination a is down (was serving): a check failed: status 500"
        );
        let failed = Reason::TrafficFailed { streak: 5, last: Some(Failure::Timeout), span };
        assert_eq!(
            line(Standing::Serving, until, failed),
            "pool api: destination a is ejected (was serving): \
             5 messages failed in a row, last: no answer in time; trial in 30s"
        );
        assert_eq!(
            line(until, probation, Reason::TrialOpened),
            "pool api: destination a is on trial: its time is over, one message may try it"
        );
        assert_eq!(
            line(probation, until, Reason::TrialFailed { last: None, span: span * 2 }),
            "pool api: destination a is still ejected: its trial failed: answered 5xx; next trial in 60s"
        );
        assert_eq!(
            Event::Joined { pool: "api".into(), destination: "b".into(), standing: Standing::Serving }
                .to_string(),
            "pool api: destination b joined, serving"
        );
        assert_eq!(
            Event::EjectionSpared { pool: "api".into(), destination: "b".into(), streak: 6 }.to_string(),
            "pool api: destination b failed 6 messages in a row and is kept: too few others would be left"
        );
    }
}
