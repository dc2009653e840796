//! Registry of policies that the embedding program adds to the built-in ones.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::{Algorithm, Policy};

/// Constructor of a policy for a number of workers.
type Make = dyn Fn(usize) -> Box<dyn Policy> + Send + Sync;

/// A policy of the embedding program, with the name that configurations use.
#[derive(Copy, Clone)]
pub struct RegisteredPolicy {
    name: &'static str,
    make: &'static Make,
}

impl RegisteredPolicy {
    /// Returns the name in configurations.
    pub const fn name(self) -> &'static str {
        self.name
    }

    pub(super) fn policy(self, workers: usize) -> Box<dyn Policy> {
        (self.make)(workers)
    }
}

impl fmt::Debug for RegisteredPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// Policies are equal if their names are: a registry has one policy of each name.
impl PartialEq for RegisteredPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for RegisteredPolicy {}

impl Hash for RegisteredPolicy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// Policies of the embedding program, which `algorithm` may name in a configuration. Created at the start of the
/// program; registered policies live as long as the program.
#[derive(Clone, Debug, Default)]
pub struct PolicyRegistry(Vec<RegisteredPolicy>);

impl PolicyRegistry {
    /// Creates a registry with the built-in algorithms only.
    pub const fn built_in() -> Self {
        Self(Vec::new())
    }

    /// Adds a policy under its [`Policy::name`]. `make` creates it for a number of workers: once for each pool that
    /// names it, and again after the pool's algorithm changed.
    ///
    /// # Panics
    /// Panics if the name is taken, or is not lower-case letters, digits and `_` beginning with a letter.
    #[must_use]
    pub fn with<F>(mut self, make: F) -> Self
    where
        F: Fn(usize) -> Box<dyn Policy> + Send + Sync + 'static,
    {
        let name = make(1).name();
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let word = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(good);
        assert!(word, "`{name}` is not a valid policy name: use lower-case letters, digits and `_`");
        let taken = Algorithm::from_name(name).is_some() || self.of(name).is_some();
        assert!(!taken, "there is a policy `{name}` already");
        self.0.push(RegisteredPolicy { name, make: Box::leak(Box::new(make)) });
        self
    }

    /// The one of that name, beside the built-in ones.
    pub fn of(&self, name: &str) -> Option<Algorithm> {
        self.0.iter().find(|known| known.name == name).copied().map(Algorithm::Registered)
    }

    /// All of them, beside the built-in ones.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.0.iter().copied().map(Algorithm::Registered)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::Arc;

    use super::*;
    use crate::balance::{Needs, Picker, Slot};

    struct Named(&'static str);

    impl Policy for Named {
        fn name(&self) -> &'static str {
            self.0
        }

        fn needs(&self) -> Needs {
            Needs::Nothing
        }

        fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
            Algorithm::Random.policy(1).build(slots)
        }
    }

    fn with(policies: PolicyRegistry, name: &'static str) -> PolicyRegistry {
        policies.with(move |_| Box::new(Named(name)))
    }

    #[test]
    fn registered_policy_is_found_by_name() {
        let policies = with(PolicyRegistry::built_in(), "sampler");
        let sampler = policies.of("sampler").expect("registered");
        assert_eq!((sampler.name(), sampler.policy(1).name()), ("sampler", "sampler"));
        assert_eq!(policies.algorithms().collect::<Vec<_>>(), [sampler]);
        assert_eq!(policies.of("random"), None, "that one is built in");
    }

    #[test]
    fn duplicate_or_invalid_name_is_rejected() {
        for wrong in ["random", "sampler", "WeightedSampler", "", "my-own", "1st", "two words"] {
            let again = || with(with(PolicyRegistry::built_in(), "sampler"), wrong);
            assert!(catch_unwind(again).is_err(), "{wrong}");
        }
    }
}
