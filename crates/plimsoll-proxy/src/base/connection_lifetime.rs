//! When a client's connection has served enough: what comes next finds its way anew, and so to other workers and
//! other balancers.

use std::cell::Cell;

use plimsoll_config::model::Listener;
use plimsoll_core::{Rng, Tick};

/// Connections that were opened together end apart: each up to this part of its time early.
const APART: u64 = 10;

/// What one connection may serve.
#[derive(Debug)]
pub(crate) struct Term {
    until: Tick,
    /// 0 = no limit.
    most: usize,
    served: Cell<usize>,
}

impl Term {
    /// Begins with a connection.
    pub(crate) fn begin(config: &Listener, now: Tick, rng: &mut Rng) -> Self {
        let until = config.timeouts.connection.map_or(Tick::NEVER, |age| {
            let early = rng.below(age.as_nanos() as u64 / APART + 1);
            now + (age - std::time::Duration::from_nanos(early))
        });
        Self { until, most: config.limits.requests, served: Cell::new(0) }
    }

    /// When it ends, whatever was served.
    pub(crate) fn until(&self) -> Tick {
        self.until
    }

    /// Takes note of a request.
    pub(crate) fn serve(&self) {
        self.served.set(self.served.get() + 1);
    }

    /// Is the request that was served last to be the last of all?
    pub(crate) fn is_over(&self, now: Tick) -> bool {
        now >= self.until || (self.most > 0 && self.served.get() >= self.most)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plimsoll_config::{defaults, model};

    use super::*;

    fn config(connection: Option<Duration>, requests: usize) -> Listener {
        Listener {
            name: "web".into(),
            addresses: Vec::new(),
            protocol: model::Protocol::Http,
            tls: None,
            accepts_proxy_protocol: false,
            mqtt: plimsoll_config::defaults::MQTT,
            trusted_proxies: Vec::new(),
            timeouts: model::ClientTimeouts { connection, ..defaults::CLIENT_TIMEOUTS },
            limits: model::Limits { requests, ..defaults::LIMITS },
            udp: defaults::UDP,
            via: false,
            request_headers: Default::default(),
            response_headers: Default::default(),
            routes: Vec::new(),
            pool: None,
        }
    }

    #[test]
    fn connections_that_begin_together_end_apart_and_none_late() {
        let (age, begun) = (Duration::from_secs(600), Tick::from_nanos(7));
        let mut rng = Rng::new(5);
        let terms = std::iter::repeat_with(|| Term::begin(&config(Some(age), 0), begun, &mut rng));
        let mut ages: Vec<_> = terms.take(1_000).map(|term| term.until().since(begun).as_secs()).collect();
        ages.sort_unstable();
        assert!(ages[0] >= 540 && ages[999] <= 600, "{} to {}", ages[0], ages[999]);
        ages.dedup();
        assert!(ages.len() > 55, "they fill the minute: {} seconds of it", ages.len());
    }

    #[test]
    fn without_limits_nothing_ends() {
        let term = Term::begin(&config(None, 0), Tick::ZERO, &mut Rng::new(1));
        (0..10_000).for_each(|_| term.serve());
        assert!(!term.is_over(Tick::from_nanos(u64::MAX - 1)) && term.until() == Tick::NEVER);
    }
}
