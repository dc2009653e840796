//! Arrival processes: when messages arrive and how much work each of them is.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::distributions::{WorkDistribution, exponential};

/// One message of an access log.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct LoggedMessage {
    /// Offset from the first message of the log.
    pub at: Duration,
    /// Response time of the destination in seconds, if the log has it.
    pub response_time: Option<f64>,
    /// Index of the destination in the log's list, if the log has it.
    pub destination: Option<u16>,
    /// Whether the response counts against the destination.
    pub failed: bool,
}

/// Arrival process of an open-loop workload: no message waits for the response to another.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arrivals {
    /// Independent arrivals at a constant mean rate.
    Poisson,
    /// Poisson arrivals with bursts of `factor` times the rate; the configured rate is the one outside of
    /// bursts.
    Bursts {
        /// Rate within a burst over the rate outside of it.
        factor: f64,
        /// Time from the start of one burst to the start of the next.
        every: Duration,
        /// Length of one burst.
        length: Duration,
    },
    /// Arrival times of a log, scaled so that the mean rate is the configured one; the log repeats when it
    /// ends.
    Replay(Arc<[LoggedMessage]>),
}

/// Iterator over the messages of a run.
#[derive(Debug)]
pub struct ArrivalStream {
    arrivals: Arrivals,
    work: WorkDistribution,
    /// Mean rate, in messages per second.
    rate: f64,
    rng: Rng,
    next: usize,
    round: u32,
}

impl ArrivalStream {
    /// Creates a stream of `rate` messages per second on average.
    pub fn new(arrivals: Arrivals, work: WorkDistribution, rate: f64, rng: Rng) -> Self {
        Self { arrivals, work, rate, rng, next: 0, round: 0 }
    }

    /// Returns the arrival time of the next message after `now`, and its work.
    pub fn next(&mut self, now: Tick) -> (Tick, f64) {
        match &self.arrivals {
            Arrivals::Poisson => {
                let gap = exponential(&mut self.rng) / self.rate;
                (now + Duration::from_secs_f64(gap), self.work.draw(&mut self.rng))
            }
            &Arrivals::Bursts { factor, every, length } => {
                let at = self.thinned(now, factor, every, length);
                (at, self.work.draw(&mut self.rng))
            }
            Arrivals::Replay(log) => {
                let log = log.clone();
                self.replayed(&log)
            }
        }
    }

    /// Next arrival of a Poisson process with a varying rate, by thinning one of the highest rate (Lewis and
    /// Shedler 1979).
    fn thinned(&mut self, mut at: Tick, factor: f64, every: Duration, length: Duration) -> Tick {
        loop {
            at += Duration::from_secs_f64(exponential(&mut self.rng) / (self.rate * factor.max(1.0)));
            let in_burst = at.as_nanos() % (every.as_nanos() as u64).max(1) < length.as_nanos() as u64;
            let due = if in_burst { factor } else { 1.0 } / factor.max(1.0);
            if self.rng.share() < due {
                return at;
            }
        }
    }

    fn replayed(&mut self, log: &[LoggedMessage]) -> (Tick, f64) {
        let Some(&LoggedMessage { at, response_time, .. }) = log.get(self.next) else {
            return (Tick::NEVER, 0.0);
        };
        let seconds = log.len() as f64 / self.rate;
        let span = log.last().map_or(1.0, |last| last.at.as_secs_f64()).max(1e-9);
        let from_start = f64::from(self.round) + at.as_secs_f64() / span;
        (self.next, self.round) =
            if self.next + 1 == log.len() { (0, self.round + 1) } else { (self.next + 1, self.round) };
        let work = response_time.unwrap_or_else(|| self.work.draw(&mut self.rng));
        (Tick::ZERO + Duration::from_secs_f64(from_start * seconds), work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_ten_seconds(arrivals: Arrivals) -> Vec<Tick> {
        let mut stream = ArrivalStream::new(arrivals, WorkDistribution::Fixed(0.1), 100.0, Rng::new(3));
        let mut now = Tick::ZERO;
        let next = std::iter::repeat_with(|| {
            now = stream.next(now).0;
            now
        });
        next.take_while(|&at| at < Tick::ZERO + Duration::from_secs(10)).collect()
    }

    #[test]
    fn every_arrival_process_keeps_the_configured_rate() {
        let poisson = in_ten_seconds(Arrivals::Poisson).len();
        assert!((900..1_100).contains(&poisson), "{poisson}");
        let (every, length) = (Duration::from_secs(5), Duration::from_secs(1));
        let bursts = in_ten_seconds(Arrivals::Bursts { factor: 10.0, every, length });
        let within = bursts.iter().filter(|at| at.as_nanos() % 5_000_000_000 < 1_000_000_000).count();
        assert!((1_850..2_150).contains(&within), "{within}");
        assert!((700..900).contains(&(bursts.len() - within)), "{}", bursts.len());
        let at = |ms| LoggedMessage { at: Duration::from_millis(ms), ..LoggedMessage::default() };
        let replay = in_ten_seconds(Arrivals::Replay([at(0), at(10), at(3_000)].into()));
        assert!((999..=1_001).contains(&replay.len()), "{}", replay.len());
    }
}
