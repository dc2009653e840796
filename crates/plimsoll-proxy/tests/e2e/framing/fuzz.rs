//! Random messages composed of known parser confusions: the proxy and the destination must read them alike.

use plimsoll_core::Rng;

use crate::kit::{
    Balancer, Client, Connection, Destination, EndKind, Setup, get, ms, ok, respond_ok, wait_until,
};

const SEEDS: u64 = 3000;
const RESPONSES: u64 = 1200;

const STARTS: [&str; 14] = [
    "GET / HTTP/1.1\r\n",
    "POST /a HTTP/1.1\r\n",
    "POST /b HTTP/1.0\r\n",
    "HEAD /c HTTP/1.1\r\n",
    "PUT /d HTTP/1.1\n",
    "GET http://x/e HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET / HTTP/1.1\r\r\n",
    "GET  / HTTP/1.1\r\n",
    "\r\nGET /f HTTP/1.1\r\n",
    "DELETE /g?h=/ HTTP/1.1\r\n",
    "GET /\t HTTP/1.1\r\n",
    "FOO /i HTTP/1.1\r\n",
    "GET /j\r\n",
];
const LINES: [&str; 40] = [
    "Host: t\r\n",
    "Host: t\r\n",
    "Host: t\r\n",
    "Host : t\r\n",
    "Host: u\r\n",
    "hOsT:t\n",
    " Host: t\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 44\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: 0x5\r\n",
    "Content-Length:\r\n 5\r\n",
    "content-length:5\n",
    "Content-Length: 18446744073709551620\r\n",
    "Content_Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: Chunked \r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: x, chunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\u{b}chunked\r\n",
    "Transfer-Encoding: chunked\rX: y\r\n",
    "Transfer-Encoding:\n chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "X: y\r\n",
    "X: \r\n",
    "X: a\0b\r\n",
    "X: a\n",
    "X\r\n",
    ": y\r\n",
    "Connection: close\r\n",
    "Connection: Content-Length, Host, Transfer-Encoding\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade\r\n",
    "X-Forwarded-For: 1\r\n",
];
const ENDS: [&str; 4] = ["\r\n", "\n", "\r\n\r\n", "\r\r\n"];
const BODIES: [&str; 16] = [
    "",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;x\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "5\nhello\n0\n\n",
    "05\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello",
    "ffffffffffffffff\r\n",
    "0\r\nHost: evil\r\nContent-Length: 9\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "0;\n\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n",
];

fn pick_any<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.index(of.len())]
}

fn random_message(rng: &mut Rng) -> String {
    let starts = if rng.below(3) > 0 { 4 } else { STARTS.len() };
    let ends = if rng.below(4) > 0 { 1 } else { ENDS.len() };
    let mut message = pick_any(rng, &STARTS[..starts]).to_owned();
    if rng.below(8) > 0 {
        message.push_str("Host: t\r\n");
    }
    for _ in 0..rng.below(4) {
        message.push_str(pick_any(rng, &LINES));
    }
    message.push_str(pick_any(rng, &ENDS[..ends]));
    message.push_str(pick_any(rng, &BODIES));
    message
}

/// Changes, removes or duplicates up to two bytes.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.below(3) {
        let at = rng.index(bytes.len());
        match rng.below(4) {
            0 => bytes[at] = b"\r\n\t \0:;,0aZ\xff"[rng.index(12)],
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, bytes[at]),
            _ => bytes[at] ^= 1 << rng.below(8),
        }
    }
}

#[test]
fn proxy_and_destination_read_random_requests_alike() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].half_close = true).start();
    println!("seeds 0..{SEEDS}");
    let mut ok_responses = 0;
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let mut bytes =
            (0..1 + rng.below(3)).map(|_| random_message(&mut rng)).collect::<String>().into_bytes();
        damage(&mut rng, &mut bytes);
        let mut client = balancer.connect();
        let _refused_meanwhile = client.try_send(&bytes);
        client.shutdown_write();
        // No response body looks like a head, so responses can be counted without knowing the methods.
        let rest = client.read_to_end();
        assert!(rest.kind != EndKind::TimedOut, "seed {seed}: {rest:?}");
        let text = String::from_utf8_lossy(&rest.received).into_owned();
        ok_responses += text.matches("HTTP/1.1 200 ").count();
        assert!(!text.contains(" 502 ") && !text.contains(" 504 "), "seed {seed}: {text}");
    }
    wait_until("all are counted", || balancer.handle.traffic().routes[0].counts.in_flight == 0);
    let requests = destination.requests().len();
    let counts = &balancer.handle.traffic().routes[0].counts;
    let succeeded: u64 = counts.requests.iter().map(|classes| classes[2]).sum();
    assert_eq!(
        (requests, ok_responses),
        (succeeded as usize, succeeded as usize),
        "a request that was not sent"
    );
    assert!(requests > SEEDS as usize / 10, "only {requests} valid requests: the input is too random");
}

const STATUS_LINES: [&str; 14] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No\r\n",
    "HTTP/1.1 304 Not\r\n",
    "HTTP/1.1 404\r\n",
    "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n",
    "HTTP/1.1 103 H\r\n",
    "HTTP/1.1 101 S\r\n",
    "HTTP/1.1 500 Oh\n",
    "\r\nHTTP/1.1 200 OK\r\n",
    "HTTP/1.1 99 X\r\n",
    "HTTP/1.1 200 \0\r\n",
    "HTTP/2 200 OK\r\n",
    "",
];

fn random_response(rng: &mut Rng) -> Vec<u8> {
    let lines = if rng.below(3) > 0 { 1 } else { STATUS_LINES.len() };
    let mut response = pick_any(rng, &STATUS_LINES[..lines]).to_owned();
    for _ in 0..rng.below(4) {
        response.push_str(pick_any(rng, &LINES));
    }
    response.push_str(if rng.below(8) > 0 { "\r\n" } else { "\n" });
    response.push_str(pick_any(rng, &BODIES));
    let mut bytes = response.into_bytes();
    damage(rng, &mut bytes);
    bytes
}

/// A response without a request.
const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";

/// Responds to `/hostile/SEED` with random bytes generated from `SEED`, and to other requests with their path.
fn hostile(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        match request.target.strip_prefix("/hostile/").and_then(|seed| seed.parse().ok()) {
            Some(seed) => {
                let mut rng = Rng::new(seed);
                let mut bytes = random_response(&mut rng);
                if rng.below(3) == 0 {
                    // The extra bytes arrive in pieces, and late.
                    conn.send_in_steps(bytes, 1 + rng.index(60), std::time::Duration::ZERO);
                } else {
                    bytes.extend_from_slice(if rng.below(3) == 0 { b"" } else { STRAY });
                    conn.send(bytes);
                }
                if rng.below(3) == 0 {
                    return;
                }
            }
            None => drop(conn.send(ok(&request.target))),
        }
    }
}

fn check_hostile_range(balancer: &Balancer, seeds: std::ops::Range<u64>) {
    let (mut connection, mut failed): (Option<Client>, u64) = (None, 0);
    let max = (seeds.end - seeds.start) / 10;
    for seed in seeds {
        let mut client = connection.take().unwrap_or_else(|| balancer.connect());
        let method = if seed % 5 == 0 { "HEAD" } else { "GET" };
        client.send(format!("{method} /hostile/{seed} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let keeps_connection = match client.try_read_response(method) {
            // A response without a length includes all bytes received.
            Ok(response) => !response.closes(),
            Err(end) => {
                assert!(matches!(end.kind, EndKind::Closed | EndKind::Reset), "seed {seed}: {end:?}");
                false
            }
        };
        if !keeps_connection {
            client = balancer.connect();
        }
        client.send(get(&format!("/plain/{seed}")));
        let response = client.try_read_response("GET").unwrap_or_else(|end| panic!("seed {seed}: {end:?}"));
        // Bytes that arrive late after a response may fail the next request on that connection, but must
        // never be taken for its response.
        let failed_by_leftovers = matches!(response.status, 502 | 504);
        assert!(
            response.text() == format!("/plain/{seed}") || failed_by_leftovers,
            "seed {seed}: {response:?}"
        );
        failed += u64::from(failed_by_leftovers);
        connection = Some(client);
    }
    assert!(failed < max, "{failed} requests failed because of leftovers of the previous response");
}

#[test]
fn random_responses_never_reach_another_request() {
    let destination = Destination::start(hostile);
    let balancer = Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = ms(100)).start();
    println!("seeds 0..{RESPONSES}");
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (balancer, each) = (&balancer, RESPONSES / 4);
            scope.spawn(move || check_hostile_range(balancer, part * each..(part + 1) * each));
        }
    });
    destination.requests();
}
