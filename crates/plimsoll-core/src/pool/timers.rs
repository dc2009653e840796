//! When the slow loop has something to do next, and for whom.

use std::collections::{BTreeSet, HashMap};

use crate::destination::DestinationId;
use crate::time::Tick;

/// At most one moment per destination, found by time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Tick, DestinationId)>,
    by_id: HashMap<DestinationId, Tick>,
}

impl Timers {
    /// Replaces the moment of `id`; [`Tick::NEVER`] strikes it.
    pub(super) fn set(&mut self, id: DestinationId, at: Tick) {
        let before = if at == Tick::NEVER { self.by_id.remove(&id) } else { self.by_id.insert(id, at) };
        if before == Some(at) {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, id));
        }
        if at != Tick::NEVER {
            self.by_time.insert((at, id));
        }
    }

    /// The next moment.
    pub(super) fn next(&self) -> Option<Tick> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Strikes and returns everyone whose moment has come, in order of time.
    pub(super) fn take_due(&mut self, now: Tick) -> Vec<DestinationId> {
        let mut due = Vec::new();
        while let Some(&(at, id)) = self.by_time.first()
            && at <= now
        {
            self.set(id, Tick::NEVER);
            due.push(id);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_time_decides_the_order() {
        let (mut timers, at, id) = (Timers::default(), Tick::from_nanos, DestinationId);
        for (n, nanos) in [(1, 30), (2, 10), (3, 20), (1, 5), (3, 40), (4, 7)] {
            timers.set(id(n), at(nanos));
        }
        timers.set(id(4), Tick::NEVER);
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.take_due(at(10)), [id(1), id(2)]);
        assert_eq!(timers.next(), Some(at(40)));
        assert_eq!(timers.take_due(at(39)), []);
        assert_eq!(timers.take_due(at(40)), [id(3)]);
        assert_eq!(timers.next(), None);
        assert!(timers.by_id.is_empty());
    }
}
