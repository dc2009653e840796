//! Random seeds from the operating system.

use std::hash::{BuildHasher, RandomState};

/// Returns a random seed.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().hash_one(())
}
