//! Connections and TLS handshakes per source, over all workers, so that one client cannot use up a listener's limits.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Number of parts with a lock each, so that workers rarely wait for each other.
const PARTS: usize = 16;

/// An IPv4 address, or a /64 network of IPv6, which is what one client usually has.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(u64);

impl Source {
    /// Returns the source of an address.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            // No unicast address begins with 32 set bits.
            IpAddr::V4(ip) => Self(u64::from(u32::MAX) << 32 | u64::from(u32::from(ip))),
            IpAddr::V6(ip) => Self((u128::from(ip) >> 64) as u64),
        }
    }
}

/// Kinds of what is counted per source.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    Connections,
    Handshakes,
}

type Part = HashMap<(Source, Counted), usize>;

/// Counts of sources that have connections, which bounds their number.
#[derive(Debug, Default)]
pub(crate) struct SourceLimits {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
}

impl SourceLimits {
    fn part(&self, source: Source) -> MutexGuard<'_, Part> {
        let part = self.hasher.hash_one(source) as usize % PARTS;
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more of a source; `None` if it has `max` already.
    pub(crate) fn try_acquire(
        self: &Arc<Self>,
        source: Source,
        counted: Counted,
        max: usize,
    ) -> Option<SourcePermit> {
        let mut part = self.part(source);
        let count = part.entry((source, counted)).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(SourcePermit { limits: self.clone(), source, counted })
    }
}

/// One of a source, counted until dropped.
#[derive(Debug)]
pub(crate) struct SourcePermit {
    limits: Arc<SourceLimits>,
    source: Source,
    counted: Counted,
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.limits.part(self.source).entry((self.source, self.counted)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(ip: &str) -> Source {
        Source::of(ip.parse().unwrap())
    }

    #[test]
    fn sources_are_addresses_of_ipv4_and_networks_of_ipv6() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }

    #[test]
    fn each_source_and_kind_has_its_own_count_that_ends_at_zero() {
        let limits = Arc::new(SourceLimits::default());
        let acquire = |ip: &str, counted| limits.try_acquire(source(ip), counted, 2);
        let first = acquire("192.0.2.1", Counted::Connections).unwrap();
        let second = acquire("192.0.2.1", Counted::Connections).unwrap();
        assert!(acquire("192.0.2.1", Counted::Connections).is_none());
        assert!(acquire("192.0.2.1", Counted::Handshakes).is_some());
        assert!(acquire("192.0.2.2", Counted::Connections).is_some());
        drop(first);
        assert!(acquire("192.0.2.1", Counted::Connections).is_some());
        drop(second);
        assert!(limits.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
