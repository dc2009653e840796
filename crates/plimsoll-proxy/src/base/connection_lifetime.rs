//! Limits of a client connection's age and requests.
//!
//! Clients that reconnect are spread anew over workers and balancers.

use std::cell::Cell;

use plimsoll_config::model::Listener;
use plimsoll_core::{Rng, Tick};

/// Connections close up to one tenth of their maximum age early, so those opened together do not close together.
const JITTER_DIVISOR: u64 = 10;

/// Maximum age and number of requests of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionLifetime {
    deadline: Tick,
    /// Maximum number of requests; 0 = no limit.
    max_requests: usize,
    served: Cell<usize>,
}

impl ConnectionLifetime {
    /// Starts with a connection, with random jitter on its maximum age.
    pub(crate) fn start(config: &Listener, now: Tick, rng: &mut Rng) -> Self {
        let deadline = config.timeouts.connection.map_or(Tick::NEVER, |age| {
            let early = rng.below(age.as_nanos() as u64 / JITTER_DIVISOR + 1);
            now + (age - std::time::Duration::from_nanos(early))
        });
        Self { deadline, max_requests: config.limits.requests, served: Cell::new(0) }
    }

    /// Returns the time at which the connection reaches its maximum age.
    pub(crate) fn deadline(&self) -> Tick {
        self.deadline
    }

    /// Counts a request.
    pub(crate) fn count_request(&self) {
        self.served.set(self.served.get() + 1);
    }

    /// Reports whether the latest request is the last one of the connection.
    pub(crate) fn should_close(&self, now: Tick) -> bool {
        now >= self.deadline || (self.max_requests > 0 && self.served.get() >= self.max_requests)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plimsoll_config::model::Protocol;

    use super::*;

    fn config(connection: Option<Duration>, requests: usize) -> Listener {
        let mut listener = Listener::new("web", Vec::new(), Protocol::Http);
        listener.timeouts.connection = connection;
        listener.limits.requests = requests;
        listener
    }

    #[test]
    fn deadlines_are_jittered_and_never_after_the_maximum_age() {
        let (age, started) = (Duration::from_secs(600), Tick::from_nanos(7));
        let mut rng = Rng::new(5);
        let lifetimes =
            std::iter::repeat_with(|| ConnectionLifetime::start(&config(Some(age), 0), started, &mut rng));
        let mut ages: Vec<_> =
            lifetimes.take(1_000).map(|lifetime| lifetime.deadline().since(started).as_secs()).collect();
        ages.sort_unstable();
        assert!(ages[0] >= 540 && ages[999] <= 600, "{} to {}", ages[0], ages[999]);
        ages.dedup();
        assert!(ages.len() > 55, "the jitter covers only {} of 60 seconds", ages.len());
    }

    #[test]
    fn a_connection_without_limits_is_never_closed() {
        let lifetime = ConnectionLifetime::start(&config(None, 0), Tick::ZERO, &mut Rng::new(1));
        (0..10_000).for_each(|_| lifetime.count_request());
        assert!(!lifetime.should_close(Tick::from_nanos(u64::MAX - 1)) && lifetime.deadline() == Tick::NEVER);
    }
}
