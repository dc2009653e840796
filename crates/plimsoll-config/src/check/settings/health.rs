//! Settings of health checks.

use std::time::Duration;

use plimsoll_core::health::{CheckSchedule, HealthSpec};

use super::probe::ProbeSettings;
use crate::defaults;

/// Settings of checks, before it is known whether there are any: blocks are laid over one another.
#[derive(Clone, Debug)]
pub(crate) struct HealthSettings {
    pub(crate) check_interval: Duration,
    /// `None`: nobody said.
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
            recovery: false,
            alerting: false,
        }
    }
}

impl HealthSettings {
    /// Who passes its checks again proves itself before it is given its share.
    pub(crate) fn recovery(&self) -> bool {
        self.recovery
    }

    /// People are told when destinations and the pool go or come back.
    pub(crate) fn alerting(&self) -> bool {
        self.alerting
    }

    /// Nobody said how checks are made.
    pub(crate) fn protocol_is_default(&self) -> bool {
        self.probe.protocol_is_default()
    }

    /// What they come to; `adaptive`: intervals and time limits follow what is seen.
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
