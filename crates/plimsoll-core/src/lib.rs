//! The decisions of a load balancer, without a socket, a clock or a die in sight.
//!
//! Time, randomness and results are arguments, so a simulator runs a day of traffic in a second through
//! the very code that serves. Two loops meet here and nowhere else: the fast loop (one message) calls
//! [`balance_load`] on a [`Snapshot`] and finishes its [`Assignment`]; the slow loop owns a [`pool::Pool`] and
//! publishes snapshots.

pub mod alert;
pub mod balance;
pub mod destination;
pub mod event;
pub mod explain;
pub mod formula;
pub mod hash;
pub mod health;
pub mod limit;
pub mod limiter;
pub mod measure;
pub mod outcome;
pub mod pool;
pub mod quality;
pub mod retry;
pub mod rng;
pub mod route;
pub mod slow_start;
pub mod snapshot;
pub mod stats;
pub mod subset;
mod sync;
pub mod time;

pub use balance::{AttemptedSet, PickRequest};
pub use destination::{Address, AdminState, Destination, DestinationId, Name, Status, Weight};
pub use limit::{DestinationLimits, PoolLimits};
pub use limiter::PoolLimiter;
pub use outcome::{Failure, Outcome};
pub use rng::Rng;
pub use snapshot::{NoDestination, Snapshot, balance_load};
pub use stats::{Assignment, DestinationStats, FailureSignal};
pub use time::Tick;
