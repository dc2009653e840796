//! Who takes a message by Prequal's rule: of those without much to do the fastest, else the one with the least.

use std::array;
use std::hint::select_unpredictable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::draw::Dice;
use super::{Needs, Picker, Policy, Slot};
use crate::live::Live;
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
const QUANTILE_EACH: usize = 64;
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
        let desks = (0..self.workers).map(|_| Desk::default()).collect();
        let loads = slots.iter().map(|slot| (slot.live.clone(), 256.0 / slot.weight as f32)).collect();
        Box::new(PrequalPicker {
            dice: Dice::by_weight(&slots),
            uses: uses(slots.len()),
            desks,
            loads,
            slots,
        })
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
    desks: Box<[Desk]>,
    /// Counters, and what one message weighs.
    loads: Box<[(Arc<Live>, f32)]>,
    slots: Arc<[Slot]>,
}

/// What one worker remembers. It is alone at its desk, so every load and store is a plain one; threads that share one
/// may lose each other's probes, and never see half of one that matters: a slot is in one word with its uses, a load
/// with its time.
#[derive(Debug)]
#[repr(align(128))]
struct Desk {
    probes: [Place; POOL],
    len: AtomicUsize,
    /// No probe is older than from then.
    since: AtomicU64,
    seen: [AtomicU32; SEEN],
    seen_count: AtomicUsize,
    hot_above: AtomicU32,
    worst_next: AtomicBool,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            probes: array::from_fn(|_| Place::default()),
            len: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            seen: array::from_fn(|_| AtomicU32::new(0)),
            seen_count: AtomicUsize::new(0),
            hot_above: AtomicU32::new(0),
            worst_next: AtomicBool::new(false),
        }
    }
}

/// Where a probe is kept.
#[derive(Debug, Default)]
struct Place {
    slot_and_uses: AtomicU64,
    load_and_time: AtomicU64,
    at: AtomicU64,
}

impl Place {
    fn read(&self) -> Probe {
        let (slot_and_uses, load_and_time) =
            (self.slot_and_uses.load(Relaxed), self.load_and_time.load(Relaxed));
        Probe {
            slot: (slot_and_uses >> 32) as u32,
            uses: slot_and_uses as u32,
            load: f32::from_bits((load_and_time >> 32) as u32),
            time: f32::from_bits(load_and_time as u32),
            at: self.at(),
        }
    }

    fn write(&self, probe: Probe) {
        let Probe { slot, uses, load, time, at } = probe;
        self.slot_and_uses.store(u64::from(slot) << 32 | u64::from(uses), Relaxed);
        self.load_and_time.store(u64::from(load.to_bits()) << 32 | u64::from(time.to_bits()), Relaxed);
        self.at.store(at.as_nanos(), Relaxed);
    }

    fn slot(&self) -> u32 {
        (self.slot_and_uses.load(Relaxed) >> 32) as u32
    }

    fn at(&self) -> Tick {
        Tick::from_nanos(self.at.load(Relaxed))
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
        let desk = self.desks.get(want.worker).unwrap_or_else(|| &self.desks[want.worker % self.desks.len()]);
        desk.expire(now);
        let slots: [usize; PROBES] = array::from_fn(|_| self.dice.one(rng));
        let uses = self.uses as u32 + u32::from(rng.share() < self.uses.fract());
        // All are looked at before anything is made of them, so that what they read comes together.
        let probes = slots.map(|slot| self.probe(slot, uses, now));
        probes.into_iter().for_each(|probe| desk.add(probe));
        let tried = want.is_retry();
        let choice = desk.choose(|slot| !tried || !want.has_tried(self.slots[slot].id));
        let Some(place) = choice.filter(|_| desk.len() > 1 || self.slots.len() == 1) else {
            return self.dice.one(rng);
        };
        let slot = desk.probes[place].slot() as usize;
        desk.note_use(place, self.loads[slot].1);
        desk.thin();
        slot
    }
}

impl PrequalPicker {
    fn probe(&self, slot: usize, uses: u32, at: Tick) -> Probe {
        let (live, per_weight) = &self.loads[slot];
        let in_flight = live.in_flight();
        let time = live.measured().near().and_then(|near| near.median(at, in_flight)).unwrap_or(0.0);
        let load = in_flight as f32 * per_weight;
        Probe { slot: slot as u32, uses, load, time, at }
    }
}

impl Desk {
    fn len(&self) -> usize {
        self.len.load(Relaxed).min(POOL)
    }

    fn probes(&self) -> &[Place] {
        &self.probes[..self.len()]
    }

    /// The last one takes its place.
    fn remove(&self, place: usize) {
        let last = self.len().saturating_sub(1);
        self.probes[place].write(self.probes[last].read());
        self.len.store(last, Relaxed);
    }

    fn expire(&self, now: Tick) {
        // Most messages find nothing to do here, and need not look at each for that.
        if now.since(Tick::from_nanos(self.since.load(Relaxed))) <= AGE {
            return;
        }
        let mut since = now;
        for place in (0..self.len()).rev() {
            let at = self.probes[place].at();
            if now.since(at) > AGE {
                self.remove(place);
            } else {
                since = since.min(at);
            }
        }
        self.since.store(since.as_nanos(), Relaxed);
    }

    /// Takes the place of an earlier one of the same slot, or of the oldest where all places are taken.
    fn add(&self, probe: Probe) {
        let count = self.seen_count.load(Relaxed) + 1;
        self.seen[(count - 1) % SEEN].store(probe.load.to_bits(), Relaxed);
        self.seen_count.store(count, Relaxed);
        if count.is_power_of_two() || count.is_multiple_of(QUANTILE_EACH) {
            self.judge();
        }
        let known = self.probes().iter().position(|known| known.slot() == probe.slot);
        let place = known.unwrap_or_else(|| match self.len() {
            POOL => self.oldest(),
            len => {
                self.len.store(len + 1, Relaxed);
                len
            }
        });
        self.probes[place].write(probe);
    }

    /// Above which load a destination is hot.
    fn judge(&self) {
        let count = self.seen_count.load(Relaxed).clamp(1, SEEN);
        let mut seen: [f32; SEEN] = array::from_fn(|n| f32::from_bits(self.seen[n].load(Relaxed)));
        let place = ((count - 1) as f64 * HOT_ABOVE) as usize;
        let quantile = *seen[..count].select_nth_unstable_by(place, f32::total_cmp).1;
        self.hot_above.store(quantile.max(NEVER_HOT).to_bits(), Relaxed);
    }

    fn hot_above(&self) -> f32 {
        f32::from_bits(self.hot_above.load(Relaxed))
    }

    /// By the rule "hot or cold", the lower the better: cold before hot, the faster of cold ones, the less loaded of
    /// hot ones (and of cold ones that are equally fast). One number: neither is negative, so their bits are in order.
    fn rank(&self, probe: &Place, hot_above: f32) -> u64 {
        let load_and_time = probe.load_and_time.load(Relaxed);
        let hot = f32::from_bits((load_and_time >> 32) as u32) > hot_above;
        // The sign of what comes first is free: it says hot.
        let (cold, hotter) = (load_and_time.rotate_left(32), load_and_time | 1 << 63);
        select_unpredictable(hot, hotter, cold)
    }

    fn choose(&self, fit: impl Fn(usize) -> bool) -> Option<usize> {
        let hot_above = self.hot_above();
        let fit = self.probes().iter().enumerate().filter(|(_, probe)| fit(probe.slot() as usize));
        fit.min_by_key(|(_, probe)| self.rank(probe, hot_above)).map(|(place, _)| place)
    }

    /// One more message is on its way there.
    fn note_use(&self, place: usize, load: f32) {
        let mut probe = self.probes[place].read();
        probe.load += load;
        probe.uses = probe.uses.saturating_sub(1);
        if probe.uses == 0 {
            self.remove(place);
        } else {
            self.probes[place].write(probe);
        }
    }

    /// Removes one probe: the oldest and the worst in turns. Two are always left.
    fn thin(&self) {
        if self.len() <= 2 {
            return;
        }
        let oldest = !self.worst_next.load(Relaxed);
        self.worst_next.store(oldest, Relaxed);
        self.remove(if oldest { self.oldest() } else { self.worst() });
    }

    /// The first of them where several are.
    fn worst(&self) -> usize {
        let hot_above = self.hot_above();
        let ranks = self.probes().iter().enumerate().rev();
        ranks.max_by_key(|(_, probe)| self.rank(probe, hot_above)).map_or(0, |(place, _)| place)
    }

    fn oldest(&self) -> usize {
        let probes = self.probes().iter().enumerate();
        probes.min_by_key(|(_, probe)| probe.at.load(Relaxed)).map_or(0, |(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, hold, named};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn desk(hot_above: f32, loads_and_times: &[(f32, f32)]) -> Desk {
        let desk = Desk {
            hot_above: AtomicU32::new(hot_above.to_bits()),
            len: AtomicUsize::new(loads_and_times.len()),
            ..Desk::default()
        };
        for (slot, &(load, time)) in loads_and_times.iter().enumerate() {
            let at = Tick::ZERO + slot as u32 * MS;
            desk.probes[slot].write(Probe { slot: slot as u32, uses: 1, load, time, at });
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
            let mut slots: Vec<u32> = desk.probes().iter().map(Place::slot).collect();
            slots.sort_unstable();
            slots
        };
        let desk = desk(5.0, &[(1.0, 1.0), (9.0, 1.0), (2.0, 40.0), (8.0, 1.0), (3.0, 1.0)]);
        desk.thin();
        assert_eq!(slots(&desk), [1, 2, 3, 4], "the oldest");
        desk.thin();
        assert_eq!(slots(&desk), [2, 3, 4], "the hottest");
        desk.expire(Tick::ZERO + AGE + 3 * MS);
        assert_eq!(slots(&desk), [3, 4]);
    }

    #[test]
    fn the_quantile_makes_about_a_sixth_hot() {
        let desk = Desk::default();
        for n in 0..SEEN as u32 {
            desk.add(Probe { slot: n, load: n as f32, ..Probe::default() });
        }
        desk.judge();
        assert_eq!((desk.hot_above(), desk.len()), (52.0, POOL));
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
