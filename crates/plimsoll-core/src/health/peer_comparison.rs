//! Who does worse than its peers: what a row of failures does not show.
//!
//! A destination that fails every third message never has a row, and one that is merely slow does not fail at all.
//! So what each did within an interval is compared with what the others did in the same one: what they all share
//! (a bad deploy, a slow database) sets nobody aside.

use std::fmt;
use std::time::Duration;

use crate::stats::Counts;

/// Messages within an interval below which a destination shows nothing (Envoy's `success_rate_request_volume`).
pub(crate) const VOLUME: u64 = 100;
/// The same where its share of failures is high by itself (Envoy's `failure_percentage_request_volume`).
const FAILURE_VOLUME: u64 = 50;
/// Destinations with that volume that make a mean and a deviation (Envoy's `success_rate_minimum_hosts`).
const PEERS: usize = 5;
/// Deviations below the mean that are too many (Envoy's `success_rate_stdev_factor`).
const DEVIATIONS: f64 = 1.9;
/// A share of failures that is too high, where the others' is less than half of it. Envoy's 85 % lets two of three
/// messages fail; half is what no client would call serving.
const FAILURE_SHARE: f64 = 0.5;
/// A mean time to the first byte of so many times the others' median is too long …
const SLOWER: f64 = 5.0;
/// … if it is longer by so much at least: what is slower by less is seen by nobody.
const SLOWER_BY: Duration = Duration::from_millis(100);
/// The others whose median it takes to say so.
const SLOWER_PEERS: usize = 2;

/// What one destination did within an interval.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Messages that ended.
    pub volume: u64,
    /// Of these, those that speak against it.
    pub bad: u64,
    /// Mean time to the first byte of those answered.
    pub first_byte: Duration,
}

/// In what a destination does worse.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum OutlierKind {
    /// Its share of good answers is too far below the others'.
    SuccessRate {
        /// Its share, 0 to 1.
        share: f64,
        /// The least that would have done.
        least: f64,
    },
    /// Too many of its messages fail, and fewer of the others'.
    FailureShare {
        /// Its share, 0 to 1.
        share: f64,
    },
    /// It takes too long to begin an answer, and the others do not.
    Latency {
        /// Its mean time to the first byte.
        mean: Duration,
        /// The others' median.
        others: Duration,
    },
    /// It takes far longer to begin an answer than it used to, and the others do not.
    SlowerThanUsual {
        /// Its mean time to the first byte.
        mean: Duration,
        /// What it used to be.
        usual: Duration,
    },
    /// Far more of its messages fail than used to, and not of the others'.
    FailsMoreThanUsual {
        /// Its share, 0 to 1.
        share: f64,
        /// What it used to be.
        usual: f64,
    },
}

impl OutlierKind {
    /// The word used in API and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::SuccessRate { .. } => "success_rate",
            Self::FailureShare { .. } => "failure_share",
            Self::Latency { .. } => "slow",
            Self::SlowerThanUsual { .. } => "slower_than_usual",
            Self::FailsMoreThanUsual { .. } => "fails_more_than_usual",
        }
    }
}

impl fmt::Display for OutlierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuccessRate { share, least } => write!(
                f,
                "{:.1} % of its messages went well, and its peers' make {:.1} % the least",
                share * 100.0,
                least * 100.0
            ),
            Self::FailureShare { share } => {
                write!(
                    f,
                    "{:.1} % of its messages failed, and less than half as many of its peers'",
                    share * 100.0
                )
            }
            Self::Latency { mean, others } => write!(
                f,
                "its answers begin after {} ms, its peers' after {} ms",
                mean.as_millis(),
                others.as_millis()
            ),
            Self::SlowerThanUsual { mean, usual } => write!(
                f,
                "its answers begin after {} ms, and used to after {} ms, while its peers' are as ever",
                mean.as_millis(),
                usual.as_millis()
            ),
            Self::FailsMoreThanUsual { share, usual } => write!(
                f,
                "{:.1} % of its messages failed, and {:.1} % used to, while its peers' are as ever",
                share * 100.0,
                usual * 100.0
            ),
        }
    }
}

impl Window {
    /// What was counted between two moments.
    pub fn between(before: &Counts, now: &Counts) -> Self {
        let answered = now.answered().saturating_sub(before.answered());
        let failed = now.failed().saturating_sub(before.failed());
        let nanos = now.first_byte_nanos.saturating_sub(before.first_byte_nanos);
        Self {
            volume: answered + failed,
            bad: failed + now.classes[5].saturating_sub(before.classes[5]),
            first_byte: Duration::from_nanos(nanos.checked_div(answered).unwrap_or(0)),
        }
    }

    pub(crate) fn failure_share(&self) -> f64 {
        self.bad as f64 / self.volume.max(1) as f64
    }
}

/// Those of `windows` that do worse than the others, by index, the worst first of each kind.
pub fn outliers(windows: &[Window]) -> Vec<(usize, OutlierKind)> {
    let mut found = by_success_rate(windows);
    for index in 0..windows.len() {
        if found.iter().all(|(known, _)| *known != index)
            && let Some(worse) = by_failure_share(windows, index).or_else(|| by_latency(windows, index))
        {
            found.push((index, worse));
        }
    }
    found
}

/// Envoy's success-rate detection: strictly below the mean less 1.9 deviations (of the population).
fn by_success_rate(windows: &[Window]) -> Vec<(usize, OutlierKind)> {
    let rates: Vec<(usize, f64)> = (windows.iter().enumerate())
        .filter(|(_, window)| window.volume >= VOLUME)
        .map(|(index, window)| (index, 1.0 - window.failure_share()))
        .collect();
    if rates.len() < PEERS {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let least = mean - DEVIATIONS * variance.sqrt();
    let mut low: Vec<_> = rates.into_iter().filter(|&(_, rate)| rate < least - 1e-9).collect();
    low.sort_by(|a, b| a.1.total_cmp(&b.1));
    low.into_iter().map(|(index, share)| (index, OutlierKind::SuccessRate { share, least })).collect()
}

fn by_failure_share(windows: &[Window], index: usize) -> Option<OutlierKind> {
    let share = windows[index].failure_share();
    let others = others(windows, index, FAILURE_VOLUME).map(Window::failure_share);
    let fails = windows[index].volume >= FAILURE_VOLUME && share >= FAILURE_SHARE;
    (fails && median(others)? < share / 2.0).then_some(OutlierKind::FailureShare { share })
}

fn by_latency(windows: &[Window], index: usize) -> Option<OutlierKind> {
    let mean = windows[index].first_byte;
    let means: Vec<f64> =
        others(windows, index, VOLUME).map(|other| other.first_byte.as_secs_f64()).collect();
    let enough = windows[index].volume >= VOLUME && means.len() >= SLOWER_PEERS;
    let others = Duration::from_secs_f64(median(means.into_iter())?);
    let slower = mean > others.mul_f64(SLOWER) && mean > others + SLOWER_BY;
    (enough && slower).then_some(OutlierKind::Latency { mean, others })
}

fn others(windows: &[Window], index: usize, volume: u64) -> impl Iterator<Item = &Window> {
    let apart = windows.iter().enumerate().filter(move |(at, _)| *at != index);
    apart.map(|(_, window)| window).filter(move |window| window.volume >= volume)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(volume: u64, bad: u64, ms: u64) -> Window {
        Window { volume, bad, first_byte: Duration::from_millis(ms) }
    }

    fn found(windows: &[Window]) -> Vec<(usize, &'static str)> {
        let word = |worse| match worse {
            OutlierKind::SuccessRate { .. } => "rate",
            OutlierKind::FailureShare { .. } => "failures",
            OutlierKind::Latency { .. } => "latency",
            _ => "by itself",
        };
        outliers(windows).into_iter().map(|(index, worse)| (index, word(worse))).collect()
    }

    #[test]
    fn who_fails_a_tenth_among_ten_that_do_not_stands_out() {
        let mut windows = vec![window(1000, 2, 10); 10];
        windows[4] = window(1000, 100, 10);
        assert_eq!(found(&windows), [(4, "rate")]);
        windows.truncate(4);
        windows[3] = window(1000, 100, 10);
        assert!(found(&windows).is_empty(), "four make no deviation");
        let shared = vec![window(1000, 300, 10); 10];
        assert!(found(&shared).is_empty(), "they all share it");
    }

    #[test]
    fn who_fails_half_stands_out_also_among_two() {
        assert_eq!(found(&[window(60, 30, 10), window(60, 3, 10)]), [(0, "failures")]);
        assert!(found(&[window(60, 30, 10), window(60, 20, 10)]).is_empty());
        assert!(found(&[window(40, 40, 10), window(60, 3, 10)]).is_empty(), "too few to say");
        assert!(found(&[window(600, 600, 10)]).is_empty(), "there is nobody to compare it with");
    }

    #[test]
    fn who_is_far_slower_than_two_others_stands_out() {
        let usual = window(200, 0, 20);
        assert_eq!(found(&[usual, usual, window(200, 0, 130)]), [(2, "latency")]);
        assert!(found(&[usual, usual, window(200, 0, 90)]).is_empty(), "not five times as slow");
        let quick = window(200, 0, 2);
        assert!(found(&[quick, quick, window(200, 0, 50)]).is_empty(), "slower by what nobody sees");
        assert!(found(&[usual, window(200, 0, 900)]).is_empty(), "of two, either may be the odd one");
    }

    #[test]
    fn an_interval_is_the_difference_of_two_counts() {
        let mut before = Counts::default();
        (before.classes[2], before.first_byte_nanos) = (10, 1_000);
        let mut now = before.clone();
        (now.classes[2], now.classes[5], now.failures[1], now.first_byte_nanos) = (14, 1, 3, 6_000);
        let expected = Window { volume: 8, bad: 4, first_byte: Duration::from_nanos(1_000) };
        assert_eq!(Window::between(&before, &now), expected);
        assert_eq!(Window::between(&now, &now), Window::default());
    }
}
