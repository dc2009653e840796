//! Bytes that a socket has not taken yet, and how much is read meanwhile.

use std::io;
use std::task::Poll;

use crate::base::buffers::SCRATCH;
use crate::base::memory::{self, CountedBytes};

/// Size of the first read, and of each read after a socket was full.
///
/// Bytes that a socket does not take are copied, so this bounds the memory for a slow reader. Reads grow while all
/// bytes are taken.
const SMALL_READ: usize = 64 * 1024;
/// Size of a read while the buffers of the process are full. Peers that read are served on, those that do not hold little
/// more.
const READ_WHEN_FULL: usize = 4 * 1024;

/// Unsent bytes of one direction of a connection.
#[derive(Debug)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    at: usize,
    read_size: usize,
    counted: CountedBytes,
}

impl Default for WriteBuffer {
    fn default() -> Self {
        Self { bytes: Vec::new(), at: 0, read_size: SMALL_READ, counted: CountedBytes::default() }
    }
}

impl From<Vec<u8>> for WriteBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }
}

impl WriteBuffer {
    /// Returns the bytes that are not sent yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Returns the buffer, to append bytes to send.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns how many bytes to read at once from the source.
    pub(crate) fn read_size(&self) -> usize {
        if memory::is_full() { READ_WHEN_FULL } else { self.read_size }
    }

    /// Removes the first `by` unsent bytes: they were sent.
    pub(crate) fn advance(&mut self, by: usize) {
        self.at += by;
        if self.is_empty() {
            // The memory of a burst is released.
            (self.bytes, self.at) = (Vec::new(), 0);
            self.counted.set(0);
        }
    }

    /// Records the result of a write of `parts`, and keeps the bytes that were not written. Returns the number of
    /// written bytes.
    ///
    /// # Errors
    /// The error of the write.
    pub(crate) fn on_write(
        &mut self,
        polled: Poll<io::Result<usize>>,
        parts: [&[u8]; 3],
    ) -> io::Result<usize> {
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
        self.counted.set(self.bytes.len());
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwritten_bytes_are_kept_in_order_after_any_partial_write() {
        let parts: [&[u8]; 3] = [b"head", b"body", b"tail"];
        for written in 0..=12 {
            let mut buffer = WriteBuffer::default();
            let left = buffer.on_write(Poll::Ready(Ok(written)), parts).expect("written");
            assert_eq!((left, buffer.rest()), (written, &b"headbodytail"[written..]));
        }
    }

    #[test]
    fn reads_grow_while_all_is_written_and_shrink_when_the_socket_is_full() {
        let mut buffer = WriteBuffer::default();
        for expected in [SMALL_READ, 2 * SMALL_READ, SCRATCH, SCRATCH] {
            assert_eq!(buffer.read_size(), expected);
            buffer.on_write(Poll::Ready(Ok(1)), [b"x", b"", b""]).expect("written");
        }
        buffer.on_write(Poll::Pending, [b"xyz", b"", b""]).expect("no error");
        assert_eq!((buffer.read_size(), buffer.rest()), (SMALL_READ, &b"xyz"[..]));
        buffer.advance(2);
        assert_eq!(buffer.rest(), b"z");
        buffer.advance(1);
        assert!(buffer.is_empty() && buffer.buffer().capacity() == 0);
    }
}
