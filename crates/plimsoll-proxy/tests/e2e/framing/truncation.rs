//! Truncated responses: the client sees the truncation, never a complete message or an orderly close.

use crate::kit::{
    Balancer, Destination, EndKind, Framing, ReadEnd, Setup, get, respond_ok, respond_with, wait_until,
};

#[derive(Copy, Clone, Debug, PartialEq)]
enum BreakKind {
    End,
    Reset,
    /// Bytes that are not a chunk.
    Garbage,
}

fn start_breaking(head: &'static str, body: &'static str, kind: BreakKind) -> (Destination, Balancer) {
    let destination = Destination::start(move |conn| {
        if conn.number > 0 {
            return respond_ok("next")(conn);
        }
        if conn.request().is_some() {
            conn.send(head);
            conn.send(body);
            match kind {
                BreakKind::End => {}
                // A reset may discard data in flight; only the way of ending matters here.
                BreakKind::Reset => conn.reset(),
                BreakKind::Garbage => {
                    conn.send("\0\0\r\n");
                    conn.read_to_end();
                }
            }
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    (destination, balancer)
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const TO_END: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/// Returns the visible truncation as `Err`, or the status of an error response as `Ok`.
fn fetch(balancer: &Balancer, version: &str) -> Result<u16, ReadEnd> {
    let mut client = balancer.connect();
    client.send(format!("GET /first HTTP/{version}\r\nHost: test\r\n\r\n"));
    let response = client.try_read_response("GET");
    response.map(|response| response.status)
}

#[test]
fn http_1_1_client_sees_the_truncation() {
    for (head, body, kind) in [
        (LENGTH, "half", BreakKind::End),
        (LENGTH, "half", BreakKind::Reset),
        (LENGTH, "", BreakKind::End),
        (CHUNKED, "4\r\nhalf\r\n", BreakKind::End),
        (CHUNKED, "4\r\nhalf\r\n", BreakKind::Reset),
        (CHUNKED, "4\r\nhalf\r\n", BreakKind::Garbage),
        (CHUNKED, "10\r\nhalf", BreakKind::End),
        (CHUNKED, "4\r\nhalf\r\n0\r\n", BreakKind::End),
        (CHUNKED, "4\r\nhalf\r\n0\r\nX: y\r\n", BreakKind::End),
        (CHUNKED, "4\r\nhalfX", BreakKind::Garbage),
        (TO_END, "half", BreakKind::Reset),
    ] {
        let (_destination, balancer) = start_breaking(head, body, kind);
        let seen = fetch(&balancer, "1.1");
        let broken = seen.as_ref().is_ok_and(|&status| status == 502)
            || seen.as_ref().is_err_and(|f| matches!(f.kind, EndKind::Closed | EndKind::Reset));
        assert!(broken, "{head:?} {body:?} {kind:?}: {seen:?}");
        // Malformed chunks that arrived with the head give a 502: nothing was forwarded before.
        let counted = balancer.refusals("truncated") + balancer.refusals("bad_response");
        assert_eq!(counted, 1, "{head:?} {body:?} {kind:?}");
        assert_eq!(balancer.fetch(get("/next")).text(), "next");
    }
}

#[test]
fn http_1_0_client_sees_a_reset_where_a_close_would_end_the_body() {
    for (head, body, kind) in [
        (CHUNKED, "4\r\nhalf\r\n", BreakKind::End),
        (CHUNKED, "4\r\nhalf\r\n", BreakKind::Garbage),
        (CHUNKED, "10\r\nhalf", BreakKind::Reset),
        (TO_END, "half", BreakKind::Reset),
        (LENGTH, "half", BreakKind::End),
    ] {
        let (_destination, balancer) = start_breaking(head, body, kind);
        let seen = fetch(&balancer, "1.0");
        let broken = seen.as_ref().is_ok_and(|&status| status == 502)
            || seen
                .as_ref()
                .is_err_and(|f| f.kind == EndKind::Reset || (head == LENGTH && f.kind == EndKind::Closed));
        assert!(broken, "{head:?} {body:?} {kind:?}: {seen:?}");
    }
}

#[test]
fn response_until_close_is_complete_after_an_orderly_close() {
    let (_destination, balancer) = start_breaking(TO_END, "whole", BreakKind::End);
    let response = balancer.fetch(get("/"));
    assert_eq!((response.text().as_str(), response.framing), ("whole", Framing::Chunked));
    let (_destination, balancer) = start_breaking(TO_END, "whole", BreakKind::End);
    let response = balancer.fetch("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((response.text().as_str(), response.framing), ("whole", Framing::ToEnd));
}

#[test]
fn truncated_response_head_is_a_502() {
    for (head, kind) in [
        ("HTTP/1.1 200 OK\r\nContent-", BreakKind::End),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", BreakKind::End),
        ("HTTP/1.1 200 OK\r\n", BreakKind::Reset),
        ("HTTP/1.1 100 Continue\r\n\r\n", BreakKind::End),
        ("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 2", BreakKind::End),
        ("H", BreakKind::End),
    ] {
        let (destination, balancer) = start_breaking(head, "", kind);
        let seen = fetch(&balancer, "1.1");
        // A reset may overtake the bytes before it: then the response is empty, and the request is retried.
        let repeated = kind == BreakKind::Reset && destination.requests().len() == 2;
        assert!(repeated || seen.as_ref().is_ok_and(|&status| status == 502), "{head:?} {kind:?}: {seen:?}");
        assert_eq!(balancer.fetch(get("/next")).text(), "next");
    }
}

#[test]
fn malformed_body_before_anything_was_forwarded_is_a_502() {
    let destination = Destination::start(respond_with(format!("{CHUNKED}no chunk\r\n")));
    let balancer = Setup::http(&[&destination]).start();
    let response = balancer.fetch(get("/"));
    assert_eq!(response.status, 502, "{response:?}");
}

#[test]
fn destination_that_truncates_every_response_is_ejected() {
    let breaks = Destination::start(|conn| {
        if conn.request().is_some() {
            conn.send(LENGTH);
        }
    });
    let good = Destination::start(respond_ok("good"));
    let balancer =
        Setup::http(&[&breaks, &good]).with(|s| s.pools[0].outlier.consecutive_failures = 3).start();
    wait_until("the destination is ejected", || {
        let mut client = balancer.connect();
        client.send(get("/"));
        let _broken_or_whole = client.try_read_response("GET");
        balancer.destination(0).status.as_str() == "ejected"
    });
}

#[test]
fn truncated_response_counts_as_one_failure() {
    let (_destination, balancer) = start_breaking(LENGTH, "half", BreakKind::End);
    let _broken = fetch(&balancer, "1.1");
    let counts = balancer.destination(0).counts;
    assert_eq!(
        (counts.answered(), counts.failed()),
        (1, 1),
        "the head counts as a response, the truncation as a failure"
    );
    assert_eq!(balancer.destination(0).in_flight, 0);
}
