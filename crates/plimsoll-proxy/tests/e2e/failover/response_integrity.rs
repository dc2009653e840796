//! Responses are never mixed up: whatever fails, every response belongs to its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use plimsoll_core::Rng;

use crate::kit::{Balancer, Client, Connection, Destination, EndKind, ReadEnd, Setup, ms};

const CLIENTS: u64 = 6;
const ROUNDS: u64 = 250;

/// Repeats the request's id in head and body of the response, which fails in a way chosen by the id.
fn serve_unreliably(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        let id = request.fields.one("x-id").expect("every request has one").to_owned();
        let mut rng = Rng::new(id.bytes().fold(conn.number as u64, |n, b| n * 31 + u64::from(b)));
        let body = format!("[{id}]").repeat(1 + rng.index(60));
        let head = format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\n");
        let plain = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let cut = rng.index(plain.len());
        let complete =
            match rng.below(24) {
                0 => {
                    conn.send(&plain[..cut]);
                    return;
                }
                1 => {
                    conn.send(&plain[..cut]);
                    return conn.reset();
                }
                2 => return conn.reset(),
                3 => return,
                // Extra bytes that look like a response to the next request.
                4 => conn
                    .send(format!("{plain}HTTP/1.1 200 OK\r\nX-Id: stray\r\nContent-Length: 5\r\n\r\nstray")),
                5 => conn
                    .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\nX", body.len())),
                6 => conn.send(format!("HTTP/1.1 103 Early\r\nX-Id: {id}\r\n\r\n{plain}")),
                7 => conn.send("garbage\r\n\r\n"),
                8 => conn.send_in_steps(&plain, 1 + cut / 3, ms(1)),
                9..13 => conn.send(format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                )),
                13 => {
                    conn.send(format!("{head}Connection: close\r\n\r\n{body}"));
                    return;
                }
                _ if request.method == "HEAD" => conn.send(&plain[..plain.len() - body.len()]),
                _ => conn.send(plain),
            };
        if !complete {
            return;
        }
    }
}

fn request(id: &str, rng: &mut Rng) -> (&'static str, String) {
    match rng.below(5) {
        0 => ("HEAD", format!("HEAD /{id} HTTP/1.1\r\nHost: t\r\nX-Id: {id}\r\n\r\n")),
        1 => (
            "POST",
            format!(
                "POST /{id} HTTP/1.1\r\nHost: t\r\nX-Id: {id}\r\nContent-Length: {}\r\n\r\n{id}",
                id.len()
            ),
        ),
        2 => (
            "PUT",
            format!(
                "PUT /{id} HTTP/1.1\r\nHost: t\r\nX-Id: {id}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{id}\r\n0\r\n\r\n",
                id.len()
            ),
        ),
        _ => ("GET", format!("GET /{id} HTTP/1.1\r\nHost: t\r\nX-Id: {id}\r\n\r\n")),
    }
}

/// Fails if a complete or partial response has content of another request. Returns whether the connection stays.
fn check_response(id: &str, response: &Result<crate::kit::Response, ReadEnd>, context: &str) -> bool {
    match response {
        Ok(response) if response.status == 200 => {
            assert_eq!(response.fields.one("x-id"), Some(id), "{context}: {response:?}");
            assert_eq!(response.text().replace(&format!("[{id}]"), ""), "", "{context}: {response:?}");
            !response.closes()
        }
        Ok(response) => {
            assert!(
                (500..=504).contains(&response.status) && !response.fields.has("x-id"),
                "{context}: {response:?}"
            );
            !response.closes()
        }
        Err(ReadEnd { kind: EndKind::Closed | EndKind::Reset, received }) => {
            let text = String::from_utf8_lossy(received).into_owned();
            // Every complete id in brackets must be the request's.
            let foreign =
                text.split('[').skip(1).filter_map(|part| part.split_once(']')).any(|(found, _)| found != id);
            assert!(!foreign && !text.contains("stray"), "{context}: {text}");
            false
        }
        Err(end) => panic!("{context}: {end:?}"),
    }
}

fn run_client(balancer: &Balancer, seed: u64, complete: &Arc<AtomicUsize>) {
    let mut rng = Rng::new(seed);
    let mut connection: Option<Client> = None;
    for round in 0..ROUNDS {
        let mut client = connection.take().unwrap_or_else(|| balancer.connect());
        let ids: Vec<String> = (0..=rng.index(4)).map(|n| format!("c{seed}-{round}-{n}")).collect();
        let (methods, requests): (Vec<_>, Vec<_>) = ids.iter().map(|id| request(id, &mut rng)).unzip();
        let context = format!("seed {seed}, round {round}");
        let bytes = requests.concat();
        if rng.below(12) == 0 {
            // Disconnects in the middle of a request or of its response.
            let _gone = client.try_send(&bytes[..rng.index(bytes.len())]);
            if rng.below(2) == 0 {
                client.abort();
            }
            continue;
        }
        if client.try_send(&bytes).is_err() {
            continue;
        }
        let keeps_connection = ids.iter().zip(methods).all(|(id, method)| {
            let response = client.try_read_response(method);
            complete.fetch_add(usize::from(response.is_ok()), SeqCst);
            check_response(id, &response, &context)
        });
        connection = keeps_connection.then_some(client);
    }
}

#[test]
fn every_response_belongs_to_its_request_despite_failures() {
    let destinations: [_; 3] = std::array::from_fn(|_| Destination::start(serve_unreliably));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b, c]).with(|s| s.workers = 2).start();
    let complete = Arc::new(AtomicUsize::new(0));
    println!("seeds 0..{CLIENTS}");
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let (balancer, complete) = (&balancer, &complete);
            scope.spawn(move || run_client(balancer, seed, complete));
        }
    });
    let complete = complete.load(SeqCst);
    assert!(complete > 1500, "only {complete} complete responses");
}
