//! Large bodies arrive as they left, and a slow reader holds up its sender instead of filling the proxy.

use crate::kit::{Client, Destination, Gate, Setup, Visit, checksum, get, ms, noise, ok};

const SIZE: usize = 8 << 20;
/// What may be under way to a reader that does not read: the buffers of four sockets, which the kernel lets
/// grow to 4 MiB when sending, and little of the proxy's own.
const UNDER_WAY: usize = 24 << 20;

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 100);
    let mut size = 1;
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        // Every size from a byte to far beyond any buffer.
        (size, rest) = (if size > 600_000 { 1 } else { size * 3 + 1 }, after);
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Answers with the body's length and checksum.
fn weigh(visit: &mut Visit) {
    while let Some(request) = visit.request() {
        visit.send(ok(&format!("{} {:x}", request.body.len(), checksum(&request.body))));
    }
}

#[test]
fn a_large_request_arrives_as_it_left() {
    let destination = Destination::start(weigh);
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = noise(1, SIZE);
    let weight = format!("{} {:x}", body.len(), checksum(&body));
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"));
    client.send(&body);
    assert_eq!(client.answer().text(), weight);
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunked(&body));
    assert_eq!(client.answer().text(), weight);
    client.send(get("/"));
    assert!(client.answer().text().starts_with("0 "));
    assert_eq!(destination.connections(), 1);
}

/// A destination whose answer is `body` in the framing the path names.
fn serves(body: Vec<u8>) -> Destination {
    let in_chunks = chunked(&body);
    Destination::start(move |visit| {
        while let Some(request) = visit.request() {
            match request.target.as_str() {
                "/length" => {
                    visit.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
                    visit.send(&body);
                }
                "/chunked" => {
                    visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    visit.send(&in_chunks);
                }
                _ => {
                    visit.send("HTTP/1.1 200 OK\r\n\r\n");
                    visit.send(&body);
                    return;
                }
            }
        }
    })
}

#[test]
fn a_large_answer_arrives_as_it_left() {
    let body = noise(2, SIZE);
    let sum = checksum(&body);
    let destination = serves(body);
    let balancer = Setup::http(&[&destination]).start();
    for version in ["1.1", "1.0"] {
        for path in ["/length", "/chunked", "/to-end"] {
            let answer = balancer.ask(format!("GET {path} HTTP/{version}\r\nHost: test\r\n\r\n"));
            assert_eq!((answer.body.len(), checksum(&answer.body)), (SIZE, sum), "{path} {version}");
        }
    }
}

/// Reads a whole answer a little at a time.
fn read_slowly(client: &mut Client) -> Vec<u8> {
    while client.unread.len() < 100_000 {
        assert!(matches!(client.read_some(), Ok(1..)));
        std::thread::sleep(ms(1));
    }
    client.answer().body
}

#[test]
fn a_large_answer_survives_a_slow_reader() {
    let body = noise(3, SIZE);
    let sum = checksum(&body);
    let destination = serves(body);
    let balancer = Setup::http(&[&destination]).start();
    for path in ["/length", "/chunked", "/to-end"] {
        let mut client = balancer.connect();
        client.receive_little();
        client.send(get(path));
        let read = read_slowly(&mut client);
        assert_eq!((read.len(), checksum(&read)), (SIZE, sum), "{path}");
    }
}

#[test]
fn a_client_that_does_not_read_holds_its_destination_up() {
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let (full, release) = (Gate::default(), Gate::default());
        let (told, wait) = (full.clone(), release.clone());
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = sent.clone();
        let destination = Destination::start(move |visit| {
            visit.request();
            visit.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let chunk = if framing.starts_with('T') { chunk_of(64 * 1024) } else { vec![b'x'; 64 * 1024] };
            count
                .store(visit.send_until_full(&chunk, 64 << 20, ms(300)), std::sync::atomic::Ordering::SeqCst);
            told.open();
            wait.pass();
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.receive_little();
        client.send(get("/"));
        full.pass();
        let sent = sent.load(std::sync::atomic::Ordering::SeqCst);
        assert!(sent < UNDER_WAY, "{framing}: {sent} bytes were taken for a client that reads nothing");
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
fn a_destination_that_does_not_read_holds_its_client_up() {
    for framing in ["Content-Length: 1000000000", "Transfer-Encoding: chunked"] {
        let release = Gate::default();
        let wait = release.clone();
        let destination = Destination::start(move |visit| {
            visit.receive_little();
            wait.pass();
        });
        let balancer = Setup::http(&[&destination]).start();
        let mut client = balancer.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        let chunk = if framing.starts_with('T') { chunk_of(64 * 1024) } else { vec![b'x'; 64 * 1024] };
        let sent = client.send_until_full(&chunk, 64 << 20, ms(300));
        assert!(sent < UNDER_WAY, "{framing}: {sent} bytes were taken for a destination that reads nothing");
        release.open();
        client.abort();
    }
}

#[test]
fn bulk_both_ways_at_once() {
    let destination = Destination::start(|visit| {
        if visit.head().is_some() {
            visit.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            loop {
                let bytes = std::mem::take(&mut visit.buffer);
                if !visit.send(bytes) || !visit.read() {
                    return;
                }
            }
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    let body = noise(4, SIZE);
    let sum = checksum(&body);
    client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"));
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || sender.send(&body));
    let answer = client.answer();
    assert_eq!((answer.body.len(), checksum(&answer.body)), (SIZE, sum));
    sending.join().expect("all was taken");
}
