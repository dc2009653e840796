//! What chance starts from.

use std::hash::{BuildHasher, RandomState};

/// A seed no other balancer has.
pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(())
}
