//! Load reports of a destination, and how long they count.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::timestamped::{TimestampedValue, from_units, in_units};
use crate::time::Tick;

/// Metric of a load report.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadMetric {
    /// Processor utilization, as a share; may exceed 1.
    Cpu,
    /// Memory utilization, as a share.
    Memory,
    /// Network utilization, as a share.
    Network,
    /// Application-defined utilization, as a share; may exceed 1.
    Application,
    /// Overall load as the destination computes it, from 0 to 1.
    Score,
    /// Number of connections.
    Connections,
    /// Length of the destination's queue.
    Queue,
    /// Requests per second.
    Rps,
    /// Errors per second.
    Eps,
    /// Custom metric of a formula: the index of its name in the formula's list.
    Named(u8),
}

/// Maximum number of custom metrics in a formula.
pub const NAMED_MAX: usize = 8;

const KINDS: usize = LoadMetric::KINDS;

/// Maximum of any value; a larger one is not a load.
const MAX_VALUE: f64 = 1e15;

impl LoadMetric {
    /// Predefined metrics with their names.
    pub const KNOWN: [(&'static str, Self); 9] = [
        ("cpu", Self::Cpu),
        ("memory", Self::Memory),
        ("network", Self::Network),
        ("application", Self::Application),
        ("score", Self::Score),
        ("connections", Self::Connections),
        ("queue", Self::Queue),
        ("rps", Self::Rps),
        ("eps", Self::Eps),
    ];

    pub(crate) const KINDS: usize = Self::KNOWN.len() + NAMED_MAX;

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Cpu => 0,
            Self::Memory => 1,
            Self::Network => 2,
            Self::Application => 3,
            Self::Score => 4,
            Self::Connections => 5,
            Self::Queue => 6,
            Self::Rps => 7,
            Self::Eps => 8,
            Self::Named(nth) => Self::KNOWN.len() + nth as usize % NAMED_MAX,
        }
    }

    /// Returns the metric with this name, predefined or one of `named`.
    pub fn from_name(name: &str, named: &[crate::Name]) -> Option<Self> {
        let known = Self::KNOWN.iter().find(|(known, _)| *known == name).map(|&(_, metric)| metric);
        let custom = || named.iter().take(NAMED_MAX).position(|known| **known == *name);
        known.or_else(|| Some(Self::Named(custom()? as u8)))
    }
}

/// One report. Metrics that it does not contain keep their earlier value.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct LoadReport([Option<f32>; KINDS]);

impl Default for LoadReport {
    fn default() -> Self {
        Self([None; KINDS])
    }
}

impl LoadReport {
    /// Sets the value of a metric. Returns false, and sets nothing, if the value is negative, above 10^15, not a number,
    /// or a score above 1.
    pub fn set(&mut self, metric: LoadMetric, value: f64) -> bool {
        let max = if metric == LoadMetric::Score { 1.0 } else { MAX_VALUE };
        let fits = (0.0..=max).contains(&value);
        if fits {
            self.0[metric.index()] = Some(value as f32);
        }
        fits
    }

    /// Returns the value of a metric.
    pub const fn of(&self, metric: LoadMetric) -> Option<f32> {
        self.0[metric.index()]
    }

    /// Returns whether the report has no value.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Returns the load score, from 0 (idle) to 1 (full): the reported score if there is one, else the application
    /// utilization, else the highest of processor, memory and network.
    pub fn score(&self) -> Option<f32> {
        let resources = [LoadMetric::Cpu, LoadMetric::Memory, LoadMetric::Network];
        let fullest = || resources.into_iter().filter_map(|metric| self.of(metric)).reduce(f32::max);
        let score = self.of(LoadMetric::Score).or(self.of(LoadMetric::Application)).or_else(fullest);
        score.map(|score| score.min(1.0))
    }
}

/// Latest load reports of one destination, shared by all workers. The 200 bytes are allocated at the first report.
#[derive(Debug, Default)]
pub struct LoadReportState {
    /// Maximum age of a value, in timestamp units.
    max_age: AtomicU32,
    cells: OnceLock<Box<[TimestampedValue; KINDS]>>,
}

impl LoadReportState {
    /// Sets the age above which a value no longer counts.
    pub fn set_max_age(&self, age: Duration) {
        self.max_age.store(in_units(age), Relaxed);
    }

    /// Stores a report.
    pub fn record(&self, now: Tick, report: &LoadReport) {
        let cells = self.cells.get_or_init(Box::default);
        for (cell, value) in cells.iter().zip(report.0) {
            if let Some(value) = value {
                cell.store(now, value);
            }
        }
    }

    /// Returns the value of a metric, unless it is too old.
    pub fn read(&self, metric: LoadMetric, now: Tick) -> Option<f32> {
        self.cell(&self.cells.get()?[metric.index()], now)
    }

    /// Returns all values that are not too old.
    pub fn report(&self, now: Tick) -> LoadReport {
        let cells = self.cells.get();
        LoadReport(std::array::from_fn(|index| self.cell(&cells?[index], now)))
    }

    /// Returns the age of the latest report.
    pub fn age(&self, now: Tick) -> Option<Duration> {
        let elapsed = |cell: &TimestampedValue| cell.load(now).map(|aged| aged.elapsed);
        let units = self.cells.get()?.iter().filter_map(elapsed).min()?;
        Some(from_units(units))
    }

    fn cell(&self, cell: &TimestampedValue, now: Tick) -> Option<f32> {
        let aged = cell.load(now)?;
        (aged.elapsed <= self.max_age.load(Relaxed)).then_some(aged.value)
    }

    /// Removes all values.
    pub(crate) fn forget(&self) {
        self.cells.get().into_iter().flat_map(|cells| cells.iter()).for_each(TimestampedValue::forget);
    }

    /// Removes the values of custom metrics, because their names changed.
    pub(crate) fn forget_named(&self) {
        let cells = self.cells.get().into_iter().flat_map(|cells| cells.iter());
        cells.skip(LoadMetric::KNOWN.len()).for_each(TimestampedValue::forget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(values: &[(LoadMetric, f64)]) -> LoadReport {
        let mut report = LoadReport::default();
        values.iter().for_each(|&(metric, value)| assert!(report.set(metric, value)));
        report
    }

    #[test]
    fn a_reported_score_comes_before_a_computed_one() {
        let usage = [(LoadMetric::Cpu, 0.5), (LoadMetric::Memory, 0.75), (LoadMetric::Network, 0.25)];
        assert_eq!(report(&[]).score(), None);
        assert_eq!(report(&[(LoadMetric::Queue, 9.0)]).score(), None);
        assert_eq!(report(&usage).score(), Some(0.75));
        assert_eq!(report(&[usage[0], (LoadMetric::Application, 2.5)]).score(), Some(1.0));
        assert_eq!(report(&[(LoadMetric::Application, 0.5), (LoadMetric::Score, 0.25)]).score(), Some(0.25));
    }

    #[test]
    fn an_invalid_load_is_rejected() {
        let mut report = LoadReport::default();
        for value in [-0.1, f64::NAN, f64::INFINITY, 1e16] {
            assert!(!report.set(LoadMetric::Cpu, value), "{value}");
        }
        assert!(!report.set(LoadMetric::Score, 1.01));
        assert!(report.is_empty());
    }

    #[test]
    fn every_metric_has_an_index_of_its_own() {
        let named: Vec<crate::Name> = (0..NAMED_MAX).map(|n| format!("own{n}").into()).collect();
        let names = LoadMetric::KNOWN.map(|(name, _)| name.to_owned()).into_iter();
        let metrics: Vec<LoadMetric> = names
            .chain(named.iter().map(|name| name.to_string()))
            .map(|name| LoadMetric::from_name(&name, &named).expect("known"))
            .collect();
        let indices: std::collections::BTreeSet<usize> =
            metrics.iter().map(|metric| metric.index()).collect();
        assert_eq!((indices.len(), metrics.len()), (KINDS, KINDS));
        assert_eq!(LoadMetric::from_name("own8", &named), None);
    }

    #[test]
    fn old_values_do_not_count_and_missing_ones_stay() {
        let (reported, at) =
            (LoadReportState::default(), |seconds| Tick::ZERO + Duration::from_secs(seconds));
        assert_eq!((reported.read(LoadMetric::Cpu, at(1)), reported.age(at(1))), (None, None));
        reported.set_max_age(Duration::from_secs(10));
        reported.record(at(1), &report(&[(LoadMetric::Cpu, 0.5), (LoadMetric::Memory, 0.75)]));
        reported.record(at(8), &report(&[(LoadMetric::Cpu, 0.25)]));
        assert_eq!(reported.report(at(9)), report(&[(LoadMetric::Cpu, 0.25), (LoadMetric::Memory, 0.75)]));
        assert_eq!(reported.report(at(13)), report(&[(LoadMetric::Cpu, 0.25)]));
        assert_eq!(reported.report(at(30)), LoadReport::default());
        assert!(reported.age(at(30)).is_some_and(|age| age.as_secs().abs_diff(22) <= 1));
        reported.record(at(30), &report(&[(LoadMetric::Named(0), 3.0), (LoadMetric::Cpu, 0.5)]));
        reported.forget_named();
        assert_eq!(reported.report(at(30)), report(&[(LoadMetric::Cpu, 0.5)]));
        reported.forget();
        assert!(reported.report(at(30)).is_empty());
    }
}
