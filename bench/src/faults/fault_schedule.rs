//! Faults of destinations as a function of case, seed and time, so that every proxy meets the same ones.

use std::time::Duration;

use crate::stats::Rng;

/// Fault of the destinations in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// Destinations without any faults
    Steady,
    /// Two destinations are three times slower, all the time
    Slow,
    /// Each is five times slower for 400 ms, one sixth of its time, at random
    Bursts,
    /// One stalls for two seconds in every ten
    Stall,
    /// One responds 503 within a millisecond, from the first measured second on
    Failing,
}

/// Faults of one run; times are seconds since its start.
pub(crate) struct FaultSchedule {
    case: Case,
    seed: u64,
    /// Start of the measurement.
    warmup: f64,
    destinations: usize,
}

/// Length of a burst in seconds.
const BURST: f64 = 0.4;
/// Interval in which one destination stalls once.
const STALL_EVERY: f64 = 10.0;
const STALL: f64 = 2.0;

impl Case {
    pub(crate) const ALL: [Self; 5] = [Self::Steady, Self::Slow, Self::Bursts, Self::Stall, Self::Failing];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Slow => "slow",
            Self::Bursts => "bursts",
            Self::Stall => "stall",
            Self::Failing => "failing",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Steady => "ten destinations without faults",
            Self::Slow => "two of ten destinations are three times slower",
            Self::Bursts => "each destination is five times slower in one sixth of all periods of 400 ms",
            Self::Stall => "one of ten destinations stalls for two seconds in every ten",
            Self::Failing => {
                "one of ten destinations responds 503 within a millisecond from the first second on"
            }
        }
    }
}

impl FaultSchedule {
    pub(crate) fn new(case: Case, seed: u64, warmup: Duration, destinations: usize) -> Self {
        Self { case, seed, warmup: warmup.as_secs_f64(), destinations }
    }

    /// Returns whether a destination responds 503 instead of working.
    pub(crate) fn fails(&self, destination: usize, at: Duration) -> bool {
        let from = self.warmup + 1.0;
        self.case == Case::Failing && destination == self.drawn(0, 0) && at.as_secs_f64() >= from
    }

    /// Returns when work that takes `work` without faults completes, if it starts at `start`.
    pub(crate) fn done(&self, destination: usize, start: Duration, work: Duration) -> Duration {
        let (mut now, mut left) = (start.as_secs_f64(), work.as_secs_f64());
        loop {
            let (speed, until) = self.speed(destination, now);
            let worked = (until - now) * speed;
            if left <= worked {
                return Duration::from_secs_f64(now + left / speed);
            }
            left -= worked;
            now = until;
        }
    }

    /// Returns the speed of a destination, 1 without faults, and the time until which it holds at least.
    fn speed(&self, destination: usize, now: f64) -> (f64, f64) {
        match self.case {
            Case::Steady | Case::Failing => (1.0, f64::INFINITY),
            Case::Slow => (if self.slow(destination) { 1.0 / 3.0 } else { 1.0 }, f64::INFINITY),
            Case::Bursts => {
                // Each destination has its own phase, so that not all change at once.
                let beat = self.rng(1, destination as u64).unit() * BURST;
                let span = ((now + beat) / BURST).floor();
                let slow = self.rng(2 + destination as u64, span as u64).unit() < 1.0 / 6.0;
                (if slow { 0.2 } else { 1.0 }, later((span + 1.0) * BURST - beat, now))
            }
            Case::Stall => self.standing(destination, now),
        }
    }

    fn slow(&self, destination: usize) -> bool {
        let first = self.drawn(0, 0);
        // Neither adjacent nor opposite, so that the order of a rotation does not matter.
        destination == first || destination == (first + 3) % self.destinations
    }

    fn standing(&self, destination: usize, now: f64) -> (f64, f64) {
        let measured = now - self.warmup;
        if measured < 0.0 {
            return (1.0, self.warmup);
        }
        let span = (measured / STALL_EVERY).floor();
        let end = self.warmup + (span + 1.0) * STALL_EVERY;
        // Between one and four seconds into the interval, so that a run of eight has a complete stall.
        let from = end - STALL_EVERY + 1.0 + 3.0 * self.rng(1, span as u64).unit();
        match destination == self.drawn(0, span as u64) {
            true if now < from => (1.0, from),
            true if now < from + STALL => (0.0, later(from + STALL, now)),
            _ => (1.0, later(end, now)),
        }
    }

    fn drawn(&self, what: u64, number: u64) -> usize {
        self.rng(what, number).below(self.destinations)
    }

    fn rng(&self, what: u64, number: u64) -> Rng {
        Rng::at(self.seed, what, number)
    }
}

/// Later time, so that rounding cannot stop the loop.
fn later(until: f64, now: f64) -> f64 {
    until.max(now + 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Share of `length` seconds of work that each destination completes in that time.
    fn capacity(case: Case, seed: u64, length: f64) -> Vec<f64> {
        let faults = FaultSchedule::new(case, seed, seconds(2.0), 10);
        let step = 0.05;
        let worked = |destination| {
            let mut now = 2.0;
            let mut worked = 0.0;
            while now < 2.0 + length {
                now = faults.done(destination, seconds(now), seconds(step)).as_secs_f64();
                worked += step;
            }
            worked / length
        };
        (0..10).map(worked).collect()
    }

    #[test]
    fn two_of_ten_destinations_are_three_times_slower() {
        for seed in 0..20 {
            let mut all = capacity(Case::Slow, seed, 3.0);
            all.sort_by(f64::total_cmp);
            assert!(all[1] < 0.36 && all[2] > 0.99, "seed {seed}: {all:?}");
        }
    }

    #[test]
    fn bursts_take_a_sixth_of_the_time() {
        let mean = (0..20).flat_map(|seed| capacity(Case::Bursts, seed, 40.0)).sum::<f64>() / 200.0;
        let expected = 5.0 / 6.0 + 0.2 / 6.0;
        assert!((mean - expected).abs() < 0.01, "{mean} instead of {expected}");
    }

    #[test]
    fn one_destination_stalls_for_two_seconds_and_continues() {
        for seed in 0..20 {
            let faults = FaultSchedule::new(Case::Stall, seed, seconds(2.0), 10);
            let late: Vec<f64> = (0..10)
                .map(|destination| {
                    let mut worst: f64 = 0.0;
                    for tenth in 0..100 {
                        let start = 2.0 + f64::from(tenth) / 10.0;
                        let end = faults.done(destination, seconds(start), seconds(0.01)).as_secs_f64();
                        worst = worst.max(end - start);
                    }
                    worst
                })
                .filter(|worst| *worst > 0.011)
                .collect();
            assert_eq!(late.len(), 1, "seed {seed}: {late:?}");
            assert!((1.8..2.02).contains(&late[0]), "seed {seed}: {late:?}");
        }
    }

    #[test]
    fn one_destination_fails_from_the_first_measured_second_on() {
        let faults = FaultSchedule::new(Case::Failing, 7, seconds(2.0), 10);
        let failing = |at| (0..10).filter(|&destination| faults.fails(destination, seconds(at))).count();
        assert_eq!((failing(2.9), failing(3.1)), (0, 1));
    }
}
