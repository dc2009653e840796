//! Pipelining: responses in request order, however the bytes are segmented.

use crate::kit::{Connection, Destination, Setup, get, ok, post};

/// Responds with method, target and body of the request.
fn echo(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        let body =
            format!("{} {} {}", request.method, request.target, String::from_utf8_lossy(&request.body));
        conn.send(ok(&body));
    }
}

#[test]
fn responses_have_the_order_of_their_requests() {
    let destinations = [Destination::start(echo), Destination::start(echo)];
    let balancer = Setup::http(&[&destinations[0], &destinations[1]]).start();
    let mut client = balancer.connect();
    let all: String = (0..300)
        .map(|n| if n % 3 == 0 { post(&format!("/{n}"), &format!("b{n}")) } else { get(&format!("/{n}")) })
        .collect();
    client.send(all);
    for n in 0..300 {
        let expected = if n % 3 == 0 { format!("POST /{n} b{n}") } else { format!("GET /{n} ") };
        assert_eq!(client.read_response().text(), expected);
    }
    client.expect_open();
}

#[test]
fn pipelined_requests_may_be_split_anywhere() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let chunked = "POST /b HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let both = post("/a", "hello") + chunked + &get("/c");
    for cut in 1..both.len() {
        let mut client = balancer.connect();
        client.send(&both[..cut]);
        // The second part is a segment of its own: the first was read before, or waits in the socket.
        std::thread::yield_now();
        client.send(&both[cut..]);
        for expected in ["POST /a hello", "POST /b hi", "GET /c "] {
            assert_eq!(client.read_response().text(), expected, "cut at {cut}");
        }
    }
}

#[test]
fn pipelined_requests_may_arrive_in_single_bytes() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let all: String = (0..20).map(|n| post(&format!("/{n}"), "body")).collect();
    client.send_in_steps(all, 1, std::time::Duration::ZERO);
    for n in 0..20 {
        assert_eq!(client.read_response().text(), format!("POST /{n} body"));
    }
}

#[test]
fn pipeline_may_be_larger_than_any_buffer() {
    let destination = Destination::start(echo);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = "x".repeat(3000);
    let all: String = (0..200).map(|n| post(&format!("/{n}"), &body)).collect();
    let mut sender = client.duplicate();
    let sending = std::thread::spawn(move || sender.send(all));
    for n in 0..200 {
        assert_eq!(client.read_response().text(), format!("POST /{n} {body}"));
    }
    sending.join().expect("sent");
}

#[test]
fn pipeline_is_not_buffered_for_a_client_that_stops_reading() {
    let response = ok(&"y".repeat(100_000));
    let destination = Destination::start(move |conn| {
        while conn.request().is_some() {
            conn.send(&response);
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.shrink_receive_buffer();
    client.send((0..500).map(|n| get(&format!("/{n}"))).collect::<String>());
    // The responses total 50 MB. Unread data blocks the destination, which cannot have sent all of them.
    crate::kit::wait_until("the first responses were sent", || destination.requests().len() > 3);
    let served = destination.requests().len();
    assert!(served < 400, "{served} responses of 100 kB were read for a client that reads nothing");
    for n in 0..500 {
        assert_eq!(client.read_response().body.len(), 100_000, "response {n}");
    }
}
