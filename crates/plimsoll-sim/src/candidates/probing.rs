//! Asynchronous probing of Prequal: a few probes with each message, and responses that are kept for a while
//! (Wydrowski et al., NSDI 2024, sections 4.1 to 4.3).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{PickRequest, Rng, Tick};

use super::score::{ProbeScore, ProbedState};
use super::{PolicyFeedback, slot_of};
use crate::distributions::rounded;
use crate::sim_destination::ProbeResponse;

/// Loads kept to estimate their distribution.
const LOADS_KEPT: usize = 128;
/// Minimum probes to choose by; with fewer the choice is random.
const MIN_PROBES: usize = 2;

/// Settings of a probe pool. The constants have the paper's names.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ProbeSettings {
    /// Rule that compares two probes.
    pub score: ProbeScore,
    /// Probes per message, `r_probe`; a fraction is rounded at random.
    pub probes: f64,
    /// Probes removed per message, alternating between the oldest and the worst, `r_remove`.
    pub removes: f64,
}

impl ProbeSettings {
    /// Baseline of the paper: `Q_RIF = 2^-0.25`, three probes per message, one removed.
    pub const PREQUAL: Self = Self { score: ProbeScore::HotCold(0.840_896), probes: 3.0, removes: 1.0 };
    /// Maximum probes kept, `m`.
    const SIZE: usize = 16;
    /// Net rate at which the pool grows, `delta`.
    const DELTA: f64 = 1.0;
    /// Maximum age of a probe.
    const AGE: Duration = Duration::from_secs(1);

    /// Returns how often a probe may be used, `b_reuse`, with a number of destinations.
    fn uses(&self, destinations: usize) -> f64 {
        let fresh = (1.0 - Self::SIZE as f64 / destinations as f64).max(0.0) * self.probes - self.removes;
        // More probes are removed than added: each may be used until it expires.
        if fresh <= 0.0 { f64::from(u16::MAX) } else { ((1.0 + Self::DELTA) / fresh).max(1.0) }
    }
}

/// Probes of one balancer, shared with its picker.
#[derive(Clone)]
pub struct ProbingPolicy {
    probing: ProbeSettings,
    balancers: usize,
    destinations: usize,
    state: Arc<Mutex<ProbeState>>,
}

#[derive(Default)]
struct ProbeState {
    /// Probes kept, the oldest first.
    probes: Vec<KeptProbe>,
    recent_loads: VecDeque<u32>,
    rng: Option<Rng>,
    worst_is_next: bool,
}

#[derive(Copy, Clone, Debug)]
struct KeptProbe {
    destination: usize,
    at: Tick,
    response: ProbeResponse,
    uses: usize,
}

impl ProbingPolicy {
    /// Creates the policy of one balancer of `balancers`.
    pub fn new(probing: ProbeSettings, balancers: usize, destinations: usize) -> Self {
        Self { probing, balancers, destinations, state: Arc::default() }
    }

    /// A simulation runs on one thread, so the lock is never poisoned in practice.
    fn state(&self) -> MutexGuard<'_, ProbeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PolicyFeedback for ProbingPolicy {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new((*self).clone())
    }

    fn choose_probes(&self, destinations: usize, rng: &mut Rng, targets: &mut Vec<usize>) {
        for _ in 0..rounded(self.probing.probes, rng).min(destinations) {
            let mut destination = rng.index(destinations);
            while targets.contains(&destination) {
                destination = (destination + 1) % destinations;
            }
            targets.push(destination);
        }
    }

    fn on_probe_response(&self, now: Tick, destination: usize, response: ProbeResponse) {
        let mut state = self.state();
        if state.recent_loads.len() == LOADS_KEPT {
            state.recent_loads.pop_front();
        }
        state.recent_loads.push_back(response.in_flight);
        state.probes.retain(|probe| probe.destination != destination);
        if state.probes.len() == ProbeSettings::SIZE {
            state.probes.remove(0);
        }
        let rng = state.rng.get_or_insert_with(|| Rng::new(destination as u64));
        let uses = rounded(self.probing.uses(self.destinations), rng);
        state.probes.push(KeptProbe { destination, at: now, response, uses });
    }
}

impl Policy for ProbingPolicy {
    fn name(&self) -> &'static str {
        "probing"
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(ProbingPicker { pool: self.clone(), slots })
    }
}

struct ProbingPicker {
    pool: ProbingPolicy,
    slots: Arc<[Slot]>,
}

impl Picker for ProbingPicker {
    fn pick(&self, _want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        let mut state = self.pool.state();
        state.probes.retain(|probe| now.since(probe.at) <= ProbeSettings::AGE);
        state.probes.retain(|probe| slot_of(&self.slots, probe.destination).is_some());
        let picked = if state.probes.len() < MIN_PROBES { None } else { self.best(&state) };
        let destination = picked.map(|index| state.use_probe(index));
        for _ in 0..rounded(self.pool.probing.removes, rng) {
            self.remove_one(&mut state);
        }
        destination
            .and_then(|destination| slot_of(&self.slots, destination))
            .unwrap_or_else(|| rng.index(self.slots.len()))
    }
}

impl ProbingPicker {
    fn best(&self, state: &ProbeState) -> Option<usize> {
        let theta = self.theta(state);
        (0..state.probes.len()).min_by(|&one, &other| self.compare(state, theta, one, other))
    }

    fn compare(&self, state: &ProbeState, theta: u32, one: usize, other: usize) -> std::cmp::Ordering {
        let state = |index: usize| {
            let KeptProbe { destination, response, .. } = state.probes[index];
            let own = slot_of(&self.slots, destination).map_or(0, |slot| self.slots[slot].stats.in_flight());
            ProbedState { in_flight: response.in_flight, latency: response.latency, own }
        };
        self.pool.probing.score.compare(state(one), state(other), theta, self.pool.balancers)
    }

    /// Maximum messages in flight at a cold destination.
    fn theta(&self, state: &ProbeState) -> u32 {
        let ProbeScore::HotCold(quantile) = self.pool.probing.score else { return u32::MAX };
        if quantile >= 1.0 {
            return u32::MAX;
        }
        let mut recent_loads: Vec<u32> = state.recent_loads.iter().copied().collect();
        recent_loads.sort_unstable();
        let index = (quantile * recent_loads.len() as f64) as usize;
        // At 0 all destinations are hot, and the rule compares loads only.
        if quantile <= 0.0 { 0 } else { recent_loads.get(index).copied().unwrap_or(0) }
    }

    /// Removes the oldest or the worst probe, alternately.
    fn remove_one(&self, state: &mut ProbeState) {
        let worst = state.worst_is_next;
        state.worst_is_next = !worst;
        let theta = self.theta(state);
        let index = if worst {
            (0..state.probes.len()).max_by(|&one, &other| self.compare(state, theta, one, other))
        } else {
            (!state.probes.is_empty()).then_some(0)
        };
        if let Some(index) = index {
            state.probes.remove(index);
        }
    }
}

impl ProbeState {
    /// Uses the probe at `index` once: the message sent there counts, and after its last use the probe is
    /// removed.
    fn use_probe(&mut self, index: usize) -> usize {
        let probe = &mut self.probes[index];
        let destination = probe.destination;
        probe.response.in_flight += 1;
        probe.uses = probe.uses.saturating_sub(1);
        if probe.uses == 0 {
            self.probes.remove(index);
        }
        destination
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_reuse_matches_the_paper() {
        let uses = |probes, removes| ProbeSettings { probes, removes, ..ProbeSettings::PREQUAL }.uses(100);
        assert!((uses(3.0, 1.0) - 1.316).abs() < 0.001);
        assert!((uses(1.0, 0.25) - 3.390).abs() < 0.001);
        assert!((uses(0.5, 0.25) - 11.765).abs() < 0.001);
    }
}
