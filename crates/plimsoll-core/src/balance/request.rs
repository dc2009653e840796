//! Input of a pick: what a message needs from its destination, and which destinations it was sent to before.

use crate::destination::DestinationId;
use crate::subset::Subset;

/// Destinations that one message was sent to already, as a bounded list on the stack.
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
    /// Maximum number of attempts of one message; `retry.attempts` is not above it.
    pub const MAX: usize = 10;

    /// Adds a destination. A full set ignores further ones.
    pub fn add(&mut self, id: DestinationId) {
        if !self.contains(id)
            && let Some(free) = self.ids.get_mut(usize::from(self.len))
        {
            *free = id;
            self.len += 1;
        }
    }

    /// Returns whether the destination was tried.
    pub fn contains(&self, id: DestinationId) -> bool {
        self.ids[..usize::from(self.len)].contains(&id)
    }

    /// Returns whether the message has no attempt left.
    pub fn is_full(&self) -> bool {
        usize::from(self.len) == Self::MAX
    }

    /// Returns whether no destination was tried yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What one message asks of the pick.
#[derive(Copy, Clone, Debug, Default)]
pub struct PickRequest<'a> {
    /// Number of the worker that sends the message; rotations are kept per worker.
    pub worker: usize,
    /// Destinations that were tried before.
    pub tried: Option<&'a AttemptedSet>,
    /// Whether the message may be sent again if it fails, which makes it fit for the trial of an ejected destination.
    pub repeatable: bool,
    /// Hash of the session the message belongs to. With one, no picker is asked: the message goes to the session's
    /// preferred destination ([`Snapshot::preferred_destination`](crate::Snapshot::preferred_destination)).
    pub affinity_key: Option<u64>,
    /// Hash of the key for policies that need one ([`Needs::Key`](crate::balance::Needs::Key)); others ignore it.
    pub key: Option<u64>,
    /// Whether the message is sent later, which is reported by
    /// [`Assignment::request_sent`](crate::Assignment::request_sent). Otherwise its time at the destination begins with
    /// the pick.
    pub sent_later: bool,
    /// Whether the message was queued and is now the first of its worker's queue. Other messages wait behind the queue.
    pub dequeued: bool,
    /// Subset of the pool that the message is for.
    pub subset: Option<&'a Subset>,
}

impl PickRequest<'_> {
    /// Returns whether another destination was tried before. A retry does not advance a rotation: otherwise, of two
    /// destinations, the failing one would be first for every message.
    pub fn is_retry(&self) -> bool {
        self.tried.is_some_and(|tried| !tried.is_empty())
    }

    pub(crate) fn has_tried(&self, id: DestinationId) -> bool {
        self.tried.is_some_and(|tried| tried.contains(id))
    }
}
