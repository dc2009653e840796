//! Who takes a message by Prequal's rule: of those without much to do the fastest, else the one with the least.

use std::array;
use std::sync::Arc;

use super::probe_pool::{POOL, Probe, ProbePool};
use super::sampling::WeightedSampler;
use super::{Needs, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Probes made for each message.
const PROBES: usize = 3;
/// Uses of one probe at most; the paper's formula asks for more only where the pool of probes holds nearly everybody.
const USES_AT_MOST: f64 = 16.0;

/// `prequal`: "Load is not what you should balance" (Wydrowski et al., NSDI 2024). Each worker keeps up to 16 probes
/// of destinations; each message adds three, uses one, and removes one, the oldest and the worst in turns. A probe
/// says what is in flight and the median of recent times at about that load. Of the cold ones, whose load is at
/// most the 84 % quantile of loads seen, the fastest takes the message; where all are hot, the least loaded.
///
/// What differs from the paper: a probe is a look at counters all workers of this process share, so it is free,
/// cannot be late, and knows nothing of what other balancers send there; the time is measured here, to the first
/// byte, and not at the destination. Loads are in flight over weight, and probes are drawn by weight. Of a
/// destination there is one probe at a time, the latest. One that was not measured at such a load in the last second
/// counts as fastest. Failures count as slow (the paper leaves "sinkholing" to others).
#[derive(Debug)]
pub struct Prequal {
    workers: usize,
}

impl Prequal {
    /// `prequal` for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self { workers: workers.max(1) }
    }
}

impl Policy for Prequal {
    fn name(&self) -> &'static str {
        "prequal"
    }

    fn needs(&self) -> Needs {
        Needs::Probes
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        let desks = (0..self.workers).map(|_| ProbePool::default()).collect();
        let loads = slots.iter().map(|slot| (slot.stats.clone(), 256.0 / slot.weight as f32)).collect();
        let sampler = WeightedSampler::by_weight(&slots);
        Box::new(PrequalPicker { sampler, uses: Uses::of(slots.len()), desks, loads, slots })
    }
}

/// How often a probe is used: so often, and with a chance once more.
#[derive(Copy, Clone, Debug)]
struct Uses {
    whole: u32,
    /// In 2^-32ths.
    once_more: u32,
}

impl Uses {
    fn of(destinations: usize) -> Self {
        let uses = uses(destinations);
        Self { whole: uses as u32, once_more: (uses.fract() * 2_f64.powi(32)) as u32 }
    }

    fn draw(self, rng: &mut Rng) -> u32 {
        self.whole + u32::from(((rng.next_u64() >> 32) as u32) < self.once_more)
    }
}

/// The paper's `b_reuse`, with δ = 1: how often a probe is used before there are too few.
fn uses(destinations: usize) -> f64 {
    let missing = 1.0 - POOL as f64 / destinations as f64;
    let left = missing * PROBES as f64 - 1.0;
    if left > 0.0 { (2.0 / left).clamp(1.0, USES_AT_MOST) } else { USES_AT_MOST }
}

struct PrequalPicker {
    sampler: WeightedSampler,
    uses: Uses,
    desks: Box<[ProbePool]>,
    /// Counters, and what one message weighs.
    loads: Box<[(Arc<DestinationStats>, f32)]>,
    slots: Arc<[Slot]>,
}

impl Picker for PrequalPicker {
    fn pick(&self, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        let desk = self.desks.get(want.worker).unwrap_or_else(|| &self.desks[want.worker % self.desks.len()]);
        desk.expire(now);
        let slots: [usize; PROBES] = array::from_fn(|_| self.sampler.one(rng));
        let uses = self.uses.draw(rng);
        // All are looked at before anything is made of them, so that what they read comes together.
        let probes = slots.map(|slot| self.probe(slot, uses, now));
        desk.note_load(probes[0].load);
        probes.into_iter().for_each(|probe| desk.add(probe));
        let choice = match want.is_retry() {
            false => desk.best(),
            true => desk.best_of(|slot| !want.has_tried(self.slots[slot].id)),
        };
        let Some(place) = choice.filter(|_| desk.len() > 1 || self.slots.len() == 1) else {
            return self.sampler.one(rng);
        };
        let slot = desk.slot(place);
        desk.note_use(place, self.loads[slot].1);
        desk.thin();
        slot
    }
}

impl PrequalPicker {
    fn probe(&self, slot: usize, uses: u32, at: Tick) -> Probe {
        let (stats, per_weight) = &self.loads[slot];
        let in_flight = stats.in_flight();
        let time = stats
            .measured()
            .latency_by_load()
            .and_then(|latencies| latencies.median(at, in_flight))
            .unwrap_or(0.0);
        let load = in_flight as f32 * per_weight;
        Probe { slot: slot as u32, uses, load, time, at }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{answer, hold, named};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn shares(slots: &[Slot], now: Tick) -> Vec<f64> {
        let (picker, mut rng) = (Prequal::new(1).build(slots.into()), Rng::new(5));
        let mut taken = vec![0_u32; slots.len()];
        (0..20_000).for_each(|_| taken[picker.pick(&PickRequest::default(), now, &mut rng)] += 1);
        taken.into_iter().map(|n| f64::from(n) / 20_000.0).collect()
    }

    #[test]
    fn probes_are_used_as_often_as_the_paper_says() {
        assert!((uses(100) - 1.316).abs() < 0.001, "{}", uses(100));
        assert_eq!((uses(3), uses(24)), (USES_AT_MOST, USES_AT_MOST));
    }

    #[test]
    fn the_fast_take_most_and_the_hot_next_to_nothing() {
        let slots = named(0.., &[256; 10]);
        for (n, slot) in slots.iter().enumerate() {
            (0..4).for_each(|_| answer(slot, Tick::ZERO, 200, if n < 5 { 5 * MS } else { 50 * MS }));
        }
        let _busy = hold(&slots[0], 40);
        let shares = shares(&slots, Tick::ZERO);
        assert!(shares[0] < 0.01, "hot: {shares:?}");
        assert!(shares[1..5].iter().sum::<f64>() > 0.8, "cold and fast: {shares:?}");
    }

    #[test]
    fn who_fails_fast_is_not_fast() {
        let slots = named(0.., &[256; 4]);
        slots.iter().for_each(|slot| (0..4).for_each(|_| answer(slot, Tick::ZERO, 200, 20 * MS)));
        (0..8).for_each(|_| answer(&slots[2], Tick::ZERO, 503, MS));
        let shares = shares(&slots, Tick::ZERO);
        assert!(shares[2] < 0.05, "{shares:?}");
    }
}
