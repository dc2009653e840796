//! Queue of scheduled events, ordered by virtual time and, within the same moment, by the order of
//! scheduling.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use plimsoll_core::Tick;

/// Events that have not happened yet.
#[derive(Debug)]
pub struct EventQueue<E> {
    heap: BinaryHeap<Reverse<Scheduled<E>>>,
    next_order: u64,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Tick,
    /// Breaks ties of time, so that a run depends on its random seed alone.
    order: u64,
    event: E,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next_order: 0 }
    }
}

impl<E> EventQueue<E> {
    /// Schedules an event; one at [`Tick::NEVER`] is dropped.
    pub fn schedule(&mut self, at: Tick, event: E) {
        if at != Tick::NEVER {
            self.heap.push(Reverse(Scheduled { at, order: self.next_order, event }));
            self.next_order += 1;
        }
    }

    /// Removes and returns the next event and its time.
    pub fn pop(&mut self) -> Option<(Tick, E)> {
        self.heap.pop().map(|Reverse(scheduled)| (scheduled.at, scheduled.event))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_pop_in_order_of_time_then_of_scheduling() {
        let (mut queue, at) = (EventQueue::default(), Tick::from_nanos);
        for (nanos, event) in [(5, 'b'), (9, 'd'), (5, 'c'), (1, 'a')] {
            queue.schedule(at(nanos), event);
        }
        queue.schedule(Tick::NEVER, 'x');
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
