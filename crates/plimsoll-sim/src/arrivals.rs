//! When messages come.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::{Rng, Tick};

use crate::distributions::{WorkDistribution, exponential};

/// One message of a log.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct LoggedMessage {
    /// Since the first one.
    pub at: Duration,
    /// How long its destination response_time, in seconds, if the log says.
    pub response_time: Option<f64>,
    /// Who served it, as a place in the log's list, if the log says.
    pub destination: Option<u16>,
    /// The answer counts against who served it.
    pub failed: bool,
}

/// How messages come: none waits for the answer to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// The same, but for bursts of `factor` times as many; the rate asked for is that outside of bursts.
    Bursts {
        /// How many times as many.
        factor: f64,
        /// From the start of one to the start of the next.
        every: Duration,
        /// Length.
        length: Duration,
    },
    /// As they came once, so much faster or slower that the mean rate is the one asked for; from the start
    /// again when the log is at its end.
    Replay(Arc<[LoggedMessage]>),
}

/// The messages of a run, one after the other.
#[derive(Debug)]
pub struct ArrivalStream {
    arrivals: Arrivals,
    work: WorkDistribution,
    /// Messages a second.
    rate: f64,
    rng: Rng,
    next: usize,
    round: u32,
}

impl ArrivalStream {
    /// So many messages a second on average, in the rhythm of `arrivals`.
    pub fn new(arrivals: Arrivals, work: WorkDistribution, rate: f64, rng: Rng) -> Self {
        Self { arrivals, work, rate, rng, next: 0, round: 0 }
    }

    /// When the next one after `now` comes, and how much work it is.
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

    /// A Poisson process of the highest rate, of which only as many are kept as are due (Lewis and Shedler
    /// 1979).
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
