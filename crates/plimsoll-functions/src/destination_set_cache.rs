//! A cache keyed by a set of destinations, with least-recently-used eviction.

use std::collections::HashMap;

use crate::destination::Destination;

/// Ids and addresses, sorted: the order of a call does not matter.
type Key = Vec<(String, String)>;

/// Values by set of destinations. When full, the least recently used ones are evicted.
#[derive(Debug)]
pub(crate) struct DestinationSetCache<T> {
    entries: HashMap<Key, CacheEntry<T>>,
    calls: u64,
    capacity: CacheCapacity,
}

/// Bounds of a cache.
#[derive(Copy, Clone, Debug)]
pub(crate) struct CacheCapacity {
    /// Maximum number of sets.
    pub(crate) sets: usize,
    /// Maximum size of all sets in bytes, as estimated by [`size_of_set`]. The latest set is kept in any case.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct CacheEntry<T> {
    value: T,
    last_call: u64,
    bytes: usize,
}

impl<T> DestinationSetCache<T> {
    /// Creates an empty cache.
    pub(crate) fn new(capacity: CacheCapacity) -> Self {
        Self { entries: HashMap::new(), calls: 0, capacity }
    }

    /// Returns the value of these destinations.
    pub(crate) fn get(&mut self, destinations: &[Destination]) -> Option<&mut T> {
        self.calls += 1;
        let entry = self.entries.get_mut(&key(destinations))?;
        entry.last_call = self.calls;
        Some(&mut entry.value)
    }

    /// Inserts the value of these destinations.
    pub(crate) fn insert(&mut self, destinations: &[Destination], value: T) {
        let bytes = size_of_set(destinations);
        let mut total: usize = self.entries.values().map(|entry| entry.bytes).sum();
        while self.entries.len() >= self.capacity.sets || total.saturating_add(bytes) > self.capacity.bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_call);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            total -= self.entries.remove(&key).map_or(0, |entry| entry.bytes);
        }
        self.calls += 1;
        self.entries.insert(key(destinations), CacheEntry { value, last_call: self.calls, bytes });
    }

    /// Returns all values.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// Removes the values for which `keep` returns false.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.entries.retain(|_, entry| keep(&entry.value));
    }
}

/// Size of the state of one set, without its destinations: outcomes, policies, locks.
const BYTES_PER_SET: usize = 64 * 1024;
/// Size of the state of one destination, without its texts: counters, histograms, a place in each snapshot.
const BYTES_PER_DESTINATION: usize = 2 * 1024;

/// Estimates the memory of a set. Each text is kept up to four times: as given, in the key and in snapshots.
pub(crate) fn size_of_set(destinations: &[Destination]) -> usize {
    let labels =
        |d: &Destination| d.labels.iter().map(|(key, value)| key.len() + value.len() + 96).sum::<usize>();
    let texts = |d: &Destination| {
        let optional = [&d.zone, &d.protocol].into_iter().flatten().map(String::len).sum::<usize>();
        d.id.len() + d.address.len() + optional + labels(d)
    };
    let destinations = destinations.iter().map(|d| BYTES_PER_DESTINATION + 4 * texts(d));
    BYTES_PER_SET + destinations.sum::<usize>()
}

fn key(destinations: &[Destination]) -> Key {
    let pair =
        |destination: &Destination| (destination.id_or_address().to_owned(), destination.address.clone());
    let mut key: Key = destinations.iter().map(pair).collect();
    key.sort_unstable();
    key
}

#[cfg(test)]
impl<T> DestinationSetCache<T> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
