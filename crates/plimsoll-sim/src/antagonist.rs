//! How much of a machine its neighbours leave to a destination, from moment to moment.

use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::distributions::{exponential, normal};

/// Neighbours are looked at so often.
pub const STEP: Duration = Duration::from_millis(10);

/// A machine that a destination shares with others, in cores: it may always use `allocation`, and up to
/// `burst` of what neighbours leave free.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SharedHost {
    /// What is kept for it whatever the neighbours do.
    pub allocation: f64,
    /// It never gets more.
    pub burst: f64,
    /// The whole machine.
    pub machine: f64,
    /// The neighbours.
    pub neighbours: NeighbourSpec,
}

/// What neighbours use: a noisy level that in bursting takes the whole machine.
///
/// The noise is an Ornstein-Uhlenbeck process; bursting and quiet times are exponentially long.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct NeighbourSpec {
    /// Their usual use, in cores.
    pub level: f64,
    /// Standard deviation of the noise, in cores.
    pub noise: f64,
    /// How long the noise remembers, in seconds.
    pub memory: f64,
    /// What part of all machines has neighbours that burst, 0 to 1.
    pub hot: f64,
    /// Mean length of a burst, in seconds.
    pub burst: f64,
    /// Mean time between bursting of a hot machine, in seconds.
    pub quiet: f64,
}

/// The neighbours of one machine at work.
#[derive(Clone, Debug)]
pub struct Antagonist {
    shared: SharedHost,
    rng: Rng,
    hot: bool,
    bursting: bool,
    toggles_at: Tick,
    noise: f64,
}

impl Antagonist {
    /// Number `index` of many machines. Hot ones are spread evenly among them, so that every seed has as many.
    pub fn new(shared: SharedHost, index: usize, mut rng: Rng) -> Self {
        let hot_before = |index: usize| (index as f64 * shared.neighbours.hot + 1e-9) as usize;
        let hot = hot_before(index + 1) > hot_before(index);
        let noise = shared.neighbours.noise * normal(&mut rng);
        Self { shared, hot, bursting: true, toggles_at: Tick::ZERO, noise, rng }
    }

    /// One step on: the cores the destination has from now to the next step.
    pub fn step(&mut self, now: Tick) -> f64 {
        let NeighbourSpec { level, noise, memory, burst, quiet, .. } = self.shared.neighbours;
        if self.hot && self.toggles_at <= now {
            self.bursting = !self.bursting;
            let mean = if self.bursting { burst } else { quiet };
            self.toggles_at = now + Duration::from_secs_f64(mean * exponential(&mut self.rng));
        }
        let kept = (-STEP.as_secs_f64() / memory).exp();
        let spread = noise * (1.0 - kept * kept).sqrt();
        self.noise = self.noise * kept + spread * normal(&mut self.rng);
        let used = if self.hot && self.bursting { self.shared.machine } else { level + self.noise };
        (self.shared.machine - used).min(self.shared.burst).max(self.shared.allocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_machine_leaves_only_the_allocation_while_neighbours_burst() {
        let neighbours =
            NeighbourSpec { level: 7.0, noise: 0.0, memory: 1.0, hot: 1.0, burst: 1.0, quiet: 3.0 };
        let shared = SharedHost { allocation: 1.0, burst: 2.5, machine: 10.0, neighbours };
        let mut antagonist = Antagonist::new(shared, 0, Rng::new(2));
        let (mut at_allocation, mut steps) = (0, 0);
        let mut now = Tick::ZERO;
        for _ in 0..400_000 {
            let cores = antagonist.step(now);
            assert!(cores == 1.0 || cores == 2.5, "{cores}");
            at_allocation += usize::from(cores == 1.0);
            steps += 1;
            now += STEP;
        }
        let share = f64::from(at_allocation as u32) / f64::from(steps);
        assert!((0.22..0.28).contains(&share), "{share}");
    }
}
