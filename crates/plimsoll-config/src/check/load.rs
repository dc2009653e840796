//! What becomes of what destinations say of their load.

use plimsoll_core::health::LoadSpec;

use crate::check::health::set;
use crate::check::keys;
use crate::check::read::{Place, Reader};
use crate::defaults;
use crate::problem::Code;

impl Reader<'_> {
    /// Lays a `load_reports` block over `load`.
    pub(crate) fn load_reports(&mut self, place: &Place<'_>, load: &mut LoadSpec) {
        let Some(table) = self.table(place, &keys::LOAD_REPORTS) else { return };
        set(&mut load.max_age, table.get("max_age").and_then(|p| self.dur(p, &defaults::INTERVAL)));
    }

    /// Lays `overload`, a switch or a block, over `load`.
    pub(crate) fn overload(&mut self, place: &Place<'_>, load: &mut LoadSpec) {
        if place.is_switch() {
            load.overload = self.switch(place).unwrap_or(false).then_some(defaults::OVERLOAD);
            return;
        }
        let Some(table) = self.table(place, &keys::OVERLOAD) else { return };
        let mut spec = load.overload.unwrap_or(defaults::OVERLOAD);
        let threshold = table.get("threshold");
        set(&mut spec.threshold, threshold.and_then(|p| self.share(p)));
        let recover = table.get("recover").and_then(|p| self.share(p));
        // Who names one of them means the usual distance to the other.
        let distance = defaults::OVERLOAD.threshold - defaults::OVERLOAD.recover;
        spec.recover = recover.unwrap_or((spec.threshold - distance).max(0.0));
        set(&mut spec.max_overloaded, table.get("max_overloaded").and_then(|p| self.share(p)));
        if let (Some(place), true) = (threshold, spec.threshold <= 0.0) {
            self.problem(place, Code::OutOfRange, "at a threshold of 0 every destination is overloaded")
                .help("write it like \"90%\"");
        }
        if let (Some(place), true) = (table.get("recover"), spec.recover > spec.threshold) {
            let message = "a destination would be taken back while it is still above the threshold";
            self.problem(place, Code::Conflict, message).help("make `recover` lower than `threshold`");
        }
        let on = table.get("enabled").and_then(|p| self.switch(p)).unwrap_or(true);
        load.overload = on.then_some(spec);
    }
}
