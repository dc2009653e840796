//! The specification's functions as a library: balance messages and monitor destinations.
//!
//! | function | purpose |
//! |---|---|
//! | [`balance_load`] | picks the destination of a message and reports the state of the pool |
//! | [`monitor_health`] | checks destinations and reports their health, alerts and recommendations |
//! | [`LoadBalancer`] | the same as `balance_load` as an object: faster, with a list that can change |
//!
//! The other two functions, `monitor_performance` and `adjust_load`, are not implemented yet. The crate opens no
//! connection for a message: transferring it is up to the caller, and so is reporting the outcome. Programs
//! use this crate as `plimsoll`; the admin API serves the same functions over HTTP.
//!
//! # Example
//!
//! ```
//! # extern crate plimsoll_functions as plimsoll;
//! use std::net::TcpListener;
//! use std::time::Duration;
//!
//! use plimsoll::{
//!     Algorithm, Destination, Failure, HealthMonitoringConfig, HealthState, LoadBalancingConfig, Outcome,
//!     balance_load, monitor_health,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two servers; the second one is down.
//! let server = TcpListener::bind("127.0.0.1:0")?;
//! let stopped = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! let destinations = [
//!     Destination::new("a", server.local_addr()?.to_string()),
//!     Destination::new("b", stopped.to_string()),
//! ];
//!
//! // Each call assigns one message; report its outcome through the assignment.
//! let config = LoadBalancingConfig::with_algorithm(Algorithm::LeastConnections);
//! let first = balance_load(&destinations, &config).await?;
//! assert_eq!(first.selected_destination.id, "a");
//! let second = balance_load(&destinations, &config).await?;
//! assert_eq!(second.selected_destination.id, "b", "`a` has a message in flight");
//!
//! // The second message fails, so it is sent to another destination.
//! let retried = second.assignment.failover(Outcome::Failed(Failure::Connect))?;
//! assert_eq!(retried.destination().id, "a");
//! retried.responded(200);
//! first.assignment.responded(200);
//!
//! // The first call checks both destinations and waits for the results.
//! let mut monitoring = HealthMonitoringConfig::default();
//! monitoring.timeout = Duration::from_secs(1);
//! let health = monitor_health(&destinations, &monitoring).await?;
//! assert_eq!(health.health_status.state, HealthState::Degraded);
//! assert_eq!((health.destinations[0].status, health.destinations[1].status), ("serving", "down"));
//! assert_eq!(health.alerts[0].subject, "b");
//!
//! // From then on no message is sent to `b` while its checks fail.
//! let third = balance_load(&destinations, &config).await?;
//! assert_eq!(third.selected_destination.id, "a");
//! assert_eq!(third.performance.samples, 3);
//! assert_eq!(third.performance.availability, Some(2.0 / 3.0));
//! # Ok(())
//! # }
//! ```
//!
//! # State
//!
//! - `balance_load` and `monitor_health` keep state between calls with the same ids and addresses, in any order.
//! - The process keeps [`MAX_DESTINATION_SETS`] sets for balancing and [`MAX_MONITORED_SETS`] for monitoring, and
//!   evicts the least recently used one.
//! - A value that was not observed yet is `None`, never a placeholder.
//!
//! # JSON
//!
//! All types of calls and results implement serde's traits, with the camelCase field names of the specification.
//! Times are milliseconds since 1970 (UTC), durations milliseconds, shares 0 to 1.

mod balancer;
mod config;
mod destination;
mod destination_set_cache;
mod entropy;
mod error;
mod health_statuses;
mod instance_cache;
mod monitor;
mod outcome_window;
mod pool_report;
pub mod pool_views;
mod result;

pub use plimsoll_core::balance::Algorithm;
pub use plimsoll_core::{Failure, Outcome};

pub use balancer::{Assignment, LoadBalancer, LoadBalancingResult};
pub use config::LoadBalancingConfig;
pub use destination::{Destination, MAX_DESTINATIONS};
pub use error::LoadBalancingError;
pub use instance_cache::{
    DestinationOutcome, MAX_CACHED_BYTES, MAX_DESTINATION_SETS, balance_load, record_outcome, record_outcomes,
};
pub use monitor::{
    Alert, DestinationHealth, HealthMonitoringConfig, HealthMonitoringError, HealthMonitoringResult,
    LastCheck, MAX_MONITORED_DESTINATIONS, MAX_MONITORED_SETS, monitor_health,
};
pub use result::{
    DestinationPerformance, DestinationShare, HealthState, HealthStatus, LoadDistribution,
    PerformanceMetrics, Recommendation, ResponseTime,
};
