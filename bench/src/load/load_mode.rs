//! Schedule of messages: closed loop, fixed rate, or a fixed count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Load mode of a client.
#[derive(Clone, Copy)]
pub(crate) enum LoadMode {
    /// Closed loop: the next message of a connection follows the response to the last.
    Closed,
    /// Open loop with this many messages per second. A message that finds no free connection waits, and its
    /// latency counts from the planned time.
    Rate(f64),
}

/// Parses messages per second from the command line.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("expected a number, found '{text}'"))?;
    let sendable = (0.001..=10_000_000.0).contains(&rate);
    sendable
        .then_some(rate)
        .ok_or_else(|| format!("expected a number from 0.001 to 10,000,000, found '{text}'"))
}

/// Running schedule of a load mode.
pub(super) enum Schedule {
    Closed,
    /// `planned` holds the messages that are due and wait for a free connection: at most the rate times the
    /// length of a run.
    Rate {
        next: Instant,
        period: Duration,
        planned: VecDeque<Instant>,
    },
    /// Closed loop until none are left.
    Count {
        left: u64,
    },
}

impl Schedule {
    pub(super) fn new(mode: LoadMode, now: Instant) -> Self {
        match mode {
            LoadMode::Closed => Self::Closed,
            LoadMode::Rate(rate) => {
                let period = Duration::from_secs_f64(1.0 / rate);
                Self::Rate { next: now, period, planned: VecDeque::new() }
            }
        }
    }

    pub(super) fn count(left: u64) -> Self {
        Self::Count { left }
    }

    /// Returns the planned time of a message that may be sent now.
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

    /// Queues the messages that are due.
    pub(super) fn queue(&mut self, now: Instant) {
        if let Self::Rate { next, period, planned } = self {
            while *next <= now {
                planned.push_back(*next);
                *next += *period;
            }
        }
    }

    /// Returns when the next message is due, if that depends on time.
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
        let mut schedule = Schedule::new(LoadMode::Rate(1000.0), start);
        let late = start + Duration::from_micros(2500);
        let planned: Vec<Duration> =
            std::iter::from_fn(|| schedule.permit(late)).map(|planned| planned - start).collect();
        assert_eq!(planned, [0, 1, 2].map(Duration::from_millis));
        assert_eq!(schedule.next(), Some(start + Duration::from_millis(3)));
    }

    #[test]
    fn a_count_schedule_ends() {
        let mut schedule = Schedule::count(2);
        let permits = [(); 3].map(|()| schedule.permit(clock::now()).is_some());
        assert_eq!(permits, [true, true, false]);
    }
}
