//! The decisions of the Plimsoll load balancer: picking, health, limits, retries, routes.
//!
//! This crate has no sockets, no threads and no clock. Time, randomness and the results of I/O are arguments and
//! decisions are return values, so the code that serves traffic also runs in tests and in a simulator, where a day of
//! traffic takes seconds. To embed a whole proxy, use `plimsoll-proxy`; use this crate to balance something else:
//! queries, jobs, messages of a broker.
//!
//! # Two loops
//! - The **fast loop** runs once per message. [`balance_load`] picks a destination from a [`Snapshot`] and returns an
//!   [`Assignment`], the message's hold on that destination. [`Assignment::finish`] records the [`Outcome`]. It takes
//!   no lock: it reads the snapshot and adds to atomic counters ([`stats`]).
//! - The **slow loop** runs once per pool. A [`Pool`](pool::Pool) is a state machine: inputs are the members, results of
//!   health checks, failure signals and requests of the operator; actions are health checks to make, events to log and
//!   snapshots to publish. It decides which destinations serve.
//!
//! Snapshots go from the slow loop to the fast loop, counters and signals go back. Nothing else is shared.
//!
//! # Driving a pool
//! The caller owns the clock, the random numbers and the I/O:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use plimsoll_core::balance::Algorithm;
//! use plimsoll_core::pool::{Action, Input, Pool, PoolSpec};
//! use plimsoll_core::{
//!     Address, AdminState, Destination, NoDestination, Outcome, PickRequest, Rng, Snapshot, Tick, balance_load,
//! };
//!
//! /// Carries out what the pool asks for. A proxy would also make the health checks (`Action::Probe`) and answer
//! /// each with `Input::Probed`.
//! fn act(pool: &mut Pool, latest: &mut Arc<Snapshot>) {
//!     while let Some(action) = pool.poll_action() {
//!         match action {
//!             Action::Publish(snapshot) => *latest = snapshot,
//!             Action::Emit(event) => println!("{event}"),
//!             Action::Probe(_) => unreachable!("this pool has no health checks"),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), NoDestination> {
//! let mut now = Tick::ZERO;
//! let at = |port| Address::Socket(([127, 0, 0, 1], port).into());
//! let members = vec![Destination::new("a", at(9001)), Destination::new("b", at(9002))];
//! let spec = PoolSpec { slow_start: Some(Duration::from_secs(10)), ..PoolSpec::new(Algorithm::RoundRobin) };
//! let mut pool = Pool::new("api".into(), spec, members, 1, Rng::new(1), now);
//! let mut latest = pool.snapshot().clone();
//! act(&mut pool, &mut latest);
//!
//! // The fast loop: pick from the snapshot, send, report the outcome.
//! let mut rng = Rng::new(2);
//! let assignment = balance_load(&latest, &PickRequest::default(), now, &mut rng)?;
//! let destination = &latest.members[assignment.member()].destination;
//! assert_eq!((&*destination.name, destination.address.to_string().as_str()), ("a", "127.0.0.1:9001"));
//! let first_byte = Duration::from_millis(7);
//! now += first_byte;
//! if let Some(signal) = assignment.finish(now, Outcome::Answered { status: 200, first_byte }) {
//!     pool.handle(now, Input::FailureSignal(signal)); // repeated failures eject a destination
//! }
//!
//! // The slow loop: the operator drains `b`, and the next snapshot no longer picks it.
//! pool.handle(now, Input::Admin { name: "b".into(), state: AdminState::Drain });
//! act(&mut pool, &mut latest); // prints: pool api: destination b is draining (was serving): requested by the operator
//! for _ in 0..3 {
//!     assert_eq!(balance_load(&latest, &PickRequest::default(), now, &mut rng)?.member(), 0);
//! }
//!
//! // A new member starts with a growing share. The pool names the time at which it has to run again.
//! let names = [("a", 9001), ("b", 9002), ("c", 9003)];
//! let members = names.map(|(name, port)| Destination::new(name, at(port))).to_vec();
//! pool.handle(now, Input::Members(members));
//! act(&mut pool, &mut latest);
//! assert_eq!(latest.members[2].status.as_str(), "warming");
//! while let Some(due) = pool.poll_timeout() {
//!     now = due;
//!     pool.handle_timeout(now);
//!     act(&mut pool, &mut latest);
//! }
//! assert_eq!(latest.members[2].status.as_str(), "serving");
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//! | module | content |
//! |---|---|
//! | [`pool`] | the slow loop of one pool |
//! | [`destination`] | a destination and its [`Status`]: the one rule that decides whether it may serve |
//! | [`health`] | health checks, outlier detection, reported overload |
//! | [`snapshot`] | what the fast loop reads, and [`balance_load`] |
//! | [`balance`] | the algorithms, and the traits for custom ones |
//! | [`stats`], [`measure`] | counters and measurements of a destination |
//! | [`limit`], [`limiter`] | limits of requests, connections and retries; the queue's order |
//! | [`retry`] | retries, their budget, hedging |
//! | [`route`], [`subset`] | matching requests to routes, and routes to parts of a pool |
//! | [`formula`] | expressions of the `custom` algorithm |
//! | [`event`], [`alert`], [`quality`], [`explain`] | what happened, what needs attention, how accurate it was, and why |

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
pub use stats::{Assignment, DestinationStats, FailureSignal, UnsettledFailures};
pub use time::Tick;
