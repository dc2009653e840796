//! Who has the lowest score, whatever it is made of.

use std::hint::select_unpredictable;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::least_loaded::SAMPLE;
use super::rotation_state::{Ring, RotationStates};
use super::sampling::WeightedSampler;
use super::{Picker, Slot};
use crate::balance::PickRequest;
use crate::rng::Rng;
use crate::time::Tick;

/// Up to this many slots every one is looked at. A score costs several times what a counter alone does, so the
/// 50 ns a pick may cost are used up sooner than with [`EXACT_UP_TO`](super::least_loaded::EXACT_UP_TO).
pub(super) const SCORED_UP_TO: usize = 16;

/// What slots are compared by.
pub(super) trait Score: Send + Sync {
    /// Factor from the compared score to the reported one, which is per unit of weight: 256 where a score divides
    /// by a weight in 256ths.
    const REPORTED_UNIT: f64 = 1.0;

    /// Looks up what all are compared with, once for each message.
    fn prepare(&self, _now: Tick, _rng: &mut Rng) {}

    /// Reads what a score needs to know of a slot that others write. All that are compared are looked at before
    /// anything is made of it, so that their lines come together.
    fn look(&self, slot: usize) -> Seen;

    /// The lower the better; never NaN.
    fn of(&self, slot: usize, seen: Seen, now: Tick) -> f64;
}

/// What was seen of a slot.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) in_flight: u32,
    /// A measurement, as it is kept.
    pub(super) word: u64,
}

/// A picker of the lowest score. Up to 16 slots the choice is exact, and those that tie take turns per worker, in
/// configured order, as with [`LeastConnections`](super::least_loaded::LeastConnections); beyond that it is the best of
/// five different ones drawn by weight, of equals the first drawn.
pub(super) fn lowest(
    score: impl Score + 'static,
    slots: &[Slot],
    cursors: Arc<RotationStates>,
) -> Box<dyn Picker> {
    if slots.len() > SCORED_UP_TO {
        return Box::new(LowestOfSample { sampler: WeightedSampler::by_weight(slots), score });
    }
    cursors.start(|worker| Ring::start_of(slots, worker));
    let after = slots.iter().map(|slot| slot.rank + 1).collect();
    Box::new(LowestOfAll { cursors, ring: Ring::new(slots), after, score })
}

struct LowestOfAll<S> {
    cursors: Arc<RotationStates>,
    ring: Ring,
    after: Box<[u32]>,
    score: S,
}

impl<S: Score> Picker for LowestOfAll<S> {
    fn pick(&self, want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        let cursor = self.cursors.of(want.worker);
        let start = self.ring.at(cursor.load(Relaxed)).slot as usize;
        let count = self.after.len().min(SCORED_UP_TO);
        let mut scores = [f64::INFINITY; SCORED_UP_TO];
        for (slot, score) in scores[..count].iter_mut().enumerate() {
            *score = self.score.of(slot, self.score.look(slot), now);
        }
        let best = first_lowest(&scores[..count], start);
        if !want.is_retry() {
            cursor.store(u64::from(self.after[best]), Relaxed);
        }
        best
    }

    fn score(&self, slot: usize, now: Tick) -> Option<f64> {
        Some(self.score.of(slot, self.score.look(slot), now) * S::REPORTED_UNIT)
    }
}

/// The first of the lowest from `start` on and around.
fn first_lowest(scores: &[f64], start: usize) -> usize {
    let lower = |best: (usize, f64), (index, &score): (usize, &f64)| {
        select_unpredictable(score < best.1, (index, score), best)
    };
    let nobody = (start, f64::INFINITY);
    let behind = scores.iter().enumerate().skip(start).fold(nobody, lower);
    scores[..start].iter().enumerate().fold(behind, lower).0
}

struct LowestOfSample<S> {
    sampler: WeightedSampler,
    score: S,
}

impl<S: Score> Picker for LowestOfSample<S> {
    fn pick(&self, _want: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        let (drawn, count) = self.sampler.some::<SAMPLE>(rng);
        // Where fewer were drawn the others are the first slot, which costs a look at it.
        let seen = drawn.map(|slot| self.score.look(slot));
        let score = |nth: usize| (drawn[nth], self.score.of(drawn[nth], seen[nth], now));
        let lower = |best: (usize, f64), nth: usize| {
            let other = score(nth);
            select_unpredictable(other.1 < best.1, other, best)
        };
        (1..count).fold(score(0), lower).0
    }

    fn score(&self, slot: usize, now: Tick) -> Option<f64> {
        Some(self.score.of(slot, self.score.look(slot), now) * S::REPORTED_UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equals_the_first_from_where_the_turn_is() {
        let scores = [3.0, 1.0, 2.0, 1.0];
        let from = |start| first_lowest(&scores, start);
        assert_eq!([from(0), from(1), from(2), from(3)], [1, 1, 3, 3]);
        assert_eq!(first_lowest(&[f64::INFINITY; 3], 2), 2);
    }
}
