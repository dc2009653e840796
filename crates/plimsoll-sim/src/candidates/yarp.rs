//! Two random choices with polled loads that are up to half a second old.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{PickRequest, Rng, Tick};

use super::PolicyFeedback;
use crate::sim_destination::ProbeResponse;

/// Interval between two polls of all destinations.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Less loaded of two random destinations, by the loads of the last poll.
#[derive(Clone, Debug)]
pub struct Yarp {
    in_flight: Arc<[AtomicU32]>,
}

struct YarpPicker {
    in_flight: Arc<[AtomicU32]>,
    slots: Arc<[Slot]>,
}

impl Yarp {
    /// Creates the policy for a number of destinations.
    pub fn new(destinations: usize) -> Self {
        Self { in_flight: (0..destinations).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl PolicyFeedback for Yarp {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new((*self).clone())
    }

    fn on_probe_response(&self, _now: Tick, destination: usize, response: ProbeResponse) {
        self.in_flight[destination].store(response.in_flight, Relaxed);
    }

    fn poll_interval(&self) -> Option<Duration> {
        Some(POLL_INTERVAL)
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
        Box::new(YarpPicker { in_flight: self.in_flight.clone(), slots })
    }
}

impl Picker for YarpPicker {
    fn pick(&self, _want: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let load = |index: usize| self.in_flight[self.slots[index].rank as usize].load(Relaxed);
        let (one, other) = (rng.index(self.slots.len()), rng.index(self.slots.len()));
        if load(other) < load(one) { other } else { one }
    }
}
