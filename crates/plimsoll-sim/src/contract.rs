//! What every policy must keep, whatever it chooses by.
//!
//! A built-in policy and one written elsewhere are held to the same promises: run [`contract`] in a test.
//! Whoever breaks one gets a panic that names the promise and the seed.

use std::time::Duration;

use plimsoll_core::balance::{Needs, Policy};
use plimsoll_core::{NoDestination, Rng, Tick, Tried, Want};

use crate::open_loop::{Service, Station, World};

/// What a policy says of itself, and is held to.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Terms {
    /// Shares follow the weights; otherwise they are equal.
    pub heeds_weights: bool,
    /// Shares are exact within a turn or two per worker, not just on average.
    pub rotates: bool,
    /// How far a share may lie from the one intended, as a part of it, beyond five standard deviations of
    /// pure chance. Without meaning where `rotates`.
    pub tolerance: f64,
}

const MEAN: Duration = Duration::from_millis(10);
const STATION: Station = Station::new(Service::Exponential(MEAN));
/// Messages in flight per unit of weight in "steady open work": enough that a policy which looks at load
/// sees differences.
const LOAD: f64 = 8.0;
const SEEDS: std::ops::Range<u64> = 0..12;

/// Holds the policy that `make` makes, for so many workers, to every promise.
///
/// # Panics
/// When a promise is broken.
pub fn contract(make: &dyn Fn(usize) -> Box<dyn Policy>, terms: &Terms) {
    for seed in SEEDS {
        never_a_stranger(make, seed);
        same_seed_same_picks(make, seed);
        a_retry_goes_to_the_next_untried(make, seed);
        survives_republish(make, terms, seed);
        if terms.rotates {
            workers_differ_by_one_each(make, seed);
        }
    }
    follows_weights(make, terms, 1, &[1, 2, 3, 4]);
    follows_weights(make, terms, 2, &[5, 1, 1]);
    follows_weights(make, terms, 3, &(0..80).map(|i| 1 + i % 4).collect::<Vec<u16>>());
    starves_nobody(make, 4);
}

/// Between 1 and `most` stations of random weight, in up to two tiers; now and then a weight is 0.
fn stations(rng: &mut Rng, most: usize) -> Vec<Station> {
    let spread = [1, 3, 100, 65_535][rng.index(4)];
    let mut stations: Vec<Station> = (0..=rng.index(most))
        .map(|_| STATION.weighing(rng.below(spread + 1) as u16).in_tier(rng.below(2) as u8))
        .collect();
    stations[0].weight = stations[0].weight.max(1);
    stations
}

/// Steady open work for these stations: messages a second.
fn steady(stations: &[Station]) -> f64 {
    let weight: f64 = stations.iter().map(|station| f64::from(station.weight)).sum();
    LOAD * weight / MEAN.as_secs_f64()
}

/// Every pick is an index of a slot that was offered, and every assignment one of a destination that serves.
fn never_a_stranger(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut rng = Rng::new(seed);
    let publications = if make(1).needs() == Needs::Key { 2 } else { 8 };
    for most in [1, 2, 5, 64, 65, 200] {
        let stations = stations(&mut rng, most);
        let mut world = World::new(seed, make(2), &stations);
        for _ in 0..publications {
            let down: Vec<bool> = stations.iter().map(|_| rng.below(3) == 0).collect();
            world.publish(|index| !down[index]);
            for tier in &world.snapshot().whole.tiers {
                for worker in [0, 1, 2, 77] {
                    let want = Want { worker, ..Want::default() };
                    let picked = tier.picker.pick(&want, Tick::ZERO, &mut rng);
                    assert!(picked < tier.slots.len(), "never a stranger: {picked} picked, seed {seed}");
                }
            }
            for _ in 0..20 {
                match world.send(&Want::default()) {
                    Ok(index) => {
                        let serves = !down[index] && stations[index].weight > 0;
                        assert!(serves, "never a stranger: {index} does not serve, seed {seed}");
                    }
                    Err(why) => assert_eq!(why, NoDestination::NoneServing, "seed {seed}"),
                }
            }
        }
    }
}

/// A run is a function of its seed.
fn same_seed_same_picks(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let run = || {
        let mut rng = Rng::new(seed);
        let stations = stations(&mut rng, 100);
        let mut world = World::new(seed, make(1), &stations);
        let mut picks = Vec::new();
        for _ in 0..200 {
            world.pass(Duration::from_micros(rng.below(500)));
            picks.push(world.send(&Want::default()));
        }
        picks
    };
    assert_eq!(run(), run(), "same seed, same picks: seed {seed}");
}

/// A message that goes on trying meets everyone who serves once, the first tier before the second.
fn a_retry_goes_to_the_next_untried(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut rng = Rng::new(seed);
    let stations = stations(&mut rng, Tried::MAX);
    let mut world = World::new(seed, make(1), &stations);
    for _ in 0..30 {
        let (mut tried, mut order) = (Tried::default(), Vec::new());
        while let Ok(assignment) = world.choose(&Want { tried: Some(&tried), ..Want::default() }) {
            assert!(!tried.contains(assignment.id()), "the next untried: one was tried twice, seed {seed}");
            tried.add(assignment.id());
            order.push(assignment.member());
        }
        let serving = stations.iter().filter(|station| station.weight > 0).count();
        assert_eq!(order.len(), serving, "the next untried: not all were tried, seed {seed}");
        assert!(
            order.is_sorted_by_key(|&index| stations[index].priority),
            "the next untried: a backup tier came first, seed {seed}"
        );
    }
}

/// Destinations come and go while work goes on: whoever serves gets a fair part, nobody else gets any.
fn survives_republish(make: &dyn Fn(usize) -> Box<dyn Policy>, terms: &Terms, seed: u64) {
    let mut rng = Rng::new(seed);
    let stations = [STATION; 6];
    let mut world = World::new(seed, make(1), &stations);
    let (mut taken, mut due) = ([0; 6], [0.0; 6]);
    // Tables of keys take their time to build, and a test has little.
    let (rounds, more) = if make(1).needs() == Needs::Key { (60, 10) } else { (600, 1) };
    for round in 0..rounds {
        let up: Vec<bool> = stations.iter().map(|_| rng.below(3) > 0).collect();
        world.publish(|index| up[index]);
        let serving = up.iter().filter(|&&up| up).count();
        if serving == 0 {
            assert_eq!(world.send(&Want::default()), Err(NoDestination::NoneServing), "seed {seed}");
            continue;
        }
        let messages = more * (1 + round % 7);
        for (station, n) in world.open_work(messages, steady(&stations)).into_iter().flatten().enumerate() {
            assert!(n == 0 || up[station], "survives republish: {station} is gone, seed {seed}");
            taken[station] += n;
            due[station] += if up[station] { f64::from(messages) / serving as f64 } else { 0.0 };
        }
    }
    let apart = 0.25 + terms.tolerance;
    for (&taken, due) in taken.iter().zip(due) {
        let fair = ((1.0 - apart) * due..(1.0 + apart) * due).contains(&f64::from(taken));
        assert!(fair, "survives republish: one took {taken} for {due:.0}, seed {seed}");
    }
}

/// Exact per worker: with W workers, however unevenly they work, equal destinations differ by at most W.
fn workers_differ_by_one_each(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut rng = Rng::new(seed);
    let workers = 1 + rng.index(8);
    let stations = vec![STATION; 1 + rng.index(20)];
    let mut world = World::new(seed, make(workers), &stations);
    let mut taken = vec![0_usize; stations.len()];
    for _ in 0..2_000 {
        // The square makes some workers busier than others.
        let worker = rng.index(workers) * rng.index(workers) / workers;
        let assignment = world.choose(&Want { worker, ..Want::default() }).expect("all serve");
        taken[assignment.member()] += 1;
        let apart = taken.iter().max().zip(taken.iter().min()).map_or(0, |(most, least)| most - least);
        assert!(apart <= workers, "exact per worker: {taken:?} with {workers} workers, seed {seed}");
    }
}

/// Under steady open work each share is the intended one, as near as the terms say.
fn follows_weights(make: &dyn Fn(usize) -> Box<dyn Policy>, terms: &Terms, seed: u64, weights: &[u16]) {
    let stations: Vec<Station> = weights.iter().map(|&weight| STATION.weighing(weight)).collect();
    let mut world = World::new(seed, make(1), &stations);
    let settle = 500 * weights.len() as u32;
    world.open_work(settle, steady(&stations)).expect("all serve");
    let messages = 2_000 * weights.len() as u32;
    let taken = world.open_work(messages, steady(&stations)).expect("all serve");
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    for (&weight, &taken) in weights.iter().zip(&taken) {
        let share = if terms.heeds_weights { f64::from(weight) / total } else { 1.0 / weights.len() as f64 };
        let due = share * f64::from(messages);
        let allowed = if terms.rotates { 2.0 } else { terms.tolerance * due + 5.0 * due.sqrt() };
        assert!(
            (f64::from(taken) - due).abs() <= allowed,
            "follows weights: {taken} for {due:.1} give or take {allowed:.1} (weight {weight}), seed {seed}"
        );
    }
}

/// The lightest of a very uneven pool gets its messages, too.
fn starves_nobody(make: &dyn Fn(usize) -> Box<dyn Policy>, seed: u64) {
    let mut stations = vec![STATION; 8];
    stations[3].weight = 200;
    let mut world = World::new(seed, make(1), &stations);
    let taken = world.open_work(20_000, steady(&stations)).expect("all serve");
    assert!(taken.iter().all(|&n| n > 20), "starves nobody: {taken:?}, seed {seed}");
}
