//! Health score of a destination, from 0 to 1.

use crate::stats::DestinationStats;
use crate::time::Tick;

/// Minimum score: a destination keeps a twentieth of its share, so that its recovery is noticed.
pub const MIN_SCORE: f64 = 0.05;

/// Returns the health score of a destination in a pool with `median` (nanoseconds) as the median of average times
/// to the first byte. It is the product of three factors, each 1 if all is well:
///
/// - **errors**: `1 − e`, with `e` the share of bad outcomes among about the last twenty (a moving average, halved after
///   each 10 s without an outcome; see [`crate::measure`] for what counts);
/// - **latency**: 1 up to the median, then `2 / (1 + r)` with `r` the average over the median: half at three times
///   the median, a fifth at nine times; it needs 20 responses;
/// - **consecutive failures**: `2^−k`, which reacts at once and ends with one good response.
///
/// A destination without measurements scores 1.
pub fn score(stats: &DestinationStats, median: Option<f32>, now: Tick) -> f64 {
    let measured = stats.measured();
    let errors = measured.errors.read(now).map_or(0.0, f64::from);
    let slowness = match (measured.known_first_byte(now), median) {
        (Some(average), Some(median)) if median > 0.0 => f64::from(average) / f64::from(median),
        _ => 1.0,
    };
    let latency = if slowness > 1.0 { 2.0 / (1.0 + slowness) } else { 1.0 };
    let streak = power_of_half(stats.streak());
    ((1.0 - errors) * latency * streak).clamp(MIN_SCORE, 1.0)
}

/// Returns 2 to the power of `-n`, computed by bits because it runs for each message.
fn power_of_half(n: u32) -> f64 {
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
        // The latency counts from 20 responses on: those before it have the same mean as the first.
        let first = outcomes.first().into_iter().cycle().take(if outcomes.is_empty() { 0 } else { 20 });
        for &(status, millis) in first.filter(|&&(status, _)| status == 200).chain(outcomes) {
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
    fn each_factor_counts() {
        check(&[], 10.0, 1.0);
        check(&[(200, 10)], 10.0, 1.0);
        check(&[(200, 2)], 10.0, 1.0);
        check(&[(200, 30)], 10.0, 0.5);
        check(&[(200, 90)], 10.0, 0.2);
        check(&[(404, 10)], 10.0, 1.0);
        // A failure counts as a slow response, too; the high median excludes that factor.
        check(&[(200, 10), (503, 0)], 5_000.0, 0.95 / 2.0);
        check(&[(200, 10), (503, 0), (503, 0)], 5_000.0, 0.95 * 0.95 / 4.0);
        check(&[(200, 10), (503, 0), (200, 10)], 5_000.0, 1.0 - 0.05 * 0.95);
        check(&[(503, 0); 40], 10.0, MIN_SCORE);
    }

    #[test]
    fn time_without_traffic_decays_errors_but_not_the_streak() {
        let later = Tick::ZERO + Duration::from_secs(100);
        assert!(score(&stats(&[(503, 0), (503, 0), (200, 1)]), None, later) > 0.999);
        assert!(score(&stats(&[(503, 0), (503, 0)]), None, later) <= 0.25);
    }
}
