//! Recent latencies of a destination by its load.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::timestamped::{TimestampedValue, in_units};
use crate::time::Tick;

/// Number of load classes, by powers of two: 0, 1 to 2, 3 to 6, and so on.
const ROWS: usize = 16;
/// Number of latencies a median is taken of. (The Prequal paper does not state its number.)
const RECENT: usize = 8;
/// Maximum age of a latency. Without it, a destination that was slow once and gets no messages since would count as
/// slow forever.
const RECENT_FOR: Duration = Duration::from_secs(1);
/// Minimum number of latencies for a median: with one, a single slow response would keep messages away from a
/// destination that recovered.
const MIN_SAMPLES: usize = 4;

/// Recent times to the first byte, by how many messages were in flight when each arrived.
///
/// The median is computed when a latency is added, once per message, and not when it is read, three times per message.
/// The medians of up to 254 messages in flight share one cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct LatencyByLoad {
    medians: [TimestampedValue; ROWS],
    rows: [Row; ROWS],
}

#[derive(Debug, Default)]
struct Row {
    next: AtomicU32,
    times: [TimestampedValue; RECENT],
}

impl LatencyByLoad {
    /// Returns the median of recent latencies at this load class, in nanoseconds; of the next lower or higher class
    /// where there are too few.
    pub fn median(&self, now: Tick, in_flight: u32) -> Option<f32> {
        let row = row_of(in_flight);
        let recent = |row: usize| {
            let aged = self.medians.get(row)?.load(now)?;
            (aged.elapsed <= const { in_units(RECENT_FOR) }).then_some(aged.value)
        };
        recent(row).or_else(|| recent(row.wrapping_sub(1))).or_else(|| recent(row + 1))
    }

    pub(crate) fn record(&self, now: Tick, in_flight: u32, span: Duration) {
        let number = row_of(in_flight);
        let row = &self.rows[number];
        let next = row.next.load(Relaxed);
        row.next.store(next.wrapping_add(1), Relaxed);
        row.times[next as usize % RECENT].store(now, span.as_nanos() as f32);
        if let Some(median) = row.median(now) {
            self.medians[number].store(now, median);
        }
    }

    pub(crate) fn forget(&self) {
        self.medians
            .iter()
            .chain(self.rows.iter().flat_map(|row| &row.times))
            .for_each(TimestampedValue::forget);
    }
}

impl Row {
    fn median(&self, now: Tick) -> Option<f32> {
        let (mut times, mut count) = ([0.0; RECENT], 0);
        for aged in self.times.iter().filter_map(|time| time.load(now)) {
            if aged.elapsed <= const { in_units(RECENT_FOR) } {
                times[count] = aged.value;
                count += 1;
            }
        }
        let middle = count / 2;
        (count >= MIN_SAMPLES).then(|| *times[..count].select_nth_unstable_by(middle, f32::total_cmp).1)
    }
}

fn row_of(in_flight: u32) -> usize {
    (in_flight.saturating_add(1).ilog2() as usize).min(ROWS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_median_is_of_recent_latencies_in_the_same_load_class() {
        let (latencies, now) = (LatencyByLoad::default(), Tick::ZERO + MS);
        assert_eq!(latencies.median(now, 3), None);
        [10, 90, 5].into_iter().for_each(|millis| latencies.record(now, 3, millis * MS));
        assert_eq!(latencies.median(now, 3), None, "three are too few");
        latencies.record(now, 3, 20 * MS);
        assert_eq!(latencies.median(now, 3), Some(20e6));
        assert_eq!(latencies.median(now, 6), Some(20e6), "the same class");
        assert_eq!(latencies.median(now, 7), Some(20e6), "the next lower");
        assert_eq!(latencies.median(now, 1), Some(20e6), "the next higher");
        assert_eq!(latencies.median(now, 40), None);
        (0..4).for_each(|_| latencies.record(now, 7, 70 * MS));
        assert_eq!(latencies.median(now, 8), Some(70e6));
        (0..8).for_each(|_| latencies.record(now, 4, 5 * MS));
        assert_eq!(latencies.median(now, 3), Some(5e6), "the latest eight");
        assert_eq!(latencies.median(now + 1_100 * MS, 3), None, "old latencies do not count");
        latencies.record(now, u32::MAX, MS);
        latencies.forget();
        assert_eq!(latencies.median(now, 3), None);
    }
}
