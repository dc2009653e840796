//! Detection of HTTP/2 control frame floods, before they are processed.
//!
//! Frames without payload are cheap to send and expensive to process (CVE-2019-9511 to 9518). Their cost is counted as
//! they arrive from the socket; a connection that sends hardly anything else is closed.

use std::cell::{Cell, RefCell};
use std::io;

/// Number of bytes of one connection that are read before other connections.
const READ_QUANTUM: usize = 16 * 1024;
/// Size of the client connection preface (RFC 9113 section 3.4), which is not a frame.
const PREFACE: usize = 24;
/// Initial credit of a connection.
const BURST: u64 = 1024;
/// Credit for each kibibyte of a request or response.
const PER_KIB: u64 = 64;
/// Credit for each second, so that PINGs keep an idle connection open.
const PER_SECOND: u64 = 64;

/// Returns the cost of a frame. SETTINGS cost most: they are acknowledged and applied to each stream.
const fn cost(kind: u8, len: usize) -> u64 {
    match (kind, len) {
        (4, _) => 64,
        (6 | 3, _) => 8,
        (2 | 8 | 9, _) | (0, 0) => 1,
        _ => 0,
    }
}

/// Flood detector of one connection.
#[derive(Debug, Default)]
pub(crate) struct FloodDetector {
    unlimited: bool,
    left: Cell<usize>,
    cost_sum: Cell<u64>,
    credit_sum: Cell<u64>,
    position: RefCell<Position>,
}

/// Position in the sequence of frames.
#[derive(Debug)]
struct Position {
    /// Number of bytes left of the payload or the preface.
    left: usize,
    head: [u8; 9],
    have: usize,
}

impl Default for Position {
    fn default() -> Self {
        Self { left: PREFACE, head: [0; 9], have: 0 }
    }
}

impl FloodDetector {
    /// Creates a detector that never reports a flood, for destinations, which are trusted.
    pub(crate) fn unlimited() -> Self {
        Self { unlimited: true, ..Self::default() }
    }

    /// Begins another read of this connection.
    pub(crate) fn begin_read(&self) {
        self.left.set(READ_QUANTUM);
    }

    /// Returns the number of bytes that may still be read before other connections.
    pub(crate) fn left(&self) -> usize {
        if self.unlimited { usize::MAX } else { self.left.get() }
    }

    /// Credits transferred bytes of a request or response.
    pub(crate) fn credit(&self, bytes: usize) {
        self.credit_sum.set(self.credit_sum.get() + (bytes as u64 * PER_KIB).div_ceil(1024));
    }

    /// Credits a write of all available response bytes. The client may acknowledge it with two WINDOW_UPDATE frames,
    /// for the stream and for the connection, however small it is.
    pub(crate) fn credit_write(&self, bytes: usize) {
        self.credit(bytes.max((2 * 1024 / PER_KIB) as usize));
    }

    /// Credits a write that filled the client's window. A client that opens its window byte by byte (CVE-2019-9511) gets
    /// almost no credit.
    pub(crate) fn credit_partial_write(&self, bytes: usize) {
        self.credit_sum.set(self.credit_sum.get() + bytes as u64 * PER_KIB / 1024);
    }

    /// Credits elapsed seconds.
    pub(crate) fn credit_time(&self, seconds: u64) {
        self.credit_sum.set(self.credit_sum.get() + seconds * PER_SECOND);
    }

    /// Counts the cost of received bytes.
    ///
    /// # Errors
    /// The connection is a flood; the bytes must not be processed.
    pub(crate) fn read(&self, mut bytes: &[u8]) -> io::Result<()> {
        if self.unlimited {
            return Ok(());
        }
        self.left.set(self.left.get().saturating_sub(bytes.len()));
        let mut position = self.position.borrow_mut();
        while !bytes.is_empty() {
            if position.left > 0 {
                let skipped = position.left.min(bytes.len());
                position.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let have = position.have;
            let taken = (9 - have).min(bytes.len());
            position.head[have..have + taken].copy_from_slice(&bytes[..taken]);
            position.have += taken;
            bytes = &bytes[taken..];
            if position.have == 9 {
                let len =
                    u32::from_be_bytes([0, position.head[0], position.head[1], position.head[2]]) as usize;
                self.cost_sum.set(self.cost_sum.get() + cost(position.head[3], len));
                (position.left, position.have) = (len, 0);
            }
        }
        match self.is_flooded() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    /// Reports whether the cost exceeds the credit.
    pub(crate) fn is_flooded(&self) -> bool {
        self.cost_sum.get() > BURST + self.credit_sum.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_recognized_however_the_bytes_are_split() {
        let wire =
            [vec![b'x'; PREFACE], frame(4, b"123456"), frame(6, b"12345678"), frame(0, b"data")].concat();
        for step in 1..=wire.len() {
            let flood = FloodDetector::default();
            wire.chunks(step).for_each(|piece| flood.read(piece).expect("no flood"));
            assert_eq!(flood.cost_sum.get(), 72, "step {step}");
        }
    }

    #[test]
    fn control_frames_are_a_flood_unless_transferred_bytes_give_credit() {
        let (flood, pings) = (FloodDetector::default(), frame(6, b"12345678").repeat(100));
        flood.read(&[0; PREFACE]).expect("the preface");
        let many = (0..100).take_while(|_| flood.read(&pings).is_ok()).count();
        assert_eq!(many, BURST as usize / 800);
        flood.credit_time(60);
        flood.credit(1 << 20);
        assert!(!flood.is_flooded());
    }

    #[test]
    fn acknowledging_each_small_write_is_not_a_flood() {
        let (flood, updates) = (FloodDetector::default(), frame(8, b"1234").repeat(2));
        flood.read(&[0; PREFACE]).expect("the preface");
        for n in 0..10 * BURST {
            flood.credit_write(1);
            assert!(flood.read(&updates).is_ok(), "piece {n}");
        }
        let kept = (0..10 * BURST).take_while(|_| {
            flood.credit_partial_write(1);
            flood.read(&updates).is_ok()
        });
        assert!(kept.count() <= BURST as usize, "byte by byte");
    }
}
