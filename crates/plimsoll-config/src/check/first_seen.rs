//! Detection of values that may be given only once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::tree::Span;

/// Span at which each value was given first.
#[derive(Debug)]
pub(crate) struct FirstSeen<K>(HashMap<K, Span>);

impl<K> Default for FirstSeen<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> FirstSeen<K> {
    /// Inserts a value, or returns the span of its first occurrence.
    pub(crate) fn insert(&mut self, key: K, span: Span) -> Option<Span> {
        match self.0.entry(key) {
            Entry::Vacant(free) => {
                free.insert(span);
                None
            }
            Entry::Occupied(first) => Some(*first.get()),
        }
    }

    /// Returns the span of a value that fits.
    pub(crate) fn find(&self, fits: impl Fn(&K) -> bool) -> Option<Span> {
        self.0.iter().filter(|(key, _)| fits(key)).map(|(_, span)| *span).min_by_key(|span| span.start)
    }

    pub(crate) fn get(&self, key: &K) -> Option<Span> {
        self.0.get(key).copied()
    }
}
