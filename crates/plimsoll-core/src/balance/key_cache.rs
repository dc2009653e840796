//! What was decided of a key before: whose it is, where to decide it again costs more than to look it up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::hash::mix;
use crate::stats::bump;

/// Keys a worker remembers of one table: 32 KiB, which stay in its cache beside everything else.
const KEYS: usize = 2048;
/// Places a key may be in: those of one line of memory. With one place each, of a hundred popular keys five would
/// turn each other out for ever.
const WAYS: usize = 4;

/// How often workers found a key decided, and how often not. Lives as long as its policy.
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

    /// Found and not found, by one worker.
    pub fn of(&self, worker: usize) -> (u64, u64) {
        let counts = &self.0[worker % self.0.len()];
        (counts.hits.load(Relaxed), counts.misses.load(Relaxed))
    }

    /// Found and not found, over all workers.
    pub fn sums(&self) -> (u64, u64) {
        let sum = |of: fn(&Counts) -> &AtomicU64| self.0.iter().map(|counts| of(counts).load(Relaxed)).sum();
        (sum(|counts| &counts.hits), sum(|counts| &counts.misses))
    }
}

/// The decisions of one table. It belongs to that table, and a change of who serves or of weights makes another one:
/// what it holds is never stale, and nothing is ever cleared.
#[derive(Debug)]
pub(super) struct KeyCache {
    desks: Box<[OnceLock<Box<[Line]>>]>,
    tally: Arc<KeyCacheStats>,
}

/// Keys that may be in each other's way.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Entry; WAYS]);

/// A key, and its owner beside a check of the key: threads that share a worker may each write one of the two, and
/// then neither finds anything.
#[derive(Debug, Default)]
struct Entry {
    key: AtomicU64,
    owner: AtomicU64,
}

impl KeyCache {
    pub(super) fn new(tally: Arc<KeyCacheStats>) -> Self {
        Self { desks: tally.0.iter().map(|_| OnceLock::new()).collect(), tally }
    }

    /// Whose `key` is: as `decide` said when it was asked last, or says now. A worker's first question makes room.
    pub(super) fn of(&self, worker: usize, key: u64, decide: impl FnOnce() -> usize) -> usize {
        let worker = if worker < self.desks.len() { worker } else { worker % self.desks.len() };
        let lines = self.desks[worker].get_or_init(|| (0..KEYS / WAYS).map(|_| Line::default()).collect());
        let counts = &self.tally.0[worker];
        let mixed = mix(key);
        let Line(entries) = &lines[mixed as usize % (KEYS / WAYS)];
        // Never 0, so that nothing is found where nothing was written.
        let check = mixed >> 32 | 1;
        for entry in entries {
            let owner = entry.owner.load(Relaxed);
            if owner >> 32 == check && entry.key.load(Relaxed) == key {
                bump(&counts.hits, 1);
                return owner as u32 as usize;
            }
        }
        let slot = decide();
        // Any of them makes room: it costs nothing to choose, and no order of keys can make it choose badly for long.
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
    fn it_says_what_was_decided_and_nothing_else() {
        let tally = Arc::new(KeyCacheStats::new(2));
        let decisions = KeyCache::new(tally.clone());
        let owner = |key: u64| (mix(key ^ 7) % 1_000) as usize;
        let mut rng = Rng::new(1);
        // Ten times as many keys as there is room for, 0 and its neighbours among them.
        for n in 0..200_000 {
            let key = if n % 2 == 0 { rng.below(50) } else { mix(rng.below(20_000)) };
            assert_eq!(decisions.of(n % 3, key, || owner(key)), owner(key));
        }
        let (hits, misses) = tally.sums();
        assert_eq!(hits + misses, 200_000);
        assert!(hits > 100_000, "popular keys are found: {hits}");
    }

    #[test]
    fn threads_that_share_a_worker_find_no_strangers_owner() {
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
