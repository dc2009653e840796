//! What two random choices are worth when what is known of them is half a second old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{Rng, Tick, Want};

use super::Ear;
use crate::sim_destination::Reading;

/// How often everybody is asked.
const POLLED_EVERY: Duration = Duration::from_millis(500);

/// The less loaded of two at random, by the messages in flight that destinations told when last polled.
#[derive(Clone, Debug)]
pub struct Yarp {
    in_flight: Arc<[AtomicU32]>,
}

struct BetterOfTwo {
    in_flight: Arc<[AtomicU32]>,
    slots: Arc<[Slot]>,
}

impl Yarp {
    /// For so many destinations.
    pub fn new(sites: usize) -> Self {
        Self { in_flight: (0..sites).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl Ear for Yarp {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new((*self).clone())
    }

    fn hears(&self, _now: Tick, site: usize, reading: Reading) {
        self.in_flight[site].store(reading.in_flight, Relaxed);
    }

    fn polls_every(&self) -> Option<Duration> {
        Some(POLLED_EVERY)
    }
}

impl Policy for Yarp {
    fn name(&self) -> &'static str {
        "yarp"
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(BetterOfTwo { in_flight: self.in_flight.clone(), slots })
    }
}

impl Picker for BetterOfTwo {
    fn pick(&self, _want: &Want<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let load = |index: usize| self.in_flight[self.slots[index].rank as usize].load(Relaxed);
        let (one, other) = (rng.index(self.slots.len()), rng.index(self.slots.len()));
        if load(other) < load(one) { other } else { one }
    }
}
