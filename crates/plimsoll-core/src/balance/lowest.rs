//! Who has the lowest score, whatever it is made of.

use std::hint::select_unpredictable;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cursor::{Cursors, Ring};
use super::draw::Dice;
use super::least::{EXACT_UP_TO, SAMPLE};
use super::{Picker, Slot};
use crate::rng::Rng;
use crate::snapshot::Want;
use crate::time::Tick;

/// What slots are compared by.
pub(super) trait Score: Send + Sync {
    /// Looks up what all are compared with, once for each message.
    fn prepare(&self, _now: Tick, _rng: &mut Rng) {}

    /// The lower the better; never NaN.
    fn of(&self, slot: usize, now: Tick) -> f64;
}

/// A picker of the lowest score. As with [`LeastConnections`](super::least::LeastConnections) the choice is exact
/// up to 64 slots, and those that tie take turns per worker, in configured order; beyond that it is the best of
/// five different ones drawn by weight, of equals the first drawn.
pub(super) fn lowest(score: impl Score + 'static, slots: &[Slot], cursors: Arc<Cursors>) -> Box<dyn Picker> {
    if slots.len() > EXACT_UP_TO {
        return Box::new(LowestOfSample { dice: Dice::by_weight(slots), score });
    }
    cursors.start(|worker| Ring::start_of(slots, worker));
    let after = slots.iter().map(|slot| slot.rank + 1).collect();
    Box::new(LowestOfAll { cursors, ring: Ring::new(slots), after, score })
}

struct LowestOfAll<S> {
    cursors: Arc<Cursors>,
    ring: Ring,
    after: Box<[u32]>,
    score: S,
}

impl<S: Score> Picker for LowestOfAll<S> {
    fn pick(&self, want: &Want<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        let cursor = self.cursors.of(want.worker);
        let start = self.ring.at(cursor.load(Relaxed)).slot as usize;
        let (mut best, mut least) = (start, f64::INFINITY);
        for index in (start..self.after.len()).chain(0..start) {
            let score = self.score.of(index, now);
            if score < least {
                (best, least) = (index, score);
            }
        }
        if !want.is_retry() {
            cursor.store(u64::from(self.after[best]), Relaxed);
        }
        best
    }

    fn score(&self, slot: usize, now: Tick) -> Option<f64> {
        Some(self.score.of(slot, now))
    }
}

struct LowestOfSample<S> {
    dice: Dice,
    score: S,
}

impl<S: Score> Picker for LowestOfSample<S> {
    fn pick(&self, _want: &Want<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        let (drawn, count) = self.dice.some::<SAMPLE>(rng);
        let first = (drawn[0], self.score.of(drawn[0], now));
        let lower = |best: (usize, f64), &index: &usize| {
            let score = self.score.of(index, now);
            select_unpredictable(score < best.1, (index, score), best)
        };
        drawn[1..count].iter().fold(first, lower).0
    }

    fn score(&self, slot: usize, now: Tick) -> Option<f64> {
        Some(self.score.of(slot, now))
    }
}
