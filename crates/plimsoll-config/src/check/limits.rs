//! What a pool and its destinations may have at once, and who waits for room.

use std::time::Duration;

use plimsoll_core::{DestinationLimits, PoolLimits};

use crate::check::config_node::Place;
use crate::check::keys;
use crate::check::read::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::table::Table;
use crate::defaults;
use crate::model::Destination;
use crate::problem::Code;

/// What a pool's `limits` come to.
pub(crate) struct AtOnce {
    pub(crate) limits: PoolLimits,
    pub(crate) wait: Duration,
    /// Of destinations that say nothing themselves.
    pub(crate) each: DestinationLimits,
}

impl Default for AtOnce {
    fn default() -> Self {
        let each = DestinationLimits::default();
        Self { limits: defaults::POOL_LIMITS, wait: defaults::WAIT, each }
    }
}

impl Reader<'_> {
    pub(crate) fn pool_limits(&mut self, place: &Place<'_>) -> AtOnce {
        let mut at_once = AtOnce::default();
        let Some(table) = self.table(place, &keys::POOL_LIMITS) else { return at_once };
        let mut read = |key| table.get(key).and_then(|p| self.whole(p, defaults::AT_ONCE));
        set_if_given(&mut at_once.limits.requests, read("requests"));
        set_if_given(&mut at_once.limits.connections, read("connections"));
        set_if_given(&mut at_once.limits.pending, read("pending"));
        set_if_given(&mut at_once.limits.retries, read("retries"));
        set_if_given(&mut at_once.wait, table.get("wait").and_then(|p| self.dur(p, &defaults::TIMEOUT)));
        if let Some(place) = table.get("per_destination")
            && let Some(table) = self.table(place, &keys::PER_DESTINATION)
        {
            at_once.each = self.limits_of_one(&table, at_once.each);
        }
        if let (Some(place), 0) = (table.get("wait"), at_once.limits.pending) {
            let message = "`pending: 0` lets nobody wait, and `wait` says for how long";
            self.problem(place, Code::Conflict, message).help("remove one of the two");
        }
        at_once
    }

    /// Tells of a queue in which nobody ever waits.
    pub(crate) fn somebody_waits(&mut self, place: &Place<'_>, at_once: &AtOnce, all: &[Destination]) {
        let (limits, none) = (&at_once.limits, DestinationLimits::default());
        if limits.requests > 0 || limits.connections > 0 || all.iter().any(|d| d.limits != none) {
            return;
        }
        let Some(table) = self.table(place, &keys::POOL_LIMITS) else { return };
        if let Some(place) = table.get("pending").or(table.get("wait")) {
            let message = "nobody ever waits: neither the pool nor a destination of it has a limit";
            self.problem(place, Code::Conflict, message)
                .help("give it one, like `requests: 100` or `per_destination: {requests: 100}`");
        }
    }

    pub(crate) fn destination_limits(
        &mut self,
        place: &Place<'_>,
        limits: DestinationLimits,
    ) -> DestinationLimits {
        match self.table(place, &keys::DESTINATION_LIMITS) {
            Some(table) => self.limits_of_one(&table, limits),
            None => limits,
        }
    }

    fn limits_of_one(&mut self, table: &Table<'_>, mut limits: DestinationLimits) -> DestinationLimits {
        let mut read = |key| table.get(key).and_then(|p| self.whole(p, defaults::AT_ONCE));
        set_if_given(&mut limits.requests, read("requests"));
        set_if_given(&mut limits.connections, read("connections"));
        limits
    }
}
