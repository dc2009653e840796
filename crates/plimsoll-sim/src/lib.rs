//! Simulation of Plimsoll in virtual time, without sockets and without waiting.
//!
//! Destinations, messages and time are simulated. Everything between them is the code that serves traffic:
//! [`balance_load`], [`Pool`], health checks, outlier detection, retries and their budget, hedging. A minute of
//! 2,400 messages a second takes about a second, and the same random seed gives the same result to the last
//! digit. `plimsoll simulate` and `plimsoll recommend` are command lines over this crate.
//!
//! # Running a scenario
//! [`simulate`] runs one [`Scenario`] with one [`CandidatePolicy`] and returns [`RunStats`]. A scenario is built
//! in, parsed from YAML or JSON, or made with [`Scenario::new`]:
//!
//! ```
//! use plimsoll_sim::{CandidatePolicy, scenario, simulate};
//!
//! let scenario = scenario::read(
//!     "
//! name: two-speeds
//! destinations:
//!   - {group: fast, count: 2, slots: 4}
//!   - {group: slow, count: 2, slots: 4, faults: [{kind: slow, factor: 3}]}
//! work: {exponential: 10ms}
//! load: 0.6
//! warm_up: 1s
//! duration: 5s
//! ",
//! )?;
//!
//! let run = |name: &str| Ok::<_, String>(simulate(&scenario, &name.parse::<CandidatePolicy>()?, 7));
//! let (rotation, least) = (run("round_robin")?, run("least_connections")?);
//!
//! assert!(least.quantile(0.99) < rotation.quantile(0.99), "p99 in seconds");
//! assert_eq!(least.error_share(), 0.0);
//! assert!(least.attempts[0] > least.attempts[3], "the fast destinations receive more");
//! # Ok::<(), String>(())
//! ```
//!
//! # Checking a policy of your own
//! [`check_contract`] checks the [`Guarantees`] of every policy, built in or custom, in an [`OpenLoop`] of
//! [`OpenLoopServer`]s:
//!
//! ```
//! use plimsoll_core::balance::Algorithm;
//! use plimsoll_sim::{Guarantees, check_contract};
//!
//! let guarantees = Guarantees { follows_weights: true, rotates: true, tolerance: 0.0 };
//! check_contract(&|workers| Algorithm::WeightedRoundRobin.policy(workers), &guarantees);
//! ```
//!
//! # Modules
//! | module | contents |
//! |---|---|
//! | [`scenario`] | scenarios: parser, built-in ones, defaults |
//! | [`candidates`] | policies to compare: the product's, and those of papers and other proxies |
//! | [`run`], [`event_queue`], [`balancer`] | event loop of a run, and a balancer in it |
//! | [`sim_destination`], [`service_queue`], [`fault`], [`antagonist`] | destinations, their faults and the neighbours on their hosts |
//! | [`arrivals`], [`distributions`], [`access_log`] | workload: arrival processes, work, recorded logs |
//! | [`run_stats`], [`report`], [`chart`] | results: statistics, tables and JSON, SVG |
//! | [`recommend`] | recommendation of an algorithm from recorded traffic |
//! | [`prequal`] | evaluation of the Prequal paper, repeated |
//! | [`contract`], [`open_loop`] | guarantees of every policy, and the simulation that checks them |
//!
//! [`balance_load`]: plimsoll_core::balance_load
//! [`Pool`]: plimsoll_core::pool::Pool

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
