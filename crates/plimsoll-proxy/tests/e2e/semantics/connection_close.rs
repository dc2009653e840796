//! Closing after a response: unread bytes of the client never cause a reset that destroys the response.

use crate::kit::{
    Balancer, Client, Destination, EndKind, Gate, Setup, get, ms, ok, post, random_bytes, wait_until,
};

const SIZE: usize = 3 << 20;

/// Starts a destination that sends the head and 1,000 bytes, waits at the gate, and sends the rest.
fn start_large(head: &'static str, gate: &Gate) -> Destination {
    let wait = gate.clone();
    Destination::start(move |conn| {
        while conn.request().is_some() {
            conn.send(head);
            conn.send(random_bytes(21, 1000));
            wait.wait();
            conn.send(&random_bytes(21, SIZE)[1000..]);
            if !head.contains("Length") {
                return;
            }
        }
    })
}

/// Checks that the whole body arrives although the client sent unread bytes and reads late.
fn check_arrives_whole(balancer: &Balancer, client: &mut Client, gate: &Gate, more: &str) {
    wait_until("the head and a part are there", || client.has_bytes());
    client.send(more);
    gate.open();
    wait_until("the proxy is done with it", || {
        balancer.active() == 0 || balancer.destination(0).in_flight == 0
    });
    // The client reads only now: the proxy's close must not discard bytes already sent.
    std::thread::sleep(ms(50));
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (200, true));
    assert!(response.body == random_bytes(21, SIZE));
    assert!(matches!(client.read_to_end().kind, EndKind::Closed | EndKind::Reset));
}

#[test]
fn pipelined_requests_do_not_destroy_the_last_response_of_a_drain() {
    let gate = Gate::default();
    let destination = start_large("HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n", &gate);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    wait_until("it is in", || balancer.active() == 1);
    balancer.handle.drain();
    wait_until("new connections are refused", || Client::try_connect(balancer.endpoint()).is_err());
    client.send(get("/large"));
    check_arrives_whole(&balancer, &mut client, &gate, &get("/never").repeat(3));
    assert_eq!(destination.requests().len(), 1);
}

#[test]
fn extra_line_of_an_http_1_0_client_does_not_destroy_the_response() {
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let gate = Gate::default();
        let destination = start_large(head, &gate);
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send("GET /large HTTP/1.0\r\nHost: t\r\n\r\n");
        check_arrives_whole(&balancer, &mut client, &gate, "\r\n");
    }
}

#[test]
fn response_before_a_large_body_was_read_arrives() {
    let destination = Destination::start(|conn| {
        if conn.head().is_some() {
            conn.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
            // Closes with unread bytes: a reset follows the response.
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let body = "x".repeat(1 << 20);
    for round in 0..20 {
        let mut client = balancer.connect();
        let mut sender = client.duplicate();
        let request = post("/", &body);
        let sending = std::thread::spawn(move || sender.try_send(request).is_ok());
        let response =
            client.try_read_response("POST").unwrap_or_else(|end| panic!("round {round}: {end:?}"));
        assert_eq!((response.status, response.text().as_str()), (413, "big"), "round {round}");
        let _may_have_been_cut_off = sending.join().expect("no panic");
    }
    assert_eq!(balancer.destination(0).counts.failed(), 0);
}

#[test]
fn local_reply_in_a_drain_arrives_despite_pipelined_requests() {
    let gate = Gate::default();
    let wait = gate.clone();
    let destination = Destination::start(move |conn| {
        conn.request();
        wait.wait();
        conn.send(ok("x").replace("HTTP", "garbage"));
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    wait_until("it is there", || destination.requests().len() == 1);
    balancer.handle.drain();
    wait_until("new connections are refused", || Client::try_connect(balancer.endpoint()).is_err());
    client.send(get("/never"));
    gate.open();
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (502, true));
    client.expect_closed();
}
