//! How a running pool is told in the words of the seed's functions.
//!
//! Moments are milliseconds since 1970 (UTC), spans are milliseconds, shares run from 0 to 1. What was not
//! observed yet is null.

use std::time::Duration;

use plimsoll_core::stats::{BUCKETS_MS, Counts};

use plimsoll_functions::monitor::errors;
use plimsoll_functions::{
    Alert, Destination, DestinationHealth, DestinationPerformance, DestinationShare, HealthMonitoringResult,
    HealthState, HealthStatus, LoadDistribution, PerformanceMetrics, Recommendation, ResponseTime,
};
use plimsoll_proxy::{Clock, DestinationView, PoolView};

pub(crate) fn millis(span: Duration) -> f64 {
    span.as_nanos() as f64 / 1e6
}

pub(crate) fn weight(in_256ths: u32) -> f64 {
    f64::from(in_256ths) / 256.0
}

/// How many may be counted on.
pub(crate) fn health_status(pool: &PoolView, clock: Clock) -> HealthStatus {
    HealthStatus {
        state: HealthState::of_word(pool.state()),
        serving: pool.serving(),
        total: pool.destinations.len(),
        since: clock.unix_millis(pool.state_since),
    }
}

/// Who was chosen how often since the start, and should be now.
pub(crate) fn load_distribution(pool: &PoolView) -> LoadDistribution {
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

/// A destination of a pool as the functions know one.
pub(crate) fn destination(d: &DestinationView) -> Destination {
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

/// How the pool's destinations are, with alerts and advice.
pub(crate) fn health(pool: &PoolView, clock: Clock) -> HealthMonitoringResult {
    let health = |d: &DestinationView| {
        let report = d.report.as_ref()?;
        Some(DestinationHealth::of(report, &d.checks, d.streak, clock))
    };
    let reports: Vec<_> = pool.destinations.iter().filter_map(|d| d.report.clone()).collect();
    HealthMonitoringResult {
        health_status: health_status(pool, clock),
        destinations: pool.destinations.iter().filter_map(health).collect(),
        alerts: alerts(pool, clock).collect(),
        recommendations: recommendations(pool).collect(),
        errors: errors(&pool.watch.relapsed, &reports, pool.watch.alerts_lost),
    }
}

/// Its alerts: those that stand first.
pub(crate) fn alerts(pool: &PoolView, clock: Clock) -> impl Iterator<Item = Alert> {
    pool.watch.alerts.iter().map(move |alert| Alert::of(&pool.name, alert, clock))
}

/// What could be better about its health.
pub(crate) fn recommendations(pool: &PoolView) -> impl Iterator<Item = Recommendation> {
    pool.watch.advice.iter().map(Recommendation::from)
}

/// What was counted since the start of the process.
pub(crate) fn performance(pool: &PoolView, clock: Clock) -> PerformanceMetrics {
    let window = clock.now().since(plimsoll_core::Tick::ZERO);
    let mut all = Counts::default();
    for d in &pool.destinations {
        add(&mut all, &d.counts);
    }
    let whole = Sample(&all, window);
    let destinations = pool.destinations.iter().map(|d| {
        let sample = Sample(&d.counts, window);
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

/// What counters since the start add up to.
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

    /// Failures, and answers of 5xx: counters do not tell 501 and 505 from the others.
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

/// The value so many are below, between the bounds of its bucket in proportion; of the last, open bucket its
/// lower bound.
fn quantile(buckets: &[u64], share: f64) -> f64 {
    let wanted = buckets.iter().sum::<u64>() as f64 * share;
    let mut below = 0.0;
    for (at, &count) in buckets.iter().enumerate() {
        let from = if at == 0 { 0.0 } else { BUCKETS_MS[at - 1] as f64 };
        let Some(&to) = BUCKETS_MS.get(at) else { return from };
        if count > 0 && below + count as f64 >= wanted {
            return from + (to as f64 - from) * (wanted - below) / count as f64;
        }
        below += count as f64;
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let mut buckets = vec![0; BUCKETS_MS.len() + 1];
        (buckets[0], buckets[1]) = (50, 50);
        assert_eq!((quantile(&buckets, 0.5), quantile(&buckets, 0.9)), (5.0, 9.0));
        buckets[BUCKETS_MS.len()] = 100;
        assert_eq!(quantile(&buckets, 0.99), 10_000.0);
    }
}
