//! Time per pick: every algorithm at 10, 64, 1,000 and 10,000 destinations, the bare pick and all of `balance_load`
//! with the assignment acquired and released.
//!
//! `cargo bench -p plimsoll-core --bench pick`; within a minute: `cargo bench -p plimsoll-core --bench pick -- --quick pick`.
//! Targets: round robin below 10 ns per pick, the others below 50 ns, at any size.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use plimsoll_core::balance::{Algorithm, AlgorithmSettings, HashSpec, HashTable};
use plimsoll_core::formula::Formula;
use plimsoll_core::snapshot::Member;
use plimsoll_core::snapshot::{TierSpec, ZoneSpec};
use plimsoll_core::{
    Address, Assignment, Destination, DestinationId, DestinationStats, Outcome, PickRequest, Rng, Snapshot,
    Status, Tick, Weight, balance_load,
};

/// Pool sizes; 64 is the largest at which least connections compares all destinations.
const SIZES: [u32; 4] = [10, 64, 1_000, 10_000];

/// Creates a pool with weights 1 to 10 and 20 messages in flight per 10 destinations, so that no algorithm may stop at
/// the first idle one.
fn busy_pool(algorithm: Algorithm, count: u32) -> (Snapshot, Vec<Assignment>) {
    let member = |i: u32| {
        let address = Address::Socket(([10, 0, (i >> 8) as u8, i as u8], 8080).into());
        let weight = Weight::new(1 + (i * 7 % 10) as u16);
        Member {
            id: DestinationId(i),
            destination: Destination { weight, ..Destination::new(&format!("d{i}"), address) },
            status: Status::Serving,
            since: Tick::ZERO,
            weight: weight.in_256ths(),
            slow_start: None,
            stats: Arc::new(DestinationStats::new(1)),
        }
    };
    let members: Vec<Member> = (0..count).map(member).collect();
    let all = Snapshot::build("bench".into(), 1, &*Algorithm::RoundRobin.policy(1), members.clone());
    let snapshot = Snapshot::build("bench".into(), 1, &*algorithm.policy(1), members);
    let mut rng = Rng::new(1);
    let mut hold = |_| balance_load(&all, &PickRequest::default(), Tick::ZERO, &mut rng).expect("all serve");
    // Every destination has responded before, so that latency measurements exist.
    for n in 0..count {
        let first_byte = Duration::from_millis(1 + u64::from(n * 13 % 90));
        hold(n).finish(Tick::ZERO, Outcome::Answered { status: 200, first_byte });
    }
    (snapshot, (0..2 * count).map(hold).collect())
}

fn picks(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = c.benchmark_group(format!("pick/{}", algorithm.name()));
        for count in SIZES {
            let (snapshot, _held) = busy_pool(algorithm, count);
            let (mut rng, picker, mut key) = (Rng::new(2), &snapshot.pool_tiers.tiers[0].picker, 0_u64);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| {
                    key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let want = PickRequest { key: Some(key), ..PickRequest::default() };
                    picker.pick(black_box(&want), Tick::ZERO, &mut rng)
                });
            });
        }
    }
}

fn assignments(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = c.benchmark_group(format!("balance_load/{}", algorithm.name()));
        for count in SIZES {
            let (snapshot, _held) = busy_pool(algorithm, count);
            let mut rng = Rng::new(2);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| {
                    balance_load(&snapshot, black_box(&PickRequest::default()), Tick::ZERO, &mut rng).is_ok()
                });
            });
        }
    }
}

/// Hashing with each table and a hundred repeated keys, the case that the key cache is for.
fn keys(c: &mut Criterion) {
    let kinds = [
        ("ring", HashTable::Ring, None, true),
        ("maglev bounded", HashTable::Maglev, Some(125), true),
        ("ring bounded", HashTable::Ring, Some(125), true),
        ("rendezvous", HashTable::Rendezvous, None, false),
        ("rendezvous cached", HashTable::Rendezvous, None, true),
    ];
    for (name, table, bound, caching) in kinds {
        let mut group = c.benchmark_group(format!("pick/hash {name}"));
        for count in SIZES {
            let (snapshot, _held) = busy_pool(Algorithm::RoundRobin, count);
            let settings = AlgorithmSettings {
                hash: HashSpec { table, bound },
                caching,
                ..AlgorithmSettings::default()
            };
            let policy = Algorithm::Hash.policy_with(1, &settings);
            let picker = policy.build(snapshot.pool_tiers.tiers[0].slots.clone());
            let (mut rng, mut number) = (Rng::new(2), 0_u64);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| {
                    number = (number + 1) % 100;
                    let key = Some(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    picker.pick(
                        black_box(&PickRequest { key, ..PickRequest::default() }),
                        Tick::ZERO,
                        &mut rng,
                    )
                });
            });
        }
    }
}

/// `custom` with a formula that reads all variables; at most 2 µs at 100 destinations.
fn formulas(c: &mut Criterion) {
    let text = "(in_flight + 1) / weight * latency_ms * (1 + 10 * error_rate) / health";
    let formula = Formula::parse(text).expect("a formula");
    let settings = AlgorithmSettings { formula: Some(Arc::new(formula)), ..AlgorithmSettings::default() };
    let mut group = c.benchmark_group("pick/formula");
    for count in [10, 16, 100, 1_000, 10_000] {
        let (snapshot, _held) = busy_pool(Algorithm::ResponseTime, count);
        let policy = Algorithm::Custom.policy_with(1, &settings);
        let picker = policy.build(snapshot.pool_tiers.tiers[0].slots.clone());
        let mut rng = Rng::new(2);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| picker.pick(black_box(&PickRequest::default()), Tick::ZERO, &mut rng));
        });
    }
}

/// Selection of the first tier: two zones, and a first priority of which half is down.
fn tiers(c: &mut Criterion) {
    let zone = |spill_over_at| Some(ZoneSpec { own: "a".into(), spill_over_at, zone_local_keys: false });
    let plain = TierSpec::default();
    let kinds = [
        ("one tier", plain.clone()),
        ("zones", TierSpec { zone: zone(None), ..plain.clone() }),
        ("zones with a bound", TierSpec { zone: zone(Some(1_000)), ..plain.clone() }),
        ("overflow", TierSpec { overprovision: Some(1.0), ..plain }),
    ];
    for (name, spec) in kinds {
        let mut group = c.benchmark_group(format!("pick/{name}, random"));
        for count in SIZES {
            let (snapshot, _held) = busy_pool(Algorithm::RoundRobin, count);
            let mut members = snapshot.members.to_vec();
            for (n, member) in members.iter_mut().enumerate() {
                member.destination.zone = Some(if n % 3 == 0 { "a" } else { "b" }.into());
                member.destination.priority = u8::from(spec.overprovision.is_some() && n % 2 == 0);
                member.status = if n % 4 == 1 { Status::Down } else { Status::Serving };
            }
            let policy = Algorithm::Random.policy(1);
            let snapshot = Snapshot::build_with("bench".into(), 1, &*policy, &spec, members);
            let mut rng = Rng::new(2);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| {
                    balance_load(&snapshot, black_box(&PickRequest::default()), Tick::ZERO, &mut rng).is_ok()
                });
            });
        }
    }
}

/// Building a new table, off the request path: below 100 ms for 10,000 destinations.
fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("build/hash");
    for table in [HashTable::Maglev, HashTable::Ring] {
        for count in SIZES {
            let (snapshot, _held) = busy_pool(Algorithm::RoundRobin, count);
            let settings =
                AlgorithmSettings { hash: HashSpec { table, bound: None }, ..AlgorithmSettings::default() };
            group.bench_function(BenchmarkId::new(format!("{table:?}"), count), |b| {
                // A new policy each time, because a policy caches the tables it has built.
                b.iter(|| {
                    let policy = Algorithm::Hash.policy_with(1, &settings);
                    policy.build(snapshot.pool_tiers.tiers[0].slots.clone())
                });
            });
        }
    }
}

criterion_group!(benches, picks, keys, formulas, tiers, assignments, tables);
criterion_main!(benches);
