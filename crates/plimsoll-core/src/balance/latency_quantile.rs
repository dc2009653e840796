//! What the times of a pool's destinations are compared with: one among them, looked up now and then.

use std::time::Duration;

use super::Slot;
use super::least_loaded::EXACT_UP_TO;
use crate::measure::{TimestampedValue, in_units};
use crate::rng::Rng;
use crate::time::Tick;

/// What is known is so old at most: averages move by a twentieth with each answer, so it moves slowly.
const KNOWN_FOR: Duration = Duration::from_millis(100);

/// One of the times of slots (of more than 64, of 64 drawn), by its place in their order.
#[derive(Debug, Default)]
pub(super) struct LatencyQuantile(TimestampedValue);

impl LatencyQuantile {
    /// What was known last, however old.
    pub(super) fn last(&self, now: Tick) -> Option<f32> {
        self.0.load(now).map(|aged| aged.value)
    }

    /// What is known, looked up again if it is old; `None` while nobody was measured. `place` says which of so
    /// many measured ones, in ascending order, it is.
    pub(super) fn read(
        &self,
        slots: usize,
        now: Tick,
        rng: &mut Rng,
        time: impl Fn(usize) -> Option<f32>,
        place: impl Fn(usize) -> usize,
    ) -> Option<f32> {
        if let Some(known) = self.0.load(now)
            && known.elapsed < const { in_units(KNOWN_FOR) }
        {
            return Some(known.value);
        }
        let (mut times, mut count) = ([0.0_f32; EXACT_UP_TO], 0);
        for index in 0..slots.min(EXACT_UP_TO) {
            let index = if slots > EXACT_UP_TO { rng.index(slots) } else { index };
            if let Some(time) = time(index) {
                times[count] = time;
                count += 1;
            }
        }
        if count == 0 {
            return None;
        }
        let (_, &mut found, _) = times[..count].select_nth_unstable_by(place(count), f32::total_cmp);
        self.0.store(now, found);
        Some(found)
    }
}

/// The median of slots' average times: what health scores compare with.
#[derive(Debug, Default)]
pub(super) struct Median(LatencyQuantile);

impl Median {
    /// Nanoseconds; `None` while nobody was measured.
    pub(super) fn read(&self, slots: &[Slot], now: Tick, rng: &mut Rng) -> Option<f32> {
        let time = |slot: usize| slots[slot].stats.measured().first_byte.read(now);
        // The lower middle, so that of two the slower one is the one that is compared.
        self.0.read(slots.len(), now, rng, time, |count| (count - 1) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn it_is_looked_up_again_after_its_time() {
        let (among, mut rng) = (LatencyQuantile::default(), Rng::new(1));
        let mut read = |now, times: &[Option<f32>]| {
            among.read(times.len(), now, &mut rng, |slot| times[slot], |count| (count - 1) / 2)
        };
        assert_eq!(read(at(1), &[None, None]), None);
        assert_eq!(read(at(1), &[Some(3.0), None, Some(1.0), Some(2.0)]), Some(2.0));
        assert_eq!(read(at(50), &[Some(9.0)]), Some(2.0));
        assert_eq!(read(at(150), &[Some(9.0)]), Some(9.0));
        assert_eq!(among.last(at(500)), Some(9.0));
    }

    #[test]
    fn of_very_many_some_are_looked_at() {
        let (among, mut rng) = (LatencyQuantile::default(), Rng::new(1));
        let looked_at = std::cell::Cell::new(0);
        let time = |slot: usize| {
            looked_at.set(looked_at.get() + 1);
            Some(slot as f32)
        };
        let found = among.read(10_000, at(1), &mut rng, time, |count| count / 2);
        assert!(found.is_some_and(|middle| (2_000.0..8_000.0).contains(&middle)), "{found:?}");
        assert_eq!(looked_at.get(), EXACT_UP_TO);
    }
}
