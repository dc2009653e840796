//! Guarantees for programs that embed the balancer.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use plimsoll::{
    Algorithm, Destination, Failure, HealthState, LoadBalancer, LoadBalancingConfig, LoadBalancingError,
    Outcome, balance_load,
};

const FAILED: Outcome = Outcome::Failed(Failure::Connect);

fn three() -> [Destination; 3] {
    [1, 2, 3].map(|n| Destination::new(["a", "b", "c"][n - 1], format!("10.0.0.{n}:80")))
}

fn balancer(destinations: &[Destination], algorithm: Algorithm) -> LoadBalancer {
    LoadBalancer::new(destinations, &LoadBalancingConfig::with_algorithm(algorithm)).expect("valid")
}

/// Returns the destinations of the next `count` messages, each finished before the next.
fn next(balancer: &LoadBalancer, count: usize) -> String {
    let one = |_| {
        let assignment = balancer.pick().expect("one serves");
        let id = assignment.destination().id.clone();
        assignment.responded(200);
        id
    };
    (0..count).map(one).collect::<Vec<_>>().join(" ")
}

/// Reports an outcome of the next message of destination `id`.
fn report(balancer: &LoadBalancer, id: &str, outcome: Outcome) {
    let mut assignment = balancer.pick().expect("one serves");
    while assignment.destination().id != id {
        drop(assignment);
        assignment = balancer.pick().expect("one serves");
    }
    assignment.finish(outcome);
}

#[tokio::test]
async fn result_has_the_specified_fields() {
    let [a, b, c] = three();
    let result =
        balance_load(&[a.with_weight(3), b, c], &LoadBalancingConfig::with_algorithm(Algorithm::P2c))
            .await
            .expect("valid");
    let json = serde_json::to_value(&result).expect("serializable");
    let keys = |value: &serde_json::Value| -> Vec<String> {
        let mut keys: Vec<String> = value.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(
        keys(&json),
        ["healthStatus", "loadDistribution", "performance", "recommendations", "selectedDestination"]
    );
    assert_eq!(keys(&json["selectedDestination"]), ["address", "id", "priority", "weight"]);
    assert_eq!(keys(&json["loadDistribution"]), ["destinations", "deviation"]);
    assert_eq!(
        keys(&json["loadDistribution"]["destinations"][0]),
        ["effectiveWeight", "id", "inFlight", "intendedShare", "share", "weight"]
    );
    assert_eq!(keys(&json["healthStatus"]), ["serving", "since", "state", "total"]);
    assert_eq!(json["healthStatus"]["state"], "healthy");
    let measures = [
        "availability",
        "errorRate",
        "inFlight",
        "responseTimeMs",
        "samples",
        "throughputPerSecond",
        "windowMs",
    ];
    let of = |value: &serde_json::Value, extra: &str| {
        let mut keys = keys(value);
        keys.retain(|key| key != extra);
        keys
    };
    assert_eq!(of(&json["performance"], "destinations"), measures);
    assert_eq!(of(&json["performance"]["destinations"][0], "id"), measures);
    assert!(json["performance"]["errorRate"].is_null(), "no outcome was reported");
    assert_eq!(json["performance"]["inFlight"], 1);
}

#[tokio::test]
async fn successive_calls_rotate_and_learn() {
    let destinations = three().map(|one| {
        let address = one.address.replace(":80", ":81");
        one.with_address(address)
    });
    let config = LoadBalancingConfig::default();
    let mut taken = Vec::new();
    for n in 0..7 {
        let result = balance_load(&destinations, &config).await.expect("valid");
        assert_eq!(result.performance.samples, n);
        taken.push(result.selected_destination.id);
        result.assignment.finish(Outcome::Answered { status: 200, first_byte: Duration::from_millis(8) });
    }
    assert_eq!(taken.join(" "), "a b c a b c a");
    let last = balance_load(&destinations, &config).await.expect("valid");
    let times = last.performance.response_time_ms.expect("seven responses");
    assert_eq!((times.mean, times.p50, times.p99), (8.0, 8.0, 8.0));
    assert_eq!(last.performance.error_rate, Some(0.0));
}

#[tokio::test]
async fn invalid_calls_have_distinct_errors() {
    let check = async |destinations: &[Destination], config: LoadBalancingConfig, expected: &str| {
        let error = balance_load(destinations, &config).await.expect_err(expected);
        assert_eq!(error.to_string(), expected);
    };
    let ok = LoadBalancingConfig::default();
    check(&[], ok, "the pool has no destinations").await;
    let twice = [Destination::new("x", "10.0.0.1:80"), Destination::new("x", "10.0.0.2:80")];
    check(&twice, ok, "two destinations have the id `x`").await;
    let bad = [Destination::new("x", "nowhere")];
    check(&bad, ok, "destination `x`: expected address IP:PORT or unix:/PATH, found `nowhere`").await;
    let idle = three().map(|one| one.with_weight(0));
    check(&idle, ok, "no destination of the pool may serve").await;
    let mut adjust = ok;
    adjust.dynamic_adjustment = true;
    check(&three(), adjust, "`dynamic_adjustment` is not implemented yet; set it to false").await;
    let mut monitor = ok;
    monitor.performance_monitoring = true;
    check(&three(), monitor, "`performance_monitoring` is not implemented yet; set it to false").await;
}

#[test]
fn actual_shares_are_reported_with_the_intended_ones() {
    let [a, b, c] = three();
    let balancer = balancer(&[a.with_weight(5), b, c.with_priority(1)], Algorithm::WeightedRoundRobin);
    let before = balancer.load_distribution();
    assert_eq!((before.deviation, before.destinations[0].share), (None, None));
    assert_eq!(next(&balancer, 2), "a a");
    let after = balancer.load_distribution();
    let shares: Vec<_> =
        after.destinations.iter().map(|one| (&*one.id, one.intended_share, one.share)).collect();
    let (five, one) = (5.0 / 6.0, 1.0 / 6.0);
    assert_eq!(shares, [("a", five, Some(1.0)), ("b", one, Some(0.0)), ("c", 0.0, Some(0.0))]);
    assert!((after.deviation.expect("two messages") - one).abs() < 1e-9);
    next(&balancer, 4);
    assert_eq!(balancer.load_distribution().deviation, Some(0.0), "a whole cycle is exact");
}

#[test]
fn held_assignment_counts_as_load() {
    let balancer = balancer(&three(), Algorithm::LeastConnections);
    let held = [balancer.pick().expect("a"), balancer.pick().expect("b")];
    assert_eq!(next(&balancer, 3), "c c c");
    let in_flight = |balancer: &LoadBalancer| -> Vec<u32> {
        balancer.load_distribution().destinations.iter().map(|one| one.in_flight).collect()
    };
    assert_eq!(in_flight(&balancer), [1, 1, 0]);
    drop(held);
    assert_eq!(in_flight(&balancer), [0, 0, 0]);
    assert_eq!(balancer.performance().samples, 3, "cancelled messages have no outcome");
}

#[test]
fn health_follows_from_reported_outcomes() {
    let balancer = balancer(&three(), Algorithm::RoundRobin);
    let state = |balancer: &LoadBalancer| {
        let status = balancer.health_status();
        (status.state, status.serving, status.total)
    };
    assert!(balancer.health_status().since > 1_700_000_000_000, "milliseconds since 1970");
    (0..4).for_each(|_| report(&balancer, "a", FAILED));
    assert_eq!(state(&balancer), (HealthState::Healthy, 3, 3), "four consecutive failures are not enough");
    report(&balancer, "a", FAILED);
    assert_eq!(state(&balancer), (HealthState::Degraded, 2, 3));
    (0..5).for_each(|_| ["b", "c"].into_iter().for_each(|id| report(&balancer, id, FAILED)));
    assert_eq!(state(&balancer), (HealthState::Down, 0, 3));
    report(&balancer, "b", Outcome::Answered { status: 404, first_byte: Duration::ZERO });
    assert_eq!(state(&balancer), (HealthState::Degraded, 1, 3), "a response of any status is a success");

    let unchecked = LoadBalancingConfig::default().with_health_checking(false);
    balancer.update(&three(), &unchecked).expect("valid");
    assert_eq!(state(&balancer), (HealthState::Healthy, 3, 3));
}

#[test]
fn recommendations_follow_from_observations() {
    let kinds = |balancer: &LoadBalancer| -> Vec<String> {
        let result = balancer.balance_load().expect("one serves");
        result.recommendations.into_iter().map(|one| one.id).collect()
    };
    assert!(kinds(&balancer(&three(), Algorithm::RoundRobin)).is_empty());
    let [a, b, c] = three();
    let uneven = balancer(&[a.clone().with_weight(2), b.clone(), c.clone()], Algorithm::LeastConnections);
    assert_eq!(kinds(&uneven), ["weights_ignored:algorithm"]);
    let lone = balancer(&[a, b.with_weight(0)], Algorithm::Random);
    assert_eq!(kinds(&lone), ["no_redundancy:a"]);
    (0..5).for_each(|_| report(&lone, "a", FAILED));
    assert_eq!(kinds(&lone), ["failing_destination:a", "no_redundancy:a"]);
}

#[test]
fn failover_tries_each_destination_once_and_the_backup_tier_last() {
    let [a, b, c] = three();
    let destinations = [a.with_priority(1), b, c];
    let balancer = balancer(&destinations, Algorithm::RoundRobin);
    let second = balancer.pick().expect("b").failover(FAILED).expect("c");
    assert_eq!(second.destination().id, "c");
    let backup = second.failover(FAILED).expect("the backup");
    assert_eq!(backup.destination().id, "a");
    assert_eq!(backup.failover(FAILED).expect_err("no more"), LoadBalancingError::AllTried);
    assert_eq!(balancer.performance().samples, 3, "every attempt was recorded");

    let off = LoadBalancingConfig::default().with_failover(false);
    balancer.update(&destinations, &off).expect("valid");
    let refused = balancer.pick().expect("one serves").failover(FAILED);
    assert_eq!(refused.expect_err("off"), LoadBalancingError::FailoverOff);
}

#[test]
fn changed_list_keeps_the_state_of_remaining_destinations() {
    let config = LoadBalancingConfig::default();
    let balancer = balancer(&three(), Algorithm::RoundRobin);
    let [a, b, c] = three();
    let d = Destination::new("d", "10.0.0.4:80");
    assert_eq!(next(&balancer, 2), "a b");
    let held = balancer.pick().expect("c");
    let moved = c.clone().with_address("10.9.9.9:80");
    balancer.update(&[d.clone(), moved, a.clone(), b.clone()], &config).expect("valid");
    assert_eq!(balancer.load_distribution().destinations[2].in_flight, 1, "c by its id");
    assert_eq!(next(&balancer, 5), "d a b c d", "new destinations come last, and the rotation continues");
    balancer.update(&[a.clone(), b], &config).expect("valid");
    held.responded(200);
    assert_eq!(
        balancer.performance().samples,
        4,
        "only of a and b: outcomes of removed destinations are dropped"
    );
    let bad = [a, Destination::new("b", "nowhere")];
    assert!(balancer.update(&bad, &config).is_err());
    assert_eq!(balancer.health_status().total, 2, "a bad list changes nothing");
}

#[test]
fn threads_share_one_exact_rotation() {
    let balancer = balancer(&three(), Algorithm::RoundRobin);
    let work = |balancer: LoadBalancer| {
        let mut seen = HashMap::new();
        for _ in 0..3_000 {
            let assignment = balancer.pick().expect("all serve");
            *seen.entry(assignment.destination().id.clone()).or_insert(0) += 1;
            assignment.responded(200);
        }
        seen
    };
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let balancer = balancer.clone();
            thread::spawn(move || work(balancer))
        })
        .collect();
    let mut sum = HashMap::new();
    for thread in threads {
        for (id, n) in thread.join().expect("no panic") {
            *sum.entry(id).or_insert(0) += n;
        }
    }
    assert_eq!(sum.values().copied().collect::<Vec<i32>>(), [4_000; 3]);
    assert_eq!(balancer.load_distribution().deviation, Some(0.0));
}

#[test]
fn key_keeps_its_destination_and_its_failover_order() {
    let balancer = balancer(&three(), Algorithm::Hash);
    let walk = |key: &str| {
        let first = balancer.pick_with_key(key.as_bytes()).expect("serving");
        let selected = first.destination().id.clone();
        // A lack of local resources is no failure of the destination.
        let second = first.failover(Outcome::Failed(Failure::NoResources)).expect("another");
        (selected, second.destination().id.clone())
    };
    let walks: Vec<_> = (0..30).map(|n| walk(&format!("session-{n}"))).collect();
    for (n, (selected, next)) in walks.iter().enumerate() {
        assert_ne!(selected, next);
        assert_eq!(walk(&format!("session-{n}")), (selected.clone(), next.clone()));
    }
    let all_selected: std::collections::BTreeSet<_> = walks.iter().map(|(selected, _)| selected).collect();
    assert_eq!(all_selected.len(), 3, "keys spread");
}
