//! Ambiguous request heads are refused; all others are forwarded normalised, with exactly one reading.

use crate::kit::{Destination, EndKind, Request, Setup, respond_ok};

/// The expected outcome for some bytes.
enum Expected {
    /// The status is one of these, the connection is closed, and the destination receives nothing.
    Refuse(&'static [u16]),
    /// The destination receives exactly these requests, as [`format_requests`] writes them.
    Forward(&'static str),
}
use Expected::{Forward, Refuse};

const BAD: Expected = Refuse(&[400]);

/// Formats requests as `METHOD target host [body]`, separated by semicolons.
fn format_requests(requests: &[Request]) -> String {
    let one = |r: &Request| {
        let host = r.fields.one("host").unwrap_or_default();
        format!("{} {} {host} [{}]", r.method, r.target, String::from_utf8_lossy(&r.body))
    };
    requests.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Sends the row to a new proxy, at once and byte by byte, and checks both sides.
fn check(row: &[u8], expected: &Expected) {
    for step in [row.len(), 1] {
        let destination = Destination::start(respond_ok("ok"));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        for piece in row.chunks(step) {
            // The refusal may arrive before the last byte is sent.
            if client.try_send(piece).is_err() {
                break;
            }
        }
        let context = format!("{:?} in steps of {step}", String::from_utf8_lossy(row));
        match *expected {
            Refuse(statuses) => {
                let response =
                    client.try_read_response("GET").unwrap_or_else(|end| panic!("{context}: {end:?}"));
                assert!(statuses.contains(&response.status), "{context}: {response:?}");
                assert!(response.closes(), "{context}: {response:?}");
                let rest = client.read_to_end();
                assert!(rest.received.is_empty() && rest.kind != EndKind::TimedOut, "{context}: {rest:?}");
                assert_eq!(destination.records().concat(), b"", "{context}");
            }
            Forward(expected) => {
                for _ in expected.split("; ") {
                    let response =
                        client.try_read_response("GET").unwrap_or_else(|end| panic!("{context}: {end:?}"));
                    assert_eq!(response.status, 200, "{context}");
                }
                client.shutdown_write();
                assert_eq!(client.read_to_end().received, b"", "{context}");
                assert_eq!(format_requests(&destination.requests()), expected, "{context}");
            }
        }
    }
}

fn check_all<'r>(rows: impl IntoIterator<Item = (&'r str, Expected)>, around: impl Fn(&str) -> String) {
    for (row, expected) in rows {
        check(around(row).as_bytes(), &expected);
    }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn content_length_with_transfer_encoding_is_refused() {
    let rows = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ];
    check_all(rows.map(|row| (row, BAD)), |row| {
        format!("POST / HTTP/1.1\r\nHost: test\r\n{row}\r\n\r\n0\r\n\r\n{SMUGGLED}")
    });
}

#[test]
fn refusal_of_content_length_with_transfer_encoding_names_both() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    let response = client.try_read_response("POST").expect("a response");
    let body = String::from_utf8_lossy(&response.body);
    assert!(body.contains("Content-Length and Transfer-Encoding must not be sent together"), "{body}");
}

#[test]
fn malformed_transfer_encodings_are_refused() {
    let unknown = || Refuse(&[400, 501]);
    let rows = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chun ked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n ",
        "Transfer-Encoding\r\n: chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding: chunked\u{c}",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding: chunked\0",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\rX: y",
        "Transfer-Encoding; chunked",
        "Transfer-Encoding: chunked\r\r",
    ];
    check_all(rows.map(|row| (row, unknown())), |row| {
        format!("POST / HTTP/1.1\r\nHost: test\r\n{row}\r\n\r\n0\r\n\r\n{SMUGGLED}")
    });
}

#[test]
fn valid_transfer_encodings_are_normalised() {
    let rows = [
        "Transfer-Encoding: chunked",
        "TRANSFER-ENCODING: CHUNKED",
        "tRANSFER-eNCODING:chUNKed",
        "Transfer-Encoding:   chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: chunked \t",
        "Transfer-Encoding: chunked\nX: bare-line-feed",
        "X:\r\nTransfer-Encoding: chunked",
    ];
    check_all(rows.map(|row| (row, Forward("POST /a test [hello]; GET /b test []"))), |row| {
        let next = "GET /b HTTP/1.1\r\nHost: test\r\n\r\n";
        format!("POST /a HTTP/1.1\r\nHost: test\r\n{row}\r\n\r\n5\r\nhello\r\n0\r\n\r\n{next}")
    });
}

#[test]
fn fields_similar_to_framing_fields_are_ignored() {
    let rows = [
        "Transfer_Encoding: chunked",
        "Content-Encoding: chunked",
        "X-Transfer-Encoding: chunked",
        "TE: chunked",
    ];
    check_all(rows.map(|row| (row, Forward("POST /a test [abc]; GET /b test []"))), |row| {
        let next = "GET /b HTTP/1.1\r\nHost: test\r\n\r\n";
        format!("POST /a HTTP/1.1\r\nHost: test\r\n{row}\r\nContent-Length: 3\r\n\r\nabc{next}")
    });
}

#[test]
fn transfer_encoding_in_http_1_0_is_refused() {
    check_all([("Transfer-Encoding: chunked", BAD), ("transfer-encoding: identity", BAD)], |row| {
        format!("POST / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n{row}\r\n\r\n0\r\n\r\n{SMUGGLED}")
    });
}

#[test]
fn content_length_is_a_single_decimal_number() {
    let rows = [
        ("Content-Length: 5", Forward("POST / test [hello]")),
        ("content-length:\t 5 \t", Forward("POST / test [hello]")),
        ("Content-Length: 5\r\nContent-Length: 5", Forward("POST / test [hello]")),
        ("Content-Length: 0005", Forward("POST / test [hello]")),
        ("Content-Length: 5\r\nContent-Length: 0", BAD),
        ("Content-Length: 0\r\nContent-Length: 5", BAD),
        ("Content-Length: 5, 5", BAD),
        ("Content-Length: 5,0", BAD),
        ("Content-Length: +5", BAD),
        ("Content-Length: -5", BAD),
        ("Content-Length: 5 5", BAD),
        ("Content-Length: 0x5", BAD),
        ("Content-Length: 5.0", BAD),
        ("Content-Length: 5e0", BAD),
        ("Content-Length: five", BAD),
        ("Content-Length:", BAD),
        ("Content-Length: \"5\"", BAD),
        ("Content-Length: 18446744073709551621", BAD),
        ("Content-Length: 9223372036854775808", BAD),
        ("Content-Length: 99999999999999999999999999999999999995", BAD),
        ("Content-Length : 5", BAD),
        ("Content-Length: 5\0", BAD),
        ("Content-Length:\u{b}5", BAD),
        ("X: y\rContent-Length: 5", BAD),
    ];
    check_all(rows, |row| format!("POST / HTTP/1.1\r\nHost: test\r\n{row}\r\n\r\nhello"));
}

#[test]
fn line_endings_and_fields_follow_the_rfc() {
    let fine = || Forward("GET /a test []");
    let rows = [
        ("GET /a HTTP/1.1\r\nHost: test\r\n\r\n", fine()),
        ("GET /a HTTP/1.1\nHost: test\n\n", fine()),
        ("\r\n\r\nGET /a HTTP/1.1\r\nHost: test\r\n\r\n", fine()),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX:\r\n\r\n", fine()),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: \t \r\n\r\n", fine()),
        ("GET /a HTTP/1.1\r\nHost: test\r\n!#$%&'*+-.^_`|~: odd\r\n\r\n", fine()),
        ("GET /a HTTP/1.1\rHost: test\r\r", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: a\rb\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: a\r\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: a\r\n\tb\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\n Host: test\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost : test\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX : a\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX\0: a\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: \u{1}\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX: \u{7f}\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\n: a\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX Y: a\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX(Y): a\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nX\u{e9}: a\r\n\r\n", BAD),
        ("GET /a HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n", BAD),
    ];
    check_all(rows, str::to_owned);
}

#[test]
fn ambiguous_request_lines_are_refused() {
    const NO: Expected = Refuse(&[400, 405, 505]);
    let rows = [
        ("GET /a", NO),
        ("GET /a HTTP/0.9", NO),
        ("GET /a HTTP/1.2", NO),
        ("GET /a HTTP/2.0", NO),
        ("GET /a http/1.1", NO),
        ("GET /a HTTP/11", NO),
        ("GET /a HTTP/1.10", NO),
        ("GET /a HTTP /1.1", NO),
        ("GET /a HTTP/1.1 ", NO),
        ("GET /a HTTP/1.1 x", NO),
        ("GET  /a HTTP/1.1", NO),
        ("GET /a  HTTP/1.1", NO),
        ("GET\t/a HTTP/1.1", NO),
        ("GET /a b HTTP/1.1", NO),
        (" GET /a HTTP/1.1", NO),
        ("G@T /a HTTP/1.1", NO),
        ("G\0T /a HTTP/1.1", NO),
        ("/a HTTP/1.1", NO),
        ("GET /a#b HTTP/1.1", NO),
        ("GET http://u:p@test/ HTTP/1.1", NO),
        ("GET http:///a HTTP/1.1", NO),
        ("GET https://test/a HTTP/1.1", NO),
        ("GET ftp://test/a HTTP/1.1", NO),
        ("GET a HTTP/1.1", NO),
        ("GET ?a HTTP/1.1", NO),
        ("GET * HTTP/1.1", NO),
        ("GET test:80 HTTP/1.1", NO),
        ("GET /\u{7f} HTTP/1.1", NO),
        ("GET /\u{e9} HTTP/1.1", NO),
        ("GET /\u{b}a HTTP/1.1", NO),
        ("GET /a\rb HTTP/1.1", NO),
        ("PRI * HTTP/2.0", NO),
        ("CONNECT test:80 HTTP/1.1", NO),
        ("TRACE /a HTTP/1.1", NO),
        ("GET http://a b/ HTTP/1.1", NO),
        ("GET http://test\\@x/ HTTP/1.1", NO),
        ("GET /a?b=/../c HTTP/1.1", Forward("GET /a?b=/../c test []")),
        ("GET //x@y/../a HTTP/1.1", Forward("GET //x@y/../a test []")),
        ("FROBNICATE /a HTTP/1.1", Forward("FROBNICATE /a test []")),
        ("get /a HTTP/1.1", Forward("get /a test []")),
    ];
    check_all(rows, |row| format!("{row}\r\nHost: test\r\n\r\n"));
}

#[test]
fn request_needs_exactly_one_valid_host() {
    let rows = [
        ("GET / HTTP/1.1\r\nHost: a.b:80\r\n\r\n", Forward("GET / a.b:80 []")),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Forward("GET / [::1]:80 []")),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Forward("GET / a []")),
        ("GET / HTTP/1.0\r\n\r\n", Forward("GET / main []")),
        ("GET http://other:81/x HTTP/1.1\r\nHost: test\r\n\r\n", Forward("GET /x other:81 []")),
        ("GET HTTP://Other?q HTTP/1.1\r\nHost: test\r\n\r\n", Forward("GET /?q Other []")),
        ("GET http://other HTTP/1.0\r\n\r\n", Forward("GET / other []")),
        ("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", Forward("OPTIONS * test []")),
        ("OPTIONS http://other HTTP/1.1\r\nHost: test\r\n\r\n", Forward("OPTIONS * other []")),
        ("GET / HTTP/1.1\r\n\r\n", BAD),
        ("GET http://other/ HTTP/1.1\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", BAD),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BAD),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", BAD),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n", BAD),
    ];
    check_all(rows, str::to_owned);
}

#[test]
fn refused_request_ends_the_pipeline_after_the_valid_ones() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("GET /a HTTP/1.1\r\nHost: t\r\n\r\nGET /b HTTP/1.1\r\nHost : t\r\n\r\n{SMUGGLED}"));
    assert_eq!((client.read_response().status, client.read_response().status), (200, 400));
    client.expect_closed();
    assert_eq!(format_requests(&destination.requests()), "GET /a t []");
    assert_eq!(balancer.refusals("bad_request"), 1);
}
