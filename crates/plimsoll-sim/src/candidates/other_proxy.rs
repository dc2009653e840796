//! Algorithms of other proxies, from their sources of 2025.

use std::sync::Arc;

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{PickRequest, Rng, Tick};

use super::PolicyFeedback;

/// Less loaded of two random destinations, by messages in flight over all workers. As in the defaults of
/// those products, no destination is ejected for its errors and there are no health checks. (nginx's
/// `least_conn` with a `zone` and HAProxy's `leastconn` choose among equal destinations as
/// `least_connections` does.)
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtherProxy {
    /// nginx, `random two least_conn`: two different destinations; the second drawn wins a tie.
    NginxRandomTwo,
    /// Envoy, `LEAST_REQUEST` with `choice_count` 2 and equal weights: the same destination may be drawn
    /// twice.
    EnvoyLeastRequest,
}

impl OtherProxy {
    /// Every proxy in order.
    pub const ALL: [Self; 2] = [Self::NginxRandomTwo, Self::EnvoyLeastRequest];

    /// Returns the name in scenarios and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NginxRandomTwo => "nginx_random_two",
            Self::EnvoyLeastRequest => "envoy_least_request",
        }
    }
}

impl PolicyFeedback for OtherProxy {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new(*self)
    }
}

impl Policy for OtherProxy {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(TwoChoicesPicker { proxy: *self, slots })
    }
}

struct TwoChoicesPicker {
    proxy: OtherProxy,
    slots: Arc<[Slot]>,
}

impl Picker for TwoChoicesPicker {
    fn pick(&self, _want: &PickRequest<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let (count, load) = (self.slots.len(), |index: usize| self.slots[index].stats.in_flight());
        let first = rng.index(count);
        let (second, takes_ties) = match self.proxy {
            OtherProxy::NginxRandomTwo if count > 1 => ((first + 1 + rng.index(count - 1)) % count, true),
            OtherProxy::NginxRandomTwo => return first,
            OtherProxy::EnvoyLeastRequest => (rng.index(count), false),
        };
        let (one, other) = (load(first), load(second));
        if other < one || (takes_ties && other == one) { second } else { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_with_replacement_sometimes_picks_the_busier() {
        let mut scenario = crate::scenario::built_in("two-slow").expect("known").expect("a scenario");
        scenario.duration = std::time::Duration::from_secs(5);
        let p99 = |proxy: OtherProxy| {
            let stats = crate::simulate(&scenario, &proxy.name().parse().expect("known"), 1);
            stats.quantile(0.99)
        };
        let (nginx, envoy) = (p99(OtherProxy::NginxRandomTwo), p99(OtherProxy::EnvoyLeastRequest));
        assert!(nginx < envoy, "{nginx:?} {envoy:?}");
    }
}
