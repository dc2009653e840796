//! What metrics tell of pools and their destinations.

use plimsoll_core::alert;
use plimsoll_core::measure::LoadMetric;
use plimsoll_core::stats::BUCKETS_MS;
use plimsoll_core::{Failure, Status};
use plimsoll_proxy::{
    CLASSES, DECISION_BUCKETS_NS, DECISIONS, DestinationView, HEDGES, ORCA_RESULTS, OUTAGES_MS, PoolView,
    RETRY_REASONS,
};

use super::limits;
use super::text::{Family, Kind, Text};

pub(crate) fn write(text: &mut Text<'_>, pools: &[PoolView]) {
    answers(text, pools);
    statuses(text, pools);
    loads(text, pools);
    decisions(text, pools);
    limits::write(text, pools);
    checks(text, pools);
    recoveries(text, pools);
    watched(text, pools);
}

/// Calls `tell` for every destination with its two labels.
fn each<'p>(
    pools: &'p [PoolView],
    mut tell: impl FnMut([(&'static str, &'p str); 2], &'p PoolView, &'p DestinationView),
) {
    for pool in pools {
        for d in &pool.destinations {
            tell([("pool", &pool.name), ("destination", &d.name)], pool, d);
        }
    }
}

fn answers(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family =
        text.counter("plimsoll_destination_requests_total", "Answers of destinations by class of status.");
    each(pools, |[pool, destination], _, d| {
        for (class, &count) in CLASSES.iter().zip(&d.counts.classes) {
            if count > 0 || *class == "2xx" {
                family.sample(&[pool, destination, ("code", class)], count);
            }
        }
    });
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_destination_response_seconds",
        "From the choice of a destination to the first byte of its answer.",
    );
    each(pools, |labels, _, d| {
        debug_assert_eq!(d.counts.buckets.len(), BUCKETS_MS.len() + 1);
        family.histogram(&labels, &d.counts.buckets, d.counts.first_byte_nanos as f64 / 1e9);
    });
    let mut family =
        text.counter("plimsoll_destination_errors_total", "Tries at destinations that failed, by reason.");
    each(pools, |[pool, destination], _, d| {
        for (failure, &count) in Failure::ALL.iter().zip(&d.counts.failures) {
            family.unless_zero(&[pool, destination, ("reason", failure.as_str())], count);
        }
    });
    let mut family = text.counter(
        "plimsoll_destination_score_errors_total",
        "Times a formula had no number for a destination, which then counts as the worst.",
    );
    let mut shown = false;
    each(pools, |labels, _, d| {
        if d.score_errors > 0 || !std::mem::replace(&mut shown, true) {
            family.sample(&labels, d.score_errors);
        }
    });
    let mut family = text.gauge("plimsoll_destination_in_flight", "Messages a destination holds now.");
    each(pools, |labels, _, d| family.sample(&labels, d.in_flight));
}

/// What destinations say of themselves; nothing of those that say nothing.
fn loads(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family =
        text.gauge("plimsoll_destination_load_score", "How loaded a destination says it is: 0 idle, 1 full.");
    each(pools, |labels, _, d| {
        if let Some(score) = d.load.score() {
            family.sample(&labels, score);
        }
    });
    let mut family = text.gauge(
        "plimsoll_destination_resource_usage_ratio",
        "The share of a resource that a destination says it uses.",
    );
    each(pools, |[pool, destination], _, d| {
        for (resource, metric) in
            [("cpu", LoadMetric::Cpu), ("memory", LoadMetric::Memory), ("network", LoadMetric::Network)]
        {
            if let Some(share) = d.load.of(metric) {
                family.sample(&[pool, destination, ("resource", resource)], share);
            }
        }
    });
    let mut family =
        text.counter("plimsoll_orca_reports_total", "Reports of load in answers, by what they were worth.");
    for pool in pools.iter().filter(|pool| pool.orca) {
        for (result, &count) in ORCA_RESULTS.iter().zip(&pool.counts.orca) {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
}

fn statuses(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text
        .gauge("plimsoll_destination_status", "1 for the current status of a destination, 0 for the others.");
    each(pools, |[pool, destination], _, d| {
        for name in Status::NAMES {
            family.sample(&[pool, destination, ("status", name)], u8::from(d.status.as_str() == name));
        }
    });
    let mut family = text.gauge("plimsoll_destination_weight", "The weight in force now.");
    each(pools, |labels, _, d| family.sample(&labels, f64::from(d.effective_weight) / 256.0));
    let mut family = text.gauge("plimsoll_pool_destinations", "Destinations of a pool by status.");
    for pool in pools {
        for name in Status::NAMES {
            let count = pool.destinations.iter().filter(|d| d.status.as_str() == name).count();
            family.sample(&[("pool", &pool.name), ("status", name)], count);
        }
    }
}

/// Counts of a pool by how a message's try before had ended; the commonest is always there.
fn by_reason(family: &mut Family<'_>, pool: &PoolView, counts: &[u64; RETRY_REASONS.len()]) {
    for (reason, &count) in RETRY_REASONS.iter().zip(counts) {
        if count > 0 || *reason == Failure::Connect.as_str() {
            family.sample(&[("pool", &pool.name), ("reason", reason)], count);
        }
    }
}

fn decisions(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.counter("plimsoll_decisions_total", "Choices of a destination, by how they ended.");
    for pool in pools {
        for (result, &count) in DECISIONS.iter().zip(&pool.counts.decisions) {
            if count > 0 || *result == DECISIONS[0] {
                family.sample(
                    &[("pool", &pool.name), ("algorithm", pool.algorithm), ("result", result)],
                    count,
                );
            }
        }
    }
    let mut family = text.counter(
        "plimsoll_decision_cache_total",
        "Messages whose destination was remembered by their key, and those that had it decided.",
    );
    for pool in pools {
        for (result, count) in pool
            .decision_cache
            .map_or([None; 2], |(hit, miss)| [Some(("hit", hit)), Some(("miss", miss))])
            .into_iter()
            .flatten()
        {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_decision_duration_seconds",
        "How long choices of a destination took: one in 1,024, and all that the decision log tells.",
    );
    for pool in pools {
        let labels = [("pool", &*pool.name), ("algorithm", pool.algorithm)];
        let sum = pool.counts.timed_nanos as f64 / 1e9;
        family.histogram_of(DECISION_BUCKETS_NS.map(|ns| ns as f64 / 1e9), &labels, &pool.counts.timed, sum);
    }
    let mut family = text.gauge(
        "plimsoll_distribution_deviation_ratio",
        "Half the sum of the differences between intended shares and those since the start: 0 is exact.",
    );
    for pool in pools {
        if let Some(deviation) = pool.deviation() {
            family.sample(&[("pool", &pool.name)], deviation);
        }
    }
    let mut family =
        text.counter("plimsoll_retries_total", "Tries after a message's first, by how the one before ended.");
    pools.iter().for_each(|pool| by_reason(&mut family, pool, &pool.counts.retries));
    let mut family = text.counter("plimsoll_failovers_total", "Of these the tries at another destination.");
    pools.iter().for_each(|pool| by_reason(&mut family, pool, &pool.counts.failovers));
    let mut family =
        text.counter("plimsoll_hedges_total", "Copies of messages that waited long, by how they ended.");
    for pool in pools.iter().filter(|pool| pool.hedges) {
        for (result, &count) in HEDGES.iter().zip(&pool.counts.hedges) {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
    let mut family =
        text.counter("plimsoll_outlier_ejections_total", "Destinations set aside for what traffic showed.");
    for pool in pools {
        let usual = "traffic_failed";
        let none = (!pool.ejections.contains_key(usual)).then_some((usual, 0));
        for (reason, count) in pool.ejections.iter().map(|(r, n)| (*r, *n)).chain(none) {
            family.sample(&[("pool", &pool.name), ("reason", reason)], count);
        }
    }
}

/// What people are told of: alerts, panic, and how well messages are spread.
fn watched(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family =
        text.gauge("plimsoll_pool_panic", "1 while destinations that fail are kept for want of others.");
    for pool in pools {
        family.sample(&[("pool", &pool.name)], u8::from(pool.watch.panics));
    }
    for (name, help, raised) in [
        ("plimsoll_alerts_total", "Alerts raised.", true),
        ("plimsoll_alerts_active", "Alerts that stand now.", false),
    ] {
        let kind = if raised { Kind::Counter } else { Kind::Gauge };
        let mut family = text.family(kind, name, help);
        for pool in pools {
            let counts = if raised { &pool.watch.alerts_raised } else { &pool.watch.alerts_active };
            for (kind, &count) in alert::Kind::ALL.iter().zip(counts) {
                if count > 0 || *kind == alert::Kind::DestinationDown {
                    let severity = ("severity", kind.severity().as_str());
                    family.sample(&[("pool", &pool.name), ("kind", kind.as_str()), severity], count);
                }
            }
        }
    }
    let mut family = text.counter("plimsoll_alerts_lost_total", "Alerts not raised, because too many stood.");
    for pool in pools {
        family.sample(&[("pool", &pool.name)], pool.watch.alerts_lost);
    }
    accuracy(text, pools);
}

fn accuracy(text: &mut Text<'_>, pools: &[PoolView]) {
    let measured = || pools.iter().filter_map(|pool| Some((&*pool.name, pool.watch.accuracy?)));
    let mut family = text.gauge(
        "plimsoll_balance_deviation_ratio",
        "As plimsoll_distribution_deviation_ratio, of the last whole ten seconds.",
    );
    for (pool, accuracy) in measured() {
        family.sample(&[("pool", pool)], accuracy.deviation);
    }
    let mut family = text.gauge(
        "plimsoll_balance_regret_seconds",
        "How much longer the average answer of the last whole ten seconds took than that of the fastest destination.",
    );
    for (pool, accuracy) in measured() {
        if let Some(regret) = accuracy.regret {
            family.sample(&[("pool", pool)], regret.as_secs_f64());
        }
    }
}

fn checks(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.counter("plimsoll_health_checks_total", "Active checks by result.");
    each(pools, |[pool, destination], view, d| {
        let Some(kind) = view.check_type else { return };
        for (result, count) in
            [("passed", d.checks.passed), ("failed", d.checks.failed), ("not_made", d.checks.not_made)]
        {
            family.sample(&[pool, destination, ("type", kind), ("result", result)], count);
        }
    });
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_health_check_duration_seconds",
        "How long the active checks of a pool took, by result.",
    );
    for pool in pools {
        let Some(kind) = pool.check_type else { continue };
        for (result, spans) in [("passed", &pool.watched.passed), ("failed", &pool.watched.failed)] {
            let labels = [("pool", &*pool.name), ("type", kind), ("result", result)];
            family.histogram(&labels, &spans.buckets, spans.sum.as_secs_f64());
        }
    }
    let mut family = text.counter(
        "plimsoll_health_check_contradictions_total",
        "Verdicts of checks that traffic contradicted.",
    );
    each(pools, |[pool, destination], view, d| {
        let (Some(_), Some(report)) = (view.check_type, &d.report) else { return };
        for (verdict, count) in
            [("passed", report.contradicted.passed), ("failed", report.contradicted.failed)]
        {
            family.sample(&[pool, destination, ("verdict", verdict)], count);
        }
    });
    let mut family = text
        .counter("plimsoll_health_transitions_total", "Changes of status, by the status before and after.");
    each(pools, |[pool, destination], _, d| {
        for (&(from, to), &count) in &d.transitions {
            family.sample(&[pool, destination, ("from", from), ("to", to)], count);
        }
    });
}

fn recoveries(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.counter(
        "plimsoll_recoveries_total",
        "Attempts of destinations that had failed to come back, by result.",
    );
    for pool in pools {
        for (result, count) in [("succeeded", pool.watched.recovered), ("failed", pool.watched.relapsed)] {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_recovery_duration_seconds",
        "From the moment a destination was taken out for failing until it served again.",
    );
    for pool in pools {
        let outages = &pool.watched.outages;
        let sum = outages.sum.as_secs_f64();
        family.histogram_of(
            OUTAGES_MS.map(|ms| ms as f64 / 1e3),
            &[("pool", &pool.name)],
            &outages.buckets,
            sum,
        );
    }
}
