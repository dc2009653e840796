//! Response-time balancing: least loaded, where slower destinations count as more loaded.

use std::hint::select_unpredictable;
use std::sync::Arc;

use super::latency_quantile::LatencyQuantile;
use super::lowest_score::{Score, Seen, lowest};
use super::rotation_state::PartitionRotations;
use super::slow_destinations::SlowDestinations;
use super::{Needs, Partition, Picker, Policy, Slot};
use crate::measure::LogMean;
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Differences up to a factor of 1.5 (this is its logarithm) count as equal. Otherwise the fastest by a small margin
/// would receive everything, and chance would make differences. (nginx rounds up to 20 ms for this reason.)
const ALIKE: f32 = 0.405_465_1;
/// Latencies up to a millisecond (this is the logarithm of its nanoseconds) count as equal, as in linkerd: they depend
/// on the network more than on load.
const QUICK: f32 = 13.815_511;
/// Maximum factor of slowness: after some time without messages a slower destination is tried again.
const SLOWEST: f32 = 100.0;

/// Response time as weighed by nginx's `least_time` (first byte) and Traefik's `leasttime`: messages in flight divided
/// by weight, with the one to be sent as that of a destination of mean weight, multiplied by the factor by which a
/// destination is usually slower than the pool. The lowest is picked, and equal ones take turns by weight.
///
/// Destinations without messages in flight are equal, unless one is proven to be slower (`SlowDestinations`): where
/// there is no load, chance would otherwise decide for a long time. A slow one is measured again every few seconds.
///
/// The factor is the destination's usual latency ([`LogMean`]) divided by that of the pool's faster quartile, if above
/// 1.5; latencies below a millisecond count as one. So services of a few milliseconds and of a second are treated
/// alike, heavy tails change little, and single errors are soon forgotten. A destination without measurements has the
/// factor 1, and its logarithm counts in full from 20 responses on.
#[derive(Debug)]
pub struct ResponseTime(PartitionRotations);

impl ResponseTime {
    /// Creates `response_time` for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self(PartitionRotations::new(workers))
    }
}

impl Policy for ResponseTime {
    fn name(&self) -> &'static str {
        "response_time"
    }

    fn needs(&self) -> Needs {
        Needs::ResponseTimes
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_partition(slots, Partition::WHOLE)
    }

    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let loads = slots.iter().map(|slot| (slot.stats.clone(), slot.weight)).collect();
        let times = Times { loads, one: one_message(&slots), pool: LatencyQuantile::default() };
        lowest(times, &slots, self.0.of(part), Some(SlowDestinations::new(&slots)))
    }
}

/// Returns the load of one message at a destination of mean weight.
pub(super) fn one_message(slots: &[Slot]) -> f64 {
    let total: u64 = slots.iter().map(|slot| u64::from(slot.weight)).sum();
    slots.len() as f64 / total.max(1) as f64
}

struct Times {
    loads: Box<[(Arc<DestinationStats>, u32)]>,
    /// Load of the message to be sent, equal for all.
    one: f64,
    /// Usual latency of the faster quartile.
    pool: LatencyQuantile,
}

impl Score for Times {
    const REPORTED_UNIT: f64 = 256.0;
    const IDLE_ALIKE: bool = true;

    fn prepare(&self, now: Tick, rng: &mut Rng) {
        let time = |slot: usize| self.loads[slot].0.measured().log_mean.read_proven(now);
        self.pool.read(self.loads.len(), now, rng, time, |count| (count - 1) / 4);
    }

    fn look(&self, slot: usize) -> Seen {
        let (stats, _) = &self.loads[slot];
        Seen { in_flight: stats.in_flight(), word: stats.measured().log_mean.bits() }
    }

    fn of(&self, slot: usize, seen: Seen, now: Tick) -> f64 {
        let slowness = match (LogMean::decode(seen.word, now), self.pool.last(now)) {
            (Some(own), Some(pool)) => {
                slowness((own.max(QUICK) - pool.max(QUICK)) * LogMean::proof(seen.word))
            }
            _ => 1.0,
        };
        // Equal quotients of whole numbers are exactly equal, so if no destination is slower, equal loads are a tie.
        f64::from(slowness) * (f64::from(seen.in_flight) / f64::from(self.loads[slot].1) + self.one)
    }
}

/// Returns the factor for a difference of logarithms.
fn slowness(difference: f32) -> f32 {
    // The branch is unpredictable and runs five times per message.
    select_unpredictable(difference > ALIKE, power(difference).min(SLOWEST), 1.0)
}

/// Returns e to the power of `x` for `x` from 0 on: monotonic, within a thousandth, in a quarter of the time of the
/// exact function.
fn power(x: f32) -> f32 {
    let twos = x.clamp(0.0, 8.0) * std::f32::consts::LOG2_E;
    let whole = twos as u32;
    let rest = twos - whole as f32;
    let below_two = 1.0 + rest * (0.695_833_5 + rest * (0.226_067_16 + rest * 0.078_024_52));
    below_two * f32::from_bits((127 + whole) << 23)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{answer, hold, picks, slots};
    use super::*;

    #[test]
    fn approximate_power_is_close() {
        let mut before = 0.0;
        for x in (0..5_000).map(|n| n as f32 / 1_000.0) {
            let (have, due) = (power(x), x.exp());
            assert!((have / due - 1.0).abs() < 0.001 && have >= before, "e^{x}: {have} for {due}");
            before = have;
        }
    }

    #[test]
    fn load_is_reported_in_units_of_weight_1() {
        let slots = slots([(0, 256), (1, 768)]);
        let picker = ResponseTime::new(1).build(slots.clone());
        let _held = hold(&slots[1], 3);
        let scores = [0, 1].map(|slot| picker.score(slot, Tick::ZERO));
        assert_eq!(scores, [Some(0.5), Some(1.5)]);
    }

    /// Compares the picks of an idle worker at these weights, loads and average latencies, of 100 responses each.
    fn check(seen: &[(u32, u32, u64)], expected: &str) {
        let slots = slots((0..).zip(seen.iter().map(|&(weight, ..)| weight)));
        let mut held = Vec::new();
        for (slot, &(_, count, millis)) in slots.iter().zip(seen) {
            held.extend(hold(slot, count));
            if millis > 0 {
                (0..100).for_each(|_| answer(slot, Tick::ZERO, 200, Duration::from_millis(millis)));
            }
        }
        let picker = ResponseTime::new(1).build(slots.clone());
        assert_eq!(picks(&*picker, &slots, 0, expected.len().div_ceil(2)), expected, "{seen:?}");
    }

    #[test]
    fn fast_destinations_are_picked_until_their_load_grows() {
        check(&[(1, 0, 90), (1, 0, 30), (1, 0, 90)], "b b b");
        check(&[(1, 0, 90), (1, 1, 30), (1, 0, 90)], "b b b");
        check(&[(1, 0, 91), (1, 3, 30), (1, 0, 61)], "c c c");
    }

    #[test]
    fn about_equally_fast_idle_destinations_take_turns_by_weight() {
        check(&[(1, 0, 20), (1, 0, 39), (1, 0, 700)], "a b a b");
        check(&[(1, 0, 1), (1, 0, 2), (1, 0, 1)], "a b c a");
        check(&[(5, 0, 10), (1, 0, 10), (1, 0, 15)], "a a b a c a a");
        check(&[(5, 0, 30), (1, 0, 10), (1, 0, 10)], "b c b c");
        check(&[(2, 2, 15), (1, 1, 15), (4, 4, 15)], "c a c b c a c");
        // A destination without measurements is not slower.
        check(&[(1, 0, 90), (1, 0, 30), (1, 0, 0)], "b c b c");
        check(&[(1, 0, 0), (1, 0, 0)], "a b a b");
    }

    #[test]
    fn latencies_below_a_millisecond_are_equal() {
        let slots = slots([(0, 1), (1, 1)]);
        for _ in 0..100 {
            answer(&slots[0], Tick::ZERO, 200, Duration::from_micros(40));
            answer(&slots[1], Tick::ZERO, 200, Duration::from_micros(900));
        }
        assert_eq!(picks(&*ResponseTime::new(1).build(slots.clone()), &slots, 0, 4), "a b a b");
    }

    #[test]
    fn faster_quartile_is_the_reference() {
        check(&[(1, 1, 10), (1, 1, 20), (1, 1, 20), (1, 1, 20)], "a a a");
        check(&[(1, 1, 10), (1, 1, 20), (1, 1, 20), (1, 1, 20), (1, 1, 20)], "a b c d e a");
    }

    /// Returns the picks of two destinations with as many messages in flight, so that their recent times count.
    fn picked_under_load(slots: &Arc<[Slot]>, count: usize) -> String {
        let _held: Vec<_> = slots.iter().map(|slot| hold(slot, 3)).collect();
        picks(&*ResponseTime::new(1).build(slots.clone()), slots, 0, count)
    }

    #[test]
    fn long_responses_change_little_and_single_errors_are_soon_forgotten() {
        let slots = slots([(0, 1), (1, 1)]);
        let ms = Duration::from_millis;
        let well = |count: u32| {
            (0..count).for_each(|_| slots.iter().for_each(|slot| answer(slot, Tick::ZERO, 200, ms(10))));
        };
        well(50);
        answer(&slots[1], Tick::ZERO, 200, ms(3_000));
        assert_eq!(picked_under_load(&slots, 4), "a b a b");
        answer(&slots[0], Tick::ZERO, 500, ms(1));
        assert_eq!(picked_under_load(&slots, 3), "b b b");
        well(20);
        assert_eq!(picked_under_load(&slots, 4), "a b a b");
    }

    #[test]
    fn one_slow_first_response_changes_nothing() {
        for others in [0, 5, 30] {
            let slots = slots([(0, 1), (1, 1)]);
            answer(&slots[1], Tick::ZERO, 200, Duration::from_millis(300));
            for _ in 0..others {
                slots.iter().for_each(|slot| answer(slot, Tick::ZERO, 200, Duration::from_millis(5)));
            }
            assert_eq!(picked_under_load(&slots, 4), "a b a b", "{others}");
        }
    }

    #[test]
    fn fast_failures_are_avoided_until_they_decay() {
        let slots = slots([(0, 1), (1, 1)]);
        let at = |seconds: u64| Tick::ZERO + Duration::from_secs(seconds);
        (0..20).for_each(|_| answer(&slots[0], at(0), 503, Duration::ZERO));
        let picker = ResponseTime::new(1).build(slots.clone());
        let pick = |seconds: u64| {
            (0..200).for_each(|_| answer(&slots[1], at(seconds), 200, Duration::from_millis(90)));
            let _held: Vec<_> = slots.iter().map(|slot| hold(slot, 1)).collect();
            let _measured_again =
                picker.pick(&crate::PickRequest::default(), at(seconds), &mut crate::Rng::new(1));
            picker.pick(&crate::PickRequest::default(), at(seconds), &mut crate::Rng::new(1))
        };
        assert_eq!(pick(1), 1);
        assert_eq!(pick(51), 1, "5 s halved five times is still more than 90 ms and a half");
        assert_eq!(pick(62), 0);
    }
}
