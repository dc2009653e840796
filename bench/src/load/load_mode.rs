//! When the next message is due.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often messages are sent.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// The next one as soon as the last is answered, on every connection.
    Closed,
    /// This many a second, whatever the answers do. A message that finds no free connection waits, and its
    /// latency counts from the planned moment.
    Rate(f64),
}

/// A rate from the command line, in messages a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    let sendable = (0.001..=10_000_000.0).contains(&rate);
    sendable.then_some(rate).ok_or_else(|| format!("'{text}' is not between 0.001 and 10,000,000"))
}

/// A pace under way.
pub(super) enum Schedule {
    Closed,
    /// `planned` holds the messages that are due and wait for a free connection: at most the rate times the
    /// length of a drive.
    Rate {
        next: Instant,
        period: Duration,
        planned: VecDeque<Instant>,
    },
    /// As closed, until none are left.
    Count {
        left: u64,
    },
}

impl Schedule {
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        match pace {
            Pace::Closed => Self::Closed,
            Pace::Rate(rate) => {
                let period = Duration::from_secs_f64(1.0 / rate);
                Self::Rate { next: now, period, planned: VecDeque::new() }
            }
        }
    }

    pub(super) fn count(left: u64) -> Self {
        Self::Count { left }
    }

    /// The planned moment of a message that may be sent now.
    pub(super) fn permit(&mut self, now: Instant) -> Option<Instant> {
        self.queue(now);
        match self {
            Self::Closed => Some(now),
            Self::Rate { planned, .. } => planned.pop_front(),
            Self::Count { left } => {
                *left = left.checked_sub(1)?;
                Some(now)
            }
        }
    }

    /// Queues every message whose moment has come.
    pub(super) fn queue(&mut self, now: Instant) {
        if let Self::Rate { next, period, planned } = self {
            while *next <= now {
                planned.push_back(*next);
                *next += *period;
            }
        }
    }

    /// When the next message is due, if that is a matter of time.
    pub(super) fn next(&self) -> Option<Instant> {
        match self {
            Self::Rate { next, .. } => Some(*next),
            Self::Closed | Self::Count { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_late_message_keeps_its_planned_moment() {
        let start = clock::now();
        let mut schedule = Schedule::new(Pace::Rate(1000.0), start);
        let late = start + Duration::from_micros(2500);
        let planned: Vec<Duration> =
            std::iter::from_fn(|| schedule.permit(late)).map(|planned| planned - start).collect();
        assert_eq!(planned, [0, 1, 2].map(Duration::from_millis));
        assert_eq!(schedule.next(), Some(start + Duration::from_millis(3)));
    }

    #[test]
    fn a_count_ends() {
        let mut schedule = Schedule::count(2);
        let permits = [(); 3].map(|()| schedule.permit(clock::now()).is_some());
        assert_eq!(permits, [true, true, false]);
    }
}
