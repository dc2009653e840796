//! Prequal balancing: the fastest of the lightly loaded destinations, else the least loaded.

use std::array;
use std::sync::Arc;

use super::probe_pool::{CAPACITY, Probe, ProbePool};
use super::sampling::WeightedSampler;
use super::{Needs, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Number of probes per message.
const PROBES: usize = 3;
/// Maximum uses of a probe; the paper's formula asks for more only if the probe pool covers nearly all destinations.
const MAX_USES: f64 = 16.0;

/// `prequal`: "Load is not what you should balance" (Wydrowski et al., NSDI 2024). Each worker keeps up to 16 probes of
/// destinations; each message adds three, uses one, and removes one, the oldest and the worst in turns. A probe
/// contains the messages in flight and the median of recent latencies at about that load. Of cold destinations, with a
/// load of at most the 84 % quantile of recent loads, the fastest is picked; if all are hot, the least loaded.
///
/// Differences from the paper:
/// - A probe reads counters of this process, so it costs no request and is never late, and it does not see the messages
///   of other balancers.
/// - Latency is measured here, to the first byte, not at the destination.
/// - Loads are divided by weight, and probes are drawn by weight.
/// - A destination has at most one probe, the latest.
/// - A destination without a measurement at such a load in the last second counts as the fastest.
/// - Failures count as slow responses.
#[derive(Debug)]
pub struct Prequal {
    workers: usize,
}

impl Prequal {
    /// Creates `prequal` for `workers` workers.
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
        let probe_pools = (0..self.workers).map(|_| ProbePool::default()).collect();
        let loads = slots.iter().map(|slot| (slot.stats.clone(), 256.0 / slot.weight as f32)).collect();
        let sampler = WeightedSampler::by_weight(&slots);
        Box::new(PrequalPicker { sampler, uses: Uses::of(slots.len()), probe_pools, loads, slots })
    }
}

/// Number of uses of a probe: a whole number, and the probability of one more.
#[derive(Copy, Clone, Debug)]
struct Uses {
    whole: u32,
    /// Probability of one more use in 2^-32ths.
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

/// Returns the paper's `b_reuse` with δ = 1.
fn uses(destinations: usize) -> f64 {
    let missing = 1.0 - CAPACITY as f64 / destinations as f64;
    let left = missing * PROBES as f64 - 1.0;
    if left > 0.0 { (2.0 / left).clamp(1.0, MAX_USES) } else { MAX_USES }
}

struct PrequalPicker {
    sampler: WeightedSampler,
    uses: Uses,
    probe_pools: Box<[ProbePool]>,
    /// Counters, and the load of one message.
    loads: Box<[(Arc<DestinationStats>, f32)]>,
    slots: Arc<[Slot]>,
}

impl Picker for PrequalPicker {
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        let probe_pool = self
            .probe_pools
            .get(request.worker)
            .unwrap_or_else(|| &self.probe_pools[request.worker % self.probe_pools.len()]);
        probe_pool.expire(now);
        let slots: [usize; PROBES] = array::from_fn(|_| self.sampler.one(rng));
        let uses = self.uses.draw(rng);
        // All slots are read before any is evaluated, so that cache lines load in parallel.
        let probes = slots.map(|slot| self.probe(slot, uses, now));
        probe_pool.note_load(probes[0].load);
        probes.into_iter().for_each(|probe| probe_pool.add(probe));
        let choice = match request.is_retry() {
            false => probe_pool.best(),
            true => probe_pool.best_of(|slot| !request.has_tried(self.slots[slot].id)),
        };
        let Some(place) = choice.filter(|_| probe_pool.len() > 1 || self.slots.len() == 1) else {
            return self.sampler.one(rng);
        };
        let slot = probe_pool.slot(place);
        probe_pool.note_use(place, self.loads[slot].1);
        probe_pool.thin();
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
    fn reuse_follows_the_paper() {
        assert!((uses(100) - 1.316).abs() < 0.001, "{}", uses(100));
        assert_eq!((uses(3), uses(24)), (MAX_USES, MAX_USES));
    }

    #[test]
    fn fast_destinations_take_most_and_hot_ones_almost_nothing() {
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
    fn fast_failures_do_not_count_as_fast() {
        let slots = named(0.., &[256; 4]);
        slots.iter().for_each(|slot| (0..4).for_each(|_| answer(slot, Tick::ZERO, 200, 20 * MS)));
        (0..8).for_each(|_| answer(&slots[2], Tick::ZERO, 503, MS));
        let shares = shares(&slots, Tick::ZERO);
        assert!(shares[2] < 0.05, "{shares:?}");
    }
}
