//! Configuration of load balancing: the specification's `LoadBalancingConfig`.

use serde::de::{Deserializer, Error, Unexpected};
use serde::{Deserialize, Serialize, Serializer};

use plimsoll_core::balance::Algorithm;

use crate::error::LoadBalancingError;

/// Configuration of load balancing.
///
/// In JSON, missing keys have the values of [`Default`], which are those of the specification's basic example;
/// unknown keys are errors. In Rust, start from [`Default`] or [`with_algorithm`](Self::with_algorithm).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LoadBalancingConfig {
    /// Load balancing algorithm. Default: round robin.
    #[serde(serialize_with = "serialize_algorithm", deserialize_with = "deserialize_algorithm")]
    pub algorithm: Algorithm,
    /// Whether reported outcomes are judged as health. Default: true.
    ///
    /// Health follows from reported outcomes, and from the checks of [`monitor_health`](crate::monitor_health) if it
    /// monitors the same destinations. A destination that is down is not picked, nor is one for half a minute after
    /// five failures in a row. Off: every destination counts as healthy.
    pub health_checking: bool,
    /// Whether weights follow performance. Default: false; true is not implemented yet.
    pub dynamic_adjustment: bool,
    /// Whether a failed message may be tried at another destination. Default: true.
    ///
    /// See [`Assignment::failover`](crate::Assignment::failover).
    pub failover: bool,
    /// Whether trends and alerts of performance are computed. Default: false; true is not implemented yet.
    ///
    /// Response times, throughput and errors of reported outcomes are always available.
    pub performance_monitoring: bool,
}

impl Default for LoadBalancingConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::RoundRobin,
            health_checking: true,
            dynamic_adjustment: false,
            failover: true,
            performance_monitoring: false,
        }
    }
}

impl LoadBalancingConfig {
    /// Returns the default configuration with this algorithm.
    pub fn with_algorithm(algorithm: Algorithm) -> Self {
        Self { algorithm, ..Self::default() }
    }

    /// Sets whether reported outcomes are judged as health.
    #[must_use]
    pub fn with_health_checking(self, health_checking: bool) -> Self {
        Self { health_checking, ..self }
    }

    /// Sets whether a failed message may be tried at another destination.
    #[must_use]
    pub fn with_failover(self, failover: bool) -> Self {
        Self { failover, ..self }
    }

    /// Rejects features that are not implemented yet.
    pub(crate) fn validate(&self) -> Result<(), LoadBalancingError> {
        match (self.dynamic_adjustment, self.performance_monitoring) {
            (true, _) => Err(LoadBalancingError::NotImplemented { key: "dynamic_adjustment" }),
            (_, true) => Err(LoadBalancingError::NotImplemented { key: "performance_monitoring" }),
            _ if self.algorithm == Algorithm::Custom => {
                Err(LoadBalancingError::UnsupportedAlgorithm { name: self.algorithm.name() })
            }
            _ => Ok(()),
        }
    }
}

fn serialize_algorithm<S: Serializer>(algorithm: &Algorithm, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(algorithm.name())
}

fn deserialize_algorithm<'de, D: Deserializer<'de>>(from: D) -> Result<Algorithm, D::Error> {
    let name = String::deserialize(from)?;
    Algorithm::from_name(&name).ok_or_else(|| {
        let names: Vec<&str> = Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect();
        D::Error::invalid_value(Unexpected::Str(&name), &names.join(", ").as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: Result<LoadBalancingConfig, &str>) {
        match (serde_json::from_str::<LoadBalancingConfig>(json), expected) {
            (Ok(config), Ok(expected)) => assert_eq!(config, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (got, _) => panic!("{json}: {got:?}"),
        }
    }

    #[test]
    fn keys_are_those_of_the_specification() {
        let least =
            LoadBalancingConfig { failover: false, ..LoadBalancingConfig::with_algorithm(Algorithm::P2c) };
        check(r#"{"algorithm": "p2c", "failover": false, "healthChecking": true}"#, Ok(least));
        check("{}", Ok(LoadBalancingConfig::default()));
        check(r#"{"algorithm": "fastest"}"#, Err("weighted_round_robin"));
        check(r#"{"health_checking": true}"#, Err("unknown field"));
        let json = serde_json::to_value(least).expect("serializable");
        assert_eq!(json["algorithm"], "p2c");
        assert_eq!(json["performanceMonitoring"], false);
    }

    #[test]
    fn a_custom_algorithm_needs_an_expression() {
        let error = LoadBalancingConfig::with_algorithm(Algorithm::Custom).validate();
        assert_eq!(error, Err(LoadBalancingError::UnsupportedAlgorithm { name: "custom" }));
    }

    #[test]
    fn unimplemented_features_are_rejected_by_key() {
        let config = LoadBalancingConfig { dynamic_adjustment: true, ..LoadBalancingConfig::default() };
        assert_eq!(config.validate(), Err(LoadBalancingError::NotImplemented { key: "dynamic_adjustment" }));
        let config = LoadBalancingConfig { performance_monitoring: true, ..LoadBalancingConfig::default() };
        assert_eq!(
            config.validate(),
            Err(LoadBalancingError::NotImplemented { key: "performance_monitoring" })
        );
    }
}
