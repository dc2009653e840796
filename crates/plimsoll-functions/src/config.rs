//! What a program asks of the balancer: the seed's `LoadBalancingConfig`.

use serde::de::{Deserializer, Error, Unexpected};
use serde::{Deserialize, Serialize, Serializer};

use plimsoll_core::balance::Algorithm;

use crate::error::LoadBalancingError;

/// How to balance. Keys left out take the values of [`Default`], which are those of the seed's basic example;
/// unknown keys are errors.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancingConfig {
    /// Who takes the next message.
    #[serde(serialize_with = "algorithm_name", deserialize_with = "algorithm_of_name")]
    pub algorithm: Algorithm,
    /// Health is judged. The library opens no connections: it judges by the outcomes reported to it, and
    /// tells; it does not yet set a failing destination aside. Off: every destination counts as healthy.
    pub health_checking: bool,
    /// Weights follow performance. Not available yet: `true` is refused.
    pub dynamic_adjustment: bool,
    /// A message that failed may be tried at another destination ([`Assignment::failover`](crate::Assignment::failover)).
    pub failover: bool,
    /// Trends and alerts about performance. Not available yet: `true` is refused. (Response times, throughput
    /// and errors of reported outcomes are always told.)
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
    /// The default with another algorithm.
    pub fn with(algorithm: Algorithm) -> Self {
        Self { algorithm, ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), LoadBalancingError> {
        match (self.dynamic_adjustment, self.performance_monitoring) {
            (true, _) => Err(LoadBalancingError::NotYet { key: "dynamic_adjustment" }),
            (_, true) => Err(LoadBalancingError::NotYet { key: "performance_monitoring" }),
            _ => Ok(()),
        }
    }
}

fn algorithm_name<S: Serializer>(algorithm: &Algorithm, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(algorithm.name())
}

fn algorithm_of_name<'de, D: Deserializer<'de>>(from: D) -> Result<Algorithm, D::Error> {
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
    fn the_keys_are_the_seeds() {
        let least = LoadBalancingConfig { failover: false, ..LoadBalancingConfig::with(Algorithm::P2c) };
        check(r#"{"algorithm": "p2c", "failover": false, "healthChecking": true}"#, Ok(least));
        check("{}", Ok(LoadBalancingConfig::default()));
        check(r#"{"algorithm": "fastest"}"#, Err("weighted_round_robin"));
        check(r#"{"health_checking": true}"#, Err("unknown field"));
        let json = serde_json::to_value(least).expect("plain data");
        assert_eq!(json["algorithm"], "p2c");
        assert_eq!(json["performanceMonitoring"], false);
    }

    #[test]
    fn what_is_not_there_yet_is_refused_by_name() {
        let config = LoadBalancingConfig { dynamic_adjustment: true, ..LoadBalancingConfig::default() };
        assert_eq!(config.check(), Err(LoadBalancingError::NotYet { key: "dynamic_adjustment" }));
        let config = LoadBalancingConfig { performance_monitoring: true, ..LoadBalancingConfig::default() };
        assert_eq!(config.check(), Err(LoadBalancingError::NotYet { key: "performance_monitoring" }));
    }
}
