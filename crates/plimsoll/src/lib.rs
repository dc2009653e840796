//! Plimsoll as a library: balance messages over destinations and monitor their health.
//!
//! The crate decides where a message goes and learns from the outcomes you report. It opens no connection for a
//! message: transferring it is up to your program. To forward traffic, run the `plimsoll` binary, or embed the
//! proxy with the crate `plimsoll-proxy`.
//!
//! | item | purpose |
//! |---|---|
//! | [`LoadBalancer`] | picks a destination for each message and keeps the state between messages |
//! | [`balance_load`] | the specification's `balanceLoad`: the same as one function |
//! | [`monitor_health`] | the specification's `monitorHealth`: checks destinations and reports their health |
//!
//! `monitor_performance` and `adjust_load` of the specification are not implemented yet.
//!
//! # Picking destinations
//!
//! [`LoadBalancer::pick`] returns an [`Assignment`]: the message's hold on its destination. While it is held, the
//! message counts as in flight. Report the outcome with [`responded`](Assignment::responded),
//! [`finish`](Assignment::finish) or [`failover`](Assignment::failover); dropped, the message counts as cancelled.
//!
//! ```
//! use plimsoll::{Algorithm, Destination, Failure, LoadBalancer, LoadBalancingConfig, Outcome};
//!
//! let balancer = LoadBalancer::new(
//!     &[
//!         Destination::new("a", "10.0.0.1:80"),
//!         Destination::new("b", "10.0.0.2:80"),
//!         Destination::new("spare", "10.0.0.3:80").with_priority(1),
//!     ],
//!     &LoadBalancingConfig::with_algorithm(Algorithm::LeastConnections),
//! )?;
//!
//! // `a` has a message in flight, so `b` gets the next one.
//! let first = balancer.pick()?;
//! let second = balancer.pick()?;
//! assert_eq!((&*first.destination().id, &*second.destination().id), ("a", "b"));
//!
//! // A failed message goes to the next destination, in the end to the backup tier.
//! let retried = first.failover(Outcome::Failed(Failure::Connect))?;
//! assert_eq!(retried.destination().id, "b");
//! let backup = retried.failover(Outcome::Failed(Failure::Connect))?;
//! assert_eq!(backup.destination().id, "spare");
//! backup.responded(200);
//! second.responded(200);
//!
//! let performance = balancer.performance();
//! assert_eq!((performance.samples, performance.error_rate), (4, Some(0.5)));
//! # Ok::<(), plimsoll::LoadBalancingError>(())
//! ```
//!
//! # Keeping a key at its destination
//!
//! ```
//! use plimsoll::{Algorithm, Destination, LoadBalancer, LoadBalancingConfig};
//!
//! let destinations = [Destination::new("a", "10.0.0.1:80"), Destination::new("b", "10.0.0.2:80")];
//! let balancer = LoadBalancer::new(&destinations, &LoadBalancingConfig::with_algorithm(Algorithm::Hash))?;
//! let first = balancer.pick_with_key(b"session-7")?.destination().id.clone();
//! assert_eq!(balancer.pick_with_key(b"session-7")?.destination().id, first);
//! # Ok::<(), plimsoll::LoadBalancingError>(())
//! ```
//!
//! # Errors
//!
//! [`LoadBalancingError`] and [`HealthMonitoringError`] state what was expected and what was found. Neither is
//! returned because a destination fails: that is part of the result.
//!
//! `cargo run -p plimsoll --example embed` runs a complete program.

pub use plimsoll_functions::{
    Alert, Algorithm, Assignment, Destination, DestinationHealth, DestinationOutcome, DestinationPerformance,
    DestinationShare, Failure, HealthMonitoringConfig, HealthMonitoringError, HealthMonitoringResult,
    HealthState, HealthStatus, LastCheck, LoadBalancer, LoadBalancingConfig, LoadBalancingError,
    LoadBalancingResult, LoadDistribution, MAX_CACHED_BYTES, MAX_DESTINATION_SETS, MAX_DESTINATIONS,
    MAX_MONITORED_DESTINATIONS, MAX_MONITORED_SETS, Outcome, PerformanceMetrics, Recommendation,
    ResponseTime, balance_load, monitor_health,
};
