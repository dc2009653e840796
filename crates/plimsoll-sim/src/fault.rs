//! Faults of simulated destinations and the times they are active.

use std::time::Duration;

use plimsoll_core::{Rng, Tick};

/// Interval at which a cold destination speeds up.
const WARM_UP_STEP: Duration = Duration::from_millis(100);

/// One fault and the time it is active.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SimFault {
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Start of the fault.
    pub from: Tick,
    /// End of the fault.
    pub until: Tick,
}

/// Kind of fault a destination can have.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FaultKind {
    /// Slower by this factor.
    Slow(f64),
    /// Alternately serves, and refuses connections after dropping its messages.
    Flapping {
        /// Time it serves.
        up: Duration,
        /// Time it is down.
        down: Duration,
    },
    /// Immediate error responses.
    FastFailing {
        /// Response time of the errors.
        after: Duration,
        /// Status of the errors, 500 or above.
        status: u16,
    },
    /// Stalled: no message makes progress.
    Stalling,
    /// Slower by this factor at first, then speeding up evenly until the end.
    Cold(f64),
    /// Accepts messages and never responds.
    Unresponsive,
    /// Recurring stalls of length `pause`.
    Pausing {
        /// Time from the start of one pause to the start of the next.
        every: Duration,
        /// Length of one pause.
        pause: Duration,
    },
    /// Refuses connections and drops its messages.
    Down,
    /// Random periods in which everything is slower.
    SlowPeriods {
        /// Factor by which it is slower.
        factor: f64,
        /// Length of one period.
        length: Duration,
        /// Probability that a period is slow.
        share: f64,
        /// Random seed of the destination, so that destinations have different periods.
        seed: u64,
    },
}

/// Combined effect of all faults at one moment.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Condition {
    /// Speed as a share of full speed.
    pub speed: f64,
    /// Whether connections are refused.
    pub down: bool,
    /// Whether messages are accepted without a response.
    pub unresponsive: bool,
    /// Time and status of immediate error responses.
    pub failure: Option<(Duration, u16)>,
}

impl Condition {
    /// Condition without faults.
    pub const HEALTHY: Self = Self { speed: 1.0, down: false, unresponsive: false, failure: None };
}

impl SimFault {
    /// Creates a fault that is active for the whole run.
    pub const fn always(kind: FaultKind) -> Self {
        Self { kind, from: Tick::ZERO, until: Tick::NEVER }
    }

    /// Adds the effect at `now` to a condition.
    fn apply(&self, now: Tick, mut condition: Condition) -> Condition {
        if now < self.from || now >= self.until {
            return condition;
        }
        let since = now.since(self.from);
        match self.kind {
            FaultKind::Slow(factor) => condition.speed /= factor,
            FaultKind::Flapping { up, down } => condition.down |= phase(since, up + down) >= up,
            FaultKind::FastFailing { after, status } => condition.failure = Some((after, status)),
            FaultKind::Stalling => condition.speed = 0.0,
            FaultKind::Cold(factor) => {
                let warm = since.as_secs_f64() / self.until.since(self.from).as_secs_f64();
                condition.speed /= factor + (1.0 - factor) * warm;
            }
            FaultKind::Unresponsive => condition.unresponsive = true,
            FaultKind::Pausing { every, pause } if phase(since, every) < pause => condition.speed = 0.0,
            FaultKind::Pausing { .. } => {}
            FaultKind::Down => condition.down = true,
            FaultKind::SlowPeriods { factor, length, share, seed } => {
                let turn = since.as_nanos() as u64 / length.as_nanos().max(1) as u64;
                if Rng::new(seed ^ turn.wrapping_mul(0x9e37_79b9_7f4a_7c15)).share() < share {
                    condition.speed /= factor;
                }
            }
        }
        condition
    }

    /// Shifts recurring faults, `part` of 0 to 1, so that destinations with the same fault (such as garbage
    /// collection) do not have it in step.
    pub fn with_random_phase(mut self, part: f64) -> Self {
        match &mut self.kind {
            FaultKind::Pausing { every, .. } => self.from += every.mul_f64(part),
            FaultKind::SlowPeriods { seed, .. } => *seed = part.to_bits(),
            _ => {}
        }
        self
    }

    /// Returns the time of the next change of its effect after `now`.
    fn next_change(&self, now: Tick) -> Tick {
        if now < self.from {
            return self.from;
        }
        if now >= self.until {
            return Tick::NEVER;
        }
        let since = now.since(self.from);
        let next_of = |period: Duration, middle: Duration| {
            let place = phase(since, period);
            now + if place < middle { middle - place } else { period - place }
        };
        let next = match self.kind {
            FaultKind::Flapping { up, down } => next_of(up + down, up),
            FaultKind::Pausing { every, pause } => next_of(every, pause),
            FaultKind::Cold(_) => now + WARM_UP_STEP,
            FaultKind::SlowPeriods { length, .. } => next_of(length, length),
            _ => self.until,
        };
        next.min(self.until)
    }
}

/// Returns the condition of a destination with these faults at `now`.
pub fn condition(faults: &[SimFault], now: Tick) -> Condition {
    faults.iter().fold(Condition::HEALTHY, |condition, fault| fault.apply(now, condition))
}

/// Returns the time of the next change of the condition after `now`.
pub fn next_change(faults: &[SimFault], now: Tick) -> Tick {
    faults.iter().map(|fault| fault.next_change(now)).min().unwrap_or(Tick::NEVER)
}

/// Offset of `since` in its period.
fn phase(since: Duration, period: Duration) -> Duration {
    Duration::from_nanos((since.as_nanos() % period.as_nanos().max(1)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    /// Every time the condition changes, and the condition from then on.
    fn timeline(kind: FaultKind) -> Vec<(u64, Condition)> {
        let faults = [SimFault { kind, from: s(1), until: s(8) }];
        let (mut timeline, mut now) = (Vec::new(), Tick::ZERO);
        while next_change(&faults, now) != Tick::NEVER {
            now = next_change(&faults, now);
            timeline.push((now.as_nanos() / 1_000_000_000, condition(&faults, now)));
        }
        timeline
    }

    #[test]
    fn faults_start_and_end_at_their_times() {
        const HEALTHY: Condition = Condition::HEALTHY;
        let still = Condition { speed: 0.0, ..HEALTHY };
        let down = Condition { down: true, ..HEALTHY };
        let span = Duration::from_secs;
        assert_eq!(timeline(FaultKind::Slow(4.0)), [(1, Condition { speed: 0.25, ..HEALTHY }), (8, HEALTHY)]);
        assert_eq!(timeline(FaultKind::Stalling), [(1, still), (8, HEALTHY)]);
        assert_eq!(
            timeline(FaultKind::Unresponsive),
            [(1, Condition { unresponsive: true, ..HEALTHY }), (8, HEALTHY)]
        );
        let flapping = timeline(FaultKind::Flapping { up: span(2), down: span(3) });
        assert_eq!(flapping, [(1, HEALTHY), (3, down), (6, HEALTHY), (8, HEALTHY)]);
        let pausing = timeline(FaultKind::Pausing { every: span(4), pause: span(1) });
        assert_eq!(pausing, [(1, still), (2, HEALTHY), (5, still), (6, HEALTHY), (8, HEALTHY)]);
    }

    #[test]
    fn a_cold_destination_speeds_up_evenly() {
        let timeline = timeline(FaultKind::Cold(5.0));
        assert!((timeline[0].1.speed - 0.2).abs() < 1e-9 && timeline.len() == 71, "{timeline:?}");
        assert!(timeline.windows(2).all(|pair| pair[0].1.speed < pair[1].1.speed));
    }
}
