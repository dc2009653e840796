//! Statistics of a simulated run.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Significant digits of the histograms: an error of 0.1 %.
const DIGITS: u8 = 3;
/// Maximum value of the histograms in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Statistics of one run, without the warm-up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunStats {
    /// Time from the planned arrival to the response in microseconds; the deadline for messages that timed
    /// out. Errors have no latency here: a fast error is not a fast response.
    pub latency: Histogram<u64>,
    /// Number of messages.
    pub messages: u64,
    /// Messages that reached their deadline.
    pub timed_out: u64,
    /// Messages that ended with an error response or without a destination.
    pub failed: u64,
    /// Attempts after the first, without hedged ones.
    pub retries: u64,
    /// Number of hedged attempts.
    pub hedges: u64,
    /// Hedged attempts that gave the first response.
    pub hedges_won: u64,
    /// Messages at each destination, sampled ten times a second.
    pub in_flight: Histogram<u64>,
    /// Attempts at each destination.
    pub attempts: Vec<u64>,
    /// Core seconds spent by each destination.
    pub used: Vec<f64>,
    /// Sum of the seconds by which picks were worse than the oracle's, and the number of picks compared.
    pub regret: (f64, u64),
    /// Probes other than health checks.
    pub probes: u64,
    /// Status changes and other pool events, over all balancers.
    pub pool_events: u64,
    /// Counts of each second from the start, warm-up included.
    pub seconds: Vec<Second>,
}

/// Counts of one second of a run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Second {
    /// Attempts at each destination.
    pub attempts: Vec<u32>,
    /// Messages that ended with an error.
    pub errors: u32,
    /// Messages that ended.
    pub ended: u32,
}

impl RunStats {
    /// Creates empty statistics for a number of destinations.
    pub fn new(destinations: usize) -> Self {
        Self {
            latency: histogram(),
            messages: 0,
            timed_out: 0,
            failed: 0,
            retries: 0,
            hedges: 0,
            hedges_won: 0,
            in_flight: histogram(),
            attempts: vec![0; destinations],
            used: vec![0.0; destinations],
            regret: (0.0, 0),
            probes: 0,
            pool_events: 0,
            seconds: Vec::new(),
        }
    }

    /// Records the latency of a message.
    pub fn record_latency(&mut self, latency: Duration) {
        self.latency.saturating_record(latency.as_micros() as u64);
    }

    /// Returns the latency in seconds that a share of all messages did not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1e6
    }

    /// Returns the share of messages without a successful response.
    pub fn error_share(&self) -> f64 {
        ratio((self.timed_out + self.failed) as f64, self.messages as f64)
    }

    /// Returns how uneven the attempts are: standard deviation over mean.
    pub fn imbalance(&self) -> f64 {
        let attempts: Vec<f64> = self.attempts.iter().map(|&attempts| attempts as f64).collect();
        variation(&attempts)
    }

    /// Returns the mean seconds by which a pick was worse than the oracle's.
    pub fn mean_regret(&self) -> f64 {
        ratio(self.regret.0, self.regret.1 as f64)
    }

    /// Returns the counts of the second that `at` is in.
    pub fn second(&mut self, at: Duration) -> &mut Second {
        let index = at.as_secs() as usize;
        if self.seconds.len() <= index {
            let destinations = self.attempts.len();
            self.seconds
                .resize_with(index + 1, || Second { attempts: vec![0; destinations], ..Second::default() });
        }
        &mut self.seconds[index]
    }

    /// Returns the share of attempts in the seconds `from..until` that went to destinations matching `which`.
    pub fn share(&self, from: usize, until: usize, which: impl Fn(usize) -> bool) -> f64 {
        let seconds = &self.seconds[from.min(self.seconds.len())..until.min(self.seconds.len())];
        let (mut some, mut all) = (0.0, 0.0);
        for second in seconds {
            for (destination, &attempts) in second.attempts.iter().enumerate() {
                all += f64::from(attempts);
                some += if which(destination) { f64::from(attempts) } else { 0.0 };
            }
        }
        ratio(some, all)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).unwrap_or_else(|_| unreachable!("bounds are constant"))
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Coefficient of variation: standard deviation over mean.
pub fn variation(values: &[f64]) -> f64 {
    let mean = ratio(values.iter().sum(), values.len() as f64);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    ratio(ratio(variance, values.len() as f64).sqrt(), mean)
}

/// Mean of several runs and half of its 95 % interval (Student's t); the interval of one run is 0.
pub fn mean_and_interval(values: &[f64]) -> (f64, f64) {
    const T: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];
    let count = values.len() as f64;
    let mean = ratio(values.iter().sum(), count);
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let t = T.get(values.len() - 2).copied().unwrap_or(2.0);
    (mean, t * (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_cover_the_tail() {
        let mut stats = RunStats::new(1);
        (1..=100_000).for_each(|us| stats.record_latency(Duration::from_micros(us)));
        let near = |share: f64, us: f64| (stats.quantile(share) * 1e6 / us - 1.0).abs() < 2e-3;
        assert!(near(0.5, 50_000.0) && near(0.99, 99_000.0) && near(0.9999, 99_990.0));
    }

    #[test]
    fn variation_and_interval_match_known_values() {
        assert!(variation(&[3.0, 3.0, 3.0]).abs() < 1e-12);
        assert!((variation(&[1.0, 3.0]) - 0.5).abs() < 1e-12);
        let (mean, half) = mean_and_interval(&[1.0, 2.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (half - 4.30 / 3.0_f64.sqrt()).abs() < 1e-9, "{half}");
    }
}
