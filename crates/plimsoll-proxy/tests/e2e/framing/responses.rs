//! Answers that are none become a 502, and nothing of one answer ever reaches the next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::kit::{
    Answer, Balancer, Client, Destination, Fault, Gate, Setup, Visit, get, hello, ms, ok, until,
};

/// A destination whose very first answer is these bytes; every other one is a plain 200 `next`.
fn first_answers(bytes: impl Into<Vec<u8>>, then: fn(&mut Visit)) -> Destination {
    let (bytes, first) = (bytes.into(), Arc::new(AtomicBool::new(true)));
    Destination::start(move |visit| {
        while visit.request().is_some() {
            let hostile = first.swap(false, SeqCst);
            let answer = if hostile { bytes.clone() } else { ok("next").into_bytes() };
            if !visit.send(answer) {
                break;
            }
            if hostile {
                then(visit);
            }
        }
    })
}

fn stays(_: &mut Visit) {}

/// The answer to a request of `method` that the destination answers with `bytes`. Whatever it is, requests
/// after it get their own answers, on the same connection while it lasts and on others.
fn answer_made_of(method: &str, bytes: &[u8], told: &str) -> Result<Answer, Fault> {
    let destination = first_answers(bytes, stays);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(format!("{method} /first HTTP/1.1\r\nHost: test\r\n\r\n"));
    let answer = client.try_answer(method);
    if answer.as_ref().is_ok_and(|a| !a.closes()) {
        not_poisoned(&mut client, told);
    }
    for _ in 0..3 {
        not_poisoned(&mut balancer.connect(), told);
    }
    assert!(destination.requests().iter().all(|r| r.target == "/first" || r.target == "/after"), "{told}");
    answer
}

#[track_caller]
fn not_poisoned(client: &mut Client, told: &str) {
    client.send(get("/after"));
    let after = client.try_answer("GET").unwrap_or_else(|fault| panic!("{told}: the next answer: {fault:?}"));
    assert_eq!((after.status, after.text().as_str()), (200, "next"), "{told}: the next answer");
}

fn are_502s(rows: impl IntoIterator<Item = String>) {
    for row in rows {
        let told = format!("{:?}", &row[..row.len().min(100)]);
        let answer = answer_made_of("GET", row.as_bytes(), &told).unwrap_or_else(|f| panic!("{told}: {f:?}"));
        assert_eq!(answer.status, 502, "{told}: {answer:?}");
        assert!(answer.text().contains("bad_response"), "{told}: {answer:?}");
    }
}

#[test]
fn what_is_not_an_answer_is_a_502() {
    let line = |line: &str| format!("{line}\r\nContent-Length: 0\r\n\r\n");
    are_502s(["0.9", "1.2", "2", "2.0", "11"].map(|version| line(&format!("HTTP/{version} 200 OK"))));
    let statuses = "99 099 000 1000 2000 600 999 -20 20 2 2x0 0x1 +20 2.0 20\t0 200OK".split(' ');
    are_502s(statuses.chain(["", "20 0"]).map(|status| line(&format!("HTTP/1.1 {status} OK"))));
    let lines = [
        "<html>an answer of HTTP/0.9</html>",
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
    are_502s(lines.map(line));
    are_502s(["HTTP/1.1 200 OK\rContent-Length: 0\r\r", "HTTP/1.1 200 OK\r\nX: y\r\n\rx"].map(String::from));
    are_502s([line(&format!("HTTP/1.1 200 {}", "O".repeat(70_000)))]);
}

#[test]
fn an_answer_of_faulty_fields_is_a_502() {
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
        "5\u{b}",
        "5\0",
    ];
    are_502s(lengths.map(|length| head(&format!("Content-Length: {length}"))));
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
    are_502s(codings.map(|coding| head(&format!("Transfer-Encoding: {coding}"))));
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
    are_502s(lines.map(head));
    are_502s(["HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned()]);
    are_502s([head(&"X: y\r\n".repeat(300)), head(&format!("X: {}", "y".repeat(70_000)))]);
}

#[test]
fn one_reading_is_passed_on_normalised() {
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
        let answer = answer_made_of("GET", row.as_bytes(), row).unwrap_or_else(|f| panic!("{row:?}: {f:?}"));
        assert_eq!(format!("{} [{}]", answer.reason, answer.text()), expected, "{row:?}");
    }
}

#[test]
fn a_body_where_none_may_be_does_not_poison_the_next_answer() {
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
        let answer =
            answer_made_of(method, row.as_bytes(), &row).unwrap_or_else(|f| panic!("{row:?}: {f:?}"));
        assert!(
            matches!(answer.status, 200 | 204 | 304 | 404) && !answer.text().contains("poison"),
            "{row:?}: {answer:?}"
        );
    }
}

#[test]
fn a_body_that_follows_late_on_a_pooled_connection_does_not_poison_either() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, head) in [
        ("HEAD", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", poison.len())),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("GET", ok("fine")),
    ] {
        let (answered, poisoned) = (Gate::default(), Gate::default());
        let (after_answer, done, first) = (answered.clone(), poisoned.clone(), AtomicBool::new(true));
        let bytes = head.clone();
        let destination = Destination::start(move |visit| {
            while visit.request().is_some() {
                if first.swap(false, SeqCst) {
                    visit.send(&bytes);
                    after_answer.pass();
                    visit.send(poison);
                    done.open();
                } else {
                    visit.send(ok("next"));
                }
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("{method} /first HTTP/1.1\r\nHost: test\r\n\r\n"));
        let answer = client.answer_to(method);
        assert!(!answer.closes(), "{head}");
        answered.open();
        poisoned.pass();
        not_poisoned(&mut client, &head);
        not_poisoned(&mut balancer.connect(), &head);
        assert_eq!(destination.connections(), 2, "{head}: the spoilt connection serves no more");
    }
}

#[test]
fn a_body_that_follows_while_the_next_request_runs_is_nobodys_answer() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", poison.len());
        let told = head.clone();
        let first = AtomicBool::new(true);
        let asked_again = Gate::default();
        let (next, late) = (asked_again.clone(), asked_again);
        let destination = Destination::start(move |visit| {
            while visit.request().is_some() {
                if first.swap(false, SeqCst) {
                    visit.send(&head);
                    late.pass();
                    visit.send(poison);
                } else {
                    next.open();
                    std::thread::sleep(ms(50));
                    visit.send(ok("next"));
                }
            }
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("{method} /first HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert!(!client.answer_to(method).closes(), "{told}");
        not_poisoned(&mut client, &told);
        not_poisoned(&mut balancer.connect(), &told);
    }
}

/// Asks once, offering an upgrade or not; the destination answers with these bytes.
fn asked(request: &str, bytes: &str, then: fn(&mut Visit)) -> (Answer, Balancer, Destination) {
    let destination = first_answers(bytes, then);
    let balancer = Setup::http(&[&destination]).start();
    let answer = balancer.ask(request);
    (answer, balancer, destination)
}

#[test]
fn a_switch_of_protocols_nobody_offered_is_a_502() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw";
    let bare = "HTTP/1.1 101 Switching Protocols\r\n\r\nraw";
    let offer = |lines: &str| format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n");
    let rows = [
        (get("/"), switch),
        (get("/"), bare),
        (offer("Upgrade: websocket"), switch),
        (offer("Connection: Upgrade"), switch),
        (offer("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"), switch),
        (offer("Connection: Upgrade\r\nUpgrade: h2c, websocket"), switch),
        (offer("Connection: Upgrade\r\nUpgrade: websocket"), bare),
        ("GET / HTTP/1.0\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".into(), switch),
    ];
    for (request, bytes) in rows {
        let (answer, balancer, destination) = asked(&request, bytes, Visit::read_to_end);
        assert_eq!(answer.status, 502, "{request:?} {bytes:?}");
        assert!(!answer.text().contains("raw"));
        not_poisoned(&mut balancer.connect(), &request);
        let first = &destination.requests()[0];
        assert!(
            !first.fields.has("http2-settings") && first.fields.all("upgrade").join(",") != "h2c",
            "{first:?}"
        );
    }
}

#[test]
fn a_flood_of_informational_answers_ends_in_the_final_one_or_a_502() {
    for (status, count, expected) in
        [(103, 3, 200), (100, 3, 200), (102, 16, 200), (103, 100_000, 502), (100, 100_000, 502)]
    {
        let flood = format!("HTTP/1.1 {status} X\r\nA: b\r\n\r\n").repeat(count) + &ok("next");
        let (answer, balancer, _destination) = asked(&get("/"), &flood, stays);
        assert_eq!(answer.status, expected, "{count} times {status}");
        assert!(answer.informational.len() <= 16, "{} were passed on", answer.informational.len());
        assert!(status != 100 || answer.informational.is_empty(), "nobody expected a 100");
        not_poisoned(&mut balancer.connect(), "after a flood");
    }
}

#[test]
fn an_endless_head_is_a_502_in_bounded_time_and_memory() {
    let destination = Destination::start(|visit| {
        if visit.request().is_some() && visit.send("HTTP/1.1 200 OK\r\n") {
            while visit
                .send("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
            {
            }
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    assert_eq!(balancer.ask(get("/")).status, 502);
    until("the proxy hangs up on it", || destination.open() == 0);
}

#[test]
fn an_answer_in_single_bytes_is_an_answer() {
    let destination = Destination::start(|visit| {
        while visit.request().is_some() {
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;e=x\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
            visit.send_in_steps(answer, 1, std::time::Duration::ZERO);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    for _ in 0..3 {
        client.send(get("/"));
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.trailers.one("x-sum")), ("hello", Some("1")));
    }
    assert_eq!(destination.connections(), 1);
}

#[test]
fn bytes_before_any_request_are_nobodys_answer() {
    let destination = Destination::start(|visit| {
        if visit.number == 0 {
            visit.send(ok("poison"));
        }
        hello("next")(visit);
    });
    let balancer = Setup::http(&[&destination]).start();
    // The very first request is answered by whatever came first on its connection; nobody after it is.
    let _whatever = balancer.ask(get("/first"));
    for _ in 0..5 {
        not_poisoned(&mut balancer.connect(), "after an early answer");
    }
}
