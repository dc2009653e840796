//! Peak EWMA balancing: a cost that rises at once with a slow response, multiplied by the load.

use std::sync::Arc;

use super::lowest_score::{Score, Seen, lowest};
use super::response_time::one_message;
use super::rotation_state::PartitionRotations;
use super::slow_destinations::SlowDestinations;
use super::{Needs, Partition, Picker, Policy, Slot};
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Peak EWMA as in Finagle and linkerd: a destination's [cost](crate::measure::PeakCost) multiplied by its load, which
/// includes the message to be sent; the lowest is picked. Failures cost at least 5 s. As with `response_time`,
/// destinations without messages in flight are equal, unless one is proven to be slower.
///
/// Finagle and linkerd compare two random destinations; here up to 16 are all compared, and of more five are drawn by
/// weight.
#[derive(Debug)]
pub struct PeakEwma(PartitionRotations);

impl PeakEwma {
    /// Creates `peak_ewma` for `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self(PartitionRotations::new(workers))
    }
}

impl Policy for PeakEwma {
    fn name(&self) -> &'static str {
        "peak_ewma"
    }

    fn needs(&self) -> Needs {
        Needs::ResponseTimes
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_partition(slots, Partition::WHOLE)
    }

    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let costs = slots.iter().map(|slot| (slot.stats.clone(), 1.0 / slot.weight as f32)).collect();
        let costs = Costs { costs, one: one_message(&slots) as f32 };
        lowest(costs, &slots, self.0.of(part), Some(SlowDestinations::new(&slots)))
    }
}

struct Costs {
    /// Counters, and the reciprocal of the weight.
    costs: Box<[(Arc<DestinationStats>, f32)]>,
    /// Load of the message to be sent, equal for all.
    one: f32,
}

impl Score for Costs {
    const REPORTED_UNIT: f64 = 256.0;
    const IDLE_ALIKE: bool = true;

    fn look(&self, slot: usize) -> Seen {
        let (stats, _) = &self.costs[slot];
        Seen { in_flight: stats.in_flight(), word: stats.measured().peak_cost.bits() }
    }

    fn of(&self, slot: usize, seen: Seen, now: Tick) -> f64 {
        let (stats, per_weight) = &self.costs[slot];
        let load = seen.in_flight as f32 * per_weight + self.one;
        f64::from(stats.measured().peak_cost.decode(seen.word, now) * load)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{answer, hold, picks, slots};
    use super::*;
    use crate::balance::PickRequest;
    use crate::rng::Rng;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lowest_cost_times_load_is_picked() {
        let slots = slots([(0, 1), (1, 1)]);
        answer(&slots[0], Tick::ZERO, 200, 10 * MS);
        answer(&slots[1], Tick::ZERO, 200, 35 * MS);
        let picker = PeakEwma::new(1).build(slots.clone());
        let _held = [hold(&slots[0], 1), hold(&slots[1], 1)];
        assert_eq!(picks(&*picker, &slots, 0, 3), "a a a");
        let _more = hold(&slots[0], 6);
        assert_eq!(picks(&*picker, &slots, 0, 3), "b b b", "8 times 10 is more than twice 35");
    }

    #[test]
    fn idle_destinations_take_turns_until_one_is_proven_to_be_slow() {
        let slots = slots([(0, 1), (1, 1)]);
        answer(&slots[0], Tick::ZERO, 200, 5 * MS);
        answer(&slots[1], Tick::ZERO, 200, 300 * MS);
        let picked = || picks(&*PeakEwma::new(1).build(slots.clone()), &slots, 0, 4);
        assert_eq!(picked(), "a b a b");
        (0..100).for_each(|_| answer(&slots[0], Tick::ZERO, 200, 5 * MS));
        (0..30).for_each(|_| answer(&slots[1], Tick::ZERO, 200, 300 * MS));
        assert_eq!(picked(), "a a a a");
    }

    #[test]
    fn new_destination_receives_some_messages_and_not_all() {
        let slots = slots([(0, 1), (1, 1)]);
        answer(&slots[0], Tick::ZERO, 200, 10 * MS);
        let picker = PeakEwma::new(1).build(slots.clone());
        let _held = [hold(&slots[0], 1), hold(&slots[1], 1)];
        assert_eq!(picks(&*picker, &slots, 0, 2), "a a", "30 ms are assumed without a response");
        let _more = hold(&slots[0], 5);
        assert_eq!(picks(&*picker, &slots, 0, 2), "b b");
    }

    #[test]
    fn failure_costs_five_seconds_and_decays() {
        let slots = slots([(0, 1), (1, 1)]);
        let at = |seconds| Tick::ZERO + Duration::from_secs(seconds);
        answer(&slots[0], at(100), 503, Duration::ZERO);
        let picker = PeakEwma::new(1).build(slots.clone());
        let pick = |now| {
            answer(&slots[1], now, 200, 20 * MS);
            let _held = [hold(&slots[0], 1), hold(&slots[1], 1)];
            let _measured_again = picker.pick(&PickRequest::default(), now, &mut Rng::new(1));
            picker.pick(&PickRequest::default(), now, &mut Rng::new(1))
        };
        assert_eq!((pick(at(100)), pick(at(120)), pick(at(150))), (1, 1, 1));
        assert_eq!(pick(at(160)), 0, "6 times 10 s: a 400th of 5 s is left");
    }

    #[test]
    fn load_is_divided_by_weight() {
        let slots = slots([(0, 1), (1, 4)]);
        slots.iter().for_each(|slot| answer(slot, Tick::ZERO, 200, 10 * MS));
        let picker = PeakEwma::new(1).build(slots.clone());
        assert_eq!(picks(&*picker, &slots, 0, 5), "b b a b b");
        let _held = [hold(&slots[0], 1), hold(&slots[1], 3)];
        assert_eq!(picks(&*picker, &slots, 0, 2), "b b");
        let _more = hold(&slots[1], 2);
        assert_eq!(picks(&*picker, &slots, 0, 2), "a a");
    }
}
