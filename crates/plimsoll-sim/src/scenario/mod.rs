//! What a simulation is about: destinations, balancers, work, and what is done when something fails.

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

/// Everything a run depends on but its candidate and its seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Who competes, if nobody says otherwise.
    pub candidates: Vec<CandidatePolicy>,
    /// The destinations, in configured order.
    pub destinations: Vec<DestinationSpec>,
    /// Balancers that know nothing of each other.
    pub balancers: usize,
    /// Workers of each; they share counters.
    pub workers: usize,
    /// How much work a message is.
    pub work: WorkDistribution,
    /// In which rhythm they come.
    pub arrivals: Arrivals,
    /// How many of them.
    pub offered_load: OfferedLoad,
    /// Who has no answer by then gives up.
    pub deadline: Duration,
    /// A destination stops working on what nobody waits for any more; else it works on, as a busy loop does.
    pub cancels: bool,
    /// From a balancer to a destination and back.
    pub round_trip: Duration,
    /// What chance adds to that, on average.
    pub jitter: Duration,
    /// Nothing is measured before.
    pub warm_up: Duration,
    /// So long is measured.
    pub duration: Duration,
    /// What traffic may show.
    pub outlier: OutlierSpec,
    /// What checks ask.
    pub health: Option<HealthSpec>,
    /// Who comes back takes a growing share for so long.
    pub slow_start: Option<Duration>,
    /// Ejections may not leave fewer than this share of the destinations.
    pub panic_threshold: f64,
    /// Who passes its checks again serves one message first.
    pub recovery: bool,
    /// What is tried again.
    pub retry: RetrySpec,
    /// What is sent to a second destination as well.
    pub hedge: Option<HedgeSpec>,
}

/// How many messages come.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum OfferedLoad {
    /// As a part of what all destinations can do, faults and borrowed cores left aside.
    Utilization(f64),
    /// A second.
    Rate(f64),
}

impl Scenario {
    /// Messages a second.
    pub fn rate(&self) -> f64 {
        match self.offered_load {
            OfferedLoad::Rate(rate) => rate,
            OfferedLoad::Utilization(load) => {
                let cores: f64 = self.destinations.iter().map(|site| site.service_model.capacity()).sum();
                load * cores / self.work.mean()
            }
        }
    }

    /// A scenario of these destinations, with everything else as the product's defaults have it.
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
            outlier: NO_OUTLIER_DETECTION,
            health: None,
            slow_start: None,
            panic_threshold: 0.5,
            recovery: false,
            retry: NO_RETRIES,
            hedge: None,
        }
    }
}

/// No outlier detection.
pub const NO_OUTLIER_DETECTION: OutlierSpec = OutlierSpec {
    consecutive_failures: 0,
    base_ejection: Duration::from_secs(30),
    max_ejection: Duration::from_secs(300),
    max_ejected: 0.5,
    interval: None,
    unresponsive_after: None,
    learns: false,
};

/// Nothing is tried again.
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
