//! Baseline of each destination, and the detection of deviations from it (`quality.learning`).
//!
//! A comparison with peers misses two cases: a remote destination is always slower than its peers, and one that was
//! twice as fast and is now as slow as they has a problem. So each destination is compared with its own past, and is an
//! outlier if it deviates while its peers do not. A shared problem (a slow database, a rush) ejects no destination.

use std::time::Duration;

use crate::health::peer_comparison::{MIN_VOLUME, OutlierKind, Window, median};

/// Weight of an interval in the baseline: half of a lasting change is learned in about two minutes (at ten seconds each).
const LEARNING_RATE: f64 = 1.0 / 16.0;
/// Minimum number of intervals of a baseline.
const MIN_INTERVALS: u32 = 6;
/// Multiple of the baseline's mean time to the first byte that is too slow, if the conditions below hold, too.
const SLOWER_FACTOR: f64 = 3.0;
/// Minimum difference from the baseline's mean time to the first byte, in seconds.
const SLOWER_BY: f64 = 0.1;
/// Minimum multiple of the peers' deviation from their baselines.
const PEER_FACTOR: f64 = 2.0;
/// Minimum difference from the baseline's share of failures.
const FAILS_MORE_BY: f64 = 0.05;
/// Minimum difference in standard deviations of a share of as many messages.
const DEVIATIONS: f64 = 4.0;
/// Maximum multiple of the baseline's time at which a destination is within its baseline.
const WITHIN_FACTOR: f64 = 1.5;

/// Usual performance of one destination.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    /// Mean time to the first byte in seconds.
    first_byte: f64,
    /// Share of messages with a bad outcome.
    failures: f64,
    intervals: u32,
}

impl Baseline {
    /// Learns from an interval with enough messages.
    pub fn learn(&mut self, window: &Window) {
        if window.volume < MIN_VOLUME {
            return;
        }
        let rate =
            if self.intervals == 0 { 1.0 } else { LEARNING_RATE.max(1.0 / f64::from(self.intervals + 1)) };
        self.first_byte += (window.first_byte.as_secs_f64() - self.first_byte) * rate;
        self.failures += (window.failure_share() - self.failures) * rate;
        self.intervals = self.intervals.saturating_add(1);
    }

    /// Returns whether enough intervals were learned.
    fn is_known(&self) -> bool {
        self.intervals >= MIN_INTERVALS
    }

    /// Returns whether the destination is as fast as usual, so that it is not ejected for being slower than its peers.
    pub fn is_within_baseline(&self, window: &Window) -> bool {
        self.is_known() && window.first_byte.as_secs_f64() <= self.first_byte * WITHIN_FACTOR
    }

    /// Returns the multiple of the usual time to the first byte.
    fn ratio(&self, window: &Window) -> f64 {
        window.first_byte.as_secs_f64() / self.first_byte.max(1e-6)
    }

    /// Returns the difference from the usual share of failures.
    fn excess(&self, window: &Window) -> f64 {
        window.failure_share() - self.failures
    }
}

/// Returns the destinations that deviate from their baselines while their peers do not, by index.
pub fn outliers(windows: &[Window], baselines: &[Baseline]) -> Vec<(usize, OutlierKind)> {
    let pairs = windows.iter().zip(baselines).enumerate();
    let known: Vec<(usize, &Window, &Baseline)> = pairs
        .filter(|(_, (window, baseline))| window.volume >= MIN_VOLUME && baseline.is_known())
        .map(|(index, (window, baseline))| (index, window, baseline))
        .collect();
    let others = |index: usize| known.iter().filter(move |(other, ..)| *other != index);
    let compare = |&(index, window, baseline): &(usize, &Window, &Baseline)| {
        // Without peers a destination's own problem cannot be distinguished from a shared one.
        let ratios = median(others(index).map(|(_, window, baseline)| baseline.ratio(window)))?;
        let excesses = median(others(index).map(|(_, window, baseline)| baseline.excess(window)))?;
        fails_more(window, baseline, excesses)
            .or_else(|| slower(window, baseline, ratios))
            .map(|w| (index, w))
    };
    known.iter().filter_map(compare).collect()
}

fn slower(window: &Window, baseline: &Baseline, others: f64) -> Option<OutlierKind> {
    let (ratio, by) = (baseline.ratio(window), window.first_byte.as_secs_f64() - baseline.first_byte);
    let usual = Duration::from_secs_f64(baseline.first_byte);
    (ratio > SLOWER_FACTOR && by > SLOWER_BY && ratio > others * PEER_FACTOR)
        .then_some(OutlierKind::SlowerThanUsual { mean: window.first_byte, usual })
}

fn fails_more(window: &Window, baseline: &Baseline, others: f64) -> Option<OutlierKind> {
    let (share, usual, excess) = (window.failure_share(), baseline.failures, baseline.excess(window));
    let deviation = (usual * (1.0 - usual) / window.volume as f64).sqrt();
    let least = FAILS_MORE_BY.max(deviation * DEVIATIONS).max(others.max(0.0) * PEER_FACTOR);
    (excess > least).then_some(OutlierKind::FailsMoreThanUsual { share, usual })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(volume: u64, bad: u64, ms: u64) -> Window {
        Window { volume, bad, first_byte: Duration::from_millis(ms) }
    }

    fn learned(window: &Window) -> Baseline {
        let mut baseline = Baseline::default();
        (0..20).for_each(|_| baseline.learn(window));
        baseline
    }

    /// Returns the outliers of `now` with baselines of `before`.
    fn found(before: &[Window], now: &[Window]) -> Vec<(usize, &'static str)> {
        let baselines: Vec<Baseline> = before.iter().map(learned).collect();
        let name = |worse| match worse {
            OutlierKind::SlowerThanUsual { .. } => "slower",
            OutlierKind::FailsMoreThanUsual { .. } => "fails",
            _ => "else",
        };
        outliers(now, &baselines).into_iter().map(|(index, worse)| (index, name(worse))).collect()
    }

    #[test]
    fn each_destination_is_compared_with_its_own_past() {
        let (near, far) = (window(500, 0, 20), window(500, 0, 300));
        let before = [near, near, far];
        assert!(found(&before, &before).is_empty(), "a remote destination is no outlier");
        assert_eq!(
            found(&before, &[near, window(500, 0, 300), far]),
            [(1, "slower")],
            "as slow as the remote one"
        );
        assert_eq!(found(&before, &[near, near, window(500, 0, 1200)]), [(2, "slower")]);
        assert!(found(&before, &[near, window(500, 0, 90), far]).is_empty(), "too small a difference");
    }

    #[test]
    fn shared_problem_ejects_no_destination() {
        let before = [window(500, 0, 20); 4];
        assert!(found(&before, &[window(500, 0, 400); 4]).is_empty());
        assert!(found(&before, &[window(500, 100, 20); 4]).is_empty());
        let mut one_worse = [window(500, 0, 400); 4];
        one_worse[2] = window(500, 0, 2000);
        assert_eq!(found(&before, &one_worse), [(2, "slower")], "far beyond the shared slowness");
    }

    #[test]
    fn failures_count_beyond_the_baseline_and_beyond_chance() {
        let well = window(500, 0, 20);
        let before = [window(500, 50, 20), well, well, well];
        assert!(found(&before, &before).is_empty(), "a tenth always failed");
        let mut now = before;
        now[0].bad = 70;
        assert!(found(&before, &now).is_empty(), "chance");
        now[0].bad = 150;
        now[1].bad = 30;
        assert_eq!(found(&before, &now), [(0, "fails"), (1, "fails")]);
    }

    #[test]
    fn short_baseline_or_missing_peers_give_no_outliers() {
        let (quick, slow) = (window(500, 0, 20), window(500, 0, 900));
        let mut young = Baseline::default();
        (1..MIN_INTERVALS).for_each(|_| young.learn(&quick));
        let old = learned(&quick);
        assert!(outliers(&[slow, quick], &[young, old]).is_empty());
        assert!(outliers(&[slow], &[old]).is_empty());
        assert!(outliers(&[window(99, 0, 900), quick], &[old, old]).is_empty(), "too few messages");
        assert!(
            !young.is_within_baseline(&quick)
                && old.is_within_baseline(&quick)
                && !old.is_within_baseline(&slow)
        );
    }

    #[test]
    fn lasting_change_becomes_the_baseline() {
        let (quick, slow) = (window(500, 0, 20), window(500, 0, 400));
        let mut baselines = [learned(&quick); 3];
        let found = (0..60)
            .filter(|_| {
                let found = !outliers(&[slow, quick, quick], &baselines).is_empty();
                baselines[0].learn(&slow);
                found
            })
            .count();
        assert!((3..20).contains(&found), "{found}");
    }
}
