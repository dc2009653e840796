//! Which destination some other load balancers take, as their sources have it in 2025.

use std::sync::Arc;

use plimsoll_core::balance::{Needs, Picker, Policy, Slot};
use plimsoll_core::{Rng, Tick, Want};

use super::Ear;

/// A choice of two by what is in flight, counted over all workers. As those products are by default, nobody is
/// set aside for the errors it answers, and nobody is checked. (nginx's `least_conn` with a `zone` and HAProxy's
/// `leastconn` choose among equal destinations as `least_connections` does.)
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// nginx, `random two least_conn`: two different ones, of equals the second drawn.
    NginxRandomTwo,
    /// Envoy, `LEAST_REQUEST` with `choice_count` 2 and equal weights: the same one may be drawn twice.
    EnvoyLeastRequest,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::NginxRandomTwo, Self::EnvoyLeastRequest];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NginxRandomTwo => "nginx_random_two",
            Self::EnvoyLeastRequest => "envoy_least_request",
        }
    }
}

impl Ear for Peer {
    fn policy(self: Arc<Self>) -> Box<dyn Policy> {
        Box::new(*self)
    }
}

impl Policy for Peer {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn needs(&self) -> Needs {
        Needs::Load
    }

    fn build(&self, slots: Arc<[Slot]>) -> Box<dyn Picker> {
        Box::new(OfTwo { peer: *self, slots })
    }
}

struct OfTwo {
    peer: Peer,
    slots: Arc<[Slot]>,
}

impl Picker for OfTwo {
    fn pick(&self, _want: &Want<'_>, _now: Tick, rng: &mut Rng) -> usize {
        let (count, load) = (self.slots.len(), |index: usize| self.slots[index].stats.in_flight());
        let first = rng.index(count);
        let (second, takes_ties) = match self.peer {
            Peer::NginxRandomTwo if count > 1 => ((first + 1 + rng.index(count - 1)) % count, true),
            Peer::NginxRandomTwo => return first,
            Peer::EnvoyLeastRequest => (rng.index(count), false),
        };
        let (one, other) = (load(first), load(second));
        if other < one || (takes_ties && other == one) { second } else { first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_replacement_the_busier_of_two_is_still_drawn_at_times() {
        let mut scenario = crate::scenario::known("two-slow").expect("known").expect("a scenario");
        scenario.duration = std::time::Duration::from_secs(5);
        let of = |peer: Peer| {
            let tally = crate::simulate(&scenario, &peer.name().parse().expect("known"), 1);
            tally.quantile(0.99)
        };
        let (nginx, envoy) = (of(Peer::NginxRandomTwo), of(Peer::EnvoyLeastRequest));
        assert!(nginx < envoy, "{nginx:?} {envoy:?}");
    }
}
