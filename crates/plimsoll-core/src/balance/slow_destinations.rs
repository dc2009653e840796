//! Which destinations are proven to be slower than the others, and when a neglected one is measured again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Slot;
use super::least_loaded::EXACT_UP_TO;
use crate::measure::{Evidence, MIN_RESPONSES, in_units};
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Interval of evaluations. Means move by a hundredth with each response, so nothing changes faster.
const INTERVAL: Duration = Duration::from_millis(100);
/// Time without a response after which a destination that others are preferred to gets one message. With the time
/// until the next message this is below 10 s in any pool with traffic.
const EXPLORE_AFTER: Duration = Duration::from_secs(8);
/// Time without a response after which a latency proves nothing any more.
const EXPIRES_AFTER: Duration = Duration::from_secs(60);
/// Minimum factor that counts as slower (this is its logarithm).
const TWICE: f32 = std::f32::consts::LN_2;
/// Factor (its logarithm) that a single response would have to show, which falls with the square root of their number,
/// as chance does: 4.8 after 20 responses, 2 after 100. Of equal destinations with exponentially distributed times,
/// one in a thousand is mistaken for a slow one at some time, and soon measured again.
const FIRST_FACTOR: f32 = 7.0;
/// Latencies up to a millisecond (this is the logarithm of its nanoseconds) count as equal.
const QUICK: f32 = 13.815_511;

/// Destinations of a picker that are slower than its faster quartile.
#[derive(Debug)]
pub(super) struct SlowDestinations {
    stats: Box<[Arc<DestinationStats>]>,
    slow: Box<[AtomicBool]>,
    /// Time of the last message that was sent only to measure a destination.
    explored: Box<[AtomicU64]>,
    evaluated: AtomicU64,
    /// Index + 1 of the slot that gets the next message; 0 = none.
    due: AtomicU32,
}

impl SlowDestinations {
    pub(super) fn new(slots: &[Slot]) -> Self {
        Self {
            stats: slots.iter().map(|slot| slot.stats.clone()).collect(),
            slow: slots.iter().map(|_| AtomicBool::new(false)).collect(),
            explored: slots.iter().map(|_| AtomicU64::new(0)).collect(),
            evaluated: AtomicU64::new(0),
            due: AtomicU32::new(0),
        }
    }

    /// Returns whether the slot is proven to be slower than the others.
    pub(super) fn is_slow(&self, slot: usize) -> bool {
        self.slow[slot].load(Relaxed)
    }

    /// Evaluates the slots again if the last evaluation is too old. Of more than 64 slots, 64 are sampled.
    pub(super) fn update(&self, now: Tick, rng: &mut Rng) {
        let last = self.evaluated.load(Relaxed);
        if last == 0 || now.as_nanos().wrapping_sub(last) >= INTERVAL.as_nanos() as u64 {
            // A clock of another worker may be ahead; then this one waits for the interval.
            self.evaluated.store(now.as_nanos().max(1), Relaxed);
            self.evaluate(now, rng);
        }
    }

    /// Returns the slot that is due for a message, once.
    pub(super) fn take_due(&self) -> Option<usize> {
        if self.due.load(Relaxed) == 0 {
            return None;
        }
        (self.due.swap(0, Relaxed) as usize).checked_sub(1)
    }

    #[cold]
    fn evaluate(&self, now: Tick, rng: &mut Rng) {
        let count = self.stats.len();
        let (mut seen, mut means) = (Vec::new(), Vec::new());
        for index in 0..count.min(EXACT_UP_TO) {
            let slot = if count > EXACT_UP_TO { rng.index(count) } else { index };
            let evidence = self.stats[slot].measured().evidence.read(now);
            means.extend(evidence.filter(is_valid).map(|known| known.log_mean));
            seen.push((slot, evidence));
        }
        means.sort_unstable_by(f32::total_cmp);
        let reference = means.get(means.len().saturating_sub(1) / 4).copied();
        for &(slot, evidence) in &seen {
            let slow = evidence.zip(reference).is_some_and(|(own, reference)| is_slower(&own, reference));
            self.slow[slot].store(slow, Relaxed);
        }
        self.plan_exploration(now, &seen);
    }

    /// Plans a message for a slot that had no response for some time, while another had one.
    fn plan_exploration(&self, now: Tick, seen: &[(usize, Option<Evidence>)]) {
        let since = |evidence: &Option<Evidence>| evidence.map(|known| known.elapsed);
        let latest = seen.iter().filter_map(|(_, evidence)| since(evidence)).min();
        if latest.is_none_or(|latest| latest >= const { in_units(EXPLORE_AFTER) }) {
            return;
        }
        let neglected = |slot: usize| {
            let explored = self.explored[slot].load(Relaxed);
            explored == 0 || now.as_nanos().saturating_sub(explored) >= EXPLORE_AFTER.as_nanos() as u64
        };
        let due = |&&(slot, ref evidence): &&(usize, Option<Evidence>)| {
            since(evidence).is_some_and(|since| since >= const { in_units(EXPLORE_AFTER) }) && neglected(slot)
        };
        if let Some(&(slot, _)) = seen.iter().find(due) {
            self.explored[slot].store(now.as_nanos().max(1), Relaxed);
            self.due.store(slot as u32 + 1, Relaxed);
        }
    }
}

fn is_valid(evidence: &Evidence) -> bool {
    evidence.responses >= MIN_RESPONSES && evidence.elapsed < const { in_units(EXPIRES_AFTER) }
}

fn is_slower(own: &Evidence, reference: f32) -> bool {
    let least = TWICE.max(FIRST_FACTOR / (own.responses as f32).sqrt());
    is_valid(own) && own.log_mean.max(QUICK) - reference.max(QUICK) > least
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, slots};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Tick {
        Tick::ZERO + Duration::from_millis(millis)
    }

    /// Returns which of two slots are slow after these responses at 1 s.
    fn slow(responses: [(u32, u64); 2]) -> [bool; 2] {
        let slots = slots([(0, 1), (1, 1)]);
        for (slot, (count, millis)) in slots.iter().zip(responses) {
            (0..count).for_each(|_| answer(slot, at(1_000), 200, Duration::from_millis(millis)));
        }
        let slow = SlowDestinations::new(&slots);
        slow.update(at(1_000), &mut Rng::new(1));
        [slow.is_slow(0), slow.is_slow(1)]
    }

    #[test]
    fn slowness_needs_twenty_responses_and_more_if_it_is_small() {
        assert_eq!(slow([(100, 5), (19, 5_000)]), [false, false]);
        assert_eq!(slow([(100, 5), (20, 50)]), [false, true]);
        assert_eq!(slow([(100, 5), (20, 20)]), [false, false]);
        assert_eq!(slow([(100, 5), (60, 20)]), [false, true]);
        assert_eq!(slow([(100, 10), (99, 19)]), [false, false]);
        assert_eq!(slow([(100, 10), (100, 21)]), [false, true]);
        assert_eq!(slow([(19, 5), (100, 500)]), [false, false], "there is nothing to compare with");
        let slots = slots([(0, 1), (1, 1)]);
        (0..100).for_each(|_| answer(&slots[0], at(0), 200, Duration::from_micros(20)));
        (0..100).for_each(|_| answer(&slots[1], at(0), 200, Duration::from_micros(1_900)));
        let quick = SlowDestinations::new(&slots);
        quick.update(at(1), &mut Rng::new(1));
        assert!(!quick.is_slow(1));
    }

    #[test]
    fn neglected_slot_is_due_once_in_eight_seconds_while_there_is_traffic() {
        let slots = slots([(0, 1), (1, 1)]);
        slots.iter().for_each(|slot| answer(slot, at(0), 200, MS));
        let slow = SlowDestinations::new(&slots);
        let mut due = Vec::new();
        for millis in (0..40_000).step_by(50) {
            if millis < 30_000 {
                answer(&slots[0], at(millis), 200, MS);
            }
            slow.update(at(millis), &mut Rng::new(1));
            due.extend(slow.take_due().map(|slot| (slot, millis / 1_000)));
        }
        assert_eq!(due, [(1, 8), (1, 16), (1, 24), (1, 32)]);
    }
}
