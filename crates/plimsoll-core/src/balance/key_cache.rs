//! Cache of picks by key, for tables that are expensive to look up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::hash::mix;
use crate::stats::bump;

/// Number of keys that a worker caches per table: 32 KiB, which fit the CPU cache.
const KEYS: usize = 2048;
/// Number of entries that a key may be in: those of one cache line. With one entry each, five of a hundred popular keys
/// would evict each other.
const WAYS: usize = 4;

/// Hits and misses of the key cache, which live as long as the policy.
#[derive(Debug)]
pub struct KeyCacheStats(Box<[Counts]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl KeyCacheStats {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Counts::default()).collect())
    }

    /// Returns hits and misses of one worker.
    pub fn of(&self, worker: usize) -> (u64, u64) {
        let counts = &self.0[worker % self.0.len()];
        (counts.hits.load(Relaxed), counts.misses.load(Relaxed))
    }

    /// Returns hits and misses of all workers.
    pub fn sums(&self) -> (u64, u64) {
        let sum = |of: fn(&Counts) -> &AtomicU64| self.0.iter().map(|counts| of(counts).load(Relaxed)).sum();
        (sum(|counts| &counts.hits), sum(|counts| &counts.misses))
    }
}

/// Cached picks of one table. Each change of destinations or weights makes a new table with a new cache, so entries are
/// never stale and never cleared.
#[derive(Debug)]
pub(super) struct KeyCache {
    workers: Box<[OnceLock<Box<[Line]>>]>,
    tally: Arc<KeyCacheStats>,
}

/// Entries of keys with equal hash bits.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Entry; WAYS]);

/// A key, and its slot with a check of the key. Threads that share a worker may each write one of the two; the check
/// then fails for both.
#[derive(Debug, Default)]
struct Entry {
    key: AtomicU64,
    owner: AtomicU64,
}

impl KeyCache {
    pub(super) fn new(tally: Arc<KeyCacheStats>) -> Self {
        Self { workers: tally.0.iter().map(|_| OnceLock::new()).collect(), tally }
    }

    /// Returns the cached pick of `key`, or the result of `decide`. The first call of a worker allocates its cache.
    pub(super) fn of(&self, worker: usize, key: u64, decide: impl FnOnce() -> usize) -> usize {
        let worker = if worker < self.workers.len() { worker } else { worker % self.workers.len() };
        let lines = self.workers[worker].get_or_init(|| (0..KEYS / WAYS).map(|_| Line::default()).collect());
        let counts = &self.tally.0[worker];
        let mixed = mix(key);
        let Line(entries) = &lines[mixed as usize % (KEYS / WAYS)];
        // The lowest bit is set, so that an empty entry never matches.
        let check = mixed >> 32 | 1;
        for entry in entries {
            let owner = entry.owner.load(Relaxed);
            if owner >> 32 == check && entry.key.load(Relaxed) == key {
                bump(&counts.hits, 1);
                return owner as u32 as usize;
            }
        }
        let slot = decide();
        // Any entry may be evicted: cyclic eviction costs nothing, and no order of keys defeats it for long.
        let entry = &entries[counts.misses.load(Relaxed) as usize % WAYS];
        bump(&counts.misses, 1);
        entry.key.store(key, Relaxed);
        entry.owner.store(check << 32 | slot as u64, Relaxed);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn cached_picks_equal_computed_ones() {
        let tally = Arc::new(KeyCacheStats::new(2));
        let decisions = KeyCache::new(tally.clone());
        let owner = |key: u64| (mix(key ^ 7) % 1_000) as usize;
        let mut rng = Rng::new(1);
        // Ten times as many keys as entries, including 0 and its neighbours.
        for n in 0..200_000 {
            let key = if n % 2 == 0 { rng.below(50) } else { mix(rng.below(20_000)) };
            assert_eq!(decisions.of(n % 3, key, || owner(key)), owner(key));
        }
        let (hits, misses) = tally.sums();
        assert_eq!(hits + misses, 200_000);
        assert!(hits > 100_000, "popular keys are found: {hits}");
    }

    #[test]
    fn threads_that_share_a_worker_never_find_the_slot_of_another_key() {
        let decisions = KeyCache::new(Arc::new(KeyCacheStats::new(1)));
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let decisions = &decisions;
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    for _ in 0..50_000 {
                        let key = rng.below(10_000);
                        assert_eq!(decisions.of(0, key, || key as usize), key as usize);
                    }
                });
            }
        });
    }
}
