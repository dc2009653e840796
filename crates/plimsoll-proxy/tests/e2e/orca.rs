//! ORCA load reports: read where the pool enables them, and then not forwarded.

use std::sync::Arc;

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::balance::Algorithm;
use plimsoll_core::formula::Formula;
use plimsoll_core::health::OverloadSpec;
use plimsoll_core::measure::LoadMetric;
use plimsoll_proxy::ORCA_RESULTS;

use crate::kit::http2::{Http2Client, Http2Destination, ScriptedResponse};
use crate::kit::{Balancer, Destination, Response, Setup, get, respond_ok, respond_with, wait_until};

const NAME: &str = "endpoint-load-metrics";

/// Starts a destination that responds "ok" with this field line.
fn start_reporting(line: &str) -> Destination {
    Destination::start(respond_with(format!(
        "HTTP/1.1 200 OK\r\n{line}\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nok"
    )))
}

fn reading_reports(destinations: &[&Destination]) -> Setup {
    Setup::http(destinations).with(|s| s.pools[0].orca = true)
}

fn start_http2(destination: &Http2Destination, reads: bool) -> Balancer {
    let setup = Setup::http(&[]).with(|s| {
        s.pools[0].orca = reads;
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = vec![destination.as_member(0)];
    });
    setup.start()
}

fn cpu(balancer: &Balancer) -> Option<f32> {
    balancer.destination(0).load.of(LoadMetric::Cpu)
}

/// Number of reports that were used, without effect, and malformed.
fn reports(balancer: &Balancer) -> [u64; ORCA_RESULTS.len()] {
    balancer.pools()[0].counts.orca
}

/// Returns the response with `line` in its head through a pool that reads reports, and that proxy.
fn fetch_reporting(line: &str) -> (Response, Balancer, Destination) {
    let destination = start_reporting(line);
    let balancer = reading_reports(&[&destination]).start();
    let response = balancer.fetch(get("/"));
    (response, balancer, destination)
}

#[test]
fn report_in_a_header_is_read_and_removed() {
    for line in [
        "endpoint-load-metrics: TEXT cpu_utilization=0.5, mem_utilization=0.25",
        "Endpoint-Load-Metrics: JSON {\"cpu_utilization\": 0.5, \"mem_utilization\": 0.25}",
        "ENDPOINT-LOAD-METRICS: BIN CQAAAAAAAOA/EQAAAAAAANA/",
        "endpoint-load-metrics-bin: CQAAAAAAAOA/EQAAAAAAANA/",
    ] {
        let (response, balancer, _destination) = fetch_reporting(line);
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{line}");
        assert_eq!(response.fields.one("x-own"), Some("1"), "{line}");
        assert!(!response.fields.0.iter().any(|(name, _)| name.to_lowercase().starts_with(NAME)), "{line}");
        let load = balancer.destination(0).load;
        assert_eq!(
            (load.of(LoadMetric::Cpu), load.of(LoadMetric::Memory)),
            (Some(0.5), Some(0.25)),
            "{line}"
        );
        assert_eq!(load.score(), Some(0.5), "{line}");
        assert_eq!(reports(&balancer), [1, 0, 0], "{line}");
    }
}

#[test]
fn pool_without_orca_forwards_reports_unread() {
    let line = "endpoint-load-metrics: TEXT cpu_utilization=0.5";
    let destination = start_reporting(line);
    let balancer = Setup::http(&[&destination]).start();
    let response = balancer.fetch(get("/"));
    assert_eq!(response.fields.one(NAME), Some("TEXT cpu_utilization=0.5"));
    assert_eq!((cpu(&balancer), reports(&balancer)), (None, [0, 0, 0]));

    let destination = Http2Destination::start(|_| {
        ScriptedResponse::new(200).body(b"ok".to_vec()).trailer(NAME, "TEXT eps=1")
    });
    let balancer = start_http2(&destination, false);
    assert_eq!(Http2Client::connect(&balancer).get("/").trailers[NAME], "TEXT eps=1");
    assert_eq!((balancer.destination(0).load.is_empty(), reports(&balancer)), (true, [0, 0, 0]));
}

#[test]
fn malformed_and_ineffective_reports_are_only_counted() {
    let two = "endpoint-load-metrics: TEXT eps=1\r\nendpoint-load-metrics-bin: CQAAAAAAAOA/";
    let long = format!("endpoint-load-metrics: TEXT x={}1", "0".repeat(5000));
    for (line, expected) in [
        ("endpoint-load-metrics: TEXT cpu_utilization=0.5,mem_utilization=-1", [0, 0, 1]),
        ("endpoint-load-metrics: JSON {", [0, 0, 1]),
        ("endpoint-load-metrics-bin: CQ!", [0, 0, 1]),
        (two, [0, 0, 1]),
        (&long, [0, 0, 1]),
        ("endpoint-load-metrics: TEXT named_metrics.stranger=0.5", [0, 1, 0]),
        ("X-Other: TEXT cpu_utilization=0.5", [0, 0, 0]),
    ] {
        let (response, balancer, _destination) = fetch_reporting(line);
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{line}");
        assert!(!response.fields.has(NAME) && !response.fields.has("endpoint-load-metrics-bin"), "{line}");
        assert!(balancer.destination(0).load.is_empty(), "{line}");
        assert_eq!(reports(&balancer), expected, "{line}");
    }
}

#[test]
fn report_in_chunked_trailers_is_read() {
    let destination = Destination::start(respond_with(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.5\r\n\r\n",
    ));
    let balancer = reading_reports(&[&destination]).start();
    let mut client = balancer.connect();
    for times in 1..3 {
        client.send(get("/"));
        let response = client.read_response();
        assert_eq!(response.text(), "ok");
        assert_eq!((response.trailers.one("x-sum"), response.trailers.0.len()), (Some("2"), 1));
        assert_eq!((cpu(&balancer), reports(&balancer)), (Some(0.5), [times, 0, 0]));
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn report_in_http_2_trailers_is_read_for_any_client() {
    let destination = Http2Destination::start(|_| {
        let call = ScriptedResponse::new(200)
            .header("content-type", "application/grpc")
            .body(b"\0\0\0\0\0".to_vec());
        call.trailer("grpc-status", "0").trailer("endpoint-load-metrics-bin", "CQAAAAAAAOA/")
    });
    let balancer = start_http2(&destination, true);
    let response = Http2Client::connect(&balancer).get("/");
    assert_eq!(response.trailers["grpc-status"], "0");
    assert_eq!((response.trailers.len(), cpu(&balancer), reports(&balancer)), (1, Some(0.5), [1, 0, 0]));
    let response = balancer.fetch(get("/"));
    assert_eq!((response.trailers.one("grpc-status"), response.trailers.0.len()), (Some("0"), 1));
    assert_eq!(reports(&balancer), [2, 0, 0]);
}

#[test]
fn report_in_trailers_after_a_content_length_is_read() {
    let destination = Http2Destination::start(|_| {
        let response = ScriptedResponse::new(200).header("content-length", "2").body(b"ok".to_vec());
        response.trailer(NAME, "TEXT cpu_utilization=0.5")
    });
    let balancer = start_http2(&destination, true);
    assert_eq!(balancer.fetch(get("/")).text(), "ok");
    wait_until("the trailer was read", || cpu(&balancer) == Some(0.5));
    assert!(Http2Client::connect(&balancer).get("/").trailers.is_empty());
}

#[test]
fn destination_that_reports_overload_is_set_aside() {
    let (full, idle) = (
        start_reporting("endpoint-load-metrics: TEXT application_utilization=0.95"),
        Destination::start(respond_ok("idle")),
    );
    let balancer = reading_reports(&[&full, &idle])
        .with(|s| {
            let overload = OverloadSpec { threshold: 0.9, recover: 0.75, max_overloaded: 0.5 };
            s.pools[0].load.overload = Some(overload);
        })
        .start();
    wait_until("the overloaded destination is set aside", || {
        balancer.fetch(get("/"));
        balancer.destination(0).status.as_str() == "overloaded"
    });
    let seen = full.requests().len();
    (0..10).for_each(|_| assert_eq!(balancer.fetch(get("/")).text(), "idle"));
    assert_eq!(full.requests().len(), seen);
    assert_eq!(balancer.destination(1).status.as_str(), "serving");
}

#[test]
fn formula_reads_named_metrics() {
    let busy = start_reporting("endpoint-load-metrics: TEXT named_metrics.kv_cache=0.75");
    let idle = start_reporting("endpoint-load-metrics: JSON {\"named_metrics\": {\"kv_cache\": 0.25}}");
    let balancer = reading_reports(&[&busy, &idle])
        .with(|s| {
            s.pools[0].algorithm = Algorithm::Custom;
            s.pools[0].formula = Some(Arc::new(Formula::parse("load.kv_cache").expect("good")));
        })
        .start();
    wait_until("both destinations have reported", || {
        balancer.fetch(get("/"));
        !busy.requests().is_empty() && !idle.requests().is_empty()
    });
    let seen = busy.requests().len();
    (0..10).for_each(|_| assert_eq!(balancer.fetch(get("/")).status, 200));
    assert_eq!(busy.requests().len(), seen);
    assert_eq!(balancer.destination(1).load.of(LoadMetric::Named(0)), Some(0.25));
}

#[test]
fn report_in_a_retried_response_is_read() {
    let report = "endpoint-load-metrics: TEXT cpu_utilization=0.5";
    let full = Destination::start(respond_with(format!(
        "HTTP/1.1 503 Busy\r\n{report}\r\nContent-Length: 0\r\n\r\n"
    )));
    let good = Destination::start(respond_ok("good"));
    let balancer =
        reading_reports(&[&full, &good]).with(|s| s.pools[0].retry.when.statuses.push(503)).start();
    wait_until("the overloaded destination was tried", || {
        assert_eq!(balancer.fetch(get("/")).text(), "good");
        !full.requests().is_empty()
    });
    assert_eq!((cpu(&balancer), reports(&balancer)[0]), (Some(0.5), full.requests().len() as u64));
}

#[test]
fn reload_switches_reports_for_open_connections() {
    let destination = start_reporting("endpoint-load-metrics: TEXT cpu_utilization=0.5");
    let setup = Setup::http(&[&destination]);
    let balancer = setup.start();
    let mut client = balancer.connect();
    for (reads, taken) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        balancer.reload(&setup.clone().with(|s| s.pools[0].orca = reads)).expect("good");
        client.send(get("/"));
        assert_eq!(client.read_response().fields.has(NAME), !reads);
        assert_eq!(reports(&balancer), [taken, 0, 0]);
    }
}
