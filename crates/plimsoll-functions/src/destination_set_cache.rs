//! A cache keyed by a set of destinations, with least-recently-used eviction.

use std::collections::HashMap;

use crate::destination::Destination;

/// Ids and addresses, sorted: the order of a call does not matter.
type Key = Vec<(String, String)>;

/// Values by set of destinations. When full, the least recently used one is evicted.
#[derive(Debug)]
pub(crate) struct DestinationSetCache<T> {
    entries: HashMap<Key, CacheEntry<T>>,
    calls: u64,
    capacity: usize,
}

#[derive(Debug)]
struct CacheEntry<T> {
    value: T,
    last_call: u64,
}

impl<T> DestinationSetCache<T> {
    /// Creates an empty cache for at most `capacity` sets.
    pub(crate) fn new(capacity: usize) -> Self {
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
        if self.entries.len() >= self.capacity {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_call);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&key);
            }
        }
        self.calls += 1;
        self.entries.insert(key(destinations), CacheEntry { value, last_call: self.calls });
    }

    /// Removes the values for which `keep` returns false.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.entries.retain(|_, entry| keep(&entry.value));
    }
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
