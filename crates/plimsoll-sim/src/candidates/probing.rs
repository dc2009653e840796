//! Which destination a balancer takes that probes a few for each message and keeps the answers for a while:
//! Prequal's asynchronous probing (Wydrowski et al., NSDI 2024, sections 4.1 to 4.3).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{Rng, Tick, Want};

use super::score::{Known, Score};
use super::{Ear, slot_of};
use crate::distributions::rounded;
use crate::sim_destination::Reading;

/// Loads remembered to know what is hot.
const SEEN: usize = 128;
/// Below this many probes, chance decides.
const FEW: usize = 2;

/// How a probe pool is kept. The constants have the paper's names.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Probing {
    /// What it chooses by.
    pub score: Score,
    /// Probes for each message, `r_probe`; fractions by chance.
    pub probes: f64,
    /// Probes thrown away for each message, the oldest and the worst in turn, `r_remove`.
    pub removes: f64,
}

impl Probing {
    /// The paper's baseline: `Q_RIF = 2^-0.25`, three probes a message, one removed.
    pub const PREQUAL: Self = Self { score: Score::HotCold(0.840_896), probes: 3.0, removes: 1.0 };
    /// Probes kept, `m`.
    const SIZE: usize = 16;
    /// How fast the pool may shrink, `delta`.
    const DELTA: f64 = 1.0;
    /// Older probes are dropped.
    const AGE: Duration = Duration::from_secs(1);

    /// How often a probe may be used, `b_reuse`, with so many destinations.
    fn uses(&self, sites: usize) -> f64 {
        let fresh = (1.0 - Self::SIZE as f64 / sites as f64).max(0.0) * self.probes - self.removes;
        // More is removed than comes in: what there is may be used until it is old.
        if fresh <= 0.0 { f64::from(u16::MAX) } else { ((1.0 + Self::DELTA) / fresh).max(1.0) }
    }
}

/// One balancer's probes. A picker made of it shares them.
#[derive(Clone)]
pub struct ProbePool {
    probing: Probing,
    peers: usize,
    sites: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    probes: Vec<Probe>,
    seen: VecDeque<u32>,
    rng: Option<Rng>,
    worst_is_next: bool,
}

#[derive(Copy, Clone, Debug)]
struct Probe {
    site: usize,
    at: Tick,
    reading: Reading,
    uses: usize,
}

impl ProbePool {
    /// A pool of a balancer that has so many peers, itself included.
    pub fn new(probing: Probing, peers: usize, sites: usize) -> Self {
        Self { probing, peers, sites, state: Arc::default() }
    }

    /// One thread runs a simulation, so nobody can have died holding it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear for ProbePool {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new((*self).clone())
    }

    fn asks(&self, sites: usize, rng: &mut Rng, whom: &mut Vec<usize>) {
        for _ in 0..rounded(self.probing.probes, rng).min(sites) {
            let mut site = rng.index(sites);
            while whom.contains(&site) {
                site = (site + 1) % sites;
            }
            whom.push(site);
        }
    }

    fn hears(&self, now: Tick, site: usize, reading: Reading) {
        let mut state = self.state();
        if state.seen.len() == SEEN {
            state.seen.pop_front();
        }
        state.seen.push_back(reading.in_flight);
        state.probes.retain(|probe| probe.site != site);
        if state.probes.len() == Probing::SIZE {
            state.probes.remove(0);
        }
        let rng = state.rng.get_or_insert_with(|| Rng::new(site as u64));
        let uses = rounded(self.probing.uses(self.sites), rng);
        state.probes.push(Probe { site, at: now, reading, uses });
    }
}

impl Policy for ProbePool {
    fn name(&self) -> &'static str {
        "probing"
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(BestProbe { pool: self.clone(), slots })
    }
}

struct BestProbe {
    pool: ProbePool,
    slots: Arc<[Slot]>,
}

impl Picker for BestProbe {
    fn pick(&self, _want: &Want<'_>, now: Tick, rng: &mut Rng) -> usize {
        let mut state = self.pool.state();
        state.probes.retain(|probe| now.since(probe.at) <= Probing::AGE);
        state.probes.retain(|probe| slot_of(&self.slots, probe.site).is_some());
        let picked = if state.probes.len() < FEW { None } else { self.best(&state) };
        let site = picked.map(|place| state.take(place));
        for _ in 0..rounded(self.pool.probing.removes, rng) {
            self.remove_one(&mut state);
        }
        site.and_then(|site| slot_of(&self.slots, site)).unwrap_or_else(|| rng.index(self.slots.len()))
    }
}

impl BestProbe {
    fn best(&self, state: &State) -> Option<usize> {
        let theta = self.theta(state);
        (0..state.probes.len()).min_by(|&one, &other| self.compare(state, theta, one, other))
    }

    fn compare(&self, state: &State, theta: u32, one: usize, other: usize) -> std::cmp::Ordering {
        let known = |place: usize| {
            let Probe { site, reading, .. } = state.probes[place];
            let own = slot_of(&self.slots, site).map_or(0, |slot| self.slots[slot].stats.in_flight());
            Known { in_flight: reading.in_flight, latency: reading.latency, own }
        };
        self.pool.probing.score.compare(known(one), known(other), theta, self.pool.peers)
    }

    /// How many in flight are still cold.
    fn theta(&self, state: &State) -> u32 {
        let Score::HotCold(quantile) = self.pool.probing.score else { return u32::MAX };
        if quantile >= 1.0 {
            return u32::MAX;
        }
        let mut seen: Vec<u32> = state.seen.iter().copied().collect();
        seen.sort_unstable();
        let place = (quantile * seen.len() as f64) as usize;
        // At 0 everyone is hot, and the rule is pure load.
        if quantile <= 0.0 { 0 } else { seen.get(place).copied().unwrap_or(0) }
    }

    /// The oldest and the worst in turn.
    fn remove_one(&self, state: &mut State) {
        let worst = state.worst_is_next;
        state.worst_is_next = !worst;
        let theta = self.theta(state);
        let place = if worst {
            (0..state.probes.len()).max_by(|&one, &other| self.compare(state, theta, one, other))
        } else {
            (!state.probes.is_empty()).then_some(0)
        };
        if let Some(place) = place {
            state.probes.remove(place);
        }
    }
}

impl State {
    /// Uses the probe at `place` once: the message it sends there counts, and at some time it is used up.
    fn take(&mut self, place: usize) -> usize {
        let probe = &mut self.probes[place];
        let site = probe.site;
        probe.reading.in_flight += 1;
        probe.uses = probe.uses.saturating_sub(1);
        if probe.uses == 0 {
            self.probes.remove(place);
        }
        site
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_used_as_often_as_the_paper_says() {
        let uses = |probes, removes| Probing { probes, removes, ..Probing::PREQUAL }.uses(100);
        assert!((uses(3.0, 1.0) - 1.316).abs() < 0.001);
        assert!((uses(1.0, 0.25) - 3.390).abs() < 0.001);
        assert!((uses(0.5, 0.25) - 11.765).abs() < 0.001);
    }
}
