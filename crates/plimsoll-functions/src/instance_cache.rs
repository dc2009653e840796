//! Which balancer remembers for a call that brings its destinations along.

use std::sync::{Mutex, PoisonError};

use crate::balancer::{LoadBalancer, LoadBalancingResult};
use crate::config::LoadBalancingConfig;
use crate::destination::Destination;
use crate::destination_set_cache::Sets;
use crate::error::LoadBalancingError;

/// Sets of destinations that are remembered; the one not used for longest goes. A program has a handful;
/// one that makes up a new set for every call must not grow without end.
pub const MOST_SETS: usize = 256;

/// The balancers of the sets that are remembered.
#[derive(Debug)]
struct Memory(Sets<LoadBalancer>);

// The one global mutable state of the library, and on purpose: the seed's `balanceLoad(destinations, config)` is
// a function without an object, and must still rotate and learn from call to call. Programs that mind make a
// `LoadBalancer`, which knows nothing of this.
static MEMORY: Mutex<Option<Memory>> = Mutex::new(None);

/// Balances one message over `destinations`: the first of the seed's four functions.
///
/// Calls with the same destinations (ids and addresses, in any order) remember: rotations go on, assignments held
/// count as load, reported outcomes are learned, and other weights, priorities or another algorithm change
/// only that. The process remembers [`MOST_SETS`] sets of destinations, and forgets the one not used for
/// longest; a [`LoadBalancer`] of one's own never forgets, costs less, and can change its list.
///
/// The future is ready at once: nothing is waited for.
///
/// ```
/// # extern crate plimsoll_functions as plimsoll;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), plimsoll::LoadBalancingError> {
/// use plimsoll::{Algorithm, Destination, LoadBalancingConfig, balance_load};
///
/// let destinations =
///     [Destination::new("big", "10.0.0.1:80").weighing(2), Destination::new("small", "10.0.0.2:80")];
/// let config = LoadBalancingConfig::with(Algorithm::WeightedRoundRobin);
/// let mut taken = Vec::new();
/// for _ in 0..6 {
///     let result = balance_load(&destinations, &config).await?;
///     taken.push(result.selected_destination.id);
///     result.assignment.answered(200);
/// }
/// assert_eq!(taken, ["big", "small", "big", "big", "small", "big"]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`LoadBalancingError`] names what is wrong with the destinations or the configuration, or says that none
/// of them takes messages.
pub async fn balance_load(
    destinations: &[Destination],
    config: &LoadBalancingConfig,
) -> Result<LoadBalancingResult, LoadBalancingError> {
    remembered(destinations, config)?.balance_load()
}

/// The balancer that remembers for these destinations, brought up to date.
fn remembered(
    destinations: &[Destination],
    config: &LoadBalancingConfig,
) -> Result<LoadBalancer, LoadBalancingError> {
    let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    memory.get_or_insert_with(Memory::new).balancer(destinations, config)
}

impl Memory {
    fn new() -> Self {
        Self(Sets::new(MOST_SETS))
    }

    fn balancer(
        &mut self,
        destinations: &[Destination],
        config: &LoadBalancingConfig,
    ) -> Result<LoadBalancer, LoadBalancingError> {
        if let Some(known) = self.0.find(destinations) {
            known.update(destinations, config)?;
            return Ok(known.clone());
        }
        let balancer = LoadBalancer::new(destinations, config)?;
        self.0.add(destinations, balancer.clone());
        Ok(balancer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;

    fn set(port: usize) -> [Destination; 2] {
        let address = |ip| format!("127.0.0.{ip}:{port}");
        [Destination::new("a", address(1)), Destination::new("b", address(2))]
    }

    fn next(memory: &mut Memory, destinations: &[Destination], config: &LoadBalancingConfig) -> String {
        let balancer = memory.balancer(destinations, config).expect("good");
        balancer.assign().expect("all serve").destination().id.clone()
    }

    #[test]
    fn the_same_destinations_in_any_order_are_the_same() {
        let (mut memory, config) = (Memory::new(), LoadBalancingConfig::default());
        let ([a, b], other) = (set(1), set(2));
        assert_eq!(next(&mut memory, &[a.clone(), b.clone()], &config), "a");
        assert_eq!(next(&mut memory, &other, &config), "a", "same ids at other addresses are others");
        assert_eq!(next(&mut memory, &[b.clone(), a.clone()], &config), "b");
        let heavy = [a.weighing(2), b];
        assert_eq!(next(&mut memory, &heavy, &config), "a", "another weight changes only the weight");
        let weighted = LoadBalancingConfig::with(Algorithm::WeightedRoundRobin);
        assert_eq!(next(&mut memory, &heavy, &weighted), "a");
        assert_eq!(next(&mut memory, &heavy, &config), "b", "another algorithm does not disturb the first");
        assert_eq!(memory.0.len(), 2);
    }

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let (mut memory, config) = (Memory::new(), LoadBalancingConfig::default());
        for port in 1..=MOST_SETS {
            assert_eq!(next(&mut memory, &set(port), &config), "a");
        }
        assert_eq!(next(&mut memory, &set(1), &config), "b", "still there, and young again");
        assert_eq!(next(&mut memory, &set(1_000), &config), "a", "one more");
        assert_eq!(memory.0.len(), MOST_SETS);
        assert_eq!(next(&mut memory, &set(1), &config), "a");
        assert_eq!(next(&mut memory, &set(2), &config), "a", "forgotten, so it begins anew");
    }

    #[test]
    fn a_bad_list_is_not_remembered() {
        let mut memory = Memory::new();
        let twice = [Destination::new("a", "127.0.0.1:1"), Destination::new("a", "127.0.0.1:2")];
        assert!(memory.balancer(&twice, &LoadBalancingConfig::default()).is_err());
        assert!(memory.0.len() == 0);
    }
}
