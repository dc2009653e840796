//! Metrics of listeners and routes.

use std::collections::HashSet;

use plimsoll_proxy::{
    CLASSES, DIRECTIONS, HANDSHAKES, ListenerView, METHODS, RouteView, TLS_VERSIONS, TrafficView, reasons,
};

use super::text::{Kind, Text};

/// Reason of connections lost because `accept` failed.
const ACCEPT_ERROR: &str = "accept_error";
/// Reason of connections rejected because of the connection limit.
const CONNECTION_LIMIT: &str = "connection_limit";

pub(crate) fn write(text: &mut Text<'_>, view: &TrafficView) {
    // Routes of one listener and pool with the same name share their counts.
    let mut seen = HashSet::new();
    let rules: Vec<&RouteView> =
        view.routes.iter().filter(|r| seen.insert((&r.listener, &r.route, &r.pool))).collect();
    requests(text, &rules);
    bytes(text, &rules);
    connections(text, &view.listeners);
    refused(text, &view.listeners);
    tls(text, &view.listeners);
    datagrams(text, &view.listeners);
}

/// Returns the labels of all series of a rule.
fn rule_labels(rule: &RouteView) -> [(&'static str, &str); 3] {
    [("listener", &rule.listener), ("route", &rule.route), ("pool", &rule.pool)]
}

fn requests(text: &mut Text<'_>, rules: &[&RouteView]) {
    let mut family = text.counter(
        "plimsoll_requests_total",
        "Requests, by status class and method; for TCP connections and UDP flows, 2xx if a destination was reached.",
    );
    for rule in rules {
        let [listener, route, pool] = rule_labels(rule);
        // Method times code is a large set: those of the most common method start at zero, the others with a request.
        let usual = if rule.protocol.starts_with("http") { "GET" } else { "other" };
        for (method, classes) in METHODS.iter().zip(&rule.counts.requests) {
            for (class, &count) in CLASSES.iter().zip(classes) {
                if count > 0 || (*method == usual && *class != "1xx") {
                    let own = [("code", *class), ("method", *method), ("protocol", rule.protocol)];
                    family.sample(&[listener, route, pool, own[0], own[1], own[2]], count);
                }
            }
        }
    }
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_request_duration_seconds",
        "Time from the end of the request head to the end of the response, in seconds.",
    );
    for rule in rules {
        let [listener, route, pool] = rule_labels(rule);
        for (class, histogram) in CLASSES.iter().zip(&rule.counts.durations) {
            if *class == "2xx" || histogram.buckets.iter().any(|&count| count > 0) {
                family.histogram(
                    &[listener, route, pool, ("code", class)],
                    &histogram.buckets,
                    histogram.sum,
                );
            }
        }
    }
    let mut family = text.gauge("plimsoll_requests_in_flight", "Requests in flight.");
    for rule in rules {
        family.sample(&rule_labels(rule), rule.counts.in_flight);
    }
}

fn bytes(text: &mut Text<'_>, rules: &[&RouteView]) {
    let mut family =
        text.counter("plimsoll_request_bytes_total", "Bytes received from clients, heads included.");
    for rule in rules {
        family.sample(&rule_labels(rule), rule.counts.request_bytes);
    }
    let mut family = text.counter("plimsoll_response_bytes_total", "Bytes sent to clients, heads included.");
    for rule in rules {
        family.sample(&rule_labels(rule), rule.counts.response_bytes);
    }
}

/// Returns the labels of all series of a listener.
fn listener_labels(l: &ListenerView) -> [(&'static str, &str); 2] {
    [("listener", &l.name), ("protocol", l.protocol)]
}

fn connections(text: &mut Text<'_>, listeners: &[ListenerView]) {
    let mut family = text.gauge("plimsoll_connections_active", "Open client connections.");
    for l in listeners {
        family.sample(&listener_labels(l), l.counts.active);
    }
    let mut family = text.counter("plimsoll_connections_total", "Accepted client connections.");
    for l in listeners {
        family.sample(&listener_labels(l), l.counts.total);
    }
    let mut family =
        text.counter("plimsoll_connections_rejected_total", "Rejected client connections, by reason.");
    for l in listeners {
        let [name, protocol] = listener_labels(l);
        let limited: u64 =
            reasons().zip(&l.counts.refused).filter(|(r, _)| *r == CONNECTION_LIMIT).map(|(_, n)| n).sum();
        family.sample(&[name, protocol, ("reason", CONNECTION_LIMIT)], limited);
        family.sample(&[name, protocol, ("reason", ACCEPT_ERROR)], l.counts.accept_errors);
    }
}

fn tls(text: &mut Text<'_>, listeners: &[ListenerView]) {
    let secured: Vec<_> = listeners.iter().filter(|l| !l.certificates.is_empty()).collect();
    let mut family = text.counter(
        "plimsoll_tls_handshakes_total",
        "TLS handshakes with clients, by version and result; early failures have no version.",
    );
    for l in &secured {
        for (version, ends) in TLS_VERSIONS.iter().zip(&l.counts.handshakes) {
            for (result, &count) in HANDSHAKES.iter().zip(ends) {
                family.sample(&[("listener", &l.name), ("version", version), ("result", result)], count);
            }
        }
    }
    let mut family = text.family(
        Kind::Histogram,
        "plimsoll_tls_handshake_duration_seconds",
        "Duration of TLS handshakes with clients, in seconds.",
    );
    for l in &secured {
        let durations = &l.counts.handshake_durations;
        family.histogram(&[("listener", &l.name)], &durations.buckets, durations.sum);
    }
    let mut family = text.gauge(
        "plimsoll_tls_certificate_not_after_seconds",
        "Expiry time of a certificate in seconds since the Unix epoch, by its first name.",
    );
    for l in &secured {
        for certificate in &l.certificates {
            family.sample(&[("listener", &l.name), ("name", &certificate.name)], certificate.not_after);
        }
    }
}

fn datagrams(text: &mut Text<'_>, listeners: &[ListenerView]) {
    let udp: Vec<_> = listeners.iter().filter(|l| l.protocol == "udp").collect();
    let mut family = text.counter(
        "plimsoll_udp_datagrams_total",
        "UDP datagrams, by direction; those received on one side but not sent on the other were dropped.",
    );
    for l in &udp {
        for (direction, &count) in DIRECTIONS.iter().zip(&l.counts.datagrams) {
            family.sample(&[("listener", &l.name), ("direction", direction)], count);
        }
    }
    let mut family = text.gauge("plimsoll_udp_flows", "Active UDP flows.");
    for l in &udp {
        family.sample(&[("listener", &l.name)], l.counts.active);
    }
    let mut family =
        text.counter("plimsoll_udp_flows_evicted_total", "UDP flows ended early to make room for new ones.");
    for l in &udp {
        family.sample(&[("listener", &l.name)], l.counts.evicted);
    }
}

fn refused(text: &mut Text<'_>, listeners: &[ListenerView]) {
    let mut family = text.counter(
        "plimsoll_refused_total",
        "Requests and connections ended by the balancer with a local reply or early, by reason; client_closed counts clients that disconnected.",
    );
    for l in listeners {
        let [name, protocol] = listener_labels(l);
        for (reason, &count) in reasons().zip(&l.counts.refused) {
            family.sample(&[name, protocol, ("reason", reason)], count);
        }
    }
}
