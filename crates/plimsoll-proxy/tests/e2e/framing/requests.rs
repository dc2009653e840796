//! Requests whose head is ambiguous are refused; one reading, normalised, is forwarded of all others.

use crate::kit::{Destination, Kind, Request, Setup, hello};

/// What must come of some bytes.
enum Must {
    /// One of these statuses, the connection ends, the destination sees nothing.
    Refuse(&'static [u16]),
    /// Exactly these requests reach the destination, as [`show`] writes them.
    Forward(&'static str),
}
use Must::{Forward, Refuse};

const BAD: Must = Refuse(&[400]);

/// `METHOD target host [body]`, in a row.
fn show(requests: &[Request]) -> String {
    let one = |r: &Request| {
        let host = r.fields.one("host").unwrap_or_default();
        format!("{} {} {host} [{}]", r.method, r.target, String::from_utf8_lossy(&r.body))
    };
    requests.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Sends the row to a proxy of its own, all at once and byte by byte, and looks at both sides.
fn check(row: &[u8], must: &Must) {
    for step in [row.len(), 1] {
        let destination = Destination::start(hello("ok"));
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        for piece in row.chunks(step) {
            // A refusal may come before the last byte.
            if client.try_send(piece).is_err() {
                break;
            }
        }
        let told = format!("{:?} in steps of {step}", String::from_utf8_lossy(row));
        match *must {
            Refuse(statuses) => {
                let answer = client.try_answer("GET").unwrap_or_else(|fault| panic!("{told}: {fault:?}"));
                assert!(statuses.contains(&answer.status), "{told}: {answer:?}");
                assert!(answer.closes(), "{told}: {answer:?}");
                let rest = client.rest();
                assert!(rest.received.is_empty() && rest.kind != Kind::Silent, "{told}: {rest:?}");
                assert_eq!(destination.records().concat(), b"", "{told}");
            }
            Forward(expected) => {
                for _ in expected.split("; ") {
                    let answer = client.try_answer("GET").unwrap_or_else(|fault| panic!("{told}: {fault:?}"));
                    assert_eq!(answer.status, 200, "{told}");
                }
                client.end();
                assert_eq!(client.rest().received, b"", "{told}");
                assert_eq!(show(&destination.requests()), expected, "{told}");
            }
        }
    }
}

fn check_all<'r>(rows: impl IntoIterator<Item = (&'r str, Must)>, around: impl Fn(&str) -> String) {
    for (row, must) in rows {
        check(around(row).as_bytes(), &must);
    }
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn a_length_beside_a_coding_is_refused() {
    let rows = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ];
    check_all(rows.map(|row| (row, BAD)), |row| {
        format!("POST / HTTP/1.1\r\nHost: test\r\n{row}\r\n\r\n0\r\n\r\n{SMUGGLED}")
    });
}

#[test]
fn the_refusal_of_a_length_beside_a_coding_names_both() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    let response = client.try_answer("POST").expect("a response");
    let body = String::from_utf8_lossy(&response.body);
    assert!(body.contains("Content-Length and Transfer-Encoding must not be sent together"), "{body}");
}

#[test]
fn codings_in_disguise_are_refused() {
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
fn one_coding_in_another_dress_is_normalised() {
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
fn names_that_only_look_like_framing_frame_nothing() {
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
fn a_coding_in_http_1_0_is_faulty_framing() {
    check_all([("Transfer-Encoding: chunked", BAD), ("transfer-encoding: identity", BAD)], |row| {
        format!("POST / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n{row}\r\n\r\n0\r\n\r\n{SMUGGLED}")
    });
}

#[test]
fn a_length_is_digits_told_once() {
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
        ("Content-Length: 99999999999999999999999999999999999995", BAD),
        ("Content-Length : 5", BAD),
        ("Content-Length: 5\0", BAD),
        ("Content-Length:\u{b}5", BAD),
        ("X: y\rContent-Length: 5", BAD),
    ];
    check_all(rows, |row| format!("POST / HTTP/1.1\r\nHost: test\r\n{row}\r\n\r\nhello"));
}

#[test]
fn lines_end_as_the_rfc_allows_and_fields_are_fields() {
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
fn request_lines_have_one_reading() {
    const NO: Must = Refuse(&[400, 405, 505]);
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
fn exactly_one_valid_host() {
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
fn a_refused_request_ends_the_pipeline_behind_the_good_ones() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("GET /a HTTP/1.1\r\nHost: t\r\n\r\nGET /b HTTP/1.1\r\nHost : t\r\n\r\n{SMUGGLED}"));
    assert_eq!((client.answer().status, client.answer().status), (200, 400));
    client.expect_end();
    assert_eq!(show(&destination.requests()), "GET /a t []");
    assert_eq!(balancer.refused("bad_request"), 1);
}
