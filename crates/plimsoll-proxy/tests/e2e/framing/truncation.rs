//! An answer that breaks off is seen to break off: no made-up end, no clean close that could pass for one.

use crate::kit::{Balancer, Destination, Fault, Framing, Kind, Setup, answers, get, hello, until};

#[derive(Copy, Clone, Debug, PartialEq)]
enum How {
    End,
    Reset,
    /// Bytes that are no chunk.
    Garbage,
}

fn breaks_off(head: &'static str, body: &'static str, how: How) -> (Destination, Balancer) {
    let destination = Destination::start(move |visit| {
        if visit.number > 0 {
            return hello("next")(visit);
        }
        if visit.request().is_some() {
            visit.send(head);
            visit.send(body);
            match how {
                How::End => {}
                // Data before a reset may be lost on its way; what matters is the end.
                How::Reset => visit.reset(),
                How::Garbage => {
                    visit.send("\0\0\r\n");
                    visit.read_to_end();
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

/// `Err` is the visible truncation, `Ok` the status of an answer that says so instead.
fn ask(balancer: &Balancer, version: &str) -> Result<u16, Fault> {
    let mut client = balancer.connect();
    client.send(format!("GET /first HTTP/{version}\r\nHost: test\r\n\r\n"));
    let answer = client.try_answer("GET");
    answer.map(|answer| answer.status)
}

#[test]
fn a_client_of_http_1_1_sees_the_break() {
    for (head, body, how) in [
        (LENGTH, "half", How::End),
        (LENGTH, "half", How::Reset),
        (LENGTH, "", How::End),
        (CHUNKED, "4\r\nhalf\r\n", How::End),
        (CHUNKED, "4\r\nhalf\r\n", How::Reset),
        (CHUNKED, "4\r\nhalf\r\n", How::Garbage),
        (CHUNKED, "10\r\nhalf", How::End),
        (CHUNKED, "4\r\nhalf\r\n0\r\n", How::End),
        (CHUNKED, "4\r\nhalf\r\n0\r\nX: y\r\n", How::End),
        (CHUNKED, "4\r\nhalfX", How::Garbage),
        (TO_END, "half", How::Reset),
    ] {
        let (_destination, balancer) = breaks_off(head, body, how);
        let seen = ask(&balancer, "1.1");
        let broken = seen.as_ref().is_ok_and(|&status| status == 502)
            || seen.as_ref().is_err_and(|f| matches!(f.kind, Kind::Closed | Kind::Reset));
        assert!(broken, "{head:?} {body:?} {how:?}: {seen:?}");
        // Wrong chunks that came with the head are told by a 502: nothing had been passed on.
        let counted = balancer.refused("truncated") + balancer.refused("bad_response");
        assert_eq!(counted, 1, "{head:?} {body:?} {how:?}");
        assert_eq!(balancer.ask(get("/next")).text(), "next");
    }
}

#[test]
fn a_client_of_http_1_0_sees_a_reset_where_a_close_would_mean_the_end() {
    for (head, body, how) in [
        (CHUNKED, "4\r\nhalf\r\n", How::End),
        (CHUNKED, "4\r\nhalf\r\n", How::Garbage),
        (CHUNKED, "10\r\nhalf", How::Reset),
        (TO_END, "half", How::Reset),
        (LENGTH, "half", How::End),
    ] {
        let (_destination, balancer) = breaks_off(head, body, how);
        let seen = ask(&balancer, "1.0");
        let broken = seen.as_ref().is_ok_and(|&status| status == 502)
            || seen
                .as_ref()
                .is_err_and(|f| f.kind == Kind::Reset || (head == LENGTH && f.kind == Kind::Closed));
        assert!(broken, "{head:?} {body:?} {how:?}: {seen:?}");
    }
}

#[test]
fn an_answer_up_to_the_close_is_whole_when_its_destination_closes_cleanly() {
    let (_destination, balancer) = breaks_off(TO_END, "whole", How::End);
    let answer = balancer.ask(get("/"));
    assert_eq!((answer.text().as_str(), answer.framing), ("whole", Framing::Chunked));
    let (_destination, balancer) = breaks_off(TO_END, "whole", How::End);
    let answer = balancer.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.framing), ("whole", Framing::ToEnd));
}

#[test]
fn a_head_that_breaks_off_is_a_502() {
    for (head, how) in [
        ("HTTP/1.1 200 OK\r\nContent-", How::End),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", How::End),
        ("HTTP/1.1 200 OK\r\n", How::Reset),
        ("HTTP/1.1 100 Continue\r\n\r\n", How::End),
        ("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 2", How::End),
        ("H", How::End),
    ] {
        let (destination, balancer) = breaks_off(head, "", how);
        let seen = ask(&balancer, "1.1");
        // A reset may overtake the bytes before it: then nothing came, and the request is tried again.
        let repeated = how == How::Reset && destination.requests().len() == 2;
        assert!(repeated || seen.as_ref().is_ok_and(|&status| status == 502), "{head:?} {how:?}: {seen:?}");
        assert_eq!(balancer.ask(get("/next")).text(), "next");
    }
}

#[test]
fn a_body_that_is_wrong_before_anything_was_passed_on_is_a_502() {
    let destination = Destination::start(answers(format!("{CHUNKED}no chunk\r\n")));
    let balancer = Setup::http(&[&destination]).start();
    let answer = balancer.ask(get("/"));
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[test]
fn a_destination_that_breaks_off_every_answer_is_ejected() {
    let breaks = Destination::start(|visit| {
        if visit.request().is_some() {
            visit.send(LENGTH);
        }
    });
    let good = Destination::start(hello("good"));
    let balancer =
        Setup::http(&[&breaks, &good]).with(|s| s.pools[0].outlier.consecutive_failures = 3).start();
    until("it is ejected", || {
        let mut client = balancer.connect();
        client.send(get("/"));
        let _broken_or_whole = client.try_answer("GET");
        balancer.destination(0).status.as_str() == "ejected"
    });
}

#[test]
fn a_broken_answer_is_counted_against_its_destination_once() {
    let (_destination, balancer) = breaks_off(LENGTH, "half", How::End);
    let _broken = ask(&balancer, "1.1");
    let counts = balancer.destination(0).counts;
    assert_eq!(
        (counts.answered(), counts.failed()),
        (1, 1),
        "the head was an answer, the end of it a failure"
    );
    assert_eq!(balancer.destination(0).in_flight, 0);
}
