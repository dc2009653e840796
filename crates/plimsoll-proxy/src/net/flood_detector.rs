//! Whether what a client of HTTP/2 sends is of use to anybody, before it costs us anything.
//!
//! Frames that carry nothing are cheap to send and dear to take in (CVE-2019-9511 to 9518). They are counted
//! as they come off the socket; who sends hardly anything else is not read any further.

use std::cell::{Cell, RefCell};
use std::io;

/// Bytes of one connection that are read before others get their turn.
const TURN: usize = 16 * 1024;
/// The client's preface (RFC 9113 section 3.4), which is no frame.
const PREFACE: usize = 24;
/// What may be spent at once, …
const BURST: u64 = 1024;
/// … for each kibibyte of a request or an answer, …
const PER_KIB: u64 = 64;
/// … and for each second: a ping now and then keeps a quiet connection alive for weeks.
const PER_SECOND: u64 = 64;

/// What a frame costs that carries nothing: settings are answered and applied to every stream.
const fn cost(kind: u8, len: usize) -> u64 {
    match (kind, len) {
        (4, _) => 64,
        (6 | 3, _) => 8,
        (2 | 8 | 9, _) | (0, 0) => 1,
        _ => 0,
    }
}

/// One connection's flood.
#[derive(Debug, Default)]
pub(crate) struct FloodDetector {
    unlimited: bool,
    turn: Cell<usize>,
    spent: Cell<u64>,
    earned: Cell<u64>,
    place: RefCell<Place>,
}

/// Where in the row of frames the bytes stand.
#[derive(Debug)]
struct Place {
    /// Of a payload, or of the preface, that is still to come.
    left: usize,
    head: [u8; 9],
    have: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { left: PREFACE, head: [0; 9], have: 0 }
    }
}

impl FloodDetector {
    /// For the other side, whom the configuration chose: nothing is counted.
    pub(crate) fn unlimited() -> Self {
        Self { unlimited: true, ..Self::default() }
    }

    /// Another turn of this connection begins.
    pub(crate) fn turn(&self) {
        self.turn.set(TURN);
    }

    /// Bytes that may still be read in this turn.
    pub(crate) fn left(&self) -> usize {
        if self.unlimited { usize::MAX } else { self.turn.get() }
    }

    /// So many bytes of a request or of an answer were moved.
    pub(crate) fn used(&self, bytes: usize) {
        self.earned.set(self.earned.get() + (bytes as u64 * PER_KIB).div_ceil(1024));
    }

    /// So many bytes of an answer went out in one piece, which was all there was: who takes it may say so twice,
    /// for its stream and for the connection, however small it is.
    pub(crate) fn answered(&self, bytes: usize) {
        self.used(bytes.max((2 * 1024 / PER_KIB) as usize));
    }

    /// So many bytes of an answer went out, and the client's window had no room for more: who opens it byte by
    /// byte (CVE-2019-9511) earns nothing by it.
    pub(crate) fn dribbled(&self, bytes: usize) {
        self.earned.set(self.earned.get() + bytes as u64 * PER_KIB / 1024);
    }

    /// So many seconds have gone by.
    pub(crate) fn waited(&self, seconds: u64) {
        self.earned.set(self.earned.get() + seconds * PER_SECOND);
    }

    /// Takes note of bytes that came.
    ///
    /// # Errors
    /// It is a flood; the bytes are not to be looked at.
    pub(crate) fn read(&self, mut bytes: &[u8]) -> io::Result<()> {
        if self.unlimited {
            return Ok(());
        }
        self.turn.set(self.turn.get().saturating_sub(bytes.len()));
        let mut place = self.place.borrow_mut();
        while !bytes.is_empty() {
            if place.left > 0 {
                let skipped = place.left.min(bytes.len());
                place.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let have = place.have;
            let taken = (9 - have).min(bytes.len());
            place.head[have..have + taken].copy_from_slice(&bytes[..taken]);
            place.have += taken;
            bytes = &bytes[taken..];
            if place.have == 9 {
                let len = u32::from_be_bytes([0, place.head[0], place.head[1], place.head[2]]) as usize;
                self.spent.set(self.spent.get() + cost(place.head[3], len));
                (place.left, place.have) = (len, 0);
            }
        }
        match self.is_flooded() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    /// More was sent that is of no use than use can excuse.
    pub(crate) fn is_flooded(&self) -> bool {
        self.spent.get() > BURST + self.earned.get()
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
    fn frames_are_told_apart_whatever_the_cuts() {
        let wire =
            [vec![b'x'; PREFACE], frame(4, b"123456"), frame(6, b"12345678"), frame(0, b"data")].concat();
        for step in 1..=wire.len() {
            let flood = FloodDetector::default();
            wire.chunks(step).for_each(|piece| flood.read(piece).expect("no flood"));
            assert_eq!(flood.spent.get(), 72, "step {step}");
        }
    }

    #[test]
    fn a_flood_is_one_unless_use_excuses_it() {
        let (flood, pings) = (FloodDetector::default(), frame(6, b"12345678").repeat(100));
        flood.read(&[0; PREFACE]).expect("the preface");
        let many = (0..100).take_while(|_| flood.read(&pings).is_ok()).count();
        assert_eq!(many, BURST as usize / 800);
        flood.waited(60);
        flood.used(1 << 20);
        assert!(!flood.is_flooded());
    }

    #[test]
    fn who_acknowledges_each_small_piece_floods_nobody() {
        let (flood, updates) = (FloodDetector::default(), frame(8, b"1234").repeat(2));
        flood.read(&[0; PREFACE]).expect("the preface");
        for n in 0..10 * BURST {
            flood.answered(1);
            assert!(flood.read(&updates).is_ok(), "piece {n}");
        }
        let kept = (0..10 * BURST).take_while(|_| {
            flood.dribbled(1);
            flood.read(&updates).is_ok()
        });
        assert!(kept.count() <= BURST as usize, "byte by byte");
    }
}
