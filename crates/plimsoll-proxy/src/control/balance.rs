//! Who takes a message that somebody else carries: a choice made for the API.

use plimsoll_core::hash::hash;
use plimsoll_core::{Name, NoDestination, PickRequest, Rng, balance_load};

use crate::control::Handle;

impl Handle {
    /// Chooses a destination of `pool` as a worker would, and tells its name; `None` where there is no such pool.
    /// `key` is what pools that hash choose by. The choice counts as a decision and goes on with the API's own
    /// rotation (pools keep one for each worker and one for this); it holds no place, and teaches nothing, because
    /// nobody tells what became of the message.
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
