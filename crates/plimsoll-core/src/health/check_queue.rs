//! Queue of health checks: limits the number of concurrent checks and knows which results still count.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use crate::destination::DestinationId;
use crate::time::Tick;

/// Health check under way.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Start of the check.
    pub at: Tick,
    /// Time at which the result is taken for lost.
    pub until: Tick,
    /// Whether the result no longer counts, because what it is about has changed.
    pub stale: bool,
}

#[derive(Copy, Clone, Debug)]
enum Check {
    Waiting,
    Sent(Sent),
}

/// Queued and running checks of a pool. A running check counts until its result arrives, even if the result is stale.
#[derive(Debug, Default)]
pub struct CheckQueue {
    checks: BTreeMap<DestinationId, Check>,
    queue: VecDeque<DestinationId>,
    sent: usize,
}

impl CheckQueue {
    /// Queues a check, unless one is queued or running already.
    pub fn enqueue(&mut self, id: DestinationId) {
        if let Entry::Vacant(free) = self.checks.entry(id) {
            free.insert(Check::Waiting);
            self.queue.push_back(id);
        }
    }

    /// Returns the next check if fewer than `max_concurrent` are running. The caller reports it with
    /// [`sent`](Self::sent).
    pub fn next(&mut self, max_concurrent: usize) -> Option<DestinationId> {
        if self.sent >= max_concurrent {
            return None;
        }
        let id = self.queue.pop_front()?;
        self.checks.remove(&id);
        Some(id)
    }

    /// Records that a check was sent at `at`; it counts as running until `until` at the latest.
    pub fn sent(&mut self, id: DestinationId, at: Tick, until: Tick) {
        if !matches!(
            self.checks.insert(id, Check::Sent(Sent { at, until, stale: false })),
            Some(Check::Sent(_))
        ) {
            self.sent += 1;
        }
    }

    /// Returns the running check of `id`, if any.
    pub fn running(&self, id: DestinationId) -> Option<Sent> {
        match self.checks.get(&id) {
            Some(Check::Sent(sent)) => Some(*sent),
            _ => None,
        }
    }

    /// Returns whether a check of `id` is queued.
    pub fn is_queued(&self, id: DestinationId) -> bool {
        matches!(self.checks.get(&id), Some(Check::Waiting))
    }

    /// Ends the running check of `id` and returns it; `None` if there is none.
    pub fn finish(&mut self, id: DestinationId) -> Option<Sent> {
        let sent = self.running(id)?;
        self.checks.remove(&id);
        self.sent -= 1;
        Some(sent)
    }

    /// Discards a queued check of `id` and marks a running one as stale.
    pub fn invalidate(&mut self, id: DestinationId) {
        match self.checks.get_mut(&id) {
            Some(Check::Sent(sent)) => sent.stale = true,
            Some(Check::Waiting) => {
                self.checks.remove(&id);
                self.queue.retain(|&waiting| waiting != id);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Tick = Tick::from_nanos(1_000);

    fn id(n: u32) -> DestinationId {
        DestinationId(n)
    }

    fn send_all(check_queue: &mut CheckQueue, max_concurrent: usize) -> Vec<u32> {
        std::iter::from_fn(|| {
            let next = check_queue.next(max_concurrent)?;
            check_queue.sent(next, Tick::ZERO, SOON);
            Some(next.0)
        })
        .collect()
    }

    #[test]
    fn single_concurrent_check_keeps_the_order_of_the_queue() {
        let mut check_queue = CheckQueue::default();
        [3, 1, 2, 1].into_iter().for_each(|n| check_queue.enqueue(id(n)));
        assert_eq!(send_all(&mut check_queue, 1), [3]);
        check_queue.enqueue(id(3));
        assert!(check_queue.finish(id(3)).is_some());
        check_queue.enqueue(id(3));
        assert_eq!(send_all(&mut check_queue, 1), [1]);
        check_queue.finish(id(1));
        assert_eq!(send_all(&mut check_queue, 3), [2, 3]);
    }

    #[test]
    fn result_without_a_running_check_is_ignored() {
        let mut check_queue = CheckQueue::default();
        check_queue.enqueue(id(1));
        assert_eq!(check_queue.finish(id(1)), None, "the check is only queued");
        send_all(&mut check_queue, 1);
        assert!(check_queue.finish(id(1)).is_some());
        assert_eq!(check_queue.finish(id(1)), None, "second result");
    }

    #[test]
    fn invalidated_check_counts_as_running_until_it_ends() {
        let mut check_queue = CheckQueue::default();
        [1, 2, 3].into_iter().for_each(|n| check_queue.enqueue(id(n)));
        send_all(&mut check_queue, 1);
        check_queue.invalidate(id(1));
        check_queue.invalidate(id(2));
        assert!(send_all(&mut check_queue, 1).is_empty());
        assert!(check_queue.finish(id(1)).is_some_and(|sent| sent.stale));
        assert_eq!(send_all(&mut check_queue, 1), [3], "2 was dropped from the queue");
    }

    #[test]
    fn check_sent_again_counts_once() {
        let mut check_queue = CheckQueue::default();
        check_queue.enqueue(id(1));
        send_all(&mut check_queue, 1);
        check_queue.sent(id(1), SOON, SOON);
        check_queue.finish(id(1));
        check_queue.enqueue(id(2));
        assert_eq!(send_all(&mut check_queue, 1), [2]);
    }
}
