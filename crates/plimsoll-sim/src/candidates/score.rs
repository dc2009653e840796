//! Comparison of two probed destinations.

use std::cmp::Ordering;

/// Rule that compares two probes.
#[derive(Copy, Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProbeScore {
    /// Prequal's hot-cold lexicographic rule. A destination is hot if its load is above this quantile of
    /// recent loads. The cold destination of the lowest latency wins; if all are hot, the one of the lowest
    /// load.
    HotCold(f64),
    /// Linear mix `(1 - share) * latency + share * alpha * in flight`, with alpha the latency of an idle
    /// destination.
    Linear(f64),
    /// Score of C3 (Suresh et al., NSDI 2015): latency and the cube of the expected queue.
    C3,
}

/// Latency of an idle destination in seconds; Prequal's alpha.
pub(super) const ALPHA: f64 = 0.075;

/// Values of one destination that a rule compares.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct ProbedState {
    pub(super) in_flight: u32,
    pub(super) latency: f64,
    /// Messages of this balancer at the destination.
    pub(super) own: u32,
}

impl ProbeScore {
    /// Compares two destinations; the lesser is better. `theta` is the maximum load of a cold one;
    /// `balancers` send to the same destinations.
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

/// Computes `R - 1/mu + q^3 / mu` with `q = 1 + own * balancers + in flight`. 1/mu is the same for all,
/// because processor sharing shows no service time of one message.
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
