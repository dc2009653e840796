//! Load that destinations tell in their answers: read where the pool asks for it, and then nobody else sees it.

use std::sync::Arc;

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::balance::Algorithm;
use plimsoll_core::formula::Formula;
use plimsoll_core::health::OverloadSpec;
use plimsoll_core::measure::LoadMetric;
use plimsoll_proxy::ORCA_RESULTS;

use crate::kit::http2::{Http2Client, Http2Destination, Played};
use crate::kit::{Answer, Balancer, Destination, Setup, answers, get, hello, until};

const NAME: &str = "endpoint-load-metrics";

/// Answers "ok" with this line in the head.
fn telling(line: &str) -> Destination {
    Destination::start(answers(format!(
        "HTTP/1.1 200 OK\r\n{line}\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nok"
    )))
}

fn asking(destinations: &[&Destination]) -> Setup {
    Setup::http(destinations).with(|s| s.pools[0].orca = true)
}

fn by_http2(destination: &Http2Destination, asks: bool) -> Balancer {
    let setup = Setup::http(&[]).with(|s| {
        s.pools[0].orca = asks;
        s.pools[0].protocol = PoolProtocol::Http2;
        s.pools[0].destinations = vec![destination.as_member(0)];
    });
    setup.start()
}

fn cpu(balancer: &Balancer) -> Option<f32> {
    balancer.destination(0).load.of(LoadMetric::Cpu)
}

/// How many reports were taken, of no use, and malformed.
fn reports(balancer: &Balancer) -> [u64; ORCA_RESULTS.len()] {
    balancer.pools()[0].counts.orca
}

/// The answer with `line` in its head that came through a pool that asks, and that pool.
fn asked(line: &str) -> (Answer, Balancer, Destination) {
    let destination = telling(line);
    let balancer = asking(&[&destination]).start();
    let answer = balancer.ask(get("/"));
    (answer, balancer, destination)
}

#[test]
fn a_header_is_read_and_not_passed_on() {
    for line in [
        "endpoint-load-metrics: TEXT cpu_utilization=0.5, mem_utilization=0.25",
        "Endpoint-Load-Metrics: JSON {\"cpu_utilization\": 0.5, \"mem_utilization\": 0.25}",
        "ENDPOINT-LOAD-METRICS: BIN CQAAAAAAAOA/EQAAAAAAANA/",
        "endpoint-load-metrics-bin: CQAAAAAAAOA/EQAAAAAAANA/",
    ] {
        let (answer, balancer, _destination) = asked(line);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{line}");
        assert_eq!(answer.fields.one("x-own"), Some("1"), "{line}");
        assert!(!answer.fields.0.iter().any(|(name, _)| name.to_lowercase().starts_with(NAME)), "{line}");
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
fn a_pool_that_does_not_ask_passes_it_on_unread() {
    let line = "endpoint-load-metrics: TEXT cpu_utilization=0.5";
    let destination = telling(line);
    let balancer = Setup::http(&[&destination]).start();
    let answer = balancer.ask(get("/"));
    assert_eq!(answer.fields.one(NAME), Some("TEXT cpu_utilization=0.5"));
    assert_eq!((cpu(&balancer), reports(&balancer)), (None, [0, 0, 0]));

    let destination =
        Http2Destination::start(|_| Played::answer(200).body(b"ok".to_vec()).trailer(NAME, "TEXT eps=1"));
    let balancer = by_http2(&destination, false);
    assert_eq!(Http2Client::connect(&balancer).get("/").trailers[NAME], "TEXT eps=1");
    assert_eq!((balancer.destination(0).load.is_empty(), reports(&balancer)), (true, [0, 0, 0]));
}

#[test]
fn what_is_malformed_or_of_no_use_is_counted_and_changes_nothing() {
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
        let (answer, balancer, _destination) = asked(line);
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{line}");
        assert!(!answer.fields.has(NAME) && !answer.fields.has("endpoint-load-metrics-bin"), "{line}");
        assert!(balancer.destination(0).load.is_empty(), "{line}");
        assert_eq!(reports(&balancer), expected, "{line}");
    }
}

#[test]
fn trailers_of_chunks_are_read_too() {
    let destination = Destination::start(answers(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.5\r\n\r\n",
    ));
    let balancer = asking(&[&destination]).start();
    let mut client = balancer.connect();
    for times in 1..3 {
        client.send(get("/"));
        let answer = client.answer();
        assert_eq!(answer.text(), "ok");
        assert_eq!((answer.trailers.one("x-sum"), answer.trailers.0.len()), (Some("2"), 1));
        assert_eq!((cpu(&balancer), reports(&balancer)), (Some(0.5), [times, 0, 0]));
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn trailers_of_http_2_are_read_whatever_the_client_speaks() {
    let destination = Http2Destination::start(|_| {
        let call =
            Played::answer(200).header("content-type", "application/grpc").body(b"\0\0\0\0\0".to_vec());
        call.trailer("grpc-status", "0").trailer("endpoint-load-metrics-bin", "CQAAAAAAAOA/")
    });
    let balancer = by_http2(&destination, true);
    let answer = Http2Client::connect(&balancer).get("/");
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!((answer.trailers.len(), cpu(&balancer), reports(&balancer)), (1, Some(0.5), [1, 0, 0]));
    let answer = balancer.ask(get("/"));
    assert_eq!((answer.trailers.one("grpc-status"), answer.trailers.0.len()), (Some("0"), 1));
    assert_eq!(reports(&balancer), [2, 0, 0]);
}

#[test]
fn a_length_does_not_keep_trailers_from_being_read() {
    let destination = Http2Destination::start(|_| {
        let answer = Played::answer(200).header("content-length", "2").body(b"ok".to_vec());
        answer.trailer(NAME, "TEXT cpu_utilization=0.5")
    });
    let balancer = by_http2(&destination, true);
    assert_eq!(balancer.ask(get("/")).text(), "ok");
    until("the trailer was read", || cpu(&balancer) == Some(0.5));
    assert!(Http2Client::connect(&balancer).get("/").trailers.is_empty());
}

#[test]
fn who_tells_of_too_much_is_set_aside() {
    let (full, idle) = (
        telling("endpoint-load-metrics: TEXT application_utilization=0.95"),
        Destination::start(hello("idle")),
    );
    let balancer = asking(&[&full, &idle])
        .with(|s| {
            let overload = OverloadSpec { threshold: 0.9, recover: 0.75, max_overloaded: 0.5 };
            s.pools[0].load.overload = Some(overload);
        })
        .start();
    until("the full one was asked and is set aside", || {
        balancer.ask(get("/"));
        balancer.destination(0).status.as_str() == "overloaded"
    });
    let seen = full.requests().len();
    (0..10).for_each(|_| assert_eq!(balancer.ask(get("/")).text(), "idle"));
    assert_eq!(full.requests().len(), seen);
    assert_eq!(balancer.destination(1).status.as_str(), "serving");
}

#[test]
fn a_formula_reads_what_answers_call_by_a_name_of_their_own() {
    let busy = telling("endpoint-load-metrics: TEXT named_metrics.kv_cache=0.75");
    let idle = telling("endpoint-load-metrics: JSON {\"named_metrics\": {\"kv_cache\": 0.25}}");
    let balancer = asking(&[&busy, &idle])
        .with(|s| {
            s.pools[0].algorithm = Algorithm::Custom;
            s.pools[0].formula = Some(Arc::new(Formula::parse("load.kv_cache").expect("good")));
        })
        .start();
    until("both have told", || {
        balancer.ask(get("/"));
        !busy.requests().is_empty() && !idle.requests().is_empty()
    });
    let seen = busy.requests().len();
    (0..10).for_each(|_| assert_eq!(balancer.ask(get("/")).status, 200));
    assert_eq!(busy.requests().len(), seen);
    assert_eq!(balancer.destination(1).load.of(LoadMetric::Named(0)), Some(0.25));
}

#[test]
fn an_answer_that_another_one_replaces_has_told_all_the_same() {
    let report = "endpoint-load-metrics: TEXT cpu_utilization=0.5";
    let full =
        Destination::start(answers(format!("HTTP/1.1 503 Busy\r\n{report}\r\nContent-Length: 0\r\n\r\n")));
    let good = Destination::start(hello("good"));
    let balancer = asking(&[&full, &good]).with(|s| s.pools[0].retry.when.statuses.push(503)).start();
    until("the full one was asked", || {
        assert_eq!(balancer.ask(get("/")).text(), "good");
        !full.requests().is_empty()
    });
    assert_eq!((cpu(&balancer), reports(&balancer)[0]), (Some(0.5), full.requests().len() as u64));
}

#[test]
fn a_reload_switches_it_on_and_off_for_connections_that_are_open() {
    let destination = telling("endpoint-load-metrics: TEXT cpu_utilization=0.5");
    let setup = Setup::http(&[&destination]);
    let balancer = setup.start();
    let mut client = balancer.connect();
    for (asks, taken) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
        balancer.reload(&setup.clone().with(|s| s.pools[0].orca = asks)).expect("good");
        client.send(get("/"));
        assert_eq!(client.answer().fields.has(NAME), !asks);
        assert_eq!(reports(&balancer), [taken, 0, 0]);
    }
}
