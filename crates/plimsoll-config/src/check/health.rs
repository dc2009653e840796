//! Health checks: intervals, timeouts and thresholds.

use plimsoll_core::health::Start;

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::mapping::Mapping;
use crate::check::reader::Reader;
use crate::check::set_if_given::set_if_given;
use crate::check::settings::health::HealthSettings;
use crate::defaults;
use crate::problem::Code;

impl Reader<'_> {
    /// Reads a `health_monitoring` block over `health`.
    pub(crate) fn health_monitoring(&mut self, node: &ConfigNode<'_>, health: &mut HealthSettings) {
        let Some(mapping) = self.mapping(node, &keys::HEALTH_MONITORING) else { return };
        let get = |key| mapping.get(key);
        set_if_given(
            &mut health.check_interval,
            get("check_interval").and_then(|p| self.duration(p, &defaults::INTERVAL)),
        );
        set_if_given(&mut health.timeout, get("timeout").and_then(|p| self.duration(p, &defaults::TIMEOUT)));
        let threshold = defaults::THRESHOLD;
        set_if_given(
            &mut health.failure_threshold,
            get("failure_threshold").and_then(|p| self.integer(p, threshold.clone())),
        );
        set_if_given(
            &mut health.recovery_threshold,
            get("recovery_threshold").and_then(|p| self.integer(p, threshold)),
        );
        self.check_schedule(&mapping, health);
        self.probe_settings(&mapping, &mut health.probe);
        if let Some(port) = get("port").and_then(|p| self.integer(p, 1..=65_535)) {
            health.port = Some(port);
        }
        set_if_given(&mut health.recovery, get("recovery_management").and_then(|p| self.boolean(p)));
        set_if_given(&mut health.alerting, get("alerting").and_then(|p| self.boolean(p)));
    }

    /// Reads the schedule of checks beside the interval.
    fn check_schedule(&mut self, mapping: &Mapping<'_>, health: &mut HealthSettings) {
        let get = |key| mapping.get(key);
        if let Some(node) = get("fast_interval")
            && let Some(fast) = self.duration(node, &defaults::INTERVAL)
        {
            if fast > health.check_interval {
                let message = "`fast_interval` is longer than `check_interval`";
                self.problem(node, Code::Conflict, message).help("set it to at most `check_interval`");
            }
            health.fast_interval = Some(fast);
        }
        if let Some(down) = get("down_interval").and_then(|p| self.duration(p, &defaults::INTERVAL)) {
            health.schedule.down = Some(down);
        }
        if let Some(node) = get("jitter")
            && let Some(jitter) = self.share(node)
        {
            if jitter > defaults::MAX_JITTER {
                self.problem(
                    node,
                    Code::OutOfRange,
                    format!("`{}` is out of range: expected 0% to 50%", node.shown()),
                );
            }
            health.schedule.jitter = jitter;
        }
        set_if_given(
            &mut health.schedule.max_concurrent,
            get("max_concurrent").and_then(|p| self.integer(p, defaults::CONCURRENT_CHECKS)),
        );
        let keywords = [("serving", Start::Serving), ("down", Start::Down)];
        set_if_given(&mut health.schedule.start, get("start").and_then(|p| self.keyword(p, &keywords, &[])));
    }
}
