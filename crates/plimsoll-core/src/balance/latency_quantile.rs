//! Quantile of the average latencies of a pool's destinations, which scores are compared with.

use std::time::Duration;

use super::Slot;
use super::least_loaded::EXACT_UP_TO;
use crate::measure::{TimestampedValue, in_units};
use crate::rng::Rng;
use crate::time::Tick;

/// Maximum age of the quantile. Averages move by a twentieth with each response, so it changes slowly.
const MAX_AGE: Duration = Duration::from_millis(100);

/// Quantile of the latencies of slots; of more than 64 slots, 64 are sampled.
#[derive(Debug, Default)]
pub(super) struct LatencyQuantile(TimestampedValue);

impl LatencyQuantile {
    /// Returns the last known value of any age.
    pub(super) fn last(&self, now: Tick) -> Option<f32> {
        self.0.load(now).map(|aged| aged.value)
    }

    /// Returns the value, computed again if it is too old; `None` while no slot has measurements. `rank` maps the
    /// number of measured slots to the quantile's index in ascending order.
    pub(super) fn read(
        &self,
        slots: usize,
        now: Tick,
        rng: &mut Rng,
        time: impl Fn(usize) -> Option<f32>,
        rank: impl Fn(usize) -> usize,
    ) -> Option<f32> {
        if let Some(known) = self.0.load(now)
            && known.elapsed < const { in_units(MAX_AGE) }
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
        let (_, &mut found, _) = times[..count].select_nth_unstable_by(rank(count), f32::total_cmp);
        self.0.store(now, found);
        Some(found)
    }
}

/// Median of the slots' average latencies, for health scores.
#[derive(Debug, Default)]
pub(super) struct Median(LatencyQuantile);

impl Median {
    /// Returns nanoseconds; `None` while no slot has measurements.
    pub(super) fn read(&self, slots: &[Slot], now: Tick, rng: &mut Rng) -> Option<f32> {
        let time = |slot: usize| slots[slot].stats.measured().known_first_byte(now);
        // The lower median, so that the slower one of two destinations is compared with the faster.
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
    fn value_is_computed_again_after_its_maximum_age() {
        let (quantile, mut rng) = (LatencyQuantile::default(), Rng::new(1));
        let mut read = |now, times: &[Option<f32>]| {
            quantile.read(times.len(), now, &mut rng, |slot| times[slot], |count| (count - 1) / 2)
        };
        assert_eq!(read(at(1), &[None, None]), None);
        assert_eq!(read(at(1), &[Some(3.0), None, Some(1.0), Some(2.0)]), Some(2.0));
        assert_eq!(read(at(50), &[Some(9.0)]), Some(2.0));
        assert_eq!(read(at(150), &[Some(9.0)]), Some(9.0));
        assert_eq!(quantile.last(at(500)), Some(9.0));
    }

    #[test]
    fn large_pool_is_sampled() {
        let (quantile, mut rng) = (LatencyQuantile::default(), Rng::new(1));
        let sampled = std::cell::Cell::new(0);
        let time = |slot: usize| {
            sampled.set(sampled.get() + 1);
            Some(slot as f32)
        };
        let found = quantile.read(10_000, at(1), &mut rng, time, |count| count / 2);
        assert!(found.is_some_and(|middle| (2_000.0..8_000.0).contains(&middle)), "{found:?}");
        assert_eq!(sampled.get(), EXACT_UP_TO);
    }
}
