//! Who takes a message by Prequal's rule: of those without much to do the fastest, else the one with the least.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::draw::Dice;
use super::{Needs, Picker, Policy, Slot};
use crate::rng::Rng;
use crate::snapshot::Want;
use crate::time::Tick;

/// Probes kept by a worker.
const POOL: usize = 16;
/// Probes made for each message.
const PROBES: usize = 3;
/// A probe is of no use any more when it is so old.
const AGE: Duration = Duration::from_secs(1);
/// A destination is hot when its load is above this quantile of the loads seen lately: 2 to the power of −1/4.
const HOT_ABOVE: f64 = 0.84;
/// What nobody is hot with: where next to nothing is to do the quantile is 0, and a single message is not much.
const NEVER_HOT: f32 = 1.0;
/// Loads the quantile is taken of, and how often (in probes).
const SEEN: usize = 64;
const QUANTILE_EACH: usize = 24;
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
        let desks = (0..self.workers).map(|_| Mutex::new(Desk::default())).collect();
        Box::new(PrequalPicker { dice: Dice::by_weight(&slots), uses: uses(slots.len()), desks, slots })
    }
}

/// The paper's `b_reuse`, with δ = 1: how often a probe is used before there are too few.
fn uses(destinations: usize) -> f64 {
    let missing = 1.0 - POOL as f64 / destinations as f64;
    let left = missing * PROBES as f64 - 1.0;
    if left > 0.0 { (2.0 / left).clamp(1.0, USES_AT_MOST) } else { USES_AT_MOST }
}

struct PrequalPicker {
    dice: Dice,
    uses: f64,
    desks: Box<[Mutex<Desk>]>,
    slots: Arc<[Slot]>,
}

/// What one worker remembers.
#[derive(Debug)]
struct Desk {
    probes: [Probe; POOL],
    len: usize,
    seen: [f32; SEEN],
    seen_count: usize,
    hot_above: f32,
    worst_next: bool,
}

impl Default for Desk {
    fn default() -> Self {
        let (probes, seen) = ([Probe::default(); POOL], [0.0; SEEN]);
        Self { probes, len: 0, seen, seen_count: 0, hot_above: 0.0, worst_next: false }
    }
}

#[derive(Copy, Clone, Debug, Default)]
struct Probe {
    slot: u32,
    uses: u32,
    load: f32,
    time: f32,
    at: Tick,
}

impl Picker for PrequalPicker {
    fn pick(&self, want: &Want<'_>, now: Tick, rng: &mut Rng) -> usize {
        // A desk belongs to its worker, so it is always free; threads that share one do without rather than wait.
        let Ok(mut desk) = self.desks[want.worker % self.desks.len()].try_lock() else {
            return self.dice.one(rng);
        };
        desk.expire(now);
        for _ in 0..PROBES {
            let slot = self.dice.one(rng);
            let uses = self.uses as u32 + u32::from(rng.share() < self.uses.fract());
            desk.add(self.probe(slot, uses, now));
        }
        let choice = desk.choose(|slot| !want.has_tried(self.slots[slot].id));
        let Some(place) = choice.filter(|_| desk.len > 1 || self.slots.len() == 1) else {
            return self.dice.one(rng);
        };
        let slot = desk.probes[place].slot as usize;
        desk.note_use(place, 256.0 / self.slots[slot].weight as f32);
        desk.thin();
        slot
    }
}

impl PrequalPicker {
    fn probe(&self, slot: usize, uses: u32, at: Tick) -> Probe {
        let Slot { live, weight, .. } = &self.slots[slot];
        let in_flight = live.in_flight();
        let time = live.measured().near().and_then(|near| near.median(at, in_flight)).unwrap_or(0.0);
        let load = in_flight as f32 * 256.0 / *weight as f32;
        Probe { slot: slot as u32, uses, load, time, at }
    }
}

impl Desk {
    fn probes(&self) -> &[Probe] {
        &self.probes[..self.len]
    }

    fn remove(&mut self, place: usize) {
        self.len -= 1;
        self.probes.swap(place, self.len);
    }

    fn expire(&mut self, now: Tick) {
        for place in (0..self.len).rev() {
            if now.since(self.probes[place].at) > AGE {
                self.remove(place);
            }
        }
    }

    /// Takes the place of an earlier one of the same slot, or of the oldest where all places are taken.
    fn add(&mut self, probe: Probe) {
        self.seen[self.seen_count % SEEN] = probe.load;
        self.seen_count += 1;
        if self.seen_count < QUANTILE_EACH || self.seen_count.is_multiple_of(QUANTILE_EACH) {
            self.judge();
        }
        let known = self.probes().iter().position(|known| known.slot == probe.slot);
        match known.or_else(|| (self.len == POOL).then(|| self.oldest())) {
            Some(place) => self.probes[place] = probe,
            None => {
                self.probes[self.len] = probe;
                self.len += 1;
            }
        }
    }

    /// Above which load a destination is hot.
    fn judge(&mut self) {
        let count = self.seen_count.min(SEEN);
        let mut seen = self.seen;
        let place = ((count - 1) as f64 * HOT_ABOVE) as usize;
        let quantile = *seen[..count].select_nth_unstable_by(place, f32::total_cmp).1;
        self.hot_above = quantile.max(NEVER_HOT);
    }

    /// The better of two probes by the rule "hot or cold": cold before hot, the faster of cold ones, the less
    /// loaded of hot ones (and of cold ones that are equally fast).
    fn is_better(&self, one: &Probe, other: &Probe) -> bool {
        let rank = |probe: &Probe| match probe.load > self.hot_above {
            false => (0.0, probe.time, probe.load),
            true => (1.0, probe.load, probe.time),
        };
        rank(one) < rank(other)
    }

    fn choose(&self, fit: impl Fn(usize) -> bool) -> Option<usize> {
        let fit = (0..self.len).filter(|&place| fit(self.probes[place].slot as usize));
        fit.reduce(
            |best, place| if self.is_better(&self.probes[place], &self.probes[best]) { place } else { best },
        )
    }

    /// One more message is on its way there.
    fn note_use(&mut self, place: usize, load: f32) {
        let probe = &mut self.probes[place];
        probe.load += load;
        probe.uses = probe.uses.saturating_sub(1);
        if probe.uses == 0 {
            self.remove(place);
        }
    }

    /// Removes one probe: the oldest and the worst in turns. Two are always left.
    fn thin(&mut self) {
        if self.len <= 2 {
            return;
        }
        self.worst_next = !self.worst_next;
        let worse = |worst, place| {
            if self.is_better(&self.probes[worst], &self.probes[place]) { place } else { worst }
        };
        let place = if self.worst_next { self.oldest() } else { (1..self.len).fold(0, worse) };
        self.remove(place);
    }

    fn oldest(&self) -> usize {
        (1..self.len).fold(
            0,
            |oldest, place| {
                if self.probes[place].at < self.probes[oldest].at { place } else { oldest }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, hold, named};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn desk(hot_above: f32, loads_and_times: &[(f32, f32)]) -> Desk {
        let mut desk = Desk { hot_above, len: loads_and_times.len(), ..Desk::default() };
        for (slot, &(load, time)) in loads_and_times.iter().enumerate() {
            desk.probes[slot] =
                Probe { slot: slot as u32, uses: 1, load, time, at: Tick::ZERO + slot as u32 * MS };
        }
        desk
    }

    fn shares(slots: &[Slot], now: Tick) -> Vec<f64> {
        let (picker, mut rng) = (Prequal::new(1).build(slots.into()), Rng::new(5));
        let mut taken = vec![0_u32; slots.len()];
        (0..20_000).for_each(|_| taken[picker.pick(&Want::default(), now, &mut rng)] += 1);
        taken.into_iter().map(|n| f64::from(n) / 20_000.0).collect()
    }

    #[test]
    fn the_fastest_of_the_cold_ones_and_of_hot_ones_the_least_loaded() {
        let any = |_| true;
        assert_eq!(desk(5.0, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]).choose(any), Some(1));
        assert_eq!(desk(1.0, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]).choose(any), Some(2));
        assert_eq!(desk(9.0, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]).choose(any), Some(0));
        assert_eq!(desk(9.0, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]).choose(|slot| slot != 0), Some(1));
    }

    #[test]
    fn the_oldest_and_the_worst_leave_in_turns_and_the_aged_at_once() {
        let slots = |desk: &Desk| {
            let mut slots: Vec<u32> = desk.probes().iter().map(|probe| probe.slot).collect();
            slots.sort_unstable();
            slots
        };
        let mut desk = desk(5.0, &[(1.0, 1.0), (9.0, 1.0), (2.0, 40.0), (8.0, 1.0), (3.0, 1.0)]);
        desk.thin();
        assert_eq!(slots(&desk), [1, 2, 3, 4], "the oldest");
        desk.thin();
        assert_eq!(slots(&desk), [2, 3, 4], "the hottest");
        desk.expire(Tick::ZERO + AGE + 3 * MS);
        assert_eq!(slots(&desk), [3, 4]);
    }

    #[test]
    fn the_quantile_makes_about_a_sixth_hot() {
        let mut desk = Desk::default();
        for n in 0..SEEN as u32 {
            desk.add(Probe { slot: n, load: n as f32, ..Probe::default() });
        }
        desk.judge();
        assert_eq!((desk.hot_above, desk.len), (52.0, POOL));
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
