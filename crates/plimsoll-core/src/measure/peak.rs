//! What a destination costs: a slow answer at once, a fast one only with time.

use std::time::Duration;

use super::{Stamped, halved, in_units};
use crate::time::Tick;

/// The time in which all but 1/e of a cost is forgotten (Finagle, linkerd, Envoy: 10 s).
pub const DECAY: Duration = Duration::from_secs(10);

/// What a destination is taken to cost before its first answer (linkerd's control client: 30 ms). It decays like
/// any other cost, so that a newcomer is tried, and is not given everything before it has answered anything.
pub const DEFAULT_RTT: Duration = Duration::from_millis(30);

/// A cost is never less: below that all are alike, and only what they have to do counts. (linkerd: 1 ms, which
/// would make all destinations alike that answer at once.)
pub const RTT_AT_LEAST: Duration = Duration::from_micros(10);

/// A cost that follows peaks: Finagle's `PeakEwma.scala`. A sample above the cost is the cost; one below draws it
/// down by its age, `cost·w + rtt·(1−w)` with `w = exp(−Δt/τ)`. What is read has decayed by its age.
///
/// Finagle and tower write the decay down whenever they read; here a read writes nothing, because every worker
/// reads every destination. It comes to the same, but that samples below the cost draw it towards themselves and
/// not towards zero.
#[derive(Debug, Default)]
pub struct Peak(Stamped);

impl Peak {
    /// What it costs now, in nanoseconds. The first one who asks notes when that was.
    pub fn read(&self, now: Tick) -> f32 {
        self.of(self.bits(), now)
    }

    /// As it is kept: who compares several loads them all at first.
    pub(crate) fn bits(&self) -> u64 {
        self.0.bits()
    }

    /// What a word of it says.
    pub(crate) fn of(&self, word: u64, now: Tick) -> f32 {
        let cost = match Stamped::read(word, now) {
            Some(aged) => aged.value * share_left(aged.elapsed),
            None => {
                self.0.store(now, nanos(DEFAULT_RTT));
                nanos(DEFAULT_RTT)
            }
        };
        cost.max(nanos(RTT_AT_LEAST))
    }

    /// Learns a sample.
    pub(crate) fn record(&self, now: Tick, rtt: Duration) {
        let rtt = nanos(rtt);
        let cost = self.0.load(now).map_or(rtt, |aged| {
            // Exact, because the error of the parabola would add up over many small steps.
            let left = (-(aged.elapsed as f32) / const { in_units(DECAY) as f32 }).exp();
            let decayed = aged.value * left;
            if rtt > decayed { rtt } else { decayed + rtt * (1.0 - left) }
        });
        // Where less than a unit has passed nothing has decayed, and the age must go on growing: were it set to 0
        // by each of very many samples, the cost would never fall.
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

/// `exp(−elapsed/τ)` as a power of two: whole halvings exactly, and within one by a parabola through its ends and
/// its middle, at most 0.3 % off. A pick computes up to 64 of these.
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

    fn millis(peak: &Peak, now: Tick) -> f32 {
        peak.read(now) / 1e6
    }

    #[test]
    fn the_parabola_is_near_enough() {
        for elapsed in (0..200_000).step_by(37) {
            let exact = (-f64::from(elapsed) / f64::from(in_units(DECAY))).exp();
            let ours = f64::from(share_left(elapsed));
            assert!((ours / exact - 1.0).abs() < 0.004, "{elapsed}: {ours} for {exact}");
        }
        assert!(share_left(u32::MAX) < 1e-30);
    }

    #[test]
    fn a_peak_counts_at_once_and_what_is_fast_with_time() {
        let peak = Peak::default();
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
    fn very_many_samples_do_not_hold_the_cost_up() {
        let peak = Peak::default();
        peak.record(at(0) + Duration::from_nanos(1), 100 * MS);
        for n in 0..200_000_u64 {
            peak.record(Tick::from_nanos(n * 100_000), MS);
        }
        assert!(millis(&peak, at(20_000)) < 16.0, "{}", millis(&peak, at(20_000)));
    }

    #[test]
    fn a_newcomer_costs_the_default_and_less_with_time_until_it_answers() {
        let peak = Peak::default();
        assert_eq!(millis(&peak, at(5_000)), 30.0);
        assert!((millis(&peak, at(15_000)) - 11.0).abs() < 0.2);
        assert_eq!(millis(&peak, at(900_000)), 0.01, "but never nothing");
        peak.record(at(15_000), 40 * MS);
        assert_eq!(millis(&peak, at(15_000)), 40.0);
    }
}
