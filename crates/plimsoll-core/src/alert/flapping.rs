//! Who goes out again and again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::destination::Name;
use crate::event::Event;
use crate::time::Tick;

/// So many times within [`FlapDetector::WINDOW`] is flapping: once is an accident, twice a repetition of it.
pub const FLAPPING_AT: usize = 3;

/// When destinations last went out, by what checks or traffic said of them.
#[derive(Clone, Debug, Default)]
pub struct FlapDetector(HashMap<Name, VecDeque<Tick>>);

impl FlapDetector {
    /// How far back this looks.
    pub const WINDOW: Duration = Duration::from_secs(300);
    /// Moments kept of each.
    const KEPT: usize = 16;

    /// Takes in what happened in the pool.
    pub fn on_event(&mut self, now: Tick, event: &Event) {
        match event {
            Event::StatusChanged { destination, from, to, .. }
                if from.serves() && (to.as_str() == "down" || to.as_str() == "ejected") =>
            {
                let times = self.0.entry(destination.clone()).or_default();
                if times.len() == Self::KEPT {
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

    /// How often `name` went out within the window, as far as is kept.
    pub fn recent(&self, name: &str, now: Tick) -> usize {
        self.0.get(name).map_or(0, |times| recent(times, now))
    }

    /// Whoever went out more than once.
    pub fn repeated_failures(&self, now: Tick) -> impl Iterator<Item = Name> {
        let twice = move |(_, times): &(&Name, &VecDeque<Tick>)| recent(times, now) > 1;
        self.0.iter().filter(twice).map(|(name, _)| name.clone())
    }

    /// Whoever flaps, and how often it went out.
    pub fn flapping(&self, now: Tick) -> impl Iterator<Item = (Name, usize)> {
        let counts = self.0.iter().map(move |(name, times)| (name.clone(), recent(times, now)));
        counts.filter(|&(_, count)| count >= FLAPPING_AT)
    }
}

fn recent(times: &VecDeque<Tick>, now: Tick) -> usize {
    times.iter().filter(|&&at| now.since(at) < FlapDetector::WINDOW).count()
}
