//! Settings of health checks.

use std::time::Duration;

use plimsoll_core::health::{CheckSchedule, HealthSpec};

use super::probe::ProbeSettings;
use crate::defaults;

/// Settings of health checks from all blocks, whether checks are on or not.
#[derive(Clone, Debug)]
pub(crate) struct HealthSettings {
    pub(crate) check_interval: Duration,
    /// Interval while a change is pending; `None` = not given.
    pub(crate) fast_interval: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) failure_threshold: u32,
    pub(crate) recovery_threshold: u32,
    pub(crate) probe: ProbeSettings,
    pub(crate) port: Option<u16>,
    pub(crate) schedule: CheckSchedule,
    pub(crate) recovery: bool,
    pub(crate) alerting: bool,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            check_interval: defaults::CHECK_INTERVAL,
            fast_interval: None,
            timeout: defaults::CHECK_TIMEOUT,
            failure_threshold: defaults::FAILURE_THRESHOLD,
            recovery_threshold: defaults::RECOVERY_THRESHOLD,
            probe: ProbeSettings::default(),
            port: None,
            schedule: CheckSchedule::default(),
            recovery: defaults::RECOVERY_MANAGEMENT,
            alerting: defaults::ALERTING,
        }
    }
}

impl HealthSettings {
    /// Returns whether a recovered destination gets a trial message first.
    pub(crate) fn recovery(&self) -> bool {
        self.recovery
    }

    /// Returns whether status changes raise alerts.
    pub(crate) fn alerting(&self) -> bool {
        self.alerting
    }

    /// Returns whether no block determines the protocol of checks.
    pub(crate) fn protocol_is_default(&self) -> bool {
        self.probe.protocol_is_default()
    }

    /// Returns the checks. With `adaptive`, intervals and timeouts adapt to traffic.
    pub(crate) fn spec(&self, adaptive: bool) -> HealthSpec {
        let fast = self.fast_interval.unwrap_or(defaults::CHECK_FAST_INTERVAL).min(self.check_interval);
        HealthSpec {
            check_interval: self.check_interval,
            timeout: self.timeout,
            failure_threshold: self.failure_threshold,
            recovery_threshold: self.recovery_threshold,
            probe: self.probe.probe(),
            probe_if_unresponsive: None,
            port: self.port,
            schedule: CheckSchedule { fast: Some(fast), adaptive, ..self.schedule },
        }
    }
}
