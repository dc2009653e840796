//! How well messages are spread: how far from what was intended, and how much sooner answers could have come.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use crate::destination::DestinationId;
use crate::snapshot::Snapshot;
use crate::stats::Counts;
use crate::time::Tick;

/// Answers of a destination within a window before their mean says anything.
const ANSWERS: u64 = 5;

/// The share of the pool's messages that each member should get, 0 to 1: of its tier's share, by weight where the
/// algorithm heeds weights, else all alike.
pub fn intended_shares(snapshot: &Snapshot, heeds_weights: bool) -> Vec<f64> {
    let mut shares = vec![0.0; snapshot.members.len()];
    let pull = |weight: u32| if heeds_weights { f64::from(weight) } else { 1.0 };
    for (tier, share) in snapshot.whole.tiers.iter().zip(snapshot.whole.shares()) {
        let pulls: f64 = tier.slots.iter().map(|slot| pull(slot.weight)).sum();
        for slot in tier.slots.iter() {
            shares[slot.rank as usize] = share * pull(slot.weight) / pulls;
        }
    }
    shares
}

/// How far shares are from the intended ones, of pairs of messages taken and share intended: half the sum of the
/// differences, which is the part of all messages that would have to go elsewhere. 0 is exact, 1 is all wrong;
/// `None` before the first message.
pub fn deviation(taken: impl Iterator<Item = (u64, f64)> + Clone) -> Option<f64> {
    let all: u64 = taken.clone().map(|(messages, _)| messages).sum();
    let apart = |(messages, intended): (u64, f64)| (messages as f64 / all as f64 - intended).abs();
    (all > 0).then(|| taken.map(apart).sum::<f64>() / 2.0)
}

/// What a window of time showed.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// See [`deviation`].
    pub deviation: f64,
    /// How much longer the average answer took to its first byte than the average answer of the destination that
    /// was fastest; `None` where fewer than two destinations of the first tier have answered often enough. An
    /// estimate: had the fastest got all messages, it would not have been as fast.
    pub regret: Option<Duration>,
    /// Messages of the window.
    pub messages: u64,
}

/// Measures one pool, window by window.
#[derive(Debug, Default)]
pub struct Quality {
    before: HashMap<DestinationId, Counts>,
    /// The picture the window began with.
    generation: u64,
    ends: Tick,
    last: Option<Accuracy>,
}

impl Quality {
    /// A window: long enough for some hundred messages where there is traffic at all.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// What the last whole window showed; `None` before that, and where nothing was sent in it.
    pub const fn last(&self) -> Option<Accuracy> {
        self.last
    }

    /// Ends the window when it is time to, and begins the next. To be called each second. A window in which the
    /// picture changed is measured by nobody: what was intended was not the same all the while.
    pub fn handle_timeout(&mut self, now: Tick, snapshot: &Snapshot, heeds_weights: bool) {
        if now < self.ends {
            return;
        }
        self.ends = now + Self::WINDOW;
        let counts = snapshot.members.iter().map(|member| (member.id, member.stats.counts()));
        let before = mem::replace(&mut self.before, counts.collect());
        if mem::replace(&mut self.generation, snapshot.generation) == snapshot.generation {
            self.last = self.measure(&before, snapshot, heeds_weights);
        }
    }

    fn measure(
        &self,
        before: &HashMap<DestinationId, Counts>,
        snapshot: &Snapshot,
        heeds_weights: bool,
    ) -> Option<Accuracy> {
        let none = Counts::default();
        let windows: Vec<(u64, u64, u64)> = snapshot
            .members
            .iter()
            .map(|member| {
                let (from, to) =
                    (before.get(&member.id).unwrap_or(&none), self.before.get(&member.id).unwrap_or(&none));
                (
                    to.started.saturating_sub(from.started),
                    to.answered().saturating_sub(from.answered()),
                    to.first_byte_nanos.saturating_sub(from.first_byte_nanos),
                )
            })
            .collect();
        let intended = intended_shares(snapshot, heeds_weights);
        let taken = windows.iter().map(|&(started, ..)| started).zip(intended.iter().copied());
        let deviation = deviation(taken)?;
        let fit = windows
            .iter()
            .zip(&intended)
            .filter(|((_, answers, _), share)| *answers >= ANSWERS && **share > 0.0);
        let answers = fit.map(|(&(_, answers, nanos), _)| (answers, nanos));
        Some(Accuracy {
            deviation,
            regret: regret(answers),
            messages: windows.iter().map(|&(started, ..)| started).sum(),
        })
    }
}

/// Of answers and the time they took together, by destination.
fn regret(taken: impl Iterator<Item = (u64, u64)> + Clone) -> Option<Duration> {
    if taken.clone().count() < 2 {
        return None;
    }
    let best =
        taken.clone().map(|(answers, nanos)| nanos as f64 / answers as f64).fold(f64::INFINITY, f64::min);
    let (all, nanos) = taken.fold((0, 0), |(all, sum), (answers, nanos)| (all + answers, sum + nanos));
    Some(Duration::from_nanos((nanos as f64 / all as f64 - best).max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Algorithm;
    use crate::destination::{Address, Destination, Status, Weight};
    use crate::outcome::Outcome;
    use crate::rng::Rng;
    use crate::snapshot::{Member, Want, balance_load};
    use crate::stats::DestinationStats;

    fn snapshot(weights: &[u16], generation: u64) -> Snapshot {
        let member = |(rank, &weight): (usize, &u16)| Member {
            id: DestinationId(rank as u32),
            destination: Destination::new(
                &format!("d{rank}"),
                Address::Socket(([127, 0, 0, 1], 9000).into()),
            ),
            status: Status::Serving,
            since: Tick::ZERO,
            weight: Weight::new(weight).in_256ths(),
            warmth: None,
            stats: Arc::new(DestinationStats::new(1)),
        };
        let members = weights.iter().enumerate().map(member).collect();
        Snapshot::build("p".into(), generation, &*Algorithm::WeightedRoundRobin.policy(1), members)
    }

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    /// So many messages, each answered after as many milliseconds as its destination's rank says.
    fn send(snapshot: &Snapshot, count: usize, millis: &[u64]) {
        for _ in 0..count {
            let assignment =
                balance_load(snapshot, &Want::default(), Tick::ZERO, &mut Rng::new(1)).expect("serves");
            let first_byte = Duration::from_millis(millis[assignment.member()]);
            assignment.finish(Tick::ZERO, Outcome::Answered { status: 200, first_byte });
        }
    }

    #[test]
    fn intended_shares_are_by_weight_where_that_counts() {
        let snapshot = snapshot(&[3, 1], 1);
        assert_eq!(intended_shares(&snapshot, true), [0.75, 0.25]);
        assert_eq!(intended_shares(&snapshot, false), [0.5, 0.5]);
        assert_eq!(deviation([(3, 0.75), (1, 0.25)].into_iter()), Some(0.0));
        assert_eq!(deviation([(4, 0.75), (0, 0.25)].into_iter()), Some(0.25));
        assert_eq!(deviation([(0, 0.75), (0, 0.25)].into_iter()), None);
    }

    #[test]
    fn a_window_tells_of_its_own_messages_only() {
        let (mut quality, snapshot) = (Quality::default(), snapshot(&[1, 1], 1));
        send(&snapshot, 10, &[1, 1]);
        quality.handle_timeout(at(0), &snapshot, true);
        send(&snapshot, 100, &[10, 30]);
        quality.handle_timeout(at(9), &snapshot, true);
        assert_eq!(quality.last(), None, "the window is not over");
        quality.handle_timeout(at(10), &snapshot, true);
        let regret = Some(Duration::from_millis(10));
        assert_eq!(quality.last(), Some(Accuracy { deviation: 0.0, regret, messages: 100 }));
        quality.handle_timeout(at(20), &snapshot, true);
        assert_eq!(quality.last(), None, "nothing was sent");
    }

    #[test]
    fn who_gets_too_much_deviates_and_too_few_answers_tell_nothing() {
        let (mut quality, snapshot) = (Quality::default(), snapshot(&[1, 1], 1));
        quality.handle_timeout(at(0), &snapshot, true);
        send(&snapshot, 8, &[10, 30]);
        quality.handle_timeout(at(10), &snapshot, true);
        assert_eq!(quality.last().map(|last| (last.deviation, last.regret)), Some((0.0, None)));
        let lone = Snapshot::build(
            "p".into(),
            1,
            &*Algorithm::RoundRobin.policy(1),
            snapshot
                .members
                .iter()
                .cloned()
                .map(|m| Member { weight: if m.id.0 == 0 { 256 } else { 0 }, ..m })
                .collect(),
        );
        send(&lone, 20, &[10, 30]);
        quality.handle_timeout(at(20), &snapshot, true);
        assert_eq!(quality.last().map(|last| last.deviation), Some(0.5));
    }

    #[test]
    fn a_window_of_two_pictures_is_not_measured() {
        let (mut quality, first) = (Quality::default(), snapshot(&[1, 1], 1));
        quality.handle_timeout(at(0), &first, true);
        send(&first, 10, &[1, 1]);
        let second = Snapshot { generation: 2, ..snapshot(&[1, 1], 2) };
        quality.handle_timeout(at(10), &second, true);
        assert_eq!(quality.last(), None);
    }
}
