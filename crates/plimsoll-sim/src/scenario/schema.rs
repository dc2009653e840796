//! Schema of scenario files.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use plimsoll_config::units::{ConfigDuration, Rate, Share};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Duration with a unit, as in the configuration.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Span(pub(super) Duration);

/// Rate such as `1000/s`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct PerSecond(pub(super) f64);

/// Share such as `20%` or 0.2.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Part(pub(super) f64);

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScenarioFile {
    pub(super) name: String,
    #[serde(default)]
    pub(super) about: String,
    #[serde(default)]
    pub(super) algorithms: Vec<String>,
    pub(super) destinations: Vec<Destinations>,
    #[serde(default = "one")]
    pub(super) balancers: usize,
    #[serde(default = "one")]
    pub(super) workers: usize,
    pub(super) work: Work,
    pub(super) bursts: Option<Bursts>,
    pub(super) load: Option<f64>,
    pub(super) rate: Option<PerSecond>,
    pub(super) deadline: Option<Span>,
    pub(super) cancels: Option<bool>,
    pub(super) round_trip: Option<Span>,
    pub(super) jitter: Option<Span>,
    pub(super) warm_up: Option<Span>,
    pub(super) duration: Option<Span>,
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) health_monitoring: Option<HealthMonitoring>,
    pub(super) slow_start: Option<Span>,
    pub(super) panic_threshold: Option<Part>,
    pub(super) retry: Option<Retry>,
    pub(super) hedge: Option<Hedge>,
}

fn one() -> usize {
    1
}

/// Group of equal destinations.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Destinations {
    pub(super) group: String,
    #[serde(default = "one")]
    pub(super) count: usize,
    pub(super) slots: Option<usize>,
    pub(super) cores: Option<f64>,
    pub(super) shared: Option<Shared>,
    pub(super) weight: Option<u16>,
    #[serde(default)]
    pub(super) priority: u8,
    #[serde(default)]
    pub(super) faults: Vec<Fault>,
}

/// Host shared with neighbours, in cores.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shared {
    pub(super) allocation: f64,
    pub(super) burst: f64,
    pub(super) machine: f64,
    pub(super) neighbours: Neighbours,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Neighbours {
    pub(super) level: f64,
    #[serde(default)]
    pub(super) noise: f64,
    pub(super) memory: Option<Span>,
    #[serde(default)]
    pub(super) hot: f64,
    pub(super) burst: Option<Span>,
    pub(super) quiet: Option<Span>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) kind: FaultName,
    pub(super) from: Option<Span>,
    pub(super) until: Option<Span>,
    pub(super) factor: Option<f64>,
    pub(super) up: Option<Span>,
    pub(super) down: Option<Span>,
    pub(super) after: Option<Span>,
    pub(super) every: Option<Span>,
    pub(super) pause: Option<Span>,
    pub(super) status: Option<u16>,
    pub(super) length: Option<Span>,
    pub(super) share: Option<Part>,
}

#[derive(Copy, Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultName {
    Slow,
    Flapping,
    FastFailing,
    Stalling,
    Cold,
    Unresponsive,
    Pausing,
    Down,
    SlowPeriods,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Work {
    pub(super) fixed: Option<Span>,
    pub(super) exponential: Option<Span>,
    pub(super) normal: Option<Normal>,
    pub(super) lognormal: Option<Lognormal>,
    pub(super) bimodal: Option<Bimodal>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Normal {
    pub(super) mean: Span,
    pub(super) deviation: Span,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lognormal {
    pub(super) median: Span,
    pub(super) sigma: f64,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bimodal {
    pub(super) short: Span,
    pub(super) long: Span,
    pub(super) share: Part,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bursts {
    pub(super) factor: f64,
    pub(super) every: Span,
    pub(super) length: Span,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutlierDetection {
    pub(super) consecutive_failures: Option<u32>,
    pub(super) base_ejection: Option<Span>,
    pub(super) max_ejected: Option<Part>,
    /// Same key as `outlier_detection.unresponsive_after` of the configuration; off by default.
    pub(super) unresponsive_after: Option<Span>,
    /// Same key as `outlier_detection.latency` of the configuration.
    pub(super) latency: Option<bool>,
    /// Same switch as `quality.learning` of the configuration.
    pub(super) learning: Option<bool>,
    pub(super) interval: Option<Span>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthMonitoring {
    pub(super) check_interval: Option<Span>,
    pub(super) timeout: Option<Span>,
    pub(super) failure_threshold: Option<u32>,
    pub(super) recovery_threshold: Option<u32>,
    pub(super) recovery_management: Option<bool>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) attempts: Option<u8>,
    pub(super) budget: Option<Part>,
    /// Statuses to retry, as `status:503` of the configuration.
    #[serde(default)]
    pub(super) statuses: Vec<u16>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hedge {
    pub(super) after: Option<String>,
    pub(super) max: Option<u8>,
}

/// Visitor that parses text with `parse` and a plain number with `number`.
struct Unit<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, String>,
    number: fn(f64) -> Result<T, String>,
}

impl<T> Visitor<'_> for Unit<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        (self.number)(number).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number as f64).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Unit {
            what: "a duration such as \"100ms\"",
            parse: |text| {
                text.parse::<ConfigDuration>().map(|span| Self(span.0)).map_err(|error| error.to_string())
            },
            number: |_| Err("a duration needs a unit, such as \"100ms\"".to_owned()),
        })
    }
}

impl<'de> Deserialize<'de> for PerSecond {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Unit {
            what: "a rate such as \"1000/s\"",
            parse: |text| text.parse::<Rate>().map(|rate| Self(rate.0)).map_err(|error| error.to_string()),
            number: |_| Err("a rate needs a unit, such as \"1000/s\"".to_owned()),
        })
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unit {
            what: "a share such as \"20%\" or 0.2",
            parse: |text| text.parse::<Share>().map(|share| Self(share.0)).map_err(|error| error.to_string()),
            number: |number| {
                Share::from_number(number).map(|share| Self(share.0)).map_err(|error| error.to_string())
            },
        })
    }
}

/// Names of the keys of one block that are present.
pub(super) fn given<'a>(keys: &[(&'a str, bool)]) -> Vec<&'a str> {
    let given: BTreeMap<&str, bool> = keys.iter().copied().collect();
    given.into_iter().filter(|&(_, given)| given).map(|(name, _)| name).collect()
}
