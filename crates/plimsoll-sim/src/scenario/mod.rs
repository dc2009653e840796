//! Scenario of a simulation: destinations, balancers, workload, and handling of failures.

mod built_in;
mod parse;
mod schema;

use std::time::Duration;

use plimsoll_core::health::{HealthSpec, OutlierSpec};
use plimsoll_core::retry::{HedgeSpec, RetrySpec, RetryWhen};

use crate::arrivals::Arrivals;
use crate::candidates::CandidatePolicy;
use crate::distributions::WorkDistribution;
use crate::sim_destination::DestinationSpec;

pub use self::built_in::{NAMES, built_in};
pub use self::parse::read;

/// Everything a run depends on except its candidate and its random seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Name of the scenario.
    pub name: String,
    /// Sentence on what it shows.
    pub about: String,
    /// Policies to compare by default.
    pub candidates: Vec<CandidatePolicy>,
    /// Destinations in configured order.
    pub destinations: Vec<DestinationSpec>,
    /// Number of independent balancers.
    pub balancers: usize,
    /// Workers of each balancer; they share counters.
    pub workers: usize,
    /// Work of a message.
    pub work: WorkDistribution,
    /// Arrival process of the messages.
    pub arrivals: Arrivals,
    /// Rate of the messages.
    pub offered_load: OfferedLoad,
    /// Time after which the client gives up a message.
    pub deadline: Duration,
    /// Whether a destination stops working on a message that was given up; otherwise it continues, as a busy
    /// loop does.
    pub cancels: bool,
    /// Network time from a balancer to a destination and back.
    pub round_trip: Duration,
    /// Mean jitter of a round trip.
    pub jitter: Duration,
    /// Time before anything is measured.
    pub warm_up: Duration,
    /// Time that is measured.
    pub duration: Duration,
    /// Outlier detection of the pools.
    pub outlier: OutlierSpec,
    /// Health checks of the pools.
    pub health: Option<HealthSpec>,
    /// Time in which a recovered destination's share grows.
    pub slow_start: Option<Duration>,
    /// Minimum share of destinations that ejections leave in service.
    pub panic_threshold: f64,
    /// Whether a recovered destination serves a trial message first.
    pub recovery: bool,
    /// Retries of failed attempts.
    pub retry: RetrySpec,
    /// Hedging of slow messages.
    pub hedge: Option<HedgeSpec>,
}

/// Rate of arriving messages.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OfferedLoad {
    /// Share of the guaranteed capacity of all destinations, without faults and burst cores.
    Utilization(f64),
    /// Messages per second.
    Rate(f64),
}

impl Scenario {
    /// Returns the messages per second.
    pub fn rate(&self) -> f64 {
        match self.offered_load {
            OfferedLoad::Rate(rate) => rate,
            OfferedLoad::Utilization(load) => {
                let cores: f64 = self.destinations.iter().map(|site| site.service_model.capacity()).sum();
                load * cores / self.work.mean()
            }
        }
    }

    /// Creates a scenario of these destinations without retries, hedging, health checks and outlier
    /// detection.
    pub fn new(name: &str, destinations: Vec<DestinationSpec>, work: WorkDistribution) -> Self {
        Self {
            name: name.to_owned(),
            about: String::new(),
            candidates: Vec::new(),
            destinations,
            balancers: 1,
            workers: 1,
            work,
            arrivals: Arrivals::Poisson,
            offered_load: OfferedLoad::Utilization(0.7),
            deadline: Duration::from_secs(5),
            cancels: true,
            round_trip: Duration::from_micros(200),
            jitter: Duration::from_micros(50),
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(60),
            outlier: OutlierSpec::OFF,
            health: None,
            slow_start: None,
            panic_threshold: 0.5,
            recovery: false,
            retry: NO_RETRIES,
            hedge: None,
        }
    }
}

/// Retry rules that allow no retry.
pub const NO_RETRIES: RetrySpec = RetrySpec {
    attempts: 1,
    when: RetryWhen {
        connect_failure: false,
        reset: false,
        empty_response: false,
        timeout: false,
        statuses: Vec::new(),
        grpc_statuses: Vec::new(),
    },
    budget: 0.2,
    failover: true,
    error_recovery: true,
};
