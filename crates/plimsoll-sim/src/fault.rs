//! What ails a destination, and when.

use std::time::Duration;

use plimsoll_core::{Rng, Tick};

/// A warming destination gets faster in steps of this length.
const WARM_UP_STEP: Duration = Duration::from_millis(100);

/// One ailment and its time.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SimFault {
    /// What.
    pub kind: FaultKind,
    /// From then on.
    pub from: Tick,
    /// Until then.
    pub until: Tick,
}

/// What can ail a destination.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// Everything takes so many times as long.
    Slow(f64),
    /// Refuses connections and loses what it has, then serves, in turns.
    Flapping {
        /// Serves for so long.
        up: Duration,
        /// Then is away for so long.
        down: Duration,
    },
    /// Answers everything at once with an error.
    FastFailing {
        /// So quickly.
        after: Duration,
        /// 500 or another status that speaks against it.
        status: u16,
    },
    /// Nothing moves.
    Stalling,
    /// Everything takes so many times as long at first, and gets better evenly.
    Cold(f64),
    /// Accepts and never answers.
    Unresponsive,
    /// Nothing moves for `pause` at a time.
    Pausing {
        /// From the start of one pause to the start of the next.
        every: Duration,
        /// Its length.
        pause: Duration,
    },
    /// Refuses connections and loses what it has.
    Down,
    /// Now and then, by chance, everything takes so many times as long.
    SlowPeriods {
        /// How many times.
        factor: f64,
        /// Chance decides anew each time this has passed.
        length: Duration,
        /// How likely it is.
        share: f64,
        /// Each destination has spells of its own.
        seed: u64,
    },
}

/// How a destination is at one moment.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Condition {
    /// The part of its speed it works at.
    pub speed: f64,
    /// Refuses connections.
    pub down: bool,
    /// Accepts and never answers.
    pub unresponsive: bool,
    /// Answers after so long with this status.
    pub failure: Option<(Duration, u16)>,
}

impl Condition {
    /// Nothing ails it.
    pub const HEALTHY: Self = Self { speed: 1.0, down: false, unresponsive: false, failure: None };
}

impl SimFault {
    /// From the start to the end.
    pub const fn always(kind: FaultKind) -> Self {
        Self { kind, from: Tick::ZERO, until: Tick::NEVER }
    }

    /// What it makes of a destination at `now`.
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

    /// Collectors of garbage do not all begin at once: the first pause comes at this part of its turn; and nobody
    /// shares its bad spells with another.
    pub fn with_random_phase(mut self, part: f64) -> Self {
        match &mut self.kind {
            FaultKind::Pausing { every, .. } => self.from += every.mul_f64(part),
            FaultKind::SlowPeriods { seed, .. } => *seed = part.to_bits(),
            _ => {}
        }
        self
    }

    /// When it changes something next, after `now`.
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

/// How a destination with these faults is at `now`.
pub fn condition(faults: &[SimFault], now: Tick) -> Condition {
    faults.iter().fold(Condition::HEALTHY, |condition, fault| fault.apply(now, condition))
}

/// When that changes next, after `now`.
pub fn next_change(faults: &[SimFault], now: Tick) -> Tick {
    faults.iter().map(|fault| fault.next_change(now)).min().unwrap_or(Tick::NEVER)
}

/// How far `since` is into its period.
fn phase(since: Duration, period: Duration) -> Duration {
    Duration::from_nanos((since.as_nanos() % period.as_nanos().max(1)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    /// Every moment it changes, and how it is from then on.
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
