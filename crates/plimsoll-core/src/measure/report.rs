//! What a destination says of its own load, and until when that counts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::{Stamped, in_units};
use crate::time::Tick;

/// What a destination can say of itself.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoadMetric {
    /// Processor in use, as a share of what it has; may exceed 1.
    Cpu,
    /// Memory in use, as a share.
    Memory,
    /// Network in use, as a share.
    Network,
    /// How full it is by its own measure, as a share; may exceed 1.
    Application,
    /// How loaded it is by its own word, from 0 to 1.
    Score,
    /// Connections it has.
    Connections,
    /// What waits there.
    Queue,
    /// Requests it serves in a second.
    Rps,
    /// Requests that fail there in a second.
    Eps,
    /// What a formula calls by a name of its own: the place of that name in its list.
    Named(u8),
}

/// Names of its own that a formula may read.
pub const NAMED_MAX: usize = 8;

const KINDS: usize = LoadMetric::KINDS;

/// No destination has more of anything; more is nonsense.
const MOST: f64 = 1e15;

impl LoadMetric {
    /// Those that have names everywhere, with their names.
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

    /// The metric of that name, one of `named` included.
    pub fn from_name(name: &str, named: &[crate::Name]) -> Option<Self> {
        let known = Self::KNOWN.iter().find(|(known, _)| *known == name).map(|&(_, metric)| metric);
        let own = || named.iter().take(NAMED_MAX).position(|known| **known == *name);
        known.or_else(|| Some(Self::Named(own()? as u8)))
    }
}

/// One report: what it does not tell stays as it was known.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct LoadReport([Option<f32>; KINDS]);

impl Default for LoadReport {
    fn default() -> Self {
        Self([None; KINDS])
    }
}

impl LoadReport {
    /// Adds what one metric shows. False, and nothing added, if that is no load: negative, beyond 10^15, not a
    /// number, or a score above 1.
    pub fn set(&mut self, metric: LoadMetric, value: f64) -> bool {
        let most = if metric == LoadMetric::Score { 1.0 } else { MOST };
        let fits = (0.0..=most).contains(&value);
        if fits {
            self.0[metric.index()] = Some(value as f32);
        }
        fits
    }

    /// What it tells of one metric.
    pub const fn of(&self, metric: LoadMetric) -> Option<f32> {
        self.0[metric.index()]
    }

    /// It tells nothing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// From 0, idle, to 1, full: its own word for it if it gave one, else how full it says its application is, else
    /// the fullest of processor, memory and network.
    pub fn score(&self) -> Option<f32> {
        let resources = [LoadMetric::Cpu, LoadMetric::Memory, LoadMetric::Network];
        let fullest = || resources.into_iter().filter_map(|metric| self.of(metric)).reduce(f32::max);
        let score = self.of(LoadMetric::Score).or(self.of(LoadMetric::Application)).or_else(fullest);
        score.map(|score| score.min(1.0))
    }
}

/// The last reports of one destination, shared by all workers. Two hundred bytes, so there are none before the
/// first report.
#[derive(Debug, Default)]
pub struct Reported {
    /// Older ones count for nothing, in units of stamps.
    age: AtomicU32,
    cells: OnceLock<Box<[Stamped; KINDS]>>,
}

impl Reported {
    /// From now on what was said longer ago than this counts for nothing.
    pub fn set_max_age(&self, age: Duration) {
        self.age.store(in_units(age), Relaxed);
    }

    /// Learns a report.
    pub fn record(&self, now: Tick, report: &LoadReport) {
        let cells = self.cells.get_or_init(Box::default);
        for (cell, value) in cells.iter().zip(report.0) {
            if let Some(value) = value {
                cell.store(now, value);
            }
        }
    }

    /// What one metric showed, if that is not too long ago.
    pub fn read(&self, metric: LoadMetric, now: Tick) -> Option<f32> {
        self.cell(&self.cells.get()?[metric.index()], now)
    }

    /// Everything that still counts.
    pub fn report(&self, now: Tick) -> LoadReport {
        let cells = self.cells.get();
        LoadReport(std::array::from_fn(|index| self.cell(&cells?[index], now)))
    }

    /// How long ago it last said anything.
    pub fn silence(&self, now: Tick) -> Option<Duration> {
        let elapsed = |cell: &Stamped| cell.load(now).map(|aged| aged.elapsed);
        let units = self.cells.get()?.iter().filter_map(elapsed).min()?;
        Some(super::from_units(units))
    }

    fn cell(&self, cell: &Stamped, now: Tick) -> Option<f32> {
        let aged = cell.load(now)?;
        (aged.elapsed <= self.age.load(Relaxed)).then_some(aged.value)
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.cells.get().into_iter().flat_map(|cells| cells.iter()).for_each(Stamped::forget);
    }

    /// Names mean something else now.
    pub(crate) fn forget_named(&self) {
        let cells = self.cells.get().into_iter().flat_map(|cells| cells.iter());
        cells.skip(LoadMetric::KNOWN.len()).for_each(Stamped::forget);
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
    fn the_score_is_its_own_word_before_ours() {
        let usage = [(LoadMetric::Cpu, 0.5), (LoadMetric::Memory, 0.75), (LoadMetric::Network, 0.25)];
        assert_eq!(report(&[]).score(), None);
        assert_eq!(report(&[(LoadMetric::Queue, 9.0)]).score(), None);
        assert_eq!(report(&usage).score(), Some(0.75));
        assert_eq!(report(&[usage[0], (LoadMetric::Application, 2.5)]).score(), Some(1.0));
        assert_eq!(report(&[(LoadMetric::Application, 0.5), (LoadMetric::Score, 0.25)]).score(), Some(0.25));
    }

    #[test]
    fn what_is_no_load_is_refused() {
        let mut report = LoadReport::default();
        for value in [-0.1, f64::NAN, f64::INFINITY, 1e16] {
            assert!(!report.set(LoadMetric::Cpu, value), "{value}");
        }
        assert!(!report.set(LoadMetric::Score, 1.01));
        assert!(report.is_empty());
    }

    #[test]
    fn every_gauge_has_a_place_of_its_own() {
        let named: Vec<crate::Name> = (0..NAMED_MAX).map(|n| format!("own{n}").into()).collect();
        let names = LoadMetric::KNOWN.map(|(name, _)| name.to_owned()).into_iter();
        let metrics: Vec<LoadMetric> = names
            .chain(named.iter().map(|name| name.to_string()))
            .map(|name| LoadMetric::from_name(&name, &named).expect("known"))
            .collect();
        let places: std::collections::BTreeSet<usize> = metrics.iter().map(|metric| metric.index()).collect();
        assert_eq!((places.len(), metrics.len()), (KINDS, KINDS));
        assert_eq!(LoadMetric::from_name("own8", &named), None);
    }

    #[test]
    fn old_reports_count_for_nothing_and_what_one_does_not_tell_stays() {
        let (reported, at) = (Reported::default(), |seconds| Tick::ZERO + Duration::from_secs(seconds));
        assert_eq!((reported.read(LoadMetric::Cpu, at(1)), reported.silence(at(1))), (None, None));
        reported.set_max_age(Duration::from_secs(10));
        reported.record(at(1), &report(&[(LoadMetric::Cpu, 0.5), (LoadMetric::Memory, 0.75)]));
        reported.record(at(8), &report(&[(LoadMetric::Cpu, 0.25)]));
        assert_eq!(reported.report(at(9)), report(&[(LoadMetric::Cpu, 0.25), (LoadMetric::Memory, 0.75)]));
        assert_eq!(reported.report(at(13)), report(&[(LoadMetric::Cpu, 0.25)]));
        assert_eq!(reported.report(at(30)), LoadReport::default());
        assert!(reported.silence(at(30)).is_some_and(|silence| silence.as_secs().abs_diff(22) <= 1));
        reported.record(at(30), &report(&[(LoadMetric::Named(0), 3.0), (LoadMetric::Cpu, 0.5)]));
        reported.forget_named();
        assert_eq!(reported.report(at(30)), report(&[(LoadMetric::Cpu, 0.5)]));
        reported.forget();
        assert!(reported.report(at(30)).is_empty());
    }
}
