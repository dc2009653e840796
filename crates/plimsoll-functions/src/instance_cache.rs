//! The [`balance_load`] function: a cached [`LoadBalancer`] for each set of destinations.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use crate::balancer::{LoadBalancer, LoadBalancingResult};
use crate::config::LoadBalancingConfig;
use crate::destination::Destination;
use crate::destination_set_cache::{CacheCapacity, DestinationSetCache};
use crate::error::LoadBalancingError;
use crate::monitor::monitored_statuses;

/// Maximum number of sets of destinations that [`balance_load`] keeps state for.
///
/// A program has a handful; one that makes up a new set for every call must not grow without bound.
pub const MAX_DESTINATION_SETS: usize = 256;

/// Maximum memory of these states in bytes, as estimated from the number and the texts of their destinations.
///
/// It holds 30,000 destinations in all. The set of the latest call is kept in any case.
pub const MAX_CACHED_BYTES: usize = 64 * 1024 * 1024;

/// The balancers by set of destinations.
#[derive(Debug)]
struct InstanceCache(DestinationSetCache<LoadBalancer>);

// Global state, because the specification's `balanceLoad(destinations, config)` is a function without an object
// that must rotate and learn from call to call. A `LoadBalancer` does not use it.
static INSTANCES: Mutex<Option<InstanceCache>> = Mutex::new(None);

/// Picks the destination of one message: the specification's `balanceLoad`.
///
/// Calls with the same destinations (ids and addresses, in any order) share their state: rotations continue,
/// held assignments count as load and reported outcomes are learned. A changed weight, priority or algorithm
/// changes only that.
///
/// With `health_checking`, destinations that [`monitor_health`](crate::monitor_health) found down are not picked if
/// it monitors the same destinations, and neither is one for half a minute after five reported failures in a row, as
/// long as another is left. Backup tiers (`priority` above 0) take over when the first tier is out.
///
/// The process keeps the state of [`MAX_DESTINATION_SETS`] sets, of at most [`MAX_CACHED_BYTES`] together, and
/// evicts the least recently used one. A
/// [`LoadBalancer`] keeps its own state, costs less per message, and its list can change.
///
/// The future is ready at once.
///
/// ```
/// # extern crate plimsoll_functions as plimsoll;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), plimsoll::LoadBalancingError> {
/// use plimsoll::{Algorithm, Destination, LoadBalancingConfig, balance_load};
///
/// let destinations =
///     [Destination::new("big", "10.0.0.1:80").with_weight(2), Destination::new("small", "10.0.0.2:80")];
/// let config = LoadBalancingConfig::with_algorithm(Algorithm::WeightedRoundRobin);
/// let mut selected = Vec::new();
/// for _ in 0..6 {
///     let result = balance_load(&destinations, &config).await?;
///     selected.push(result.selected_destination.id);
///     result.assignment.responded(200);
/// }
/// assert_eq!(selected, ["big", "small", "big", "big", "small", "big"]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`LoadBalancingError`] if the destinations or the configuration are invalid, or if no destination may serve.
pub async fn balance_load(
    destinations: &[Destination],
    config: &LoadBalancingConfig,
) -> Result<LoadBalancingResult, LoadBalancingError> {
    let balancer = cached_instance(destinations, config)?;
    if config.health_checking {
        balancer.apply_checks(monitored_statuses(destinations).as_ref());
    }
    balancer.balance_load()
}

/// Outcome of one message, reported by the name of its destination.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct DestinationOutcome {
    /// Id or address of the destination.
    pub destination: String,
    /// Whether the destination served the message.
    pub ok: bool,
    /// Time to the first byte of the response in milliseconds, if there was one.
    #[serde(default)]
    pub response_time_ms: Option<f64>,
}

impl DestinationOutcome {
    /// Creates the outcome of a message.
    pub fn new(destination: impl Into<String>, ok: bool) -> Self {
        Self { destination: destination.into(), ok, response_time_ms: None }
    }

    /// Sets the time to the first byte of the response.
    #[must_use]
    pub fn with_response_time(self, time: Duration) -> Self {
        Self { response_time_ms: Some(time.as_secs_f64() * 1e3), ..self }
    }
}

/// Maximum response time in milliseconds: a day.
const MAX_RESPONSE_MS: f64 = 86_400_000.0;

/// Records the outcome of a message that [`balance_load`] has assigned, without its
/// [`Assignment`](crate::Assignment): for programs that keep only the destination, such as clients of the API.
///
/// It counts for all sets of destinations of [`balance_load`] that have a destination with this id or address.
/// Report an outcome here or by the assignment, not both.
///
/// # Errors
/// [`LoadBalancingError::UnknownDestination`] if no set has this destination,
/// [`LoadBalancingError::InvalidResponseTime`] if the time is not between 0 and a day.
pub fn record_outcome(outcome: &DestinationOutcome) -> Result<(), LoadBalancingError> {
    record_outcomes(std::slice::from_ref(outcome))
}

/// Records outcomes as [`record_outcome`], all or none.
///
/// # Errors
/// As [`record_outcome`].
pub fn record_outcomes(outcomes: &[DestinationOutcome]) -> Result<(), LoadBalancingError> {
    let instances = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
    let balancers: Vec<&LoadBalancer> = instances.iter().flat_map(|cache| cache.0.values()).collect();
    for outcome in outcomes {
        let name = &outcome.destination;
        if outcome.response_time_ms.is_some_and(|time| !(0.0..=MAX_RESPONSE_MS).contains(&time)) {
            return Err(LoadBalancingError::InvalidResponseTime { id: name.clone() });
        }
        if !balancers.iter().any(|balancer| balancer.has_destination(name)) {
            return Err(LoadBalancingError::UnknownDestination { id: name.clone() });
        }
    }
    for outcome in outcomes {
        let time = outcome.response_time_ms.map(|time| Duration::from_secs_f64(time / 1e3));
        for balancer in &balancers {
            balancer.record_outcome(&outcome.destination, outcome.ok, time);
        }
    }
    Ok(())
}

/// Returns the balancer of these destinations, updated to this call.
fn cached_instance(
    destinations: &[Destination],
    config: &LoadBalancingConfig,
) -> Result<LoadBalancer, LoadBalancingError> {
    let mut instances = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
    instances.get_or_insert_with(InstanceCache::new).get_or_create(destinations, config)
}

impl InstanceCache {
    fn new() -> Self {
        Self(DestinationSetCache::new(CacheCapacity { sets: MAX_DESTINATION_SETS, bytes: MAX_CACHED_BYTES }))
    }

    fn get_or_create(
        &mut self,
        destinations: &[Destination],
        config: &LoadBalancingConfig,
    ) -> Result<LoadBalancer, LoadBalancingError> {
        if let Some(balancer) = self.0.get(destinations) {
            balancer.update(destinations, config)?;
            return Ok(balancer.clone());
        }
        let balancer = LoadBalancer::new(destinations, config)?;
        self.0.insert(destinations, balancer.clone());
        Ok(balancer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;
    use crate::destination_set_cache::size_of_set;

    fn set(port: usize) -> [Destination; 2] {
        let address = |ip| format!("127.0.0.{ip}:{port}");
        [Destination::new("a", address(1)), Destination::new("b", address(2))]
    }

    fn next(cache: &mut InstanceCache, destinations: &[Destination], config: &LoadBalancingConfig) -> String {
        let balancer = cache.get_or_create(destinations, config).expect("valid");
        balancer.pick().expect("all serve").destination().id.clone()
    }

    #[test]
    fn order_of_destinations_does_not_matter() {
        let (mut cache, config) = (InstanceCache::new(), LoadBalancingConfig::default());
        let ([a, b], other) = (set(1), set(2));
        assert_eq!(next(&mut cache, &[a.clone(), b.clone()], &config), "a");
        assert_eq!(next(&mut cache, &other, &config), "a", "other addresses are another set");
        assert_eq!(next(&mut cache, &[b.clone(), a.clone()], &config), "b");
        let heavy = [a.with_weight(2), b];
        assert_eq!(next(&mut cache, &heavy, &config), "a", "a changed weight keeps the state");
        let weighted = LoadBalancingConfig::with_algorithm(Algorithm::WeightedRoundRobin);
        assert_eq!(next(&mut cache, &heavy, &weighted), "a");
        assert_eq!(next(&mut cache, &heavy, &config), "b", "each algorithm keeps its rotation");
        assert_eq!(cache.0.len(), 2);
    }

    #[test]
    fn least_recently_used_set_is_evicted() {
        let (mut cache, config) = (InstanceCache::new(), LoadBalancingConfig::default());
        for port in 1..=MAX_DESTINATION_SETS {
            assert_eq!(next(&mut cache, &set(port), &config), "a");
        }
        assert_eq!(next(&mut cache, &set(1), &config), "b", "kept, and now the most recently used");
        assert_eq!(next(&mut cache, &set(1_000), &config), "a", "one more than the capacity");
        assert_eq!(cache.0.len(), MAX_DESTINATION_SETS);
        assert_eq!(next(&mut cache, &set(1), &config), "a");
        assert_eq!(next(&mut cache, &set(2), &config), "a", "evicted, so it starts again");
    }

    #[test]
    fn memory_of_all_sets_is_bounded() {
        let (mut cache, config) = (InstanceCache::new(), LoadBalancingConfig::default());
        let large = |n: usize| -> Vec<Destination> {
            let address = |port: usize| format!("127.0.{}.{n}:{}", port / 60_000, port % 60_000 + 1);
            (0..12_000).map(|port| Destination::new(port.to_string(), address(port))).collect()
        };
        for n in 1..=5 {
            next(&mut cache, &large(n), &config);
            let bytes = cache.0.len() * size_of_set(&large(n));
            assert!(bytes <= MAX_CACHED_BYTES, "{bytes}");
        }
        assert_eq!(cache.0.len(), 2);
        assert_eq!(next(&mut cache, &large(5), &config), "1", "the latest one goes on");
        let long = "x".repeat(MAX_CACHED_BYTES);
        let labelled = Destination {
            labels: [("label".to_owned(), long)].into(),
            ..Destination::new("a", "127.0.0.1:1")
        };
        next(&mut cache, &[labelled], &config);
        assert_eq!(cache.0.len(), 1, "a set that is too large is the only one");
    }

    #[test]
    fn invalid_lists_are_not_cached() {
        let mut cache = InstanceCache::new();
        let twice = [Destination::new("a", "127.0.0.1:1"), Destination::new("a", "127.0.0.1:2")];
        assert!(cache.get_or_create(&twice, &LoadBalancingConfig::default()).is_err());
        assert!(cache.0.len() == 0);
    }
}
