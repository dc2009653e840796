//! What is usual of one destination, and whether what it does now is not (`quality.learning`).
//!
//! Peers tell who is worse than the others; but a destination across an ocean is always slower than they are, and
//! one that was twice as fast as they and is now as slow as they has a trouble that nobody else shows. So each is
//! measured by its own past, and set aside if it is far from that while its peers are not far from theirs: what
//! they all share (a slow database, a rush) sets nobody aside.

use std::time::Duration;

use crate::health::peer_comparison::{OutlierKind, VOLUME, Window, median};

/// An interval moves what is usual by this part: in two minutes or so (at ten seconds each) half of a change has
/// become usual, and what lasts is nobody's fault for ever.
const SLOWLY: f64 = 1.0 / 16.0;
/// Intervals it takes to know what is usual.
const KNOWN_AFTER: u32 = 6;
/// So many times the usual mean time to the first byte is too long …
const SLOWER: f64 = 3.0;
/// … if it is longer by so much at least, and …
const SLOWER_BY: f64 = 0.1;
/// … as much beyond what its peers' is of theirs.
const APART: f64 = 2.0;
/// So much more than the usual share of failures is too much, and beyond chance, which is …
const FAILS_MORE_BY: f64 = 0.05;
/// … so many deviations of a share of so many messages.
const DEVIATIONS: f64 = 4.0;
/// Up to so many times its usual time a destination is as ever, whatever its peers are.
const AS_EVER: f64 = 1.5;

/// What is usual of one destination.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    /// Mean time to the first byte, seconds.
    first_byte: f64,
    /// Share of messages that speak against it.
    failures: f64,
    intervals: u32,
}

impl Baseline {
    /// Takes in an interval, if it holds enough messages.
    pub fn learn(&mut self, window: &Window) {
        if window.volume < VOLUME {
            return;
        }
        let part = if self.intervals == 0 { 1.0 } else { SLOWLY.max(1.0 / f64::from(self.intervals + 1)) };
        self.first_byte += (window.first_byte.as_secs_f64() - self.first_byte) * part;
        self.failures += (window.failure_share() - self.failures) * part;
        self.intervals = self.intervals.saturating_add(1);
    }

    /// Enough was seen to say what is usual.
    fn is_known(&self) -> bool {
        self.intervals >= KNOWN_AFTER
    }

    /// It is known, and no slower now than ever: it is not set aside for being slower than others.
    pub fn is_within_baseline(&self, window: &Window) -> bool {
        self.is_known() && window.first_byte.as_secs_f64() <= self.first_byte * AS_EVER
    }

    /// How many times its usual time it takes now.
    fn ratio(&self, window: &Window) -> f64 {
        window.first_byte.as_secs_f64() / self.first_byte.max(1e-6)
    }

    /// By how much its share of failures is above the usual.
    fn excess(&self, window: &Window) -> f64 {
        window.failure_share() - self.failures
    }
}

/// Those of `windows` that are far from what is usual of them, while the others are not, by index.
pub fn outliers(windows: &[Window], baselines: &[Baseline]) -> Vec<(usize, OutlierKind)> {
    let pairs = windows.iter().zip(baselines).enumerate();
    let known: Vec<(usize, &Window, &Baseline)> = pairs
        .filter(|(_, (window, baseline))| window.volume >= VOLUME && baseline.is_known())
        .map(|(index, (window, baseline))| (index, window, baseline))
        .collect();
    let others = |index: usize| known.iter().filter(move |(other, ..)| *other != index);
    let judge = |&(index, window, baseline): &(usize, &Window, &Baseline)| {
        // Without peers nobody can tell a trouble of its own from one of all.
        let ratios = median(others(index).map(|(_, window, baseline)| baseline.ratio(window)))?;
        let excesses = median(others(index).map(|(_, window, baseline)| baseline.excess(window)))?;
        fails_more(window, baseline, excesses)
            .or_else(|| slower(window, baseline, ratios))
            .map(|w| (index, w))
    };
    known.iter().filter_map(judge).collect()
}

fn slower(window: &Window, baseline: &Baseline, others: f64) -> Option<OutlierKind> {
    let (ratio, by) = (baseline.ratio(window), window.first_byte.as_secs_f64() - baseline.first_byte);
    let usual = Duration::from_secs_f64(baseline.first_byte);
    (ratio > SLOWER && by > SLOWER_BY && ratio > others * APART)
        .then_some(OutlierKind::SlowerThanUsual { mean: window.first_byte, usual })
}

fn fails_more(window: &Window, baseline: &Baseline, others: f64) -> Option<OutlierKind> {
    let (share, usual, excess) = (window.failure_share(), baseline.failures, baseline.excess(window));
    let deviation = (usual * (1.0 - usual) / window.volume as f64).sqrt();
    let least = FAILS_MORE_BY.max(deviation * DEVIATIONS).max(others.max(0.0) * APART);
    (excess > least).then_some(OutlierKind::FailsMoreThanUsual { share, usual })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(volume: u64, bad: u64, ms: u64) -> Window {
        Window { volume, bad, first_byte: Duration::from_millis(ms) }
    }

    fn used_to(window: &Window) -> Baseline {
        let mut baseline = Baseline::default();
        (0..20).for_each(|_| baseline.learn(window));
        baseline
    }

    /// Who is strange, where all used to be like `before` and are like `now`.
    fn found(before: &[Window], now: &[Window]) -> Vec<(usize, &'static str)> {
        let baselines: Vec<Baseline> = before.iter().map(used_to).collect();
        let word = |worse| match worse {
            OutlierKind::SlowerThanUsual { .. } => "slower",
            OutlierKind::FailsMoreThanUsual { .. } => "fails",
            _ => "else",
        };
        outliers(now, &baselines).into_iter().map(|(index, worse)| (index, word(worse))).collect()
    }

    #[test]
    fn each_is_measured_by_its_own_past() {
        let (near, far) = (window(500, 0, 20), window(500, 0, 300));
        let before = [near, near, far];
        assert!(found(&before, &before).is_empty(), "far away is no trouble");
        assert_eq!(
            found(&before, &[near, window(500, 0, 300), far]),
            [(1, "slower")],
            "as slow as the far one"
        );
        assert_eq!(found(&before, &[near, near, window(500, 0, 1200)]), [(2, "slower")]);
        assert!(found(&before, &[near, window(500, 0, 90), far]).is_empty(), "by what nobody sees");
    }

    #[test]
    fn what_all_share_is_nobodys_trouble() {
        let before = [window(500, 0, 20); 4];
        assert!(found(&before, &[window(500, 0, 400); 4]).is_empty());
        assert!(found(&before, &[window(500, 100, 20); 4]).is_empty());
        let mut one_worse = [window(500, 0, 400); 4];
        one_worse[2] = window(500, 0, 2000);
        assert_eq!(found(&before, &one_worse), [(2, "slower")], "far beyond what they share");
    }

    #[test]
    fn failures_count_beyond_the_usual_and_beyond_chance() {
        let well = window(500, 0, 20);
        let before = [window(500, 50, 20), well, well, well];
        assert!(found(&before, &before).is_empty(), "it always failed a tenth");
        let mut now = before;
        now[0].bad = 70;
        assert!(found(&before, &now).is_empty(), "chance");
        now[0].bad = 150;
        now[1].bad = 30;
        assert_eq!(found(&before, &now), [(0, "fails"), (1, "fails")]);
    }

    #[test]
    fn nobody_is_judged_by_a_past_that_is_too_short_or_alone() {
        let (quick, slow) = (window(500, 0, 20), window(500, 0, 900));
        let mut young = Baseline::default();
        (1..KNOWN_AFTER).for_each(|_| young.learn(&quick));
        let old = used_to(&quick);
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
    fn what_lasts_becomes_usual() {
        let (quick, slow) = (window(500, 0, 20), window(500, 0, 400));
        let mut baselines = [used_to(&quick); 3];
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
