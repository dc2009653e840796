//! Picker with perfect knowledge, as a bound for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{PickRequest, Rng, Tick};

use super::{PolicyFeedback, slot_of};

/// Sends each message to the destination that would respond first if nothing else arrived. The simulation
/// computes that destination.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    fastest: Arc<AtomicUsize>,
}

struct OraclePicker {
    fastest: Arc<AtomicUsize>,
    slots: Arc<[Slot]>,
}

impl PolicyFeedback for Oracle {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new((*self).clone())
    }

    fn needs_forecast(&self) -> bool {
        true
    }

    fn set_fastest(&self, destination: usize) {
        self.fastest.store(destination, Relaxed);
    }
}

impl Policy for Oracle {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(OraclePicker { fastest: self.fastest.clone(), slots })
    }
}

impl Picker for OraclePicker {
    fn pick(&self, _want: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        slot_of(&self.slots, self.fastest.load(Relaxed)).unwrap_or_else(|| rng.index(self.slots.len()))
    }
}
