//! What a pool and its destinations may have at once, and who waits for room.

use std::time::Duration;

use plimsoll_core::{DestinationLimits, PoolLimits};

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::defaults;
use crate::model::Destination;
use crate::problem::Code;

/// What a pool's `limits` come to.
pub(crate) struct PoolLimitSettings {
    pub(crate) limits: PoolLimits,
    pub(crate) wait: Duration,
    /// Of destinations that say nothing themselves.
    pub(crate) each: DestinationLimits,
}

impl Default for PoolLimitSettings {
    fn default() -> Self {
        let each = DestinationLimits::default();
        Self { limits: defaults::POOL_LIMITS, wait: defaults::WAIT, each }
    }
}

impl Reader<'_> {
    pub(crate) fn pool_limits(&mut self, node: &ConfigNode<'_>) -> PoolLimitSettings {
        let mut at_once = PoolLimitSettings::default();
        let Some(mapping) = self.mapping(node, &keys::POOL_LIMITS) else { return at_once };
        let mut read = |key| mapping.get(key).and_then(|p| self.integer(p, defaults::CONCURRENT));
        set_if_given(&mut at_once.limits.requests, read("requests"));
        set_if_given(&mut at_once.limits.connections, read("connections"));
        set_if_given(&mut at_once.limits.pending, read("pending"));
        set_if_given(&mut at_once.limits.retries, read("retries"));
        set_if_given(
            &mut at_once.wait,
            mapping.get("wait").and_then(|p| self.duration(p, &defaults::TIMEOUT)),
        );
        if let Some(node) = mapping.get("per_destination")
            && let Some(mapping) = self.mapping(node, &keys::PER_DESTINATION)
        {
            at_once.each = self.limits_of_one(&mapping, at_once.each);
        }
        if let (Some(node), 0) = (mapping.get("wait"), at_once.limits.pending) {
            let message = "`pending: 0` lets nobody wait, and `wait` says for how long";
            self.problem(node, Code::Conflict, message).help("remove one of the two");
        }
        at_once
    }

    /// Tells of a queue in which nobody ever waits.
    pub(crate) fn check_queue_used(
        &mut self,
        node: &ConfigNode<'_>,
        at_once: &PoolLimitSettings,
        all: &[Destination],
    ) {
        let (limits, none) = (&at_once.limits, DestinationLimits::default());
        if limits.requests > 0 || limits.connections > 0 || all.iter().any(|d| d.limits != none) {
            return;
        }
        let Some(mapping) = self.mapping(node, &keys::POOL_LIMITS) else { return };
        if let Some(node) = mapping.get("pending").or(mapping.get("wait")) {
            let message = "nobody ever waits: neither the pool nor a destination of it has a limit";
            self.problem(node, Code::Conflict, message)
                .help("give it one, like `requests: 100` or `per_destination: {requests: 100}`");
        }
    }

    pub(crate) fn destination_limits(
        &mut self,
        node: &ConfigNode<'_>,
        limits: DestinationLimits,
    ) -> DestinationLimits {
        match self.mapping(node, &keys::DESTINATION_LIMITS) {
            Some(mapping) => self.limits_of_one(&mapping, limits),
            None => limits,
        }
    }

    fn limits_of_one(&mut self, mapping: &Mapping<'_>, mut limits: DestinationLimits) -> DestinationLimits {
        let mut read = |key| mapping.get(key).and_then(|p| self.integer(p, defaults::CONCURRENT));
        set_if_given(&mut limits.requests, read("requests"));
        set_if_given(&mut limits.connections, read("connections"));
        limits
    }
}
