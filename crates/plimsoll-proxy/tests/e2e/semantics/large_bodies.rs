//! Large bodies arrive unchanged, and a slow reader blocks its sender instead of filling the proxy's memory.

use crate::kit::{
    Client, Connection, Destination, Gate, Response, Setup, checksum, get, ms, ok, random_bytes, respond_ok,
};

const SIZE: usize = 8 << 20;
/// Maximum of bytes in flight to a reader that reads nothing: the buffers of four sockets, which the kernel grows
/// to 4 MiB when sending, and little in the proxy.
const MAX_BUFFERED: usize = 24 << 20;

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 100);
    let mut size = 1;
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        // Sizes from one byte to far beyond any buffer.
        (size, rest) = (if size > 600_000 { 1 } else { size * 3 + 1 }, after);
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Responds with the body's length and checksum.
fn respond_checksum(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        conn.send(ok(&format!("{} {:x}", request.body.len(), checksum(&request.body))));
    }
}

#[test]
fn large_request_body_arrives_unchanged() {
    let destination = Destination::start(respond_checksum);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = random_bytes(1, SIZE);
    let expected = format!("{} {:x}", body.len(), checksum(&body));
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"));
    client.send(&body);
    assert_eq!(client.read_response().text(), expected);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunked(&body));
    assert_eq!(client.read_response().text(), expected);
    client.send(get("/"));
    assert!(client.read_response().text().starts_with("0 "));
    assert_eq!(destination.connections(), 1);
}

/// Starts a destination that responds with `body` in the framing named by the path.
fn start_serving(body: Vec<u8>) -> Destination {
    let in_chunks = chunked(&body);
    Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            match request.target.as_str() {
                "/length" => {
                    conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
                    conn.send(&body);
                }
                "/chunked" => {
                    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    conn.send(&in_chunks);
                }
                _ => {
                    conn.send("HTTP/1.1 200 OK\r\n\r\n");
                    conn.send(&body);
                    return;
                }
            }
        }
    })
}

#[test]
fn large_response_body_arrives_unchanged() {
    let body = random_bytes(2, SIZE);
    let sum = checksum(&body);
    let destination = start_serving(body);
    let balancer = Setup::http(&[&destination]).start();
    for version in ["1.1", "1.0"] {
        for path in ["/length", "/chunked", "/to-end"] {
            let response = balancer.fetch(format!("GET {path} HTTP/{version}\r\nHost: test\r\n\r\n"));
            assert_eq!((response.body.len(), checksum(&response.body)), (SIZE, sum), "{path} {version}");
        }
    }
}

/// Reads a complete response slowly.
fn read_slowly(client: &mut Client) -> Vec<u8> {
    while client.unread.len() < 100_000 {
        assert!(matches!(client.read_some(), Ok(1..)));
        std::thread::sleep(ms(1));
    }
    client.read_response().body
}

#[test]
fn large_response_arrives_at_a_slow_reader() {
    let body = random_bytes(3, SIZE);
    let sum = checksum(&body);
    let destination = start_serving(body);
    let balancer = Setup::http(&[&destination]).start();
    for path in ["/length", "/chunked", "/to-end"] {
        let mut client = balancer.connect();
        client.shrink_receive_buffer();
        client.send(get(path));
        let read = read_slowly(&mut client);
        assert_eq!((read.len(), checksum(&read)), (SIZE, sum), "{path}");
    }
}

#[test]
fn client_that_does_not_read_blocks_its_destination() {
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let (full, release) = (Gate::default(), Gate::default());
        let (blocked, wait) = (full.clone(), release.clone());
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = sent.clone();
        let destination = Destination::start(move |conn| {
            conn.request();
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let chunk = if framing.starts_with('T') { chunk_of(64 * 1024) } else { vec![b'x'; 64 * 1024] };
            count.store(
                conn.send_until_blocked(&chunk, 64 << 20, ms(300)),
                std::sync::atomic::Ordering::SeqCst,
            );
            blocked.open();
            wait.wait();
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.shrink_receive_buffer();
        client.send(get("/"));
        full.wait();
        let sent = sent.load(std::sync::atomic::Ordering::SeqCst);
        assert!(sent < MAX_BUFFERED, "{framing}: {sent} bytes were read for a client that reads nothing");
        release.open();
        client.abort();
    }
}

fn chunk_of(size: usize) -> Vec<u8> {
    let mut chunk = format!("{size:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + size, b'x');
    chunk.extend_from_slice(b"\r\n");
    chunk
}

#[test]
fn destination_that_does_not_read_blocks_its_client() {
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let release = Gate::default();
        let wait = release.clone();
        let destination = Destination::start(move |conn| {
            conn.shrink_receive_buffer();
            wait.wait();
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        let chunk = if framing.starts_with('T') { chunk_of(64 * 1024) } else { vec![b'x'; 64 * 1024] };
        let sent = client.send_until_blocked(&chunk, 64 << 20, ms(300));
        assert!(
            sent < MAX_BUFFERED,
            "{framing}: {sent} bytes were read for a destination that reads nothing"
        );
        release.open();
        client.abort();
    }
}

/// Sends a whole request, and reads the response only then.
fn send_first(client: &mut Client, framing: &str) -> Response {
    client.send(format!("PUT / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
    let chunk = if framing.starts_with('T') { chunk_of(1 << 20) } else { vec![b'x'; 1 << 20] };
    for _ in 0..12 {
        client.send(&chunk);
    }
    let response = client.read_response();
    client.expect_closed();
    response
}

#[test]
fn early_responses_reach_clients_that_send_first() {
    let length = format!("Content-Length: {}", 12 << 20);
    for framing in [&*length, "Transfer-Encoding: chunked"] {
        // A local reply, at the head or in the middle of the body.
        let destination = Destination::start(respond_ok("ok"));
        let limited = Setup::http(&[&destination]).with(|s| s.listeners[0].limits.body_bytes = 1 << 20);
        assert_eq!(send_first(&mut limited.start().connect(), framing).status, 413, "{framing}");
        let none = Setup::http(&[]).start();
        assert_eq!(send_first(&mut none.connect(), framing).status, 503, "{framing}");
        // A short and a long response of a destination that reads no further.
        for size in [2, 8 << 20] {
            let destination = Destination::start(move |conn| {
                conn.head();
                conn.send(format!("HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"));
                conn.send(vec![b'y'; size]);
                conn.shutdown_write();
                conn.read_to_end();
            });
            let balancer = Setup::http(&[&destination]).start();
            let response = send_first(&mut balancer.connect(), framing);
            assert_eq!((response.status, response.body.len()), (413, size), "{framing}");
        }
    }
}

#[test]
fn bulk_data_flows_in_both_directions_at_once() {
    let destination = Destination::start(|conn| {
        if conn.head().is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            loop {
                let bytes = std::mem::take(&mut conn.buffer);
                if !conn.send(bytes) || !conn.read() {
                    return;
                }
            }
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = random_bytes(4, SIZE);
    let sum = checksum(&body);
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"));
    let mut sender = client.duplicate();
    let sending = std::thread::spawn(move || sender.send(&body));
    let response = client.read_response();
    assert_eq!((response.body.len(), checksum(&response.body)), (SIZE, sum));
    sending.join().expect("all bytes were accepted");
}
