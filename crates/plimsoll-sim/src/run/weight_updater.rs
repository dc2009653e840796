//! Which weights follow from what each destination got done and what that cost it.

use std::time::Duration;

use crate::scenario::Scenario;

/// Weights are set so often.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// How long use and goodput remember.
const MEMORY: f64 = 10.0;
/// The weight of an average destination: fine enough for steps of 3 %, coarse enough to be built quickly.
const USUAL: f64 = 32.0;

/// Goodput over processor use of each destination, smoothed: the weights of the weighted round robin that
/// Prequal replaced, `q / u`, less what it failed.
#[derive(Debug)]
pub(super) struct Scales {
    allocation: Vec<f64>,
    served: Vec<f64>,
    failed: Vec<f64>,
    goodput: Vec<f64>,
    errors: Vec<f64>,
    use_: Vec<f64>,
    used: Vec<f64>,
}

impl Scales {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let zeros = vec![0.0; scenario.sites.len()];
        Self {
            allocation: scenario.sites.iter().map(|site| site.engine.capacity()).collect(),
            served: zeros.clone(),
            failed: zeros.clone(),
            goodput: zeros.clone(),
            errors: zeros.clone(),
            use_: zeros.clone(),
            used: zeros,
        }
    }

    pub(super) fn served(&mut self, site: usize) {
        self.served[site] += 1.0;
    }

    pub(super) fn failed(&mut self, site: usize) {
        self.failed[site] += 1.0;
    }

    /// The weights now, where destinations have spent `used` core seconds since the start.
    pub(super) fn weigh(&mut self, used: &[f64]) -> Vec<u16> {
        let keep = (-EVERY.as_secs_f64() / MEMORY).exp();
        let blend = |old: &mut f64, new: f64| *old = *old * keep + new * (1.0 - keep);
        for (site, &used) in used.iter().enumerate() {
            blend(&mut self.goodput[site], std::mem::take(&mut self.served[site]));
            blend(&mut self.errors[site], std::mem::take(&mut self.failed[site]));
            let spent = used - std::mem::replace(&mut self.used[site], used);
            blend(&mut self.use_[site], spent / self.allocation[site]);
        }
        let raw: Vec<Option<f64>> = (0..used.len())
            .map(|site| {
                let tries = self.goodput[site] + self.errors[site];
                let kept = self.goodput[site] / tries.max(1e-9);
                (self.use_[site] > 1e-6).then(|| self.goodput[site] / self.use_[site] * kept)
            })
            .collect();
        let known: Vec<f64> = raw.iter().flatten().copied().collect();
        let mean = (known.iter().sum::<f64>() / known.len().max(1) as f64).max(1e-9);
        // Never nothing: who gets nothing can never show that it is better now.
        let weight = |raw: &Option<f64>| raw.map_or(USUAL, |raw| raw / mean * USUAL).clamp(1.0, 4.0 * USUAL);
        raw.iter().map(|raw| weight(raw).round() as u16).collect()
    }
}
