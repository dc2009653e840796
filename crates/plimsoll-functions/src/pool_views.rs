//! Results for a pool of a running proxy, for servers of the functions such as the admin API.
//!
//! Times are milliseconds since 1970 (UTC), durations milliseconds, shares 0 to 1. A value that was not observed
//! yet is `None`.

use std::time::Duration;

use plimsoll_core::stats::{BUCKETS_US, Counts};

use plimsoll_proxy::{Clock, DestinationView, PoolView};

use crate::destination::Destination;
use crate::monitor::{Alert, DestinationHealth, HealthMonitoringResult, partial_errors};
use crate::result::{
    DestinationPerformance, DestinationShare, HealthState, HealthStatus, LoadDistribution,
    PerformanceMetrics, Recommendation, ResponseTime,
};

/// Converts a duration to milliseconds.
pub fn millis(span: Duration) -> f64 {
    span.as_nanos() as f64 / 1e6
}

/// Converts a weight from 256ths.
pub fn weight(in_256ths: u32) -> f64 {
    f64::from(in_256ths) / 256.0
}

/// Returns the health of a pool.
pub fn health_status(pool: &PoolView, clock: Clock) -> HealthStatus {
    HealthStatus {
        state: HealthState::from_name(pool.state()),
        serving: pool.serving(),
        total: pool.destinations.len(),
        since: clock.unix_millis(pool.state_since),
    }
}

/// Returns the traffic shares since the start and the intended ones.
pub fn load_distribution(pool: &PoolView) -> LoadDistribution {
    let share = |d: &DestinationView| DestinationShare {
        id: d.name.to_string(),
        weight: d.weight,
        effective_weight: weight(d.effective_weight),
        intended_share: d.intended_share,
        share: pool.share(d),
        in_flight: d.in_flight,
    };
    LoadDistribution {
        destinations: pool.destinations.iter().map(share).collect(),
        deviation: pool.deviation(),
    }
}

/// Returns a destination in the type of the functions.
pub fn destination(d: &DestinationView) -> Destination {
    Destination {
        id: d.name.to_string(),
        address: d.address.clone(),
        weight: d.weight,
        priority: d.priority,
        zone: d.zone.as_deref().map(str::to_owned),
        labels: d.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        protocol: None,
    }
}

/// Returns the health of a pool's destinations, with alerts and recommendations.
pub fn health(pool: &PoolView, clock: Clock) -> HealthMonitoringResult {
    let reports: Vec<_> = pool.destinations.iter().filter_map(|d| d.report.clone()).collect();
    HealthMonitoringResult {
        health_status: health_status(pool, clock),
        destinations: pool.destinations.iter().filter_map(|d| destination_health(d, clock)).collect(),
        alerts: alerts(pool, clock).collect(),
        recommendations: recommendations(pool).collect(),
        errors: partial_errors(&pool.observed.relapsed, &reports, pool.observed.alerts_lost),
    }
}

/// Returns the health of one destination; `None` before its pool has reported.
pub fn destination_health(d: &DestinationView, clock: Clock) -> Option<DestinationHealth> {
    d.report.as_ref().map(|report| DestinationHealth::new(report, &d.checks, d.traffic_score, clock))
}

/// Converts an alert of `pool`.
pub fn alert(pool: &str, alert: &plimsoll_core::alert::Alert, clock: Clock) -> Alert {
    Alert::new(pool, alert, clock)
}

/// Returns the alerts of a pool, active ones first.
pub fn alerts(pool: &PoolView, clock: Clock) -> impl Iterator<Item = Alert> {
    pool.observed.alerts.iter().map(move |alert| Alert::new(&pool.name, alert, clock))
}

/// Returns the recommendations for a pool.
pub fn recommendations(pool: &PoolView) -> impl Iterator<Item = Recommendation> {
    pool.observed.advice.iter().map(Recommendation::from)
}

/// Returns the performance of a pool in the last minute (up to 15 s more), or since it was started.
pub fn performance(pool: &PoolView) -> PerformanceMetrics {
    let window = pool.window;
    let mut all = Counts::default();
    for d in &pool.destinations {
        add(&mut all, &d.recent);
    }
    let whole = Sample(&all, window);
    let destinations = pool.destinations.iter().map(|d| {
        let sample = Sample(&d.recent, window);
        DestinationPerformance {
            id: d.name.to_string(),
            window_ms: millis(window),
            samples: sample.samples(),
            response_time_ms: sample.response_time(),
            throughput_per_second: sample.per_second(),
            error_rate: sample.error_rate(),
            availability: sample.availability(),
            in_flight: d.in_flight,
        }
    });
    PerformanceMetrics {
        destinations: destinations.collect(),
        window_ms: millis(window),
        samples: whole.samples(),
        response_time_ms: whole.response_time(),
        throughput_per_second: whole.per_second(),
        error_rate: whole.error_rate(),
        availability: whole.availability(),
        in_flight: pool.destinations.iter().map(|d| d.in_flight).sum(),
    }
}

fn add(to: &mut Counts, from: &Counts) {
    to.started += from.started;
    to.first_byte_nanos += from.first_byte_nanos;
    to.classes.iter_mut().zip(from.classes).for_each(|(to, from)| *to += from);
    to.failures.iter_mut().zip(from.failures).for_each(|(to, from)| *to += from);
    to.buckets.iter_mut().zip(from.buckets).for_each(|(to, from)| *to += from);
}

/// Metrics derived from counters and the time they cover.
struct Sample<'c>(&'c Counts, Duration);

impl Sample<'_> {
    fn all(&self) -> u64 {
        self.0.answered() + self.0.failed()
    }

    fn samples(&self) -> usize {
        self.all() as usize
    }

    fn share(&self, part: u64) -> Option<f64> {
        (self.all() > 0).then(|| part as f64 / self.all() as f64)
    }

    fn per_second(&self) -> Option<f64> {
        (self.all() > 0 && !self.1.is_zero()).then(|| self.all() as f64 / self.1.as_secs_f64())
    }

    /// Share of failures and 5xx responses. The counters do not separate 501 and 505 from other 5xx.
    fn error_rate(&self) -> Option<f64> {
        self.share(self.0.failed() + self.0.classes[5])
    }

    fn availability(&self) -> Option<f64> {
        self.share(self.0.answered())
    }

    fn response_time(&self) -> Option<ResponseTime> {
        let mean = millis(self.0.mean_first_byte()?);
        let at = |share| quantile(&self.0.buckets, share);
        Some(ResponseTime { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

/// Returns a quantile in milliseconds, interpolated within its bucket; the lower bound for the unbounded last one.
fn quantile(buckets: &[u64], share: f64) -> f64 {
    let bound = |at: usize| BUCKETS_US[at] as f64 / 1e3;
    let rank = buckets.iter().sum::<u64>() as f64 * share;
    let mut below = 0.0;
    for (at, &count) in buckets.iter().enumerate() {
        let from = if at == 0 { 0.0 } else { bound(at - 1) };
        if at == BUCKETS_US.len() {
            return from;
        }
        if count > 0 && below + count as f64 >= rank {
            return from + (bound(at) - from) * (rank - below) / count as f64;
        }
        below += count as f64;
    }
    below
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plimsoll_core::stats::bucket_of;

    use super::*;

    #[test]
    fn quantiles_are_interpolated_within_a_bucket() {
        let mut buckets = vec![0; BUCKETS_US.len() + 1];
        (buckets[0], buckets[1]) = (50, 50);
        assert_eq!((quantile(&buckets, 0.5), quantile(&buckets, 0.9)), (0.05, 0.07));
        buckets[BUCKETS_US.len()] = 100;
        assert_eq!(quantile(&buckets, 0.99), 60_000.0);
    }

    #[test]
    fn quantiles_of_fast_responses_are_within_a_tenth() {
        let mut buckets = vec![0; BUCKETS_US.len() + 1];
        for us in 400..=1_000 {
            buckets[bucket_of(Duration::from_micros(us))] += 1;
        }
        for (share, exact) in [(0.5, 0.7), (0.9, 0.94), (0.99, 0.994)] {
            let found = quantile(&buckets, share);
            assert!((found / exact - 1.0).abs() < 0.1, "{share}: {found} instead of {exact}");
        }
    }
}
