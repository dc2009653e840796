//! What a message asks of the choice: where it has been, what it keeps its destination by; and why nobody takes it.

use crate::destination::DestinationId;
use crate::subset::Subset;

/// The destinations one message has tried already; a bounded list on the stack.
#[derive(Copy, Clone, Debug)]
pub struct AttemptedSet {
    ids: [DestinationId; Self::MAX],
    len: u8,
}

impl Default for AttemptedSet {
    fn default() -> Self {
        Self { ids: [DestinationId(0); Self::MAX], len: 0 }
    }
}

impl AttemptedSet {
    /// More tries than this are never made for one message (`retry.attempts` is held below it).
    pub const MAX: usize = 10;

    /// Remembers one more; the oldest knowledge is kept when full.
    pub fn add(&mut self, id: DestinationId) {
        if !self.contains(id)
            && let Some(free) = self.ids.get_mut(usize::from(self.len))
        {
            *free = id;
            self.len += 1;
        }
    }

    /// Was it tried?
    pub fn contains(&self, id: DestinationId) -> bool {
        self.ids[..usize::from(self.len)].contains(&id)
    }

    /// No more tries are made.
    pub fn is_full(&self) -> bool {
        usize::from(self.len) == Self::MAX
    }

    /// Nobody was tried yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What one message wants of the choice.
#[derive(Copy, Clone, Debug, Default)]
pub struct PickRequest<'a> {
    /// The worker that asks: rotations go on per worker.
    pub worker: usize,
    /// Whom it has tried.
    pub tried: Option<&'a AttemptedSet>,
    /// It may be repeated elsewhere if it fails: fit to be the trial of an ejected destination.
    pub repeatable: bool,
    /// The hash of what it keeps its destination by whatever the pool's algorithm is: the same for the same client
    /// ([`Snapshot::home`](super::Snapshot::home)). No picker is asked then.
    pub affinity_key: Option<u64>,
    /// The hash of what policies that need a key choose by ([`Needs::Key`](crate::balance::Needs::Key)); the others do not look at it.
    pub key: Option<u64>,
    /// It has waited in the line, and is the next of its worker's. Others do not pass the line.
    pub dequeued: bool,
    /// The part of the pool it is for.
    pub subset: Option<&'a Subset>,
}

impl PickRequest<'_> {
    /// The message was tried elsewhere before. Its second try takes nobody's turn: were a rotation to go on
    /// with each retry, then of two destinations the dead one would be first for every message.
    pub fn is_retry(&self) -> bool {
        self.tried.is_some_and(|tried| !tried.is_empty())
    }

    pub(crate) fn has_tried(&self, id: DestinationId) -> bool {
        self.tried.is_some_and(|tried| tried.contains(id))
    }
}
