//! Probe pool of a worker for Prequal: which probes are kept, and which of them is best.

use std::array;
use std::hint::select_unpredictable;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Tick;

/// Maximum number of probes of a worker, which [`AgeOrder`] has space for.
pub(super) const CAPACITY: usize = 16;
/// Maximum age of a probe.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Quantile of recent loads above which a destination is hot: 2 to the power of −1/4.
const HOT_QUANTILE: f64 = 0.84;
/// Load up to which no destination is hot: in an almost idle pool the quantile is 0, and a single message is little
/// load.
const MIN_HOT_LOAD: f32 = 1.0;
/// Number of loads that the quantile is computed from, and of messages between two computations. A computation costs as
/// much as ten picks.
const SAMPLES: usize = 64;
/// Rank of a free place.
const FREE: u64 = u64::MAX;
/// Bits of a rank that contain the place.
const PLACE: u64 = CAPACITY as u64 - 1;

/// Probes of one worker. Loads and stores are not synchronized; threads that share a worker may lose probes, but never
/// read a half-written one: each pair of values is in one word.
///
/// A pick needs the best, the worst and the oldest probe, and those of three slots. To avoid scans of sixteen probes,
/// the compared values are in one word per place ([`rank`]), the order of age is one word ([`AgeOrder`]), and one byte
/// of each slot is stored separately, eight to a word.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ProbePool {
    ranks: [AtomicU64; CAPACITY],
    /// Lowest byte of each slot.
    marks: [AtomicU64; CAPACITY / 8],
    order: AtomicU64,
    len: AtomicUsize,
    hot_above: AtomicU32,
    worst_next: AtomicBool,
    noted: AtomicUsize,
    places: [Place; CAPACITY],
    samples: [AtomicU32; SAMPLES],
}

impl Default for ProbePool {
    fn default() -> Self {
        Self {
            ranks: array::from_fn(|_| AtomicU64::new(FREE)),
            marks: array::from_fn(|_| AtomicU64::new(0)),
            order: AtomicU64::new(AgeOrder::CONFIGURED.0),
            len: AtomicUsize::new(0),
            hot_above: AtomicU32::new(MIN_HOT_LOAD.to_bits()),
            worst_next: AtomicBool::new(false),
            noted: AtomicUsize::new(0),
            places: array::from_fn(|_| Place::default()),
            samples: array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

/// Measured state of a slot.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Probe {
    pub(super) slot: u32,
    /// Number of messages that may still use the probe.
    pub(super) uses: u32,
    /// Messages in flight divided by weight; not negative.
    pub(super) load: f32,
    /// Latency in nanoseconds; not negative.
    pub(super) time: f32,
    pub(super) at: Tick,
}

/// Storage of one probe.
#[derive(Debug, Default)]
struct Place {
    slot_and_uses: AtomicU64,
    load_and_time: AtomicU64,
    at: AtomicU64,
}

impl Place {
    fn write(&self, probe: Probe) {
        let Probe { slot, uses, load, time, at } = probe;
        self.slot_and_uses.store(u64::from(slot) << 32 | u64::from(uses), Relaxed);
        self.load_and_time.store(together(load, time), Relaxed);
        self.at.store(at.as_nanos(), Relaxed);
    }

    fn slot(&self) -> u32 {
        (self.slot_and_uses.load(Relaxed) >> 32) as u32
    }

    fn at(&self) -> Tick {
        Tick::from_nanos(self.at.load(Relaxed))
    }
}

fn together(load: f32, time: f32) -> u64 {
    u64::from(load.to_bits()) << 32 | u64::from(time.to_bits())
}

/// Returns the rank of a probe, lower is better: cold before hot, cold ones by latency and then load, hot ones by load
/// and then latency. Neither is negative, so their bits compare like numbers. The lowest bits contain the place.
fn rank(place: usize, load_and_time: u64, hot_above: f32) -> u64 {
    let hot = f32::from_bits((load_and_time >> 32) as u32) > hot_above;
    // The sign bit of the first value is free and marks hot ones.
    let (cold, hotter) = (load_and_time.rotate_left(32), load_and_time | 1 << 63);
    select_unpredictable(hot, hotter, cold) & !PLACE | place as u64
}

/// Places by age of their probes, the oldest first and free ones last: sixteen numbers of four bits.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct AgeOrder(u64);

impl AgeOrder {
    const CONFIGURED: Self = Self(0xfedc_ba98_7654_3210);

    fn nth(self, n: usize) -> usize {
        (self.0 >> (4 * n) & PLACE) as usize
    }

    /// Returns the position of a place.
    fn find(self, place: usize) -> usize {
        const ONES: u64 = 0x1111_1111_1111_1111;
        let zero_there = self.0 ^ (place as u64 * ONES);
        // The lowest set bit belongs to the first zero, which exists.
        let zeros = zero_there.wrapping_sub(ONES) & !zero_there & ONES << 3;
        (zeros.trailing_zeros() / 4) as usize & (CAPACITY - 1)
    }

    /// Moves the `n`th to position `later`; those between move up.
    fn put(self, n: usize, later: usize) -> Self {
        let below = |n: usize| (1_u64 << (4 * n)) - 1;
        let between = below(later) & !below(n);
        let place = self.0 >> (4 * n) & PLACE;
        let stays = self.0 & !(between | PLACE << (4 * later));
        Self(stays | self.0 >> 4 & between | place << (4 * later))
    }
}

impl ProbePool {
    /// Returns the number of probes.
    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed).min(CAPACITY)
    }

    /// Returns the slot of the probe at a place.
    pub(super) fn slot(&self, place: usize) -> usize {
        self.places[place].slot() as usize
    }

    fn order(&self) -> AgeOrder {
        AgeOrder(self.order.load(Relaxed))
    }

    fn oldest(&self) -> usize {
        self.order().nth(0)
    }

    fn remove(&self, place: usize) {
        let order = self.order();
        self.ranks[place].store(FREE, Relaxed);
        self.order.store(order.put(order.find(place), CAPACITY - 1).0, Relaxed);
        self.len.store(self.len().saturating_sub(1), Relaxed);
    }

    /// Removes probes beyond the maximum age.
    pub(super) fn expire(&self, now: Tick) {
        while self.len() > 0 && now.since(self.places[self.oldest()].at()) > MAX_AGE {
            self.remove(self.oldest());
        }
    }

    /// Adds a probe. It replaces an earlier one of the same slot, or the oldest if the pool is full.
    pub(super) fn add(&self, probe: Probe) {
        let (order, len) = (self.order(), self.len());
        let place = match self.find(probe.slot) {
            Some(known) => {
                let nth = order.find(known);
                self.order.store(order.put(nth, len.saturating_sub(1).max(nth)).0, Relaxed);
                known
            }
            None => self.allocate(order, len, probe.slot),
        };
        self.places[place].write(probe);
        self.ranks[place].store(rank(place, together(probe.load, probe.time), self.hot_above()), Relaxed);
    }

    /// Returns a place for the newest probe.
    fn allocate(&self, order: AgeOrder, len: usize, slot: u32) -> usize {
        let place = if len == CAPACITY {
            self.order.store(order.put(0, CAPACITY - 1).0, Relaxed);
            order.nth(0)
        } else {
            self.len.store(len + 1, Relaxed);
            order.nth(len)
        };
        self.mark(place, slot);
        place
    }

    fn mark(&self, place: usize, slot: u32) {
        let (word, shift) = (&self.marks[place / 8], place % 8 * 8);
        word.store(word.load(Relaxed) & !(0xff << shift) | u64::from(slot as u8) << shift, Relaxed);
    }

    /// Returns the place with a probe of this slot. In most cases no mark matches.
    fn find(&self, slot: u32) -> Option<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        for (eight, marks) in self.marks.iter().enumerate() {
            let zero_there = marks.load(Relaxed) ^ (u64::from(slot as u8) * ONES);
            // All zeros are found, and sometimes a one above them.
            let mut zeros = zero_there.wrapping_sub(ONES) & !zero_there & ONES << 7;
            while zeros != 0 {
                let place = eight * 8 + zeros.trailing_zeros() as usize / 8;
                if self.places[place].slot() == slot && self.ranks[place].load(Relaxed) != FREE {
                    return Some(place);
                }
                zeros &= zeros - 1;
            }
        }
        None
    }

    /// Records the load of one probe per message for the quantile.
    pub(super) fn note_load(&self, load: f32) {
        let noted = self.noted.load(Relaxed) + 1;
        self.samples[(noted - 1) % SAMPLES].store(load.to_bits(), Relaxed);
        self.noted.store(noted, Relaxed);
        if noted.is_multiple_of(SAMPLES) || (noted < SAMPLES && noted.is_power_of_two()) {
            self.update_hot_above(noted.min(SAMPLES));
        }
    }

    /// Computes the load above which a destination is hot. No load is negative, so their bits compare like numbers.
    #[cold]
    fn update_hot_above(&self, count: usize) {
        let mut samples: [u32; SAMPLES] = array::from_fn(|n| self.samples[n].load(Relaxed));
        let nth = ((count - 1) as f64 * HOT_QUANTILE) as usize;
        let hot_above = f32::from_bits(*samples[..count].select_nth_unstable(nth).1).max(MIN_HOT_LOAD);
        self.hot_above.store(hot_above.to_bits(), Relaxed);
        for nth in 0..self.len() {
            self.rerank(self.order().nth(nth));
        }
    }

    fn hot_above(&self) -> f32 {
        f32::from_bits(self.hot_above.load(Relaxed))
    }

    fn rerank(&self, place: usize) {
        let load_and_time = self.places[place].load_and_time.load(Relaxed);
        self.ranks[place].store(rank(place, load_and_time, self.hot_above()), Relaxed);
    }

    /// Returns the place of the best probe.
    pub(super) fn best(&self) -> Option<usize> {
        let best = self.ranks.iter().fold(FREE, |best, rank| best.min(rank.load(Relaxed)));
        (best != FREE).then_some((best & PLACE) as usize)
    }

    /// Returns the place of the best probe among fit slots.
    pub(super) fn best_of(&self, fit: impl Fn(usize) -> bool) -> Option<usize> {
        let order = self.order();
        let fit = (0..self.len()).map(|nth| order.nth(nth)).filter(|&place| fit(self.slot(place)));
        fit.min_by_key(|&place| self.ranks[place].load(Relaxed))
    }

    /// Records that a message uses the probe.
    pub(super) fn note_use(&self, place: usize, load: f32) {
        let at = &self.places[place];
        let (slot_and_uses, load_and_time) = (at.slot_and_uses.load(Relaxed), at.load_and_time.load(Relaxed));
        if slot_and_uses as u32 <= 1 {
            return self.remove(place);
        }
        at.slot_and_uses.store(slot_and_uses - 1, Relaxed);
        let load = f32::from_bits((load_and_time >> 32) as u32) + load;
        at.load_and_time.store(together(load, f32::from_bits(load_and_time as u32)), Relaxed);
        self.rerank(place);
    }

    /// Removes one probe, the oldest and the worst in turns; at least two stay.
    pub(super) fn thin(&self) {
        if self.len() <= 2 {
            return;
        }
        let oldest = !self.worst_next.load(Relaxed);
        self.worst_next.store(oldest, Relaxed);
        self.remove(if oldest { self.oldest() } else { self.worst() });
    }

    fn worst(&self) -> usize {
        // Ranks are compared plus one, so that free places are last.
        let worst = self.ranks.iter().fold(0, |worst, rank| rank.load(Relaxed).wrapping_add(1).max(worst));
        (worst.wrapping_sub(1) & PLACE) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const MS: Duration = Duration::from_millis(1);

    fn pool(hot_above: f32, loads_and_times: &[(f32, f32)]) -> ProbePool {
        let pool = ProbePool { hot_above: AtomicU32::new(hot_above.to_bits()), ..ProbePool::default() };
        for (slot, &(load, time)) in loads_and_times.iter().enumerate() {
            let at = Tick::ZERO + slot as u32 * MS;
            pool.add(Probe { slot: slot as u32, uses: 1, load, time, at });
        }
        pool
    }

    /// Returns the slots of all probes, the oldest first.
    fn slots(pool: &ProbePool) -> Vec<u32> {
        (0..pool.len()).map(|nth| pool.places[pool.order().nth(nth)].slot()).collect()
    }

    #[test]
    fn fastest_cold_or_least_loaded_hot_probe_is_best() {
        let check = |hot_above, due| {
            let pool = pool(hot_above, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]);
            assert_eq!(pool.best().map(|place| pool.slot(place)), Some(due));
            assert_eq!(pool.best_of(|_| true).map(|place| pool.slot(place)), Some(due));
        };
        check(5.0, 1);
        check(1.0, 2);
        check(9.0, 0);
        let pool = pool(9.0, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]);
        assert_eq!(pool.best_of(|slot| slot != 0).map(|place| pool.slot(place)), Some(1));
        assert_eq!((ProbePool::default().best(), ProbePool::default().best_of(|_| true)), (None, None));
    }

    #[test]
    fn oldest_and_worst_are_removed_in_turns_and_aged_ones_at_once() {
        let pool = pool(5.0, &[(1.0, 1.0), (9.0, 1.0), (2.0, 40.0), (8.0, 1.0), (3.0, 1.0)]);
        pool.thin();
        assert_eq!(slots(&pool), [1, 2, 3, 4], "the oldest");
        pool.thin();
        assert_eq!(slots(&pool), [2, 3, 4], "the hottest");
        pool.expire(Tick::ZERO + MAX_AGE + 3 * MS);
        assert_eq!(slots(&pool), [3, 4]);
    }

    #[test]
    fn use_adds_load_and_the_last_one_removes_the_probe() {
        let pool = pool(5.0, &[(1.0, 2.0), (5.0, 1.0)]);
        pool.add(Probe { slot: 1, uses: 2, load: 5.0, time: 1.0, at: Tick::ZERO });
        let used = |pool: &ProbePool| {
            let place = pool.best().expect("some");
            let slot = pool.slot(place);
            pool.note_use(place, 1.0);
            slot
        };
        assert_eq!([used(&pool), used(&pool), used(&pool)], [1, 0, 1], "hot after its first use");
        assert_eq!((pool.len(), pool.best()), (0, None));
    }

    #[test]
    fn quantile_makes_about_a_sixth_hot_and_known_probes_are_ranked_again() {
        let pool = ProbePool::default();
        pool.add(Probe { slot: 0, load: 40.0, time: 1.0, ..Probe::default() });
        pool.add(Probe { slot: 1, load: 3.0, time: 2.0, ..Probe::default() });
        assert_eq!(pool.best().map(|place| pool.slot(place)), Some(1), "both are hot");
        (0..SAMPLES).for_each(|n| pool.note_load(n as f32));
        assert_eq!(pool.hot_above(), 52.0);
        assert_eq!(pool.best().map(|place| pool.slot(place)), Some(0), "neither is");
    }

    #[test]
    fn age_order_moves_one_and_keeps_the_others() {
        for (n, later) in (0..CAPACITY).flat_map(|later| (0..=later).map(move |n| (n, later))) {
            let moved = AgeOrder(AgeOrder::CONFIGURED.0.rotate_left(20)).put(n, later);
            let have: Vec<usize> = (0..CAPACITY).map(|nth| moved.nth(nth)).collect();
            let mut due: Vec<usize> = (0..CAPACITY).map(|nth| (nth + CAPACITY - 5) % CAPACITY).collect();
            let place = due.remove(n);
            due.insert(later, place);
            assert_eq!(have, due, "{n} to {later}");
            assert!((0..CAPACITY).all(|nth| moved.find(moved.nth(nth)) == nth));
        }
    }

    /// Compares the pool with sorted lists: equal probes, equal best and worst.
    #[test]
    fn probe_pool_equals_sorted_lists() {
        for seed in 0..200 {
            let (mut rng, pool, mut list) = (Rng::new(seed), ProbePool::default(), Vec::<Probe>::new());
            for step in 0..300 {
                let slot = rng.below([8, 40, 1_000][seed as usize % 3]) as u32;
                let (load, time) = (rng.below(3) as f32, step as f32 + 1.0);
                let probe = Probe { slot, uses: 1, load, time, at: Tick::ZERO };
                pool.add(probe);
                list.retain(|known| known.slot != slot);
                list.drain(..(list.len() + 1).saturating_sub(CAPACITY));
                list.push(probe);
                assert_eq!(
                    slots(&pool),
                    list.iter().map(|probe| probe.slot).collect::<Vec<_>>(),
                    "seed {seed}"
                );
                let key = |probe: &Probe| match probe.load > MIN_HOT_LOAD {
                    false => (false, probe.time, probe.load),
                    true => (true, probe.load, probe.time),
                };
                let order = |a: &Probe, b: &Probe| key(a).partial_cmp(&key(b)).expect("numbers");
                let due = list.iter().copied().min_by(order).expect("one");
                let best = pool.best().expect("one");
                assert_eq!(pool.slot(best) as u32, due.slot, "seed {seed}, step {step}");
                let worst = list.iter().copied().max_by(order).expect("one");
                let hot = worst.load > MIN_HOT_LOAD;
                assert_eq!(pool.slot(pool.worst()) as u32, worst.slot, "seed {seed}, step {step}, hot {hot}");
                if rng.below(3) == 0 {
                    pool.remove(best);
                    list.retain(|known| known.slot != due.slot);
                }
            }
        }
    }
}
