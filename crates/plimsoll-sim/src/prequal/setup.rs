//! The machines, clients and messages of that evaluation, as far as the paper tells them.

use std::time::Duration;

use crate::antagonist::{NeighbourSpec, SharedHost};
use crate::distributions::WorkDistribution;
use crate::scenario::{OfferedLoad, Scenario};
use crate::sim_destination::{DestinationSpec, ServiceModel};

/// The neighbours, which the paper does not describe. They and the size of the allocation were chosen once, so
/// that a rotation fails more than a quarter of its messages at 1.74 times the allocation and meets the deadline
/// with 99.9 % of them at 0.93 times, but no longer at 1.03 or little above, while probing fails nothing; then
/// they were frozen.
///
/// Two machines of five are hot: their neighbours leave them half a second of free cores between bursts of
/// five seconds.
pub const NEIGHBOURS: NeighbourSpec =
    NeighbourSpec { level: 24.0, noise: 2.0, memory: 1.0, hot: 0.4, burst: 5.0, quiet: 0.5 };

/// Four cores kept for each destination on a machine of forty, of which it may borrow eight more. (A tenth of
/// the machine, as in the paper, which does not say how many cores that is.)
const SHARED: SharedHost = SharedHost { allocation: 4.0, burst: 12.0, machine: 40.0, neighbours: NEIGHBOURS };

/// Seconds of one core: normal, as wide as it is long, and cut off at 0, so that half of all messages take at
/// most 75 ms at an idle destination.
const WORK: WorkDistribution = WorkDistribution::Normal { mean: 0.0625, deviation: 0.0625 };

/// So many destinations, and as many balancers that know nothing of each other, at `load` times what is kept
/// for them. The paper has 100 of each.
pub fn setup(count: usize, load: f64) -> Scenario {
    let destination = DestinationSpec {
        group: "replica".to_owned(),
        service_model: ServiceModel::Shared(SHARED),
        weight: 1,
        priority: 0,
        faults: Vec::new(),
    };
    Scenario {
        balancers: count,
        offered_load: OfferedLoad::Utilization(load),
        deadline: Duration::from_secs(5),
        // The paper's query is a loop of hashes: it does not look whether anybody still waits.
        cancels: false,
        warm_up: Duration::from_secs(20),
        duration: Duration::from_secs(60),
        ..Scenario::new("prequal", vec![destination; count], WORK)
    }
}
