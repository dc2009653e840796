//! What one choice costs: every algorithm at 10, 64, 1,000 and 10,000 destinations, the bare pick and the whole
//! `balance_load` with its ticket given and given back.
//!
//! `cargo bench -p plimsoll-core --bench pick`. Targets: round robin below 10 ns a pick, the others below
//! 50 ns, at any size.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use plimsoll_core::balance::Algorithm;
use plimsoll_core::snapshot::Member;
use plimsoll_core::{
    Address, Destination, DestinationId, Live, Rng, Snapshot, Standing, Tick, Ticket, Want, Weight,
    balance_load,
};

/// 64 is the largest pool of which least connections looks at everyone.
const SIZES: [u32; 4] = [10, 64, 1_000, 10_000];

/// Weights 1 to 10, and 20 messages in flight somewhere for each 10 destinations, so that no algorithm may
/// stop at the first idle one.
fn busy_pool(algorithm: Algorithm, count: u32) -> (Snapshot, Vec<Ticket>) {
    let member = |i: u32| {
        let address = Address::Socket(([10, 0, (i >> 8) as u8, i as u8], 8080).into());
        let weight = Weight::new(1 + (i * 7 % 10) as u16);
        Member {
            id: DestinationId(i),
            destination: Destination { weight, ..Destination::new(&format!("d{i}"), address) },
            standing: Standing::Serving,
            since: Tick::ZERO,
            weight: weight.in_256ths(),
            warmth: None,
            live: Arc::new(Live::new(1)),
        }
    };
    let members: Vec<Member> = (0..count).map(member).collect();
    let everyone = Snapshot::build("bench".into(), 1, &*Algorithm::RoundRobin.policy(1), members.clone());
    let snapshot = Snapshot::build("bench".into(), 1, &*algorithm.policy(1), members);
    let mut rng = Rng::new(1);
    let hold = |_| balance_load(&everyone, &Want::default(), Tick::ZERO, &mut rng).expect("all serve");
    (snapshot, (0..2 * count).map(hold).collect())
}

fn picks(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = c.benchmark_group(format!("pick/{}", algorithm.name()));
        for count in SIZES {
            let (snapshot, _held) = busy_pool(algorithm, count);
            let (mut rng, picker) = (Rng::new(2), &snapshot.tiers[0].picker);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| picker.pick(black_box(&Want::default()), Tick::ZERO, &mut rng));
            });
        }
    }
}

fn tickets(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = c.benchmark_group(format!("balance_load/{}", algorithm.name()));
        for count in SIZES {
            let (snapshot, _held) = busy_pool(algorithm, count);
            let mut rng = Rng::new(2);
            group.bench_function(BenchmarkId::from_parameter(count), |b| {
                b.iter(|| balance_load(&snapshot, black_box(&Want::default()), Tick::ZERO, &mut rng).is_ok());
            });
        }
    }
}

criterion_group!(benches, picks, tickets);
criterion_main!(benches);
