//! Detection of values that may be given only once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::tree::Span;

/// What was given first, and where: of names, addresses and headers there may be one each.
#[derive(Debug)]
pub(crate) struct FirstSeen<K>(HashMap<K, Span>);

impl<K> Default for FirstSeen<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> FirstSeen<K> {
    /// Remembers it, or says where it was given before.
    pub(crate) fn insert(&mut self, key: K, span: Span) -> Option<Span> {
        match self.0.entry(key) {
            Entry::Vacant(free) => {
                free.insert(span);
                None
            }
            Entry::Occupied(first) => Some(*first.get()),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<Span> {
        self.0.get(key).copied()
    }
}
