//! What happens next: events in order of virtual time, those of the same moment in the order they were set.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use plimsoll_core::Tick;

/// Events to come.
#[derive(Debug)]
pub struct Agenda<E> {
    heap: BinaryHeap<Reverse<Due<E>>>,
    set: u64,
}

#[derive(Debug)]
struct Due<E> {
    at: Tick,
    /// Breaks ties of time, so that a run depends on nothing but its seed.
    order: u64,
    event: E,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), set: 0 }
    }
}

impl<E> Agenda<E> {
    /// Sets an event; one at [`Tick::NEVER`] never comes.
    pub fn set(&mut self, at: Tick, event: E) {
        if at != Tick::NEVER {
            self.heap.push(Reverse(Due { at, order: self.set, event }));
            self.set += 1;
        }
    }

    /// The next event and its moment.
    pub fn take(&mut self) -> Option<(Tick, E)> {
        self.heap.pop().map(|Reverse(due)| (due.at, due.event))
    }
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_decides_and_then_the_order_of_setting() {
        let (mut agenda, at) = (Agenda::default(), Tick::from_nanos);
        for (nanos, event) in [(5, 'b'), (9, 'd'), (5, 'c'), (1, 'a')] {
            agenda.set(at(nanos), event);
        }
        agenda.set(Tick::NEVER, 'x');
        let order: String = std::iter::from_fn(|| agenda.take()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
