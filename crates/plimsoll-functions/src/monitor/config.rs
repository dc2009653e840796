//! Configuration of health monitoring: the specification's `HealthMonitoringConfig`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use plimsoll_core::health::{CheckSchedule, HealthSpec, ProbeKind};

use super::error::HealthMonitoringError;
use super::limits::MAX_MONITORED_DESTINATIONS;

/// Configuration of health monitoring.
///
/// In JSON, durations are milliseconds, missing keys have the values of [`Default`], which are those of the
/// specification's basic example, and unknown keys are errors. In Rust, start from [`Default`] and set fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthMonitoringConfig {
    /// Time from the end of a check to the start of the next one, 100 ms to a day. Default: 30 s.
    #[serde(with = "millis")]
    pub check_interval: Duration,
    /// Time limit of a check, 1 ms to a minute. Default: 5 s.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// Consecutive failures that take a destination out of service, 1 to 256. Default: 3.
    ///
    /// The first check of all takes it out with one failure.
    pub failure_threshold: u32,
    /// Consecutive passes that bring it back, 1 to 256. Default: 2.
    pub recovery_threshold: u32,
    /// Path of an HTTP check, which passes with a status from 200 to 399. Default: none, a TCP connection is
    /// enough. An extension of the specification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(duration.as_millis() as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

impl Default for HealthMonitoringConfig {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            failure_threshold: 3,
            recovery_threshold: 2,
            path: None,
        }
    }
}

/// Maximum bytes of a path.
const MAX_PATH: usize = 1024;

impl HealthMonitoringConfig {
    /// Validates and converts to the core's type.
    pub(crate) fn spec(&self) -> Result<HealthSpec, HealthMonitoringError> {
        let invalid = |key, expected| Err(HealthMonitoringError::InvalidConfig { key, expected });
        let (ms, day) = (Duration::from_millis, Duration::from_secs(86_400));
        if !(ms(100)..=day).contains(&self.check_interval) {
            return invalid("check_interval", "100 ms to a day");
        }
        if !(ms(1)..=ms(60_000)).contains(&self.timeout) {
            return invalid("timeout", "1 ms to a minute");
        }
        if !(1..=256).contains(&self.failure_threshold) {
            return invalid("failure_threshold", "1 to 256");
        }
        if !(1..=256).contains(&self.recovery_threshold) {
            return invalid("recovery_threshold", "1 to 256");
        }
        let probe = match &self.path {
            None => ProbeKind::Tcp,
            Some(path) => {
                let well_formed = path.starts_with('/') && path.len() <= MAX_PATH;
                if !well_formed || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return invalid(
                        "path",
                        "a path like `/healthz`, of visible ASCII and at most 1,024 bytes",
                    );
                }
                ProbeKind::Http {
                    method: "GET".into(),
                    path: path.as_str().into(),
                    host: None,
                    expect: Arc::new([(200, 399)]),
                    headers: Arc::new([]),
                    body: None,
                }
            }
        };
        Ok(HealthSpec {
            check_interval: self.check_interval,
            timeout: self.timeout,
            failure_threshold: self.failure_threshold,
            recovery_threshold: self.recovery_threshold,
            probe,
            probe_if_unresponsive: None,
            port: None,
            schedule: CheckSchedule {
                max_concurrent: MAX_MONITORED_DESTINATIONS,
                ..CheckSchedule::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_milliseconds_and_unknown_keys_are_errors() {
        let config: HealthMonitoringConfig =
            serde_json::from_str(r#"{"checkInterval": 250, "timeout": 40}"#).expect("good");
        assert_eq!((config.check_interval.as_millis(), config.timeout.as_millis()), (250, 40));
        assert_eq!((config.failure_threshold, config.recovery_threshold), (3, 2));
        let json = serde_json::to_value(&config).expect("plain data");
        assert_eq!((&json["checkInterval"], json.get("path")), (&250.into(), None));
        assert!(serde_json::from_str::<HealthMonitoringConfig>(r#"{"interval": 1}"#).is_err());
    }

    #[test]
    fn invalid_values_are_rejected_by_key() {
        let wrong = |change: &dyn Fn(&mut HealthMonitoringConfig)| {
            let mut config = HealthMonitoringConfig::default();
            change(&mut config);
            match config.spec() {
                Err(HealthMonitoringError::InvalidConfig { key, .. }) => key,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wrong(&|c| c.check_interval = Duration::from_millis(99)), "check_interval");
        assert_eq!(wrong(&|c| c.timeout = Duration::ZERO), "timeout");
        assert_eq!(wrong(&|c| c.failure_threshold = 0), "failure_threshold");
        assert_eq!(wrong(&|c| c.recovery_threshold = 257), "recovery_threshold");
        for path in ["", "up", "/a b", "/a\r\nx: y", "/é"] {
            assert_eq!(wrong(&|c| c.path = Some(path.into())), "path");
        }
        assert!(HealthMonitoringConfig::default().spec().is_ok());
    }
}
