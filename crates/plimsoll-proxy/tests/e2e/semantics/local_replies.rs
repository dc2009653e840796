//! Local replies: status, body format, and reuse of the connection.

use plimsoll_core::route::Match;

use crate::kit::{Balancer, Destination, Setup, get, ms, ok, post, respond_ok, route, wait_until};

fn start_routing_only(prefix: &str) -> (Destination, Balancer) {
    let destination = Destination::start(respond_ok("ok"));
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
fn missing_route_is_a_404_that_keeps_the_connection() {
    let (destination, balancer) = start_routing_only("/known");
    let mut client = balancer.connect();
    client.send(get("/unknown"));
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (404, false));
    assert!(response.text().contains("no_route"), "{response:?}");
    assert_eq!(response.fields.one("content-type"), Some("text/plain; charset=utf-8"));
    client.send(post("/unknown", "a body that was read") + &get("/known"));
    assert_eq!((client.read_response().status, client.read_response().status), (404, 200));
    client.send("HEAD /unknown HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.read_response_to("HEAD");
    assert!(head.status == 404 && head.fields.one("content-length").is_some_and(|n| n != "0"), "{head:?}");
    client.send(get("/known"));
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(balancer.refusals("no_route"), 3);
    assert_eq!(destination.requests().len(), 2);
}

#[test]
fn missing_route_with_an_unread_body_closes_the_connection() {
    let (destination, balancer) = start_routing_only("/known");
    let mut client = balancer.connect();
    client.send("POST /unknown HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf");
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (404, true));
    client.expect_closed();
    assert_eq!(destination.connections(), 0);
}

#[test]
fn clients_that_accept_json_get_problem_details() {
    let (_destination, balancer) = start_routing_only("/known");
    for (accept, json) in [
        ("application/json", true),
        ("text/html, application/problem+json;q=0.9", true),
        ("*/*", false),
        ("text/html", false),
    ] {
        let response = balancer.fetch(format!("GET /x HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n\r\n"));
        assert_eq!(response.status, 404);
        let kind = response.fields.one("content-type");
        assert_eq!(kind == Some("application/problem+json"), json, "{accept}: {kind:?}");
        if json {
            let problem: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
            assert_eq!((&problem["status"], &problem["reason"]), (&404.into(), &"no_route".into()));
            assert!(
                problem["title"].is_string() && problem["detail"].is_string() && problem["type"].is_string()
            );
        }
    }
}

#[test]
fn connect_and_trace_are_not_allowed() {
    let (destination, balancer) = start_routing_only("/");
    for request in ["CONNECT test:80", "CONNECT /", "TRACE /", "TRACE *"] {
        let mut client = balancer.connect();
        client.send(format!("{request} HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n"));
        let response = client.read_response();
        assert_eq!((response.status, response.closes()), (405, true), "{request}");
        assert!(response.fields.one("allow").is_some_and(|allow| allow.contains("GET")), "{request}");
        client.expect_closed();
    }
    assert_eq!(balancer.refusals("method_not_allowed"), 4);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn local_503_has_retry_after_and_keeps_the_connection() {
    let destination = Destination::absent(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (503, false));
    assert!(response.fields.has("retry-after") && response.text().contains("connect_failed"), "{response:?}");
    destination.restart();
    client.send(get("/"));
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn local_reply_arrives_despite_an_unread_body() {
    let destination = Destination::absent(|conn| {
        conn.send(ok("never"));
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = vec![b'x'; 512 * 1024];
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    let response = client.read_response();
    assert_eq!(response.status, 503, "unread data is discarded, so that no reset destroys the response");
}

#[test]
fn a_local_reply_follows_a_half_sent_informational_response() {
    let hint = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(60_000));
    let destination = Destination::start(move |conn| {
        conn.request();
        conn.send_until_blocked(hint.as_bytes(), 200 * hint.len(), ms(2000));
    });
    let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.total = Some(ms(500))).start();
    let mut client = balancer.connect();
    client.shrink_receive_buffer();
    client.send(get("/"));
    wait_until("the total time has passed", || balancer.refusals("total_timeout") == 1);
    let response = client.read_response();
    assert_eq!((response.status, response.informational.first()), (504, Some(&103)));
}

#[test]
fn unknown_expectation_is_a_417() {
    let (destination, balancer) = start_routing_only("/");
    let response =
        balancer.fetch("POST / HTTP/1.1\r\nHost: test\r\nExpect: a-miracle\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((response.status, destination.connections()), (417, 0));
    assert_eq!(balancer.refusals("expectation_failed"), 1);
}
