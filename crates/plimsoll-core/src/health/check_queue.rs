//! Which checks run now and which wait: how many may be out at once, and whose answer still counts.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use crate::destination::DestinationId;
use crate::time::Tick;

/// A check that was sent out.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Tick,
    /// An answer that is not here by then is not coming.
    pub until: Tick,
    /// Its answer no longer counts: what it asks about has changed.
    pub stale: bool,
}

#[derive(Copy, Clone, Debug)]
enum Check {
    Waiting,
    Sent(Sent),
}

/// The checks of a pool under way. A lane is taken until the answer comes, even if nobody wants it any
/// more: what was asked for runs.
#[derive(Debug, Default)]
pub struct CheckQueue {
    checks: BTreeMap<DestinationId, Check>,
    queue: VecDeque<DestinationId>,
    sent: usize,
}

impl CheckQueue {
    /// Queues a check, unless one waits or runs already.
    pub fn ask(&mut self, id: DestinationId) {
        if let Entry::Vacant(free) = self.checks.entry(id) {
            free.insert(Check::Waiting);
            self.queue.push_back(id);
        }
    }

    /// The next check to send if fewer than `width` are out; whoever gets it says [`sent`](Self::sent).
    pub fn next(&mut self, width: usize) -> Option<DestinationId> {
        if self.sent >= width {
            return None;
        }
        let id = self.queue.pop_front()?;
        self.checks.remove(&id);
        Some(id)
    }

    /// A check went out at `at`; its lane is free again at `until` at the latest.
    pub fn sent(&mut self, id: DestinationId, at: Tick, until: Tick) {
        if !matches!(
            self.checks.insert(id, Check::Sent(Sent { at, until, stale: false })),
            Some(Check::Sent(_))
        ) {
            self.sent += 1;
        }
    }

    /// The check of `id` that is out, if any.
    pub fn out(&self, id: DestinationId) -> Option<Sent> {
        match self.checks.get(&id) {
            Some(Check::Sent(sent)) => Some(*sent),
            _ => None,
        }
    }

    /// A check of `id` waits for a lane.
    pub fn waits(&self, id: DestinationId) -> bool {
        matches!(self.checks.get(&id), Some(Check::Waiting))
    }

    /// The answer is here or is not coming: frees the lane. `None` if nothing was asked.
    pub fn answered(&mut self, id: DestinationId) -> Option<Sent> {
        let sent = self.out(id)?;
        self.checks.remove(&id);
        self.sent -= 1;
        Some(sent)
    }

    /// What a check of `id` would say no longer counts: one that waits is dropped, one that is out goes on.
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

    fn send_all(check_queue: &mut CheckQueue, width: usize) -> Vec<u32> {
        std::iter::from_fn(|| {
            let next = check_queue.next(width)?;
            check_queue.sent(next, Tick::ZERO, SOON);
            Some(next.0)
        })
        .collect()
    }

    #[test]
    fn one_lane_serves_in_the_order_of_asking() {
        let mut check_queue = CheckQueue::default();
        [3, 1, 2, 1].into_iter().for_each(|n| check_queue.ask(id(n)));
        assert_eq!(send_all(&mut check_queue, 1), [3]);
        check_queue.ask(id(3));
        assert!(check_queue.answered(id(3)).is_some());
        check_queue.ask(id(3));
        assert_eq!(send_all(&mut check_queue, 1), [1]);
        check_queue.answered(id(1));
        assert_eq!(send_all(&mut check_queue, 3), [2, 3]);
    }

    #[test]
    fn an_answer_nobody_asked_for_is_none() {
        let mut check_queue = CheckQueue::default();
        check_queue.ask(id(1));
        assert_eq!(check_queue.answered(id(1)), None, "it only waits");
        send_all(&mut check_queue, 1);
        assert!(check_queue.answered(id(1)).is_some());
        assert_eq!(check_queue.answered(id(1)), None, "a second answer");
    }

    #[test]
    fn a_disowned_check_keeps_its_lane_until_it_ends() {
        let mut check_queue = CheckQueue::default();
        [1, 2, 3].into_iter().for_each(|n| check_queue.ask(id(n)));
        send_all(&mut check_queue, 1);
        check_queue.invalidate(id(1));
        check_queue.invalidate(id(2));
        assert_eq!(send_all(&mut check_queue, 1), []);
        assert!(check_queue.answered(id(1)).is_some_and(|sent| sent.stale));
        assert_eq!(send_all(&mut check_queue, 1), [3], "2 was dropped from the queue");
    }

    #[test]
    fn a_check_sent_again_takes_no_second_lane() {
        let mut check_queue = CheckQueue::default();
        check_queue.ask(id(1));
        send_all(&mut check_queue, 1);
        check_queue.sent(id(1), SOON, SOON);
        check_queue.answered(id(1));
        check_queue.ask(id(2));
        assert_eq!(send_all(&mut check_queue, 1), [2]);
    }
}
