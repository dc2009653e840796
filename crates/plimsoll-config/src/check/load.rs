//! What becomes of what destinations say of their load.

use plimsoll_core::health::LoadSpec;

use crate::check::config_node::Place;
use crate::check::keys;
use crate::check::read::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::Settings;
use crate::defaults;
use crate::model::{Listener, Pool, Protocol};
use crate::problem::Code;

impl Reader<'_> {
    /// Lays a `load_reports` block over `settings`.
    pub(crate) fn load_reports(&mut self, place: &Place<'_>, settings: &mut Settings) {
        let Some(table) = self.table(place, &keys::LOAD_REPORTS) else { return };
        set_if_given(&mut settings.orca, table.get("orca").and_then(|p| self.switch(p)));
        set_if_given(
            &mut settings.load.max_age,
            table.get("max_age").and_then(|p| self.dur(p, &defaults::INTERVAL)),
        );
    }

    /// Tells when a listener that sees no answers leads to a pool that reads reports in them.
    pub(crate) fn sees_reports(&mut self, place: &Place<'_>, listener: &Listener, pools: &[Pool]) {
        if matches!(listener.protocol, Protocol::Http | Protocol::Auto) {
            return;
        }
        let leads_to = listener.routes.iter().map(|route| route.pool).chain(listener.pool);
        if let Some(pool) = leads_to.filter_map(|index| pools.get(index)).find(|pool| pool.orca) {
            let message = format!(
                "the pool `{}` reads reports of load in answers, and a `{}` listener sees none",
                pool.name,
                listener.protocol.as_str()
            );
            self.problem(place, Code::Conflict, message).help(
                "give the listener a pool with `load_reports: {orca: false}`; heartbeats count there, too",
            );
        }
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
        set_if_given(&mut spec.threshold, threshold.and_then(|p| self.share(p)));
        let recover = table.get("recover").and_then(|p| self.share(p));
        // Who names one of them means the usual distance to the other.
        let distance = defaults::OVERLOAD.threshold - defaults::OVERLOAD.recover;
        spec.recover = recover.unwrap_or((spec.threshold - distance).max(0.0));
        set_if_given(&mut spec.max_overloaded, table.get("max_overloaded").and_then(|p| self.share(p)));
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
