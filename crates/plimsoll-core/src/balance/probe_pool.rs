//! Which probes of destinations a worker keeps, and which of them is best.

use std::array;
use std::hint::select_unpredictable;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Tick;

/// Probes kept by a worker. [`AgeOrder`] has room for as many.
pub(super) const POOL: usize = 16;
/// A probe is of no use any more when it is so old.
const AGE: Duration = Duration::from_secs(1);
/// A destination is hot when its load is above this quantile of the loads seen lately: 2 to the power of −1/4.
const HOT_ABOVE: f64 = 0.84;
/// What nobody is hot with: where next to nothing is to do the quantile is 0, and a single message is not much.
const NEVER_HOT: f32 = 1.0;
/// Loads the quantile is taken of, one a message, and how often (in messages). To take it costs as much as ten
/// picks.
const SEEN: usize = 64;
/// The rank of a place without a probe.
const FREE: u64 = u64::MAX;
/// The bits of a rank that say whose it is.
const PLACE: u64 = POOL as u64 - 1;

/// What one worker remembers of destinations. It is alone at its desk, so every load and store is a plain one; threads
/// that share one may lose each other's probes, and never see half of one that matters: a slot is in one word with its
/// uses, a load with its time, and whatever a place holds was a probe once.
///
/// A message looks for the best, the worst, the oldest, and for three slots it might know already. Going through
/// sixteen probes for each of these was most of the price of a pick, so what is compared is in one word per place
/// ([`rank`]) that names the place itself, the order of age is one word ([`AgeOrder`]), and one byte of each slot is
/// kept apart, eight to a word.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ProbePool {
    ranks: [AtomicU64; POOL],
    /// The lowest byte of each slot.
    marks: [AtomicU64; POOL / 8],
    order: AtomicU64,
    len: AtomicUsize,
    hot_above: AtomicU32,
    worst_next: AtomicBool,
    noted: AtomicUsize,
    places: [Place; POOL],
    seen: [AtomicU32; SEEN],
}

impl Default for ProbePool {
    fn default() -> Self {
        Self {
            ranks: array::from_fn(|_| AtomicU64::new(FREE)),
            marks: array::from_fn(|_| AtomicU64::new(0)),
            order: AtomicU64::new(AgeOrder::CONFIGURED.0),
            len: AtomicUsize::new(0),
            hot_above: AtomicU32::new(NEVER_HOT.to_bits()),
            worst_next: AtomicBool::new(false),
            noted: AtomicUsize::new(0),
            places: array::from_fn(|_| Place::default()),
            seen: array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

/// What was seen of a slot.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Probe {
    pub(super) slot: u32,
    /// How many messages may still go by it.
    pub(super) uses: u32,
    /// In flight over weight; not negative.
    pub(super) load: f32,
    /// Nanoseconds; not negative.
    pub(super) time: f32,
    pub(super) at: Tick,
}

/// Where a probe is kept.
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

/// By the rule "hot or cold", the lower the better: cold before hot, the faster of cold ones, the less loaded of hot
/// ones (and of cold ones that are equally fast). One number: neither is negative, so their bits are in order. Its
/// last bits, far below what either is worth, are the place.
fn rank(place: usize, load_and_time: u64, hot_above: f32) -> u64 {
    let hot = f32::from_bits((load_and_time >> 32) as u32) > hot_above;
    // The sign of what comes first is free: it says hot.
    let (cold, hotter) = (load_and_time.rotate_left(32), load_and_time | 1 << 63);
    select_unpredictable(hot, hotter, cold) & !PLACE | place as u64
}

/// Places by the age of their probes, the oldest first, and the free ones behind: sixteen numbers of four bits.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct AgeOrder(u64);

impl AgeOrder {
    const CONFIGURED: Self = Self(0xfedc_ba98_7654_3210);

    fn nth(self, n: usize) -> usize {
        (self.0 >> (4 * n) & PLACE) as usize
    }

    /// Where this place is.
    fn find(self, place: usize) -> usize {
        const ONES: u64 = 0x1111_1111_1111_1111;
        let zero_there = self.0 ^ (place as u64 * ONES);
        // The lowest of these bits is at the first zero; there is one.
        let zeros = zero_there.wrapping_sub(ONES) & !zero_there & ONES << 3;
        (zeros.trailing_zeros() / 4) as usize & (POOL - 1)
    }

    /// The `n`th becomes the `later`th, and those up to there move up.
    fn put(self, n: usize, later: usize) -> Self {
        let below = |n: usize| (1_u64 << (4 * n)) - 1;
        let between = below(later) & !below(n);
        let place = self.0 >> (4 * n) & PLACE;
        let stays = self.0 & !(between | PLACE << (4 * later));
        Self(stays | self.0 >> 4 & between | place << (4 * later))
    }
}

impl ProbePool {
    /// Probes there are.
    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed).min(POOL)
    }

    /// Whose probe is there.
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
        self.order.store(order.put(order.find(place), POOL - 1).0, Relaxed);
        self.len.store(self.len().saturating_sub(1), Relaxed);
    }

    /// Forgets the probes that are too old.
    pub(super) fn expire(&self, now: Tick) {
        while self.len() > 0 && now.since(self.places[self.oldest()].at()) > AGE {
            self.remove(self.oldest());
        }
    }

    /// Keeps a probe, in place of an earlier one of the same slot, or of the oldest where all places are taken.
    pub(super) fn add(&self, probe: Probe) {
        let (order, len) = (self.order(), self.len());
        let place = match self.find(probe.slot) {
            Some(known) => {
                let nth = order.find(known);
                self.order.store(order.put(nth, len.saturating_sub(1).max(nth)).0, Relaxed);
                known
            }
            None => self.room(order, len, probe.slot),
        };
        self.places[place].write(probe);
        self.ranks[place].store(rank(place, together(probe.load, probe.time), self.hot_above()), Relaxed);
    }

    /// A place for the newest probe, which is of this slot.
    fn room(&self, order: AgeOrder, len: usize, slot: u32) -> usize {
        let place = if len == POOL {
            self.order.store(order.put(0, POOL - 1).0, Relaxed);
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

    /// Where there is a probe of this slot. Mostly no mark fits, and then there is nobody to look at.
    fn find(&self, slot: u32) -> Option<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        for (eight, marks) in self.marks.iter().enumerate() {
            let zero_there = marks.load(Relaxed) ^ (u64::from(slot as u8) * ONES);
            // All zeros are found, and sometimes a one behind them.
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

    /// Learns what loads there are; one probe of each message says it.
    pub(super) fn note_load(&self, load: f32) {
        let noted = self.noted.load(Relaxed) + 1;
        self.seen[(noted - 1) % SEEN].store(load.to_bits(), Relaxed);
        self.noted.store(noted, Relaxed);
        if noted.is_multiple_of(SEEN) || (noted < SEEN && noted.is_power_of_two()) {
            self.judge(noted.min(SEEN));
        }
    }

    /// Above which load a destination is hot. No load is negative, so their bits are in order.
    #[cold]
    fn judge(&self, count: usize) {
        let mut seen: [u32; SEEN] = array::from_fn(|n| self.seen[n].load(Relaxed));
        let nth = ((count - 1) as f64 * HOT_ABOVE) as usize;
        let hot_above = f32::from_bits(*seen[..count].select_nth_unstable(nth).1).max(NEVER_HOT);
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

    /// Who is to take a message.
    pub(super) fn best(&self) -> Option<usize> {
        let best = self.ranks.iter().fold(FREE, |best, rank| best.min(rank.load(Relaxed)));
        (best != FREE).then_some((best & PLACE) as usize)
    }

    /// Who is, of those whose slot will do.
    pub(super) fn best_of(&self, fit: impl Fn(usize) -> bool) -> Option<usize> {
        let order = self.order();
        let fit = (0..self.len()).map(|nth| order.nth(nth)).filter(|&place| fit(self.slot(place)));
        fit.min_by_key(|&place| self.ranks[place].load(Relaxed))
    }

    /// One more message is on its way there.
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

    /// Removes one probe: the oldest and the worst in turns. Two are always left.
    pub(super) fn thin(&self) {
        if self.len() <= 2 {
            return;
        }
        let oldest = !self.worst_next.load(Relaxed);
        self.worst_next.store(oldest, Relaxed);
        self.remove(if oldest { self.oldest() } else { self.worst() });
    }

    fn worst(&self) -> usize {
        // One more than its rank, so that free places are behind all others.
        let worst = self.ranks.iter().fold(0, |worst, rank| rank.load(Relaxed).wrapping_add(1).max(worst));
        (worst.wrapping_sub(1) & PLACE) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const MS: Duration = Duration::from_millis(1);

    fn desk(hot_above: f32, loads_and_times: &[(f32, f32)]) -> ProbePool {
        let desk = ProbePool { hot_above: AtomicU32::new(hot_above.to_bits()), ..ProbePool::default() };
        for (slot, &(load, time)) in loads_and_times.iter().enumerate() {
            let at = Tick::ZERO + slot as u32 * MS;
            desk.add(Probe { slot: slot as u32, uses: 1, load, time, at });
        }
        desk
    }

    /// Whose probes there are, the oldest first.
    fn slots(desk: &ProbePool) -> Vec<u32> {
        (0..desk.len()).map(|nth| desk.places[desk.order().nth(nth)].slot()).collect()
    }

    #[test]
    fn the_fastest_of_the_cold_ones_and_of_hot_ones_the_least_loaded() {
        let check = |hot_above, due| {
            let desk = desk(hot_above, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]);
            assert_eq!(desk.best().map(|place| desk.slot(place)), Some(due));
            assert_eq!(desk.best_of(|_| true).map(|place| desk.slot(place)), Some(due));
        };
        check(5.0, 1);
        check(1.0, 2);
        check(9.0, 0);
        let desk = desk(9.0, &[(9.0, 1.0), (5.0, 30.0), (2.0, 40.0)]);
        assert_eq!(desk.best_of(|slot| slot != 0).map(|place| desk.slot(place)), Some(1));
        assert_eq!((ProbePool::default().best(), ProbePool::default().best_of(|_| true)), (None, None));
    }

    #[test]
    fn the_oldest_and_the_worst_leave_in_turns_and_the_aged_at_once() {
        let desk = desk(5.0, &[(1.0, 1.0), (9.0, 1.0), (2.0, 40.0), (8.0, 1.0), (3.0, 1.0)]);
        desk.thin();
        assert_eq!(slots(&desk), [1, 2, 3, 4], "the oldest");
        desk.thin();
        assert_eq!(slots(&desk), [2, 3, 4], "the hottest");
        desk.expire(Tick::ZERO + AGE + 3 * MS);
        assert_eq!(slots(&desk), [3, 4]);
    }

    #[test]
    fn a_use_makes_it_more_loaded_and_the_last_one_ends_it() {
        let desk = desk(5.0, &[(1.0, 2.0), (5.0, 1.0)]);
        desk.add(Probe { slot: 1, uses: 2, load: 5.0, time: 1.0, at: Tick::ZERO });
        let used = |desk: &ProbePool| {
            let place = desk.best().expect("some");
            let slot = desk.slot(place);
            desk.note_use(place, 1.0);
            slot
        };
        assert_eq!([used(&desk), used(&desk), used(&desk)], [1, 0, 1], "hot after its first use");
        assert_eq!((desk.len(), desk.best()), (0, None));
    }

    #[test]
    fn the_quantile_makes_about_a_sixth_hot_and_those_known_are_judged_anew() {
        let desk = ProbePool::default();
        desk.add(Probe { slot: 0, load: 40.0, time: 1.0, ..Probe::default() });
        desk.add(Probe { slot: 1, load: 3.0, time: 2.0, ..Probe::default() });
        assert_eq!(desk.best().map(|place| desk.slot(place)), Some(1), "both are hot");
        (0..SEEN).for_each(|n| desk.note_load(n as f32));
        assert_eq!(desk.hot_above(), 52.0);
        assert_eq!(desk.best().map(|place| desk.slot(place)), Some(0), "neither is");
    }

    #[test]
    fn an_order_moves_one_and_keeps_the_others() {
        for (n, later) in (0..POOL).flat_map(|later| (0..=later).map(move |n| (n, later))) {
            let moved = AgeOrder(AgeOrder::CONFIGURED.0.rotate_left(20)).put(n, later);
            let have: Vec<usize> = (0..POOL).map(|nth| moved.nth(nth)).collect();
            let mut due: Vec<usize> = (0..POOL).map(|nth| (nth + POOL - 5) % POOL).collect();
            let place = due.remove(n);
            due.insert(later, place);
            assert_eq!(have, due, "{n} to {later}");
            assert!((0..POOL).all(|nth| moved.find(moved.nth(nth)) == nth));
        }
    }

    /// The desk beside lists that are searched and sorted: the same probes, the same best and the same worst.
    #[test]
    fn it_keeps_what_a_list_would() {
        for seed in 0..200 {
            let (mut rng, desk, mut list) = (Rng::new(seed), ProbePool::default(), Vec::<Probe>::new());
            for step in 0..300 {
                let slot = rng.below([8, 40, 1_000][seed as usize % 3]) as u32;
                let (load, time) = (rng.below(3) as f32, step as f32 + 1.0);
                let probe = Probe { slot, uses: 1, load, time, at: Tick::ZERO };
                desk.add(probe);
                list.retain(|known| known.slot != slot);
                list.drain(..(list.len() + 1).saturating_sub(POOL));
                list.push(probe);
                assert_eq!(
                    slots(&desk),
                    list.iter().map(|probe| probe.slot).collect::<Vec<_>>(),
                    "seed {seed}"
                );
                let key = |probe: &Probe| match probe.load > NEVER_HOT {
                    false => (false, probe.time, probe.load),
                    true => (true, probe.load, probe.time),
                };
                let order = |a: &Probe, b: &Probe| key(a).partial_cmp(&key(b)).expect("numbers");
                let due = list.iter().copied().min_by(order).expect("one");
                let best = desk.best().expect("one");
                assert_eq!(desk.slot(best) as u32, due.slot, "seed {seed}, step {step}");
                let worst = list.iter().copied().max_by(order).expect("one");
                let hot = worst.load > NEVER_HOT;
                assert_eq!(desk.slot(desk.worst()) as u32, worst.slot, "seed {seed}, step {step}, hot {hot}");
                if rng.below(3) == 0 {
                    desk.remove(best);
                    list.retain(|known| known.slot != due.slot);
                }
            }
        }
    }
}
