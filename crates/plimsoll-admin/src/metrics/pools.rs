//! Metrics of pools and their destinations.

use plimsoll_core::alert;
use plimsoll_core::event::Reason;
use plimsoll_core::measure::LoadMetric;
use plimsoll_core::stats::BUCKETS_US;
use plimsoll_core::{Failure, Status};
use plimsoll_proxy::{
    CLASSES, DECISION_BUCKETS_NS, DECISIONS, DestinationView, HEDGES, ORCA_RESULTS, OUTAGES_MS, PoolView,
    RETRY_REASONS,
};

use super::limits;
use super::text::{Family, Kind, Text};

pub(crate) fn write(text: &mut Text<'_>, pools: &[PoolView]) {
    responses(text, pools);
    statuses(text, pools);
    load_reports(text, pools);
    decisions(text, pools);
    lookups(text, pools);
    limits::write(text, pools);
    health_checks(text, pools);
    recoveries(text, pools);
    alerts(text, pools);
}

/// Calls `write` for every destination with its two labels.
fn for_each_destination<'p>(
    pools: &'p [PoolView],
    mut write: impl FnMut([(&'static str, &'p str); 2], &'p PoolView, &'p DestinationView),
) {
    for pool in pools {
        for d in &pool.destinations {
            write([("pool", &pool.name), ("destination", &d.name)], pool, d);
        }
    }
}

fn lookups(text: &mut Text<'_>, pools: &[PoolView]) {
    if pools.iter().all(|pool| pool.lookups.is_none()) {
        return;
    }
    let mut family = text.counter(
        "plimsoll_resolve_lookups_total",
        "Background lookups of the host names of destinations, by result.",
    );
    for (pool, counts) in pools.iter().filter_map(|pool| Some((pool, pool.lookups?))) {
        family.sample(&[("pool", &pool.name), ("result", "succeeded")], counts.succeeded);
        family.sample(&[("pool", &pool.name), ("result", "failed")], counts.failed);
    }
}

fn responses(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family =
        text.counter("plimsoll_destination_requests_total", "Responses from destinations, by status class.");
    for_each_destination(pools, |[pool, destination], _, d| {
        // Index 0 is no status class.
        for (class, &count) in CLASSES.iter().zip(&d.counts.classes).skip(1) {
            family.sample(&[pool, destination, ("code", class)], count);
        }
    });
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_destination_response_seconds",
        "Time from the selection of a destination to the first byte of its response, in seconds.",
    );
    for_each_destination(pools, |labels, _, d| {
        debug_assert_eq!(d.counts.buckets.len(), BUCKETS_US.len() + 1);
        family.histogram(&labels, &d.counts.buckets, d.counts.first_byte_nanos as f64 / 1e9);
    });
    let mut family =
        text.counter("plimsoll_destination_errors_total", "Failed attempts at a destination, by reason.");
    for_each_destination(pools, |[pool, destination], _, d| {
        for (failure, &count) in Failure::ALL.iter().zip(&d.counts.failures) {
            family.sample(&[pool, destination, ("reason", failure.as_str())], count);
        }
    });
    let mut family = text.counter(
        "plimsoll_destination_score_errors_total",
        "Times the formula of a custom algorithm gave no number for a destination, which then ranks last.",
    );
    for_each_destination(pools, |labels, _, d| family.sample(&labels, d.score_errors));
    let mut family = text.gauge("plimsoll_destination_in_flight", "Messages in flight at a destination.");
    for_each_destination(pools, |labels, _, d| family.sample(&labels, d.in_flight));
}

/// Load reports of destinations; no series while no report counts.
fn load_reports(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.gauge(
        "plimsoll_destination_load_score",
        "Load score reported by a destination, from 0 (idle) to 1 (fully loaded).",
    );
    for_each_destination(pools, |labels, _, d| {
        if let Some(score) = d.load.score() {
            family.sample(&labels, score);
        }
    });
    let mut family = text.gauge(
        "plimsoll_destination_resource_usage_ratio",
        "Share of a resource in use as reported by a destination, where 1 is all of it.",
    );
    for_each_destination(pools, |[pool, destination], _, d| {
        for (resource, metric) in
            [("cpu", LoadMetric::Cpu), ("memory", LoadMetric::Memory), ("network", LoadMetric::Network)]
        {
            if let Some(share) = d.load.of(metric) {
                family.sample(&[pool, destination, ("resource", resource)], share);
            }
        }
    });
    let mut family =
        text.counter("plimsoll_orca_reports_total", "ORCA load reports in responses, by result.");
    for pool in pools.iter().filter(|pool| pool.orca) {
        for (result, &count) in ORCA_RESULTS.iter().zip(&pool.counts.orca) {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
}

fn statuses(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text
        .gauge("plimsoll_destination_status", "1 for the status of a destination, 0 for the other statuses.");
    for_each_destination(pools, |[pool, destination], _, d| {
        for name in Status::NAMES {
            family.sample(&[pool, destination, ("status", name)], u8::from(d.status.as_str() == name));
        }
    });
    let mut family = text.gauge("plimsoll_destination_weight", "Effective weight of a destination.");
    for_each_destination(pools, |labels, _, d| family.sample(&labels, f64::from(d.effective_weight) / 256.0));
    let mut family = text.gauge("plimsoll_pool_destinations", "Destinations of a pool, by status.");
    for pool in pools {
        for name in Status::NAMES {
            let count = pool.destinations.iter().filter(|d| d.status.as_str() == name).count();
            family.sample(&[("pool", &pool.name), ("status", name)], count);
        }
    }
}

/// Writes counts by the failure of the attempt before.
fn write_by_failure(family: &mut Family<'_>, pool: &PoolView, counts: &[u64; RETRY_REASONS.len()]) {
    for (reason, &count) in RETRY_REASONS.iter().zip(counts) {
        family.sample(&[("pool", &pool.name), ("reason", reason)], count);
    }
}

fn decisions(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.counter("plimsoll_decisions_total", "Balancing decisions, by result.");
    for pool in pools {
        for (result, &count) in DECISIONS.iter().zip(&pool.counts.decisions) {
            let labels = [("pool", &*pool.name), ("algorithm", pool.algorithm), ("result", result)];
            family.sample(&labels, count);
        }
    }
    let mut family =
        text.counter("plimsoll_decision_cache_total", "Lookups in the decision cache, by result.");
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
        "Duration of balancing decisions in seconds: one in 1024, and all that the decision log records.",
    );
    for pool in pools {
        let labels = [("pool", &*pool.name), ("algorithm", pool.algorithm)];
        let sum = pool.counts.timed_nanos as f64 / 1e9;
        family.histogram_of(DECISION_BUCKETS_NS.map(|ns| ns as f64 / 1e9), &labels, &pool.counts.timed, sum);
    }
    let mut family = text.gauge(
        "plimsoll_distribution_deviation_ratio",
        "Total variation distance between the intended and the actual traffic shares since start (0 = exact).",
    );
    for pool in pools {
        if let Some(deviation) = pool.deviation() {
            family.sample(&[("pool", &pool.name)], deviation);
        }
    }
    let mut family = text.counter("plimsoll_retries_total", "Retries, by the failure that caused them.");
    pools.iter().for_each(|pool| write_by_failure(&mut family, pool, &pool.counts.retries));
    let mut family = text.counter(
        "plimsoll_failovers_total",
        "Retries that were sent to a different destination, by the failure before.",
    );
    pools.iter().for_each(|pool| write_by_failure(&mut family, pool, &pool.counts.failovers));
    let mut family = text.counter("plimsoll_hedges_total", "Hedged requests, by outcome.");
    for pool in pools.iter().filter(|pool| pool.hedges) {
        for (result, &count) in HEDGES.iter().zip(&pool.counts.hedges) {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
    let mut family =
        text.counter("plimsoll_outlier_ejections_total", "Ejections by outlier detection, by reason.");
    for pool in pools {
        let others = pool.ejections.keys().filter(|reason| !Reason::EJECTIONS.contains(reason));
        for reason in Reason::EJECTIONS.iter().chain(others) {
            let count = pool.ejections.get(reason).copied().unwrap_or(0);
            family.sample(&[("pool", &pool.name), ("reason", reason)], count);
        }
    }
}

/// Alerts, panic mode and balancing accuracy.
fn alerts(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.gauge(
        "plimsoll_pool_panic",
        "1 while the pool is in panic mode: ejections are suspended because too few destinations are left.",
    );
    for pool in pools {
        family.sample(&[("pool", &pool.name)], u8::from(pool.observed.panics));
    }
    let mut family = text.gauge(
        "plimsoll_pool_backup_in_use",
        "1 while a backup tier of the pool gets messages, because the tiers before do not suffice.",
    );
    for pool in pools {
        family.sample(&[("pool", &pool.name)], u8::from(pool.health.backup_in_use));
    }
    let mut family = text.counter(
        "plimsoll_pool_backup_activations_total",
        "Times that a backup tier of the pool began to get messages.",
    );
    for pool in pools {
        family.sample(&[("pool", &pool.name)], pool.backup_activations);
    }
    for (name, help, raised) in [
        ("plimsoll_alerts_total", "Alerts raised, by kind and severity.", true),
        ("plimsoll_alerts_active", "Active alerts, by kind and severity.", false),
    ] {
        let kind = if raised { Kind::Counter } else { Kind::Gauge };
        let mut family = text.family(kind, name, help);
        for pool in pools {
            let counts = if raised { &pool.observed.alerts_raised } else { &pool.observed.alerts_active };
            for (kind, &count) in alert::AlertKind::ALL.iter().zip(counts) {
                let severity = ("severity", kind.severity().as_str());
                family.sample(&[("pool", &pool.name), ("kind", kind.as_str()), severity], count);
            }
        }
    }
    let mut family =
        text.counter("plimsoll_alerts_lost_total", "Alerts not raised because too many were active.");
    for pool in pools {
        family.sample(&[("pool", &pool.name)], pool.observed.alerts_lost);
    }
    accuracy(text, pools);
}

fn accuracy(text: &mut Text<'_>, pools: &[PoolView]) {
    let measured = || pools.iter().filter_map(|pool| Some((&*pool.name, pool.observed.accuracy?)));
    let mut family = text.gauge(
        "plimsoll_balance_deviation_ratio",
        "Total variation distance between the intended and the actual traffic shares of the last full ten seconds (0 = exact).",
    );
    for (pool, accuracy) in measured() {
        family.sample(&[("pool", pool)], accuracy.deviation);
    }
    let mut family = text.gauge(
        "plimsoll_balance_regret_seconds",
        "Mean response time of the last full ten seconds minus that of the fastest destination, in seconds.",
    );
    for (pool, accuracy) in measured() {
        if let Some(regret) = accuracy.regret {
            family.sample(&[("pool", pool)], regret.as_secs_f64());
        }
    }
}

fn health_checks(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family =
        text.counter("plimsoll_health_checks_total", "Active health checks, by type and result.");
    for_each_destination(pools, |[pool, destination], view, d| {
        let Some(kind) = view.check_type else { return };
        for (result, count) in
            [("passed", d.checks.passed), ("failed", d.checks.failed), ("not_made", d.checks.not_made)]
        {
            family.sample(&[pool, destination, ("type", kind), ("result", result)], count);
        }
    });
    let mut family = text.counter(
        "plimsoll_health_check_failures_total",
        "Failed health checks, by type, layer (4 = connect, 6 = TLS, 7 = response) and kind.",
    );
    for_each_destination(pools, |[pool, destination], view, d| {
        let Some(check) = view.check_type else { return };
        for (&(layer, kind), &count) in &d.checks.failures {
            let labels = [("type", check), ("layer", layer.as_str()), ("kind", kind.as_str())];
            family.sample(&[pool, destination, labels[0], labels[1], labels[2]], count);
        }
    });
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_health_check_duration_seconds",
        "Duration of active health checks in seconds, by type and result.",
    );
    for pool in pools {
        let Some(kind) = pool.check_type else { continue };
        for (result, spans) in [("passed", &pool.check_stats.passed), ("failed", &pool.check_stats.failed)] {
            let labels = [("pool", &*pool.name), ("type", kind), ("result", result)];
            family.histogram(&labels, &spans.buckets, spans.sum.as_secs_f64());
        }
    }
    let mut family = text.counter(
        "plimsoll_health_check_contradictions_total",
        "Health check results contradicted by traffic, by result.",
    );
    for_each_destination(pools, |[pool, destination], view, d| {
        let (Some(_), Some(report)) = (view.check_type, &d.report) else { return };
        for (verdict, count) in
            [("passed", report.contradictions.passed), ("failed", report.contradictions.failed)]
        {
            family.sample(&[pool, destination, ("verdict", verdict)], count);
        }
    });
    let mut family = text.counter(
        "plimsoll_health_transitions_total",
        "Status changes of a destination, by the status before and after.",
    );
    for_each_destination(pools, |[pool, destination], _, d| {
        for (&(from, to), &count) in &d.transitions {
            family.sample(&[pool, destination, ("from", from), ("to", to)], count);
        }
    });
}

fn recoveries(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family =
        text.counter("plimsoll_recoveries_total", "Recovery attempts of failed destinations, by result.");
    for pool in pools {
        for (result, count) in
            [("succeeded", pool.check_stats.recovered), ("failed", pool.check_stats.relapsed)]
        {
            family.sample(&[("pool", &pool.name), ("result", result)], count);
        }
    }
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_recovery_duration_seconds",
        "Time a failed destination was out of service until it served again, in seconds.",
    );
    for pool in pools {
        let outages = &pool.check_stats.outages;
        let sum = outages.sum.as_secs_f64();
        family.histogram_of(
            OUTAGES_MS.map(|ms| ms as f64 / 1e3),
            &[("pool", &pool.name)],
            &outages.buckets,
            sum,
        );
    }
}
