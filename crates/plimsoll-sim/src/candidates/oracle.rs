//! What a picker would do that knew everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{Rng, Tick, Want};

use super::{Ear, slot_of};

/// Sends each message to the destination that would answer it first, if nothing else came. The simulation
/// tells it who that is.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    told: Arc<AtomicUsize>,
}

struct Told {
    told: Arc<AtomicUsize>,
    slots: Arc<[Slot]>,
}

impl Ear for Oracle {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new((*self).clone())
    }

    fn is_omniscient(&self) -> bool {
        true
    }

    fn is_told(&self, site: usize) {
        self.told.store(site, Relaxed);
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
        Box::new(Told { told: self.told.clone(), slots })
    }
}

impl Picker for Told {
    fn pick(&self, _want: &Want<'_>, _now: Tick, rng: &mut Rng) -> usize {
        slot_of(&self.slots, self.told.load(Relaxed)).unwrap_or_else(|| rng.index(self.slots.len()))
    }
}
