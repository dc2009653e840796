//! Guarantees of every balancing policy, whatever it chooses by.
//!
//! Built-in and custom policies are checked the same way: call [`check_contract`] in a test. A violation
//! panics with the name of the guarantee and the random seed.

use std::time::Duration;

use plimsoll_core::balance::{Needs, Policy};
use plimsoll_core::{AttemptedSet, NoDestination, PickRequest, Rng, Tick};

use crate::open_loop::{OpenLoop, OpenLoopServer, ServiceTime};

/// Guarantees of a policy about the shares of destinations.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Guarantees {
    /// Whether shares follow the weights; otherwise they are equal.
    pub follows_weights: bool,
    /// Whether shares are exact within two messages per worker, not only on average.
    pub rotates: bool,
    /// Maximum relative deviation of a share from the intended one, beyond five standard deviations of random
    /// sampling. Ignored where `rotates` is set.
    pub tolerance: f64,
}

const MEAN: Duration = Duration::from_millis(10);
const SERVER: OpenLoopServer = OpenLoopServer::new(ServiceTime::Exponential(MEAN));
/// Messages in flight per unit of weight under steady load: enough for load-aware policies to see
/// differences.
const LOAD: f64 = 8.0;
const SEEDS: std::ops::Range<u64> = 0..12;

/// Checks every guarantee of the policy that `make` creates for a number of workers.
///
/// # Panics
/// When a guarantee is violated.
pub fn check_contract(make: &dyn Fn(usize) -> Box<dyn Policy>, guarantees: &Guarantees) {
    for seed in SEEDS {
        picks_only_serving_destinations(make, seed);
        the_same_seed_gives_the_same_picks(make, seed);
        a_retry_visits_each_destination_once(make, seed);
        spreads_evenly_across_republishes(make, guarantees, seed);
        if guarantees.rotates {
            rotates_exactly_per_worker(make, seed);
        }
    }
    shares_follow_weights(make, guarantees, 1, &[1, 2, 3, 4]);
    shares_follow_weights(make, guarantees, 2, &[5, 1, 1]);
    shares_follow_weights(make, guarantees, 3, &(0..80).map(|i| 1 + i % 4).collect::<Vec<u16>>());
    starves_no_destination(make, 4);
}

/// Draws between 1 and `most` servers of random weight in up to two tiers; some weights are 0.
fn servers(rng: &mut Rng, most: usize) -> Vec<OpenLoopServer> {
    let spread = [1, 3, 100, 65_535][rng.index(4)];
    let mut servers: Vec<OpenLoopServer> = (0..=rng.index(most))
        .map(|_| SERVER.with_weight(rng.below(spread + 1) as u16).with_priority(rng.below(2) as u8))
        .collect();
    servers[0].weight = servers[0].weight.max(1);
    servers
}

/// Arrival rate of steady load for these servers, in messages per second.
fn steady(servers: &[OpenLoopServer]) -> f64 {
    let weight: f64 = servers.iter().map(|server| f64::from(server.weight)).sum();
    LOAD * weight / MEAN.as_secs_f64()
}

/// Every pick is the index of an offered slot, and every assignment is at a serving destination.
fn picks_only_serving_destinations(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut rng = Rng::new(seed);
    let publications = if make(1).needs() == Needs::Key { 2 } else { 8 };
    for most in [1, 2, 5, 64, 65, 200] {
        let servers = servers(&mut rng, most);
        let mut open_loop = OpenLoop::new(seed, make(2), &servers);
        for _ in 0..publications {
            let down: Vec<bool> = servers.iter().map(|_| rng.below(3) == 0).collect();
            open_loop.publish(|index| !down[index]);
            for tier in &open_loop.snapshot().pool_tiers.tiers {
                for worker in [0, 1, 2, 77] {
                    let want = PickRequest { worker, ..PickRequest::default() };
                    let picked = tier.picker.pick(&want, Tick::ZERO, &mut rng);
                    assert!(
                        picked < tier.slots.len(),
                        "serving destinations only: {picked} picked, seed {seed}"
                    );
                }
            }
            for _ in 0..20 {
                match open_loop.send(&PickRequest::default()) {
                    Ok(index) => {
                        let serves = !down[index] && servers[index].weight > 0;
                        assert!(
                            serves,
                            "serving destinations only: destination {index} is not serving, seed {seed}"
                        );
                    }
                    Err(why) => assert_eq!(why, NoDestination::NoneServing, "seed {seed}"),
                }
            }
        }
    }
}

/// A run is a function of its random seed.
fn the_same_seed_gives_the_same_picks(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let run = || {
        let mut rng = Rng::new(seed);
        let servers = servers(&mut rng, 100);
        let mut open_loop = OpenLoop::new(seed, make(1), &servers);
        let mut picks = Vec::new();
        for _ in 0..200 {
            open_loop.advance(Duration::from_micros(rng.below(500)));
            picks.push(open_loop.send(&PickRequest::default()));
        }
        picks
    };
    assert_eq!(run(), run(), "same seed, same picks: seed {seed}");
}

/// Repeated attempts visit each serving destination once, and the first tier before the second.
fn a_retry_visits_each_destination_once(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut rng = Rng::new(seed);
    let servers = servers(&mut rng, AttemptedSet::MAX);
    let mut open_loop = OpenLoop::new(seed, make(1), &servers);
    for _ in 0..30 {
        let (mut tried, mut order) = (AttemptedSet::default(), Vec::new());
        while let Ok(assignment) =
            open_loop.choose(&PickRequest { tried: Some(&tried), ..PickRequest::default() })
        {
            assert!(
                !tried.contains(assignment.id()),
                "untried destinations first: a destination was tried twice, seed {seed}"
            );
            tried.add(assignment.id());
            order.push(assignment.member());
        }
        let serving = servers.iter().filter(|server| server.weight > 0).count();
        assert_eq!(
            order.len(),
            serving,
            "untried destinations first: not every destination was tried, seed {seed}"
        );
        assert!(
            order.is_sorted_by_key(|&index| servers[index].priority),
            "untried destinations first: a backup tier came first, seed {seed}"
        );
    }
}

/// Destinations join and leave under load: each serving one gets a fair share, and no other gets a message.
fn spreads_evenly_across_republishes(
    make: &dyn Fn(usize) -> Box<dyn Policy>,
    guarantees: &Guarantees,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let servers = [SERVER; 6];
    let mut open_loop = OpenLoop::new(seed, make(1), &servers);
    let (mut received, mut due) = ([0; 6], [0.0; 6]);
    // Tables for keys take long to build, and the test must be fast.
    let (rounds, more) = if make(1).needs() == Needs::Key { (60, 10) } else { (600, 1) };
    for round in 0..rounds {
        let up: Vec<bool> = servers.iter().map(|_| rng.below(3) > 0).collect();
        open_loop.publish(|index| up[index]);
        let serving = up.iter().filter(|&&up| up).count();
        if serving == 0 {
            assert_eq!(
                open_loop.send(&PickRequest::default()),
                Err(NoDestination::NoneServing),
                "seed {seed}"
            );
            continue;
        }
        let messages = more * (1 + round % 7);
        for (server, n) in open_loop.run_poisson(messages, steady(&servers)).into_iter().flatten().enumerate()
        {
            assert!(n == 0 || up[server], "even across republishes: server {server} is down, seed {seed}");
            received[server] += n;
            due[server] += if up[server] { f64::from(messages) / serving as f64 } else { 0.0 };
        }
    }
    let apart = 0.25 + guarantees.tolerance;
    for (&received, due) in received.iter().zip(due) {
        let fair = ((1.0 - apart) * due..(1.0 + apart) * due).contains(&f64::from(received));
        assert!(fair, "even across republishes: a server received {received} of {due:.0}, seed {seed}");
    }
}

/// With W workers, however uneven their load, equal destinations differ by at most W messages.
fn rotates_exactly_per_worker(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut rng = Rng::new(seed);
    let workers = 1 + rng.index(8);
    let servers = vec![SERVER; 1 + rng.index(20)];
    let mut open_loop = OpenLoop::new(seed, make(workers), &servers);
    let mut received = vec![0_usize; servers.len()];
    for _ in 0..2_000 {
        // The product of two draws makes some workers busier than others.
        let worker = rng.index(workers) * rng.index(workers) / workers;
        let assignment =
            open_loop.choose(&PickRequest { worker, ..PickRequest::default() }).expect("all serve");
        received[assignment.member()] += 1;
        let apart = received.iter().max().zip(received.iter().min()).map_or(0, |(most, least)| most - least);
        assert!(apart <= workers, "exact per worker: {received:?} with {workers} workers, seed {seed}");
    }
}

/// Under steady load each share is the intended one within the guaranteed tolerance.
fn shares_follow_weights(
    make: &dyn Fn(usize) -> Box<dyn Policy>,
    guarantees: &Guarantees,
    seed: u64,
    weights: &[u16],
) {
    let servers: Vec<OpenLoopServer> = weights.iter().map(|&weight| SERVER.with_weight(weight)).collect();
    let mut open_loop = OpenLoop::new(seed, make(1), &servers);
    let settle = 500 * weights.len() as u32;
    open_loop.run_poisson(settle, steady(&servers)).expect("all serve");
    let messages = 2_000 * weights.len() as u32;
    let received = open_loop.run_poisson(messages, steady(&servers)).expect("all serve");
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    for (&weight, &received) in weights.iter().zip(&received) {
        let share =
            if guarantees.follows_weights { f64::from(weight) / total } else { 1.0 / weights.len() as f64 };
        let due = share * f64::from(messages);
        let allowed = if guarantees.rotates { 2.0 } else { guarantees.tolerance * due + 5.0 * due.sqrt() };
        assert!(
            (f64::from(received) - due).abs() <= allowed,
            "follows weights: received {received}, expected {due:.1} ± {allowed:.1} (weight {weight}), seed {seed}"
        );
    }
}

/// The destination of the lowest weight in a very uneven pool receives messages.
fn starves_no_destination(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut servers = vec![SERVER; 8];
    servers[3].weight = 200;
    let mut open_loop = OpenLoop::new(seed, make(1), &servers);
    let received = open_loop.run_poisson(20_000, steady(&servers)).expect("all serve");
    assert!(received.iter().all(|&n| n > 20), "starves no destination: {received:?}, seed {seed}");
}
