//! Whatever breaks, every answer belongs to its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use plimsoll_core::Rng;

use crate::kit::{Balancer, Client, Destination, Fault, Kind, Setup, Visit, ms};

const CLIENTS: u64 = 6;
const ROUNDS: u64 = 250;

/// Answers with the id of the request, in the head and all over the body, in whatever way the id says.
fn unreliable(visit: &mut Visit) {
    while let Some(request) = visit.request() {
        let id = request.fields.one("x-id").expect("every request has one").to_owned();
        let mut rng = Rng::new(id.bytes().fold(visit.number as u64, |n, b| n * 31 + u64::from(b)));
        let body = format!("[{id}]").repeat(1 + rng.index(60));
        let head = format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\n");
        let plain = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let cut = rng.index(plain.len());
        let whole =
            match rng.below(24) {
                0 => {
                    visit.send(&plain[..cut]);
                    return;
                }
                1 => {
                    visit.send(&plain[..cut]);
                    return visit.reset();
                }
                2 => return visit.reset(),
                3 => return,
                // Bytes behind the answer that would be an answer to the next request.
                4 => visit
                    .send(format!("{plain}HTTP/1.1 200 OK\r\nX-Id: stray\r\nContent-Length: 5\r\n\r\nstray")),
                5 => visit
                    .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\nX", body.len())),
                6 => visit.send(format!("HTTP/1.1 103 Early\r\nX-Id: {id}\r\n\r\n{plain}")),
                7 => visit.send("garbage\r\n\r\n"),
                8 => visit.send_in_steps(&plain, 1 + cut / 3, ms(1)),
                9..13 => visit.send(format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                )),
                13 => {
                    visit.send(format!("{head}Connection: close\r\n\r\n{body}"));
                    return;
                }
                _ if request.method == "HEAD" => visit.send(&plain[..plain.len() - body.len()]),
                _ => visit.send(plain),
            };
        if !whole {
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

/// Is the answer, whole or broken, made of nothing but what belongs to `id`? `false` ends the connection.
fn belongs(id: &str, answer: &Result<crate::kit::Answer, Fault>, told: &str) -> bool {
    match answer {
        Ok(answer) if answer.status == 200 => {
            assert_eq!(answer.fields.one("x-id"), Some(id), "{told}: {answer:?}");
            assert_eq!(answer.text().replace(&format!("[{id}]"), ""), "", "{told}: {answer:?}");
            !answer.closes()
        }
        Ok(answer) => {
            assert!((500..=504).contains(&answer.status) && !answer.fields.has("x-id"), "{told}: {answer:?}");
            !answer.closes()
        }
        Err(Fault { kind: Kind::Closed | Kind::Reset, received }) => {
            let text = String::from_utf8_lossy(received).into_owned();
            // Up to the last whole id in brackets every one is ours.
            let foreign =
                text.split('[').skip(1).filter_map(|part| part.split_once(']')).any(|(found, _)| found != id);
            assert!(!foreign && !text.contains("stray"), "{told}: {text}");
            false
        }
        Err(fault) => panic!("{told}: {fault:?}"),
    }
}

fn client(place: &Balancer, seed: u64, whole: &Arc<AtomicUsize>) {
    let mut rng = Rng::new(seed);
    let mut connection: Option<Client> = None;
    for round in 0..ROUNDS {
        let mut client = connection.take().unwrap_or_else(|| place.connect());
        let ids: Vec<String> = (0..=rng.index(4)).map(|n| format!("c{seed}-{round}-{n}")).collect();
        let (methods, requests): (Vec<_>, Vec<_>) = ids.iter().map(|id| request(id, &mut rng)).unzip();
        let told = format!("seed {seed}, round {round}");
        let wire = requests.concat();
        if rng.below(12) == 0 {
            // Leaves in the middle of a request, or of its answer.
            let _gone = client.try_send(&wire[..rng.index(wire.len())]);
            if rng.below(2) == 0 {
                client.abort();
            }
            continue;
        }
        if client.try_send(&wire).is_err() {
            continue;
        }
        let goes_on = ids.iter().zip(methods).all(|(id, method)| {
            let answer = client.try_answer(method);
            whole.fetch_add(usize::from(answer.is_ok()), SeqCst);
            belongs(id, &answer, &told)
        });
        connection = goes_on.then_some(client);
    }
}

#[test]
fn thousands_of_answers_each_to_its_own_request() {
    let destinations: [_; 3] = std::array::from_fn(|_| Destination::start(unreliable));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b, c]).with(|s| s.workers = 2).start();
    let whole = Arc::new(AtomicUsize::new(0));
    println!("seeds 0..{CLIENTS}");
    std::thread::scope(|scope| {
        for seed in 0..CLIENTS {
            let (balancer, whole) = (&balancer, &whole);
            scope.spawn(move || client(balancer, seed, whole));
        }
    });
    let whole = whole.load(SeqCst);
    assert!(whole > 1500, "only {whole} answers");
}
