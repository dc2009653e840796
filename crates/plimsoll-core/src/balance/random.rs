//! Random balancing, also with two choices.

use std::sync::Arc;

use super::least_loaded::Load;
use super::sampling::WeightedSampler;
use super::{Needs, Picker, Policy, Slot};
use crate::balance::PickRequest;
use crate::rng::Rng;
use crate::time::Tick;

/// Random by weight, independently for each message.
#[derive(Debug, Default)]
pub struct Random;

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(RandomPicker(WeightedSampler::by_weight(&slots)))
    }
}

struct RandomPicker(WeightedSampler);

impl Picker for RandomPicker {
    fn pick(&self, _request: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        self.0.one(rng)
    }
}

/// Power of two choices (Mitzenmacher 1996): two different destinations are drawn by weight, and the one with the lower
/// in flight / weight is picked; of equals the first drawn.
#[derive(Debug, Default)]
pub struct P2c;

impl Policy for P2c {
    fn name(&self) -> &'static str {
        "p2c"
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        let loads = slots.iter().map(|slot| Load::new(slot, slot.weight)).collect();
        Box::new(P2cPicker { sampler: WeightedSampler::by_weight(&slots), loads })
    }
}

struct P2cPicker {
    sampler: WeightedSampler,
    loads: Box<[Load]>,
}

impl Picker for P2cPicker {
    fn pick(&self, _request: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let (first, second) = self.sampler.two(rng);
        if self.loads[second].reading().is_below(self.loads[first].reading()) { second } else { first }
    }

    fn score(&self, slot: usize, _now: Tick) -> Option<f64> {
        Some(self.loads[slot].reading().as_number())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{picks, slots};
    use super::*;
    use crate::destination::DestinationId;
    use crate::stats::Assignment;

    #[test]
    fn less_loaded_of_two_is_picked() {
        let slots = slots([(0, 1), (1, 1)]);
        let picker = P2c.build(slots.clone());
        let _held = Assignment::take(DestinationId(0), 0, 0, &slots[0].stats, Tick::ZERO);
        assert_eq!(picks(&*picker, &slots, 0, 5), "b b b b b");
    }

    #[test]
    fn first_drawn_of_equals_is_picked() {
        let slots = slots([(0, 1), (1, 1)]);
        let seen = picks(&*P2c.build(slots.clone()), &slots, 0, 1000);
        assert!((450..550).contains(&seen.matches('a').count()), "{seen}");
    }

    #[test]
    fn random_ignores_load() {
        let slots = slots([(0, 3), (1, 1)]);
        let _held = Assignment::take(DestinationId(0), 0, 0, &slots[0].stats, Tick::ZERO);
        let seen = picks(&*Random.build(slots.clone()), &slots, 0, 4000);
        assert!((2900..3100).contains(&seen.matches('a').count()));
    }
}
