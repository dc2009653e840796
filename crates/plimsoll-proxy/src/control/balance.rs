//! Balancing decisions for the API.

use plimsoll_core::hash::hash;
use plimsoll_core::{Name, NoDestination, PickRequest, Rng, balance_load};

use crate::control::Handle;

impl Handle {
    /// Chooses a destination of `pool` as a worker would, and returns its name; `None` if the pool is unknown.
    ///
    /// `key` is the key for pools that hash. The decision is counted and advances the API's own rotation (a pool has one
    /// rotation per worker and one for the API). It holds no assignment and teaches nothing, because the outcome of the
    /// request is not reported.
    pub fn balance_load(&self, pool: &str, key: Option<&[u8]>) -> Option<Result<Name, NoDestination>> {
        let table = self.state().pools.get(pool)?.table.clone();
        let (snapshot, now) = (table.snapshots.latest(), self.clock().now());
        let worker = self.0.workers;
        let want = PickRequest { worker, key: key.map(hash), ..PickRequest::default() };
        let chosen = balance_load(&snapshot, &want, now, &mut Rng::new(now.as_nanos()));
        table.counters.of(worker).decided(chosen.as_ref().err().copied(), None);
        Some(chosen.map(|assignment| snapshot.members[assignment.member()].destination.name.clone()))
    }
}
