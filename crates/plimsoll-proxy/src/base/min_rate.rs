//! Minimum rate of a client that is waited for.

use std::time::Duration;

use plimsoll_config::defaults::MIN_RATE_AFTER;
use plimsoll_core::Tick;

/// Time that a client was waited for, and the bytes that it sent.
#[derive(Copy, Clone, Debug)]
pub(crate) struct MinRate {
    /// Minimum rate in bytes per second; 0 = none.
    rate: u64,
    /// Number of bytes that do not count.
    before: u64,
    waited: Duration,
    since: Option<Tick>,
}

impl MinRate {
    /// Begins with `before` bytes that do not count.
    pub(crate) const fn new(rate: u64, before: u64) -> Self {
        Self { rate, before, waited: Duration::ZERO, since: None }
    }

    /// Begins to wait for the client, or continues to. Returns the time at which it is too slow, unless it sends more:
    /// [`Tick::NEVER`] without a minimum. `received` is the number of bytes so far.
    pub(crate) fn wait(&mut self, now: Tick, received: u64) -> Tick {
        if self.rate == 0 {
            return Tick::NEVER;
        }
        let since = *self.since.get_or_insert(now);
        let earned = Duration::from_secs_f64((received - self.before) as f64 / self.rate as f64);
        since + (MIN_RATE_AFTER + earned).saturating_sub(self.waited)
    }

    /// Ends waiting: something else than the client is waited for.
    pub(crate) fn pause(&mut self, now: Tick) {
        if let Some(since) = self.since.take() {
            self.waited += now.since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Tick {
        Tick::from_nanos(secs * 1_000_000_000)
    }

    #[test]
    fn bytes_extend_the_time_and_pauses_do_not_count() {
        let mut rate = MinRate::new(240, 100);
        assert_eq!(rate.wait(at(5), 100), at(15));
        assert_eq!(rate.wait(at(9), 100 + 480), at(17));
        rate.pause(at(10));
        rate.pause(at(50));
        assert_eq!(rate.wait(at(100), 100 + 480), at(107), "five of twelve seconds were used");
    }

    #[test]
    fn a_rate_of_0_is_no_minimum() {
        assert_eq!(MinRate::new(0, 0).wait(at(1), 0), Tick::NEVER);
    }
}
