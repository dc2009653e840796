//! What a balancer is tried against without a socket: virtual time, destinations with service times, and the
//! contract every policy must keep.
//!
//! ```
//! use std::time::Duration;
//! use plimsoll_core::balance::Algorithm;
//! use plimsoll_sim::{ServiceTime, OpenLoopServer, OpenLoop};
//!
//! let fast = OpenLoopServer::new(ServiceTime::Fixed(Duration::from_millis(1)));
//! let slow = OpenLoopServer::new(ServiceTime::Fixed(Duration::from_millis(9)));
//! let mut open_loop = OpenLoop::new(7, Algorithm::LeastConnections.policy(1), &[fast, slow]);
//! let taken = open_loop.run_poisson(10_000, 1_000.0).unwrap();
//! assert!(taken[0] > 2 * taken[1], "the fast one has fewer in flight, so it gets more: {taken:?}");
//! ```

pub mod access_log;
pub mod antagonist;
pub mod arrivals;
pub mod balancer;
pub mod candidates;
pub mod chart;
pub mod contract;
pub mod distributions;
pub mod event_queue;
pub mod fault;
pub mod open_loop;
pub mod prequal;
pub mod recommend;
pub mod report;
pub mod run;
pub mod run_stats;
pub mod scenario;
pub mod service_queue;
pub mod sim_destination;

pub use candidates::CandidatePolicy;
pub use contract::{Guarantees, check_contract};
pub use open_loop::{OpenLoop, OpenLoopServer, ServiceTime};
pub use run::simulate;
pub use run_stats::RunStats;
pub use scenario::Scenario;
