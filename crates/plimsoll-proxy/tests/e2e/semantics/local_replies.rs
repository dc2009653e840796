//! What the proxy answers itself: the words, the form, and what becomes of the connection.

use plimsoll_core::route::Match;

use crate::kit::{Balancer, Destination, Setup, get, hello, ok, post, route};

fn only_under(prefix: &str) -> (Destination, Balancer) {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination])
        .with(|s| {
            s.listeners[0].pool = None;
            let matches = Match { path_prefix: Some(prefix.into()), ..Match::default() };
            s.listeners[0].routes = vec![route("r", 0, matches)];
        })
        .start();
    (destination, balancer)
}

#[test]
fn no_route_is_a_404_that_keeps_the_connection() {
    let (destination, balancer) = only_under("/known");
    let mut client = balancer.connect();
    client.send(get("/unknown"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (404, false));
    assert!(answer.text().contains("no_route"), "{answer:?}");
    assert_eq!(answer.fields.one("content-type"), Some("text/plain; charset=utf-8"));
    client.send(post("/unknown", "a body that was read") + &get("/known"));
    assert_eq!((client.answer().status, client.answer().status), (404, 200));
    client.send("HEAD /unknown HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.answer_to("HEAD");
    assert!(head.status == 404 && head.fields.one("content-length").is_some_and(|n| n != "0"), "{head:?}");
    client.send(get("/known"));
    assert_eq!(client.answer().text(), "ok");
    assert_eq!(balancer.refused("no_route"), 3);
    assert_eq!(destination.requests().len(), 2);
}

#[test]
fn no_route_with_a_body_on_its_way_ends_the_connection() {
    let (destination, balancer) = only_under("/known");
    let mut client = balancer.connect();
    client.send("POST /unknown HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf");
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (404, true));
    client.expect_end();
    assert_eq!(destination.connections(), 0);
}

#[test]
fn clients_that_take_json_get_problem_details() {
    let (_destination, balancer) = only_under("/known");
    for (accept, json) in [
        ("application/json", true),
        ("text/html, application/problem+json;q=0.9", true),
        ("*/*", false),
        ("text/html", false),
    ] {
        let answer = balancer.ask(format!("GET /x HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n\r\n"));
        assert_eq!(answer.status, 404);
        let kind = answer.fields.one("content-type");
        assert_eq!(kind == Some("application/problem+json"), json, "{accept}: {kind:?}");
        if json {
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!((&problem["status"], &problem["reason"]), (&404.into(), &"no_route".into()));
            assert!(
                problem["title"].is_string() && problem["detail"].is_string() && problem["type"].is_string()
            );
        }
    }
}

#[test]
fn connect_and_trace_are_not_allowed() {
    let (destination, balancer) = only_under("/");
    for request in ["CONNECT test:80", "CONNECT /", "TRACE /", "TRACE *"] {
        let mut client = balancer.connect();
        client.send(format!("{request} HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (405, true), "{request}");
        assert!(answer.fields.one("allow").is_some_and(|allow| allow.contains("GET")), "{request}");
        client.expect_end();
    }
    assert_eq!(balancer.refused("method_not_allowed"), 4);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn a_503_says_when_to_come_back_and_keeps_the_connection() {
    let destination = Destination::absent(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (503, false));
    assert!(answer.fields.has("retry-after") && answer.text().contains("connect_failed"), "{answer:?}");
    destination.restart();
    client.send(get("/"));
    assert_eq!(client.answer().text(), "ok");
}

#[test]
fn an_answer_of_ours_to_an_unread_body_still_arrives() {
    let destination = Destination::absent(|visit| {
        visit.send(ok("never"));
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = vec![b'x'; 512 * 1024];
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    let answer = client.answer();
    assert_eq!(answer.status, 503, "the rest is read away, so that no reset eats the answer");
}

#[test]
fn an_expectation_nobody_knows_is_a_417() {
    let (destination, balancer) = only_under("/");
    let answer =
        balancer.ask("POST / HTTP/1.1\r\nHost: test\r\nExpect: a-miracle\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((answer.status, destination.connections()), (417, 0));
    assert_eq!(balancer.refused("expectation_failed"), 1);
}
