//! Timers of a pool: the next time at which each destination is due.

use std::collections::{BTreeSet, HashMap};

use crate::destination::DestinationId;
use crate::time::Tick;

/// Timers ordered by time, at most one per destination.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Tick, DestinationId)>,
    by_id: HashMap<DestinationId, Tick>,
}

impl Timers {
    /// Sets the timer of `id`; [`Tick::NEVER`] removes it.
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

    /// Returns the time of the next timer.
    pub(super) fn next(&self) -> Option<Tick> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Removes and returns the destinations that are due, in order of time.
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
    fn last_time_set_counts_and_due_timers_come_in_order_of_time() {
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
