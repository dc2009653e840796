//! What ails a destination, and when.

use std::time::Duration;

use plimsoll_core::{Rng, Tick};

/// A warming destination gets faster in steps of this length.
const WARM_STEP: Duration = Duration::from_millis(100);

/// One ailment and its time.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Trouble {
    /// What.
    pub kind: Kind,
    /// From then on.
    pub from: Tick,
    /// Until then.
    pub until: Tick,
}

/// What can ail a destination.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Kind {
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
    Gray,
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
    Spells {
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
    pub pace: f64,
    /// Refuses connections.
    pub down: bool,
    /// Accepts and never answers.
    pub gray: bool,
    /// Answers after so long with this status.
    pub fails: Option<(Duration, u16)>,
}

impl Condition {
    /// Nothing ails it.
    pub const WELL: Self = Self { pace: 1.0, down: false, gray: false, fails: None };
}

impl Trouble {
    /// From the start to the end.
    pub const fn always(kind: Kind) -> Self {
        Self { kind, from: Tick::ZERO, until: Tick::NEVER }
    }

    /// What it makes of a destination at `now`.
    fn worsen(&self, now: Tick, mut condition: Condition) -> Condition {
        if now < self.from || now >= self.until {
            return condition;
        }
        let since = now.since(self.from);
        match self.kind {
            Kind::Slow(factor) => condition.pace /= factor,
            Kind::Flapping { up, down } => condition.down |= within(since, up + down) >= up,
            Kind::FastFailing { after, status } => condition.fails = Some((after, status)),
            Kind::Stalling => condition.pace = 0.0,
            Kind::Cold(factor) => {
                let warm = since.as_secs_f64() / self.until.since(self.from).as_secs_f64();
                condition.pace /= factor + (1.0 - factor) * warm;
            }
            Kind::Gray => condition.gray = true,
            Kind::Pausing { every, pause } if within(since, every) < pause => condition.pace = 0.0,
            Kind::Pausing { .. } => {}
            Kind::Down => condition.down = true,
            Kind::Spells { factor, length, share, seed } => {
                let turn = since.as_nanos() as u64 / length.as_nanos().max(1) as u64;
                if Rng::new(seed ^ turn.wrapping_mul(0x9e37_79b9_7f4a_7c15)).share() < share {
                    condition.pace /= factor;
                }
            }
        }
        condition
    }

    /// Collectors of garbage do not all begin at once: the first pause comes at this part of its turn; and nobody
    /// shares its bad spells with another.
    pub fn anywhere_in_its_turn(mut self, part: f64) -> Self {
        match &mut self.kind {
            Kind::Pausing { every, .. } => self.from += every.mul_f64(part),
            Kind::Spells { seed, .. } => *seed = part.to_bits(),
            _ => {}
        }
        self
    }

    /// When it changes something next, after `now`.
    fn turns_at(&self, now: Tick) -> Tick {
        if now < self.from {
            return self.from;
        }
        if now >= self.until {
            return Tick::NEVER;
        }
        let since = now.since(self.from);
        let turns = |period: Duration, middle: Duration| {
            let place = within(since, period);
            now + if place < middle { middle - place } else { period - place }
        };
        let next = match self.kind {
            Kind::Flapping { up, down } => turns(up + down, up),
            Kind::Pausing { every, pause } => turns(every, pause),
            Kind::Cold(_) => now + WARM_STEP,
            Kind::Spells { length, .. } => turns(length, length),
            _ => self.until,
        };
        next.min(self.until)
    }
}

/// How a destination with these troubles is at `now`.
pub fn condition(troubles: &[Trouble], now: Tick) -> Condition {
    troubles.iter().fold(Condition::WELL, |condition, trouble| trouble.worsen(now, condition))
}

/// When that changes next, after `now`.
pub fn turns_at(troubles: &[Trouble], now: Tick) -> Tick {
    troubles.iter().map(|trouble| trouble.turns_at(now)).min().unwrap_or(Tick::NEVER)
}

/// How far `since` is into its period.
fn within(since: Duration, period: Duration) -> Duration {
    Duration::from_nanos((since.as_nanos() % period.as_nanos().max(1)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    /// Every moment it changes, and how it is from then on.
    fn course(kind: Kind) -> Vec<(u64, Condition)> {
        let troubles = [Trouble { kind, from: s(1), until: s(8) }];
        let (mut course, mut now) = (Vec::new(), Tick::ZERO);
        while turns_at(&troubles, now) != Tick::NEVER {
            now = turns_at(&troubles, now);
            course.push((now.as_nanos() / 1_000_000_000, condition(&troubles, now)));
        }
        course
    }

    #[test]
    fn troubles_come_and_go_when_they_say() {
        const WELL: Condition = Condition::WELL;
        let still = Condition { pace: 0.0, ..WELL };
        let down = Condition { down: true, ..WELL };
        let span = Duration::from_secs;
        assert_eq!(course(Kind::Slow(4.0)), [(1, Condition { pace: 0.25, ..WELL }), (8, WELL)]);
        assert_eq!(course(Kind::Stalling), [(1, still), (8, WELL)]);
        assert_eq!(course(Kind::Gray), [(1, Condition { gray: true, ..WELL }), (8, WELL)]);
        let flapping = course(Kind::Flapping { up: span(2), down: span(3) });
        assert_eq!(flapping, [(1, WELL), (3, down), (6, WELL), (8, WELL)]);
        let pausing = course(Kind::Pausing { every: span(4), pause: span(1) });
        assert_eq!(pausing, [(1, still), (2, WELL), (5, still), (6, WELL), (8, WELL)]);
    }

    #[test]
    fn the_cold_get_warm() {
        let course = course(Kind::Cold(5.0));
        assert!((course[0].1.pace - 0.2).abs() < 1e-9 && course.len() == 71, "{course:?}");
        assert!(course.windows(2).all(|pair| pair[0].1.pace < pair[1].1.pace));
    }
}
