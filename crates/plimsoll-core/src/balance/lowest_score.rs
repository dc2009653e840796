//! Pick of the lowest score, whatever it is computed from.

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

/// Maximum number of slots that are all scored. A score costs several times as much as a counter, so the limit is below
/// [`EXACT_UP_TO`](super::least_loaded::EXACT_UP_TO).
pub(super) const SCORED_UP_TO: usize = 16;

/// Score that slots are compared by.
pub(super) trait Score: Send + Sync {
    /// Factor from the compared score to the reported one, which is per unit of weight: 256 where a score divides
    /// by a weight in 256ths.
    const REPORTED_UNIT: f64 = 1.0;

    /// Computes what all slots are compared with, once per message.
    fn prepare(&self, _now: Tick, _rng: &mut Rng) {}

    /// Reads the shared data of a slot. All slots are read before scores are computed, so that cache lines load in
    /// parallel.
    fn look(&self, slot: usize) -> Seen;

    /// Returns the score, lower is better and never NaN.
    fn of(&self, slot: usize, seen: Seen, now: Tick) -> f64;
}

/// Shared data read from a slot.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) in_flight: u32,
    /// Measurement as it is stored.
    pub(super) word: u64,
}

/// Creates a picker of the lowest score. Up to 16 slots are all compared, and equal ones take turns per worker, as with
/// [`LeastConnections`](super::least_loaded::LeastConnections). Of more slots, five different ones are drawn by weight,
/// and the first of the lowest is picked.
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
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        let cursor = self.cursors.of(request.worker);
        let start = self.ring.at(cursor.load(Relaxed)).slot as usize;
        let count = self.after.len().min(SCORED_UP_TO);
        let mut scores = [f64::INFINITY; SCORED_UP_TO];
        for (slot, score) in scores[..count].iter_mut().enumerate() {
            *score = self.score.of(slot, self.score.look(slot), now);
        }
        let best = first_lowest(&scores[..count], start);
        if !request.is_retry() {
            cursor.store(u64::from(self.after[best]), Relaxed);
        }
        best
    }

    fn score(&self, slot: usize, now: Tick) -> Option<f64> {
        Some(self.score.of(slot, self.score.look(slot), now) * S::REPORTED_UNIT)
    }
}

/// Returns the first of the lowest from `start` on and around.
fn first_lowest(scores: &[f64], start: usize) -> usize {
    let lower = |best: (usize, f64), (index, &score): (usize, &f64)| {
        select_unpredictable(score < best.1, (index, score), best)
    };
    let none = (start, f64::INFINITY);
    let behind = scores.iter().enumerate().skip(start).fold(none, lower);
    scores[..start].iter().enumerate().fold(behind, lower).0
}

struct LowestOfSample<S> {
    sampler: WeightedSampler,
    score: S,
}

impl<S: Score> Picker for LowestOfSample<S> {
    fn pick(&self, _request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        let (drawn, count) = self.sampler.some::<SAMPLE>(rng);
        // If fewer were drawn, the others are the first slot.
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
    fn first_of_equal_scores_from_the_start_is_picked() {
        let scores = [3.0, 1.0, 2.0, 1.0];
        let from = |start| first_lowest(&scores, start);
        assert_eq!([from(0), from(1), from(2), from(3)], [1, 1, 3, 3]);
        assert_eq!(first_lowest(&[f64::INFINITY; 3], 2), 2);
    }
}
