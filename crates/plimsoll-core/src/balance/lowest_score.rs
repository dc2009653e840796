//! Pick of the lowest score, whatever it is computed from.

use std::hint::select_unpredictable;
use std::sync::Arc;

use super::least_loaded::SAMPLE;
use super::rotation_state::RotationStates;
use super::sampling::WeightedSampler;
use super::slow_destinations::SlowDestinations;
use super::turns::{EvenTurns, Turns};
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

    /// Whether slots without messages in flight are equally good unless one is proven to be slow. Scores that are
    /// computed from latencies differ by chance, and without load nothing else would correct them.
    const IDLE_ALIKE: bool = false;

    /// Maximum difference from the lowest score at which a slot is still measured again. Greater ones are intended.
    const EXPLORED_UP_TO: f64 = f64::INFINITY;

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

/// Creates a picker of the lowest score. Up to 16 slots are all compared, and equal ones take turns per worker, by
/// weight, as with [`LeastConnections`](super::least_loaded::LeastConnections). Of more slots, five different ones are
/// drawn by weight, and the first of the lowest is picked.
///
/// With `slow`, for scores that are computed from latencies, a slot that gets no messages is measured again.
pub(super) fn lowest(
    score: impl Score + 'static,
    slots: &[Slot],
    states: Arc<RotationStates>,
    slow: Option<SlowDestinations>,
) -> Box<dyn Picker> {
    if slots.len() > SCORED_UP_TO {
        return Box::new(LowestOfSample { sampler: WeightedSampler::by_weight(slots), score, slow });
    }
    Box::new(LowestOfAll { turns: Turns::new(slots, states, true), count: slots.len(), score, slow })
}

/// Scores of all slots, and the slots that have no messages in flight and are not slow.
struct Scores {
    scores: [f64; SCORED_UP_TO],
    idle: u64,
}

struct LowestOfAll<S> {
    turns: Turns,
    count: usize,
    score: S,
    slow: Option<SlowDestinations>,
}

impl<S: Score> LowestOfAll<S> {
    fn scores(&self, now: Tick) -> Scores {
        let mut found = Scores { scores: [f64::INFINITY; SCORED_UP_TO], idle: 0 };
        for (slot, score) in found.scores[..self.count.min(SCORED_UP_TO)].iter_mut().enumerate() {
            let seen = self.score.look(slot);
            *score = self.score.of(slot, seen, now);
            if S::IDLE_ALIKE {
                found.idle |= u64::from(seen.in_flight == 0 && !self.is_slow(slot)) << slot;
            }
        }
        found
    }

    fn is_slow(&self, slot: usize) -> bool {
        self.slow.as_ref().is_some_and(|slow| slow.is_slow(slot))
    }

    /// Returns a slot to measure again, if one is due and the difference of its score is not intended.
    fn due(&self, scores: &[f64], request: &PickRequest<'_>) -> Option<usize> {
        let slot = self.slow.as_ref().filter(|_| !request.is_retry())?.take_due()?;
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        (scores[slot] - least <= S::EXPLORED_UP_TO).then_some(slot)
    }

    fn lowest_in_order(&self, scores: &[f64], turns: &EvenTurns, request: &PickRequest<'_>) -> usize {
        let best = first_lowest(scores, turns.start(request.worker));
        turns.take(best, request.worker, request.is_retry());
        best
    }
}

impl<S: Score> Picker for LowestOfAll<S> {
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        if let Some(slow) = &self.slow {
            slow.update(now, rng);
        }
        let Scores { scores, idle } = self.scores(now);
        let scores = &scores[..self.count.min(SCORED_UP_TO)];
        if let Some(due) = self.due(scores, request) {
            return due;
        }
        let lowest = first_lowest(scores, 0);
        if idle & (1 << lowest) != 0 || (idle != 0 && self.is_idle(lowest)) {
            return self.turns.next(idle, request.worker, request.is_retry());
        }
        match &self.turns {
            Turns::Even(turns) => self.lowest_in_order(scores, turns, request),
            by_weight @ Turns::Weighted(_) => {
                let tied = scores.iter().enumerate().filter(|&(_, score)| *score <= scores[lowest]);
                let tied = tied.fold(1 << lowest, |tied, (slot, _)| tied | 1 << slot);
                by_weight.next(tied, request.worker, request.is_retry())
            }
        }
    }

    fn score(&self, slot: usize, now: Tick) -> Option<f64> {
        Some(self.score.of(slot, self.score.look(slot), now) * S::REPORTED_UNIT)
    }
}

impl<S: Score> LowestOfAll<S> {
    /// Returns whether the slot has no messages in flight.
    fn is_idle(&self, slot: usize) -> bool {
        self.score.look(slot).in_flight == 0
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
    slow: Option<SlowDestinations>,
}

impl<S: Score> LowestOfSample<S> {
    /// Returns a slot to measure again, if one is due and the difference of its score from that of `best` is not
    /// intended.
    fn due(&self, best: f64, request: &PickRequest<'_>, now: Tick) -> Option<usize> {
        let slot = self.slow.as_ref().filter(|_| !request.is_retry())?.take_due()?;
        let score = self.score.of(slot, self.score.look(slot), now);
        (score - best <= S::EXPLORED_UP_TO).then_some(slot)
    }
}

impl<S: Score> Picker for LowestOfSample<S> {
    fn pick(&self, request: &PickRequest<'_>, now: Tick, rng: &mut Rng) -> usize {
        self.score.prepare(now, rng);
        if let Some(slow) = &self.slow {
            slow.update(now, rng);
        }
        let (drawn, count) = self.sampler.some::<SAMPLE>(rng);
        // If fewer were drawn, the others are the first slot.
        let seen = drawn.map(|slot| self.score.look(slot));
        let score = |nth: usize| (drawn[nth], self.score.of(drawn[nth], seen[nth], now));
        let lower = |best: (usize, f64), nth: usize| {
            let other = score(nth);
            select_unpredictable(other.1 < best.1, other, best)
        };
        let best = (1..count).fold(score(0), lower);
        if let Some(due) = self.due(best.1, request, now) {
            return due;
        }
        let is_alike = |nth: &usize| {
            seen[*nth].in_flight == 0 && self.slow.as_ref().is_some_and(|slow| !slow.is_slow(drawn[*nth]))
        };
        let is_idle = || (0..count).any(|nth| drawn[nth] == best.0 && seen[nth].in_flight == 0);
        if S::IDLE_ALIKE && is_idle() {
            return (0..count).find(is_alike).map_or(best.0, |nth| drawn[nth]);
        }
        best.0
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
