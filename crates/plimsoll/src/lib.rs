//! A load balancer for messages, as a library: the seed's four functions, and an object that remembers.
//!
//! [`LoadBalancer`] chooses who takes the next message of a program of your own and learns from the outcomes
//! you report; [`balance_load`] is the same as one function. Neither opens a connection: moving the message is
//! up to you (the `plimsoll` binary is a proxy that does it). [`monitor_health`] checks destinations as the proxy
//! does. `monitor_performance` and `adjust_load` are not there yet.
//!
//! ```
//! use plimsoll::{Algorithm, Destination, Failure, LoadBalancer, LoadBalancingConfig, Outcome};
//!
//! let balancer = LoadBalancer::new(
//!     &[
//!         Destination::new("a", "10.0.0.1:80"),
//!         Destination::new("b", "10.0.0.2:80"),
//!         Destination::new("spare", "10.0.0.3:80").in_tier(1),
//!     ],
//!     &LoadBalancingConfig::with(Algorithm::LeastConnections),
//! )?;
//!
//! let first = balancer.assign()?; // holds its place at `a` …
//! let second = balancer.assign()?; // … so `b` has less to do
//! assert_eq!((&*first.destination().id, &*second.destination().id), ("a", "b"));
//!
//! let elsewhere = first.failover(Outcome::Failed(Failure::Connect))?;
//! assert_eq!(elsewhere.destination().id, "b");
//! let backup = elsewhere.failover(Outcome::Failed(Failure::Connect))?;
//! assert_eq!(backup.destination().id, "spare");
//! backup.answered(200);
//! second.answered(200);
//!
//! let performance = balancer.performance();
//! assert_eq!((performance.samples, performance.error_rate), (4, Some(0.5)));
//! # Ok::<(), plimsoll::LoadBalancingError>(())
//! ```

pub use plimsoll_functions::*;
