//! Eligibility of destinations: tiers, weights, the only destination, and failing health checks.

use plimsoll_core::Weight;
use plimsoll_core::health::ProbeKind;

use super::{checks, http_checks, reset_after_request};
use crate::kit::{Balancer, Destination, Gate, Setup, get, ok, respond_ok, wait_until};

fn tiers(change: impl FnOnce(&mut Setup)) -> ([Destination; 3], Balancer) {
    let destinations = ["first", "also first", "backup"].map(|name| Destination::start(respond_ok(name)));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b, c])
        .with(|s| {
            s.pools[0].destinations[2].priority = 1;
            s.pools[0].health = Some(checks(ProbeKind::Tcp));
        })
        .with(change)
        .start();
    (destinations, balancer)
}

#[test]
fn backup_tier_serves_only_while_the_first_tier_is_down() {
    let ([a, b, backup], balancer) = tiers(|_| {});
    let fetch = || balancer.fetch(get("/")).text();
    for _ in 0..20 {
        assert!(fetch().contains("first"));
    }
    a.kill();
    for _ in 0..20 {
        assert_eq!(fetch(), "also first", "one destination of the first tier is enough");
    }
    assert_eq!(backup.requests().len(), 0);
    b.kill();
    for _ in 0..20 {
        assert_eq!(fetch(), "backup", "no request fails during the failover");
    }
    a.restart();
    wait_until("the first tier is back", || fetch() == "first");
    wait_until("a check has passed", || balancer.destination(0).status.serves());
    let before = backup.requests().len();
    for _ in 0..20 {
        assert_eq!(fetch(), "first");
    }
    assert_eq!(backup.requests().len(), before);
}

#[test]
fn backup_tiers_can_be_disabled() {
    let ([a, b, backup], balancer) = tiers(|s| s.pools[0].tiers.backup_tiers = false);
    a.kill();
    b.kill();
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/")).status, 503);
    }
    assert_eq!(backup.requests().len(), 0);
}

#[test]
fn weight_0_receives_nothing_even_as_the_only_destination() {
    let (running, disabled) =
        (Destination::start(respond_ok("live")), Destination::start(respond_ok("resting")));
    let balancer = Setup::http(&[&running, &disabled])
        .with(|s| s.pools[0].destinations[1].weight = Weight::new(0))
        .start();
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/")).text(), "live");
    }
    running.kill();
    let response = balancer.fetch(get("/"));
    assert_eq!(response.status, 503);
    assert_eq!(disabled.connections(), 0);
    running.restart();
    assert_eq!(balancer.fetch(get("/")).text(), "live");
}

#[test]
fn pool_without_weights_responds_503_with_its_reason() {
    let destination = Destination::start(respond_ok("resting"));
    let balancer =
        Setup::http(&[&destination]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0)).start();
    let response = balancer.fetch(get("/"));
    assert_eq!(response.status, 503);
    assert!(response.text().contains("no_healthy_destination"), "{response:?}");
    assert_eq!(balancer.refusals("no_healthy_destination"), 1);
}

#[test]
fn only_destination_is_never_taken_out() {
    let recovery = Gate::default();
    let recovered = recovery.clone();
    let destination = Destination::start(move |conn| match recovered.is_open() {
        true => respond_ok("well")(conn),
        false => reset_after_request(conn),
    });
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            s.pools[0].health = Some(http_checks());
            s.pools[0].outlier.consecutive_failures = 2;
        })
        .start();
    wait_until("checks have failed", || balancer.destination(0).checks.failed > 2);
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/")).status, 502, "the only destination is tried nevertheless");
    }
    assert!(balancer.destination(0).status.serves());
    recovery.open();
    assert_eq!(balancer.fetch(get("/")).text(), "well", "it serves as soon as it has recovered");
}

#[test]
fn failing_check_takes_a_destination_out_before_clients_reach_it() {
    let failure = Gate::default();
    let failed = failure.clone();
    let failing = Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            let bad = failed.is_open() && request.target == "/health";
            conn.send(if bad { ok("x").replace("200", "503") } else { ok("sick") });
        }
    });
    let healthy = Destination::start(respond_ok("well"));
    let balancer =
        Setup::http(&[&failing, &healthy]).with(|s| s.pools[0].health = Some(http_checks())).start();
    wait_until("the first check passes", || balancer.destination(0).checks.passed > 0);
    failure.open();
    wait_until("it is down", || balancer.destination(0).status.as_str() == "down");
    for _ in 0..20 {
        assert_eq!(balancer.fetch(get("/")).text(), "well");
    }
    let report = balancer.destination(0).report.expect("a report");
    assert!(report.last_check.is_some_and(|check| !check.ok && check.detail().contains("503")));
}
