//! No descriptors or memory leak after thousands of connections that ended in every possible way.
//!
//! A test binary of its own, because it counts resources of the whole process.

#[path = "e2e/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `e2e` use all of it.
mod kit;

use kit::{Balancer, Client, Connection, Destination, Setup, get, ms, ok, post, wait_until};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a Linux system").count()
}

/// Returns the resident memory in KiB.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line on memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn serve(conn: &mut Connection) {
    while let Some(request) = conn.request() {
        match request.target.as_str() {
            "/reset" => return conn.reset(),
            "/half" => {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                return;
            }
            "/silent" => return conn.read_to_end(),
            _ => conn.send(ok("fine")),
        };
    }
}

/// Opens connections that end in every possible way, several times each.
fn run_connections(balancer: &Balancer, rounds: usize) {
    let half_a_head = "GET / HTTP/1.1\r\nHo".to_owned();
    let half_a_body = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nhalf".to_owned();
    let upgrade = "GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_owned();
    let bytes = [
        String::new(),
        half_a_head,
        half_a_body,
        get("/"),
        post("/", "x"),
        get("/reset"),
        get("/half"),
        get("/silent"),
        "nonsense\r\n\r\n".into(),
        get("/").repeat(5),
        upgrade,
    ];
    for round in 0..rounds {
        let mut clients: Vec<Client> = bytes.iter().map(|_| balancer.connect()).collect();
        for (client, bytes) in clients.iter_mut().zip(&bytes) {
            client.send(bytes);
        }
        for (n, mut client) in clients.into_iter().enumerate() {
            match (round + n) % 3 {
                0 => client.abort(),
                1 if n > 2 && n != 7 => drop(client.try_read_response("GET")),
                _ => drop(client),
            }
        }
    }
    wait_until("all connections are closed", || balancer.active() == 0);
}

#[test]
fn descriptors_and_memory_are_released() {
    let destinations = [Destination::start(serve), Destination::start(serve)];
    let balancer = Setup::http(&[&destinations[0], &destinations[1]])
        .with(|s| {
            s.workers = 2;
            s.pools[0].timeouts.idle = ms(500);
            // A request to an unresponsive destination is not cancelled when its client closes: a client may
            // close its sending side and keep reading. The request ends with this timeout.
            s.pools[0].timeouts.response = ms(500);
        })
        .start();
    let resting = || {
        wait_until("pooled connections are closed", || destinations.iter().all(|d| d.open() == 0));
        wait_until("no assignment is held", || {
            balancer.pools()[0].destinations.iter().all(|d| d.in_flight == 0)
        });
        (descriptors(), memory())
    };
    run_connections(&balancer, 50);
    let (descriptors_before, memory_before) = resting();
    run_connections(&balancer, 300);
    let (descriptors_after, memory_after) = resting();
    assert!(descriptors_after <= descriptors_before + 2, "{descriptors_before}, then {descriptors_after}");
    // The destinations record every byte: about 1 MB.
    assert!(memory_after < memory_before + 16 * 1024, "{memory_before} KiB, then {memory_after} KiB");
    assert_eq!(balancer.fetch(get("/")).text(), "fine");
}
