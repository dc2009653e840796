//! No algorithm starves a destination that may serve: idle traffic is shared, and slower destinations are measured
//! again.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::snapshot::Member;
use plimsoll_core::{
    Address, Destination, DestinationId, DestinationStats, Outcome, PickRequest, Rng, Snapshot, Status, Tick,
    Weight, balance_load,
};

const MS: Duration = Duration::from_millis(1);

/// Sends `messages` one after the other, one every `gap`; `service` returns the time that destination `.0` takes for its
/// `.1`th message. Returns the destination and the time of each message.
fn one_after_the_other(
    algorithm: Algorithm,
    weights: &[u16],
    messages: u32,
    gap: Duration,
    seed: u64,
    service: impl Fn(usize, usize, &mut Rng) -> Duration,
) -> Vec<(usize, Tick)> {
    let policy = algorithm.policy(1);
    let member = |(index, &weight): (usize, &u16)| {
        let (weight, address) = (Weight::new(weight), Address::Socket(([127, 0, 0, 1], 9000).into()));
        Member {
            id: DestinationId(index as u32),
            destination: Destination { weight, ..Destination::new(&format!("server-{index}"), address) },
            status: Status::Serving,
            since: Tick::ZERO,
            weight: weight.in_256ths(),
            slow_start: None,
            stats: Arc::new(DestinationStats::new(1)),
        }
    };
    let members = weights.iter().enumerate().map(member).collect();
    let snapshot = Snapshot::build("idle".into(), 1, &*policy, members);
    let (mut rng, mut times, mut now) = (Rng::new(seed), Rng::new(!seed), Tick::ZERO + 1000 * MS);
    let (mut sent, mut counts) = (Vec::new(), vec![0; weights.len()]);
    for _ in 0..messages {
        let assignment = balance_load(&snapshot, &PickRequest::default(), now, &mut rng).expect("all serve");
        let at = assignment.member();
        sent.push((at, now));
        let first_byte = service(at, counts[at], &mut times);
        counts[at] += 1;
        assignment.finish(now + first_byte, Outcome::Answered { status: 200, first_byte });
        now += first_byte.max(gap);
    }
    sent
}

fn counts(sent: &[(usize, Tick)], destinations: usize) -> Vec<usize> {
    (0..destinations).map(|index| sent.iter().filter(|(at, _)| *at == index).count()).collect()
}

fn exponential(mean: Duration, rng: &mut Rng) -> Duration {
    mean.mul_f64(-(1.0 - rng.share()).ln())
}

/// Algorithms that do not pick at random without load.
const ORDERED: [Algorithm; 7] = [
    Algorithm::RoundRobin,
    Algorithm::WeightedRoundRobin,
    Algorithm::LeastConnections,
    Algorithm::WeightedLeastConnections,
    Algorithm::ResponseTime,
    Algorithm::PeakEwma,
    Algorithm::Custom,
];

#[test]
fn idle_traffic_of_equal_destinations_is_shared_within_five_percent() {
    for algorithm in ORDERED {
        for seed in 0..40 {
            for destinations in [2, 3, 5] {
                let weights = vec![1; destinations];
                let services: [fn(usize, usize, &mut Rng) -> Duration; 4] = [
                    |_, _, _| 5 * MS,
                    |_, _, rng| exponential(5 * MS, rng),
                    // A cold start: the very first response of one takes 300 ms.
                    |at, nth, _| if at == 1 && nth == 0 { 300 * MS } else { 5 * MS },
                    // A busy machine: some responses take many times as long.
                    |_, _, rng| if rng.share() < 0.1 { 20 * MS } else { MS / 3 },
                ];
                for (kind, service) in services.into_iter().enumerate() {
                    for gap in [MS, 100 * MS] {
                        let sent = one_after_the_other(algorithm, &weights, 1_000, gap, seed, service);
                        let fair = 1_000.0 / destinations as f64;
                        for count in counts(&sent, destinations) {
                            assert!(
                                (count as f64 - fair).abs() <= 0.05 * fair,
                                "{algorithm:?}: {count} of {fair:.0}, service {kind}, gap {gap:?}, seed {seed}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn idle_traffic_is_shared_by_weight() {
    for algorithm in Algorithm::ALL {
        if matches!(algorithm, Algorithm::Hash | Algorithm::SourceHash) || !algorithm.heeds_weights() {
            continue;
        }
        let sent = one_after_the_other(algorithm, &[5, 3, 2], 1_000, 10 * MS, 3, |_, _, _| 5 * MS);
        let seen = counts(&sent, 3);
        let allowed = if ORDERED.contains(&algorithm) { 10 } else { 80 };
        let near = seen.iter().zip([500, 300, 200]).all(|(&n, due)| n.abs_diff(due) <= allowed);
        assert!(near, "{algorithm:?}: {seen:?}");
    }
}

#[test]
fn slow_destination_gets_a_message_in_each_ten_seconds_and_hardly_more() {
    for algorithm in Algorithm::ALL {
        if matches!(algorithm, Algorithm::Hash | Algorithm::SourceHash) {
            continue;
        }
        let prefers = matches!(algorithm, Algorithm::ResponseTime | Algorithm::PeakEwma);
        for (seed, slow) in [(1, 20), (2, 150), (3, 2_000)] {
            let service = |at: usize, _: usize, rng: &mut Rng| {
                exponential(if at == 2 { slow * MS } else { 5 * MS }, rng)
            };
            let sent = one_after_the_other(algorithm, &[1; 3], 4_000, 50 * MS, seed, service);
            let (mut last, mut later) = (Tick::ZERO, 0);
            for &(_, now) in sent.iter().filter(|(at, _)| *at == 2) {
                // The message before may have been a slow one.
                let most = Duration::from_secs(11) + slow * MS * 8;
                assert!(now.since(last) <= most, "{algorithm:?}: {:?} without a message", now.since(last));
                (last, later) = (now, later + u32::from(now.since(Tick::ZERO) > Duration::from_secs(60)));
            }
            assert!(!prefers || later < 60, "{algorithm:?}, {slow} ms: {later} of 2,800");
        }
    }
}

#[test]
fn recovered_destination_gets_its_share_again() {
    for algorithm in [Algorithm::ResponseTime, Algorithm::PeakEwma] {
        let service = |at: usize, nth: usize, rng: &mut Rng| {
            exponential(if at == 0 && nth < 35 { 100 * MS } else { 5 * MS }, rng)
        };
        let sent = one_after_the_other(algorithm, &[1; 3], 6_000, 50 * MS, 5, service);
        let late = counts(&sent[5_000..], 3)[0];
        assert!((320..350).contains(&late), "{algorithm:?}: {late} of the last 1,000");
        let early = counts(&sent[150..400], 3)[0];
        assert!(early < 30, "{algorithm:?}: {early} of 250 while it was slow");
    }
}
