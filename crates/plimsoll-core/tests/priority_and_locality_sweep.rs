//! Random tests of priorities, zones and subsets: shares of messages by tier.

use std::sync::Arc;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::explain::{SetAside, explain};
use plimsoll_core::hash::hash;
use plimsoll_core::snapshot::Member;
use plimsoll_core::snapshot::{TierSpec, ZoneSpec};
use plimsoll_core::subset::{Fallback, Subset};
use plimsoll_core::{
    Address, Assignment, AttemptedSet, Destination, DestinationId, DestinationStats, Name, NoDestination,
    PickRequest, Rng, Snapshot, Status, Tick, Weight, balance_load,
};

fn member(rank: u32, zone: Option<&str>, priority: u8, weight: u16, serves: bool) -> Member {
    let address = Address::Socket(([127, 0, 0, 1], 9000).into());
    let status = if serves { Status::Serving } else { Status::Down };
    let plain = Destination::new(&format!("d{rank}"), address);
    let weight = Weight::new(weight);
    Member {
        id: DestinationId(rank),
        destination: Destination { zone: zone.map(Name::from), priority, weight, ..plain },
        status,
        since: Tick::ZERO,
        weight: weight.in_256ths(),
        slow_start: None,
        stats: Arc::new(DestinationStats::new(1)),
    }
}

fn zone(own: &str) -> ZoneSpec {
    ZoneSpec { own: own.into(), spill_over_at: None, zone_local_keys: false }
}

fn snapshot_of(algorithm: Algorithm, spec: &TierSpec, members: &[Member]) -> Snapshot {
    Snapshot::build_with("p".into(), 1, &*algorithm.policy(1), spec, members.to_vec())
}

fn zoned(algorithm: Algorithm, zone: ZoneSpec, members: &[Member]) -> Snapshot {
    snapshot_of(algorithm, &TierSpec { zone: Some(zone), ..TierSpec::default() }, members)
}

/// Returns the expected share of messages of each member.
fn due(snapshot: &Snapshot, members: usize) -> Vec<f64> {
    let mut due = vec![0.0; members];
    for (tier, share) in snapshot.pool_tiers.tiers.iter().zip(snapshot.pool_tiers.shares()) {
        let all: f64 = tier.slots.iter().map(|slot| f64::from(slot.weight)).sum();
        tier.slots.iter().for_each(|slot| due[slot.rank as usize] += share * f64::from(slot.weight) / all);
    }
    due
}

/// Sends `count` messages and returns the number per member; none stays in flight.
fn send(snapshot: &Snapshot, count: usize, request: &PickRequest<'_>, rng: &mut Rng) -> Vec<usize> {
    let mut got = vec![0; snapshot.members.len()];
    for _ in 0..count {
        got[balance_load(snapshot, request, Tick::ZERO, rng).expect("a member serves").member()] += 1;
    }
    got
}

#[test]
fn load_per_weight_is_equal_for_all_zone_failures() {
    const ZONES: [&str; 4] = ["a", "b", "c", "d"];
    for seed in 0..500 {
        let mut rng = Rng::new(seed);
        let zones = 2 + rng.index(3);
        let mut members: Vec<Member> = Vec::new();
        for &name in &ZONES[..zones] {
            // A zone may have lost all of its destinations, half of them, or none; it sends the same messages in each case.
            let left = rng.index(3);
            for nth in 0..2 + rng.index(8) {
                let serves = left == 2 || left == 1 && nth % 2 == 0;
                let rank = members.len() as u32;
                members.push(member(rank, Some(name), 0, 1 + rng.index(5) as u16, serves));
            }
        }
        if rng.index(3) == 0 {
            members.push(member(members.len() as u32, None, 0, 3, true));
        }
        let all: f64 = members.iter().filter(|m| m.status.serves()).map(|m| f64::from(m.weight)).sum();
        let mut load = vec![0.0; members.len()];
        for &name in &ZONES[..zones] {
            let snapshot = zoned(Algorithm::Random, zone(name), &members);
            for (sum, part) in load.iter_mut().zip(due(&snapshot, members.len())) {
                *sum += part / zones as f64;
            }
        }
        for (member, load) in members.iter().zip(&load) {
            let fair = if member.status.serves() { f64::from(member.weight) / all } else { 0.0 };
            let far = (load - fair).abs();
            assert!(all == 0.0 || far < 1e-6, "seed {seed}, {}: {load} for {fair}", member.destination.name);
        }
    }
}

#[test]
fn local_zone_share_changes_continuously() {
    let mut before = 1.0;
    for lost in 0..=6 {
        let members: Vec<Member> =
            (0..12).map(|n| member(n, Some(if n < 6 { "a" } else { "b" }), 0, 1, n >= lost)).collect();
        let snapshot = zoned(Algorithm::LeastConnections, zone("a"), &members);
        let got = send(&snapshot, 20_000, &PickRequest::default(), &mut Rng::new(u64::from(lost)));
        let local = got[..6].iter().sum::<usize>() as f64 / 20_000.0;
        let carries = f64::from(6 - lost) / f64::from(12 - lost) * 2.0;
        assert!((local - carries).abs() < 0.015, "{lost} lost: {local} for {carries}");
        assert!(before - local < 0.35, "{lost} lost: from {before} to {local}");
        before = local;
    }
    let own_only: Vec<Member> = (0..4).map(|n| member(n, Some("a"), 0, 1, true)).collect();
    assert_eq!(zoned(Algorithm::P2c, zone("a"), &own_only).pool_tiers.tiers.len(), 1);
}

#[test]
fn loaded_zone_spills_over_gradually() {
    let members: Vec<Member> =
        (0..8).map(|n| member(n, Some(if n < 4 { "a" } else { "b" }), 0, 1, true)).collect();
    let share = |in_flight: usize| {
        let all = snapshot_of(Algorithm::RoundRobin, &TierSpec::default(), &members[..4]);
        let mut rng = Rng::new(5);
        let hold = |_| balance_load(&all, &PickRequest::default(), Tick::ZERO, &mut rng).expect("all serve");
        let _held: Vec<Assignment> = (0..4 * in_flight).map(hold).collect();
        let snapshot = zoned(Algorithm::Random, ZoneSpec { spill_over_at: Some(10), ..zone("a") }, &members);
        let got = send(&snapshot, 20_000, &PickRequest::default(), &mut Rng::new(1));
        got[4..].iter().sum::<usize>() as f64 / 20_000.0
    };
    for (in_flight, spilled) in [(0, 0.0), (10, 0.0), (12, 0.1), (15, 0.25), (20, 0.5), (90, 0.5)] {
        let share = share(in_flight);
        assert!((share - spilled).abs() < 0.02, "{in_flight} in flight: {share} for {spilled}");
    }
}

#[test]
fn failed_zone_is_replaced_by_others() {
    for algorithm in Algorithm::ALL {
        let members: Vec<Member> =
            (0..6).map(|n| member(n, Some(if n < 3 { "a" } else { "b" }), 0, 1, true)).collect();
        let snapshot = zoned(algorithm, zone("a"), &members);
        let (mut tried, mut order, mut rng) = (AttemptedSet::default(), Vec::new(), Rng::new(1));
        while let Ok(assignment) = balance_load(
            &snapshot,
            &PickRequest { tried: Some(&tried), ..PickRequest::default() },
            Tick::ZERO,
            &mut rng,
        ) {
            tried.add(assignment.id());
            order.push(assignment.member());
        }
        order[..3].sort_unstable();
        order[3..].sort_unstable();
        let local_first = algorithm.policy(1).needs() != plimsoll_core::balance::Needs::Key;
        assert_eq!(order.len(), 6, "{algorithm:?}");
        assert!(!local_first || order == [0, 1, 2, 3, 4, 5], "{algorithm:?}: {order:?}");
    }
}

#[test]
fn keys_and_sessions_do_not_depend_on_the_zone() {
    let members: Vec<Member> =
        (0..9).map(|n| member(n, Some(["a", "b", "c"][n as usize % 3]), 0, 1, true)).collect();
    let to = |snapshot: &Snapshot, request: &PickRequest<'_>| {
        balance_load(snapshot, request, Tick::ZERO, &mut Rng::new(3)).expect("all serve").member()
    };
    let [a, b] = ["a", "b"].map(|own| zoned(Algorithm::Hash, zone(own), &members));
    let [p, q] = ["a", "b"].map(|own| zoned(Algorithm::P2c, zone(own), &members));
    let split = zoned(Algorithm::Hash, ZoneSpec { zone_local_keys: true, ..zone("a") }, &members);
    for n in 0..1_000_u32 {
        let key = PickRequest { key: Some(hash(&n.to_le_bytes())), ..PickRequest::default() };
        let home = PickRequest { affinity_key: key.key, ..PickRequest::default() };
        assert_eq!(to(&a, &key), to(&b, &key));
        assert_eq!(to(&p, &home), to(&q, &home));
        assert_eq!(
            p.preferred_destination(n.into(), None).map(|m| m.id),
            q.preferred_destination(n.into(), None).map(|m| m.id)
        );
        assert_eq!(to(&split, &key) % 3, 0, "asked for, keys stay in the own zone");
        assert_eq!(to(&split, &key), to(&split, &key));
    }
}

/// Compares the shares of three priorities of 10, 10 and 5 members with these numbers serving.
fn overflow(serving: [u32; 3], factor: Option<f64>) -> String {
    let counts = [10, 10, 5];
    let mut members = Vec::new();
    for (priority, (&count, &serves)) in counts.iter().zip(&serving).enumerate() {
        (0..count).for_each(|n| {
            members.push(member(members.len() as u32, None, priority as u8, 1, n < serves));
        });
    }
    let spec = TierSpec { overprovision: factor, ..TierSpec::default() };
    let snapshot = snapshot_of(Algorithm::RoundRobin, &spec, &members);
    let mut shares = [0.0; 3];
    for (tier, share) in snapshot.pool_tiers.tiers.iter().zip(snapshot.pool_tiers.shares()) {
        shares[usize::from(tier.priority)] += share;
    }
    if shares.iter().sum::<f64>() > 0.0 {
        let got = send(&snapshot, 10_000, &PickRequest::default(), &mut Rng::new(1));
        let sums = [&got[..10], &got[10..20], &got[20..]].map(|part| part.iter().sum::<usize>());
        for (sum, share) in sums.iter().zip(shares) {
            assert!((*sum as f64 / 10_000.0 - share).abs() < 0.02, "{sums:?} for {shares:?}");
        }
        // Each tier has its own rotation, regardless of picks in other tiers.
        for (part, serving) in [&got[..10], &got[10..20], &got[20..]].iter().zip(serving) {
            let (least, most) =
                part[..serving as usize].iter().fold((usize::MAX, 0), |(l, m), &n| (l.min(n), m.max(n)));
            assert!(serving == 0 || most - least <= 1, "{part:?}");
        }
    }
    shares.map(|share| format!("{:.0}", share * 100.0)).join(" ")
}

#[test]
fn priority_overflows_beyond_its_overprovision() {
    let envoy = Some(1.4);
    for (serving, expected) in [
        ([10, 10, 5], "100 0 0"),
        ([8, 10, 5], "100 0 0"),
        ([7, 10, 5], "98 2 0"),
        ([5, 10, 5], "70 30 0"),
        ([1, 10, 5], "14 86 0"),
        ([0, 10, 5], "0 100 0"),
        ([5, 1, 5], "70 14 16"),
        ([1, 1, 0], "50 50 0"),
        ([0, 0, 1], "0 0 100"),
        ([0, 0, 0], "0 0 0"),
    ] {
        assert_eq!(overflow(serving, envoy), expected, "{serving:?}");
    }
    for (serving, expected) in [([1, 10, 5], "100 0 0"), ([0, 1, 5], "0 100 0"), ([0, 0, 1], "0 0 100")] {
        assert_eq!(overflow(serving, None), expected, "strict: {serving:?}");
    }
}

fn versions() -> Vec<Member> {
    let label = |n: u32| vec![("version".into(), if n < 2 { "1" } else { "2" }.into())];
    (0..4)
        .map(|n| {
            let plain = member(n, None, 0, 1, true);
            Member { destination: Destination { labels: label(n).into(), ..plain.destination }, ..plain }
        })
        .collect()
}

fn version(text: &str, fallback: Fallback) -> Arc<Subset> {
    Arc::new(Subset::new(vec![("version".into(), text.into())], fallback))
}

#[test]
fn subset_message_leaves_the_subset_only_with_a_fallback() {
    let mut members = versions();
    let (two, any, none) =
        (version("2", Fallback::None), version("2", Fallback::Any), version("3", Fallback::None));
    let spec = |subsets| TierSpec { subsets, ..TierSpec::default() };
    for algorithm in Algorithm::ALL {
        // The same holds if the snapshot is older than the route.
        for subsets in [vec![two.clone(), none.clone()], vec![]] {
            let snapshot = snapshot_of(algorithm, &spec(subsets), &members);
            let got = send(
                &snapshot,
                100,
                &PickRequest { subset: Some(&two), ..PickRequest::default() },
                &mut Rng::new(1),
            );
            assert_eq!((got[0] + got[1], got[2] + got[3]), (0, 100), "{algorithm:?}");
            let none = balance_load(
                &snapshot,
                &PickRequest { subset: Some(&none), ..PickRequest::default() },
                Tick::ZERO,
                &mut Rng::new(1),
            );
            assert_eq!(none.err(), Some(NoDestination::NoneServing));
        }
    }
    let explained = |snapshot: &Snapshot, subset: &Subset| {
        let request = PickRequest { subset: Some(subset), ..PickRequest::default() };
        explain(snapshot, &request, Tick::ZERO, &mut Rng::new(1))
    };
    let snapshot = snapshot_of(Algorithm::RoundRobin, &spec(vec![two.clone()]), &members);
    let why: Vec<_> = explained(&snapshot, &two).candidates.iter().map(|c| c.set_aside).collect();
    assert_eq!(why, [Some(SetAside::Subset), Some(SetAside::Subset), None, None]);
    assert_eq!(explained(&snapshot, &two).order, [2, 3]);
    members.iter_mut().skip(2).for_each(|member| member.status = Status::Down);
    let snapshot = snapshot_of(Algorithm::RoundRobin, &spec(vec![two.clone()]), &members);
    assert!(explained(&snapshot, &two).order.is_empty());
    assert_eq!(explained(&snapshot, &any).order, [0, 1], "the fallback is the route's");
    let request = PickRequest { subset: Some(&any), ..PickRequest::default() };
    let got = send(&snapshot, 100, &request, &mut Rng::new(1));
    assert_eq!(got, [50, 50, 0, 0]);
}

#[test]
fn zones_priorities_and_subsets_combine() {
    let mut members = Vec::new();
    for n in 0..16_u32 {
        let plain = member(n, Some(if n % 2 == 0 { "a" } else { "b" }), u8::from(n >= 8), 1, n != 0);
        let labels = vec![("half".into(), if n % 8 < 4 { "1" } else { "2" }.into())];
        members.push(Member {
            destination: Destination { labels: labels.into(), ..plain.destination },
            ..plain
        });
    }
    let half = Arc::new(Subset::new(vec![("half".into(), "1".into())], Fallback::None));
    let spec = TierSpec {
        overprovision: Some(1.0),
        zone: Some(zone("a")),
        subsets: vec![half.clone()],
        ..TierSpec::default()
    };
    let snapshot = snapshot_of(Algorithm::P2c, &spec, &members);
    let request = PickRequest { subset: Some(&half), ..PickRequest::default() };
    let got = send(&snapshot, 40_000, &request, &mut Rng::new(7));
    let share = |ranks: &[usize]| ranks.iter().map(|&rank| got[rank]).sum::<usize>() as f64 / 40_000.0;
    // Three of four serve: 75 % stay in the first priority. There zone a has one of three left and keeps two thirds.
    for (ranks, due) in [([2].as_slice(), 0.5), (&[1, 3], 0.25), (&[8, 10], 0.25), (&[9, 11], 0.0)] {
        assert!((share(ranks) - due).abs() < 0.015, "{ranks:?}: {} for {due}, {got:?}", share(ranks));
    }
    assert_eq!(got[4..8].iter().chain(&got[12..]).sum::<usize>(), 0);
}
