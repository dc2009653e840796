//! Chunked request bodies: malformed ones are refused; extensions and forbidden trailers are not forwarded.

use crate::kit::{Destination, Setup, get, respond_ok, wait_until};

const HEAD: &str = "POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn malformed_chunks_are_refused_wherever_they_arrive() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(9000));
    let many = format!("0\r\n{}\r\n", "X-Trailer: 12345678\r\n".repeat(500));
    let rows = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "g\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "7FFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "5;\nx\r\nhello\r\n0\r\n\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5 5\nhello\r\n0\r\n\r\n",
        ";x\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\nX: a\rb\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\n X: folded\r\n\r\n",
        "0\r\nX: y\r\n folded\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\n\n",
        "0\n\n",
        "0\r\n\rx",
        &long,
        &many,
    ];
    for row in rows {
        for (with_the_head, step) in [(true, row.len()), (false, row.len()), (false, 1)] {
            if step == 1 && row.len() > 1000 {
                continue;
            }
            check_defect(row, with_the_head, step);
        }
    }
}

fn check_defect(row: &str, with_the_head: bool, step: usize) {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let tail = get("/smuggled");
    if with_the_head {
        client.send(format!("{HEAD}{row}{tail}"));
    } else {
        client.send(HEAD);
        wait_until("the head reaches the destination", || !destination.records().concat().is_empty());
        for piece in row.as_bytes().chunks(step).chain([tail.as_bytes()]) {
            if client.try_send(piece).is_err() {
                break;
            }
        }
    }
    let context =
        format!("{:?}, with the head: {with_the_head}, in steps of {step}", &row[..row.len().min(80)]);
    let response = client.try_read_response("POST").unwrap_or_else(|end| panic!("{context}: {end:?}"));
    assert_eq!((response.status, response.closes()), (400, true), "{context}");
    assert_eq!(client.read_to_end().received, b"", "{context}");
    drop(client);
    drop(balancer);
    let seen = destination.recorded();
    assert!(seen.iter().all(|seen| seen.requests.is_empty()), "{context}: {seen:?}");
    assert!(!with_the_head || seen.is_empty(), "{context}: {seen:?}");
}

#[test]
fn valid_chunks_are_forwarded_in_any_notation() {
    let rows = [
        ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
        ("0\r\n\r\n", "", ""),
        ("000\r\n\r\n", "", ""),
        ("0005\r\nhello\r\n0\r\n\r\n", "hello", ""),
        ("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", ""),
        ("5;name=value\r\nhello\r\n0;last\r\n\r\n", "hello", ""),
        ("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", "hello", ""),
        ("5 ; a\r\nhello\r\n0 \r\n\r\n", "hello", ""),
        ("1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", "\r\n", ""),
        ("0\r\nX-Sum: 1\r\nX-More:  2 \r\n\r\n", "", "X-Sum=1 X-More=2"),
        ("0\r\nHost: evil\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n", "", "X-Sum=1"),
        ("0\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nUpgrade: x\r\nTE: y\r\n\r\n", "", ""),
        ("0\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nExpect: 100-continue\r\n\r\n", "", ""),
    ];
    for (row, body, trailers) in rows {
        for step in [row.len(), 1, 3] {
            let destination = Destination::start(respond_ok("ok"));
            let balancer = Setup::http(&[&destination]).start();
            let mut client = balancer.connect();
            client.send(HEAD);
            client.send_in_steps(row, step, std::time::Duration::ZERO);
            client.send(get("/b"));
            assert_eq!((client.read_response().status, client.read_response().status), (200, 200), "{row:?}");
            let requests = destination.requests();
            let targets: Vec<_> = requests.iter().map(|r| r.target.as_str()).collect();
            assert_eq!(targets, ["/a", "/b"], "{row:?}");
            assert_eq!(String::from_utf8_lossy(&requests[0].body), body, "{row:?}");
            let lines: Vec<_> = requests[0].trailers.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
            assert_eq!(lines.join(" "), trailers, "{row:?}");
        }
    }
}

#[test]
fn incomplete_body_never_becomes_a_request() {
    for row in ["5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX: y\r\n", "5"] {
        for abort in [true, false] {
            let destination = Destination::start(respond_ok("ok"));
            let balancer = Setup::http(&[&destination]).start();
            let mut client = balancer.connect();
            client.send(format!("{HEAD}{row}"));
            wait_until("the head reaches the destination", || destination.open() == 1);
            if abort {
                client.abort();
            } else {
                drop(client);
            }
            wait_until("the destination is context by an end", || destination.open() == 0);
            let seen = destination.recorded();
            assert!(seen.iter().all(|seen| seen.requests.is_empty()), "{row:?}: {seen:?}");
            wait_until("it is counted", || balancer.refusals("client_closed") == 1);
        }
    }
}
