//! Latency of a destination as a cost: a slow response raises it at once, fast ones lower it over time.

use std::time::Duration;

use super::timestamped::{TimestampedValue, halved, in_units};
use crate::time::Tick;

/// Time constant in which a cost decays to 1/e (Finagle, linkerd, Envoy: 10 s).
pub const DECAY: Duration = Duration::from_secs(10);

/// Cost of a destination before its first response (linkerd's control client: 30 ms). It decays like any other cost, so
/// that a new destination is tried, but does not receive all messages before it responded to one.
pub const DEFAULT_RTT: Duration = Duration::from_millis(30);

/// Minimum cost: below it all destinations are alike, and only their load counts. (linkerd: 1 ms, which would make all
/// fast destinations alike.)
pub const MIN_RTT: Duration = Duration::from_micros(10);

/// A cost that follows peaks: Finagle's `PeakEwma.scala`. A sample above the cost becomes the cost; one below lowers it
/// by its age, `cost·w + rtt·(1−w)` with `w = exp(−Δt/τ)`. A read returns the cost decayed by its age.
///
/// Finagle and tower store the decayed cost at each read; here a read writes nothing, because every worker reads every
/// destination. The result is the same, except that samples below the cost pull it towards themselves and not towards
/// zero.
#[derive(Debug, Default)]
pub struct PeakCost(TimestampedValue);

impl PeakCost {
    /// Returns the cost as of now, in nanoseconds. The first read stores its time.
    pub fn read(&self, now: Tick) -> f32 {
        self.decode(self.bits(), now)
    }

    /// Returns the encoded form. A comparison of several costs loads them all first.
    pub(crate) fn bits(&self) -> u64 {
        self.0.bits()
    }

    /// Decodes a cost.
    pub(crate) fn decode(&self, bits: u64, now: Tick) -> f32 {
        let cost = match TimestampedValue::decode(bits, now) {
            Some(aged) => aged.value * share_left(aged.elapsed),
            None => {
                self.0.store(now, nanos(DEFAULT_RTT));
                nanos(DEFAULT_RTT)
            }
        };
        cost.max(nanos(MIN_RTT))
    }

    /// Adds a sample.
    pub(crate) fn record(&self, now: Tick, rtt: Duration) {
        let rtt = nanos(rtt);
        let cost = self.0.load(now).map_or(rtt, |aged| {
            // Exact, because the error of the parabola would add up over many small steps.
            let left = (-(aged.elapsed as f32) / const { in_units(DECAY) as f32 }).exp();
            let decayed = aged.value * left;
            if rtt > decayed { rtt } else { decayed + rtt * (1.0 - left) }
        });
        // Within one unit nothing decays, and the age must keep growing: reset by each of very many samples, the cost
        // would never fall.
        let unchanged = self.0.load(now).is_some_and(|aged| aged.elapsed == 0 && cost <= aged.value);
        if !unchanged {
            self.0.store(now, cost);
        }
    }

    pub(crate) fn forget(&self) {
        self.0.forget();
    }
}

const fn nanos(span: Duration) -> f32 {
    span.as_nanos() as f32
}

/// Returns `exp(−elapsed/τ)` as a power of two: whole halvings exactly, and within one a parabola through its ends and its
/// middle, at most 0.3 % off. A pick computes up to 64 of these.
fn share_left(elapsed: u32) -> f32 {
    const HALVINGS_PER_UNIT: f32 = std::f32::consts::LOG2_E / in_units(DECAY) as f32;
    const BEND: f32 = 0.171_57;
    let halvings = elapsed as f32 * HALVINGS_PER_UNIT;
    let whole = halvings as u32;
    let rest = halvings - whole as f32;
    halved(whole) * (1.0 - rest * (0.5 + BEND) + BEND * rest * rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Tick {
        Tick::ZERO + Duration::from_millis(millis)
    }

    fn millis(peak: &PeakCost, now: Tick) -> f32 {
        peak.read(now) / 1e6
    }

    #[test]
    fn the_parabola_is_within_half_a_percent() {
        for elapsed in (0..200_000).step_by(37) {
            let exact = (-f64::from(elapsed) / f64::from(in_units(DECAY))).exp();
            let ours = f64::from(share_left(elapsed));
            assert!((ours / exact - 1.0).abs() < 0.004, "{elapsed}: {ours} for {exact}");
        }
        assert!(share_left(u32::MAX) < 1e-30);
    }

    #[test]
    fn a_peak_counts_at_once_and_fast_responses_over_time() {
        let peak = PeakCost::default();
        peak.record(at(1_000), 10 * MS);
        assert_eq!(millis(&peak, at(1_000)), 10.0);
        peak.record(at(1_010), 500 * MS);
        assert_eq!(millis(&peak, at(1_010)), 500.0);
        // 10 s of fast answers, one each 10 ms: 1/e of the peak is left, and the rest is what they took.
        for n in 1..=1_000 {
            peak.record(at(1_010 + 10 * n), 10 * MS);
        }
        let left = millis(&peak, at(11_010));
        assert!((left - 190.3).abs() < 4.0, "{left}");
    }

    #[test]
    fn very_many_samples_do_not_stop_the_decay() {
        let peak = PeakCost::default();
        peak.record(at(0) + Duration::from_nanos(1), 100 * MS);
        for n in 0..200_000_u64 {
            peak.record(Tick::from_nanos(n * 100_000), MS);
        }
        assert!(millis(&peak, at(20_000)) < 16.0, "{}", millis(&peak, at(20_000)));
    }

    #[test]
    fn a_new_destination_starts_at_the_default_cost_which_decays() {
        let peak = PeakCost::default();
        assert_eq!(millis(&peak, at(5_000)), 30.0);
        assert!((millis(&peak, at(15_000)) - 11.0).abs() < 0.2);
        assert_eq!(millis(&peak, at(900_000)), 0.01, "never below the minimum");
        peak.record(at(15_000), 40 * MS);
        assert_eq!(millis(&peak, at(15_000)), 40.0);
    }
}
