//! The access log: one line of JSON for each request and each refusal, whatever the client sent.

use std::path::Path;

use plimsoll_config::model::AccessLog;
use plimsoll_core::route::Match;
use serde_json::Value;

use crate::kit::http2::Http2Client;
use crate::kit::{Balancer, Destination, Setup, TempPath, get, post, respond_ok, route, wait_until};

/// Starts a proxy with an access log and a route for paths under `/known`.
fn start_logging(destination: &Destination) -> (Balancer, TempPath) {
    let file = TempPath::new("access.log");
    let balancer = Setup::http(&[destination])
        .with(|s| {
            s.access_log = Some(AccessLog::File(file.path().to_owned()));
            s.listeners[0].pool = None;
            let known = Match { path_prefix: Some("/known".into()), ..Match::default() };
            s.listeners[0].routes = vec![route("known", 0, known)];
        })
        .start();
    (balancer, file)
}

/// Waits for `count` lines and parses them as JSON.
pub(crate) fn lines(file: &Path, count: usize) -> Vec<Value> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    wait_until("the lines are written", || read().lines().count() >= count && read().ends_with('\n'));
    let lines: Vec<Value> = read()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[test]
fn the_protocol_is_that_of_the_client() {
    let destination = Destination::start(respond_ok("ok"));
    let (balancer, file) = start_logging(&destination);
    balancer.fetch(get("/known"));
    balancer.fetch("GET /known HTTP/1.0\r\n\r\n");
    Http2Client::connect(&balancer).get("/known");
    let protocols: Vec<_> = lines(file.path(), 3).iter().map(|line| line["protocol"].clone()).collect();
    assert_eq!(protocols, ["HTTP/1.1", "HTTP/1.0", "HTTP/2"]);
}

#[test]
fn each_request_is_logged_with_its_fields() {
    let destination = Destination::start(respond_ok("twelve bytes"));
    let (balancer, file) = start_logging(&destination);
    let mut client = balancer.connect();
    client.send(
        "POST /known?q=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: ua/1\r\nX-Request-Id: id-7\r\nContent-Length: 4\r\n\r\nbody",
    );
    assert_eq!(client.read_response().status, 200);
    let line = lines(file.path(), 1).remove(0);
    for (key, value) in [
        ("method", "POST"),
        ("target", "/known?q=1"),
        ("host", "a.test"),
        ("protocol", "HTTP/1.1"),
        ("listener", "web"),
        ("route", "known"),
        ("pool", "main"),
        ("destination", "main-0"),
        ("user_agent", "ua/1"),
        ("request_id", "id-7"),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert_eq!(line["status"], 200);
    assert!(line["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{line}");
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
    assert!(number("request_bytes") > 100.0 && number("response_bytes") > 40.0);
    assert!(number("ttfb_ms") > 0.0 && number("total_ms") >= number("ttfb_ms"));
    assert!(line["reason"].is_null());
}

#[test]
fn local_replies_are_logged_with_their_reason() {
    let destination = Destination::start(|conn| {
        conn.request();
        conn.send("garbage\r\n\r\n");
    });
    let (balancer, file) = start_logging(&destination);
    for (request, status, reason) in [
        (get("/known"), 502, "bad_response"),
        (get("/unknown"), 404, "no_route"),
        (post("/unknown", "x"), 404, "no_route"),
        ("nonsense\r\n\r\n".into(), 400, "bad_request"),
        ("GET / HTTP/3.0\r\n\r\n".into(), 505, "version_not_supported"),
    ] {
        assert_eq!(balancer.fetch(request.as_bytes()).status, status);
        wait_until("it is logged", || {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            text.lines().last().is_some_and(|line| {
                serde_json::from_str::<Value>(line)
                    .is_ok_and(|l| l["reason"] == reason && l["status"] == status)
            })
        });
    }
    assert_eq!(lines(file.path(), 5).len(), 5);
}

#[test]
fn client_input_cannot_forge_log_lines() {
    let destination = Destination::start(respond_ok("ok"));
    let (balancer, file) = start_logging(&destination);
    let agent = b"\",\"status\":999,\\\"x\\u0000\t\x80\xff\xe2\x80\xa8";
    let request =
        [b"GET /known\"%0a\\ HTTP/1.1\r\nHost: t\r\nUser-Agent: " as &[u8], agent, b"\r\n\r\n"].concat();
    assert_eq!(balancer.fetch(request).status, 200);
    let long = format!("GET /known HTTP/1.1\r\nHost: t\r\nUser-Agent: {}\r\n\r\n", "y".repeat(50_000));
    assert_eq!(balancer.fetch(long).status, 200);
    let lines = lines(file.path(), 2);
    assert_eq!((&lines[0]["status"], &lines[0]["target"]), (&200.into(), &"/known\"%0a\\".into()));
    assert!(lines[0]["user_agent"].as_str().is_some_and(|agent| agent.starts_with("\",\"status\":999")));
    assert!(
        lines[1]["user_agent"].as_str().is_some_and(|agent| agent.len() < 5000),
        "long fields are clipped"
    );
}

#[test]
fn reopened_log_continues_in_a_new_file() {
    let destination = Destination::start(respond_ok("ok"));
    let (balancer, file) = start_logging(&destination);
    balancer.fetch(get("/known/1"));
    lines(file.path(), 1);
    let rotated = TempPath::new("rotated.log");
    std::fs::rename(file.path(), rotated.path()).expect("the same folder");
    balancer.handle.reopen_logs();
    wait_until("the new file is there", || file.path().exists());
    balancer.fetch(get("/known/2"));
    assert_eq!(lines(file.path(), 1)[0]["target"], "/known/2");
    assert_eq!(lines(rotated.path(), 1)[0]["target"], "/known/1");
    assert_eq!(balancer.handle.traffic().log_dropped, 0);
}

#[test]
fn tcp_connection_is_logged_at_its_end() {
    let destination = Destination::start(|conn| {
        conn.send("hello");
        conn.shutdown_write();
        conn.read_to_end();
    });
    let file = TempPath::new("access.log");
    let balancer = Setup::tcp(&[&destination])
        .with(|s| s.access_log = Some(AccessLog::File(file.path().to_owned())))
        .start();
    let mut client = balancer.connect();
    client.send("ok");
    client.shutdown_write();
    assert_eq!(client.read_to_end().received, b"hello");
    let served = lines(file.path(), 1).remove(0);
    assert_eq!((&served["protocol"], &served["pool"]), (&"TCP".into(), &"main".into()), "{served}");
    assert_eq!((&served["destination"], &served["reason"]), (&"main-0".into(), &Value::Null), "{served}");
    assert_eq!((&served["request_bytes"], &served["response_bytes"]), (&2.into(), &5.into()), "{served}");
}
