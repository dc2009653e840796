//! Concurrency limits of a pool and its destinations, and its queue.

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

/// Settings of a pool's `limits` block.
pub(crate) struct PoolLimitSettings {
    /// Limits of the pool.
    pub(crate) limits: PoolLimits,
    /// Maximum time in the queue.
    pub(crate) wait: Duration,
    /// Limits of destinations without limits of their own.
    pub(crate) per_destination: DestinationLimits,
}

impl Default for PoolLimitSettings {
    fn default() -> Self {
        Self {
            limits: defaults::POOL_LIMITS,
            wait: defaults::WAIT,
            per_destination: defaults::DESTINATION_LIMITS,
        }
    }
}

impl Reader<'_> {
    /// Reads the `limits` block of a pool.
    pub(crate) fn pool_limits(&mut self, node: &ConfigNode<'_>) -> PoolLimitSettings {
        let mut settings = PoolLimitSettings::default();
        let Some(mapping) = self.mapping(node, &keys::POOL_LIMITS) else { return settings };
        let mut read = |key| mapping.get(key).and_then(|p| self.integer(p, defaults::CONCURRENT));
        set_if_given(&mut settings.limits.requests, read("requests"));
        set_if_given(&mut settings.limits.connections, read("connections"));
        set_if_given(&mut settings.limits.pending, read("pending"));
        set_if_given(&mut settings.limits.retries, read("retries"));
        set_if_given(
            &mut settings.wait,
            mapping.get("wait").and_then(|p| self.duration(p, &defaults::TIMEOUT)),
        );
        if let Some(node) = mapping.get("per_destination")
            && let Some(mapping) = self.mapping(node, &keys::PER_DESTINATION)
        {
            settings.per_destination = self.read_destination_limits(&mapping, settings.per_destination);
        }
        if let (Some(node), 0) = (mapping.get("wait"), settings.limits.pending) {
            let message = "`wait` has no effect with `pending: 0`, which disables the queue";
            self.problem(node, Code::Conflict, message).help("remove one of the two");
        }
        settings
    }

    /// Reports queue settings without a limit that fills the queue.
    pub(crate) fn check_queue_used(
        &mut self,
        node: &ConfigNode<'_>,
        settings: &PoolLimitSettings,
        all: &[Destination],
    ) {
        let (limits, none) = (&settings.limits, DestinationLimits::default());
        if limits.requests > 0 || limits.connections > 0 || all.iter().any(|d| d.limits != none) {
            return;
        }
        let Some(mapping) = self.mapping(node, &keys::POOL_LIMITS) else { return };
        if let Some(node) = mapping.get("pending").or(mapping.get("wait")) {
            let message = "the queue is never used: neither the pool nor a destination has a limit";
            self.problem(node, Code::Conflict, message)
                .help("add a limit, such as `requests: 100` or `per_destination: {requests: 100}`");
        }
    }

    /// Reads the `limits` block of a destination over the limits of its pool.
    pub(crate) fn destination_limits(
        &mut self,
        node: &ConfigNode<'_>,
        limits: DestinationLimits,
    ) -> DestinationLimits {
        match self.mapping(node, &keys::DESTINATION_LIMITS) {
            Some(mapping) => self.read_destination_limits(&mapping, limits),
            None => limits,
        }
    }

    fn read_destination_limits(
        &mut self,
        mapping: &Mapping<'_>,
        mut limits: DestinationLimits,
    ) -> DestinationLimits {
        let mut read = |key| mapping.get(key).and_then(|p| self.integer(p, defaults::CONCURRENT));
        set_if_given(&mut limits.requests, read("requests"));
        set_if_given(&mut limits.connections, read("connections"));
        limits
    }
}
