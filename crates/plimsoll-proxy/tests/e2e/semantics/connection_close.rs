//! A connection that ends after an answer ends without harming it, whatever else the client has sent.

use crate::kit::{Balancer, Client, Destination, Gate, Kind, Setup, get, ms, noise, ok, post, until};

const SIZE: usize = 3 << 20;

/// Answers with the head, then waits, then with all the rest.
fn large(head: &'static str, gate: &Gate) -> Destination {
    let wait = gate.clone();
    Destination::start(move |visit| {
        while visit.request().is_some() {
            visit.send(head);
            visit.send(noise(21, 1000));
            wait.pass();
            visit.send(&noise(21, SIZE)[1000..]);
            if !head.contains("Length") {
                return;
            }
        }
    })
}

/// The whole body arrives, although the client has said more than was read, and reads only later.
fn arrives_whole(balancer: &Balancer, client: &mut Client, gate: &Gate, more: &str) {
    until("the head and a part are there", || client.has_bytes());
    client.send(more);
    gate.open();
    until("the proxy is done with it", || balancer.active() == 0 || balancer.destination(0).in_flight == 0);
    // Only now is it read; what the proxy did at the end must not take back what it has sent.
    std::thread::sleep(ms(50));
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (200, true));
    assert!(answer.body == noise(21, SIZE));
    assert!(matches!(client.rest().kind, Kind::Closed | Kind::Reset));
}

#[test]
fn requests_behind_the_last_answer_of_a_drain_do_not_break_it() {
    let gate = Gate::default();
    let destination = large("HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n", &gate);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    until("it is in", || balancer.active() == 1);
    balancer.handle.drain();
    until("the door is shut", || Client::try_connect(balancer.place()).is_err());
    client.send(get("/large"));
    arrives_whole(&balancer, &mut client, &gate, &get("/never").repeat(3));
    assert_eq!(destination.requests().len(), 1);
}

#[test]
fn nor_does_an_extra_line_of_an_old_client() {
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let gate = Gate::default();
        let destination = large(head, &gate);
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send("GET /large HTTP/1.0\r\nHost: t\r\n\r\n");
        arrives_whole(&balancer, &mut client, &gate, "\r\n");
    }
}

#[test]
fn an_answer_given_before_a_large_body_was_read_arrives() {
    let destination = Destination::start(|visit| {
        if visit.head().is_some() {
            visit.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
            // Closed with bytes unread: a reset follows the answer.
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let body = "x".repeat(1 << 20);
    for round in 0..20 {
        let mut client = balancer.connect();
        let mut sender = client.twin();
        let request = post("/", &body);
        let sending = std::thread::spawn(move || sender.try_send(request).is_ok());
        let answer = client.try_answer("POST").unwrap_or_else(|fault| panic!("round {round}: {fault:?}"));
        assert_eq!((answer.status, answer.text().as_str()), (413, "big"), "round {round}");
        let _may_have_been_cut_off = sending.join().expect("no panic");
    }
    assert_eq!(balancer.destination(0).counts.failed(), 0);
}

#[test]
fn a_503_of_ours_in_a_drain_arrives_with_requests_behind_it() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |visit| {
        visit.request();
        wait.pass();
        visit.send(ok("x").replace("HTTP", "garbage"));
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    until("it is there", || destination.requests().len() == 1);
    balancer.handle.drain();
    until("the door is shut", || Client::try_connect(balancer.place()).is_err());
    client.send(get("/never"));
    gate.open();
    let answer = client.answer();
    assert_eq!((answer.status, answer.closes()), (502, true));
    client.expect_end();
}
