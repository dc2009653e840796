//! Buffers of a worker: the read size, and a free list of request buffers.

use std::cell::RefCell;

/// Bytes that a worker reads at once. Large reads make bulk transfer cheap (docs/benchmarks.md).
pub(crate) const SCRATCH: usize = 256 * 1024;

/// Maximum number of free buffers kept.
const MAX_FREE: usize = 64;
/// Largest capacity of a buffer that is kept.
const MAX_CAPACITY: usize = 16 * 1024;

/// Free list of a worker's request buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// Returns an empty buffer, reused if one is free.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps a buffer for the next request, unless it is too large or enough are kept.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut free = self.0.borrow_mut();
        if buffer.capacity() <= MAX_CAPACITY && free.len() < MAX_FREE {
            buffer.clear();
            free.push(buffer);
        }
    }
}
