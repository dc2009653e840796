//! Interference by other tenants of a host: how many cores they leave to a destination over time.

use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::distributions::{exponential, normal};

/// Interval between two updates of the neighbours' use.
pub const STEP: Duration = Duration::from_millis(10);

/// Host that a destination shares with others, in cores. It may always use `allocation`, and up to `burst` of
/// what the neighbours leave free.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct SharedHost {
    /// Cores guaranteed to the destination.
    pub allocation: f64,
    /// Maximum cores of the destination.
    pub burst: f64,
    /// Cores of the whole host.
    pub machine: f64,
    /// Behaviour of the neighbours.
    pub neighbours: NeighbourSpec,
}

/// Cores used by the neighbours: a noisy level, and bursts in which they use the whole host.
///
/// The noise is an Ornstein-Uhlenbeck process; bursts and quiet times are exponentially distributed.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct NeighbourSpec {
    /// Mean use outside of bursts, in cores.
    pub level: f64,
    /// Standard deviation of the noise, in cores.
    pub noise: f64,
    /// Time constant of the noise, in seconds.
    pub memory: f64,
    /// Share of hosts with bursting neighbours, 0 to 1.
    pub hot: f64,
    /// Mean length of a burst, in seconds.
    pub burst: f64,
    /// Mean time between two bursts on a hot host, in seconds.
    pub quiet: f64,
}

/// Running state of the neighbours on one host.
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
    /// Creates the neighbours of host `index`. Hot hosts are spread evenly, so that every seed has the same
    /// number of them.
    pub fn new(shared: SharedHost, index: usize, mut rng: Rng) -> Self {
        let hot_before = |index: usize| (index as f64 * shared.neighbours.hot + 1e-9) as usize;
        let hot = hot_before(index + 1) > hot_before(index);
        let noise = shared.neighbours.noise * normal(&mut rng);
        Self { shared, hot, bursting: true, toggles_at: Tick::ZERO, noise, rng }
    }

    /// Advances by one step and returns the cores the destination has until the next one.
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
