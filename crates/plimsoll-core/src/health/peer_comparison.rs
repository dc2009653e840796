//! Comparison of destinations with their peers, which finds outliers without consecutive failures.
//!
//! A destination that fails every third message never has five consecutive failures, and a slow one does not fail at all.
//! So the outcomes of each within an interval are compared with those of the others. A shared problem (a bad deploy, a
//! slow database) ejects no destination.

use std::fmt;
use std::time::Duration;

use crate::stats::Counts;

/// Minimum number of messages within an interval (Envoy's `success_rate_request_volume`).
pub(crate) const MIN_VOLUME: u64 = 100;
/// Minimum number of messages for a high share of failures (Envoy's `failure_percentage_request_volume`).
const MIN_FAILURE_VOLUME: u64 = 50;
/// Minimum number of destinations for a mean and a deviation (Envoy's `success_rate_minimum_hosts`).
const MIN_HOSTS: usize = 5;
/// Standard deviations below the mean success rate that make an outlier (Envoy's `success_rate_stdev_factor`).
const DEVIATIONS: f64 = 1.9;
/// Share of failures that makes an outlier if the peers' is less than half of it. Envoy's 85 % lets two of three messages
/// fail.
const MAX_FAILURE_SHARE: f64 = 0.5;
/// Multiple of the peers' median of mean times to the first byte that makes an outlier.
const SLOWER_FACTOR: f64 = 5.0;
/// Minimum difference from the peers' median: a smaller one is hardly noticed.
const SLOWER_BY: Duration = Duration::from_millis(100);
/// Minimum number of peers for the median.
const MIN_PEERS: usize = 2;

/// Outcomes of one destination within an interval.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Number of messages that ended.
    pub volume: u64,
    /// Number of messages with a bad outcome.
    pub bad: u64,
    /// Mean time to the first byte of responses.
    pub first_byte: Duration,
}

/// Kind of an outlier.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum OutlierKind {
    /// The success rate is too far below the peers'.
    SuccessRate {
        /// Success rate, 0 to 1.
        share: f64,
        /// Minimum that is no outlier.
        least: f64,
    },
    /// The share of failures is too high, and the peers' is lower.
    FailureShare {
        /// Share of failures, 0 to 1.
        share: f64,
    },
    /// Responses begin too late, and the peers' do not.
    Latency {
        /// Mean time to the first byte.
        mean: Duration,
        /// Median of the peers' means.
        others: Duration,
    },
    /// Responses begin far later than usual, and the peers' do not.
    SlowerThanUsual {
        /// Mean time to the first byte.
        mean: Duration,
        /// Usual value according to the baseline.
        usual: Duration,
    },
    /// The share of failures is far above the usual one, and the peers' is not.
    FailsMoreThanUsual {
        /// Share of failures, 0 to 1.
        share: f64,
        /// Usual value according to the baseline.
        usual: f64,
    },
}

impl OutlierKind {
    /// Returns whether the destination is only slow.
    pub const fn is_latency(&self) -> bool {
        matches!(self, Self::Latency { .. } | Self::SlowerThanUsual { .. })
    }

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
                "success rate {:.1} %, below the minimum of {:.1} % derived from its peers",
                share * 100.0,
                least * 100.0
            ),
            Self::FailureShare { share } => {
                write!(
                    f,
                    "{:.1} % of its messages failed, more than twice the share of its peers",
                    share * 100.0
                )
            }
            Self::Latency { mean, others } => write!(
                f,
                "mean time to the first byte {} ms, {} ms at its peers",
                mean.as_millis(),
                others.as_millis()
            ),
            Self::SlowerThanUsual { mean, usual } => write!(
                f,
                "mean time to the first byte {} ms, usually {} ms, while its peers are unchanged",
                mean.as_millis(),
                usual.as_millis()
            ),
            Self::FailsMoreThanUsual { share, usual } => write!(
                f,
                "{:.1} % of its messages failed, usually {:.1} %, while its peers are unchanged",
                share * 100.0,
                usual * 100.0
            ),
        }
    }
}

impl Window {
    /// Returns the difference between two counts.
    pub fn between(before: &Counts, now: &Counts) -> Self {
        let answered = now.answered().saturating_sub(before.answered());
        let failed = now.failed().saturating_sub(before.failed());
        let nanos = now.first_byte_nanos.saturating_sub(before.first_byte_nanos);
        let excused = now.excused.saturating_sub(before.excused);
        let bad = failed + now.classes[5].saturating_sub(before.classes[5]);
        Self {
            volume: (answered + failed).saturating_sub(excused),
            bad: bad.saturating_sub(excused),
            first_byte: Duration::from_nanos(nanos.checked_div(answered).unwrap_or(0)),
        }
    }

    pub(crate) fn failure_share(&self) -> f64 {
        self.bad as f64 / self.volume.max(1) as f64
    }
}

/// Returns the windows that are worse than the others, by index, the worst of each kind first.
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

/// Finds outliers by Envoy's success-rate detection: below the mean minus 1.9 standard deviations of the population.
fn by_success_rate(windows: &[Window]) -> Vec<(usize, OutlierKind)> {
    let rates: Vec<(usize, f64)> = (windows.iter().enumerate())
        .filter(|(_, window)| window.volume >= MIN_VOLUME)
        .map(|(index, window)| (index, 1.0 - window.failure_share()))
        .collect();
    if rates.len() < MIN_HOSTS {
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
    let others = others(windows, index, MIN_FAILURE_VOLUME).map(Window::failure_share);
    let fails = windows[index].volume >= MIN_FAILURE_VOLUME && share >= MAX_FAILURE_SHARE;
    (fails && median(others)? < share / 2.0).then_some(OutlierKind::FailureShare { share })
}

fn by_latency(windows: &[Window], index: usize) -> Option<OutlierKind> {
    let mean = windows[index].first_byte;
    let means: Vec<f64> =
        others(windows, index, MIN_VOLUME).map(|other| other.first_byte.as_secs_f64()).collect();
    let enough = windows[index].volume >= MIN_VOLUME && means.len() >= MIN_PEERS;
    let others = Duration::from_secs_f64(median(means.into_iter())?);
    let slower = mean > others.mul_f64(SLOWER_FACTOR) && mean > others + SLOWER_BY;
    (enough && slower).then_some(OutlierKind::Latency { mean, others })
}

fn others(windows: &[Window], index: usize, volume: u64) -> impl Iterator<Item = &Window> {
    let peers = windows.iter().enumerate().filter(move |(at, _)| *at != index);
    peers.map(|(_, window)| window).filter(move |window| window.volume >= volume)
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
        let name = |worse| match worse {
            OutlierKind::SuccessRate { .. } => "rate",
            OutlierKind::FailureShare { .. } => "failures",
            OutlierKind::Latency { .. } => "latency",
            _ => "by itself",
        };
        outliers(windows).into_iter().map(|(index, worse)| (index, name(worse))).collect()
    }

    #[test]
    fn failing_tenth_is_an_outlier_among_ten() {
        let mut windows = vec![window(1000, 2, 10); 10];
        windows[4] = window(1000, 100, 10);
        assert_eq!(found(&windows), [(4, "rate")]);
        windows.truncate(4);
        windows[3] = window(1000, 100, 10);
        assert!(found(&windows).is_empty(), "four are too few for a deviation");
        let shared = vec![window(1000, 300, 10); 10];
        assert!(found(&shared).is_empty(), "all share it");
    }

    #[test]
    fn failing_half_is_an_outlier_of_two() {
        assert_eq!(found(&[window(60, 30, 10), window(60, 3, 10)]), [(0, "failures")]);
        assert!(found(&[window(60, 30, 10), window(60, 20, 10)]).is_empty());
        assert!(found(&[window(40, 40, 10), window(60, 3, 10)]).is_empty(), "too few messages");
        assert!(found(&[window(600, 600, 10)]).is_empty(), "no peers");
    }

    #[test]
    fn far_slower_than_two_peers_is_an_outlier() {
        let usual = window(200, 0, 20);
        assert_eq!(found(&[usual, usual, window(200, 0, 130)]), [(2, "latency")]);
        assert!(found(&[usual, usual, window(200, 0, 90)]).is_empty(), "not five times as slow");
        let quick = window(200, 0, 2);
        assert!(found(&[quick, quick, window(200, 0, 50)]).is_empty(), "too small a difference");
        assert!(found(&[usual, window(200, 0, 900)]).is_empty(), "of two, either may be the outlier");
    }

    #[test]
    fn window_is_the_difference_of_two_counts() {
        let mut before = Counts::default();
        (before.classes[2], before.first_byte_nanos) = (10, 1_000);
        let mut now = before.clone();
        (now.classes[2], now.classes[5], now.failures[1], now.first_byte_nanos) = (14, 1, 3, 6_000);
        let expected = Window { volume: 8, bad: 4, first_byte: Duration::from_nanos(1_000) };
        assert_eq!(Window::between(&before, &now), expected);
        assert_eq!(Window::between(&now, &now), Window::default());
    }
}
