//! Accuracy of balancing: deviation from the intended shares, and regret in latency.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use crate::destination::{DestinationId, Status};
use crate::health::score::score;
use crate::snapshot::{Member, Snapshot};
use crate::stats::Counts;
use crate::time::Tick;

/// Minimum number of responses of a destination in a window for a mean.
const MIN_RESPONSES: u64 = 5;

/// Returns the health score of each member, as [`health_based`](crate::health::score::score) uses it; 0 for a member that
/// failed and does not serve.
pub fn health_scores(snapshot: &Snapshot, now: Tick) -> Vec<f64> {
    let average = |member: &Member| member.stats.measured().first_byte.read(now);
    let mut averages: Vec<f32> = snapshot.members.iter().filter_map(average).collect();
    averages.sort_unstable_by(f32::total_cmp);
    let median = averages.get(averages.len() / 2).copied();
    let score = |member: &Member| match member.status {
        Status::Down | Status::Ejected { .. } => 0.0,
        _ => score(&member.stats, median, now),
    };
    snapshot.members.iter().map(score).collect()
}

/// Returns the share of the pool's messages that each member should receive, 0 to 1: its part of the tier's share, by
/// weight where the algorithm uses weights, else equal.
pub fn intended_shares(snapshot: &Snapshot, heeds_weights: bool) -> Vec<f64> {
    let mut shares = vec![0.0; snapshot.members.len()];
    let portion = |weight: u32| if heeds_weights { f64::from(weight) } else { 1.0 };
    for (tier, share) in snapshot.pool_tiers.tiers.iter().zip(snapshot.pool_tiers.shares()) {
        let total: f64 = tier.slots.iter().map(|slot| portion(slot.weight)).sum();
        for slot in tier.slots.iter() {
            shares[slot.rank as usize] = share * portion(slot.weight) / total;
        }
    }
    shares
}

/// Returns the total variation distance between actual and intended shares, from pairs of messages and intended share:
/// half the sum of the differences, which is the share of messages that went to another destination than intended. 0
/// is exact, 1 is the maximum; `None` without a message.
pub fn deviation(taken: impl Iterator<Item = (u64, f64)> + Clone) -> Option<f64> {
    let all: u64 = taken.clone().map(|(messages, _)| messages).sum();
    let difference = |(messages, intended): (u64, f64)| (messages as f64 / all as f64 - intended).abs();
    (all > 0).then(|| taken.map(difference).sum::<f64>() / 2.0)
}

/// Accuracy within a window of time.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// Deviation from the intended shares, see [`deviation`].
    pub deviation: f64,
    /// Mean time to the first byte, minus that of the fastest destination; `None` where fewer than two destinations of
    /// the first tier have enough responses. An estimate: with all messages, the fastest would have been slower.
    pub regret: Option<Duration>,
    /// Number of messages in the window.
    pub messages: u64,
}

/// Measures the accuracy of one pool, window by window.
#[derive(Debug, Default)]
pub struct Quality {
    before: HashMap<DestinationId, Counts>,
    /// Generation of the snapshot at the start of the window.
    generation: u64,
    ends: Tick,
    last: Option<Accuracy>,
}

impl Quality {
    /// Length of a window.
    pub const WINDOW: Duration = Duration::from_secs(10);

    /// Returns the accuracy of the last complete window; `None` before it, and if no message was sent in it.
    pub const fn last(&self) -> Option<Accuracy> {
        self.last
    }

    /// Ends the window when its time is over, and starts the next. To be called each second. A window in which the
    /// snapshot changed is not measured, because the intended shares changed within it.
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
        let eligible = windows
            .iter()
            .zip(&intended)
            .filter(|((_, responses, _), share)| *responses >= MIN_RESPONSES && **share > 0.0);
        let responses = eligible.map(|(&(_, responses, nanos), _)| (responses, nanos));
        Some(Accuracy {
            deviation,
            regret: regret(responses),
            messages: windows.iter().map(|&(started, ..)| started).sum(),
        })
    }
}

/// Returns the regret, from the number of responses and the sum of their latencies by destination.
fn regret(taken: impl Iterator<Item = (u64, u64)> + Clone) -> Option<Duration> {
    if taken.clone().count() < 2 {
        return None;
    }
    let best =
        taken.clone().map(|(responses, nanos)| nanos as f64 / responses as f64).fold(f64::INFINITY, f64::min);
    let (all, nanos) = taken.fold((0, 0), |(all, sum), (responses, nanos)| (all + responses, sum + nanos));
    Some(Duration::from_nanos((nanos as f64 / all as f64 - best).max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::balance::Algorithm;
    use crate::balance::PickRequest;
    use crate::destination::{Address, Destination, Status, Weight};
    use crate::outcome::Outcome;
    use crate::rng::Rng;
    use crate::snapshot::{Member, balance_load};
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
            slow_start: None,
            stats: Arc::new(DestinationStats::new(1)),
        };
        let members = weights.iter().enumerate().map(member).collect();
        Snapshot::build("p".into(), generation, &*Algorithm::WeightedRoundRobin.policy(1), members)
    }

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    /// Sends messages; each gets its response after the milliseconds given for its destination.
    fn send(snapshot: &Snapshot, count: usize, millis: &[u64]) {
        for _ in 0..count {
            let assignment = balance_load(snapshot, &PickRequest::default(), Tick::ZERO, &mut Rng::new(1))
                .expect("serves");
            let first_byte = Duration::from_millis(millis[assignment.member()]);
            assignment.finish(Tick::ZERO, Outcome::Answered { status: 200, first_byte });
        }
    }

    #[test]
    fn intended_shares_follow_weights_where_the_algorithm_uses_them() {
        let snapshot = snapshot(&[3, 1], 1);
        assert_eq!(intended_shares(&snapshot, true), [0.75, 0.25]);
        assert_eq!(intended_shares(&snapshot, false), [0.5, 0.5]);
        assert_eq!(deviation([(3, 0.75), (1, 0.25)].into_iter()), Some(0.0));
        assert_eq!(deviation([(4, 0.75), (0, 0.25)].into_iter()), Some(0.25));
        assert_eq!(deviation([(0, 0.75), (0, 0.25)].into_iter()), None);
    }

    #[test]
    fn a_window_counts_its_own_messages_only() {
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
    fn too_many_messages_deviate_and_too_few_responses_give_no_regret() {
        let (mut quality, snapshot) = (Quality::default(), snapshot(&[1, 1], 1));
        quality.handle_timeout(at(0), &snapshot, true);
        send(&snapshot, 8, &[10, 30]);
        quality.handle_timeout(at(10), &snapshot, true);
        assert_eq!(quality.last().map(|last| (last.deviation, last.regret)), Some((0.0, None)));
        let single = Snapshot::build(
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
        send(&single, 20, &[10, 30]);
        quality.handle_timeout(at(20), &snapshot, true);
        assert_eq!(quality.last().map(|last| last.deviation), Some(0.5));
    }

    #[test]
    fn a_window_with_two_snapshots_is_not_measured() {
        let (mut quality, first) = (Quality::default(), snapshot(&[1, 1], 1));
        quality.handle_timeout(at(0), &first, true);
        send(&first, 10, &[1, 1]);
        let second = Snapshot { generation: 2, ..snapshot(&[1, 1], 2) };
        quality.handle_timeout(at(10), &second, true);
        assert_eq!(quality.last(), None);
    }
}
