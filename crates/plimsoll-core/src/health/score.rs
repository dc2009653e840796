//! How well a destination does, as one number from 0 to 1.

use crate::stats::DestinationStats;
use crate::time::Tick;

/// One is never scored below this: a destination that is back is noticed by the messages it still gets, a
/// twentieth of its share.
pub const FLOOR: f64 = 0.05;

/// The score of a destination, in a pool whose median average time to the first byte is `median` (nanoseconds).
/// The product of three parts, each 1 when all is well:
///
/// - **errors**: `1 − e`, with `e` the share of outcomes that count against it among the last twenty or so
///   (a moving average, halved after each 10 s without an outcome; what counts is what counts as slow, see
///   [`crate::measure`]);
/// - **latency**: 1 up to the median, then `2 / (1 + r)` with `r` the average over the median: half at three times
///   the median, a fifth at nine times;
/// - **failures in a row**: `2^−k`, which speaks at once where averages need time, and ends with one good answer.
///
/// Whoever was not measured yet scores 1.
pub fn score(stats: &DestinationStats, median: Option<f32>, now: Tick) -> f64 {
    let measured = stats.measured();
    let errors = measured.errors.read(now).map_or(0.0, f64::from);
    let slowness = match (measured.first_byte.read(now), median) {
        (Some(average), Some(median)) if median > 0.0 => f64::from(average) / f64::from(median),
        _ => 1.0,
    };
    let latency = if slowness > 1.0 { 2.0 / (1.0 + slowness) } else { 1.0 };
    let row = halved(stats.streak());
    ((1.0 - errors) * latency * row).clamp(FLOOR, 1.0)
}

/// 2 to the power of `-n`, by its bits: this is asked for with each message. What is below the floor is all the same.
fn halved(n: u32) -> f64 {
    f64::from_bits((1023 - u64::from(n.min(64))) << 52)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::destination::DestinationId;
    use crate::outcome::Outcome;
    use crate::stats::Assignment;

    fn stats(outcomes: &[(u16, u64)]) -> Arc<DestinationStats> {
        let stats = Arc::new(DestinationStats::new(1));
        stats.set_latency_tracking(true);
        for &(status, millis) in outcomes {
            let assignment = Assignment::take(DestinationId(0), 0, 0, &stats, Tick::ZERO).expect("no limit");
            assignment
                .finish(Tick::ZERO, Outcome::Answered { status, first_byte: Duration::from_millis(millis) });
        }
        stats
    }

    fn check(outcomes: &[(u16, u64)], median_ms: f32, expected: f64) {
        let have = score(&stats(outcomes), Some(median_ms * 1e6), Tick::ZERO);
        assert!((have - expected).abs() < 0.005, "{outcomes:?} beside {median_ms} ms: {have}");
    }

    #[test]
    fn each_part_counts() {
        check(&[], 10.0, 1.0);
        check(&[(200, 10)], 10.0, 1.0);
        check(&[(200, 2)], 10.0, 1.0);
        check(&[(200, 30)], 10.0, 0.5);
        check(&[(200, 90)], 10.0, 0.2);
        check(&[(404, 10)], 10.0, 1.0);
        // A failure is a slow answer, too: leave that part out by a median as slow.
        check(&[(200, 10), (503, 0)], 5_000.0, 0.95 / 2.0);
        check(&[(200, 10), (503, 0), (503, 0)], 5_000.0, 0.95 * 0.95 / 4.0);
        check(&[(200, 10), (503, 0), (200, 10)], 5_000.0, 1.0 - 0.05 * 0.95);
        check(&[(503, 0); 40], 10.0, FLOOR);
    }

    #[test]
    fn silence_forgives_errors_and_not_the_row() {
        let later = Tick::ZERO + Duration::from_secs(100);
        assert!(score(&stats(&[(503, 0), (503, 0), (200, 1)]), None, later) > 0.999);
        assert!(score(&stats(&[(503, 0), (503, 0)]), None, later) <= 0.25);
    }
}
