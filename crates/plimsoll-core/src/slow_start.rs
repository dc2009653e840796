//! Whether a destination that has just come back takes this message, or lets it pass by.
//!
//! Its chance grows with time, from a tenth to one. A message that is not let in goes where the picker would send
//! it without that destination: so every algorithm warms alike, those that know no weights too, and nobody has to
//! build anew while it lasts.

use std::time::Duration;

use crate::hash::mix;
use crate::rng::Rng;
use crate::time::Tick;

/// The least chance (Envoy's `min_weight_percent`): a destination that takes nothing would never get warm.
const LEAST: f64 = 0.1;

/// A destination is warming: since when, and for how long.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// It has served again since.
    pub since: Tick,
    /// It is warm then.
    pub window: Duration,
}

impl SlowStart {
    /// When it is over.
    pub fn until(&self) -> Tick {
        self.since + self.window
    }

    /// The chance at `now`, from 0.1 to 1, growing evenly.
    pub fn chance(&self, now: Tick) -> f64 {
        let passed = now.since(self.since).as_secs_f64() / self.window.as_secs_f64().max(1e-9);
        passed.clamp(LEAST, 1.0)
    }

    /// Whether it takes a message. Of messages with a key some keys come home early and the others later, and
    /// none of them goes back and forth.
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
    fn the_chance_grows_evenly_from_a_tenth() {
        let slow_start = SlowStart { since: at(50), window: WINDOW };
        for (seconds, chance) in [(50, 0.1), (60, 0.1), (75, 0.25), (100, 0.5), (150, 1.0), (900, 1.0)] {
            assert!((slow_start.chance(at(seconds)) - chance).abs() < 1e-9, "{seconds}");
        }
        assert_eq!(SlowStart { window: Duration::ZERO, ..slow_start }.chance(at(51)), 1.0);
    }

    #[test]
    fn keys_come_home_one_after_the_other_and_stay() {
        let (slow_start, mut rng) = (SlowStart { since: at(0), window: WINDOW }, Rng::new(1));
        for key in 0..1000 {
            let home: Vec<bool> =
                (0..100).map(|s| slow_start.admit(Some(mix(key)), at(s), &mut rng)).collect();
            assert!(home.is_sorted(), "{key}");
        }
        let half = (0..1000).filter(|&key| slow_start.admit(Some(mix(key)), at(50), &mut rng)).count();
        assert!((440..560).contains(&half), "{half}");
    }
}
