//! Bytes a socket would not take yet, and how much is read while that is so.

use std::io;
use std::task::Poll;

use crate::base::buffers::SCRATCH;

/// The first read, and every read after a socket was full: what waits is copied and kept, so this bounds
/// what somebody who reads slowly holds. Reads grow while everything is taken.
const SMALL_READ: usize = 64 * 1024;

/// What one direction of a connection still owes its target.
#[derive(Debug)]
pub(crate) struct Pending {
    bytes: Vec<u8>,
    at: usize,
    read_size: usize,
}

impl Default for Pending {
    fn default() -> Self {
        Self { bytes: Vec::new(), at: 0, read_size: SMALL_READ }
    }
}

impl From<Vec<u8>> for Pending {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }
}

impl Pending {
    /// What has not left yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// More to send, behind everything else.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Bytes worth reading at once from whoever fills this.
    pub(crate) fn read_size(&self) -> usize {
        self.read_size
    }

    /// The first `by` bytes of the rest have left.
    pub(crate) fn advance(&mut self, by: usize) {
        self.at += by;
        if self.is_empty() {
            // A burst's buffer is not kept for the next message.
            (self.bytes, self.at) = (Vec::new(), 0);
        }
    }

    /// Takes note of a write of `parts`, and keeps what it left of them. Answers the bytes that left.
    ///
    /// # Errors
    /// The write's.
    pub(crate) fn wrote(&mut self, polled: Poll<io::Result<usize>>, parts: [&[u8]; 3]) -> io::Result<usize> {
        let written = match polled {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if written == total {
            self.read_size = (self.read_size * 2).min(SCRATCH);
            return Ok(written);
        }
        self.read_size = SMALL_READ;
        let mut skip = written;
        for part in parts {
            let skipped = skip.min(part.len());
            skip -= skipped;
            self.bytes.extend_from_slice(&part[skipped..]);
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_write_left_is_kept_in_order_whatever_the_cut() {
        let parts: [&[u8]; 3] = [b"head", b"body", b"tail"];
        for written in 0..=12 {
            let mut pending = Pending::default();
            let left = pending.wrote(Poll::Ready(Ok(written)), parts).expect("written");
            assert_eq!((left, pending.rest()), (written, &b"headbodytail"[written..]));
        }
    }

    #[test]
    fn reads_grow_while_all_is_taken_and_shrink_when_a_socket_is_full() {
        let mut pending = Pending::default();
        for expected in [SMALL_READ, 2 * SMALL_READ, SCRATCH, SCRATCH] {
            assert_eq!(pending.read_size(), expected);
            pending.wrote(Poll::Ready(Ok(1)), [b"x", b"", b""]).expect("written");
        }
        pending.wrote(Poll::Pending, [b"xyz", b"", b""]).expect("nothing went wrong");
        assert_eq!((pending.read_size(), pending.rest()), (SMALL_READ, &b"xyz"[..]));
        pending.advance(2);
        assert_eq!(pending.rest(), b"z");
        pending.advance(1);
        assert!(pending.is_empty() && pending.buffer().capacity() == 0);
    }
}
