//! Consistent hashing: the destination of a key, and the next one if that is at its bound or was tried.

use std::sync::{Arc, Mutex, PoisonError};

use super::bounded_load::Bounds;
use super::key_cache::{KeyCache, KeyCacheStats};
use super::maglev::Maglev;
use super::rendezvous;
use super::ring::HashRing;
use super::sampling::WeightedSampler;
use super::{Needs, Picker, Policy, Slot};
use crate::balance::{AttemptedSet, PickRequest};
use crate::hash::mix;
use crate::rng::Rng;
use crate::time::Tick;

/// Table that maps keys to destinations.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum HashTable {
    /// Ring of points. Only the keys of a removed destination move; shares are within a few percent of the weights.
    Ring,
    /// Maglev's table. Shares are even and a look-up is fast; a few other keys move, too.
    #[default]
    Maglev,
    /// Rendezvous hashing. Only the keys of a removed destination move, and shares follow weights; all destinations are
    /// compared.
    Rendezvous,
}

/// Settings of a hashing policy.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct HashSpec {
    /// Table that maps keys to destinations.
    pub table: HashTable,
    /// Maximum messages in flight of a destination, in percent of its share of all, above 100. `None`: no bound.
    pub bound: Option<u16>,
}

/// Number of steps of a key's sequence that are tried. If all are at their bounds, nearly all messages have one key;
/// then [`DRAWS`] slots are drawn by weight, and the first below its bound, or the least loaded of all tried, takes the
/// message.
const STEPS: u64 = 64;
/// Number of slots that are drawn after [`STEPS`] steps.
const DRAWS: u64 = 8;

/// `source_hash` and `hash`: equal keys go to one destination, in every process with the same destinations. A retry, or
/// a message with a destination at its bound, goes to the next destination of the key's sequence.
///
/// A message without a key is sent to a random destination by weight.
#[derive(Debug)]
pub struct ConsistentHash {
    name: &'static str,
    spec: HashSpec,
    /// Tables built last, the newest at the end: most snapshots change nothing that a table depends on.
    built: Mutex<Vec<(u64, Arc<LookupTable>)>>,
    /// Hits and misses of the key cache, if there is one.
    stats: Option<Arc<KeyCacheStats>>,
}

/// Maximum number of tables kept, one for each tier of a pool and of its subsets. A table has a quarter of a megabyte
/// at most.
const MAX_TABLES: usize = 32;

impl ConsistentHash {
    /// Creates the policy `source_hash`.
    pub const fn by_source(spec: HashSpec) -> Self {
        Self::new("source_hash", spec)
    }

    /// Creates the policy `hash`.
    pub const fn by_key(spec: HashSpec) -> Self {
        Self::new("hash", spec)
    }

    const fn new(name: &'static str, spec: HashSpec) -> Self {
        Self { name, spec, built: Mutex::new(Vec::new()), stats: None }
    }

    /// Adds a key cache for `workers` workers if the table's look-up is expensive: rendezvous hashing compares all
    /// slots.
    pub fn with_cache(self, workers: usize) -> Self {
        let expensive = self.spec.table == HashTable::Rendezvous;
        Self { stats: expensive.then(|| Arc::new(KeyCacheStats::new(workers))), ..self }
    }

    /// Returns the table for these slots, built if it is not known. It depends on names and weights in this order only.
    fn lookup_table(&self, slots: &[Slot]) -> Arc<LookupTable> {
        let fingerprint =
            slots.iter().fold(0, |hash, slot| mix(mix(hash ^ slot.name_hash) ^ u64::from(slot.weight)));
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match built.iter().position(|(known, _)| *known == fingerprint) {
            Some(place) => built.remove(place).1,
            None => Arc::new(match self.spec.table {
                HashTable::Ring => LookupTable::Ring(HashRing::new(slots)),
                HashTable::Maglev => LookupTable::Maglev(Maglev::new(slots)),
                HashTable::Rendezvous => LookupTable::Rendezvous(self.stats.clone().map(KeyCache::new)),
            }),
        };
        if built.len() == MAX_TABLES {
            built.remove(0);
        }
        built.push((fingerprint, table.clone()));
        table
    }
}

impl Policy for ConsistentHash {
    fn name(&self) -> &'static str {
        self.name
    }

    fn needs(&self) -> Needs {
        Needs::Key
    }

    fn key_cache(&self) -> Option<Arc<KeyCacheStats>> {
        self.stats.clone()
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        let table = self.lookup_table(&slots);
        let bounds = self.spec.bound.map(|percent| Bounds::new(&slots, percent));
        Box::new(ConsistentHashPicker { table, bounds, sampler: WeightedSampler::by_weight(&slots), slots })
    }
}

#[derive(Debug)]
enum LookupTable {
    Ring(HashRing),
    Maglev(Maglev),
    Rendezvous(Option<KeyCache>),
}

struct ConsistentHashPicker {
    table: Arc<LookupTable>,
    bounds: Option<Bounds>,
    sampler: WeightedSampler,
    slots: Arc<[Slot]>,
}

impl Picker for ConsistentHashPicker {
    fn pick(&self, request: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let Some(key) = request.key else { return self.sampler.one(rng) };
        let tried = request.tried.filter(|tried| !tried.is_empty());
        match &*self.table {
            LookupTable::Rendezvous(None) => self.pick_highest(key, tried),
            LookupTable::Rendezvous(Some(decisions)) => {
                self.pick_cached(decisions, request.worker, key, tried)
            }
            // Consecutive numbers as keys would be neighbors on the ring.
            LookupTable::Ring(ring) => {
                let place = ring.place(mix(key));
                self.follow(tried, rng, |step| ring.slot(place, step as usize))
            }
            // A retry's key is hashed again, as in Envoy: neighbors in the table are unrelated.
            LookupTable::Maglev(table) => {
                self.follow(tried, rng, |step| table.slot(mix(key ^ step.wrapping_mul(STRIDE))))
            }
        }
    }
}

/// Odd, so that no two steps of a key's sequence are equal: the golden ratio of 2^64.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

impl ConsistentHashPicker {
    /// Returns the first slot of the key's sequence that was not tried and is below its bound.
    fn follow(&self, tried: Option<&AttemptedSet>, rng: &mut Rng, sequence: impl Fn(u64) -> usize) -> usize {
        let first = sequence(0);
        let quota = self.bounds.as_ref().map(|bounds| (bounds, bounds.quota()));
        let mut roomiest = None;
        for step in 0..STEPS + DRAWS {
            let slot = if step < STEPS { sequence(step) } else { self.sampler.one(rng) };
            if tried.is_some_and(|tried| tried.contains(self.slots[slot].id)) {
                continue;
            }
            let Some((bounds, quota)) = quota else { return slot };
            if bounds.has_room(slot, quota) {
                return slot;
            }
            let fullness = bounds.fullness(slot);
            // Of equals the last: with the first, the key's own destination would take everything beyond the bounds.
            if roomiest.is_none_or(|(_, least)| fullness <= least) {
                roomiest = Some((slot, fullness));
            }
        }
        // If all were tried, the snapshot continues from the first.
        roomiest.map_or(first, |(slot, _)| slot)
    }

    /// Picks as [`pick_highest`](Self::pick_highest) does. The cache holds the pick without regard to bounds and tried
    /// destinations.
    fn pick_cached(
        &self,
        decisions: &KeyCache,
        worker: usize,
        key: u64,
        tried: Option<&AttemptedSet>,
    ) -> usize {
        let any = || rendezvous::pick_index(&self.slots, key, |_| true).unwrap_or(0);
        let cached = decisions.of(worker, key, any);
        let untried = tried.is_none_or(|tried| !tried.contains(self.slots[cached].id));
        let fits = |bounds: &Bounds| bounds.has_room(cached, bounds.quota());
        if untried && self.bounds.as_ref().is_none_or(fits) { cached } else { self.pick_highest(key, tried) }
    }

    fn pick_highest(&self, key: u64, tried: Option<&AttemptedSet>) -> usize {
        let untried = |slot: usize| tried.is_none_or(|tried| !tried.contains(self.slots[slot].id));
        let bounded = self.bounds.as_ref().and_then(|bounds| {
            let quota = bounds.quota();
            rendezvous::pick_index(&self.slots, key, |slot| untried(slot) && bounds.has_room(slot, quota))
        });
        bounded.or_else(|| rendezvous::pick_index(&self.slots, key, untried)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{hold, named};
    use super::*;
    use crate::hash::hash;

    const TABLES: [HashTable; 3] = [HashTable::Ring, HashTable::Maglev, HashTable::Rendezvous];

    fn picker(table: HashTable, bound: Option<u16>, slots: &[Slot]) -> Box<dyn Picker> {
        ConsistentHash::by_key(HashSpec { table, bound }).build(slots.into())
    }

    fn pick(picker: &dyn Picker, key: u64, tried: &AttemptedSet) -> usize {
        let want =
            PickRequest { key: Some(hash(&key.to_le_bytes())), tried: Some(tried), ..PickRequest::default() };
        picker.pick(&want, Tick::ZERO, &mut Rng::new(key))
    }

    /// Returns the slot of each key.
    fn owners(picker: &dyn Picker, keys: u64) -> Vec<usize> {
        (0..keys).map(|key| pick(picker, key, &AttemptedSet::default())).collect()
    }

    #[test]
    fn keys_are_proportional_to_weights() {
        for table in TABLES {
            let slots = named(0.., &[256, 512, 1024, 2048]);
            let owners = owners(&*picker(table, None, &slots), 20_000);
            for (index, slot) in slots.iter().enumerate() {
                let have = owners.iter().filter(|&&owner| owner == index).count() as f64 / 20_000.0;
                let due = f64::from(slot.weight) / 3840.0;
                assert!((have - due).abs() < 0.02, "{table:?}: {have} for {due}");
            }
        }
    }

    #[test]
    fn key_does_not_depend_on_the_configured_order() {
        for table in TABLES {
            for seed in 0..20 {
                let mut rng = Rng::new(seed);
                let weights: Vec<u32> =
                    (0..1 + rng.index(30)).map(|_| 256 * (1 + rng.below(9) as u32)).collect();
                let slots = named(0.., &weights);
                let backwards: Vec<Slot> = slots.iter().rev().cloned().collect();
                let (one, other) = (picker(table, None, &slots), picker(table, None, &backwards));
                for key in 0..300 {
                    let (a, b) = (
                        pick(&*one, key, &AttemptedSet::default()),
                        pick(&*other, key, &AttemptedSet::default()),
                    );
                    assert_eq!(slots[a].name, backwards[b].name, "{table:?}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn removal_moves_few_other_keys_and_return_restores_all() {
        for (table, most) in [(HashTable::Ring, 0.0), (HashTable::Maglev, 0.06), (HashTable::Rendezvous, 0.0)]
        {
            let slots = named(0.., &[256; 12]);
            let without: Vec<Slot> = slots.iter().filter(|slot| slot.rank != 5).cloned().collect();
            let before = owners(&*picker(table, None, &slots), 10_000);
            let after = owners(&*picker(table, None, &without), 10_000);
            let moved = before.iter().zip(&after).filter(|&(&b, &a)| b != 5 && slots[b].id != without[a].id);
            let share = moved.count() as f64 / 10_000.0;
            assert!(share <= most, "{table:?}: {share}");
            assert_eq!(owners(&*picker(table, None, &slots), 10_000), before);
        }
    }

    #[test]
    fn table_is_built_once_for_equal_slots_and_weights() {
        let policy = ConsistentHash::by_key(HashSpec::default());
        let (slots, heavier) = (named(0.., &[256; 3]), named(0.., &[256, 256, 512]));
        let first = policy.lookup_table(&slots);
        assert!(Arc::ptr_eq(&first, &policy.lookup_table(&named(0.., &[256; 3]))));
        assert!(!Arc::ptr_eq(&first, &policy.lookup_table(&heavier)));
        assert!(!Arc::ptr_eq(&first, &policy.lookup_table(&slots[..2])));
        assert!(Arc::ptr_eq(&first, &policy.lookup_table(&slots)));
        (3..3 + MAX_TABLES as u32).for_each(|from| drop(policy.lookup_table(&named(from.., &[256; 2]))));
        assert_eq!(policy.built.lock().expect("no panic").len(), MAX_TABLES);
        assert!(!Arc::ptr_eq(&first, &policy.lookup_table(&slots)), "not for ever");
    }

    #[test]
    fn retry_follows_the_sequence_of_its_key() {
        for table in TABLES {
            let slots = named(0.., &[256; 8]);
            let (one, other) = (picker(table, None, &slots), picker(table, None, &slots));
            let mut seconds = [0; 8];
            for key in 0..3_000 {
                let mut tried = AttemptedSet::default();
                let mut walk = Vec::new();
                for _ in 0..4 {
                    let picked = pick(&*one, key, &tried);
                    assert_eq!(picked, pick(&*other, key, &tried));
                    assert!(!walk.contains(&picked), "{table:?}: {picked} again after {walk:?}");
                    walk.push(picked);
                    tried.add(slots[picked].id);
                }
                if walk[0] == 3 {
                    seconds[walk[1]] += 1;
                }
            }
            assert!(
                seconds.iter().filter(|&&n| n > 10).count() == 7,
                "all share what one cannot: {seconds:?}"
            );
        }
    }

    #[test]
    fn popular_key_overflows_to_the_next_destination_at_its_bound() {
        for table in TABLES {
            for count in [8_u32, 100] {
                let slots = named(0.., &vec![256; count as usize]);
                let picker = picker(table, Some(125), &slots);
                let (mut held, mut rng) = (Vec::new(), Rng::new(1));
                let one_key = PickRequest { key: Some(hash(b"popular")), ..PickRequest::default() };
                for _ in 0..4 * count {
                    let picked = picker.pick(&one_key, Tick::ZERO, &mut rng);
                    held.extend(hold(&slots[picked], 1));
                }
                let most = slots.iter().map(|slot| slot.stats.in_flight()).max().expect("slots");
                assert!(most <= 6, "{table:?} of {count}: {most} where 4 is the mean");
                held.clear();
                let cached = owners(&*picker, 500);
                assert_eq!(cached, owners(&*picker, 500), "{table:?}: idle, all keys are at their own slot");
            }
        }
    }

    #[test]
    fn cached_picks_equal_computed_picks() {
        for bound in [None, Some(125)] {
            let slots = named(0.., &[256; 20]);
            let spec = HashSpec { table: HashTable::Rendezvous, bound };
            let policy = ConsistentHash::by_key(spec).with_cache(1);
            let (remembers, decides) =
                (policy.build(slots.clone().into()), picker(spec.table, bound, &slots));
            let (mut held, mut rng) = (Vec::new(), Rng::new(2));
            for n in 0..5_000 {
                let (key, mut tried) = (rng.below(40), AttemptedSet::default());
                (0..rng.index(3)).for_each(|_| tried.add(slots[rng.index(20)].id));
                let picked = pick(&*remembers, key, &tried);
                assert_eq!(picked, pick(&*decides, key, &tried), "{bound:?}, message {n}");
                held.extend(hold(&slots[picked], 1));
                if held.len() > 60 {
                    held.swap_remove(rng.index(60));
                }
            }
            let (hits, misses) = policy.key_cache().expect("it remembers").sums();
            assert_eq!((hits, misses), (4_960, 40), "{bound:?}");
            // Another table has decisions of its own, and the same one the same.
            let before = policy.lookup_table(&slots);
            assert!(Arc::ptr_eq(&before, &policy.lookup_table(&slots)));
            assert!(!Arc::ptr_eq(&before, &policy.lookup_table(&slots[1..])));
        }
        assert!(
            ConsistentHash::by_key(HashSpec::default()).with_cache(1).key_cache().is_none(),
            "Maglev is quicker"
        );
    }

    #[test]
    fn message_without_a_key_is_random_by_weight() {
        let slots = named(0.., &[256, 768]);
        let (picker, mut rng) = (picker(HashTable::Maglev, None, &slots), Rng::new(3));
        let picked =
            (0..4_000).filter(|_| picker.pick(&PickRequest::default(), Tick::ZERO, &mut rng) == 1).count();
        assert!((2_850..3_150).contains(&picked), "{picked}");
    }
}
