//! Detection of destinations that fail and recover repeatedly.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::destination::Name;
use crate::event::Event;
use crate::time::Tick;

/// Number of failures within [`FlapDetector::WINDOW`] that count as flapping.
pub const FLAPPING_AT: usize = 3;

/// Times of the recent failures of each destination, by health checks or traffic.
#[derive(Clone, Debug, Default)]
pub struct FlapDetector(HashMap<Name, VecDeque<Tick>>);

impl FlapDetector {
    /// Period in which failures count.
    pub const WINDOW: Duration = Duration::from_secs(300);
    /// Maximum number of failures kept per destination.
    const MAX_KEPT: usize = 16;

    /// Updates the failures by an event of the pool.
    pub fn on_event(&mut self, now: Tick, event: &Event) {
        match event {
            Event::StatusChanged { destination, from, to, .. }
                if from.serves() && (to.as_str() == "down" || to.as_str() == "ejected") =>
            {
                let times = self.0.entry(destination.clone()).or_default();
                if times.len() == Self::MAX_KEPT {
                    times.pop_front();
                }
                times.push_back(now);
            }
            Event::MemberRemoved { destination, .. } => {
                self.0.remove(destination);
            }
            _ => {}
        }
    }

    /// Returns the number of failures of a destination within the window.
    pub fn recent(&self, name: &str, now: Tick) -> usize {
        self.0.get(name).map_or(0, |times| recent(times, now))
    }

    /// Returns the destinations that failed more than once within the window.
    pub fn repeated_failures(&self, now: Tick) -> impl Iterator<Item = Name> {
        let twice = move |(_, times): &(&Name, &VecDeque<Tick>)| recent(times, now) > 1;
        self.0.iter().filter(twice).map(|(name, _)| name.clone())
    }

    /// Returns the flapping destinations with their number of failures.
    pub fn flapping(&self, now: Tick) -> impl Iterator<Item = (Name, usize)> {
        let counts = self.0.iter().map(move |(name, times)| (name.clone(), recent(times, now)));
        counts.filter(|&(_, count)| count >= FLAPPING_AT)
    }
}

fn recent(times: &VecDeque<Tick>, now: Tick) -> usize {
    times.iter().filter(|&&at| now.since(at) < FlapDetector::WINDOW).count()
}
