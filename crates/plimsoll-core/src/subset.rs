//! Which part of a pool a route's messages are for: the destinations with certain labels.

use crate::destination::{Destination, Name};
use crate::hash::{hash, mix};

/// Where a message goes that nobody of its subset takes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Nowhere: who asked for version 2 is not given version 1.
    #[default]
    None,
    /// To anybody of the pool.
    Any,
}

/// The destinations of a pool that have all of these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// The same for the same labels, in every process: a snapshot built for one configuration is asked by routes of
    /// another while a reload runs.
    id: u64,
    labels: Box<[(Name, Name)]>,
    /// Where a message goes that nobody of it takes.
    pub fallback: Fallback,
}

impl Subset {
    /// A pool is divided into so many subsets at most; each has pickers of its own.
    pub const MAX: usize = 64;

    /// Those with all of `labels`, in whatever order they are given.
    pub fn new(mut labels: Vec<(Name, Name)>, fallback: Fallback) -> Self {
        labels.sort();
        let told = |id, (key, value): &(Name, Name)| {
            mix(mix(id ^ hash(key.as_bytes())).wrapping_add(hash(value.as_bytes())))
        };
        Self { id: labels.iter().fold(0, told), labels: labels.into(), fallback }
    }

    /// Its number, alike for the same labels.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Is the destination one of them?
    pub fn has(&self, destination: &Destination) -> bool {
        self.covers(&destination.labels)
    }

    /// Is one with these labels?
    pub fn covers(&self, labels: &[(Name, Name)]) -> bool {
        self.labels.iter().all(|label| labels.contains(label))
    }

    /// `version=2, tier=gold`, sorted.
    pub fn text(&self) -> String {
        let pairs: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Address;

    fn labels(pairs: &[(&str, &str)]) -> Vec<(Name, Name)> {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    #[test]
    fn a_destination_needs_all_the_labels_and_may_have_more() {
        let address = Address::Socket(([127, 0, 0, 1], 9000).into());
        let with = |pairs: &[(&str, &str)]| Destination {
            labels: labels(pairs).into(),
            ..Destination::new("d", address.clone())
        };
        let subset = Subset::new(labels(&[("version", "2"), ("tier", "gold")]), Fallback::None);
        assert!(subset.has(&with(&[("a", "b"), ("tier", "gold"), ("version", "2")])));
        assert!(!subset.has(&with(&[("version", "2")])) && !subset.has(&with(&[])));
        assert!(!subset.has(&with(&[("tier", "2"), ("version", "gold")])));
        assert_eq!(subset.text(), "tier=gold, version=2");
    }

    #[test]
    fn its_number_says_which_labels_and_not_in_which_order() {
        let id = |pairs: &[(&str, &str)]| Subset::new(labels(pairs), Fallback::Any).id();
        assert_eq!(id(&[("a", "1"), ("b", "2")]), id(&[("b", "2"), ("a", "1")]));
        assert_ne!(id(&[("a", "1"), ("b", "2")]), id(&[("a", "2"), ("b", "1")]));
        assert_ne!(id(&[("a", "b")]), id(&[("b", "a")]));
    }
}
