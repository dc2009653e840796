//! The seed's functions, for programs and for the API: the crate `plimsoll` and the admin plane both offer them.

mod balancer;
mod config;
mod destination;
mod destination_set_cache;
mod entropy;
mod error;
mod instance_cache;
pub mod monitor;
mod outcome_window;
mod pool_report;
mod result;

pub use plimsoll_core::balance::Algorithm;
pub use plimsoll_core::{Failure, Outcome};

pub use balancer::{Assignment, LoadBalancer, LoadBalancingResult};
pub use config::LoadBalancingConfig;
pub use destination::{Destination, MOST_DESTINATIONS};
pub use error::LoadBalancingError;
pub use instance_cache::{MOST_SETS, balance_load};
pub use monitor::{
    Alert, DestinationHealth, HealthMonitoringConfig, HealthMonitoringError, HealthMonitoringResult,
    LastCheck, monitor_health,
};
pub use result::{
    DestinationPerformance, DestinationShare, HealthState, HealthStatus, LoadDistribution,
    PerformanceMetrics, Recommendation, ResponseTime,
};
