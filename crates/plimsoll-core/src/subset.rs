//! Subsets of a pool: the destinations with certain labels, which routes select.

use crate::destination::{Destination, Name};
use crate::hash::{hash, mix};

/// Behaviour if no destination of a subset may serve.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// The message is not sent: a request for version 2 never reaches version 1.
    #[default]
    None,
    /// The message is sent to any destination of the pool.
    Any,
}

/// Destinations of a pool that have all of these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Hash of the labels, equal in every process: during a reload, routes of the new configuration use snapshots of
    /// the old one.
    id: u64,
    labels: Box<[(Name, Name)]>,
    /// Behaviour if no destination of the subset may serve.
    pub fallback: Fallback,
}

impl Subset {
    /// Maximum number of subsets of a pool; each has its own pickers.
    pub const MAX: usize = 64;

    /// Creates the subset of destinations with all of `labels`; their order does not matter.
    pub fn new(mut labels: Vec<(Name, Name)>, fallback: Fallback) -> Self {
        labels.sort();
        let add = |id, (key, value): &(Name, Name)| {
            mix(mix(id ^ hash(key.as_bytes())).wrapping_add(hash(value.as_bytes())))
        };
        let seed = u64::from(fallback == Fallback::Any);
        Self { id: labels.iter().fold(seed, add), labels: labels.into(), fallback }
    }

    /// Returns the subset's number, which is equal for equal labels and fallbacks.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether the destination belongs to the subset.
    pub fn has(&self, destination: &Destination) -> bool {
        self.covers(&destination.labels)
    }

    /// Returns whether a destination with these labels belongs to the subset.
    pub fn covers(&self, labels: &[(Name, Name)]) -> bool {
        self.labels.iter().all(|label| labels.contains(label))
    }

    /// Returns the labels as text, sorted: `tier=gold, version=2`.
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
    fn number_depends_on_labels_and_not_on_their_order() {
        let id = |pairs: &[(&str, &str)]| Subset::new(labels(pairs), Fallback::Any).id();
        assert_eq!(id(&[("a", "1"), ("b", "2")]), id(&[("b", "2"), ("a", "1")]));
        assert_ne!(id(&[("a", "1"), ("b", "2")]), id(&[("a", "2"), ("b", "1")]));
        assert_ne!(id(&[("a", "b")]), id(&[("b", "a")]));
        assert_ne!(id(&[("a", "1")]), Subset::new(labels(&[("a", "1")]), Fallback::None).id());
    }
}
