//! Balancing by a formula of the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::latency_quantile::Median;
use super::least_loaded::EXACT_UP_TO;
use super::lowest_score::{Score, Seen, lowest};
use super::rotation_state::PartitionRotations;
use super::slow_destinations::SlowDestinations;
use super::{Needs, Partition, Picker, Policy, Slot};
use crate::formula::{Formula, Program, Reading, Source};
use crate::health::score::score;
use crate::measure::{LoadMetric, TimestampedValue, in_units};
use crate::rng::Rng;
use crate::stats::DestinationStats;
use crate::time::Tick;

/// Default formula, which is `weighted_least_connections`.
pub const DEFAULT: &str = "in_flight / weight";

/// Maximum age of a mean over the pool.
const MAX_MEAN_AGE: Duration = Duration::from_millis(100);

/// `custom`: a [`Formula`] computes a score for each destination, and the lowest is picked. Up to 16 destinations are
/// all scored, of more five are drawn by weight, and equal scores take turns by weight. If the formula reads latencies
/// or errors, a destination that gets no messages is measured again every few seconds.
///
/// An unknown value of a destination (a latency before 20 responses, no load report, or a report that is too old) is replaced by the
/// mean of the known values, or 0 if all are unknown. A destination without reports is neither flooded nor starved (as
/// in gRPC's weighted round robin, A58). A destination with a score of NaN is picked last, and is counted.
#[derive(Debug)]
pub struct Custom {
    formula: Arc<Formula>,
    turns: PartitionRotations,
}

impl Custom {
    /// Creates `custom` with `formula`, or [`DEFAULT`], for `workers` workers.
    pub fn new(workers: usize, formula: Option<Arc<Formula>>) -> Self {
        let formula = formula.or_else(|| Formula::parse(DEFAULT).ok().map(Arc::new));
        let formula = formula.expect("a test reads the default");
        Self { formula, turns: PartitionRotations::new(workers) }
    }
}

impl Policy for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }

    fn needs(&self) -> Needs {
        match (self.formula.reads_answers(), self.formula.reads_load()) {
            (true, _) => Needs::ResponseTimes,
            (_, true) => Needs::Load,
            _ => Needs::Nothing,
        }
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        self.build_partition(slots, Partition::WHOLE)
    }

    fn build_partition(&self, slots: Arc<[Slot]>, part: Partition) -> Box<dyn Picker> {
        let programs =
            slots.iter().map(|slot| (slot.stats.clone(), self.formula.program(&slot.attributes()))).collect();
        let scores = Scores { programs, pool: PoolMeans::default(), slots: slots.clone() };
        let slow = self.formula.reads_answers().then(|| SlowDestinations::new(&slots));
        lowest(scores, &slots, self.turns.of(part), slow)
    }
}

struct Scores {
    programs: Box<[(Arc<DestinationStats>, Program)]>,
    pool: PoolMeans,
    slots: Arc<[Slot]>,
}

impl Score for Scores {
    /// A formula keeps messages from a destination by a great number, such as `zone == 'eu' ? 1e9 : 0`.
    const EXPLORED_UP_TO: f64 = 1e6;

    /// The formula reads its values when it is evaluated.
    fn look(&self, _slot: usize) -> Seen {
        Seen::default()
    }

    fn of(&self, slot: usize, _seen: Seen, now: Tick) -> f64 {
        let (stats, program) = &self.programs[slot];
        let score = program.run(&Reader { stats, scores: self, now });
        if score.is_nan() {
            stats.count_score_error();
            return f64::INFINITY;
        }
        score
    }
}

/// Means over the pool that replace unknown values.
#[derive(Debug, Default)]
struct PoolMeans {
    latency: TimestampedValue,
    errors: TimestampedValue,
    loads: [TimestampedValue; LoadMetric::KINDS],
    median: Median,
}

struct Reader<'r> {
    stats: &'r DestinationStats,
    scores: &'r Scores,
    now: Tick,
}

impl Source for Reader<'_> {
    fn read(&self, reading: Reading) -> f64 {
        let Self { stats, scores, now } = *self;
        let pool = &scores.pool;
        match reading {
            Reading::InFlight => f64::from(stats.in_flight()),
            Reading::LatencyMs => {
                let read = |stats: &DestinationStats| stats.measured().known_first_byte(now);
                self.known(read, &pool.latency) / 1e6
            }
            Reading::ErrorRate => self.known(|stats| stats.measured().errors.read(now), &pool.errors),
            Reading::Health => {
                // The random numbers only select which destinations of a large pool are sampled.
                let median = pool.median.read(&scores.slots, now, &mut Rng::new(now.as_nanos()));
                score(stats, median, now)
            }
            Reading::Load(metric) => {
                self.known(|stats| stats.reported().read(metric, now), &pool.loads[metric.index()])
            }
            Reading::Reports(metric) => f64::from(u8::from(stats.reported().read(metric, now).is_some())),
        }
    }
}

impl Reader<'_> {
    fn known(&self, read: impl Fn(&DestinationStats) -> Option<f32>, mean: &TimestampedValue) -> f64 {
        f64::from(read(self.stats).unwrap_or_else(|| self.mean(read, mean)))
    }

    #[cold]
    fn mean(&self, read: impl Fn(&DestinationStats) -> Option<f32>, mean: &TimestampedValue) -> f32 {
        if let Some(known) = mean.load(self.now)
            && known.elapsed < const { in_units(MAX_MEAN_AGE) }
        {
            return known.value;
        }
        let programs = &self.scores.programs;
        let step = programs.len().div_ceil(EXACT_UP_TO);
        let known = programs.iter().step_by(step).filter_map(|(stats, _)| read(stats));
        let (sum, count) = known.fold((0.0, 0_u16), |(sum, count), value| (sum + value, count + 1));
        let value = if count == 0 { 0.0 } else { sum / f32::from(count) };
        mean.store(self.now, value);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, hold, named, picks};
    use super::*;
    use crate::balance::PickRequest;
    use crate::measure::LoadReport;

    const MS: Duration = Duration::from_millis(1);

    fn picker(formula: &str, slots: &[Slot]) -> Box<dyn Picker> {
        let formula = Formula::parse(formula).unwrap_or_else(|misread| panic!("{misread:?}"));
        Custom::new(1, Some(Arc::new(formula))).build(slots.into())
    }

    /// The ranks of the next picks.
    fn ranks(picker: &dyn Picker, slots: &[Slot], count: usize) -> String {
        picks(picker, slots, 0, count).replace("destination-", "")
    }

    fn report(slot: &Slot, now: Tick, values: &[(LoadMetric, f64)]) {
        let mut report = LoadReport::default();
        values.iter().for_each(|&(metric, value)| assert!(report.set(metric, value)));
        slot.stats.reported().set_max_age(Duration::from_secs(10));
        slot.stats.reported().record(now, &report);
    }

    #[test]
    fn lowest_score_is_picked_and_equal_scores_take_turns() {
        let slots = named(0.., &[256, 512, 256]);
        let by_load = picker("(in_flight + 1) / weight", &slots);
        assert_eq!(ranks(&*by_load, &slots, 2), "1 1");
        let _held = hold(&slots[1], 1);
        assert_eq!(ranks(&*by_load, &slots, 4), "1 0 2 1");
    }

    #[test]
    fn formula_reads_labels_and_zones() {
        let mut slots = named(0.., &[256; 3]);
        slots[2].labels = Arc::new([("disk".into(), "ssd".into())]);
        slots[1].zone = Some("eu".into());
        let near = picker("(labels.disk == 'ssd' ? 0 : 10) + (zone == 'eu' ? 5 : 7) + in_flight", &slots);
        assert_eq!(ranks(&*near, &slots, 2), "2 2");
        let _held = hold(&slots[2], 9);
        assert_eq!(ranks(&*near, &slots, 2), "1 1");
    }

    #[test]
    fn response_times_count_and_unknown_ones_are_the_mean() {
        let slots = named(0.., &[256; 3]);
        for _ in 0..20 {
            answer(&slots[0], Tick::ZERO, 200, 10 * MS);
            answer(&slots[1], Tick::ZERO, 200, 50 * MS);
        }
        let by_time = picker("latency_ms * (in_flight + 1)", &slots);
        assert_eq!(ranks(&*by_time, &slots, 1), "0");
        let _four = hold(&slots[0], 3);
        assert_eq!(ranks(&*by_time, &slots, 1), "2", "the unknown one counts as 30 ms");
        let by_health = picker("1 - health", &slots);
        answer(&slots[0], Tick::ZERO, 503, MS);
        assert!(!ranks(&*by_health, &slots, 4).contains('0'));
    }

    #[test]
    fn reported_load_counts_until_its_maximum_age_and_unknown_load_is_the_mean() {
        let slots = named(0.., &[256; 3]);
        let at = |seconds| Tick::ZERO + Duration::from_secs(seconds);
        report(&slots[0], at(100), &[(LoadMetric::Cpu, 0.9), (LoadMetric::Named(0), 4.0)]);
        report(&slots[1], at(105), &[(LoadMetric::Cpu, 0.3)]);
        let by_cpu = picker("load.cpu", &slots);
        let pick = |now| by_cpu.pick(&PickRequest::default(), now, &mut Rng::new(1));
        assert_eq!(pick(at(105)), 1);
        report(&slots[1], at(106), &[(LoadMetric::Cpu, 1.0)]);
        assert_eq!(pick(at(106)), 0, "0.9 is less than 0.95 and 1");
        assert_eq!(
            (pick(at(112)), pick(at(112)), pick(at(112))),
            (1, 2, 0),
            "only one counts, so all are alike"
        );
        let own = picker("has(load.gpu) ? load.gpu : 5", &slots);
        assert_eq!(own.pick(&PickRequest::default(), at(105), &mut Rng::new(1)), 0);
    }

    #[test]
    fn score_of_nan_is_last_and_is_counted() {
        let mut slots = named(0.., &[256; 3]);
        slots[1].labels = Arc::new([("cost".into(), "cheap".into())]);
        slots[2].labels = Arc::new([("cost".into(), "7".into())]);
        let by_cost = picker("double(labels.cost) + in_flight", &slots);
        assert_eq!(ranks(&*by_cost, &slots, 3), "2 2 2");
        let score_errors: Vec<u32> = slots.iter().map(|slot| slot.stats.score_errors()).collect();
        assert_eq!(score_errors, [3, 3, 0]);
        let by_nothing = picker("0 / 0", &slots);
        assert_eq!(ranks(&*by_nothing, &slots, 6), "0 1 2 0 1 2", "without any score, all take turns");
    }

    #[test]
    fn large_pool_is_sampled() {
        let slots = named(0.., &[256; 100]);
        let first_half = picker("(id.startsWith('destination-1') ? 0 : 1) + load.cpu", &slots);
        let mut rng = Rng::new(3);
        let hits = (0..10_000)
            .filter(|_| {
                slots[first_half.pick(&PickRequest::default(), Tick::ZERO, &mut rng)].name.contains("-1")
            })
            .count();
        assert!((4000..5200).contains(&hits), "one in nine, and the best of five: {hits}");
    }
}
