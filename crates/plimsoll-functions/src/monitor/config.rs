//! What a program asks of monitoring: the seed's `HealthMonitoringConfig`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use plimsoll_core::health::{HealthSpec, ProbeKind, Rhythm};

use super::MOST_CHECKED;
use super::error::HealthMonitoringError;

/// How to monitor. Spans are milliseconds in JSON. Keys left out take the values of [`Default`], which are those
/// of the seed's basic example; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HealthMonitoringConfig {
    /// From the end of one check of a destination to the start of the next: 100 ms to a day.
    #[serde(with = "millis")]
    pub check_interval: Duration,
    /// A check without an answer by then has failed: 1 ms to a minute.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// Failures in a row that take a destination out, 1 to 256; of the very first check one is enough.
    pub failure_threshold: u32,
    /// Passes in a row that bring it back, 1 to 256.
    pub recovery_threshold: u32,
    /// Without it a check opens a TCP connection; with it, it asks for this path by HTTP and wants a status from
    /// 200 to 399. (Not in the seed.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(span.as_millis() as u64)
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

/// Bytes of a path.
const PATH: usize = 1024;

impl HealthMonitoringConfig {
    /// The same as the core wants it.
    pub(crate) fn spec(&self) -> Result<HealthSpec, HealthMonitoringError> {
        let bad = |key, wants| Err(HealthMonitoringError::BadConfig { key, wants });
        let (ms, day) = (Duration::from_millis, Duration::from_secs(86_400));
        if !(ms(100)..=day).contains(&self.check_interval) {
            return bad("check_interval", "100 ms to a day");
        }
        if !(ms(1)..=ms(60_000)).contains(&self.timeout) {
            return bad("timeout", "1 ms to a minute");
        }
        if !(1..=256).contains(&self.failure_threshold) {
            return bad("failure_threshold", "1 to 256");
        }
        if !(1..=256).contains(&self.recovery_threshold) {
            return bad("recovery_threshold", "1 to 256");
        }
        let probe = match &self.path {
            None => ProbeKind::Tcp,
            Some(path) => {
                let fit = path.starts_with('/') && path.len() <= PATH;
                if !fit || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return bad("path", "a path like `/healthz`, of visible ASCII and at most 1,024 bytes");
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
            if_gray: None,
            port: None,
            rhythm: Rhythm { width: MOST_CHECKED, ..Rhythm::default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_milliseconds_and_unknown_keys_errors() {
        let config: HealthMonitoringConfig =
            serde_json::from_str(r#"{"checkInterval": 250, "timeout": 40}"#).expect("good");
        assert_eq!((config.check_interval.as_millis(), config.timeout.as_millis()), (250, 40));
        assert_eq!((config.failure_threshold, config.recovery_threshold), (3, 2));
        let json = serde_json::to_value(&config).expect("plain data");
        assert_eq!((&json["checkInterval"], json.get("path")), (&250.into(), None));
        assert!(serde_json::from_str::<HealthMonitoringConfig>(r#"{"interval": 1}"#).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let wrong = |change: &dyn Fn(&mut HealthMonitoringConfig)| {
            let mut config = HealthMonitoringConfig::default();
            change(&mut config);
            match config.spec() {
                Err(HealthMonitoringError::BadConfig { key, .. }) => key,
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
