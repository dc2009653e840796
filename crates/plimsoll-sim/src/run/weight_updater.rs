//! Weights computed from the goodput of each destination and its use of processor time.

use std::time::Duration;

use crate::scenario::Scenario;

/// Interval between two updates.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Time constant of the averages, in seconds.
const MEMORY: f64 = 10.0;
/// Weight of an average destination: fine enough for steps of 3 %, coarse enough to build quickly.
const MEAN_WEIGHT: f64 = 32.0;

/// Goodput over processor use of each destination, smoothed: the weights `q / u` of the weighted round robin
/// that Prequal replaced, less the share of failures.
#[derive(Debug)]
pub(super) struct WeightUpdater {
    allocation: Vec<f64>,
    served: Vec<f64>,
    failed: Vec<f64>,
    goodput: Vec<f64>,
    errors: Vec<f64>,
    utilization: Vec<f64>,
    used: Vec<f64>,
}

impl WeightUpdater {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let zeros = vec![0.0; scenario.destinations.len()];
        Self {
            allocation: scenario
                .destinations
                .iter()
                .map(|destination| destination.service_model.capacity())
                .collect(),
            served: zeros.clone(),
            failed: zeros.clone(),
            goodput: zeros.clone(),
            errors: zeros.clone(),
            utilization: zeros.clone(),
            used: zeros,
        }
    }

    pub(super) fn record_success(&mut self, destination: usize) {
        self.served[destination] += 1.0;
    }

    pub(super) fn record_failure(&mut self, destination: usize) {
        self.failed[destination] += 1.0;
    }

    /// Returns the weights after `used` core seconds per destination since the start.
    pub(super) fn update(&mut self, used: &[f64]) -> Vec<u16> {
        let keep = (-EVERY.as_secs_f64() / MEMORY).exp();
        let blend = |old: &mut f64, new: f64| *old = *old * keep + new * (1.0 - keep);
        for (destination, &used) in used.iter().enumerate() {
            blend(&mut self.goodput[destination], std::mem::take(&mut self.served[destination]));
            blend(&mut self.errors[destination], std::mem::take(&mut self.failed[destination]));
            let spent = used - std::mem::replace(&mut self.used[destination], used);
            blend(&mut self.utilization[destination], spent / self.allocation[destination]);
        }
        let raw: Vec<Option<f64>> = (0..used.len())
            .map(|destination| {
                let tries = self.goodput[destination] + self.errors[destination];
                let kept = self.goodput[destination] / tries.max(1e-9);
                (self.utilization[destination] > 1e-6)
                    .then(|| self.goodput[destination] / self.utilization[destination] * kept)
            })
            .collect();
        let known: Vec<f64> = raw.iter().flatten().copied().collect();
        let mean = (known.iter().sum::<f64>() / known.len().max(1) as f64).max(1e-9);
        // At least 1: a destination without messages could never show that it has recovered.
        let weight = |raw: &Option<f64>| {
            raw.map_or(MEAN_WEIGHT, |raw| raw / mean * MEAN_WEIGHT).clamp(1.0, 4.0 * MEAN_WEIGHT)
        };
        raw.iter().map(|raw| weight(raw).round() as u16).collect()
    }
}
