//! Metrics of limits, queues and overflows.

use plimsoll_proxy::{LimitView, OVERFLOWS, PoolView};

use super::text::{Kind, Text};

/// Returns the limits of a pool by name.
fn kinds(pool: &PoolView) -> [(&'static str, LimitView); 4] {
    let c = &pool.limits;
    [("requests", c.requests), ("connections", c.connections), ("pending", c.pending), ("retries", c.retries)]
}

pub(crate) fn write(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.gauge("plimsoll_limit_reached", "1 if the pool is at this limit, 0 otherwise.");
    for pool in pools {
        for (reason, used) in kinds(pool) {
            if used.max.is_some() {
                family.sample(&[("pool", &pool.name), ("reason", reason)], u8::from(used.is_full()));
            }
        }
        // With all serving destinations at their limits the pool accepts no more requests either.
        if pool.destinations.iter().any(|d| d.requests.max.is_some()) {
            let mut serving = pool.destinations.iter().filter(|d| d.status.serves()).peekable();
            let full = serving.peek().is_some() && serving.all(|d| d.requests.is_full());
            family.sample(&[("pool", &pool.name), ("reason", "destinations")], u8::from(full));
        }
    }
    let mut family = text.gauge("plimsoll_limit_max", "Limit of a pool, by what is limited.");
    for pool in pools {
        for (reason, used) in kinds(pool) {
            used.max.into_iter().for_each(|max| {
                family.sample(&[("pool", &pool.name), ("reason", reason)], max);
            });
        }
    }
    let mut family = text.gauge("plimsoll_destination_limit", "Limit of a destination, by what is limited.");
    for pool in pools {
        for d in &pool.destinations {
            for (reason, used) in [("requests", d.requests), ("connections", d.connections)] {
                used.max.into_iter().for_each(|max| {
                    let labels = [("pool", &*pool.name), ("destination", &*d.name), ("reason", reason)];
                    family.sample(&labels, max);
                });
            }
        }
    }
    queues(text, pools);
}

fn queues(text: &mut Text<'_>, pools: &[PoolView]) {
    let mut family = text.gauge("plimsoll_queue_length", "Requests queued for a destination.");
    for pool in pools {
        family.sample(&[("pool", &pool.name)], pool.limits.pending.current);
    }
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_queue_wait_seconds",
        "Time requests spent in the queue, in seconds, including those that left it without a destination.",
    );
    for pool in pools.iter().filter(|pool| pool.limits.is_limited()) {
        family.histogram(&[("pool", &pool.name)], &pool.counts.waits.buckets, pool.counts.waits.sum);
    }
    let mut family = text.counter(
        "plimsoll_overflows_total",
        "Requests rejected or delayed because a limit was reached, by limit.",
    );
    for pool in pools {
        for (reason, &count) in OVERFLOWS.iter().zip(&pool.counts.overflows) {
            if count > 0 || *reason == OVERFLOWS[0] {
                family.sample(&[("pool", &pool.name), ("reason", reason)], count);
            }
        }
    }
}
