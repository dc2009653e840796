//! Which destinations take messages at all: tiers, weights, the last one, and what checks say of them.

use plimsoll_core::Weight;
use plimsoll_core::health::ProbeKind;

use super::{checks, http_checks, resets};
use crate::kit::{Balancer, Destination, Gate, Setup, get, hello, ok, until};

fn tiers(change: impl FnOnce(&mut Setup)) -> ([Destination; 3], Balancer) {
    let destinations = ["first", "also first", "backup"].map(|name| Destination::start(hello(name)));
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
fn the_backup_tier_takes_over_when_the_first_is_gone_and_gives_back() {
    let ([a, b, backup], balancer) = tiers(|_| {});
    let ask = || balancer.ask(get("/")).text();
    for _ in 0..20 {
        assert!(ask().contains("first"));
    }
    a.kill();
    for _ in 0..20 {
        assert_eq!(ask(), "also first", "one of the first tier is enough");
    }
    assert_eq!(backup.requests().len(), 0);
    b.kill();
    for _ in 0..20 {
        assert_eq!(ask(), "backup", "not one request is lost on the way over");
    }
    a.restart();
    until("the first tier is back", || ask() == "first");
    until("checks have seen it", || balancer.destination(0).status.serves());
    let before = backup.requests().len();
    for _ in 0..20 {
        assert_eq!(ask(), "first");
    }
    assert_eq!(backup.requests().len(), before);
}

#[test]
fn backup_tiers_may_be_switched_off() {
    let ([a, b, backup], balancer) = tiers(|s| s.pools[0].tiers.backup_tiers = false);
    a.kill();
    b.kill();
    for _ in 0..20 {
        assert_eq!(balancer.ask(get("/")).status, 503);
    }
    assert_eq!(backup.requests().len(), 0);
}

#[test]
fn weight_0_takes_nothing_even_when_nobody_else_is_left() {
    let (live, resting) = (Destination::start(hello("live")), Destination::start(hello("resting")));
    let balancer =
        Setup::http(&[&live, &resting]).with(|s| s.pools[0].destinations[1].weight = Weight::new(0)).start();
    for _ in 0..20 {
        assert_eq!(balancer.ask(get("/")).text(), "live");
    }
    live.kill();
    let answer = balancer.ask(get("/"));
    assert_eq!(answer.status, 503);
    assert_eq!(resting.connections(), 0);
    live.restart();
    assert_eq!(balancer.ask(get("/")).text(), "live");
}

#[test]
fn nobody_of_any_weight_is_a_503_that_says_so() {
    let destination = Destination::start(hello("resting"));
    let balancer =
        Setup::http(&[&destination]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0)).start();
    let answer = balancer.ask(get("/"));
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("no_healthy_destination"), "{answer:?}");
    assert_eq!(balancer.refused("no_healthy_destination"), 1);
}

#[test]
fn a_lone_destination_is_never_taken_out() {
    let well = Gate::default();
    let now = well.clone();
    let destination = Destination::start(move |visit| match now.is_open() {
        true => hello("well")(visit),
        false => resets(visit),
    });
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            s.pools[0].health = Some(http_checks());
            s.pools[0].outlier.consecutive_failures = 2;
        })
        .start();
    until("checks have failed", || balancer.destination(0).checks.failed > 2);
    for _ in 0..20 {
        assert_eq!(balancer.ask(get("/")).status, 502, "it is asked all the same");
    }
    assert!(balancer.destination(0).status.serves());
    well.open();
    assert_eq!(balancer.ask(get("/")).text(), "well", "and serves the moment it is well");
}

#[test]
fn failing_checks_take_a_destination_out_before_a_client_meets_it() {
    let ill = Gate::default();
    let now = ill.clone();
    let sick = Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            let bad = now.is_open() && request.target == "/health";
            visit.send(if bad { ok("x").replace("200", "503") } else { ok("sick") });
        }
    });
    let well = Destination::start(hello("well"));
    let balancer = Setup::http(&[&sick, &well]).with(|s| s.pools[0].health = Some(http_checks())).start();
    until("the first check passes", || balancer.destination(0).checks.passed > 0);
    ill.open();
    until("it is down", || balancer.destination(0).status.as_str() == "down");
    for _ in 0..20 {
        assert_eq!(balancer.ask(get("/")).text(), "well");
    }
    let report = balancer.destination(0).report.expect("a report");
    assert!(report.last_check.is_some_and(|check| !check.ok && check.detail().contains("503")));
}
