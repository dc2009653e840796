//! The single trial request of an ejected destination.
// Public for the loom test.
#![allow(unreachable_pub)]

use crate::sync::{AtomicU32, Ordering::Relaxed};

/// State of a trial: the low two bits.
const STATE_BITS: u32 = 0b11;
/// Also what clearing the state bits leaves.
const CLOSED: u32 = 0;
const OPEN: u32 = 1;
const TAKEN: u32 = 2;

/// Number of a trial; only the assignment that took the trial holds it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Trial(u32);

/// The trial of one destination, in one atomic: the low two bits are its state, the others number the trials. The
/// number keeps a late assignment of an earlier trial from reopening or deciding a later one.
///
/// `open` and `close` belong to the slow loop, `take` and `give_back` to the assignments.
#[derive(Debug)]
pub struct TrialSlot(AtomicU32);

impl Default for TrialSlot {
    fn default() -> Self {
        Self(AtomicU32::new(CLOSED))
    }
}

impl TrialSlot {
    /// Opens a new trial. Assignments of earlier trials no longer affect it.
    pub fn open(&self) {
        let next = |seen: u32| (seen & !STATE_BITS).wrapping_add(STATE_BITS + 1) | OPEN;
        let _always_succeeds = self.0.fetch_update(Relaxed, Relaxed, |seen| Some(next(seen)));
    }

    /// Opens the same trial for a further message: the outcome of each message that took it decides.
    pub fn reopen(&self) {
        let again = |seen: u32| (seen & STATE_BITS == TAKEN).then_some((seen & !STATE_BITS) | OPEN);
        let _open_or_closed = self.0.fetch_update(Relaxed, Relaxed, again);
    }

    /// Returns whether the trial can be taken.
    pub fn is_open(&self) -> bool {
        self.0.load(Relaxed) & STATE_BITS == OPEN
    }

    /// Closes the trial: it can no longer be taken, and an assignment that took it no longer decides it.
    pub fn close(&self) {
        // One read-modify-write, so that no concurrent `give_back` can be ordered after it.
        self.0.fetch_and(!STATE_BITS, Relaxed);
    }

    /// Takes the trial. Exactly one caller succeeds for each opened trial.
    pub fn take(&self) -> Option<Trial> {
        let seen = self.0.load(Relaxed);
        let number = seen & !STATE_BITS;
        (seen & STATE_BITS == OPEN && self.0.compare_exchange(seen, number | TAKEN, Relaxed, Relaxed).is_ok())
            .then_some(Trial(number))
    }

    /// Opens the trial again after its message ended without a proof.
    pub fn give_back(&self, Trial(number): Trial) {
        let _closed_meanwhile = self.0.compare_exchange(number | TAKEN, number | OPEN, Relaxed, Relaxed);
    }

    /// Returns whether `trial` is not closed yet, so its outcome decides.
    pub fn is_current(&self, Trial(number): Trial) -> bool {
        let seen = self.0.load(Relaxed);
        seen & !STATE_BITS == number && seen & STATE_BITS != CLOSED
    }
}
