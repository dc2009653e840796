//! Many requests on one connection: answers in order, each to its own request, however the bytes were cut.

use crate::kit::{Destination, Setup, Visit, get, ok, post};

/// Answers every request with what it asked for.
fn echo(visit: &mut Visit) {
    while let Some(request) = visit.request() {
        let body =
            format!("{} {} {}", request.method, request.target, String::from_utf8_lossy(&request.body));
        visit.send(ok(&body));
    }
}

#[test]
fn answers_come_in_the_order_of_their_requests() {
    let destinations = [Destination::start(echo), Destination::start(echo)];
    let balancer = Setup::http(&[&destinations[0], &destinations[1]]).start();
    let mut client = balancer.connect();
    let all: String = (0..300)
        .map(|n| if n % 3 == 0 { post(&format!("/{n}"), &format!("b{n}")) } else { get(&format!("/{n}")) })
        .collect();
    client.send(all);
    for n in 0..300 {
        let expected = if n % 3 == 0 { format!("POST /{n} b{n}") } else { format!("GET /{n} ") };
        assert_eq!(client.answer().text(), expected);
    }
    client.expect_open();
}

#[test]
fn two_requests_are_two_wherever_they_are_cut() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let chunked = "POST /b HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let both = post("/a", "hello") + chunked + &get("/c");
    for cut in 1..both.len() {
        let mut client = balancer.connect();
        client.send(&both[..cut]);
        // The second half is a segment of its own: the first was taken, or it waits in the socket.
        std::thread::yield_now();
        client.send(&both[cut..]);
        for expected in ["POST /a hello", "POST /b hi", "GET /c "] {
            assert_eq!(client.answer().text(), expected, "cut at {cut}");
        }
    }
}

#[test]
fn a_pipeline_in_single_bytes() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let all: String = (0..20).map(|n| post(&format!("/{n}"), "body")).collect();
    client.send_in_steps(all, 1, std::time::Duration::ZERO);
    for n in 0..20 {
        assert_eq!(client.answer().text(), format!("POST /{n} body"));
    }
}

#[test]
fn a_pipeline_larger_than_any_buffer() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = "x".repeat(3000);
    let all: String = (0..200).map(|n| post(&format!("/{n}"), &body)).collect();
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || sender.send(all));
    for n in 0..200 {
        assert_eq!(client.answer().text(), format!("POST /{n} {body}"));
    }
    sending.join().expect("sent");
}

#[test]
fn a_pipeline_whose_client_stops_reading_does_not_grow() {
    let answer = ok(&"y".repeat(100_000));
    let destination = Destination::start(move |visit| {
        while visit.request().is_some() {
            visit.send(&answer);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.receive_little();
    client.send((0..500).map(|n| get(&format!("/{n}"))).collect::<String>());
    // 50 MB are asked for. What is not read backs up to the destination; it has not answered them all.
    crate::kit::until("the first answers", || destination.requests().len() > 3);
    let served = destination.requests().len();
    assert!(served < 400, "{served} answers of 100 kB were taken for a client that reads nothing");
    for n in 0..500 {
        assert_eq!(client.answer().body.len(), 100_000, "answer {n}");
    }
}
