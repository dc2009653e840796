//! Slow start: a destination that came back receives a growing share of its messages.
//!
//! The probability of admission grows with time, from a tenth to one. A message that is not admitted goes to the
//! destination that the picker would choose without this one. This works with every algorithm, also with those that
//! ignore weights, and no picker has to be rebuilt meanwhile.

use std::time::Duration;

use crate::hash::mix;
use crate::rng::Rng;
use crate::time::Tick;

/// Minimum probability (Envoy's `min_weight_percent`): without messages a destination would never warm up.
const MIN_CHANCE: f64 = 0.1;

/// Slow start of one destination.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// Time at which the destination began to serve again.
    pub since: Tick,
    /// Duration of the slow start.
    pub window: Duration,
}

impl SlowStart {
    /// Returns the end of the slow start.
    pub fn until(&self) -> Tick {
        self.since + self.window
    }

    /// Returns the probability of admission at `now`: linear, from 0.1 to 1.
    pub fn chance(&self, now: Tick) -> f64 {
        let passed = now.since(self.since).as_secs_f64() / self.window.as_secs_f64().max(1e-9);
        passed.clamp(MIN_CHANCE, 1.0)
    }

    /// Returns whether the destination takes a message. Each key returns to the destination at a fixed probability and
    /// then stays there.
    pub fn admit(&self, key: Option<u64>, now: Tick, rng: &mut Rng) -> bool {
        let drawn = match key {
            Some(key) => (mix(!key) >> 11) as f64 / (1_u64 << 53) as f64,
            None => rng.share(),
        };
        drawn < self.chance(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn probability_grows_linearly_from_a_tenth() {
        let slow_start = SlowStart { since: at(50), window: WINDOW };
        for (seconds, chance) in [(50, 0.1), (60, 0.1), (75, 0.25), (100, 0.5), (150, 1.0), (900, 1.0)] {
            assert!((slow_start.chance(at(seconds)) - chance).abs() < 1e-9, "{seconds}");
        }
        assert_eq!(SlowStart { window: Duration::ZERO, ..slow_start }.chance(at(51)), 1.0);
    }

    #[test]
    fn keys_return_one_by_one_and_stay() {
        let (slow_start, mut rng) = (SlowStart { since: at(0), window: WINDOW }, Rng::new(1));
        for key in 0..1000 {
            let admitted: Vec<bool> =
                (0..100).map(|s| slow_start.admit(Some(mix(key)), at(s), &mut rng)).collect();
            assert!(admitted.is_sorted(), "{key}");
        }
        let half = (0..1000).filter(|&key| slow_start.admit(Some(mix(key)), at(50), &mut rng)).count();
        assert!((440..560).contains(&half), "{half}");
    }
}
