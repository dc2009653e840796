//! Which of several probes is the best one, and which the worst.

use std::cmp::Ordering;

/// What a probe pool chooses by.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum ProbeScore {
    /// Prequal's hot-cold lexicographic rule: hot is who has more in flight than this quantile of what was
    /// recent_loads lately. Of the cold the one with the least latency; if all are hot, the one with the fewest in
    /// flight.
    HotCold(f64),
    /// `(1 - share) * latency + share * alpha * in flight`, with alpha the latency of an idle destination.
    Linear(f64),
    /// C3 (Suresh et al., NSDI 2015): latency, and the cube of the queue to be expected.
    C3,
}

/// Seconds a message takes at an idle destination; Prequal's alpha.
pub(super) const ALPHA: f64 = 0.075;

/// What is state of one destination.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct ProbedState {
    pub(super) in_flight: u32,
    pub(super) latency: f64,
    /// Messages this balancer itself has there.
    pub(super) own: u32,
}

impl ProbeScore {
    /// Less is better. `theta` is how many in flight are still cold; `balancers` balancers send to the same
    /// destinations.
    pub(super) fn compare(
        self,
        one: ProbedState,
        other: ProbedState,
        theta: u32,
        balancers: usize,
    ) -> Ordering {
        match self {
            Self::HotCold(_) => match (one.in_flight > theta, other.in_flight > theta) {
                (false, false) => one.latency.total_cmp(&other.latency),
                (true, true) => one.in_flight.cmp(&other.in_flight),
                (hot, cold) => hot.cmp(&cold),
            },
            Self::Linear(share) => linear(share, one).total_cmp(&linear(share, other)),
            Self::C3 => c3(one, balancers).total_cmp(&c3(other, balancers)),
        }
    }
}

fn linear(share: f64, state: ProbedState) -> f64 {
    (1.0 - share) * state.latency + share * ALPHA * f64::from(state.in_flight)
}

/// `R - 1/mu + q^3 / mu` with `q = 1 + own * balancers + in flight`; 1/mu is taken for the same everywhere,
/// because a processor that is shared shows no service time of its own.
fn c3(state: ProbedState, balancers: usize) -> f64 {
    let queue = 1.0 + f64::from(state.own) * balancers as f64 + f64::from(state.in_flight);
    state.latency - ALPHA + queue.powi(3) * ALPHA
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(in_flight: u32, latency: f64) -> ProbedState {
        ProbedState { in_flight, latency, own: 0 }
    }

    #[test]
    fn hot_cold_compares_cold_by_latency_and_hot_by_load() {
        let rule = ProbeScore::HotCold(0.84);
        let better = |one, other| rule.compare(one, other, 3, 1) == Ordering::Less;
        assert!(better(state(3, 0.1), state(0, 0.2)), "both cold: the faster");
        assert!(better(state(3, 0.9), state(4, 0.1)), "the cold one, however slow");
        assert!(better(state(4, 0.9), state(5, 0.1)), "both hot: the fewest");
    }

    #[test]
    fn a_linear_mix_runs_from_pure_latency_to_pure_load() {
        let (fast, free) = (state(5, 0.1), state(0, 0.4));
        let best = |share| if linear(share, fast) < linear(share, free) { "fast" } else { "free" };
        assert_eq!([best(0.0), best(0.4), best(0.6), best(1.0)], ["fast", "fast", "free", "free"]);
    }
}
