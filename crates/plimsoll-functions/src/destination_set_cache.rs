//! What is remembered for a set of destinations, from one call that brings them along to the next.

use std::collections::HashMap;

use crate::destination::Destination;

/// What makes two calls calls "with the same destinations": ids and addresses, in any order.
type Key = Vec<(String, String)>;

/// A bounded number of sets; the one not used for longest goes.
#[derive(Debug)]
pub(crate) struct Sets<T> {
    known: HashMap<Key, Remembered<T>>,
    calls: u64,
    most: usize,
}

#[derive(Debug)]
struct Remembered<T> {
    what: T,
    last_call: u64,
}

impl<T> Sets<T> {
    /// No sets yet, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { known: HashMap::new(), calls: 0, most }
    }

    /// What is remembered for these destinations.
    pub(crate) fn find(&mut self, destinations: &[Destination]) -> Option<&mut T> {
        self.calls += 1;
        let known = self.known.get_mut(&key(destinations))?;
        known.last_call = self.calls;
        Some(&mut known.what)
    }

    /// Remembers `what` for them.
    pub(crate) fn add(&mut self, destinations: &[Destination], what: T) {
        if self.known.len() >= self.most {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last_call);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&key);
            }
        }
        self.calls += 1;
        self.known.insert(key(destinations), Remembered { what, last_call: self.calls });
    }

    /// Forgets what is not to stay.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        self.known.retain(|_, known| stays(&known.what));
    }
}

fn key(destinations: &[Destination]) -> Key {
    let mut key: Key =
        destinations.iter().map(|one| (one.known_as().to_owned(), one.address.clone())).collect();
    key.sort_unstable();
    key
}

#[cfg(test)]
impl<T> Sets<T> {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}
