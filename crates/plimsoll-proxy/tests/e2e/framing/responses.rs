//! Malformed responses become a 502, and no byte of a response ever reaches the next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::kit::http2::Http2Client;
use crate::kit::{
    Balancer, Client, Connection, Destination, Gate, ReadEnd, Response, Setup, get, ms, ok, respond_ok,
    respond_with, wait_until,
};

/// Starts a destination that sends these bytes first, and a 200 with `next` to every other request.
fn start_with_first_response(bytes: impl Into<Vec<u8>>, then: fn(&mut Connection)) -> Destination {
    let (bytes, first) = (bytes.into(), Arc::new(AtomicBool::new(true)));
    Destination::start(move |conn| {
        while conn.request().is_some() {
            let hostile = first.swap(false, SeqCst);
            let response = if hostile { bytes.clone() } else { ok("next").into_bytes() };
            if !conn.send(response) {
                break;
            }
            if hostile {
                then(conn);
            }
        }
    })
}

fn keep_open(_: &mut Connection) {}

/// Sends a request that the destination answers with `bytes`, and returns the response. Later requests must get
/// their own responses, on the same connection while it stays open and on others.
fn fetch_hostile(method: &str, bytes: &[u8], context: &str) -> Result<Response, ReadEnd> {
    let destination = start_with_first_response(bytes, keep_open);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{method} /first HTTP/1.1\r\nHost: test\r\n\r\n"));
    let response = client.try_read_response(method);
    if response.as_ref().is_ok_and(|a| !a.closes()) {
        check_next_response(&mut client, context);
    }
    for _ in 0..3 {
        check_next_response(&mut balancer.connect(), context);
    }
    assert!(destination.requests().iter().all(|r| r.target == "/first" || r.target == "/after"), "{context}");
    response
}

#[track_caller]
fn check_next_response(client: &mut Client, context: &str) {
    client.send(get("/after"));
    let after =
        client.try_read_response("GET").unwrap_or_else(|end| panic!("{context}: the next response: {end:?}"));
    assert_eq!((after.status, after.text().as_str()), (200, "next"), "{context}: the next response");
}

fn check_502s(rows: impl IntoIterator<Item = String>) {
    for row in rows {
        let context = format!("{:?}", &row[..row.len().min(100)]);
        let response =
            fetch_hostile("GET", row.as_bytes(), &context).unwrap_or_else(|f| panic!("{context}: {f:?}"));
        assert_eq!(response.status, 502, "{context}: {response:?}");
        assert!(response.text().contains("bad_response"), "{context}: {response:?}");
    }
}

#[test]
fn malformed_status_line_is_a_502() {
    let line = |line: &str| format!("{line}\r\nContent-Length: 0\r\n\r\n");
    check_502s(["0.9", "1.2", "2", "2.0", "11"].map(|version| line(&format!("HTTP/{version} 200 OK"))));
    let statuses = "99 099 000 1000 2000 -20 20 2 2x0 0x1 +20 2.0 20\t0 200OK".split(' ');
    check_502s(statuses.chain(["", "20 0"]).map(|status| line(&format!("HTTP/1.1 {status} OK"))));
    let lines = [
        "<html>a response of HTTP/0.9</html>",
        "SSH-2.0-OpenSSH_9.9",
        "\0\0\0\0\0\0",
        "200 OK",
        "ICY 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1200 OK",
        "HTTP/1.1 \t200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 OK\rX: y",
    ];
    check_502s(lines.map(line));
    check_502s(
        ["HTTP/1.1 200 OK\rContent-Length: 0\r\r", "HTTP/1.1 200 OK\r\nX: y\r\n\rx"].map(String::from),
    );
    check_502s([line(&format!("HTTP/1.1 200 {}", "O".repeat(70_000)))]);
}

#[test]
fn malformed_response_fields_are_a_502() {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nhello");
    let lengths = [
        "+5",
        "-5",
        "5 5",
        "5, 5",
        "0x5",
        "5.0",
        "five",
        "",
        "\"5\"",
        "18446744073709551621",
        "9223372036854775808",
        "5\u{b}",
        "5\0",
    ];
    check_502s(lengths.map(|length| head(&format!("Content-Length: {length}"))));
    let codings = [
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "\"chunked\"",
        "",
        "xchunked",
        "chunked, chunked",
    ];
    check_502s(codings.map(|coding| head(&format!("Transfer-Encoding: {coding}"))));
    let lines = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length : 5",
        "Content-Length: 5\r\nX : y",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "X: a\r\n folded",
        "X: a\0b",
        "X: a\rb",
        "X: a\rContent-Length: 5",
        "no colon",
        ": no name",
        "X Y: a",
        "X(: a",
        "X: \u{7f}",
    ];
    check_502s(lines.map(head));
    check_502s(["HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()]);
    check_502s([head(&"X: y\r\n".repeat(300)), head(&format!("X: {}", "y".repeat(70_000)))]);
}

/// Nominates more fields than a request may.
const MANY_OPTIONS: &str = "HTTP/1.1 200 OK\r\nConnection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,x-hop\r\nX-Hop: 1\r\n\
                            Content-Length: 5\r\n\r\nhello";

#[test]
fn statuses_above_599_are_passed_on_as_errors_of_the_destination() {
    for status in [600_u16, 799, 999] {
        let destination =
            Destination::start(respond_with(format!("HTTP/1.1 {status} Odd\r\nContent-Length: 2\r\n\r\nok")));
        let balancer = Setup::http(&[&destination]).start();
        assert_eq!(balancer.fetch(get("/")).status, status);
        assert_eq!(Http2Client::connect(&balancer).get("/").status(), status);
        let counts = balancer.destination(0).counts;
        assert_eq!((counts.classes[5], counts.failed()), (2, 0), "{status}");
    }
}

#[test]
fn valid_responses_are_forwarded_normalised() {
    let rows = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "OK [hello]"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello", "OK [hello]"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 005 \t\r\n\r\nhello", "OK [hello]"),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "OK [hello]"),
        ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", " [hello]"),
        ("HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", " [hello]"),
        ("HTTP/1.1 200 A longer (phrase)\r\nContent-Length: 5\r\n\r\nhello", "A longer (phrase) [hello]"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "OK [hello]"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n", "OK [hello]"),
        (MANY_OPTIONS, "OK [hello]"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "OK [hello]",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "OK [hello]",
        ),
    ];
    for (row, expected) in rows {
        let response = fetch_hostile("GET", row.as_bytes(), row).unwrap_or_else(|f| panic!("{row:?}: {f:?}"));
        assert_eq!(format!("{} [{}]", response.reason, response.text()), expected, "{row:?}");
    }
}

#[test]
fn forbidden_body_does_not_reach_the_next_response() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let body = |framing: &str| format!("{framing}\r\n\r\n{poison}");
    let length = format!("Content-Length: {}", poison.len());
    let rows = [
        ("HEAD", format!("HTTP/1.1 200 OK\r\n{}", body(&length))),
        ("HEAD", format!("HTTP/1.1 200 OK\r\n{}", body("X: y"))),
        (
            "HEAD",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{poison}\r\n0\r\n\r\n",
                poison.len()
            ),
        ),
        ("HEAD", format!("HTTP/1.1 404 No\r\n{}", body(&length))),
        ("GET", format!("HTTP/1.1 204 No Content\r\n{}", body(&length))),
        ("GET", format!("HTTP/1.1 204 No Content\r\n{}", body("X: y"))),
        ("GET", format!("HTTP/1.1 204 No Content\r\n{}", body("Transfer-Encoding: chunked"))),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\n{}", body(&length))),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\n{}", body("X: y"))),
        ("GET", format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{poison}")),
        ("GET", format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello{poison}")),
        ("GET", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{poison}")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n".into()),
    ];
    for (method, row) in rows {
        let response =
            fetch_hostile(method, row.as_bytes(), &row).unwrap_or_else(|f| panic!("{row:?}: {f:?}"));
        assert!(
            matches!(response.status, 200 | 204 | 304 | 404) && !response.text().contains("poison"),
            "{row:?}: {response:?}"
        );
    }
}

#[test]
fn late_forbidden_body_on_a_pooled_connection_does_not_reach_the_next_response() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, head) in [
        ("HEAD", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", poison.len())),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("GET", ok("fine")),
    ] {
        let (responded, poisoned) = (Gate::default(), Gate::default());
        let (send_late, done, first) = (responded.clone(), poisoned.clone(), AtomicBool::new(true));
        let bytes = head.clone();
        let destination = Destination::start(move |conn| {
            while conn.request().is_some() {
                if first.swap(false, SeqCst) {
                    conn.send(&bytes);
                    send_late.wait();
                    conn.send(poison);
                    done.open();
                } else {
                    conn.send(ok("next"));
                }
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("{method} /first HTTP/1.1\r\nHost: test\r\n\r\n"));
        let response = client.read_response_to(method);
        assert!(!response.closes(), "{head}");
        responded.open();
        poisoned.wait();
        check_next_response(&mut client, &head);
        check_next_response(&mut balancer.connect(), &head);
        assert_eq!(destination.connections(), 2, "{head}: the connection is not reused");
    }
}

#[test]
fn forbidden_body_during_the_next_request_is_not_its_response() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", poison.len());
        let context = head.clone();
        let first = AtomicBool::new(true);
        let second_request = Gate::default();
        let (next, late) = (second_request.clone(), second_request);
        let destination = Destination::start(move |conn| {
            while conn.request().is_some() {
                if first.swap(false, SeqCst) {
                    conn.send(&head);
                    late.wait();
                    conn.send(poison);
                } else {
                    next.open();
                    std::thread::sleep(ms(50));
                    conn.send(ok("next"));
                }
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("{method} /first HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert!(!client.read_response_to(method).closes(), "{context}");
        check_next_response(&mut client, &context);
        check_next_response(&mut balancer.connect(), &context);
    }
}

/// Sends one request to a destination that responds with these bytes.
fn fetch_from(request: &str, bytes: &str, then: fn(&mut Connection)) -> (Response, Balancer, Destination) {
    let destination = start_with_first_response(bytes, then);
    let balancer = Setup::http(&[&destination]).start();
    let response = balancer.fetch(request);
    (response, balancer, destination)
}

#[test]
fn upgrade_without_an_offer_is_a_502() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw";
    let bare = "HTTP/1.1 101 Switching Protocols\r\n\r\nraw";
    let to_http2 = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nraw";
    let offer = |lines: &str| format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n");
    let rows = [
        (get("/"), switch),
        (get("/"), bare),
        (offer("Upgrade: websocket"), switch),
        (offer("Connection: Upgrade"), switch),
        (offer("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"), switch),
        (offer("Connection: Upgrade\r\nUpgrade: websocket"), to_http2),
        (offer("Connection: Upgrade\r\nUpgrade: websocket"), bare),
        ("GET / HTTP/1.0\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".into(), switch),
    ];
    for (request, bytes) in rows {
        let (response, balancer, destination) = fetch_from(&request, bytes, Connection::read_to_end);
        assert_eq!(response.status, 502, "{request:?} {bytes:?}");
        assert!(!response.text().contains("raw"));
        check_next_response(&mut balancer.connect(), &request);
        let first = &destination.requests()[0];
        assert!(
            !first.fields.has("http2-settings") && first.fields.all("upgrade").join(",") != "h2c",
            "{first:?}"
        );
    }
}

#[test]
fn informational_responses_are_limited() {
    for (status, count, expected) in [
        (103, 3, 200),
        (100, 3, 200),
        (102, 17, 200),
        (102, 200, 200),
        (103, 100_000, 502),
        (100, 100_000, 502),
    ] {
        let flood = format!("HTTP/1.1 {status} X\r\nA: b\r\n\r\n").repeat(count) + &ok("next");
        let (response, balancer, _destination) = fetch_from(&get("/"), &flood, keep_open);
        assert_eq!(response.status, expected, "{count} times {status}");
        assert!(response.informational.len() <= 256, "{} were passed on", response.informational.len());
        assert!(status != 100 || response.informational.is_empty(), "a 100 without Expect is not forwarded");
        check_next_response(&mut balancer.connect(), "after a flood");
    }
}

#[test]
fn endless_response_head_is_a_502() {
    let destination = Destination::start(|conn| {
        if conn.request().is_some() && conn.send("HTTP/1.1 200 OK\r\n") {
            while conn
                .send("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
            {
            }
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    assert_eq!(balancer.fetch(get("/")).status, 502);
    wait_until("the proxy closes the connection", || destination.open() == 0);
}

#[test]
fn response_in_single_bytes_is_forwarded() {
    let destination = Destination::start(|conn| {
        while conn.request().is_some() {
            let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;e=x\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
            conn.send_in_steps(response, 1, std::time::Duration::ZERO);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(get("/"));
        let response = client.read_response();
        assert_eq!((response.text().as_str(), response.trailers.one("x-sum")), ("hello", Some("1")));
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn bytes_before_a_request_are_not_a_later_response() {
    let destination = Destination::start(|conn| {
        if conn.number == 0 {
            conn.send(ok("poison"));
        }
        respond_ok("next")(conn);
    });
    let balancer = Setup::http(&[&destination]).start();
    // The first request gets the bytes that were sent first on its connection; no later request does.
    let _whatever = balancer.fetch(get("/first"));
    for _ in 0..5 {
        check_next_response(&mut balancer.connect(), "after an early response");
    }
}
